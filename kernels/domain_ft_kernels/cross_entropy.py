"""Cross-entropy from logits, for heads that have them; its parts also serve `linear_cross_entropy`, which has none.

The maths, for one row of logits u (V,) with target t, smoothing ε, z-loss ζ and softcap c:

    z = c tanh(u / c)                                  (z = u without a softcap)
    m = max_j z_j,  S = Σ_j exp(z_j - m),  L = m + log S
    loss = log S - (1 - ε) (z_t - m) - ε (mean(z) - m) + ζ L²
    ∂loss/∂u_j = [(1 + 2ζL) exp(z_j - m) / S - (1 - ε) 1{j = t} - ε/V] · (1 - (z_j / c)²)

Label smoothing is F.cross_entropy's; the z-loss is that of PaLM (Chowdhery et al. 2022), the softcap Gemma 2's.
Losses and log-sum-exps are float32 whatever the logits' type (float64 for float64). Rows whose target is `ignore_index`
are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from domain_ft_kernels.backends import (
    FLOATS,
    accumulation_dtype,
    check_same_device,
    check_shape,
    in_given_types,
    resolve_backend,
)
from domain_ft_kernels.registration import Op, has_values

BLOCK_BYTES = 4 * 2**20
"""How much of the logits the torch backend widens at a time: about what a core's caches hold."""

REDUCTIONS = ("sum", "mean", "none")


class Terms(NamedTuple):
    """What is added to the plain negative log-likelihood."""

    label_smoothing: float
    z_loss: float
    softcap: float | None


# The reference


def reference_losses(
    logits: Tensor, target: Tensor, ignore_index: int, terms: Terms, class_weight: Tensor | None = None
) -> Tensor:
    """The definition: a loss for each row of logits (n, V), 0 where target (n,) is ignored. Autograd differentiates."""
    z = logits.to(accumulation_dtype(logits.dtype))
    if terms.softcap is not None:
        z = terms.softcap * torch.tanh(z / terms.softcap)
    labelled = target != ignore_index
    inside = (target >= 0) & (target < z.shape[1])
    weighed = log_probabilities = z.log_softmax(1)
    if class_weight is not None:
        weighed = log_probabilities * class_weight.to(z.dtype)
    picked = weighed.gather(1, target.where(inside, 0).unsqueeze(1)).squeeze(1)
    losses = (terms.label_smoothing - 1) * picked
    if terms.label_smoothing:
        losses = losses - terms.label_smoothing * weighed.mean(1)
    if terms.z_loss:
        losses = losses + terms.z_loss * z.logsumexp(1) ** 2
    return losses.where(inside, float("nan")).where(labelled, 0.0)


def reference_lse(logits: Tensor, target: Tensor, ignore_index: int, softcap: float | None) -> Tensor:
    """The log-sum-exp of each row of capped logits (n, V), 0 where target (n,) is ignored."""
    z = logits.detach().to(accumulation_dtype(logits.dtype))
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return z.logsumexp(1).where(target != ignore_index, 0.0)


# The torch backend. Its parts work on tiles: columns first..first+width of the logits of some rows, already widened.


def labelled_rows(target: Tensor, ignore_index: int) -> Tensor:
    """The indices of the rows that have a target, (m,). On a GPU this waits for the device."""
    return (target != ignore_index).nonzero().squeeze(1)


def cap_(tile: Tensor, softcap: float | None) -> Tensor:
    """u -> c tanh(u / c), in place."""
    return tile if softcap is None else tile.div_(softcap).tanh_().mul_(softcap)


def finite(peak: Tensor) -> Tensor:
    """A row's largest logit, as a number to subtract: a row of nothing but -inf must not give NaN."""
    return peak.clamp_(min=torch.finfo(peak.dtype).min)


def pick(tile: Tensor, target: Tensor, first: int) -> Tensor:
    """z_t for the rows whose target lies in this tile, else 0."""
    column, inside = _column(target, first, tile.shape[1])
    return tile.gather(1, column.unsqueeze(1)).squeeze(1).where(inside, 0.0)


def losses_from_sums(
    peak: Tensor, mass: Tensor, picked: Tensor, total: Tensor | None, target: Tensor, classes: int, terms: Terms
) -> Tensor:
    """The loss of each row from its m, S, z_t and Σz. A target that is no class gives NaN: it was never read."""
    log_mass = mass.log()
    losses = log_mass - (1 - terms.label_smoothing) * (picked - peak)
    if total is not None:
        losses = losses - terms.label_smoothing * (total / classes - peak)
    if terms.z_loss:
        losses = losses + terms.z_loss * (peak + log_mass) ** 2
    return losses.where((target >= 0) & (target < classes), float("nan"))


