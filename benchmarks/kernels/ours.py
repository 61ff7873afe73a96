"""What our own launches move: a closed form for each kernel, from the launch's parameters.

A form says, for each tensor, how often the grid's programs ask for it (tiles of the *other* dimension, as in any tiled
product) and how much of it is distinct. Only one thing is not in the parameters: how many rows have a label.
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

from domain_ft_kernels.triton_backend import launch
from domain_ft_kernels.triton_backend.launch import Launch
from domain_ft_kernels.triton_backend.lora_linear import down_columns

F32, INT32, INT64 = 4, 4, 8

Moves = dict[str, Moved]
Form = Callable[[SimpleNamespace], Step]
FORMS: dict[str, Form] = {}
"""By the kernel's module and name, such as `lora_linear._down`."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def form(kernel: str) -> Callable[[Form], Form]:
    """Enter a function as the form of `kernel`."""

    def enter(function: Form) -> Form:
        FORMS[kernel] = function
        return function

    return enter


def steps_of(recorded: Iterable[Launch], labelled: int | None = None) -> list[Step]:
    """The forms of these launches, in order; `labelled` rows have a label (all that there are, if None)."""
    steps, parts = [], 1
    for entry in recorded:
        function = entry.kernel.fn
        arguments = dict(zip(inspect.signature(function).parameters, entry.arguments, strict=False))
        p = SimpleNamespace(**arguments, **entry.constants, grid=entry.grid, labelled=labelled, parts=parts)
        steps.append(FORMS[f"{function.__module__.rpartition('.')[2]}.{function.__name__}"](p))
        parts = p.parts  # what _grad_hidden cut its sums into, for the launch that adds them
    return steps


def _size(tensor: Tensor) -> int:
    return tensor.element_size()


def _repeated(count: float, times: float) -> Moved:
    """`count` bytes, asked for `times` over."""
    return Moved(count * times, count)


def _each(name: str, moves: Sequence[Moved]) -> Moves:
    """Of the tensors in a tuple."""
    return {f"{name}[{index}]": moved for index, moved in enumerate(moves)}


# lora_linear


@form("lora_linear._linear")
def _(p: SimpleNamespace) -> Step:
    e, tiles_m = _size(p.x), cdiv(p.m, p.BLOCK_M)
    tiles_n = [cdiv(n, p.BLOCK_N) for n in p.features]
    layers = [*zip(p.features, p.ranks, p.lora_as, p.lora_bs, tiles_n, strict=True)]
    widths = [down_columns([rank]) for rank in p.ranks]
    reads = {
        "x": _repeated(p.m * p.k * e, sum(tiles_n)),
        **_each("weights", [_repeated(n * p.k * e, tiles_m) for n in p.features]),
        **_each("lora_bs", [_repeated(n * r * _size(b), tiles_m) for n, r, _, b, _ in layers]),
    }
    writes = _each("ys", [once(p.m * n * e) for n in p.features])
    if p.HAS_BIAS:
        reads |= _each("biases", [_repeated(n * e, tiles_m) for n in p.features])
    flops = sum(2 * p.m * n * (p.k + r) for n, r, *_ in layers)
    if p.MAKE_DOWN:
        reads |= _each("lora_as", [_repeated(p.k * r * _size(a), tiles_m * tiles) for _, r, a, _, tiles in layers])
        writes["down"] = once(p.m * sum(widths) * e)
        flops += sum(2 * p.m * p.k * r for r in p.ranks)
    else:
        asked = sum(w * tiles for w, tiles in zip(widths, tiles_n, strict=True))
        reads["down"] = Moved(p.m * asked * e, p.m * sum(widths) * e)
    return Step("linear", reads, writes, flops)


@form("lora_linear._linear_dx")
def _(p: SimpleNamespace) -> Step:
    e, tiles_m, tiles_n = _size(p.dx), cdiv(p.m, p.BLOCK_M), cdiv(p.k, p.BLOCK_N)
    layers = [*zip(p.features, p.ranks, p.lora_as, p.lora_bs, strict=True)]
    down = p.m * down_columns(p.ranks) * e
    reads = {
        **_each("grads", [_repeated(p.m * n * e, tiles_n) for n in p.features]),
        **_each("weights", [_repeated(n * p.k * e, tiles_m) for n in p.features]),
        **_each("lora_as", [_repeated(p.k * r * _size(a), tiles_m) for _, r, a, _ in layers]),
    }
    writes = {"dx": once(p.m * p.k * e)}
    flops = sum(2 * p.m * p.k * (n + r) for n, r, *_ in layers)
    if p.MAKE_DOWN:
        reads |= _each("lora_bs", [_repeated(n * r * _size(b), tiles_m * tiles_n) for n, r, _, b in layers])
        writes["down"] = once(down)
        flops += sum(2 * p.m * n * r for n, r, *_ in layers)
    else:
        reads["down"] = _repeated(down, tiles_n)
    return Step("linear dx", reads, writes, flops)


