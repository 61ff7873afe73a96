"""Helpers for the tests of the ops: errors against float64, FLOPs of matrix products, and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALVES)
BY_WIDTH = (torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow))
"""DTYPES for tests in which float16 runs the same code as bfloat16: float16 is marked slow."""


def error(actual: Tensor, exact: Tensor) -> float:
    """The norm of the difference."""
    return float(torch.linalg.vector_norm(actual.double() - exact.double()))


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """The norm of the difference over the norm of `exact`."""
    return error(actual, exact) / float(torch.linalg.vector_norm(exact.double()))


def assert_as_exact_as(
    actual: Sequence[Tensor],
    reference: Sequence[Tensor],
    exact: Sequence[Tensor],
    *,
    roundings: float,
    magnitudes: Sequence[Tensor] | None = None,
) -> None:
    """Assert that each tensor's error against float64 is at most twice the reference's in the same precision.

    In case the reference's error happens to be small, `roundings` of the coarsest type in `actual` are also allowed:
    of the tensor's norm, or of that of `magnitudes` (exact values before terms of opposite sign cancel).
    """
    eps = max(torch.finfo(tensor.dtype).eps for tensor in actual)
    for index, (a, r, e, m) in enumerate(zip(actual, reference, exact, magnitudes or exact, strict=True)):
        assert a.shape == e.shape
        assert a.dtype == r.dtype
        allowed = 2 * error(r, e) + roundings * eps * float(torch.linalg.vector_norm(m.double()))
        assert error(a, e) <= allowed, f"tensor {index}: error {error(a, e):.2e}, the reference's allows {allowed:.2e}"


def value_and_gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor | None], grad: Tensor | None = None
) -> list[Tensor]:
    """function(*tensors), and its gradients for all tensors but None. `grad` is the output's gradient (None: ones)."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = function(*leaves)
    inputs = [leaf for leaf in leaves if leaf is not None]
    gradients = torch.autograd.grad(output, inputs, torch.ones_like(output) if grad is None else grad.to(output.dtype))
    return [output.detach(), *gradients]


def matrix_flops(call: Callable[[], object]) -> int:
    """Floating-point operations in the matrix products that `call` runs, including those inside custom ops."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        call()
    flops = 0
    for event in profiler.events():
        if event.name in ("aten::mm", "aten::addmm", "aten::addmm_"):
            (m, k), (_, n) = event.input_shapes[0:2] if event.name == "aten::mm" else event.input_shapes[1:3]
            flops += 2 * m * k * n
        elif event.name == "mkldnn::_linear_pointwise":
            (m, k), (n, _) = event.input_shapes[0:2]
            flops += 2 * m * k * n
    return flops


def peak_bytes(call: Callable[[], object]) -> tuple[int, int]:
    """Peak bytes that `call` allocates, and its largest single allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = largest = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak, largest = max(peak, held), max(largest, event.nbytes())
    return peak, largest
