"""Cross-entropy of logits on a GPU: `domain_ft_kernels.cross_entropy`, which has the maths, in Triton.

    _forward     logits -> losses, and each row's maximum m and sum S, in one pass over the logits
    _backward    logits, m, S -> the gradient, in a second pass; it may be written over the logits

Both walk a row as 16-byte vectors, whatever the number of classes. Where that is odd (GPT-2's 50,257), rows begin in
the midst of a vector: `shift` elements into it. So a row is walked from the vector that it begins in, and offsets count
from there:

    | . . . x x x x x | x x x x x x x x | ... | x x x x x x x x | x x . . . . . . |
      shift             first                                     last  shift + classes

The whole vectors first..last are loaded and stored 16 bytes at a time, since the masks of their loop never part a
vector. The edges, at most two vectors less an element each, go element by element. Of few classes, a program takes as
many rows as its tile has room for.

The sum of exponentials is online: each lane keeps the maximum of what it has seen and the sum of exponentials below it,
so that one exponential an element does. Lanes are joined at the end; two runs are equal to the last bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from domain_ft_kernels.triton_backend.class_weights import lse_slope, row_loss, row_weight, wide_weights
from domain_ft_kernels.triton_backend.launch import INTERPRETER, Config, launch
from domain_ft_kernels.triton_backend.tiles import tanh

VECTOR_BYTES = 16
WIDEST = 8192
"""No tile has more elements: classes beyond it do not matter to how a kernel is compiled."""

LEAST = tl.constexpr(torch.finfo(torch.float32).min)
"""What a maximum is at least: a row of nothing but -inf must not give NaN by subtracting it."""


@triton.jit
def _vectors(start, real, classes, LANES: tl.constexpr):
    """Where rows that begin at the elements `start` (rows,) lie in vectors of LANES elements.

    Returns the element that offsets count from, and the offsets shift, first and last; no row that is not `real` has a
    whole vector.
    """
    shift = (start % LANES).to(tl.int32)
    first = tl.multiple_of(tl.where(shift == 0, 0, LANES), LANES)
    last = tl.multiple_of(tl.where(real, (shift + classes) // LANES * LANES, 0), LANES)
    return tl.multiple_of(start - shift, LANES), shift, first, last


@triton.jit
def _edges(shift, first, last, real, classes, LANES: tl.constexpr):
    """The offsets of the elements outside of whole vectors: (rows, 2 LANES), and which of them there are."""
    lane = tl.arange(0, 2 * LANES)[None, :]
    first, last = first[:, None], last[:, None]
    offset = tl.where(lane < LANES, lane, tl.maximum(first, last) + lane - LANES)
    inside = (offset >= shift[:, None]) & (offset < shift[:, None] + classes)
    return offset, inside & ((lane >= LANES) | (offset < first)) & real[:, None]


@triton.jit
def _capped(u, softcap):
    """z of logits u, in float32."""
    z = u.to(tl.float32)
    if softcap is not None:
        z = softcap * tanh(z / softcap)
    return z


@triton.jit
def _weighted(values, weights, column, inside):
    """The values times the weights of their columns, where there are weights."""
    if weights is not None:
        values = values * tl.load(weights + column, mask=inside, other=0.0)
    return values


@triton.jit(do_not_specialize=["n"])
def _forward(
    logits,
    target,
    weights,
    losses,
    peaks,
    masses,
    n,
    classes,
    stride,
    mean_weight,
    ignore_index,
    label_smoothing,
    z_loss,
    softcap,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Losses, m and S (n,) of logits (n, classes) with rows `stride` apart; 0 where target (n,) is ignored.

    weights (classes,) are class weights, mean_weight (1,) their mean. They, label_smoothing, z_loss and softcap are
    None where they are not asked for. WIDTH: the power of two that a row fits.
    """
    BLOCK: tl.constexpr = min(TILE, WIDTH)
    ROWS: tl.constexpr = TILE // BLOCK
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    label = tl.load(target + row, mask=row < n, other=ignore_index)
    real = label != ignore_index
    start, shift, first, last = _vectors(row * stride, real, classes, LANES)

    peak = tl.full([ROWS, BLOCK], LEAST, tl.float32)
    mass = tl.zeros([ROWS, BLOCK], tl.float32)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, tl.max(last, 0), BLOCK):
        offset = begin + tl.arange(0, BLOCK)[None, :]
        inside = (offset >= first[:, None]) & (offset < last[:, None])
        z = _capped(tl.load(logits + start[:, None] + offset, mask=inside, other=0.0), softcap)
        if label_smoothing is not None:
            total += tl.where(inside, _weighted(z, weights, offset - shift[:, None], inside), 0.0)
        z = tl.where(inside, z, float("-inf"))
        above = z - peak
        smaller = tl.exp(-tl.abs(above))  # of z and the peak; the other's exponential is 1
        mass = tl.where(above > 0, mass * smaller + 1, mass + smaller)
        peak = tl.maximum(peak, z)

    offset, inside = _edges(shift, first, last, real, classes, LANES)
    z = _capped(tl.load(logits + start[:, None] + offset, mask=inside, other=0.0), softcap)
    row_total = tl.sum(total, 1)
    if label_smoothing is not None:
        row_total += tl.sum(tl.where(inside, _weighted(z, weights, offset - shift[:, None], inside), 0.0), 1)
    z = tl.where(inside, z, float("-inf"))
    row_peak = tl.maximum(tl.max(peak, 1), tl.max(z, 1))
    row_mass = tl.sum(mass * tl.exp(peak - row_peak[:, None]), 1) + tl.sum(tl.exp(z - row_peak[:, None]), 1)

    row_peak, row_mass = tl.where(real, row_peak, 0.0), tl.where(real, row_mass, 1.0)  # what is not read is finite
    known = real & (label >= 0) & (label < classes)
    picked = _capped(tl.load(logits + row * stride + label, mask=known, other=0.0), softcap)
    log_mass = tl.log(row_mass)
    loss = row_loss(log_mass, row_peak, picked, row_total, label, known, weights, mean_weight, classes, label_smoothing)
    if z_loss is not None:
        loss += z_loss * (row_peak + log_mass) * (row_peak + log_mass)
    tl.store(losses + row, tl.where(real, tl.where(known, loss, float("nan")), 0.0), mask=row < n)
    tl.store(peaks + row, row_peak, mask=row < n)
    tl.store(masses + row, tl.where(real, row_mass, 0.0), mask=row < n)


