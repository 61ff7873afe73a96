"""A linear layer with a low-rank update beside it: LoRA (Hu et al. 2021), dropout inside.

The maths, for rows x (m, K), W (N, K), b (N,), A (R, K), B (N, R), M the mask of `dropout.py`, s = scaling / (1 - p):

    t  = (x ∘ M) Aᵀ                       (m, R)
    y  = x Wᵀ + b + s t Bᵀ                (m, N)

and backward, with g = ∂loss/∂y:

    dt = g B                              (m, R)
    dx = g W + s (dt A) ∘ M               dA = s dtᵀ (x ∘ M)
    dW = gᵀ x      db = Σ_rows g          dB = s gᵀ t

Saved for backward: x, t and the seed. M is regenerated from the seed; x ∘ M exists a block of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft_kernels import dropout
from domain_ft_kernels.backends import (
    accumulation_dtype,
    check_same_device,
    check_shape,
    compute_dtype,
    in_given_types,
    resolve_backend,
)

BLOCK_ELEMENTS = 2**17
"""Elements of x that are masked at a time on a CPU, so that mask and product stay in a core's cache."""

# The reference


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    dropout_p: float,
    seed: Tensor | None,
    compute: torch.dtype,
) -> Tensor:
    """The definition, for x (m, K). Differentiable by autograd."""
    x, weight, lora_a, lora_b = (tensor.to(compute) for tensor in (x, weight, lora_a, lora_b))
    dropped = x
    if seed is not None:
        dropped = x * dropout.keep_mask(seed, x.shape[0], x.shape[1], dropout_p, x.device) / (1 - dropout_p)
    base = F.linear(x, weight, None if bias is None else bias.to(compute))
    return base + scaling * F.linear(F.linear(dropped, lora_a), lora_b)


# The torch backend


