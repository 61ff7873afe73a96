"""The bytes that our launches move, and their FLOPs: a closed form for each kernel, from the launch's parameters.

A form counts, for each tensor, the bytes that the programs of the grid request and how many of them are distinct. In a
tiled product, an operand is requested once for each tile of the *other* dimension. The number of labelled rows is not
among the launch's parameters, so callers pass it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace

import launches
import torch
from cases import RANK, TOKENS, Head, Linear
from torch import Tensor
from traffic import Moved, Step, once

from domain_ft_kernels.layers import down_columns
from domain_ft_kernels.triton_backend import launch
from domain_ft_kernels.triton_backend.launch import Launch

F32, INT32, INT64 = 4, 4, 8

Moves = dict[str, Moved]
Form = Callable[[SimpleNamespace], Step]
FORMS: dict[str, Form] = {}
"""By the kernel's module and name, such as `lora_linear._down`."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def form(kernel: str) -> Callable[[Form], Form]:
    """Register a function as the form of `kernel`."""

    def enter(function: Form) -> Form:
        FORMS[kernel] = function
        return function

    return enter


def steps_of(recorded: Iterable[Launch], labelled: int | None = None) -> list[Step]:
    """The steps of these launches, in order; `labelled` is the number of labelled rows (LoRA linears need none)."""
    steps, parts = [], 1
    for entry in recorded:
        function = entry.kernel.fn
        arguments = dict(zip(inspect.signature(function).parameters, entry.arguments, strict=False))
        p = SimpleNamespace(**arguments, **entry.constants, grid=entry.grid, labelled=labelled, parts=parts)
        steps.append(FORMS[f"{function.__module__.rpartition('.')[2]}.{function.__name__}"](p))
        parts = p.parts  # set by _grad_hidden, for the launch that adds its partial sums
    return steps


def _size(tensor: Tensor) -> int:
    return tensor.element_size()


def _repeated(count: float, times: float) -> Moved:
    """`count` bytes, requested `times` times."""
    return Moved(count * times, count)


def _class_weights(p: SimpleNamespace, rows: int, *, times: int = 1, smoothed: int, programs: int) -> Moves:
    """The bytes of class weights and their mean.

    Each row's weight is requested `times` times, and all labels count as distinct. With label smoothing, all weights
    are requested `smoothed` times more, and the mean `programs` times.
    """
    if p.class_weight_ptr is None:
        return {}
    if p.label_smoothing is None:
        return {"class_weight_ptr": Moved(times * rows * F32, min(rows, p.classes) * F32)}
    every = smoothed * p.classes
    distinct = p.classes if every else min(rows, p.classes)
    return {
        "class_weight_ptr": Moved((times * rows + every) * F32, distinct * F32),
        "mean_weight_ptr": Moved(programs * F32, F32 if programs else 0),
    }


def _each(name: str, moves: Sequence[Moved]) -> Moves:
    """One entry per tensor of a tuple."""
    return {f"{name}[{index}]": moved for index, moved in enumerate(moves)}


# lora_linear


@form("lora_linear._linear")
def _(p: SimpleNamespace) -> Step:
    e, tiles_m = _size(p.x_ptr), cdiv(p.m, p.BLOCK_M)
    tiles_n = [cdiv(n, p.BLOCK_N) for n in p.features]
    layers = [*zip(p.features, p.ranks, p.lora_a_ptrs, p.lora_b_ptrs, tiles_n, strict=True)]
    widths = [down_columns([rank]) for rank in p.ranks]
    reads = {
        "x_ptr": _repeated(p.m * p.k * e, sum(tiles_n)),
        **_each("weight_ptrs", [_repeated(n * p.k * e, tiles_m) for n in p.features]),
        **_each("lora_b_ptrs", [_repeated(n * r * _size(b), tiles_m) for n, r, _, b, _ in layers]),
    }
    writes = _each("y_ptrs", [once(p.m * n * e) for n in p.features])
    if p.HAS_BIAS:
        reads |= _each("bias_ptrs", [_repeated(n * e, tiles_m) for n in p.features])
    flops = sum(2 * p.m * n * (p.k + r) for n, r, *_ in layers)
    if p.MAKE_DOWN:
        reads |= _each("lora_a_ptrs", [_repeated(p.k * r * _size(a), tiles_m * tiles) for _, r, a, _, tiles in layers])
        writes["down_ptr"] = once(p.m * sum(widths) * e)
        flops += sum(2 * p.m * p.k * r for r in p.ranks)
    else:
        requested = sum(w * tiles for w, tiles in zip(widths, tiles_n, strict=True))
        reads["down_ptr"] = Moved(p.m * requested * e, p.m * sum(widths) * e)
    return Step("linear", reads, writes, flops)


