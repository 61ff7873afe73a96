"""The benchmark's closed forms of memory traffic equal the loads and stores that the interpreter counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import launches
import ours
from cases import Linear
from interpreter import LaunchBytes, counted_bytes
from launches import (
    ALL_TERMS,
    IGNORED,
    call_cross_entropy,
    call_linear_cross_entropy,
    call_lora_linear,
    call_unsummed,
)
from traffic import Moved, Step, total

from domain_ft_kernels.triton_backend.launch import recording

TOKENS = 75
WITH_LSE: dict[str, bool] = {"weighted": True, "with_lse": True}
THREE = Linear(40, (48, 33, 16), 1)


def labelled(tokens: int) -> int:
    """How many of `random_tensor`'s targets for `tokens` are not ignored."""
    return -(-2 * tokens // 3)


def random_tensor(*shape: int, dtype: torch.dtype) -> Tensor:
    """A random tensor, in place of the benchmark's tensor without memory; every third target is ignored."""
    if dtype == torch.int64:
        target = torch.arange(shape[0]) % 33  # all labels differ up to 33 tokens
        target[2::3] = IGNORED
        return target
    return torch.randn(shape).to(dtype)


def by_tensor(step: Step) -> dict[str, tuple[float, float, float, float]]:
    """For each tensor in use: the bytes requested by loads and by stores, and the distinct bytes read and written."""
    nothing = Moved(0, 0)
    moved = {}
    for name in step.reads | step.writes:
        read, write = step.reads.get(name, nothing), step.writes.get(name, nothing)
        moved[name] = (read.requested, write.requested, read.compulsory, write.compulsory)
    return {name: numbers for name, numbers in moved.items() if any(numbers)}


def counted(entry: LaunchBytes) -> dict[str, tuple[float, float, float, float]]:
    """The same four numbers for each tensor in use, counted by the interpreter."""
    numbers = {name: (t.requested_reads, t.requested_writes, t.reads, t.writes) for name, t in entry.tensors.items()}
    return {name: moved for name, moved in numbers.items() if any(moved)}


CALLS: dict[str, Callable[[], None]] = {
    "one layer": partial(call_lora_linear, Linear(96, (70,), 1), TOKENS, torch.bfloat16),
    "a group": partial(call_lora_linear, THREE, TOKENS, torch.bfloat16),
    "two chunks of rows": partial(call_lora_linear, Linear(32, (32,), 1), 600, torch.bfloat16),
    "without dropout, all trained": partial(call_lora_linear, THREE, TOKENS, torch.float32, dropout=0.0, trained=True),
    "a large rank": partial(call_lora_linear, THREE, TOKENS, torch.float32, rank=72),
    "a Conv1D": partial(call_lora_linear, Linear(40, (48,), 1, transposed=True, bias=False), TOKENS, torch.bfloat16),
    "a head": partial(call_linear_cross_entropy, 600, 64, TOKENS, torch.bfloat16, bias=False),
    "a head with an odd size": partial(call_linear_cross_entropy, 601, 50, TOKENS, torch.float32, bias=True),
    "a head, trained": partial(call_linear_cross_entropy, 600, 64, 300, torch.bfloat16, bias=True, trained=True),
    "a head with all terms": partial(
        call_linear_cross_entropy, 300, 64, TOKENS, torch.float32, bias=True, terms=ALL_TERMS
    ),
    "a head with class weights": partial(
        call_linear_cross_entropy, 300, 64, 30, torch.float32, bias=True, weighted=True, terms=ALL_TERMS
    ),
    "a head by row, with class weights and log-sum-exps": partial(
        call_unsummed, 300, 64, 30, torch.float32, bias=True, **WITH_LSE
    ),
    "a head by row, with all terms, class weights and log-sum-exps": partial(
        call_unsummed, 300, 64, 30, torch.bfloat16, bias=True, terms=ALL_TERMS, **WITH_LSE
    ),
    "cross-entropy with class weights": partial(call_cross_entropy, 70, 30, torch.float32, **WITH_LSE),
    "cross-entropy with all terms and class weights": partial(
        call_cross_entropy, 1100, 30, torch.bfloat16, terms=ALL_TERMS, **WITH_LSE
    ),
    "cross-entropy": partial(call_cross_entropy, 2500, 30, torch.bfloat16),
    "cross-entropy of few classes": partial(call_cross_entropy, 33, TOKENS, torch.float32, terms=ALL_TERMS),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_closed_forms_equal_the_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = CALLS[name]
    with recording("interpreter") as recorded:
        call()
    tokens = next((len(t) for entry in recorded for t in entry.arguments if is_target(t)), 0)
    steps = ours.steps_of(recorded, labelled(tokens))
    monkeypatch.setattr(launches, "_tensor", random_tensor)
    with counted_bytes() as found:
        call()
    assert [entry.kernel for entry in found] == [entry.kernel.__name__ for entry in recorded]
    for step, entry in zip(steps, found, strict=True):
        assert by_tensor(step) == counted(entry), entry.kernel
    everything = total(steps)
    assert everything.requested == sum(entry.requested for entry in found)
    assert everything.compulsory >= sum(entry.compulsory for entry in found)  # a tensor with two names counts twice


def is_target(argument: object) -> bool:
    """Whether this argument of a launch is the target."""
    return isinstance(argument, Tensor) and argument.dtype == torch.int64 and argument.dim() == 1
