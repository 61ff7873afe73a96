"""Triton's interpreter, made exact and made to check: how the kernels are tested where there is no GPU.

exact_bfloat16()    arithmetic as a GPU does it: the interpreter works on bfloat16's raw 16 bits
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

Array = np.ndarray[Any, np.dtype[Any]]


# Arithmetic


def bits_from_float32(values: Array) -> Array:
    """bfloat16's bits (uint16), rounded to nearest even; a NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(np.uint16)


def float32_from_bits(bits: Array) -> Array:
    """The values that bfloat16's bits stand for."""
    return (np.ascontiguousarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _is_bfloat16(argument: Any) -> bool:
    return isinstance(argument, TensorHandle) and argument.dtype.scalar == tl.bfloat16


def _widened(argument: Any) -> Any:
    """A bfloat16 handle in float32; anything else as it is."""
    return TensorHandle(float32_from_bits(argument.data), tl.float32) if _is_bfloat16(argument) else argument


def _rounded(handle: TensorHandle) -> TensorHandle:
    """A float32 handle in bfloat16. A comparison's truth values are no numbers."""
    if handle.data.dtype == bool:
        return TensorHandle(handle.data, tl.int1)
    return TensorHandle(bits_from_float32(handle.data), tl.bfloat16)


def _in_float32(name: str) -> Callable[..., TensorHandle]:
    """The builder's method `name`, with bfloat16 operands widened before it and the result rounded after it."""

    def method(self: Any, *arguments: Any) -> TensorHandle:
        result = getattr(super(_ExactBfloat16, self), name)(*map(_widened, arguments))
        operands = [argument for argument in arguments if isinstance(argument, TensorHandle)]
        return _rounded(result) if _is_bfloat16(operands[-1]) else result

    return method


class _ExactBfloat16:
    """Mixed into the interpreter's builder, which makes the value of every operation of a kernel."""

    binary_op = _in_float32("binary_op")
    unary_op = _in_float32("unary_op")
    ternary_op = _in_float32("ternary_op")
    create_fma = _in_float32("create_fma")
    create_rsqrt = _in_float32("create_rsqrt")
    create_erf = _in_float32("create_erf")
    create_dot = _in_float32("create_dot")  # the last operand that is a handle is the accumulator

    def cast_impl(self, src: TensorHandle, dst_type: Any) -> TensorHandle:
        if dst_type.scalar == tl.bfloat16:
            return _rounded(TensorHandle(_widened(src).data.astype(np.float32), tl.float32))
        return super().cast_impl(_widened(src), dst_type)  # type: ignore[misc]

    def create_fp_to_fp(self, src: TensorHandle, dst_type: Any, rounding_mode: Any) -> TensorHandle:
        return self.cast_impl(src, dst_type)

    def get_bf16(self, value: float) -> TensorHandle:
        return _rounded(TensorHandle(np.array([value], np.float32), tl.float32))

    def create_atomic_rmw(self, *arguments: Any) -> TensorHandle:
        if any(map(_is_bfloat16, arguments)):
            raise NotImplementedError("the interpreter adds the bits of bfloat16 atomics, and no kernel here has any")
        return super().create_atomic_rmw(*arguments)  # type: ignore[misc]


@contextlib.contextmanager
def exact_bfloat16() -> Iterator[None]:
    """Inside the block kernels compute in bfloat16 as a GPU does, and are as silent about infinities as it is.

    Operands are widened to float32, results rounded to nearest even. Besides, a float argument of a kernel is a float32
    number, as on a GPU, and not one of Python's, which would take the other operand's type.

    Sums within a tile of bfloat16 raise: a GPU rounds after each addition, in an order of its own.
    """

    def converted(argument: Any) -> Any:
        if isinstance(argument, float):
            return tl.tensor(TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)
        return convert(argument)

    def quietly(self: Any, *arguments: Any, **keywords: Any) -> None:
        with np.errstate(all="ignore"):
            call(self, *arguments, **keywords)

    def wide(self: Any, tensors: tuple[Any, ...]) -> None:
        if any(_is_bfloat16(tensor.handle) for tensor in tensors):
            raise NotImplementedError("a reduction of bfloat16: widen to float32 before it")
        check(self, tensors)

    convert, call = interpreter._implicit_cvt, interpreter.GridExecutor.__call__
    check = interpreter.ReduceScanOpInterface.check_tensor
    with (
        _mixed_in(_ExactBfloat16),
        mock.patch.object(interpreter, "_implicit_cvt", converted),
        mock.patch.object(interpreter.GridExecutor, "__call__", quietly),
        mock.patch.object(interpreter.ReduceScanOpInterface, "check_tensor", wide),
    ):
        yield


@contextlib.contextmanager
def _mixed_in(mixin: type) -> Iterator[None]:
    """The interpreter's one builder with a mixin's methods before its own."""
    builder = interpreter.interpreter_builder
    before = type(builder)
    if not issubclass(before, mixin):
        builder.__class__ = type(f"{mixin.__name__}{before.__name__}", (mixin, before), {})
    try:
        yield
    finally:
        builder.__class__ = before