@form("lora_linear._linear_dx")
def _(p: SimpleNamespace) -> Step:
    e, tiles_m, tiles_n = _size(p.dx_ptr), cdiv(p.m, p.BLOCK_M), cdiv(p.k, p.BLOCK_N)
    layers = [*zip(p.features, p.ranks, p.lora_a_ptrs, p.lora_b_ptrs, strict=True)]
    down = p.m * down_columns(p.ranks) * e
    reads = {
        **_each("grad_ptrs", [_repeated(p.m * n * e, tiles_n) for n in p.features]),
        **_each("weight_ptrs", [_repeated(n * p.k * e, tiles_m) for n in p.features]),
        **_each("lora_a_ptrs", [_repeated(p.k * r * _size(a), tiles_m) for _, r, a, _ in layers]),
    }
    writes = {"dx_ptr": once(p.m * p.k * e)}
    flops = sum(2 * p.m * p.k * (n + r) for n, r, *_ in layers)
    if p.MAKE_DOWN:
        reads |= _each("lora_b_ptrs", [_repeated(n * r * _size(b), tiles_m * tiles_n) for n, r, _, b in layers])
        writes["down_ptr"] = once(down)
        flops += sum(2 * p.m * n * r for n, r, *_ in layers)
    else:
        reads["down_ptr"] = _repeated(down, tiles_n)
    return Step("linear dx", reads, writes, flops)


@form("lora_linear._down")
def _(p: SimpleNamespace) -> Step:
    tiles_m, tiles_r = p.grid
    reads = {
        "left_ptr": _repeated(p.m * p.k * _size(p.left_ptr), tiles_r),
        **_each(
            "small_ptrs", [_repeated(p.k * r * _size(s), tiles_m) for r, s in zip(p.ranks, p.small_ptrs, strict=True)]
        ),
    }
    writes = {"down_ptr": once(p.m * down_columns(p.ranks) * _size(p.down_ptr))}
    return Step("down", reads, writes, flops=2 * p.m * p.k * sum(p.ranks))


@form("lora_linear._outer")
def _(p: SimpleNamespace) -> Step:
    _, tiles_r, chunks = p.grid
    layers = [*zip(p.left_ptrs, p.sizes, p.widths, strict=True)]
    row = _size(p.right_ptr) * p.m
    columns = {start + i for start, read in zip(p.starts, p.reads, strict=True) for i in range(read)}
    requested = sum(cdiv(size, p.BLOCK_C) * read for size, read in zip(p.sizes, p.reads, strict=True))
    reads = {
        **_each("left_ptrs", [_repeated(p.m * size * _size(left), tiles_r) for left, size, _ in layers]),
        "right_ptr": Moved(requested * row, len(columns) * row),
    }
    writes = _each("partial_ptrs", [once(chunks * size * width * F32) for _, size, width in layers])
    if p.BIAS:
        writes |= _each("bias_partial_ptrs", [once(chunks * size * F32) for size in p.sizes])
    return Step("outer", reads, writes, flops=sum(2 * p.m * size * width for _, size, width in layers))


