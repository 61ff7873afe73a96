"""Triton kernels of `domain_ft_kernels.cross_entropy`, which has the maths.

    _forward     logits -> losses, and each row's maximum m and sum S; reads the logits once
    _backward    logits, m, S -> the gradient, which may overwrite the logits; reads them once

Both read a row in aligned 16-byte vectors, whatever the number of classes. If a row is not a whole number of vectors
(GPT-2's 50,257 classes), most rows begin `shift` elements into a vector. Offsets count from the start of the vector
that a row begins in:

    | . . . x x x x x | x x x x x x x x | ... | x x x x x x x x | x x . . . . . . |
      shift             first                                     last  shift + classes

The whole vectors first..last are loaded and stored 16 bytes at a time, since no mask splits them. The edges, each less
than a vector, are handled element by element. With few classes, a program handles as many rows as fit its tile.

The sum of exponentials is online: each lane keeps its running maximum and the sum of exponentials relative to it, with
one exponential per element. Lanes are combined at the end, in a fixed order, so two runs with the same config are
bit-identical.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from domain_ft_kernels.triton_backend.class_weights import lse_slope, row_loss, row_weight, wide_weights
from domain_ft_kernels.triton_backend.launch import INTERPRETER, Config, launch
from domain_ft_kernels.triton_backend.tiles import tanh

VECTOR_BYTES = 16
WIDEST = 8192
"""Elements of the largest tile. Beyond it, the number of classes does not change how a kernel is compiled."""

LEAST = tl.constexpr(torch.finfo(torch.float32).min)
"""Lower bound of a maximum, so that it can be subtracted: -inf - (-inf) would be NaN."""


@triton.jit
def _vectors(start, real, classes, LANES: tl.constexpr):
    """How rows that begin at the elements `start` (rows,) divide into vectors of LANES elements.

    Returns the element that offsets count from, and the offsets shift, first and last. Rows that are not `real` have no
    whole vectors.
    """
    shift = (start % LANES).to(tl.int32)
    first = tl.multiple_of(tl.where(shift == 0, 0, LANES), LANES)
    last = tl.multiple_of(tl.where(real, (shift + classes) // LANES * LANES, 0), LANES)
    return tl.multiple_of(start - shift, LANES), shift, first, last


@triton.jit
def _edges(shift, first, last, real, classes, LANES: tl.constexpr):
    """The offsets of the elements outside whole vectors, (rows, 2 LANES), and a mask of those that exist."""
    lane = tl.arange(0, 2 * LANES)[None, :]
    first, last = first[:, None], last[:, None]
    offset = tl.where(lane < LANES, lane, tl.maximum(first, last) + lane - LANES)
    inside = (offset >= shift[:, None]) & (offset < shift[:, None] + classes)
    return offset, inside & ((lane >= LANES) | (offset < first)) & real[:, None]


@triton.jit
def _capped(u, softcap):
    """z from logits u, in float32."""
    z = u.to(tl.float32)
    if softcap is not None:
        z = softcap * tanh(z / softcap)
    return z


@triton.jit
def _weighted(values, class_weight_ptr, column, inside):
    """The values times their columns' class weights, if any. class_weight_ptr: (classes,), float32, or None."""
    if class_weight_ptr is not None:
        values = values * tl.load(class_weight_ptr + column, mask=inside, other=0.0)
    return values


