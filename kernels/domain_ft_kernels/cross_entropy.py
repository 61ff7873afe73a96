"""Cross-entropy of logits. `linear_cross_entropy`, which computes the logits itself, shares its parts.

The maths, for one row of logits u (V,) with target t, smoothing ε, z-loss ζ, softcap c and class weights w (or 1):

    z = c tanh(u / c)                                  (z = u without a softcap)
    m = max_j z_j,  S = Σ_j exp(z_j - m),  L = m + log S
    a = (1 - ε) w_t + ε mean(w)                        (a = 1 without class weights)
    loss = a log S - (1 - ε) w_t (z_t - m) - ε (mean(w z) - mean(w) m) + ζ L²
    ∂loss/∂u_j = [(a + 2ζL) exp(z_j - m) / S - (1 - ε) w_t 1{j = t} - ε w_j / V] · (1 - (z_j / c)²)
    ∂L/∂u_j    = exp(z_j - m) / S · (1 - (z_j / c)²)

Label smoothing and class weights are those of F.cross_entropy. The z-loss, which is not weighted, is from PaLM
(Chowdhery et al. 2022), the softcap from Gemma 2. Losses and log-sum-exps are float32 for any type of logits (float64
for float64). Except in the reference, rows whose target is `ignore_index` are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

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

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11

BLOCK_BYTES = 4 * 2**20
"""Bytes of logits in the accumulation type that the torch backend holds at a time: about the size of a core's cache."""

REDUCTIONS = ("sum", "mean", "none")


OPTIONS_SCHEMA = "int ignore_index, float label_smoothing, float z_loss, float? softcap"
"""The part of both ops' schemas with `ignore_index` and the fields of `Terms`."""


class LossOptions(TypedDict, total=False):
    """The keywords that `cross_entropy` and `linear_cross_entropy` share; `cross_entropy` documents them."""

    ignore_index: int
    label_smoothing: float
    z_loss: float
    softcap: float | None
    reduction: str
    backend: str


class Terms(NamedTuple):
    """The options that change the plain negative log-likelihood."""

    label_smoothing: float
    z_loss: float
    softcap: float | None


class Weights(NamedTuple):
    """Class weights for a block of rows.

    Attributes:
        of_row: (rows,) w_t of each row's target; 0 for a target outside [0, V).
        of_class: (V,) w.
        mean: () mean(w).
    """

    of_row: Tensor
    of_class: Tensor
    mean: Tensor

    @classmethod
    def of(cls, class_weight: Tensor | None, target: Tensor, dtype: torch.dtype) -> Weights | None:
        """The weights (V,) for rows with the targets (rows,), in `dtype`; None for None."""
        if class_weight is None:
            return None
        weights = class_weight.to(dtype)
        return cls(weights_of(weights, target), weights, weights.mean())


def weights_of(weights: Tensor, target: Tensor) -> Tensor:
    """w_t for each target; 0 for targets outside [0, V)."""
    inside = (target >= 0) & (target < len(weights))
    return weights[target.where(inside, 0)].where(inside, 0.0)


# The reference


