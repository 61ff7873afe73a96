"""A linear layer with a low-rank update, LoRA (Hu et al. 2021), including its dropout.

The maths, for rows x (m, K), W (N, K), b (N,), A (R, K), B (N, R), the mask M of `dropout.py`, s = scaling / (1 - p):

    t  = (x ∘ M) Aᵀ                       (m, R)
    y  = x Wᵀ + b + s t Bᵀ                (m, N)

and backward, with g = ∂loss/∂y:

    dt = g B                              (m, R)
    dx = g W + s (dt A) ∘ M               dA = s dtᵀ (x ∘ M)
    dW = gᵀ x      db = Σ_rows g          dB = s gᵀ t

Saved for backward: x, t, the seed and the parameters. M is regenerated from the seed; on a CPU, x ∘ M is computed in
blocks of rows.

Layers that read the same x (q, k and v of an attention) are computed as a group with one mask: their A form one matrix
of Σ R rows, so t and dt are (m, Σ R) and x is masked once. dx is summed over the layers.
A single layer is a group of one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
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
from domain_ft_kernels.layers import by_kind, down_columns, split_scale
from domain_ft_kernels.products import add_mm_, mm
from domain_ft_kernels.registration import Op

BLOCK_ELEMENTS = 2**17
"""Elements of x that are masked at a time on a CPU, so that mask and product stay in a core's cache."""

MOST_ELEMENTS = 2**31
"""Weights must have fewer elements than this in the Triton kernels, which use 32-bit offsets."""

# The reference


def reference(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scalings: Sequence[float],
    dropout_p: float,
    seed: Tensor | None,
    compute: torch.dtype,
) -> list[Tensor]:
    """The definition, for x (m, K): the y of each layer. `biases` has one bias for each layer, or is empty."""
    x = x.to(compute)
    dropped = x
    if seed is not None:
        dropped = x * dropout.keep_mask(seed, x.shape[0], x.shape[1], dropout_p, x.device) / (1 - dropout_p)
    ys = []
    for index, (weight, lora_a, lora_b, scaling) in enumerate(zip(weights, lora_as, lora_bs, scalings, strict=True)):
        base = F.linear(x, weight.to(compute), biases[index].to(compute) if biases else None)
        ys.append(base + scaling * F.linear(F.linear(dropped, lora_a.to(compute)), lora_b.to(compute)))
    return ys


# The torch backend