@form("lora_linear._down")
def _(p: SimpleNamespace) -> Step:
    tiles_m, tiles_r = p.grid
    reads = {
        "left": _repeated(p.m * p.k * _size(p.left), tiles_r),
        **_each("smalls", [_repeated(p.k * r * _size(s), tiles_m) for r, s in zip(p.ranks, p.smalls, strict=True)]),
    }
    writes = {"down": once(p.m * down_columns(p.ranks) * _size(p.down))}
    return Step("down", reads, writes, flops=2 * p.m * p.k * sum(p.ranks))


@form("lora_linear._outer")
def _(p: SimpleNamespace) -> Step:
    _, tiles_r, chunks = p.grid
    layers = [*zip(p.lefts, p.sizes, p.widths, strict=True)]
    row = _size(p.right) * p.m
    columns = {start + i for start, read in zip(p.starts, p.reads, strict=True) for i in range(read)}
    asked = sum(cdiv(size, p.BLOCK_C) * read for size, read in zip(p.sizes, p.reads, strict=True))
    reads = {
        **_each("lefts", [_repeated(p.m * size * _size(left), tiles_r) for left, size, _ in layers]),
        "right": Moved(asked * row, len(columns) * row),
    }
    writes = _each("partials", [once(chunks * size * width * F32) for _, size, width in layers])
    if p.BIAS:
        writes |= _each("bias_partials", [once(chunks * size * F32) for size in p.sizes])
    return Step("outer", reads, writes, flops=sum(2 * p.m * size * width for _, size, width in layers))


@form("lora_linear._add_up")
def _(p: SimpleNamespace) -> Step:
    reads = _each("partials", [once(c * size * F32) for c, size in zip(p.chunks, p.sizes, strict=True)])
    writes = _each("outputs", [once(size * _size(out)) for size, out in zip(p.sizes, p.outputs, strict=True)])
    return Step("add up", reads, writes)


# linear_cross_entropy


def _mine(p: SimpleNamespace) -> int:
    """Labelled rows of the launch's chunk."""
    return max(0, min(p.labelled - p.first, p.chunk))


def _count(p: SimpleNamespace) -> Moves:
    """Every program asks how many rows there are."""
    programs = 1
    for size in p.grid:
        programs *= size
    return {"count": Moved(INT32 * programs, INT32 if programs else 0)}


@form("linear_cross_entropy._compact")
def _(p: SimpleNamespace) -> Step:
    writes = {
        "rows": once(p.labelled * INT32),
        "labels": once(p.labelled * INT32),
        "slots": once(p.n * INT32),
        "losses": once((p.n - p.labelled) * F32),
        "count": once(INT32),
    }
    return Step("compact", {"target": once(p.n * INT64)}, writes)


@form("linear_cross_entropy._logits")
def _(p: SimpleNamespace) -> Step:
    mine, panels, e = _mine(p), cdiv(p.classes, p.PANEL), _size(p.x)
    width = p.PANEL * p.PANELS
    tiles_m, tiles_n = cdiv(mine, p.BLOCK_M), cdiv(p.classes, width)
    padded, any_rows = tiles_m * p.BLOCK_M, mine > 0  # beyond the last row, or class, that one is read again
    reads = {
        **_count(p),
        "x": Moved(tiles_n * padded * p.size * e, mine * p.size * e),
        "weight": Moved(tiles_m * tiles_n * width * p.size * e, any_rows * p.classes * p.size * e),
        "rows": Moved(tiles_n * padded * INT32, mine * INT32),
        "labels": Moved(tiles_n * padded * INT32, mine * INT32),
    }
    if p.bias is not None:
        reads["bias"] = Moved(tiles_m * p.classes * _size(p.bias), any_rows * p.classes * _size(p.bias))
    state = once(panels * mine * F32)
    writes = {"peaks": state, "masses": state, "picked": once(mine * F32)}
    if p.totals is not None:
        writes["totals"] = state
    if p.stash is not None:
        writes["stash"] = once(mine * panels * p.PANEL * _size(p.stash))
    return Step("logits", reads, writes, flops=2 * mine * p.classes * p.size)


@form("linear_cross_entropy._losses")
def _(p: SimpleNamespace) -> Step:
    mine = _mine(p)
    state, number = once(p.panels * mine * F32), once(mine * F32)
    reads = {**_count(p), "peaks": state, "masses": state, "picked": number, "labels": number, "rows": number}
    if p.totals is not None:
        reads["totals"] = state
    return Step("losses", reads, {"row_peaks": number, "row_masses": number, "losses": number})


