"""Attention by blocks on a CPU against its formula in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from domain_ft.models import blockwise_attention as module
from domain_ft.models.blockwise_attention import blockwise_attention, is_faster


def formula(query: Tensor, key: Tensor, value: Tensor, length: int, scale: float, mask: Tensor | None) -> Tensor:
    """The definition, sequence by sequence."""
    groups = query.shape[1] // key.shape[1]
    sequences = []
    for start in range(0, len(query), length):
        q, k, v = (x[start : start + length].transpose(0, 1) for x in (query, key, value))
        scores = scale * q @ k.repeat_interleave(groups, 0).transpose(1, 2)
        if mask is not None:
            scores = scores + mask
        sequences.append((scores.softmax(-1) @ v.repeat_interleave(groups, 0)).transpose(0, 1))
    return torch.cat(sequences)


def values(function: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor, *options: Any) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*leaves, *options)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype))]


def masks(length: int, kind: str) -> Tensor | None:
    if kind == "all":
        return None
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    seen = distance >= 0 if kind == "causal" else distance.abs() <= 2
    return torch.zeros(length, length).masked_fill(~seen, float("-inf"))


@given(
    sequences=st.integers(1, 5),
    length=st.sampled_from([1, 2, 5, 16, 33]),
    heads=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 3]),
    kind=st.sampled_from(["all", "causal", "window"]),
    block=st.sampled_from([1, 200, 2**20]),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_formula(sequences: int, length: int, heads: int, groups: int, kind: str, block: int) -> None:
    """For several block sizes; in float64, so that only a wrong formula can differ."""
    torch.manual_seed(0)
    draw = lambda count: torch.randn(sequences * length, count, 8, dtype=torch.float64)  # noqa: E731
    tensors, grad = [draw(heads * groups), draw(heads), draw(heads)], draw(heads * groups)
    mask = masks(length, kind)
    options = length, 0.3, None if mask is None else mask.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = values(blockwise_attention, tensors, grad, *options)
    for ours, exact in zip(found, values(formula, tensors, grad, *options), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["all", "causal"])
def test_is_about_as_exact_as_torchs_own(dtype: torch.dtype, kind: str) -> None:
    """At most twice the error of scaled_dot_product_attention in the same type, forward and backward."""
    torch.manual_seed(0)
    length, heads = 48, 4
    tensors = [torch.randn(3 * length, heads, 16).to(dtype) for _ in range(3)]
    grad, mask = torch.randn(3 * length, heads, 16).to(dtype), masks(length, kind)

    def torchs(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (3, length)).transpose(1, 2) for x in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25, is_causal=kind == "causal")
        return mixed.transpose(1, 2).flatten(0, 1)

    exact = values(formula, [t.double() for t in tensors], grad, length, 0.25, None if mask is None else mask.double())
    ours = values(blockwise_attention, tensors, grad, length, 0.25, None if mask is None else mask.to(dtype))
    theirs = values(torchs, tensors, grad)
    for name, own, other, truth in zip("oqkv", ours, theirs, exact, strict=True):
        error, allowed = ((x.double() - truth).norm() / truth.norm() for x in (own, other))
        assert error <= 2 * allowed, name


def test_saves_nothing_quadratic_in_the_length() -> None:
    length = 64
    tensors = [torch.randn(2 * length, 2, 8, requires_grad=True) for _ in range(3)]
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        blockwise_attention(*tensors, length, 0.3, None)
    assert saved
    assert max(saved) <= tensors[0].numel()


def test_long_sequences_and_other_types_use_torchs_kernel() -> None:
    query = torch.randn(8, 2, 4)
    assert is_faster(query, 8)
    assert not is_faster(query, 4096)
    assert not is_faster(query.double(), 8)
    assert not is_faster(query.half(), 8)