def _masked_blocks(x: Tensor, p: float, seed: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For blocks of x's rows: the rows, their x ∘ M (in a buffer that the next block reuses), and M as bits."""
    rows, columns = x.shape
    row_keys, column_keys = dropout.keys(seed, rows, columns, x.device)
    size = max(1, BLOCK_ELEMENTS // columns) if x.device.type == "cpu" else max(1, rows)
    buffer = x.new_empty(min(size, rows), columns)
    for start in range(0, rows, size):
        block = slice(start, min(start + size, rows))
        bits = dropout.keep_bits(row_keys[block], column_keys, p, x.dtype)
        yield block, dropout.apply_bits(x[block], bits, out=buffer[: len(bits)]), bits


def _stacked(lora_as: Sequence[Tensor], compute: torch.dtype, factors: Sequence[float] = ()) -> Tensor:
    """(Σ R, K) the layers' A, one below the other, each times its factor if `factors` are given."""
    scaled = [_scaled(a, factors[i] if factors else 1.0, compute) for i, a in enumerate(lora_as)]
    return scaled[0] if len(scaled) == 1 else torch.cat(scaled)


@in_given_types
def _forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scalings: Sequence[float],
    dropout_p: float,
    seed: Tensor | None,
    compute: torch.dtype,
) -> list[Tensor]:
    """The y (m, N) of each layer, then t (m, Σ R), all in the type `compute`, for x (m, K)."""
    x, lora_a = x.to(compute), _stacked(lora_as, compute)
    if seed is None:
        down = mm(x, lora_a.t())  # t: (m, Σ R)
    else:
        down = x.new_empty(len(x), len(lora_a))
        for block, masked, _ in _masked_blocks(x, dropout_p, seed):
            torch.mm(masked, lora_a.t(), out=down[block])
    merge = _merges(x, seed, compute)
    ys = []
    downs = down.split([len(a) for a in lora_as], dim=1)
    for index, (weight, a, b, t, s) in enumerate(zip(weights, lora_as, lora_bs, downs, scalings, strict=True)):
        bias = biases[index].to(compute) if biases else None
        if merge:
            ys.append(mm(x, _merged(weight, a, b, s, compute).t(), bias))
        else:
            y = mm(x, weight.to(compute).t(), bias)  # (m, N)
            factor, up = split_scale(s / (1 - dropout_p))
            ys.append(add_mm_(y, t, _scaled(b, up, compute).t(), factor))
    return [*ys, down]


def _scaled(small: Tensor, factor: float, compute: torch.dtype) -> Tensor:
    """factor · small in the type `compute`, rounded once."""
    return small.to(compute) if factor == 1.0 else (small * factor).to(compute)


def _merges(x: Tensor, seed: Tensor | None, compute: torch.dtype) -> bool:
    """Whether to compute y as x (W + s B A)ᵀ: the update takes N R K operations, not m R N, and y is not read again.

    Never below float32, where rounding W + s B A would lose small updates.
    """
    return seed is None and compute.itemsize >= 4 and x.device.type == "cpu" and x.shape[0] > x.shape[1]


def _merged(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, compute: torch.dtype) -> Tensor:
    return torch.addmm(weight.to(compute), lora_b.to(compute), lora_a.to(compute), alpha=scaling)


@in_given_types
def _backward(
    grads: Sequence[Tensor],
    x: Tensor,
    down: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scalings: Sequence[float],
    dropout_p: float,
    seed: Tensor | None,
    compute: torch.dtype,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients with respect to those of (x, *weights, *biases, *lora_as, *lora_bs) that `needs` marks."""
    need_x, *rest = needs
    need_weights, need_biases, need_as, need_bs = by_kind(rest, (weights, biases, lora_as, lora_bs))
    inputs, ranks = x.to(compute), [len(lora_a) for lora_a in lora_as]
    scales, ups = zip(*(split_scale(scaling / (1 - dropout_p)) for scaling in scalings), strict=True)
    d_x = None
    d_as: Sequence[Tensor | None] = [None] * len(lora_as)
    merge = _merges(x, seed, compute)
    if need_x:
        for grad, weight, a, b, s in zip(grads, weights, lora_as, lora_bs, scalings, strict=True):
            through = _merged(weight, a, b, s, compute) if merge else weight.to(compute)
            d_x = mm(grad, through) if d_x is None else add_mm_(d_x, grad, through)  # (m, K)
    if (need_x and not merge) or any(need_as):
        d_downs = [mm(g, lora_b.to(compute)).mul_(s) for g, lora_b, s in zip(grads, lora_bs, scales, strict=True)]
        d_down = d_downs[0] if len(d_downs) == 1 else torch.cat(d_downs, dim=1)  # dt: (m, Σ R)
        missing = None if merge else d_x
        d_stacked = _through_lora_a(
            inputs, d_down, _stacked(lora_as, compute, ups), dropout_p, seed, missing, any(need_as)
        )
        if d_stacked is not None:  # copies, since an op's outputs must not share memory
            parts = d_stacked.split(ranks)
            d_as = [part.to(a.dtype, copy=True).mul_(up) for part, a, up in zip(parts, lora_as, ups, strict=True)]
    d_weights = (mm(grad.t(), inputs) if need else None for grad, need in zip(grads, need_weights, strict=True))
    d_biases = (
        grad.sum(0, dtype=accumulation_dtype(compute)) if need else None
        for grad, need in zip(grads[: len(biases)], need_biases, strict=True)
    )
    d_bs = (
        mm(t.t(), grad).t().contiguous().to(b.dtype).mul_(s * up) if need else None  # copying t is cheap
        for grad, t, b, s, up, need in zip(grads, down.split(ranks, dim=1), lora_bs, scales, ups, need_bs, strict=True)
    )
    gradients = (d_x, *d_weights, *d_biases, *d_as, *d_bs)
    tensors = (x, *weights, *biases, *lora_as, *lora_bs)
    wanted = zip(gradients, tensors, needs, strict=True)
    return [gradient.to(t.dtype) for gradient, t, need in wanted if need and gradient is not None]


def _through_lora_a(
    x: Tensor, d_down: Tensor, lora_a: Tensor, p: float, seed: Tensor | None, d_x: Tensor | None, need_a: bool
) -> Tensor | None:
    """Add (dt A) ∘ M to d_x in place, if given, and return dtᵀ (x ∘ M), if needed; dt and A are already scaled."""
    if seed is None:
        if d_x is not None:
            add_mm_(d_x, d_down, lora_a)
        return mm(d_down.t(), x) if need_a else None
    d_a = torch.zeros_like(lora_a, dtype=accumulation_dtype(x.dtype)) if need_a else None
    for block, masked, bits in _masked_blocks(x, p, seed):
        if d_a is not None:
            d_a += d_down[block].t() @ masked
        if d_x is not None:
            update = torch.mm(d_down[block], lora_a, out=masked)
            d_x[block] += dropout.apply_bits(update, bits, out=update)
    return d_a


# Registration


def _triton_forward(*arguments: Any) -> list[Tensor]:
    from domain_ft_kernels.triton_backend import lora_linear as kernels

    return kernels.forward(*arguments[:-1])  # without `compute`: the public function has converted x and W to it


def _triton_backward(*arguments: Any) -> list[Tensor]:
    from domain_ft_kernels.triton_backend import lora_linear as kernels

    without_compute = (*arguments[:-2], arguments[-1])
    return kernels.backward(*without_compute)


def _fake_backward(*inputs: Any) -> list[Tensor]:
    _, x, _, weights, biases, lora_as, lora_bs, *_, needs = inputs
    needed = zip((x, *weights, *biases, *lora_as, *lora_bs), needs, strict=True)
    return [tensor.new_empty(tensor.shape) for tensor, need in needed if need]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, weights, biases, lora_as, lora_bs, *options, seed, compute = inputs
    ctx.save_for_backward(x, output[-1], seed, *weights, *biases, *lora_as, *lora_bs)
    ctx.options = *options, compute
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)


def _register(
    name: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    down_columns: Callable[[Sequence[int]], int],
) -> Op:
    """The differentiable op `name`; `down_columns` gives the number of columns of its t from the layers' ranks."""
    layers = "Tensor[] weights, Tensor[] biases, Tensor[] lora_as, Tensor[] lora_bs"
    options = "float[] scalings, float dropout_p, Tensor? seed, ScalarType compute"
    backward_op = Op(
        f"{name}_backward",
        f"(Tensor[] grads, Tensor x, Tensor down, {layers}, {options}, bool[] needs) -> Tensor[]",
        backward,
        fake=_fake_backward,
    )

    def fake_forward(*inputs: Any) -> list[Tensor]:
        x, weights, _, lora_as, *_, compute = inputs
        columns = (*map(len, weights), down_columns([len(lora_a) for lora_a in lora_as]))
        return [x.new_empty((x.shape[0], n), dtype=compute) for n in columns]

    def differentiate(ctx: Any, outputs: list[Tensor | None]) -> tuple[Any, ...]:
        need_x, *need_layers = ctx.needs_input_grad[:5]
        if all(grad is None for grad in outputs):
            return (None, *([None] * len(needs) for needs in need_layers), *(None,) * 4)
        x, down, seed, *tensors = ctx.saved_tensors
        scalings, dropout_p, compute = ctx.options
        layers = by_kind(tensors, need_layers)
        grads = [
            x.new_zeros((len(x), len(weight)), dtype=compute) if grad is None else grad
            for grad, weight in zip(outputs[:-1], layers[0], strict=True)
        ]
        needs = [need_x, *itertools.chain(*need_layers)]
        gradients = iter(backward_op(grads, x, down, *layers, scalings, dropout_p, seed, compute, needs))
        d_x = next(gradients) if need_x else None
        return (d_x, *([next(gradients) if need else None for need in kind] for kind in need_layers), *(None,) * 4)

    op = Op(name, f"(Tensor x, {layers}, {options}) -> Tensor[]", forward, fake=fake_forward)
    return op.differentiable(differentiate, _setup_context)


_OPS = {
    "torch": _register("lora_linear", _forward, _backward, sum),
    "triton": _register("lora_linear_triton", _triton_forward, _triton_backward, down_columns),
}


# The public functions


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
    """y = x Wᵀ + b + scaling · drop(x) Aᵀ Bᵀ, differentiable once with respect to every tensor but the seed.

    A linear layer with LoRA (Hu et al. 2021) and its dropout in one op. Except with the backend `reference`, which is
    differentiable any number of times, neither the mask nor drop(x) is kept.

        y = lora_linear(x, linear.weight, linear.bias, lora_a, lora_b, alpha / rank, dropout_p=0.1, seed=step)

    Args:
        x: (..., K), in the type of weight, or any under autocast.
        weight: (N, K); any strides, so GPT-2's Conv1D passes `weight.t()`.
        bias: (N,) or None.
        lora_a: (R, K), any float type; rounded to the type of the product. The gradient has the type of lora_a.
        lora_b: (N, R), likewise.
        scaling: alpha / R, or alpha / √R.
        dropout_p: p in [0, 1), the probability that drop() zeroes an element; the others are divided by 1 - p.
        seed: determines the mask, together with an element's row (leading dimensions flattened) and column. Seeds that
            differ, even by 1, give unrelated masks. Under torch.compile pass an int64 tensor of no dimensions instead
            of an int, whose changes may cause recompilation; preferably on the CPU. None draws a seed from torch's
            default generator.
        backend: `auto`, `reference`, `torch` or `triton`.

    Returns:
        y (..., N), in x's type, or autocast's under autocast.

    Raises:
        ValueError: shapes, types, devices or options do not match.

    In float16, |drop(x) Aᵀ| must be below 65,504, because it is rounded to the type of the product before `scaling` is
    applied, as in PEFT. Where it is larger, y is not finite even if scaling · drop(x) Aᵀ Bᵀ is small. bfloat16 has no
    such limit.
    """
    _check_layer(x, weight, bias, lora_a, lora_b, "weight", "bias", "lora_a", "lora_b")
    return _group(x, [weight], [bias], [lora_a], [lora_b], [scaling], dropout_p, seed, backend)[0]


def lora_linear_group(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scalings: Sequence[float],
    *,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, ...]:
    """`lora_linear` for several layers that read the same x, such as q, k and v of an attention.

    Args:
        x, dropout_p, seed, backend: as in `lora_linear`. All layers share the mask that `lora_linear` would use.
        weights: one or more (N, K), of one type; N may differ.
        biases: for each layer (N,) or None.
        lora_as: for each layer (R, K), of one type; R may differ.
        lora_bs: for each layer (N, R), of one type.
        scalings: for each layer a number.

    Returns:
        The y (..., N) of each layer.

    Raises:
        ValueError: as `lora_linear`, naming the layer: `weights[1]`.
    """
    lists = {"weights": weights, "biases": biases, "lora_as": lora_as, "lora_bs": lora_bs, "scalings": scalings}
    if not weights or len(set(map(len, lists.values()))) > 1:
        lengths = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
        raise ValueError(f"expected one or more layers, with lists of equal length; got {lengths}")
    for index, layer in enumerate(zip(weights, biases, lora_as, lora_bs, strict=True)):
        _check_layer(x, *layer, *(f"{name}[{index}]" for name in ("weights", "biases", "lora_as", "lora_bs")))
    for name, tensors in (("weights", weights), ("lora_as", lora_as), ("lora_bs", lora_bs)):
        if len(dtypes := {tensor.dtype for tensor in tensors}) > 1:
            raise ValueError(f"{name} have the types {', '.join(sorted(map(str, dtypes)))}; expected one")
    return tuple(_group(x, weights, biases, lora_as, lora_bs, scalings, dropout_p, seed, backend))


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor, *names: str) -> None:
    """Raise ValueError if a layer's tensors do not match x or each other; `names` are the caller's names for them."""
    weight_name, bias_name, a_name, b_name = names
    if weight.dim() != 2:
        raise ValueError(f"{weight_name} has shape {tuple(weight.shape)}; expected (N, K)")
    n, k = weight.shape
    if x.dim() < 1 or x.shape[-1] != k:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected (..., {k}), as {weight_name} is (N, K) = {tuple(weight.shape)}"
        )
    if lora_a.dim() != 2 or lora_a.shape[1] != k:
        raise ValueError(f"{a_name} has shape {tuple(lora_a.shape)}; expected (R, K) = (R, {k})")
    check_shape(b_name, lora_b, (n, lora_a.shape[0]), "(N, R)")
    if bias is not None:
        check_shape(bias_name, bias, (n,), "(N,)")
    check_same_device(**{"x": x, weight_name: weight, bias_name: bias, a_name: lora_a, b_name: lora_b})