@form("linear_cross_entropy._gradient")
def _(p: SimpleNamespace) -> Step:
    mine, (tiles, walks) = _mine(p), p.grid
    number, columns = _repeated(mine * F32, tiles), tiles * p.PANEL
    reads = {
        **_count(p),
        "stash": once(mine * columns * _size(p.stash)),
        "peaks": once(tiles * mine * F32),
        "row_peaks": number,
        "row_masses": number,
        "labels": number,
    }
    writes = {"gradient": once(mine * columns * _size(p.gradient))}
    if p.grad is not None:
        reads |= {"rows": number, "grad": _repeated(mine * _size(p.grad), tiles)}
    if p.bias_gradient is not None:
        writes["bias_gradient"] = _repeated(p.classes * F32, walks)
        if p.ADD:
            reads["bias_gradient"] = _repeated(p.classes * F32, walks)
    if p.largest is not None:
        writes["largest"] = once(tiles * cdiv(mine, p.PANEL) * F32)
    return Step("gradient", reads, writes)


@form("linear_cross_entropy._grad_hidden")
def _(p: SimpleNamespace) -> Step:
    mine, blocks = _mine(p), cdiv(p.classes, p.BLOCK_K)
    tiles_m, tiles_n = cdiv(mine, p.BLOCK_M), cdiv(p.size, p.BLOCK_N)
    p.parts = max(p.grid[0] // max(tiles_m * tiles_n, 1), 1)
    g, w, columns = _size(p.gradient), _size(p.weight), blocks * p.BLOCK_K
    reads = {
        **_count(p),
        "gradient": Moved(tiles_m * p.BLOCK_M * tiles_n * columns * g, mine * columns * g),
        "weight": Moved(tiles_m * columns * p.size * w, (mine > 0) * p.classes * p.size * w),
    }
    out = once(p.parts * mine * p.size * F32)
    writes = {"slice_count": once(INT32), "out" if p.parts == 1 else "slices": out}
    return Step("dX", reads, writes, flops=2 * mine * p.classes * p.size)


@form("linear_cross_entropy._add_slices")
def _(p: SimpleNamespace) -> Step:
    reads = {"slice_count": _count(p)["count"]}
    if p.parts == 1:
        return Step("add slices", reads)
    elements = _mine(p) * p.size
    reads |= {**_count(p), "slices": once(p.parts * elements * F32)}
    return Step("add slices", reads, {"out": once(elements * F32)})


@form("linear_cross_entropy._grad_weight")
def _(p: SimpleNamespace) -> Step:
    mine, reads = _mine(p), _count(p)
    if p.ADD and mine == 0:
        return Step("dW", reads)
    tiles_v, tiles_n, blocks = cdiv(p.classes, p.BLOCK_M), cdiv(p.size, p.BLOCK_N), cdiv(mine, p.BLOCK_K)
    g, e, padded = _size(p.gradient), _size(p.x), blocks * p.BLOCK_K
    out = once(p.classes * p.size * F32)
    reads |= {
        "gradient": _repeated(mine * tiles_v * p.BLOCK_M * g, tiles_n),
        "rows": Moved(tiles_v * tiles_n * padded * INT32, mine * INT32),
        "x": Moved(tiles_v * padded * p.size * e, mine * p.size * e),
    }
    if p.ADD:
        reads["out"] = out
    return Step("dW", reads, {"out": out}, flops=2 * mine * p.classes * p.size)


@form("linear_cross_entropy._finish")
def _(p: SimpleNamespace) -> Step:
    (tiles_n, tiles_d), rows = p.grid, p.n if p.slots is None else p.labelled
    reads = {"source": once(rows * p.size * F32)}
    if p.slots is not None:
        reads["slots"] = _repeated(p.n * INT32, tiles_d)
    if p.grad is not None:
        size = _size(p.grad)
        reads["grad"] = _repeated(rows * size, tiles_d) if p.BY_ROW else _repeated(size, tiles_n * tiles_d)
    return Step("finish", reads, {"out": once(p.n * p.size * _size(p.out))})


# cross_entropy


@form("cross_entropy._forward")
def _(p: SimpleNamespace) -> Step:
    e = _size(p.logits)
    row = p.labelled * p.classes * e
    reads = {"logits": Moved(row + p.labelled * e, row), "target": once(p.n * INT64)}  # z_t is asked for again
    return Step("forward", reads, dict.fromkeys(("losses", "peaks", "masses"), once(p.n * F32)))


@form("cross_entropy._backward")
def _(p: SimpleNamespace) -> Step:
    reads = {
        "logits": once(p.labelled * p.classes * _size(p.logits)),
        "target": once(p.n * INT64),
        "grad": Moved(p.labelled * _size(p.grad), (p.labelled if p.grad_stride else 1) * _size(p.grad)),
        "peaks": once(p.labelled * F32),
        "masses": once(p.labelled * F32),
    }
    return Step("backward", reads, {"gradient": once(p.n * p.classes * _size(p.gradient))})


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
    """Bytes kept for backward beside x: t."""
    return sum(linear.count * tokens * down_columns([rank]) * len(linear.outputs) * itemsize for linear in linears)