def reference_losses(
    logits: Tensor, target: Tensor, ignore_index: int, terms: Terms, class_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition: the losses and log-sum-exps (n,) of the rows of logits (n, V); 0 where target (n,) is ignored.

    Autograd differentiates it.
    """
    z = logits.to(accumulation_dtype(logits.dtype))  # (n, V)
    if terms.softcap is not None:
        z = terms.softcap * torch.tanh(z / terms.softcap)
    labelled = target != ignore_index
    inside = (target >= 0) & (target < z.shape[1])
    log_probabilities = z.log_softmax(1)
    picked = log_probabilities.gather(1, target.where(inside, 0).unsqueeze(1)).squeeze(1)  # (n,)
    weights = Weights.of(class_weight, target, z.dtype)
    if weights is not None:
        picked, log_probabilities = weights.of_row * picked, weights.of_class * log_probabilities
    losses = (terms.label_smoothing - 1) * picked
    if terms.label_smoothing:
        losses = losses - terms.label_smoothing * log_probabilities.mean(1)
    lse = z.logsumexp(1)  # (n,)
    if terms.z_loss:
        losses = losses + terms.z_loss * lse**2
    return losses.where(inside, float("nan")).where(labelled, 0.0), lse.where(labelled, 0.0)


# The torch backend. Tiles are columns first..first+width of the logits of some rows, in the accumulation type.


def labelled_rows(target: Tensor, ignore_index: int) -> Tensor:
    """(m,) the indices of the rows that have a target. On a GPU this waits for the device."""
    return (target != ignore_index).nonzero().squeeze(1)


def cap_(tile: Tensor, softcap: float | None) -> Tensor:
    """u -> c tanh(u / c), in place."""
    return tile if softcap is None else tile.div_(softcap).tanh_().mul_(softcap)


def finite(row_max: Tensor) -> Tensor:
    """A row's largest logit, clamped in place so that it can be subtracted: -inf - (-inf) would be NaN."""
    return row_max.clamp_(min=torch.finfo(row_max.dtype).min)


def pick(tile: Tensor, target: Tensor, first: int) -> Tensor:
    """z_t for the rows whose target is in this tile, else 0."""
    column, inside = _column(target, first, tile.shape[1])
    return tile.gather(1, column.unsqueeze(1)).squeeze(1).where(inside, 0.0)


def losses_from_sums(
    row_max: Tensor,
    sum_exp: Tensor,
    picked: Tensor,
    total: Tensor | None,
    target: Tensor,
    classes: int,
    terms: Terms,
    weights: Weights | None,
) -> Tensor:
    """The loss of each row from m, S, z_t and `total`, which is Σ w z; NaN if the target is outside [0, V)."""
    log_sum, smoothing = sum_exp.log(), terms.label_smoothing
    at_target = (1 - smoothing) * (picked - row_max)
    losses = (
        log_sum - at_target if weights is None else _slope_of_lse(terms, weights) * log_sum - weights.of_row * at_target
    )
    if total is not None:
        losses = losses - smoothing * (total / classes - (row_max if weights is None else weights.mean * row_max))
    if terms.z_loss:
        losses = losses + terms.z_loss * (row_max + log_sum) ** 2
    return losses.where((target >= 0) & (target < classes), float("nan"))


def _slope_of_lse(terms: Terms, weights: Weights | None) -> Tensor | float:
    """a, the factor of the log-sum-exp in a row's loss without the z-loss; (rows,), or 1."""
    if weights is None:
        return 1.0
    return (1 - terms.label_smoothing) * weights.of_row + terms.label_smoothing * weights.mean


def gradient_(
    tile: Tensor,
    row_max: Tensor,
    sum_exp: Tensor,
    target: Tensor,
    scale: Tensor,
    first: int,
    classes: int,
    terms: Terms,
    weights: Weights | None,
    lse_scale: Tensor | None,
) -> Tensor:
    """Turn a tile of capped logits into scale · ∂loss/∂u + lse_scale · ∂L/∂u, in place.

    `row_max` and `sum_exp` (rows,) are m and S; `scale` and `lse_scale` (rows,) are the gradients with respect to each
    row's loss and L.
    """
    slope = None if terms.softcap is None else (tile * tile).mul_(-1 / terms.softcap**2).add_(1)
    of_lse = _slope_of_lse(terms, weights)
    if terms.z_loss:
        of_lse = of_lse + 2 * terms.z_loss * (row_max + sum_exp.log())
    factor = scale * of_lse / sum_exp
    if lse_scale is not None:
        factor = factor + lse_scale / sum_exp
    tile.sub_(row_max.unsqueeze(1)).exp_().mul_(factor.unsqueeze(1))
    column, inside = _column(target, first, tile.shape[1])
    at_target = scale * (terms.label_smoothing - 1)
    hit = (at_target if weights is None else at_target * weights.of_row).where(inside, 0.0)
    tile.scatter_add_(1, column.unsqueeze(1), hit.unsqueeze(1))  # one column per row: no two writes collide
    if terms.label_smoothing:
        share = (scale * (terms.label_smoothing / classes)).unsqueeze(1)
        tile.sub_(share if weights is None else share * weights.of_class[first : first + tile.shape[1]])
    if slope is not None:
        tile.mul_(slope)
    return tile


def _column(target: Tensor, first: int, width: int) -> tuple[Tensor, Tensor]:
    """Each target's column within the tile, clamped so that nothing outside is read, and whether it is inside."""
    column = target - first
    return column.clamp(0, width - 1), (column >= 0) & (column < width)


def _blocks(rows: Tensor, logits: Tensor) -> Iterator[Tensor]:
    """The indices `rows` in blocks of at most BLOCK_BYTES of logits, but at least one row."""
    row_bytes = logits.shape[1] * accumulation_dtype(logits.dtype).itemsize
    return iter(rows.split(max(1, BLOCK_BYTES // row_bytes)))


def log_sum_exp(row_maxes: Tensor, sum_exps: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """(n,) L of rows with these m and S; 0 where ignored."""
    return (row_maxes + sum_exps.log()).where(target != ignore_index, 0.0)


@in_given_types
def _forward(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, m and S of logits (n, V): (n,) each, 0 where ignored."""
    terms = Terms(label_smoothing, z_loss, softcap)
    classes, wide = logits.shape[1], accumulation_dtype(logits.dtype)
    check_targets(target, classes, ignore_index)
    losses = torch.zeros(len(target), dtype=wide, device=logits.device)
    row_maxes, sum_exps = torch.zeros_like(losses), torch.zeros_like(losses)
    for rows in _blocks(labelled_rows(target, ignore_index), logits):
        z = cap_(logits.index_select(0, rows).to(wide), softcap)  # (rows, V)
        t = target[rows]  # (rows,)
        weights = Weights.of(class_weight, t, wide)
        total = None
        if label_smoothing:
            total = z.sum(1) if weights is None else torch.mv(z, weights.of_class)
        picked = pick(z, t, 0)
        row_maxes[rows] = row_max = finite(z.amax(1))
        sum_exps[rows] = sum_exp = z.sub_(row_max.unsqueeze(1)).exp_().sum(1)
        losses[rows] = losses_from_sums(row_max, sum_exp, picked, total, t, classes, terms, weights)
    return losses, row_maxes, sum_exps


@in_given_types
def _fill_gradient(
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
    """Write the gradient with respect to the logits (n, V) to `gradient`, which may be the logits themselves.

    `grad` and `lse_grad` (n,) are the gradients with respect to the losses and the log-sum-exps.
    """
    terms = Terms(label_smoothing, z_loss, softcap)
    gradient.index_fill_(0, (target == ignore_index).nonzero().squeeze(1), 0)
    for rows in _blocks(labelled_rows(target, ignore_index), logits):
        z = cap_(logits.index_select(0, rows).to(sum_exps.dtype), softcap)
        t = target[rows]
        weights = Weights.of(class_weight, t, sum_exps.dtype)
        lse_scale = None if lse_grad is None else lse_grad[rows]
        gradient_(z, row_maxes[rows], sum_exps[rows], t, grad[rows], 0, z.shape[1], terms, weights, lse_scale)
        gradient.index_copy_(0, rows, z.to(logits.dtype))


# The Triton backend, imported on first use


def _triton_forward(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    from domain_ft_kernels.triton_backend import cross_entropy as kernels

    check_targets(target, logits.shape[1], ignore_index)
    return kernels.forward(logits, target, class_weight, ignore_index, *options)


def _triton_fill_gradient(*arguments: Any) -> None:
    from domain_ft_kernels.triton_backend import cross_entropy as kernels

    kernels.fill_gradient(*arguments)


# Registration


def _fake_forward(*inputs: Any) -> tuple[Tensor, ...]:
    logits, target, *_, with_lse, _ = inputs
    shapes = target.shape, target.shape if with_lse else (0,), target.shape, target.shape
    return tuple(logits.new_empty(shape, dtype=accumulation_dtype(logits.dtype)) for shape in shapes)


def _rows_are_disjoint(logits: Tensor) -> bool:
    """Whether each row of (n, V) is contiguous and no two rows overlap; those of an expanded tensor do."""
    return logits.stride(1) == 1 and logits.stride(0) >= logits.shape[1]


def _empty_gradient(_grad: Tensor, _lse_grad: Tensor | None, logits: Tensor, *_: Any) -> Tensor:
    """A tensor for the gradient, with the row stride of the logits if their rows are disjoint."""
    row_stride = logits.stride(0) if _rows_are_disjoint(logits) else logits.shape[1]
    return logits.new_empty_strided(logits.shape, (row_stride, 1))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, class_weight, *ctx.options, with_lse, inplace = inputs
    ctx.inplace = inplace and _rows_are_disjoint(logits)
    ctx.save_for_backward(logits, target, class_weight, *output[2:])
    ctx.mark_non_differentiable(*output[2 if with_lse else 1 :])
    ctx.set_materialize_grads(False)


def _register(name: str, forward: Callable[..., Any], fill_gradient: Callable[..., None]) -> Op:
    """The differentiable op `name`: `forward` computes the losses, `fill_gradient` the gradient."""
    saved = "Tensor target, Tensor? class_weight, Tensor row_maxes, Tensor sum_exps"

    def forward_with_lse(*inputs: Any) -> tuple[Tensor, ...]:
        *operands, with_lse, _ = inputs  # `inplace` is for backward only
        _, target, _, ignore_index, *_ = operands
        losses, row_maxes, sum_exps = forward(*operands)
        lse = log_sum_exp(row_maxes, sum_exps, target, ignore_index) if with_lse else losses.new_empty(0)
        return losses, lse, row_maxes, sum_exps

    def backward(*inputs: Any) -> Tensor:
        gradient = _empty_gradient(*inputs)
        fill_gradient(gradient, *inputs)
        return gradient

    def backward_inplace(grad: Tensor, lse_grad: Tensor | None, logits: Tensor, *inputs: Any) -> None:
        fill_gradient(logits, grad, lse_grad, logits, *inputs)

    def differentiate(ctx: Any, grad: Tensor | None, lse_grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None and lse_grad is None:
            return (None,) * 9
        if grad is None:
            assert lse_grad is not None
            grad = torch.zeros_like(lse_grad)
        logits, *saved = ctx.saved_tensors
        if not ctx.inplace:
            return backward_op(grad, lse_grad, logits, *saved, *ctx.options), *(None,) * 8
        inplace_op(grad, lse_grad, logits, *saved, *ctx.options)
        return logits.detach(), *(None,) * 8

    backward_op = Op(
        f"{name}_backward",
        f"(Tensor grad, Tensor? lse_grad, Tensor logits, {saved}, {OPTIONS_SCHEMA}) -> Tensor",
        backward,
        fake=_empty_gradient,
    )
    inplace_op = Op(
        f"{name}_backward_",
        f"(Tensor grad, Tensor? lse_grad, Tensor(a!) logits, {saved}, {OPTIONS_SCHEMA}) -> ()",
        backward_inplace,
        fake=lambda *_: None,
        mutates=["logits"],
    )
    op = Op(
        name,
        f"(Tensor logits, Tensor target, Tensor? class_weight, {OPTIONS_SCHEMA}, bool with_lse, bool inplace)"
        " -> (Tensor, Tensor, Tensor, Tensor)",
        forward_with_lse,
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
    return_lse: Literal[False] = ...,
    inplace: bool = ...,
    **options: Unpack[LossOptions],
) -> Tensor: ...


@overload
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = ...,
    return_lse: Literal[True],
    inplace: bool = ...,
    **options: Unpack[LossOptions],
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
    """Cross-entropy of logits (..., V) against the classes in target (...), in float32 (float64 for float64 logits).

    F.cross_entropy with a z-loss (PaLM, Chowdhery et al. 2022) and a softcap (Gemma 2); except with the backend
    `reference`, without a copy of the logits. `linear_cross_entropy` does not even need all logits at once. The
    module's docstring has the equations. Differentiable once with respect to the logits; with the backend `reference`,
    any number of times.

        loss, lse = cross_entropy(logits, target, z_loss=1e-4, reduction="mean", return_lse=True)

    Args:
        logits: (..., V), any float type; never overwritten unless `inplace` is set.
        target: (...), integers in [0, V), or `ignore_index` where there is nothing to predict. Class probabilities are
            refused.
        weight: (V,) class weights, as in F.cross_entropy; no gradient is computed for them.
        label_smoothing: ε in [0, 1], as in F.cross_entropy.
        z_loss: ζ >= 0 adds ζ · logsumexp² to each row's loss, whatever the class weights.
        softcap: c > 0 replaces each logit u by c · tanh(u / c); 0 or None leaves the logits as they are.
        reduction: `sum`; `mean` over the labelled rows, weighted by class weights as in F.cross_entropy (NaN if there
            are none); `none`, a loss for each position of target, 0 where ignored.
        return_lse: also return the log-sum-exp of each row's logits (after the softcap), (...), 0 where ignored. It is
            differentiable.
        inplace: backward may write the gradient over the logits, which saves a tensor of their size. Autograd raises if
            anything else needs the logits afterwards, or if backward runs twice.
        backend: `auto`, `reference`, `torch` or `triton`.

    Returns:
        The loss in float32 (float64 for float64 logits): (), or (...) with reduction `none`; with return_lse also the
        log-sum-exps (...).

    Raises:
        ValueError: shapes, types, devices or options do not match; or, on a CPU, a target is outside [0, V). On other
            devices, where a check would wait for the device, and in a compiled reference, the row's loss is NaN.
    """
    if logits.dim() < 1 or logits.dtype not in FLOATS:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and dtype {logits.dtype}; expected (..., V) and a float type"
        )
    check_same_device(logits=logits, target=target, weight=weight)
    check_loss_arguments(target, logits.shape[:-1], logits.shape[-1], label_smoothing, z_loss, softcap, reduction)
    weight = check_class_weight("weight", weight, logits.shape[-1])
    rows, classes = logits.reshape(target.numel(), logits.shape[-1]), target.reshape(-1).long()
    backend = resolve_backend(backend, logits.device, logits.dtype)
    separate = separate_z_loss(weight, z_loss, reduction)
    terms = Terms(label_smoothing, 0.0 if separate else z_loss, softcap or None)
    if backend == "reference":
        check_targets(classes, logits.shape[-1], ignore_index)
        losses, lse = reference_losses(rows, classes, ignore_index, terms, weight)
    else:
        with_lse = return_lse or bool(separate)
        losses, lse, *_ = _OPS[backend](rows, classes, weight, ignore_index, *terms, with_lse, inplace)
    loss = losses.reshape(target.shape) if reduction == "none" else losses.sum()
    if reduction == "mean":
        loss = mean_of(loss, classes, ignore_index, weight)
    if separate:
        loss = loss + mean_of(separate * (lse * lse).sum(), classes, ignore_index)
    return (loss, lse.reshape(target.shape)) if return_lse else loss


def separate_z_loss(class_weight: Tensor | None, z_loss: float, reduction: str) -> float:
    """ζ if the z-loss needs its own mean, over rows, because the mean of the other terms is weighted; else 0."""
    return z_loss if class_weight is not None and reduction == "mean" else 0.0


def mean_of(total: Tensor, target: Tensor, ignore_index: int, class_weight: Tensor | None = None) -> Tensor:
    """A sum of losses divided by the number (or weight) of labelled rows; NaN, with gradient 0, if that is 0."""
    labelled = target != ignore_index
    if class_weight is None:
        amount = labelled.sum().to(total.dtype)
    else:
        amount = weights_of(class_weight, target).where(labelled, 0.0).sum(dtype=total.dtype)
    nothing = amount == 0
    # Dividing by 0 would give NaN too, but its gradient would be infinite, and NaN after multiplication by 0.
    return total / amount.where(~nothing, 1.0) + torch.where(nothing, float("nan"), 0.0).to(total.dtype)


def check_class_weight(name: str, class_weight: Tensor | None, classes: int) -> Tensor | None:
    """The class weights, detached; raise ValueError unless they have shape (V,) and a float type."""
    if class_weight is None:
        return None
    check_shape(name, class_weight, (classes,), "(V,)")
    if class_weight.dtype not in FLOATS:
        raise ValueError(f"{name} has dtype {class_weight.dtype}; expected a float type")
    return class_weight.detach()


def check_targets(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise ValueError for targets outside [0, classes), but only on a CPU and outside tracing."""
    if target.device.type != "cpu" or not has_values(target):
        return
    wrong = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"target holds {int(target[row])} at (flat) position {row}; expected 0 <= target < {classes} or"
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
    """Raise ValueError if the arguments of a loss do not match logits of shape (*rows, classes)."""
    if target.dtype.is_floating_point or target.dtype.is_complex or target.dtype == torch.bool:
        raise ValueError(
            f"target has dtype {target.dtype}; expected integers (torch.int64). For class probabilities use"
            " torch.nn.functional.cross_entropy"
        )
    check_shape("target", target, tuple(rows), "the leading dimensions")
    if classes < 1:
        raise ValueError("there are 0 classes; expected at least 1")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing={label_smoothing}: expected 0 <= label_smoothing <= 1")
    if not z_loss >= 0.0:
        raise ValueError(f"z_loss={z_loss}: expected z_loss >= 0")
    if softcap is not None and not softcap >= 0.0:
        raise ValueError(f"softcap={softcap}: expected softcap > 0, or 0 or None for no softcap")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: expected one of {', '.join(REDUCTIONS)}")