@form("lora_linear._add_up")
def _(p: SimpleNamespace) -> Step:
    reads = _each("partial_ptrs", [once(c * size * F32) for c, size in zip(p.chunks, p.sizes, strict=True)])
    writes = _each("output_ptrs", [once(size * _size(out)) for size, out in zip(p.sizes, p.output_ptrs, strict=True)])
    return Step("add up", reads, writes)


# linear_cross_entropy


def _mine(p: SimpleNamespace) -> int:
    """The labelled rows of the launch's chunk."""
    return max(0, min(p.labelled - p.first, p.chunk))


def _count(p: SimpleNamespace) -> Moves:
    """Every program reads the number of labelled rows."""
    programs = 1
    for size in p.grid:
        programs *= size
    return {"count_ptr": Moved(INT32 * programs, INT32 if programs else 0)}


@form("linear_cross_entropy._compact")
def _(p: SimpleNamespace) -> Step:
    writes = {
        "rows_ptr": once(p.labelled * INT32),
        "labels_ptr": once(p.labelled * INT32),
        "slots_ptr": once(p.n * INT32),
        "losses_ptr": once((p.n - p.labelled) * F32),
        "count_ptr": once(INT32),
    }
    return Step("compact", {"target_ptr": once(p.n * INT64)}, writes)


@form("linear_cross_entropy._logits")
def _(p: SimpleNamespace) -> Step:
    mine, panels, e = _mine(p), cdiv(p.classes, p.PANEL), _size(p.x_ptr)
    width = p.PANEL * p.PANELS
    tiles_m, tiles_n = cdiv(mine, p.BLOCK_M), cdiv(p.classes, width)
    padded, any_rows = tiles_m * p.BLOCK_M, mine > 0  # beyond the end, the last row or class is read again
    reads = {
        **_count(p),
        "x_ptr": Moved(tiles_n * padded * p.size * e, mine * p.size * e),
        "weight_ptr": Moved(tiles_m * tiles_n * width * p.size * e, any_rows * p.classes * p.size * e),
        "rows_ptr": Moved(tiles_n * padded * INT32, mine * INT32),
        "labels_ptr": Moved(tiles_n * padded * INT32, mine * INT32),
    }
    if p.bias_ptr is not None:
        reads["bias_ptr"] = Moved(tiles_m * p.classes * _size(p.bias_ptr), any_rows * p.classes * _size(p.bias_ptr))
    if p.class_weight_ptr is not None and p.panel_total_ptr is not None:
        reads["class_weight_ptr"] = Moved(tiles_m * p.classes * F32, any_rows * p.classes * F32)
    state = once(panels * mine * F32)
    writes = {"panel_max_ptr": state, "panel_sum_ptr": state, "picked_ptr": once(mine * F32)}
    if p.panel_total_ptr is not None:
        writes["panel_total_ptr"] = state
    if p.stash_ptr is not None:
        writes["stash_ptr"] = once(mine * panels * p.PANEL * _size(p.stash_ptr))
    return Step("logits", reads, writes, flops=2 * mine * p.classes * p.size)


@form("linear_cross_entropy._losses")
def _(p: SimpleNamespace) -> Step:
    mine = _mine(p)
    state, number = once(p.panels * mine * F32), once(mine * F32)
    reads = {
        **_count(p),
        "panel_max_ptr": state,
        "panel_sum_ptr": state,
        "picked_ptr": number,
        "labels_ptr": number,
        "rows_ptr": number,
    }
    if p.panel_total_ptr is not None:
        reads["panel_total_ptr"] = state
    reads |= _class_weights(p, mine, smoothed=0, programs=2 * p.grid[0])
    writes = {"row_max_ptr": number, "sum_exp_ptr": number, "losses_ptr": number}
    if p.lse_ptr is not None:
        writes["lse_ptr"] = number
    return Step("losses", reads, writes)


