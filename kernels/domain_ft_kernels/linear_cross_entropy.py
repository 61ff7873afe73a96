"""Cross-entropy of a linear layer's outputs, such as a language-model head's, without holding them all.

The maths, for labelled rows x (m, D), W (V, D) and b (V,); `cross_entropy.py` has loss and ∂loss/∂u:

    u    = x Wᵀ + b                       (m, V), a tile or a block of rows at a time
    G    = g · ∂loss/∂u                   (m, V), likewise; g (m,) is the gradient with respect to the rows' losses
    dx   = G W        dW = Gᵀ x        db = Σ_rows G

Except in the reference, only labelled rows are computed (15 % of the rows in masked LM), over tiles of vocabulary
columns as in "Cut Your Losses in Large-Vocabulary Language Models" (Wijmans et al. 2024). A gradient needs the whole
row's log-sum-exp, hence a second pass. The torch backend computes the log-sum-exp online and has three ways:

    no gradient                     one pass in the memory of one tile                              1 matrix product
    only dx, or a loss reduced      gradients beside the loss, as in Liger-Kernel (Hsu et al.       1 + 1 for each of
    to one number (sum, mean)       2024): blocks of rows whose logits fit WORKSPACE_BYTES keep     dx and dW
                                    them for the second pass; backward only scales the result
    dW or db with reduction none,   backward recomputes the tiles, once g is known                  1 more product
    or log-sum-exps

The triton backend does the same (`plan`), but in the last case keeps the logits if all fit STASH_BYTES.
Sums and losses are float32 for any input type (float64 for float64), and are added in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft_kernels.backends import (
    accumulation_dtype,
    check_same_device,
    check_shape,
    compute_dtype,
    in_given_types,
    resolve_backend,
)
from domain_ft_kernels.cross_entropy import (
    OPTIONS_SCHEMA,
    Terms,
    Weights,
    cap_,
    check_class_weight,
    check_loss_arguments,
    check_targets,
    finite,
    gradient_,
    labelled_rows,
    log_sum_exp,
    losses_from_sums,
    mean_of,
    pick,
    reference_losses,
    separate_z_loss,
)
from domain_ft_kernels.products import add_mm_, mm
from domain_ft_kernels.registration import Op
from domain_ft_kernels.stash import PANEL, chunk_rows, stash_dtype, stash_shape

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11

    from domain_ft_kernels.cross_entropy import LossOptions

TILE = 2048
"""Columns of the vocabulary in a tile. Among 512 to 4,096 this was the fastest with AVX2, and within 4 % of the fastest
with AVX-512."""

WORKSPACE_BYTES = 64 * 2**20
"""The most bytes of logits held at once. Blocks of 250 to 550 rows (V = 30,522) were faster than larger ones."""

# The reference


def reference(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
    terms: Terms,
    compute: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The definition: the loss and the log-sum-exp (n,) of each row of hidden (n, D), from the full logits."""
    logits = F.linear(hidden.to(compute), weight.to(compute), None if bias is None else bias.to(compute))
    return reference_losses(logits, target, ignore_index, terms, class_weight)


# The torch backend


class _Head:
    """The output projection as tiles of columns, each converted to the accumulation type when it is used."""

    def __init__(self, weight: Tensor, bias: Tensor | None, compute: torch.dtype, softcap: float | None) -> None:
        self.weight, self.bias, self.compute, self.softcap = weight, bias, compute, softcap
        self.wide = accumulation_dtype(compute)
        self.classes = weight.shape[0]

    def widen(self, tensor: Tensor) -> Tensor:
        """A tensor rounded to the compute type (autocast's), then converted to the accumulation type."""
        return tensor.to(self.compute).to(self.wide)

    def columns(self) -> Iterator[tuple[int, int]]:
        return ((first, min(first + TILE, self.classes)) for first in range(0, self.classes, TILE))

    def columns_of(self, first: int, last: int) -> Tensor:
        """The rows of W for a tile of logits, (last - first, D)."""
        return self.widen(self.weight[first:last])

    def logits(self, x: Tensor, columns: Tensor, first: int, last: int) -> Tensor:
        """A tile of capped logits, (rows, last - first)."""
        bias = None if self.bias is None else self.widen(self.bias[first:last])
        return cap_(mm(x, columns.t(), bias), self.softcap)