@triton.jit(do_not_specialize=["n"])
def _forward(
    logits_ptr,
    target_ptr,
    class_weight_ptr,
    losses_ptr,
    row_max_ptr,
    sum_exp_ptr,
    n,
    classes,
    stride,
    mean_weight_ptr,
    ignore_index,
    label_smoothing,
    z_loss,
    softcap,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """The losses, m and S of the rows of a block; 0 where the target is ignored.

    WIDTH is the power of two that holds a row, at most WIDEST. Unused options are None.

    Pointers:
        logits_ptr: (n, classes), rows `stride` elements apart.
        target_ptr: (n,), int64.
        class_weight_ptr: (classes,), float32, or None.
        losses_ptr, row_max_ptr, sum_exp_ptr: (n,), float32, written: each row's loss, m and S.
        mean_weight_ptr: (1,), float32, the mean of the class weights, or None.
    """
    BLOCK: tl.constexpr = min(TILE, WIDTH)
    ROWS: tl.constexpr = TILE // BLOCK
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    label = tl.load(target_ptr + row, mask=row < n, other=ignore_index)
    real = label != ignore_index
    start, shift, first, last = _vectors(row * stride, real, classes, LANES)

    lane_max = tl.full([ROWS, BLOCK], LEAST, tl.float32)
    lane_sum = tl.zeros([ROWS, BLOCK], tl.float32)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, tl.max(last, 0), BLOCK):
        offset = begin + tl.arange(0, BLOCK)[None, :]
        inside = (offset >= first[:, None]) & (offset < last[:, None])
        z = _capped(tl.load(logits_ptr + start[:, None] + offset, mask=inside, other=0.0), softcap)
        if label_smoothing is not None:
            total += tl.where(inside, _weighted(z, class_weight_ptr, offset - shift[:, None], inside), 0.0)
        z = tl.where(inside, z, float("-inf"))
        above = z - lane_max
        smaller = tl.exp(-tl.abs(above))  # of the smaller of z and lane_max; the larger one's exponential is 1
        lane_sum = tl.where(above > 0, lane_sum * smaller + 1, lane_sum + smaller)
        lane_max = tl.maximum(lane_max, z)

    offset, inside = _edges(shift, first, last, real, classes, LANES)
    z = _capped(tl.load(logits_ptr + start[:, None] + offset, mask=inside, other=0.0), softcap)
    row_total = tl.sum(total, 1)
    if label_smoothing is not None:
        row_total += tl.sum(tl.where(inside, _weighted(z, class_weight_ptr, offset - shift[:, None], inside), 0.0), 1)
    z = tl.where(inside, z, float("-inf"))
    row_max = tl.maximum(tl.max(lane_max, 1), tl.max(z, 1))
    sum_exp = tl.sum(lane_sum * tl.exp(lane_max - row_max[:, None]), 1) + tl.sum(tl.exp(z - row_max[:, None]), 1)

    row_max, sum_exp = tl.where(real, row_max, 0.0), tl.where(real, sum_exp, 1.0)  # finite in ignored rows
    known = real & (label >= 0) & (label < classes)
    picked = _capped(tl.load(logits_ptr + row * stride + label, mask=known, other=0.0), softcap)
    log_sum = tl.log(sum_exp)
    loss = row_loss(
        log_sum, row_max, picked, row_total, label, known, class_weight_ptr, mean_weight_ptr, classes, label_smoothing
    )
    if z_loss is not None:
        loss += z_loss * (row_max + log_sum) * (row_max + log_sum)
    tl.store(losses_ptr + row, tl.where(real, tl.where(known, loss, float("nan")), 0.0), mask=row < n)
    tl.store(row_max_ptr + row, row_max, mask=row < n)
    tl.store(sum_exp_ptr + row, tl.where(real, sum_exp, 0.0), mask=row < n)


@triton.jit
def _gradient(u, column, read, label, row_max, factor, at_target, share, class_weight_ptr, softcap):
    """The gradient with respect to the logits u, a tile (rows, columns).

    read (rows, columns) marks the logits that were read; factor (rows,) multiplies the exponentials; at_target (rows,)
    is subtracted in the target's column; share (rows,), unless None, in every column, times the class weight.
    class_weight_ptr: (classes,), float32, or None.
    """
    z = _capped(u, softcap)
    g = tl.exp(z - row_max[:, None]) * factor[:, None]
    g -= tl.where(column == label[:, None], at_target[:, None], 0.0)
    if share is not None:
        g -= _weighted(share[:, None], class_weight_ptr, column, read)
    if softcap is not None:
        g *= 1 - (z / softcap) * (z / softcap)
    return g


