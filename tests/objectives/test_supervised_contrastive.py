"""The supervised contrastive loss: its formula, the vectors that it reads, and its steps in micro-batches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_examples import WORDS, toy_examples
from tiny_models import save_tiny
from torch import Tensor

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.tasks.rows import encode
from domain_ft.models.task_model import load_task_model
from domain_ft.objectives.supervised_contrastive import SupervisedContrastive, share_label
from domain_ft.randomness import generator


def by_hand(vectors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Equation 2 of Khosla et al., pair by pair; positives are examples with a class in common."""
    classes = [{int(one)} if one.ndim == 0 else set(one.nonzero().flatten().tolist()) for one in targets]
    units = [vector / vector.norm() for vector in vectors]
    total = vectors.new_zeros(())
    for i, own in enumerate(classes):
        scores = {a: units[i] @ units[a] / temperature for a in range(len(units)) if a != i}
        positives = [p for p in scores if classes[p] & own]
        for p in positives:
            total = total - (scores[p] - torch.stack(list(scores.values())).exp().sum().log()) / len(positives)
    return total


@given(st.integers(1, 7), st.integers(1, 4), st.booleans(), st.sampled_from([0.05, 0.1, 1.0]), st.integers(0, 10**6))
def test_it_is_the_sum_over_pairs(rows: int, classes: int, multi_label: bool, temperature: float, seed: int) -> None:
    """Value and gradient, with any number of positives from none to all, and with examples of no class."""
    draw = generator(seed, "contrastive")
    targets = torch.from_numpy(draw.integers(classes, size=rows))
    if multi_label:
        targets = torch.from_numpy(draw.integers(2, size=(rows, classes)).astype(np.float32))
    vectors = torch.from_numpy(draw.normal(size=(rows, 5)))
    ours, theirs = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    loss = SupervisedContrastive(temperature).step_loss(ours, targets)
    expected = by_hand(theirs, targets, temperature)
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(loss, ours)
    assert torch.isfinite(gradient).all()
    if expected.requires_grad:
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, theirs)[0], rtol=1e-7, atol=1e-8)
    else:
        assert not gradient.any()


def test_the_least_loss_is_that_of_classes_that_are_opposite() -> None:
    """Two classes of three examples: each has two positives, so its loss is at least log 2."""
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [-2.0, 0.0], [-3.0, 0.0]])
    loss = SupervisedContrastive().step_loss(vectors, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert float(loss) / 6 == pytest.approx(math.log(2), abs=1e-6)
    mixed = SupervisedContrastive().step_loss(vectors, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert mixed > 10 * loss


def test_examples_share_a_label_or_a_class() -> None:
    assert share_label(torch.tensor([3, 1, 3])).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    several = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert share_label(several).tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_it_reads_the_features_of_whole_examples(architecture: str, tmp_path: Path) -> None:
    """The vector of an example in several windows is the mean over all of them, and the head gets no gradient."""
    labels = Labels(tuple(WORDS))
    model = load_task_model(str(save_tiny(architecture, tmp_path)), labels, dtype=torch.float64)
    model.model.requires_grad_(True)
    rows = encode(toy_examples(9), labels, model.tokenizer, max_length=24, long_text="windows")
    batch = rows.pack(range(9))
    assert batch.examples < len(batch.lengths)
    objective = SupervisedContrastive()
    inputs = objective.prepare(batch, epoch=0)
    assert inputs.items == 9
    vectors = objective.embeddings(model, inputs)
    alone = [objective.embeddings(model, objective.prepare(rows.pack([row]), epoch=0)) for row in range(9)]
    torch.testing.assert_close(vectors, torch.cat(alone), rtol=1e-9, atol=1e-9)

    loss = objective.loss(model, inputs)
    torch.testing.assert_close(loss, by_hand(vectors, inputs.targets, 0.1), rtol=1e-9, atol=1e-9)
    assert objective.row_losses(model, inputs).tolist() == 9 * [0.0]
    loss.backward()
    unread = model.beside_features
    for name, parameter in model.model.named_parameters():
        read = not name.startswith(tuple(f"{path}." for path in unread))
        assert (parameter.grad is not None) is read, name


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_step_in_micro_batches_has_the_gradient_of_the_whole(multi_label: bool, tmp_path: Path) -> None:
    """Each micro-batch gets the gradients of the step's loss with respect to its vectors, as in gradient caching."""
    labels = Labels(tuple(WORDS), multi_label=multi_label)
    model = load_task_model(str(save_tiny("bert", tmp_path)), labels, dtype=torch.float64)
    model.model.requires_grad_(True)
    rows = encode(toy_examples(9), labels, model.tokenizer, max_length=24, long_text="windows")
    objective = SupervisedContrastive()

    def gradients() -> dict[str, Tensor]:
        found = {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}
        model.model.zero_grad()
        return found

    objective.loss(model, objective.prepare(rows.pack(range(9)), epoch=0)).backward()
    whole = gradients()
    parts = [objective.prepare(rows.pack(part), epoch=0) for part in ([0, 3, 5, 8], [1, 2], [4, 6, 7])]
    with torch.no_grad():
        vectors = torch.cat([objective.embeddings(model, part) for part in parts])
    vectors.requires_grad_()
    loss = objective.step_loss(vectors, torch.cat([part.keys for part in parts]))
    (own,) = torch.autograd.grad(loss, vectors)
    for part, gradient in zip(parts, own.split([part.items for part in parts]), strict=True):
        value = objective.loss(model, part.with_gradients(gradient))
        assert float(value.detach()) == 0.0
        value.backward()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-8, atol=1e-10)
    idle = objective.prepare(rows.pack([0]), epoch=0).without_labels()
    assert (idle.items, len(objective.embeddings(model, idle)), len(idle.keys)) == (0, 0, 0)