class _Sums:
    """What the loss needs of each row, collected tile by tile: m and S (online), z_t and, for smoothing, Σ w z."""

    def __init__(self, target: Tensor, like: Tensor, terms: Terms, weights: Weights | None) -> None:
        self.target, self.terms, self.weights = target, terms, weights
        rows = like.new_zeros(len(target))
        self.row_max = torch.full_like(rows, torch.finfo(rows.dtype).min)
        self.sum_exp, self.picked = rows.clone(), rows.clone()
        self.total = rows.clone() if terms.label_smoothing else None

    def add(self, tile: Tensor, first: int, scratch: Tensor) -> None:
        """Add a tile of capped logits; `scratch` (the tile's shape, or the tile itself) is overwritten."""
        self.picked += pick(tile, self.target, first)
        if self.total is not None:
            w = None if self.weights is None else self.weights.of_class[first : first + tile.shape[1]]
            self.total += tile.sum(1) if w is None else torch.mv(tile, w)
        row_max = torch.maximum(self.row_max, finite(tile.amax(1)))
        self.sum_exp *= (self.row_max - row_max).exp_()
        self.sum_exp += torch.sub(tile, row_max.unsqueeze(1), out=scratch).exp_().sum(1)
        self.row_max = row_max

    def losses(self, classes: int) -> Tensor:
        """The rows' losses, after all tiles were added."""
        sums = self.row_max, self.sum_exp, self.picked, self.total
        return losses_from_sums(*sums, self.target, classes, self.terms, self.weights)


class _Gradients:
    """The required gradients, in the accumulation type; tiles are added in a fixed order."""

    def __init__(self, head: _Head, rows: int, needs: list[bool]) -> None:
        make = head.weight.new_zeros
        classes, size = head.weight.shape
        self.hidden = make((rows, size), dtype=head.wide) if needs[0] else None
        self.weight = make((classes, size), dtype=head.wide) if needs[1] else None
        self.bias = make(classes, dtype=head.wide) if needs[2] else None

    def add(self, tile: Tensor, x: Tensor, columns: Tensor, block: slice, first: int, last: int) -> None:
        """Add a tile of G: rows `block` with the inputs x, classes first..last with the rows `columns` of W."""
        if self.hidden is not None:
            add_mm_(self.hidden[block], tile, columns)
        if self.weight is not None:
            add_mm_(self.weight[first:last], tile.t(), x)
        if self.bias is not None:
            self.bias[first:last] += tile.sum(0)


