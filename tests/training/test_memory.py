"""The memory of a micro-batch is counted correctly, and the chosen micro-batch fits into the free memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop_jobs import job
from test_activation_checkpointing import saved_bytes

from domain_ft.models import blockwise_attention
from domain_ft.models.activation_checkpointing import ActivationCheckpointing
from domain_ft.models.modes import without_base_dropout
from domain_ft.training import memory
from domain_ft.training.memory import (
    ATTENTION_WORKSPACE,
    LiveBytes,
    MicroBatchLimits,
    MicroBatchMemory,
    free_memory,
    measure_micro_batch,
    plan_micro_batches,
    training_state_bytes,
)
from domain_ft_kernels.linear_cross_entropy import WORKSPACE_BYTES

# --- Counting -------------------------------------------------------------------------------------------------------


def test_a_storage_counts_once_from_its_op_until_nothing_holds_it() -> None:
    before = torch.ones(1000)
    with LiveBytes() as live:
        a = before * 2  # 4,000 bytes
        view = a.view(10, 100)
        before.add_(1)  # nothing new
        assert live.live == 4000
        b = a + 1
        del a
        assert live.live == 8000  # the view holds it
        del view, b
        assert live.live == 0
        x = torch.zeros(1000, requires_grad=True)
        y = (x * 2).exp()  # its output is saved by autograd
        z = y.sum()
        del y
        assert live.live == 8000 + 4
        z.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert live.live == 8000 + 4
    assert max(live.history) >= 3 * 4000


@pytest.mark.parametrize(
    ("architecture", "keeps_scores", "lora"),
    [
        ("bert", False, True),
        ("bert", True, False),
        ("llama", False, False),
        ("albert", False, True),
        ("modernbert", False, True),
        ("mpnet", True, True),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_small_micro_batches_predict_a_large_ones_memory(
    architecture: str, keeps_scores: bool, lora: bool, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A full block of attention is counted as a constant, which is far more than this micro-batch and subtracted below.
    monkeypatch.setattr(blockwise_attention, "BLOCK", 1)
    base, objective, rows = job(architecture, dropout=0.1, lora=lora)
    base.model.train()
    with contextlib.nullcontext() if keeps_scores else without_base_dropout(base.model):
        ActivationCheckpointing(base.model).switch(checkpointing)
        sequence = rows.pack([int(rows.lengths.argmax())])
        found = measure_micro_batch(
            base, objective, sequence, kernels="torch", autocast=contextlib.nullcontext, keeps_scores=keeps_scores
        )
        assert all(parameter.grad is None for parameter in base.model.parameters())
        inputs = objective.prepare(sequence.repeated([sequence.tokens] * 15 + [sequence.tokens - 1] * 15), 0)
        for parameter in base.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        with LiveBytes() as live:
            objective.loss(base, inputs).backward()  # type: ignore[no-untyped-call]
        counted = found.of(len(inputs.input_ids)) - WORKSPACE_BYTES - ATTENTION_WORKSPACE
        assert counted == pytest.approx(max(live.history), rel=0.05)
        assert counted > saved_bytes(base, objective, inputs)


def test_what_trains_has_a_gradient_and_two_moments() -> None:
    base, _, _ = job("bert")
    numbers = sum(p.numel() for p in base.model.parameters() if p.requires_grad)
    assert training_state_bytes(base.model.parameters()) == 12 * numbers


# --- The plan -------------------------------------------------------------------------------------------------------

MIB = 2**20


def limits(**changes: Any) -> MicroBatchLimits:
    values: dict[str, Any] = {
        "step_tokens": 4096,
        "longest": 256,
        "device": "cpu",
        "free_bytes": 16_000 * MIB,
        "state_bytes": 100 * MIB,
    }
    return MicroBatchLimits(**{**values, **changes})


COSTS = {
    on: MicroBatchMemory(np.array([[60.0 * MIB, per_token], [70.0 * MIB, 0.0]]))
    for on, per_token in ((False, 2.0 * MIB), (True, MIB / 8))
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (1280, False)),  # on a CPU, more than 1,024 tokens only within 2 GiB
        ({"free_bytes": 2_500 * MIB}, (530, False)),
        ({"free_bytes": 2_000 * MIB}, (256, False)),
        ({"free_bytes": 1_300 * MIB}, (2304, True)),  # not even a sequence would fit without
        ({"free_bytes": 800 * MIB}, (1622, True)),
        ({"free_bytes": 400 * MIB}, (256, True)),
        ({"device": "cuda"}, (4352, False)),  # a step at once
        ({"device": "cuda", "free_bytes": 8_000 * MIB}, (2304, False)),
        ({"device": "cuda", "free_bytes": 2_000 * MIB}, (4352, True)),  # fewer than 1,024 would fit without
        ({"longest": 6000, "free_bytes": 32_000 * MIB}, (6000, False)),  # a micro-batch is at least a sequence
        ({"longest": 6000}, (6000, True)),
        ({"step_tokens": 10, "longest": 20}, (20, False)),
        ({"step_tokens": 16_384, "free_bytes": 2**50}, (1280, False)),
        ({"step_tokens": 16_384, "free_bytes": 800 * MIB}, (1895, True)),
        ({"step_tokens": 16_384, "free_bytes": 2**50, "device": "cuda"}, (16_640, False)),
    ],
)
def test_the_largest_micro_batch_that_fits_is_chosen(changes: dict[str, Any], expected: tuple[int, bool]) -> None:
    plan = plan_micro_batches(
        limits(**changes), COSTS.__getitem__, tokens_per_micro_batch=None, activation_checkpointing="auto"
    )
    assert (plan.tokens_per_micro_batch, plan.activation_checkpointing) == expected
    assert plan.fits
    assert not plan.asked_for


def test_the_sizes_cut_a_step_evenly() -> None:
    assert limits(step_tokens=1200).sizes(COSTS[True]) == [1456, 856, 656, 556, 256]
    assert limits(step_tokens=10_000).sizes(COSTS[True])[:2] == [3590, 2756]  # in three micro-batches, in four
    assert limits(step_tokens=10_000).sizes(COSTS[False])[:2] == [
        1256,
        1166,
    ]  # in ten, in eleven: one of nine would take over 2 GiB


@pytest.mark.parametrize("asked", ["on", "off"])
def test_what_is_asked_for_is_taken_and_not_counted(asked: Any) -> None:
    def never(on: bool) -> MicroBatchMemory:
        raise AssertionError

    plan = plan_micro_batches(limits(), never, tokens_per_micro_batch=12_345, activation_checkpointing=asked)
    assert (plan.tokens_per_micro_batch, plan.activation_checkpointing) == (12_345, asked == "on")
    assert plan.asked_for


def test_either_choice_may_be_asked_for_alone() -> None:
    def plan(**asked: Any) -> tuple[int, bool, bool]:
        given = {"tokens_per_micro_batch": None, "activation_checkpointing": "auto"} | asked
        found = plan_micro_batches(limits(), COSTS.__getitem__, **given)
        return found.tokens_per_micro_batch, found.activation_checkpointing, found.fits

    assert plan(tokens_per_micro_batch=100) == (100, False, True)
    assert plan(tokens_per_micro_batch=8000) == (8000, True, True)
    assert plan(activation_checkpointing="on") == (4352, True, True)
    assert plan(activation_checkpointing="on", can_checkpoint=False) == (1280, False, True)
    assert plan(tokens_per_micro_batch=10**6) == (10**6, True, False)


def test_a_plan_for_too_little_memory_does_not_fit() -> None:
    tight = limits(free_bytes=100 * MIB)
    plan = plan_micro_batches(tight, COSTS.__getitem__, tokens_per_micro_batch=None, activation_checkpointing="auto")
    assert (plan.tokens_per_micro_batch, plan.activation_checkpointing, plan.fits) == (256, True, False)
    plan = plan_micro_batches(tight, COSTS.__getitem__, tokens_per_micro_batch=None, activation_checkpointing="off")
    assert (plan.tokens_per_micro_batch, plan.activation_checkpointing, plan.fits) == (256, False, False)


# --- What is free ---------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_every_control_group_with_a_limit_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/user/job\n")
    write(tmp_path / "sys/fs/cgroup/user/job/memory.max", "max\n")
    write(tmp_path / "sys/fs/cgroup/user/job/memory.current", "300\n")
    write(tmp_path / "sys/fs/cgroup/user/memory.max", "1000\n")
    write(tmp_path / "sys/fs/cgroup/user/memory.current", "700\n")
    write(tmp_path / "sys/fs/cgroup/user/memory.stat", "anon 500\ninactive_file 150\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "5000\n")
    write(tmp_path / "sys/fs/cgroup/memory.current", "700\n")
    assert sorted(memory._control_groups(tmp_path)) == [450, 4300]


def test_control_groups_of_version_1_in_a_container(tmp_path: Path) -> None:
    """A container sees its own group at the top, not at the path in /proc."""
    write(tmp_path / "proc/self/cgroup", "5:cpu:/docker/4f\n4:memory:/docker/4f\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.usage_in_bytes", "900\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n")
    assert list(memory._control_groups(tmp_path)) == [150]


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert list(memory._control_groups(tmp_path)) == []
    assert free_memory(torch.device("cpu")) > 0