@triton.jit(do_not_specialize=["n"])
def _backward(
    logits_ptr,
    gradient_ptr,
    target_ptr,
    class_weight_ptr,
    grad_ptr,
    lse_grad_ptr,
    row_max_ptr,
    sum_exp_ptr,
    n,
    classes,
    stride,
    mean_weight_ptr,
    grad_stride,
    lse_grad_stride,
    ignore_index,
    label_smoothing,
    z_loss,
    softcap,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the gradient with respect to the logits of a block's rows; 0 where the target is ignored.

    Pointers:
        logits_ptr: (n, classes), rows `stride` elements apart.
        gradient_ptr: likewise, written; it may be the logits' memory.
        target_ptr: (n,), int64.
        class_weight_ptr: (classes,), float32, or None.
        grad_ptr: (n,), the gradient with respect to each row's loss, elements grad_stride apart.
        lse_grad_ptr: (n,), likewise with respect to its log-sum-exp, elements lse_grad_stride apart; or None.
        row_max_ptr, sum_exp_ptr: (n,), float32, what `_forward` wrote.
        mean_weight_ptr: (1,), float32, the mean of the class weights, or None.
    """
    BLOCK: tl.constexpr = min(TILE, WIDTH)
    ROWS: tl.constexpr = TILE // BLOCK
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    label = tl.load(target_ptr + row, mask=row < n, other=ignore_index)
    real = label != ignore_index
    scale = tl.load(grad_ptr + row * grad_stride, mask=real, other=0.0).to(tl.float32)
    row_max = tl.load(row_max_ptr + row, mask=real, other=0.0)
    sum_exp = tl.load(sum_exp_ptr + row, mask=real, other=1.0)
    weight = row_weight(label, real & (label >= 0) & (label < classes), class_weight_ptr)
    factor = scale * lse_slope(weight, mean_weight_ptr, label_smoothing)
    if z_loss is not None:
        factor += scale * 2 * z_loss * (row_max + tl.log(sum_exp))
    if lse_grad_ptr is not None:
        factor += tl.load(lse_grad_ptr + row * lse_grad_stride, mask=real, other=0.0).to(tl.float32)
    factor /= sum_exp
    at_target = scale * weight
    share = None
    if label_smoothing is not None:
        at_target *= 1 - label_smoothing
        share = scale * (label_smoothing / classes)
    start, shift, first, last = _vectors(row * stride, row < n, classes, LANES)

    for begin in range(0, tl.max(last, 0), BLOCK):
        offset = begin + tl.arange(0, BLOCK)[None, :]
        inside = (offset >= first[:, None]) & (offset < last[:, None])
        read = inside & real[:, None]
        u = tl.load(logits_ptr + start[:, None] + offset, mask=read, other=0.0)
        g = _gradient(
            u, offset - shift[:, None], read, label, row_max, factor, at_target, share, class_weight_ptr, softcap
        )
        g = tl.where(real[:, None], g, 0.0).to(gradient_ptr.dtype.element_ty)
        tl.store(gradient_ptr + start[:, None] + offset, g, mask=inside)

    offset, inside = _edges(shift, first, last, row < n, classes, LANES)
    read = inside & real[:, None]
    u = tl.load(logits_ptr + start[:, None] + offset, mask=read, other=0.0)
    g = _gradient(u, offset - shift[:, None], read, label, row_max, factor, at_target, share, class_weight_ptr, softcap)
    g = tl.where(real[:, None], g, 0.0).to(gradient_ptr.dtype.element_ty)
    tl.store(gradient_ptr + start[:, None] + offset, g, mask=inside)


# The launches

CHIPS = ("sm_80", "sm_90", "sm_100", "gfx942")

CONFIGS = (
    Config({"TILE": 4096}, num_warps=8, targets=CHIPS, itemsizes=(2,)),
    Config({"TILE": 8192}, num_warps=16, targets=CHIPS[1:], itemsizes=(2,)),
    Config({"TILE": 2048}, num_warps=4, targets=CHIPS),
    Config({"TILE": 2048}, num_warps=8, targets=CHIPS, itemsizes=(4,)),
    Config({"TILE": 4096}, num_warps=16, targets=CHIPS, itemsizes=(4,)),
    Config({"TILE": 1024}, targets=(INTERPRETER,)),
)
"""Each thread has one to four vectors: enough loads in flight to hide memory latency, with registers to spare."""

WEIGHTED_CONFIGS = (replace(CONFIGS[0], targets=CHIPS[1:]), *CONFIGS[1:])
"""With class weights: on sm_80 the first of CONFIGS would spill registers."""


def forward(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, m and S of logits (n, V): (n,) each, float32, 0 where ignored."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    losses, row_maxes, sum_exps = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(3))
    outputs = losses, row_maxes, sum_exps
    weights, mean_weight = wide_weights(class_weight)
    tensors = logits, target.contiguous(), weights, *outputs
    _launch(_forward, logits, tensors, (ignore_index, label_smoothing, z_loss, softcap), mean_weight)
    return outputs


def fill_gradient(
    gradient: Tensor,
    grad: Tensor,
    lse_grad: Tensor | None,
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    row_maxes: Tensor,
    sum_exps: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> None:
    """Write the gradient with respect to the logits (n, V) into `gradient`, which may be the logits themselves.

    grad and lse_grad (n,) are the gradients with respect to the losses and the log-sum-exps. The rows of `gradient` are
    contiguous; its row stride is that of the logits if their rows are contiguous and disjoint.
    """
    if logits.stride() != gradient.stride():
        logits = torch.empty_strided(logits.shape, gradient.stride(), dtype=logits.dtype, device=logits.device).copy_(
            logits
        )
    weights, mean_weight = wide_weights(class_weight)
    tensors = logits, gradient, target.contiguous(), weights, grad, lse_grad, row_maxes, sum_exps
    options = ignore_index, label_smoothing, z_loss, softcap
    strides = grad.stride(0), 0 if lse_grad is None else lse_grad.stride(0)
    _launch(_backward, logits, tensors, options, mean_weight, *strides, repeatable=gradient is not logits)


def _launch(
    kernel: object,
    logits: Tensor,
    tensors: tuple[Tensor | None, ...],
    options: tuple[int, float, float, float | None],
    mean_weight: Tensor | None,
    *strides: int,
    repeatable: bool = True,
) -> None:
    """Launch either kernel over the rows of the logits."""
    n, classes = logits.shape
    ignore_index, label_smoothing, z_loss, softcap = options
    lanes = VECTOR_BYTES // logits.element_size()
    width = min(WIDEST, max(lanes, triton.next_power_of_2(classes)))
    launch(
        kernel,
        lambda blocks: (triton.cdiv(n, blocks["TILE"] // min(blocks["TILE"], width)),),
        *tensors,
        n,
        classes,
        logits.stride(0),
        mean_weight,
        *strides,
        ignore_index,
        label_smoothing or None,
        z_loss or None,
        softcap,
        configs=CONFIGS if mean_weight is None else WEIGHTED_CONFIGS,
        device=logits.device,
        dtype=logits.dtype,
        shape=(classes, 0 if mean_weight is None else classes),
        repeatable=repeatable,
        LANES=lanes,
        WIDTH=width,
    )