def _row_blocks(rows: int, row_bytes: int) -> list[slice]:
    """Slices of the `rows`, each with as many as fit WORKSPACE_BYTES at `row_bytes` each, but at least one."""
    size = max(1, min(rows, WORKSPACE_BYTES // row_bytes))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


@in_given_types
def _forward(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    compute: torch.dtype,
    with_lse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, L (or nothing), m and S, (n,) each, 0 where ignored: one pass over the tiles, which are not kept."""
    head, terms = _Head(weight, bias, compute, softcap), Terms(label_smoothing, z_loss, softcap)
    check_targets(target, head.classes, ignore_index)
    losses = hidden.new_zeros(len(target), dtype=head.wide)
    row_maxes, sum_exps = torch.zeros_like(losses), torch.zeros_like(losses)
    labelled = labelled_rows(target, ignore_index)
    for block in _row_blocks(len(labelled), min(TILE, head.classes) * head.wide.itemsize):
        rows = labelled[block]
        x = head.widen(hidden.index_select(0, rows))  # (rows, D)
        sums = _Sums(target[rows], x, terms, Weights.of(class_weight, target[rows], head.wide))
        for first, last in head.columns():
            tile = head.logits(x, head.columns_of(first, last), first, last)  # (rows, last - first)
            sums.add(tile, first, scratch=tile)
        losses[rows], row_maxes[rows], sum_exps[rows] = sums.losses(head.classes), sums.row_max, sums.sum_exp
    lse = log_sum_exp(row_maxes, sum_exps, target, ignore_index) if with_lse else losses.new_empty(0)
    return losses, lse, row_maxes, sum_exps


@in_given_types
def _forward_with_gradients(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    compute: torch.dtype,
    summed: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The losses (n,), or their sum if `summed`, and the gradients of the sum with respect to hidden, weight and bias.

    A gradient that is not required is empty.
    """
    head, terms = _Head(weight, bias, compute, softcap), Terms(label_smoothing, z_loss, softcap)
    check_targets(target, head.classes, ignore_index)
    losses = hidden.new_zeros(len(target), dtype=head.wide)
    labelled = labelled_rows(target, ignore_index)
    gradients = _Gradients(head, len(labelled), needs)
    for block in _row_blocks(len(labelled), head.classes * head.wide.itemsize):
        rows = labelled[block]
        x = head.widen(hidden.index_select(0, rows))  # (rows, D)
        sums = _Sums(target[rows], x, terms, Weights.of(class_weight, target[rows], head.wide))
        stash, scratch = [], x.new_empty(len(rows), min(TILE, head.classes))
        for first, last in head.columns():
            tile = head.logits(x, head.columns_of(first, last), first, last)  # (rows, last - first)
            sums.add(tile, first, scratch=scratch[:, : last - first])
            stash.append(tile)
        losses[rows] = sums.losses(head.classes)
        ones = torch.ones_like(sums.sum_exp)
        for tile, (first, last) in zip(stash, head.columns(), strict=True):
            gradient_(
                tile, sums.row_max, sums.sum_exp, target[rows], ones, first, head.classes, terms, sums.weights, None
            )
            gradients.add(tile, x, head.columns_of(first, last), block, first, last)
    return losses.sum() if summed else losses, *_finished(gradients, hidden, weight, bias, labelled)


@in_given_types
def _backward(
    grad: Tensor,
    lse_grad: Tensor | None,
    row_maxes: Tensor,
    sum_exps: Tensor,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    compute: torch.dtype,
    _with_lse: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to hidden, weight and bias (empty if not required).

    `grad` and `lse_grad` (n,) are the gradients with respect to the losses and the log-sum-exps.
    """
    head, terms = _Head(weight, bias, compute, softcap), Terms(label_smoothing, z_loss, softcap)
    labelled = labelled_rows(target, ignore_index)
    gradients = _Gradients(head, len(labelled), needs)
    for block in _row_blocks(len(labelled), min(TILE, head.classes) * head.wide.itemsize):
        rows = labelled[block]
        row_max, sum_exp, t = row_maxes[rows], sum_exps[rows], target[rows]
        weights = Weights.of(class_weight, t, head.wide)
        lse_scale = None if lse_grad is None else lse_grad[rows]
        x = head.widen(hidden.index_select(0, rows))  # (rows, D)
        for first, last in head.columns():
            columns = head.columns_of(first, last)  # (last - first, D)
            tile = head.logits(x, columns, first, last)  # (rows, last - first)
            gradient_(tile, row_max, sum_exp, t, grad[rows], first, head.classes, terms, weights, lse_scale)
            gradients.add(tile, x, columns, block, first, last)
    return _finished(gradients, hidden, weight, bias, labelled)


def _finished(
    gradients: _Gradients, hidden: Tensor, weight: Tensor, bias: Tensor | None, labelled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients in their operands' types and shapes; that of hidden is 0 in ignored rows."""
    d_hidden, d_weight, d_bias = (hidden.new_empty(0) for _ in range(3))
    if gradients.hidden is not None:
        d_hidden = hidden.new_zeros(hidden.shape).index_copy_(0, labelled, gradients.hidden.to(hidden.dtype))
    if gradients.weight is not None:
        d_weight = gradients.weight.to(weight.dtype)
    if gradients.bias is not None and bias is not None:
        d_bias = gradients.bias.to(bias.dtype)
    return d_hidden, d_weight, d_bias


# The triton backend: the choice of a plan. The kernels are in `triton_backend`, imported on first use.


def plan(needs: list[bool], summed: bool, rows: int, classes: int, itemsize: int, *, with_lse: bool = False) -> str:
    """The cheapest plan of the triton backend for these shapes and required gradients:

    `losses`: no gradient is required, so logits are not kept. One matrix product.
    `gradients`: only dx is required, or the losses are summed. Forward computes the gradients chunk by chunk in one
        stash, and backward only scales them. One product for the logits and one for each of dx and dW.
    `stash`: dW or db of unsummed losses is required, or log-sum-exps are returned, so g is needed first. If the logits
        of all n rows are one chunk (the host does not know how many rows are labelled), forward keeps them: the same
        products, but the stash is held until backward.
    `recompute`: likewise, but with more than one chunk, so backward recomputes the logits. One more product.

    Args:
        needs: whether hidden, weight and bias require a gradient.
        summed: whether the losses are reduced to one number.
        rows: n, labelled or not.
        itemsize: bytes of a logit in the stash.
        with_lse: whether log-sum-exps are returned, whose gradients are known only in backward.
    """
    if not any(needs):
        return "losses"
    if not with_lse and (summed or not (needs[1] or needs[2])):
        return "gradients"
    return "stash" if chunk_rows(rows, classes, itemsize) >= rows else "recompute"


def _in_triton(name: str) -> Callable[..., Any]:
    """The function `name` of the Triton module, which the first call imports, because triton may not be installed."""

    def run(*arguments: Any) -> Any:
        from domain_ft_kernels.triton_backend import linear_cross_entropy as kernels

        return getattr(kernels, name)(*arguments)

    return run


# Registration. Each backend has an op whose backward computes the gradients, and one whose forward computes them.


def _fake_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty tensors with the shapes that `_finished` returns, in their operands' types or all in `dtype`."""

    def empty(like: Tensor | None, need: bool) -> Tensor:
        if like is None or not need:
            return hidden.new_empty(0, dtype=dtype)
        return like.new_empty(like.shape, dtype=dtype)

    return empty(hidden, needs[0]), empty(weight, needs[1]), empty(bias, needs[2])


def _fake_forward(*inputs: Any) -> tuple[Tensor, ...]:
    hidden, _, target, *_, compute, with_lse = inputs
    shapes = target.shape, target.shape if with_lse else (0,), target.shape, target.shape
    return tuple(hidden.new_empty(shape, dtype=accumulation_dtype(compute)) for shape in shapes)


def _fake_forward_with_gradients(*inputs: Any) -> tuple[Tensor, ...]:
    hidden, weight, target, bias, *_, compute, summed, needs = inputs
    losses = hidden.new_empty(() if summed else target.shape, dtype=accumulation_dtype(compute))
    return losses, *_fake_gradients(hidden, weight, bias, needs)


def _fake_backward(*inputs: Any) -> tuple[Tensor, ...]:
    _, _, _, _, hidden, weight, _, bias, *_, needs = inputs
    return _fake_gradients(hidden, weight, bias, needs)


def _fake_triton_forward(*inputs: Any) -> tuple[Tensor, ...]:
    hidden, weight, target, *_, compute, _, with_lse, keep = inputs
    shapes = target.shape, target.shape if with_lse else (0,), target.shape, target.shape
    results = [hidden.new_empty(shape, dtype=torch.float32) for shape in shapes]
    if not keep:
        return *results, *(hidden.new_empty(0, dtype=torch.float32) for _ in range(2))
    rows, columns = stash_shape(len(target), len(weight))
    stash = hidden.new_empty(rows, columns, dtype=stash_dtype(compute))
    return *results, stash, hidden.new_empty(columns // PANEL, rows, dtype=torch.float32)


def _fake_triton_forward_with_gradients(*inputs: Any) -> tuple[Tensor, ...]:
    hidden, weight, target, bias, *_, summed, needs = inputs
    losses = hidden.new_empty(() if summed else target.shape, dtype=torch.float32)
    slots = target.new_empty(target.shape, dtype=torch.int32)
    return losses, *_fake_gradients(hidden, weight, bias, needs, torch.float32), slots


def _fake_triton_backward(*inputs: Any) -> tuple[Tensor, ...]:
    _, _, _, _, _, _, hidden, weight, _, bias, *_, needs = inputs
    return _fake_gradients(hidden, weight, bias, needs)


def _fake_triton_finish(*inputs: Any) -> tuple[Tensor, ...]:
    gradients, types = inputs[1:4], inputs[5:8]
    return tuple(g.new_empty(g.shape, dtype=dtype) for g, dtype in zip(gradients, types, strict=True))


def _setup_context_by(place: int) -> Callable[..., None]:
    """The setup_context of an op whose backward computes the gradients; options[place] is `with_lse`."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[5:]
        ctx.save_for_backward(*output[2:], *inputs[:5])
        ctx.mark_non_differentiable(*output[2 if ctx.options[place] else 1 :])
        ctx.set_materialize_grads(False)

    return setup_context


def _differentiate_by(backward: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The autograd formula of an op whose gradients the op `backward` computes."""

    def differentiate(ctx: Any, grad: Tensor | None, lse_grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * (1 + len(ctx.options))
        if grad is None and lse_grad is None:
            return (None,) * 4 + nothing
        if grad is None:
            assert lse_grad is not None
            grad = torch.zeros_like(lse_grad)
        hidden, weight, _target, bias = ctx.needs_input_grad[:4]
        needs = [hidden, weight, bias]
        gradients = backward(grad, lse_grad, *ctx.saved_tensors, *ctx.options, needs)
        d_hidden, d_weight, d_bias = (g if need else None for g, need in zip(gradients, needs, strict=True))
        return d_hidden, d_weight, None, d_bias, *nothing

    return differentiate


def _setup_context_with_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, _, bias, _, *options = inputs
    ctx.options, ctx.needs, ctx.made = options, options[-1], len(output) - 1
    ctx.types = [hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype]
    ctx.save_for_backward(*output[1:], hidden, weight, bias)  # inputs: so that a second derivative can raise
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _scale_by(scale: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The autograd formula of an op whose forward computed the gradients: `scale` multiplies them by `grad`."""

    def differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * (1 + len(ctx.options))
        if grad is None:
            return (None,) * 4 + nothing
        gradients = scale(grad, *ctx.saved_tensors[: ctx.made], *ctx.types, ctx.needs)
        d_hidden, d_weight, d_bias = (g if need else None for g, need in zip(gradients, ctx.needs, strict=True))
        return d_hidden, d_weight, None, d_bias, *nothing

    return differentiate


def _scaled(grad: Tensor, d_hidden: Tensor, d_weight: Tensor, d_bias: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """The gradients times `grad`, which is one number, or one per row if only hidden requires a gradient."""
    factor = grad.unsqueeze(-1) if grad.dim() else grad
    return tuple((g * factor).to(g.dtype) if g.numel() else g for g in (d_hidden, d_weight, d_bias))


_INPUTS = "Tensor hidden, Tensor weight, Tensor target, Tensor? bias, Tensor? class_weight"
_OPTIONS = f"{OPTIONS_SCHEMA}, ScalarType compute"
_KEPT = "Tensor row_maxes, Tensor sum_exps"

_backward_op = Op(
    "linear_cross_entropy_backward",
    f"(Tensor grad, Tensor? lse_grad, {_KEPT}, {_INPUTS}, {_OPTIONS}, bool with_lse, bool[] needs)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
_forward_op = Op(
    "linear_cross_entropy",
    f"({_INPUTS}, {_OPTIONS}, bool with_lse) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
).differentiable(_differentiate_by(_backward_op), _setup_context_by(5))
_forward_with_gradients_op = Op(
    "linear_cross_entropy_with_gradients",
    f"({_INPUTS}, {_OPTIONS}, bool summed, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward_with_gradients,
    _fake_forward_with_gradients,
).differentiable(_scale_by(_scaled), _setup_context_with_gradients)

_triton_backward_op = Op(
    "linear_cross_entropy_backward_triton",
    f"(Tensor grad, Tensor? lse_grad, {_KEPT}, Tensor stash, Tensor panel_maxes, {_INPUTS}, {_OPTIONS},"
    " float? filter_eps, bool with_lse, bool keep, bool[] needs) -> (Tensor, Tensor, Tensor)",
    _in_triton("backward"),
    _fake_triton_backward,
)
_triton_forward_op = Op(
    "linear_cross_entropy_triton",
    f"({_INPUTS}, {_OPTIONS}, float? filter_eps, bool with_lse, bool keep)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _in_triton("forward"),
    _fake_triton_forward,
).differentiable(_differentiate_by(_triton_backward_op), _setup_context_by(6))
_triton_finish_op = Op(
    "linear_cross_entropy_finish_triton",
    "(Tensor grad, Tensor d_hidden, Tensor d_weight, Tensor d_bias, Tensor slots, ScalarType hidden_type,"
    " ScalarType weight_type, ScalarType bias_type, bool[] needs) -> (Tensor, Tensor, Tensor)",
    _in_triton("finish"),
    _fake_triton_finish,
)
_triton_forward_with_gradients_op = Op(
    "linear_cross_entropy_with_gradients_triton",
    f"({_INPUTS}, {_OPTIONS}, float? filter_eps, bool summed, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _in_triton("forward_with_gradients"),
    _fake_triton_forward_with_gradients,
).differentiable(_scale_by(_triton_finish_op), _setup_context_with_gradients)


# The public function


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = ...,
    *,
    class_weight: Tensor | None = ...,
    return_lse: Literal[False] = ...,
    filter_eps: float | None = ...,
    **options: Unpack[LossOptions],
) -> Tensor: ...


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = ...,
    *,
    class_weight: Tensor | None = ...,
    return_lse: Literal[True],
    filter_eps: float | None = ...,
    **options: Unpack[LossOptions],
) -> tuple[Tensor, Tensor]: ...


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "sum",
    filter_eps: float | None = None,
    class_weight: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """`cross_entropy(F.linear(hidden, weight, bias), target, ...)` without holding all the logits at once.

    Except with the backend `reference`, it is computed over tiles of the vocabulary, as in "Cut Your Losses in
    Large-Vocabulary Language Models" (Wijmans et al. 2024). The module's docstring has the equations.

        loss = linear_cross_entropy(hidden, model.lm_head.weight, labels, reduction="mean")

    Differentiable once with respect to hidden, weight and bias (with the backend `reference`, any number of times);
    only required gradients are computed. Beyond inputs and outputs, the torch backend holds the labelled rows, the
    required gradients in the accumulation type, two tiles, and logits of at most WORKSPACE_BYTES or of one row,
    whichever is more. In the triton backend the logits are STASH_BYTES or 128 rows, and twice that in backward if
    forward kept them.

    Args:
        hidden: (..., D), in the type of weight, or any under autocast.
        weight: (V, D).
        target: (...), integers in [0, V), or `ignore_index` where there is nothing to predict; such rows cost nothing.
        bias: (V,) or None.
        label_smoothing, z_loss, softcap, reduction: as for `cross_entropy`.
        filter_eps: tiles of ∂loss/∂u (128 x 128) without an absolute value above this may be left out of the products
            for dx and dW. Then dx is off by at most filter_eps · |g| · Σ |W| over the skipped classes, and dW by at
            most filter_eps · Σ |g| |x| over the skipped rows; db is exact. Late in training, when most classes are very
            improbable, this saves most of the work. Only the triton backend uses it, and neither with return_lse nor
            with a z-loss together with class weights and reduction `mean`. None: exact gradients.
        class_weight: (V,) class weights, the argument `weight` of `cross_entropy`.
        return_lse: also return each row's log-sum-exp, as `cross_entropy` does. Gradients are then computed in
            backward, from recomputed logits (one more matrix product) unless the triton backend kept them.
        backend: `auto`, `reference`, `torch` or `triton`.

    Returns:
        The loss in float32 (float64 for float64 inputs): (), or (...) with reduction `none`; with return_lse also the
        log-sum-exps (...).

    Raises:
        ValueError: shapes, types, devices or options do not match; or a target is outside [0, V), as for
            `cross_entropy`.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (V, D)")
    classes, size = weight.shape
    if hidden.dim() < 1 or hidden.shape[-1] != size:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)}; expected (..., {size}),"
            f" as weight is (V, D) = {tuple(weight.shape)}"
        )
    if bias is not None:
        check_shape("bias", bias, (classes,), "(V,)")
    check_same_device(hidden=hidden, weight=weight, target=target, bias=bias, class_weight=class_weight)
    check_loss_arguments(target, hidden.shape[:-1], classes, label_smoothing, z_loss, softcap, reduction)
    class_weight = check_class_weight("class_weight", class_weight, classes)
    if filter_eps is not None and not filter_eps >= 0.0:
        raise ValueError(f"filter_eps={filter_eps}: expected filter_eps >= 0, or None")
    compute = compute_dtype("hidden", hidden, weight)
    rows, labels = hidden.reshape(target.numel(), size), target.reshape(-1).long()
    separate = separate_z_loss(class_weight, z_loss, reduction)
    with_lse = return_lse or bool(separate)
    terms = Terms(label_smoothing, 0.0 if separate else z_loss, softcap or None)
    options = (ignore_index, *terms, compute)
    operands = rows, weight, labels, bias, class_weight
    differentiable = torch.is_grad_enabled()
    needs = [differentiable and t is not None and t.requires_grad for t in (hidden, weight, bias)]
    summed = reduction != "none"
    chosen = resolve_backend(backend, hidden.device, compute)
    if chosen == "reference":
        check_targets(labels, classes, ignore_index)
        losses, lse = reference(*operands, ignore_index, terms, compute)
    elif chosen == "torch":
        losses, lse = _torch_losses(operands, options, summed, with_lse, needs)
    else:
        check_targets(labels, classes, ignore_index)
        eps = None if with_lse else filter_eps
        losses, lse = _triton_losses(operands, (*options, eps), summed, with_lse, needs)
    loss = losses.reshape(target.shape) if reduction == "none" else losses.sum()
    if reduction == "mean":
        loss = mean_of(loss, labels, ignore_index, class_weight)
    if separate:
        loss = loss + mean_of(separate * (lse * lse).sum(), labels, ignore_index)
    return (loss, lse.reshape(target.shape)) if return_lse else loss


def _torch_losses(
    operands: tuple[Any, ...], options: tuple[Any, ...], summed: bool, with_lse: bool, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    """The losses and the log-sum-exps, by the cheapest of the three ways in the module's docstring.

    Losses are (n,), or () if `summed` and already added; log-sum-exps are (n,), or empty without `with_lse`.
    """
    scalable = summed or not (needs[1] or needs[2])  # backward need only multiply the gradients by g
    if any(needs) and scalable and not with_lse:
        losses, *_ = _forward_with_gradients_op(*operands, *options, summed, needs)
        return losses, losses.new_empty(0)
    losses, lse, *_ = _forward_op(*operands, *options, with_lse)
    return losses, lse


def _triton_losses(
    operands: tuple[Any, ...], options: tuple[Any, ...], summed: bool, with_lse: bool, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    """What `_torch_losses` returns, by the triton backend with its `plan`."""
    _, weight, target, *_ = operands
    itemsize = options[4].itemsize
    way = plan(needs, summed, len(target), len(weight), itemsize, with_lse=with_lse)
    if way == "gradients":
        losses, *_ = _triton_forward_with_gradients_op(*operands, *options, summed, needs)
        return losses, losses.new_empty(0)
    losses, lse, *_ = _triton_forward_op(*operands, *options, with_lse, way == "stash")
    return losses, lse