def _group(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scalings: Sequence[float],
    dropout_p: float,
    seed: int | Tensor | None,
    backend: str,
) -> list[Tensor]:
    """The y of each layer, for checked layers."""
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p={dropout_p}: expected 0 <= dropout_p < 1")
    compute = compute_dtype("x", x, weights[0])
    chosen = resolve_backend(backend, x.device, compute)
    largest = max(weight.numel() for weight in weights)
    if chosen == "triton" and largest >= MOST_ELEMENTS:
        if backend == "triton":
            raise ValueError(
                f"a weight has {largest} elements; the Triton kernels support fewer than 2**31 = {MOST_ELEMENTS}:"
                " pass backend='torch', or 'auto', which chooses it here"
            )
        chosen = "torch"
    backend = chosen
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if backend == "triton":  # outside the op, so that the tensors saved for backward have this type
        rows, weights = rows.to(compute), [weight.to(compute) for weight in weights]
    shifts = [] if all(bias is None for bias in biases) else [
        weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in zip(weights, biases, strict=True)
    ]  # fmt: skip
    mask_seed = dropout.as_seed(seed) if dropout_p else None
    layers = list(weights), shifts, list(lora_as), list(lora_bs)
    arguments = (rows, *layers, list(map(float, scalings)), float(dropout_p), mask_seed, compute)
    ys = reference(*arguments) if backend == "reference" else _OPS[backend](*arguments)[: len(weights)]
    return [y.reshape(*x.shape[:-1], len(weight)) for y, weight in zip(ys, weights, strict=True)]