def gradient_(
    tile: Tensor,
    peak: Tensor,
    mass: Tensor,
    target: Tensor,
    scale: Tensor,
    first: int,
    classes: int,
    terms: Terms,
) -> Tensor:
    """Turn a tile of capped logits into scale · ∂loss/∂u, in place.

    peak and mass (rows,) are m and S, scale (rows,) the gradient of each row's loss.
    """
    slope = None if terms.softcap is None else (tile * tile).mul_(-1 / terms.softcap**2).add_(1)
    factor = scale / mass
    if terms.z_loss:
        factor = factor * (1 + 2 * terms.z_loss * (peak + mass.log()))
    tile.sub_(peak.unsqueeze(1)).exp_().mul_(factor.unsqueeze(1))
    column, inside = _column(target, first, tile.shape[1])
    hit = (scale * (terms.label_smoothing - 1)).where(inside, 0.0)
    tile.scatter_add_(1, column.unsqueeze(1), hit.unsqueeze(1))  # one column a row: no two writes meet
    if terms.label_smoothing:
        tile.sub_((scale * (terms.label_smoothing / classes)).unsqueeze(1))
    if slope is not None:
        tile.mul_(slope)
    return tile


def _column(target: Tensor, first: int, width: int) -> tuple[Tensor, Tensor]:
    """Each target's column within the tile, clamped so that nothing outside is read, and whether it lies there."""
    column = target - first
    return column.clamp(0, width - 1), (column >= 0) & (column < width)


