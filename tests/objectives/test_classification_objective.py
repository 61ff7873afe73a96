"""Classification: the losses are those of transformers and torch, however a step is cut into micro-batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from tiny_examples import WORDS, ExampleList, toy_examples
from tiny_models import save_tiny
from torch import Tensor

from domain_ft.corpus.examples import Example, Labels
from domain_ft.corpus.packing import micro_batches
from domain_ft.corpus.tasks.rows import ExampleRows, encode
from domain_ft.models.task_model import TaskModel, load_task_model
from domain_ft.objectives.base import IGNORED
from domain_ft.objectives.classification import ClassificationObjective, class_weights

SINGLE = Labels(tuple(WORDS))
SEVERAL = Labels(tuple(WORDS), multi_label=True)


def mixed_examples(count: int) -> ExampleList:
    """Examples of no, one, two or three classes; most have the first."""
    names = list(WORDS)
    examples = []
    for index, example in enumerate(toy_examples(count, pairs=True)):
        own = tuple(
            name for place, name in enumerate(names) if (index % 7) & (1 << place) or (place == 0 and index % 3)
        )
        examples.append(dataclasses.replace(example, labels=own))
    return ExampleList(examples)


def job(folder: Path, multi_label: bool, dtype: torch.dtype = torch.float64) -> tuple[TaskModel, ExampleRows]:
    """A model that is trained in full, and examples of which some have several windows."""
    labels = SEVERAL if multi_label else SINGLE
    model = load_task_model(str(save_tiny("bert", folder)), labels, dtype=dtype)
    model.model.requires_grad_(True)
    examples = mixed_examples(14) if multi_label else toy_examples(14, pairs=True)
    return model, encode(examples, labels, model.tokenizer, max_length=48, long_text="windows")


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_is_that_of_transformers(multi_label: bool, tmp_path: Path) -> None:
    """For each example; the loss of the micro-batch is the sum. Without windows, which transformers does not know."""
    model, rows = job(tmp_path, multi_label)
    short = rows.take(np.flatnonzero(np.bincount(rows.pack(range(14)).owners) == 1))
    assert 3 < len(short) < 14
    objective = ClassificationObjective(rows.labels)
    inputs = objective.prepare(short.pack(range(len(short))), epoch=0)
    assert inputs.items == len(short)
    expected = []
    for row in range(len(short)):
        one = short.pack([row])
        ids, types = (torch.from_numpy(tokens)[None] for tokens in (one.input_ids, one.type_ids))
        labels = torch.from_numpy(one.targets).to(torch.float64 if multi_label else torch.long)
        expected.append(model.model(input_ids=ids, token_type_ids=types, labels=labels).loss)
    found = objective.row_losses(model, inputs)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=0)
    torch.testing.assert_close(objective.loss(model, inputs), found.sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_gradient_of_a_step_does_not_depend_on_its_micro_batches(
    multi_label: bool, weighted: bool, tmp_path: Path
) -> None:
    model, rows = job(tmp_path, multi_label)
    weights = class_weights(rows.targets, rows.labels) if weighted else None
    objective = ClassificationObjective(rows.labels, class_weights=weights, kernels="reference")

    def gradients(tokens_per_micro_batch: int) -> tuple[float, int, dict[str, Tensor]]:
        model.model.zero_grad(set_to_none=True)
        total, items = 0.0, 0
        for members in micro_batches(np.arange(len(rows)), rows.lengths, tokens_per_micro_batch):
            inputs = objective.prepare(rows.pack(members), epoch=0)
            loss = objective.loss(model, inputs)
            loss.backward()
            total, items = total + loss.item(), items + inputs.items
        return total, items, {n: p.grad.clone() for n, p in model.model.named_parameters() if p.grad is not None}

    loss, items, whole = gradients(10_000)
    assert items == 14
    for tokens_per_micro_batch in (150, 1):
        other, other_items, parts = gradients(tokens_per_micro_batch)
        assert other == pytest.approx(loss, rel=1e-12)
        assert other_items == items
        for name in whole:
            torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_micro_batch_without_labels_has_gradients_of_zero(multi_label: bool, tmp_path: Path) -> None:
    model, rows = job(tmp_path, multi_label)
    objective = ClassificationObjective(rows.labels)
    idle = objective.prepare(rows.pack([0, 1]), epoch=0).without_labels()
    assert idle.items == 0
    loss = objective.loss(model, idle)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.model.parameters())


def test_an_example_without_a_label_has_no_loss(tmp_path: Path) -> None:
    model, _ = job(tmp_path, multi_label=False)
    examples = ExampleList([Example("1", "fox", ()), Example("2", "dog", ("animals",))])
    rows = encode(examples, SINGLE, model.tokenizer, max_length=24, long_text="truncate")
    objective = ClassificationObjective(SINGLE)
    inputs = objective.prepare(rows.pack([0, 1]), epoch=0)
    assert inputs.items == 1
    assert inputs.targets.tolist() == [IGNORED, 2]
    losses = objective.row_losses(model, inputs)
    assert losses[0] == 0
    assert losses[1] > 0


def test_weights_of_classes_are_balanced() -> None:
    """For single labels they equal scikit-learn's, and their mean over the examples is 1."""
    targets = np.array([0] * 70 + [1] * 25 + [2] * 5)
    weights = class_weights(targets, SINGLE)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=targets), rtol=1e-6)
    assert weights[targets].mean() == pytest.approx(1)
    without = class_weights(targets[:95], SINGLE)  # the third class does not occur
    assert without[targets[:95]].mean() == pytest.approx(1)
    assert without[2] == 1

    multi_label = np.zeros((100, 3), dtype=np.float32)
    multi_label[:10, 0] = multi_label[:50, 1] = 1
    absent, present = class_weights(multi_label, SEVERAL)
    np.testing.assert_allclose(present, [5, 1, 1])
    np.testing.assert_allclose(absent, [100 / 180, 1, 1])


def test_weighted_losses_are_torchs_own(tmp_path: Path) -> None:
    model, rows = job(tmp_path, multi_label=False)
    weights = np.array([0.5, 2.0, 3.0], dtype=np.float32)
    objective = ClassificationObjective(SINGLE, class_weights=weights)
    inputs = objective.prepare(rows.pack(range(14)), epoch=0)
    with torch.no_grad():
        logits = model.logits(inputs)
        expected = F.cross_entropy(logits, inputs.targets, torch.from_numpy(weights).double(), reduction="sum")
        torch.testing.assert_close(objective.loss(model, inputs), expected)


def test_inputs_move_between_devices(tmp_path: Path) -> None:
    _, rows = job(tmp_path, multi_label=False)
    inputs = ClassificationObjective(SINGLE).prepare(rows.pack([0, 1, 2]), epoch=0)
    assert inputs.to("cpu") is inputs
    moved = inputs.to("meta")
    tensors = [getattr(moved, field.name) for field in dataclasses.fields(moved)]
    assert all(tensor.device.type == "meta" for tensor in tensors if isinstance(tensor, Tensor))
    assert moved.examples == 3