def _masked_blocks(x: Tensor, p: float, seed: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For blocks of x's rows: the rows, x ∘ M for them (in a buffer that the next block reuses), and M as bits."""
    rows, columns = x.shape
    row_keys, column_keys = dropout.keys(seed, rows, columns, x.device)
    size = max(1, BLOCK_ELEMENTS // columns) if x.device.type == "cpu" else max(1, rows)
    buffer = x.new_empty(min(size, rows), columns)
    for start in range(0, rows, size):
        block = slice(start, min(start + size, rows))
        bits = dropout.keep_bits(row_keys[block], column_keys, p, x.dtype)
        yield block, dropout.apply_bits(x[block], bits, out=buffer[: len(bits)]), bits


@in_given_types
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    dropout_p: float,
    seed: Tensor | None,
    compute: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """y (m, N) and t (m, R), both in the type `compute`, for x (m, K)."""
    x, weight, lora_a, lora_b = (tensor.to(compute) for tensor in (x, weight, lora_a, lora_b))
    if seed is None:
        down = x @ lora_a.t()
    else:
        down = x.new_empty(len(x), len(lora_a))
        for block, masked, _ in _masked_blocks(x, dropout_p, seed):
            torch.mm(masked, lora_a.t(), out=down[block])
    y = x @ weight.t() if bias is None else torch.addmm(bias.to(compute), x, weight.t())
    return y.addmm_(down, lora_b.t(), alpha=scaling / (1 - dropout_p)), down


@in_given_types
def _backward(
    grad: Tensor,
    x: Tensor,
    down: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    dropout_p: float,
    seed: Tensor | None,
    compute: torch.dtype,
    needs: list[bool],
) -> list[Tensor]:
    """The gradients of those of (x, weight, bias, lora_a, lora_b) that `needs` names, in this order and their types."""
    need_x, need_weight, need_bias, need_a, need_b = needs
    inputs, s = x.to(compute), scaling / (1 - dropout_p)
    d_x = d_weight = d_bias = d_a = d_b = None
    if need_x:
        d_x = grad @ weight.to(compute)
    if need_x or need_a:
        d_down = (grad @ lora_b.to(compute)).mul_(s)
        d_a = _through_lora_a(inputs, d_down, lora_a.to(compute), dropout_p, seed, d_x, need_a)
    if need_weight:
        d_weight = grad.t() @ inputs
    if need_bias:
        d_bias = grad.sum(0, dtype=accumulation_dtype(compute))
    if need_b:
        d_b = (grad.t() @ down).mul_(s)
    pairs = zip((d_x, d_weight, d_bias, d_a, d_b), (x, weight, bias, lora_a, lora_b), strict=True)
    return [g.to(tensor.dtype) for g, tensor in pairs if g is not None and tensor is not None]


def _through_lora_a(
    x: Tensor, d_down: Tensor, lora_a: Tensor, p: float, seed: Tensor | None, d_x: Tensor | None, need_a: bool
) -> Tensor | None:
    """Add (dt A) ∘ M to d_x in place, if there is one, and return dtᵀ (x ∘ M), if it is needed. d_down has s in it."""
    if seed is None:
        if d_x is not None:
            d_x.addmm_(d_down, lora_a)
        return d_down.t() @ x if need_a else None
    d_a = torch.zeros_like(lora_a, dtype=accumulation_dtype(x.dtype)) if need_a else None
    for block, masked, bits in _masked_blocks(x, p, seed):
        if d_a is not None:
            d_a += d_down[block].t() @ masked
        if d_x is not None:
            update = torch.mm(d_down[block], lora_a, out=masked)
            d_x[block] += dropout.apply_bits(update, bits, out=update)
    return d_a


# The registration

_forward_op = torch.library.custom_op(
    "domain_ft_kernels::lora_linear",
    _forward,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor lora_a, Tensor lora_b, float scaling, float dropout_p,"
    " Tensor? seed, ScalarType compute) -> (Tensor, Tensor)",
)
_backward_op = torch.library.custom_op(
    "domain_ft_kernels::lora_linear_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor down, Tensor weight, Tensor? bias, Tensor lora_a, Tensor lora_b,"
    " float scaling, float dropout_p, Tensor? seed, ScalarType compute, bool[] needs) -> Tensor[]",
)


@_forward_op.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor]:
    x, weight, _, lora_a, *_, compute = inputs
    return tuple(x.new_empty((x.shape[0], matrix.shape[0]), dtype=compute) for matrix in (weight, lora_a))


@_backward_op.register_fake
def _(*inputs: Any) -> list[Tensor]:
    _, x, _, weight, bias, lora_a, lora_b, *_, needs = inputs
    needed = zip((x, weight, bias, lora_a, lora_b), needs, strict=True)
    return [tensor.new_empty(tensor.shape) for tensor, need in needed if need]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, lora_a, lora_b, scaling, dropout_p, seed, compute = inputs
    ctx.save_for_backward(x, output[1], weight, bias, lora_a, lora_b, seed)
    ctx.options = scaling, dropout_p, compute
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    *tensors, seed = ctx.saved_tensors
    scaling, dropout_p, compute = ctx.options
    needs = list(ctx.needs_input_grad[:5])
    gradients = iter(_backward_op(grad, *tensors, scaling, dropout_p, seed, compute, needs))
    return *(next(gradients) if need else None for need in needs), *(None,) * 4


_forward_op.register_autograd(_differentiate, setup_context=_setup_context)


# The public function


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    *,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """y = x Wᵀ + b + scaling · drop(x) Aᵀ Bᵀ, differentiable once in every tensor that asks for it.

    Args:
        x: (..., K), in the type of weight, or any under autocast.
        weight: (N, K); any strides, so GPT-2's Conv1D passes `weight.t()`.
        bias: (N,) or None.
        lora_a: (R, K), any float type: multiplied in x's type (autocast's under autocast), its gradient in its own.
        lora_b: (N, R), likewise.
        scaling: alpha / R, or alpha / √R.
        dropout_p: probability in [0, 1) with which drop() zeroes an element; the others are divided by 1 - p.
        seed: decides the mask, together with an element's row (of all leading dimensions laid flat) and column. Seeds
            that differ, even by 1, give unrelated masks. Under torch.compile pass an int64 tensor of no dimensions (on
            the CPU is best), since an int that changes may compile anew. None draws one from torch's default generator.
        backend: `auto`, `reference` or `torch`.

    Returns:
        y (..., N), in x's type, or autocast's under autocast.

    Raises:
        ValueError: shapes, types, devices or options that do not fit.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; wanted (N, K)")
    n, k = weight.shape
    if x.dim() < 1 or x.shape[-1] != k:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; wanted (..., {k}), as weight is (N, K) = {tuple(weight.shape)}"
        )
    if lora_a.dim() != 2 or lora_a.shape[1] != k:
        raise ValueError(f"lora_a has shape {tuple(lora_a.shape)}; wanted (R, K) = (R, {k})")
    check_shape("lora_b", lora_b, (n, lora_a.shape[0]), "(N, R)")
    if bias is not None:
        check_shape("bias", bias, (n,), "(N,)")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p={dropout_p}: wanted 0 <= dropout_p < 1")
    check_same_device(x=x, weight=weight, bias=bias, lora_a=lora_a, lora_b=lora_b)
    compute = compute_dtype("x", x, weight)
    mask_seed = dropout.as_seed(seed) if dropout_p else None
    rows = x.reshape(math.prod(x.shape[:-1]), k)
    arguments = (rows, weight, bias, lora_a, lora_b, float(scaling), float(dropout_p), mask_seed, compute)
    if resolve_backend(backend, x.device) == "reference":
        y = reference(*arguments)
    else:
        y, _ = _forward_op(*arguments)
    return y.reshape(*x.shape[:-1], n)
