# mypy: allow-untyped-defs, allow-incomplete-defs (a Triton kernel's parameters have no types)
"""The checking interpreter: bfloat16 as a GPU computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from interpreter import bits_from_float32, exact_bfloat16, float32_from_bits  # noqa: E402

HALVES = (torch.bfloat16, torch.float16)


# Arithmetic


@triton.jit
def _arithmetic(a, b, out, scale, OP: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x = tl.load(a + at)
    y = tl.load(b + at)
    if OP == "add":
        z = x + y
    elif OP == "subtract":
        z = x - y
    elif OP == "multiply":
        z = x * y
    elif OP == "divide":
        z = x / y
    elif OP == "negate":
        z = -x
    elif OP == "maximum":
        z = tl.maximum(x, y)
    elif OP == "less":
        z = (x < y).to(tl.float32)
    elif OP == "where":
        z = tl.where(x < y, x, y)
    elif OP == "abs":
        z = tl.abs(x)
    elif OP == "clamp":
        z = tl.clamp(x, y - y, y * y)
    elif OP == "scaled":
        z = x * scale
    elif OP == "constant":
        z = x * 0.3
    elif OP == "full":
        z = tl.full([SIZE], 0.3, x.dtype)
    elif OP == "exp":
        z = tl.exp(x.to(tl.float32))
    elif OP == "int":
        z = x.to(tl.int32)
    elif OP == "from int":
        z = (at * 3 + 1000).to(x.dtype)
    elif OP == "sum":
        z = tl.zeros([SIZE], tl.float32) + tl.sum(x.to(tl.float32))
    elif OP == "max":
        z = tl.zeros([SIZE], tl.float32) + tl.max(x)
    tl.store(out + at, z)


EXPECTED: dict[str, Any] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "negate": lambda x, y: -x,
    "maximum": torch.maximum,
    "less": lambda x, y: (x < y).float(),
    "where": lambda x, y: torch.where(x < y, x, y),
    "abs": lambda x, y: x.abs(),
    "clamp": lambda x, y: torch.clamp(x, y - y, y * y),
    "scaled": lambda x, y: x.float() * 0.7,
    "constant": lambda x, y: x * torch.tensor(0.3, dtype=x.dtype),
    "full": lambda x, y: torch.full_like(x, 0.3),
    "exp": lambda x, y: torch.from_numpy(np.exp(x.float().numpy())),
    "int": lambda x, y: x.int(),
    "from int": lambda x, y: (torch.arange(len(x)) * 3 + 1000).to(x.dtype),
    "sum": lambda x, y: x.float().sum().expand(len(x)),
    "max": lambda x, y: x.float().max().expand(len(x)),
}


def operands(dtype: torch.dtype, size: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, size, generator=generator) * 3
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op", EXPECTED)
def test_arithmetic_is_torchs(op: str, dtype: torch.dtype) -> None:
    x, y = operands(dtype)
    wanted = EXPECTED[op](x, y)
    out = torch.empty_like(wanted).contiguous()
    _arithmetic[(1,)](x, y, out, 0.7, op, len(x))
    if op == "sum":  # in another order
        torch.testing.assert_close(out, wanted)
    else:
        assert torch.equal(out, wanted)


@triton.jit
def _narrow_sum(a, out, SIZE: tl.constexpr):
    tl.store(out, tl.sum(tl.load(a + tl.arange(0, SIZE))))


def test_sums_in_bfloat16_are_refused() -> None:
    with pytest.raises(triton.runtime.errors.InterpreterError, match="a reduction of bfloat16"):
        _narrow_sum[(1,)](operands(torch.bfloat16)[0], torch.empty(1), 64)


@triton.jit
def _product(a, b, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    square = at[:, None] * SIZE + at[None, :]
    tl.store(out + square, tl.dot(tl.load(a + square), tl.load(b + square)))


@pytest.mark.parametrize("dtype", HALVES)
def test_products_are_of_values_and_not_of_bits(dtype: torch.dtype) -> None:
    x, y = (t.reshape(16, 16) for t in operands(dtype, 256))
    out = torch.empty(16, 16)
    _product[(1,)](x, y, out, 16)
    torch.testing.assert_close(out, x.float() @ y.float())


@triton.jit
def _cast(source, out, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + at, tl.load(source + at).to(out.dtype.element_ty))


def test_casts_round_to_nearest_even() -> None:
    """Every bfloat16 there is, the middles between neighbours, and what lies next to those."""
    every = torch.arange(2**16, dtype=torch.int32) << 16
    exact = torch.cat([every + offset for offset in (0, 1, 0x7FFF, 0x8000, 0x8001)]).view(torch.float32)
    out = torch.empty(len(exact), dtype=torch.bfloat16)
    _cast[(5,)](exact, out, 2**16)
    wanted = exact.bfloat16()
    assert torch.equal(out.isnan(), wanted.isnan())
    assert torch.equal(out.nan_to_num(7.0).view(torch.int16), wanted.nan_to_num(7.0).view(torch.int16))
    back = torch.empty(2**16)
    _cast[(1,)](wanted[: 2**16], back, 2**16)
    assert torch.equal(back.nan_to_num(7.0), wanted[: 2**16].float().nan_to_num(7.0))
    assert np.array_equal(bits_from_float32(float32_from_bits(np.arange(0x7F81))), np.arange(0x7F81))


@pytest.mark.parametrize(("source", "to"), [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)])
def test_casts_between_the_halves(source: torch.dtype, to: torch.dtype) -> None:
    x, _ = operands(source)
    out = torch.empty(len(x), dtype=to)
    _cast[(1,)](x, out, len(x))
    assert torch.equal(out, x.to(to))


def test_infinities_are_silent() -> None:
    out = torch.empty(4, dtype=torch.float16)
    _cast[(1,)](torch.tensor([1e6, -1e6, float("nan"), float("inf")]), out, 4)
    assert out[[0, 1, 3]].isinf().all()
    assert out[2].isnan()


def test_may_be_installed_twice() -> None:
    x, y = operands(torch.bfloat16)
    out = torch.empty_like(x)
    with exact_bfloat16():
        _arithmetic[(1,)](x, y, out, 0.7, "add", len(x))
    assert torch.equal(out, x + y)
    _arithmetic[(1,)](x, y, out, 0.7, "multiply", len(x))
    assert torch.equal(out, x * y)
