"""Contrastive training: the loss is its definition, and a step's gradient does not depend on how it is cut."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loop_jobs import cpu_accelerator, pair_job, run, settings
from torch import Tensor

from domain_ft.corpus.packing import StepPlan
from domain_ft.models.lora import set_dropout_seed
from domain_ft.models.pooling import Pooling
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.contrastive import Contrastive
from domain_ft.training.loop import train
from domain_ft.training.progress import ProgressDisplay


def plain_loss(vectors: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """The definition, pair by pair."""
    total = vectors.new_zeros(())
    count = len(vectors)

    def similarity(i: int, j: int) -> Tensor:
        return torch.cosine_similarity(vectors[i, 0], vectors[j, 1], dim=0) / temperature

    for i in range(count):
        others = [j for j in range(count) if j == i or (keys[i] != keys[j]).all()]
        forth = torch.stack([similarity(i, j) for j in others]).logsumexp(0)
        back = torch.stack([similarity(j, i) for j in others]).logsumexp(0)
        total = total + (forth + back) / 2 - similarity(i, i)
    return total


@given(seed=st.integers(0, 2**16), pairs=st.integers(1, 6), alike=st.integers(1, 8))
def test_the_loss_is_its_definition_and_copies_are_no_negatives(seed: int, pairs: int, alike: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(pairs, 2, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    keys = torch.randint(alike, (pairs, 2), generator=draw)
    objective = Contrastive(language_model=CausalLM(), temperature=0.1)
    losses = objective.step_loss(vectors, keys), plain_loss(vectors, keys, 0.1)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, vectors)[0] for loss in losses), rtol=1e-6, atol=1e-9)


def test_autocast_does_not_round_the_similarities() -> None:
    """Otherwise a step in one micro-batch, whose loss is computed under autocast, would differ from one in several."""
    vectors = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    keys = torch.arange(8).view(4, 2)
    objective = Contrastive(language_model=CausalLM())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = objective.step_loss(vectors, keys)
    assert torch.equal(rounded, objective.step_loss(vectors, keys))


def test_prefixes_are_averaged() -> None:
    vectors = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keys = torch.arange(8).view(4, 2)
    both = Contrastive(language_model=CausalLM(), dimensions=(3, 8)).step_loss(vectors, keys)
    each = [plain_loss(vectors[..., :width], keys, 0.05) for width in (3, 8)]
    torch.testing.assert_close(both, sum(each) / 2)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])  # Llama's norms round to float32
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_gradient_of_a_step_is_that_of_the_definition(architecture: str, weight: float) -> None:
    """Against each text alone, pooled by hand, in float64."""
    base, objective, rows = pair_job(architecture, exact=True, weight=weight)
    objective = dataclasses.replace(objective, dimensions=())
    inputs = objective.prepare(rows.pack([3, 0, 7]), epoch=0)
    bounds = inputs.cu_seqlens.tolist()
    texts = [inputs.input_ids[first:last] for first, last in itertools.pairwise(bounds)]
    states = [base.model.base_model(input_ids=text[None]).last_hidden_state[0] for text in texts]
    expected = plain_loss(torch.stack([one.mean(0) for one in states]).view(3, 2, -1), inputs.keys, 0.05)
    if weight:
        labels = inputs.labels.split([len(text) for text in texts])
        for pair in range(3):
            losses = [
                torch.nn.functional.cross_entropy(
                    base.model(input_ids=texts[place][None]).logits[0], labels[place], reduction="none"
                )
                for place in (2 * pair, 2 * pair + 1)
            ]
            count = sum(int((labels[place] >= 0).sum()) for place in (2 * pair, 2 * pair + 1))
            expected = expected + weight * sum(one.sum() for one in losses) / count
    trained = [p for p in base.model.parameters() if p.requires_grad]
    found = objective.loss(base, inputs)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, trained, allow_unused=True),
        torch.autograd.grad(expected, trained, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_micro_batches_of_any_size_train_the_same_model(architecture: str, tmp_path: Path) -> None:
    """The same steps in one micro-batch, in about two, and in one for each pair, in float64."""
    losses: dict[int, list[float]] = {}
    weights = {}
    for size in (240, 120, 1):
        lines: list[Mapping[str, Any]] = []
        _, weights[size] = run(
            tmp_path / str(size),
            architecture,
            pairs=True,
            exact=True,
            loop=settings(tokens_per_micro_batch=size),
            log=lines.append,
        )
        losses[size] = [line["loss"] for line in lines]
    for smaller in (120, 1):
        assert losses[smaller] == pytest.approx(losses[240], rel=1e-10)
        assert max(float((weights[240][name] - weights[smaller][name]).abs().max()) for name in weights[240]) < 1e-7


def test_with_dropout_the_second_pass_repeats_the_first(tmp_path: Path) -> None:
    """So the gradients of the embeddings fit the states that the second pass computes."""
    base, objective, rows = pair_job("bert", dropout=0.3, exact=True, weight=0.0)
    pooled: list[Tensor] = []

    class Watched(Contrastive):
        def _paired(self, states: Tensor, inputs: Any) -> Tensor:
            pooled.append(super()._paired(states, inputs))
            return pooled[-1]

    train(
        base,
        Watched(**{one.name: getattr(objective, one.name) for one in dataclasses.fields(objective)}),
        rows,
        settings(total_steps=1, tokens_per_micro_batch=60),
        accelerator=cpu_accelerator(),
        checkpoints=tmp_path,
        display=ProgressDisplay(quiet=True),
        log=lambda _: None,
    )
    count = len(pooled) // 2
    assert count > 1
    for first, second in zip(pooled[:count], pooled[count:], strict=True):
        assert torch.equal(first, second)
    set_dropout_seed(base.model, 1)
    inputs = objective.prepare(rows.pack([0, 1]), 0)
    one = objective.embeddings(base, inputs)
    set_dropout_seed(base.model, 2)
    assert not torch.equal(one, objective.embeddings(base, inputs))


def test_training_brings_pairs_together(tmp_path: Path) -> None:
    lines: list[Mapping[str, Any]] = []
    loop = settings(total_steps=30, learning_rate=2e-2)
    run(tmp_path, "gpt2", pairs=True, loop=loop, log=lines.append)
    assert np.mean([line["loss"] for line in lines[-3:]]) < 0.8 * lines[0]["loss"]


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole", pairs=True, dropout=0.1, loop=settings(tokens_per_micro_batch=60))
    run(tmp_path / "parts", pairs=True, dropout=0.1, loop=settings(tokens_per_micro_batch=60, total_steps=6))
    for step in (tmp_path / "parts" / "checkpoints").iterdir():
        if step.name == "step-6":
            shutil.rmtree(step)
    _, resumed = run(tmp_path / "parts", pairs=True, dropout=0.1, loop=settings(tokens_per_micro_batch=60), resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_rank_without_pairs_has_no_part_in_the_loss() -> None:
    base, objective, rows = pair_job("bert")
    idle = objective.prepare(rows.pack([0]), 0).without_labels()
    idle = idle.with_gradients(objective.embeddings(base, idle))
    assert idle.items == 0
    loss = objective.loss(base, idle)
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in base.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["mean", "cls"])
def test_embeddings_use_the_objectives_pooling(kind: Any) -> None:
    base, objective, rows = pair_job("bert", weight=0.0)
    objective = dataclasses.replace(objective, pooling=Pooling(kind))
    inputs = objective.prepare(rows.pack([1]), 0)
    states = base.states(inputs)[: inputs.cu_seqlens[1]]
    wanted = states.mean(0) if kind == "mean" else states[0]
    torch.testing.assert_close(objective.embeddings(base, inputs)[0, 0], wanted)


def test_steps_are_planned_over_pairs() -> None:
    _, _, rows = pair_job("bert")
    assert StepPlan(rows.lengths, 240, 3).steps_per_epoch == math.ceil(rows.tokens / 240)