@triton.jit
def _gradient(u, column, inside, label, peak, factor, own, share, weights, softcap):
    """scale · ∂loss/∂u for logits u (rows, columns), by row: factor is what exponentials are multiplied by, own what is
    taken off at the target, share (or None) what is taken off everywhere, times the class's weight."""
    z = _capped(u, softcap)
    g = tl.exp(z - peak[:, None]) * factor[:, None]
    g -= tl.where(column == label[:, None], own[:, None], 0.0)
    if share is not None:
        g -= _weighted(share[:, None], weights, column, inside)
    if softcap is not None:
        g *= 1 - (z / softcap) * (z / softcap)
    return g


@triton.jit(do_not_specialize=["n"])
def _backward(
    logits,
    gradient,
    target,
    weights,
    grad,
    lse_grad,
    peaks,
    masses,
    n,
    classes,
    stride,
    mean_weight,
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
    """The gradient (n, classes) in the logits, with their stride, or over them; 0 where target is ignored.

    grad (n,): the gradient of each row's loss, its elements grad_stride apart; lse_grad likewise of each row's
    log-sum-exp, or None.
    """
    BLOCK: tl.constexpr = min(TILE, WIDTH)
    ROWS: tl.constexpr = TILE // BLOCK
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    label = tl.load(target + row, mask=row < n, other=ignore_index)
    real = label != ignore_index
    scale = tl.load(grad + row * grad_stride, mask=real, other=0.0).to(tl.float32)
    peak = tl.load(peaks + row, mask=real, other=0.0)
    mass = tl.load(masses + row, mask=real, other=1.0)
    weight = row_weight(label, real & (label >= 0) & (label < classes), weights)
    factor = scale * lse_slope(weight, mean_weight, label_smoothing)
    if z_loss is not None:
        factor += scale * 2 * z_loss * (peak + tl.log(mass))
    if lse_grad is not None:
        factor += tl.load(lse_grad + row * lse_grad_stride, mask=real, other=0.0).to(tl.float32)
    factor /= mass
    own = scale * weight
    share = None
    if label_smoothing is not None:
        own *= 1 - label_smoothing
        share = scale * (label_smoothing / classes)
    start, shift, first, last = _vectors(row * stride, row < n, classes, LANES)

    for begin in range(0, tl.max(last, 0), BLOCK):
        offset = begin + tl.arange(0, BLOCK)[None, :]
        inside = (offset >= first[:, None]) & (offset < last[:, None])
        u = tl.load(logits + start[:, None] + offset, mask=inside & real[:, None], other=0.0)
        g = _gradient(u, offset - shift[:, None], inside, label, peak, factor, own, share, weights, softcap)
        g = tl.where(real[:, None], g, 0.0).to(gradient.dtype.element_ty)
        tl.store(gradient + start[:, None] + offset, g, mask=inside)

    offset, inside = _edges(shift, first, last, row < n, classes, LANES)
    u = tl.load(logits + start[:, None] + offset, mask=inside & real[:, None], other=0.0)
    g = _gradient(u, offset - shift[:, None], inside, label, peak, factor, own, share, weights, softcap)
    g = tl.where(real[:, None], g, 0.0).to(gradient.dtype.element_ty)
    tl.store(gradient + start[:, None] + offset, g, mask=inside)


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
"""Each thread has one to four vectors: enough loads under way to hide memory's latency, with registers to spare."""


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
    losses, peaks, masses = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(3))
    outputs = losses, peaks, masses
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
    peaks: Tensor,
    masses: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> None:
    """Write the gradient in the logits (n, V) into `gradient`, which they may be.

    grad and lse_grad (n,) are the gradients of the losses and of the log-sum-exps.
    Its rows are contiguous, and its stride is the logits' own where theirs are and none overlap.
    """
    if logits.stride() != gradient.stride():
        logits = torch.empty_strided(logits.shape, gradient.stride(), dtype=logits.dtype, device=logits.device).copy_(
            logits
        )
    weights, mean_weight = wide_weights(class_weight)
    tensors = logits, gradient, target.contiguous(), weights, grad, lse_grad, peaks, masses
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
        configs=CONFIGS,
        device=logits.device,
        dtype=logits.dtype,
        shape=(classes,),
        repeatable=repeatable,
        LANES=lanes,
        WIDTH=width,
    )