@form("linear_cross_entropy._gradient")
def _(p: SimpleNamespace) -> Step:
    mine, (tiles, row_programs) = _mine(p), p.grid
    number, columns = _repeated(mine * F32, tiles), tiles * p.PANEL
    reads = {
        **_count(p),
        "stash_ptr": once(mine * columns * _size(p.stash_ptr)),
        "panel_max_ptr": once(tiles * mine * F32),
        "row_max_ptr": number,
        "sum_exp_ptr": number,
        "labels_ptr": number,
    }
    writes = {"gradient_ptr": once(mine * columns * _size(p.gradient_ptr))}
    if p.grad_ptr is not None:
        reads |= {"rows_ptr": number, "grad_ptr": _repeated(mine * _size(p.grad_ptr), tiles)}
    if p.lse_grad_ptr is not None:
        reads["lse_grad_ptr"] = _repeated(mine * _size(p.lse_grad_ptr), tiles)
    blocks = cdiv(mine, p.BLOCK_M)
    reads |= _class_weights(p, mine, times=tiles, smoothed=blocks, programs=tiles * blocks)
    if p.bias_gradient_ptr is not None:
        writes["bias_gradient_ptr"] = _repeated(p.classes * F32, row_programs)
        if p.ADD:
            reads["bias_gradient_ptr"] = _repeated(p.classes * F32, row_programs)
    if p.largest_ptr is not None:
        writes["largest_ptr"] = once(tiles * cdiv(mine, p.PANEL) * F32)
    return Step("gradient", reads, writes)


