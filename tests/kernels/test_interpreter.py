# mypy: allow-untyped-defs, allow-incomplete-defs
"""The checking interpreter: bfloat16 as a GPU computes it, every kind of memory fault, and bytes counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kernel_checks import HALVES
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl
from interpreter import (
    LaunchBytes,
    MemoryFaultError,
    TensorBytes,
    bits_from_float32,
    checked_memory,
    counted_bytes,
    exact_bfloat16,
    float32_from_bits,
)

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
def test_arithmetic_equals_torchs(op: str, dtype: torch.dtype) -> None:
    x, y = operands(dtype)
    wanted = EXPECTED[op](x, y)
    out = torch.empty_like(wanted).contiguous()
    _arithmetic[(1,)](x, y, out, 0.7, op, len(x))
    if op == "sum":  # added in another order
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
    """All bfloat16 values, the midpoints between neighbours, and the numbers next to those."""
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


def test_infinities_raise_no_warning() -> None:
    out = torch.empty(4, dtype=torch.float16)
    _cast[(1,)](torch.tensor([1e6, -1e6, float("nan"), float("inf")]), out, 4)
    assert out[[0, 1, 3]].isinf().all()
    assert out[2].isnan()


def test_exact_bfloat16_can_be_nested() -> None:
    x, y = operands(torch.bfloat16)
    out = torch.empty_like(x)
    with exact_bfloat16():
        _arithmetic[(1,)](x, y, out, 0.7, "add", len(x))
    assert torch.equal(out, x + y)
    _arithmetic[(1,)](x, y, out, 0.7, "multiply", len(x))
    assert torch.equal(out, x * y)


# Memory


@triton.jit
def _copy(source, out, rows, columns, stride, shift, SIZE: tl.constexpr, GUARDED: tl.constexpr):
    """out[row] = source[row], `shift` places to the right; its arguments can make it faulty."""
    row = tl.program_id(0)
    at = tl.arange(0, SIZE)
    values = tl.load(source + row * stride + at, mask=at < columns, other=0.0)
    if GUARDED:
        tl.store(out + row * columns + at + shift, values, mask=(at < columns) & (at + shift < columns))
    else:
        tl.store(out + row * columns + at + shift, values, mask=at < columns)


def copy(source: Tensor, out: Tensor | None = None, *, shift: int = 0, columns: int | None = None, guarded=True):
    """Like an op: allocate (unless `out` is given), launch, return."""
    rows, width = source.shape
    out = source.new_empty(rows, width) if out is None else out
    columns = width if columns is None else columns
    _copy[(rows,)](source, out, rows, columns, source.stride(0), shift, 16, guarded)
    return out


def test_correct_accesses_raise_nothing() -> None:
    x = torch.randn(3, 10)
    with checked_memory(x) as memory:
        out = copy(x)
        again = copy(out[:, 2:8])
        memory.assert_written(out, again, torch.empty(0), x)
    assert torch.equal(out, x)
    assert torch.equal(again, x[:, 2:8])


def test_uninitialised_memory_is_nan() -> None:
    with checked_memory():
        made = [torch.empty(3), torch.empty_like(torch.ones(2).half()), torch.ones(1).bfloat16().new_empty(4)]
        assert torch.empty(2, dtype=torch.int32).tolist() == [-1, -1]
    assert all(t.isnan().all() for t in made)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: copy(x, columns=11),
            r"_copy, program \(2, 0, 0\): a load outside of `source` \(3, 10\) .* 120 bytes",
        ),
        (lambda x: copy(x[:, :8], columns=9), r"program \(0, 0, 0\): a load outside of `source` \(3, 8\) with strides"),
        (
            lambda x: copy(x, shift=1, guarded=False),
            r"a store outside of `out` \(3, 10\) .*, 120 bytes after its first",
        ),
        (lambda x: copy(x, shift=-1, guarded=False), r"program \(0, 0, 0\): a store outside of `out` .*, -4 bytes"),
        (lambda x: copy(copy(x, shift=1)), r"a load of unwritten `source`"),
        (lambda x: copy(torch.empty_like(x)), r"a load of unwritten `source`"),
        (lambda x: copy(x, x), r"a store to the caller's `out`"),
        (lambda x: copy(x[:1].expand(3, 10), x.new_empty(1, 10).expand(3, 10)), r"a store outside of `out`"),
    ],
)
def test_planted_faults_are_found(call: Any, message: str) -> None:
    x = torch.randn(3, 10)
    with checked_memory(x), pytest.raises(MemoryFaultError, match=message):
        call(x)


def test_outputs_with_unwritten_elements_are_found() -> None:
    x = torch.randn(3, 10)
    with checked_memory(x) as memory:
        holed = copy(x, shift=2)
        with pytest.raises(
            MemoryFaultError, match=r"never written: the element 0 places after .* `output 1` \(3, 10\)"
        ):
            memory.assert_written(x, holed)
        memory.assert_written(holed[:, 2:])
        holed.zero_()
        memory.assert_written(holed)


@triton.jit
def _conflict(memory, out, FAULT: tl.constexpr):
    program = tl.program_id(0)
    if FAULT == "both store":
        tl.store(memory, 1.0)
    elif FAULT == "load after store":
        tl.store(memory + program, 1.0)
        tl.store(out + program, tl.load(memory))
    elif FAULT == "store after load":
        tl.store(out + program, tl.load(memory + 1 - program))
        tl.store(memory + program, 1.0)
    elif FAULT == "store where two have loaded":
        total = tl.load(memory) + tl.load(memory + 1)
        if program == 1:
            tl.store(memory, total)
    elif FAULT == "float atomic":
        tl.atomic_add(memory, 1.0)
    elif FAULT == "wild pointer":
        tl.store(tl.cast(tl.load(out).to(tl.int64), tl.pointer_type(tl.float32)), 1.0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("both store", r"program \(1, 0, 0\): a store where another program"),
        ("load after store", r"program \(1, 0, 0\): a load where another program"),
        ("store after load", r"program \(1, 0, 0\): a load where another program"),
        ("store where two have loaded", r"program \(1, 0, 0\): a store where another program"),
        ("float atomic", "an atomic on floats"),
        ("wild pointer", "came from no tensor"),
    ],
)
def test_conflicts_between_programs_are_found(fault: str, message: str) -> None:
    with checked_memory(), pytest.raises(MemoryFaultError, match=message):
        _conflict[(2,)](torch.zeros(2), torch.zeros(2), fault)


@torch.library.custom_op("domain_ft_tests::copy", mutates_args=())
def copy_op(x: Tensor) -> Tensor:
    return copy(x)


@torch.library.custom_op("domain_ft_tests::copy_backward", mutates_args=())
def copy_backward_op(grad: Tensor) -> Tensor:
    return copy(grad, shift=1)


copy_op.register_autograd(lambda ctx, grad: copy_backward_op(grad))


def test_accesses_inside_ops_and_their_backward_are_seen() -> None:
    x = torch.randn(3, 10, requires_grad=True)
    with checked_memory(x) as memory:
        out = copy_op(x)
        memory.assert_written(out)
        (gradient,) = torch.autograd.grad(out, x, torch.ones(3, 10))
        with pytest.raises(MemoryFaultError, match="never written"):
            memory.assert_written(gradient)


def test_nothing_is_checked_after_the_block() -> None:
    x = torch.randn(3, 10)
    with checked_memory(x), counted_bytes() as launches:
        copy(x)
    assert len(launches) == 1
    assert torch.equal(copy(x, x.clone(), shift=0), x)
    assert len(launches) == 1
    copy(x, x.clone(), columns=9, shift=1, guarded=False)


# Bytes


@triton.jit
def _table(source, copies, out, REPEATS: tl.constexpr, SIZE: tl.constexpr):
    """Each program adds up REPEATS reads of the same SIZE numbers, and one read of each of two tensors in a tuple."""
    at = tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float32)
    for _ in range(REPEATS):
        total += tl.load(source + at).to(tl.float32)
    total += tl.load(copies[0] + at).to(tl.float32) + tl.load(copies[1] + at).to(tl.float32)
    tl.store(out + tl.program_id(0) * SIZE + at, total, mask=at < SIZE - 1)


def test_counts_equal_those_by_hand() -> None:
    source, out = torch.ones(8, dtype=torch.bfloat16), torch.empty(3, 8)
    other = torch.ones(16)
    with counted_bytes() as launches:
        _table[(3,)](source, (other[:8], other[4:12]), out, REPEATS=2, SIZE=8)
    by_name = {
        "source": TensorBytes(requested_reads=3 * 2 * 8 * 2, requested_writes=0, reads=8 * 2, writes=0),
        "copies[0]": TensorBytes(requested_reads=3 * 8 * 4, requested_writes=0, reads=8 * 4, writes=0),
        "copies[1]": TensorBytes(requested_reads=3 * 8 * 4, requested_writes=0, reads=8 * 4, writes=0),
        "out": TensorBytes(requested_reads=0, requested_writes=3 * 7 * 4, reads=0, writes=3 * 7 * 4),
    }
    shared = 12 * 4  # the distinct numbers of the tuple's two tensors
    compulsory = 8 * 2 + shared + 3 * 7 * 4
    requested = 3 * 2 * 8 * 2 + 2 * 3 * 8 * 4 + 3 * 7 * 4
    assert launches == [LaunchBytes("_table", (3, 1, 1), by_name, requested, compulsory)]


def test_a_byte_that_is_read_and_written_moves_twice() -> None:
    x = torch.randn(3, 10)
    with counted_bytes() as launches:
        copy(x, x)
    assert launches[0].compulsory == launches[0].requested == 2 * x.nbytes