def _blocks(rows: Tensor, logits: Tensor) -> Iterator[Tensor]:
    """The indices `rows`, as many at a time as a block holds."""
    row_bytes = logits.shape[1] * accumulation_dtype(logits.dtype).itemsize
    return iter(rows.split(max(1, BLOCK_BYTES // row_bytes)))


@in_given_types
def _forward(
    logits: Tensor, target: Tensor, ignore_index: int, label_smoothing: float, z_loss: float, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, m and S of logits (n, V): (n,) each, 0 where ignored."""
    terms = Terms(label_smoothing, z_loss, softcap)
    classes, wide = logits.shape[1], accumulation_dtype(logits.dtype)
    check_targets(target, classes, ignore_index)
    losses = torch.zeros(len(target), dtype=wide, device=logits.device)
    peaks, masses = torch.zeros_like(losses), torch.zeros_like(losses)
    for rows in _blocks(labelled_rows(target, ignore_index), logits):
        z = cap_(logits.index_select(0, rows).to(wide), softcap)
        t = target[rows]
        picked, total = pick(z, t, 0), z.sum(1) if label_smoothing else None
        peaks[rows] = peak = finite(z.amax(1))
        masses[rows] = mass = z.sub_(peak.unsqueeze(1)).exp_().sum(1)
        losses[rows] = losses_from_sums(peak, mass, picked, total, t, classes, terms)
    return losses, peaks, masses


@in_given_types
def _fill_gradient(
    gradient: Tensor,
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    peaks: Tensor,
    masses: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> None:
    """Write the gradient in the logits (n, V) of losses with gradients `grad` (n,) to `gradient`, which they may be."""
    terms = Terms(label_smoothing, z_loss, softcap)
    gradient.index_fill_(0, (target == ignore_index).nonzero().squeeze(1), 0)
    for rows in _blocks(labelled_rows(target, ignore_index), logits):
        z = cap_(logits.index_select(0, rows).to(masses.dtype), softcap)
        gradient_(z, peaks[rows], masses[rows], target[rows], grad[rows], 0, z.shape[1], terms)
        gradient.index_copy_(0, rows, z.to(logits.dtype))


# The Triton backend, imported where it runs


def _triton_forward(logits: Tensor, target: Tensor, ignore_index: int, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    from domain_ft_kernels.triton_backend import cross_entropy as kernels

    check_targets(target, logits.shape[1], ignore_index)
    return kernels.forward(logits, target, ignore_index, *options)


def _triton_fill_gradient(*arguments: Any) -> None:
    from domain_ft_kernels.triton_backend import cross_entropy as kernels

    kernels.fill_gradient(*arguments)


# The registration


def _fake_forward(*inputs: Any) -> tuple[Tensor, ...]:
    logits, target, *_ = inputs
    return tuple(logits.new_empty(target.shape, dtype=accumulation_dtype(logits.dtype)) for _ in range(3))


def _apart(logits: Tensor) -> bool:
    """Whether the rows (n, V) are contiguous and none overlaps another, as rows of an expanded tensor do."""
    return logits.stride(1) == 1 and logits.stride(0) >= logits.shape[1]


def _empty_gradient(_grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
    """A tensor for the gradient, rows as far apart as in the logits where they allow it."""
    return logits.new_empty_strided(logits.shape, (logits.stride(0) if _apart(logits) else logits.shape[1], 1))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, *ctx.options, inplace = inputs
    ctx.inplace = inplace and _apart(logits)
    ctx.save_for_backward(logits, target, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _register(name: str, forward: Callable[..., Any], fill_gradient: Callable[..., None]) -> Op:
    """The differentiable op `name`, which runs `forward` and, backward, `fill_gradient`."""
    options = "int ignore_index, float label_smoothing, float z_loss, float? softcap"
    saved = "Tensor target, Tensor peaks, Tensor masses"

    def backward(*inputs: Any) -> Tensor:
        gradient = _empty_gradient(*inputs)
        fill_gradient(gradient, *inputs)
        return gradient

    def backward_inplace(grad: Tensor, logits: Tensor, *inputs: Any) -> None:
        fill_gradient(logits, grad, logits, *inputs)

    def differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        logits, *saved = ctx.saved_tensors
        if not ctx.inplace:
            return backward_op(grad, logits, *saved, *ctx.options), *(None,) * 6
        inplace_op(grad, logits, *saved, *ctx.options)
        return logits.detach(), *(None,) * 6

    backward_op = Op(
        f"{name}_backward",
        f"(Tensor grad, Tensor logits, {saved}, {options}) -> Tensor",
        backward,
        fake=_empty_gradient,
    )
    inplace_op = Op(
        f"{name}_backward_",
        f"(Tensor grad, Tensor(a!) logits, {saved}, {options}) -> ()",
        backward_inplace,
        fake=lambda *_: None,
        mutates=["logits"],
    )
    op = Op(
        name,
        f"(Tensor logits, Tensor target, {options}, bool inplace=False) -> (Tensor, Tensor, Tensor)",
        lambda *inputs: forward(*inputs[:6]),  # `inplace` is for backward alone
        fake=_fake_forward,
    )
    return op.differentiable(differentiate, _setup_context)


_OPS = {
    "torch": _register("cross_entropy", _forward, _fill_gradient),
    "triton": _register("cross_entropy_triton", _triton_forward, _triton_fill_gradient),
}


# The public function


@overload
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    reduction: str = ...,
    return_lse: Literal[False] = ...,
    inplace: bool = ...,
    backend: str = ...,
) -> Tensor: ...


@overload
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    reduction: str = ...,
    return_lse: Literal[True],
    inplace: bool = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "sum",
    return_lse: bool = False,
    inplace: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy of logits (..., V) against the classes target (...), in float32 (float64 for float64 logits).

    Args:
        logits: (..., V), any float type; not written to, unless by `inplace`.
        target: (...), integers in [0, V), or `ignore_index` where there is nothing to predict.
        weight: (V,), a weight for each class, as in F.cross_entropy: `mean` divides by the sum of the targets' weights.
            It does not weigh the z-loss. With label_smoothing or z_loss it needs backend='reference'.
        label_smoothing: ε in [0, 1], as in F.cross_entropy.
        z_loss: ζ >= 0 adds ζ · logsumexp² to each row's loss.
        softcap: c > 0 replaces each logit u by c · tanh(u / c); None or 0 leaves the logits alone.
        reduction: `sum`; `mean` over the rows that have a target (NaN where none has, as in F.cross_entropy); `none`,
            a loss for each position of target, 0 where ignored.
        return_lse: return (loss, lse): lse is the log-sum-exp of the capped logits at each position, in the loss's
            type, 0 where ignored. It has no gradient.
        inplace: the logits' memory may become the gradient's in backward: they are lost, and a tensor of their size is
            saved. Autograd raises where something else needs them after that, or backward runs twice.
        backend: `auto`, `reference`, `torch` or `triton`.

    Raises:
        ValueError: shapes, types, devices or options that do not fit. A target outside [0, V) raises on a CPU; on other
            devices, and in a compiled reference, it gives a NaN loss, rather than wait for the device.
    """
    if logits.dim() < 1 or logits.dtype not in FLOATS:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and dtype {logits.dtype}; wanted (..., V) and a float type"
        )
    check_loss_arguments(target, logits.shape[:-1], logits.shape[-1], label_smoothing, z_loss, softcap, reduction)
    check_same_device(logits=logits, target=target, weight=weight)
    softcap = softcap or None
    rows, classes = logits.reshape(target.numel(), logits.shape[-1]), target.reshape(-1).long()
    backend = resolve_backend(backend, logits.device, logits.dtype)
    check_class_weight("weight", weight, logits.shape[-1], label_smoothing, z_loss, backend)
    lse = None
    if backend == "reference":
        check_targets(classes, logits.shape[-1], ignore_index)
        losses = reference_losses(rows, classes, ignore_index, Terms(label_smoothing, z_loss, softcap), weight)
        if return_lse:
            lse = reference_lse(rows, classes, ignore_index, softcap)
    else:
        losses, peaks, masses = _OPS[backend](rows, classes, ignore_index, label_smoothing, z_loss, softcap, inplace)
        if weight is not None:
            losses = losses * target_weights(weight, classes, ignore_index, losses.dtype)
        if return_lse:
            lse = (peaks + masses.log()).where(classes != ignore_index, 0.0)
    loss = reduced(losses, classes, ignore_index, reduction, weight, target.shape)
    return loss if lse is None else (loss, lse.reshape(target.shape))


def target_weights(class_weight: Tensor, target: Tensor, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """The weight of each row's target (n,); 0 where it is ignored or no class."""
    known = (target != ignore_index) & (target >= 0) & (target < len(class_weight))
    return class_weight.detach().to(dtype)[target.where(known, 0)].where(known, 0.0)


def reduced(
    losses: Tensor,
    target: Tensor,
    ignore_index: int,
    reduction: str,
    class_weight: Tensor | None,
    shape: torch.Size,
) -> Tensor:
    """Losses, (n,) or already their sum, as `reduction` asks: one number, or the `shape` of the targets."""
    if reduction == "none":
        return losses.reshape(shape)
    total = losses.sum()
    if reduction == "sum":
        return total
    if class_weight is None:
        return mean_of(total, (target != ignore_index).sum())
    return mean_of(total, target_weights(class_weight, target, ignore_index, total.dtype).sum())


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """total / count; NaN where there is nothing to divide by, with gradients of 0 as in PyTorch."""
    return (total / count.where(count != 0, 1)).where(count != 0, float("nan"))


def check_class_weight(
    name: str, class_weight: Tensor | None, classes: int, label_smoothing: float, z_loss: float, backend: str
) -> None:
    """Raise ValueError for class weights that do not fit, or that `backend` does not combine with the other terms."""
    if class_weight is None:
        return
    check_shape(name, class_weight, (classes,), "(V,)")
    if class_weight.dtype not in FLOATS:
        raise ValueError(f"{name} has dtype {class_weight.dtype}; wanted a float type")
    if backend != "reference" and (label_smoothing or z_loss):
        raise ValueError(
            f"{name} together with label_smoothing or z_loss is computed by backend='reference' alone, not by"
            f" {backend!r}: pass backend='reference', or leave one of them out"
        )


def check_targets(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise ValueError for a target that is no class, where looking is cheap: on a CPU, outside of a trace."""
    if target.device.type != "cpu" or not has_values(target):
        return
    wrong = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"target holds {int(target[row])} at (flat) position {row}; wanted 0 <= target < {classes} or"
            f" ignore_index = {ignore_index}"
        )


def check_loss_arguments(
    target: Tensor,
    rows: torch.Size,
    classes: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    reduction: str,
) -> None:
    """Raise ValueError for arguments of a loss over `rows` rows and `classes` classes that do not fit."""
    if target.dtype.is_floating_point and target.dim() == len(rows) + 1:
        raise ValueError(
            f"target has dtype {target.dtype} and shape {tuple(target.shape)}: class probabilities are not computed"
            "; wanted class indices (torch.int64), or take torch.nn.functional.cross_entropy"
        )
    if target.dtype.is_floating_point or target.dtype.is_complex or target.dtype == torch.bool:
        raise ValueError(f"target has dtype {target.dtype}; wanted integers (torch.int64)")
    check_shape("target", target, tuple(rows), "the leading dimensions")
    if classes < 1:
        raise ValueError("there are 0 classes; wanted at least 1")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing={label_smoothing}: wanted 0 <= label_smoothing <= 1")
    if not z_loss >= 0.0:
        raise ValueError(f"z_loss={z_loss}: wanted z_loss >= 0")
    if softcap is not None and not softcap >= 0.0:
        raise ValueError(f"softcap={softcap}: wanted softcap > 0; 0 and None mean none")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: wanted one of {', '.join(REDUCTIONS)}")