@form("linear_cross_entropy._grad_hidden")
def _(p: SimpleNamespace) -> Step:
    mine, blocks = _mine(p), cdiv(p.classes, p.BLOCK_K)
    tiles_m, tiles_n = cdiv(mine, p.BLOCK_M), cdiv(p.size, p.BLOCK_N)
    p.parts = max(p.grid[0] // max(tiles_m * tiles_n, 1), 1)
    g, w, columns = _size(p.gradient_ptr), _size(p.weight_ptr), blocks * p.BLOCK_K
    reads = {
        **_count(p),
        "gradient_ptr": Moved(tiles_m * p.BLOCK_M * tiles_n * columns * g, mine * columns * g),
        "weight_ptr": Moved(tiles_m * columns * p.size * w, (mine > 0) * p.classes * p.size * w),
    }
    out = once(p.parts * mine * p.size * F32)
    writes = {"slice_count_ptr": once(INT32), "out_ptr" if p.parts == 1 else "slices_ptr": out}
    return Step("dX", reads, writes, flops=2 * mine * p.classes * p.size)


@form("linear_cross_entropy._add_slices")
def _(p: SimpleNamespace) -> Step:
    reads = {"slice_count_ptr": _count(p)["count_ptr"]}
    if p.parts == 1:
        return Step("add slices", reads)
    elements = _mine(p) * p.size
    reads |= {**_count(p), "slices_ptr": once(p.parts * elements * F32)}
    return Step("add slices", reads, {"out_ptr": once(elements * F32)})


@form("linear_cross_entropy._grad_weight")
def _(p: SimpleNamespace) -> Step:
    mine, reads = _mine(p), _count(p)
    if p.ADD and mine == 0:
        return Step("dW", reads)
    tiles_v, tiles_n, blocks = cdiv(p.classes, p.BLOCK_M), cdiv(p.size, p.BLOCK_N), cdiv(mine, p.BLOCK_K)
    g, e, padded = _size(p.gradient_ptr), _size(p.x_ptr), blocks * p.BLOCK_K
    out = once(p.classes * p.size * F32)
    reads |= {
        "gradient_ptr": _repeated(mine * tiles_v * p.BLOCK_M * g, tiles_n),
        "rows_ptr": Moved(tiles_v * tiles_n * padded * INT32, mine * INT32),
        "x_ptr": Moved(tiles_v * padded * p.size * e, mine * p.size * e),
    }
    if p.ADD:
        reads["out_ptr"] = out
    return Step("dW", reads, {"out_ptr": out}, flops=2 * mine * p.classes * p.size)


@form("linear_cross_entropy._finish")
def _(p: SimpleNamespace) -> Step:
    (tiles_n, tiles_d), rows = p.grid, p.n if p.slots_ptr is None else p.labelled
    reads = {"source_ptr": once(rows * p.size * F32)}
    if p.slots_ptr is not None:
        reads["slots_ptr"] = _repeated(p.n * INT32, tiles_d)
    if p.grad_ptr is not None:
        size = _size(p.grad_ptr)
        reads["grad_ptr"] = _repeated(rows * size, tiles_d) if p.BY_ROW else _repeated(size, tiles_n * tiles_d)
    return Step("finish", reads, {"out_ptr": once(p.n * p.size * _size(p.out_ptr))})


# cross_entropy


@form("cross_entropy._forward")
def _(p: SimpleNamespace) -> Step:
    e = _size(p.logits_ptr)
    row = p.labelled * p.classes * e
    reads = {"logits_ptr": Moved(row + p.labelled * e, row), "target_ptr": once(p.n * INT64)}  # z_t is requested twice
    reads |= _class_weights(p, p.labelled, smoothed=p.labelled, programs=2 * p.grid[0])
    return Step("forward", reads, dict.fromkeys(("losses_ptr", "row_max_ptr", "sum_exp_ptr"), once(p.n * F32)))


@form("cross_entropy._backward")
def _(p: SimpleNamespace) -> Step:
    reads = {
        "logits_ptr": once(p.labelled * p.classes * _size(p.logits_ptr)),
        "target_ptr": once(p.n * INT64),
        "grad_ptr": Moved(p.labelled * _size(p.grad_ptr), (p.labelled if p.grad_stride else 1) * _size(p.grad_ptr)),
        "row_max_ptr": once(p.labelled * F32),
        "sum_exp_ptr": once(p.labelled * F32),
    }
    if p.lse_grad_ptr is not None:
        size = _size(p.lse_grad_ptr)
        reads["lse_grad_ptr"] = Moved(p.labelled * size, (p.labelled if p.lse_grad_stride else 1) * size)
    reads |= _class_weights(p, p.labelled, smoothed=p.labelled, programs=p.grid[0])
    return Step("backward", reads, {"gradient_ptr": once(p.n * p.classes * _size(p.gradient_ptr))})


# Whole ops at full size


def linear_steps(
    linears: Iterable[Linear], target: str, tokens: int = TOKENS, dtype: torch.dtype = torch.bfloat16
) -> list[Step]:
    """A model's LoRA linears with dropout, forward and backward, on a chip of the family `target`."""
    steps = []
    for linear in linears:
        with launch.recording(target) as recorded:
            launches.call_lora_linear(linear, tokens, dtype)
        steps += steps_of(list(recorded) * linear.count)
    return steps


def head_steps(head: Head, target: str, tokens: int = TOKENS, dtype: torch.dtype = torch.bfloat16) -> list[Step]:
    """A frozen head, its mean loss forward and backward."""
    with launch.recording(target) as recorded:
        launches.call_linear_cross_entropy(head.vocabulary, head.hidden, tokens, dtype, bias=head.bias)
    sum_of_losses = Step("sum", {"losses": once(tokens * F32)}, {"loss": once(F32)})
    return [*steps_of(recorded, head.rows(tokens)), sum_of_losses]


def cross_entropy_steps(
    classes: int, target: str, tokens: int = TOKENS, dtype: torch.dtype = torch.bfloat16
) -> list[Step]:
    """Losses of logits, all labelled, and their gradient."""
    with launch.recording(target) as recorded:
        launches.call_cross_entropy(classes, tokens, dtype)
    return steps_of(recorded, tokens)


def linears_saved(linears: Iterable[Linear], tokens: int = TOKENS, rank: int = RANK, itemsize: int = 2) -> float:
    """Bytes of t, which all layers save for backward besides x."""
    return sum(linear.count * tokens * down_columns([rank]) * len(linear.outputs) * itemsize for linear in linears)
