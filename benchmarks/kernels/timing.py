"""How long the implementations of an op take on this machine, each checked before it is timed.

On a GPU: CUDA events around each call, a cold L2 cache, and rates beside the measured ceilings of a copy and a matrix
product. Without one: the CPU backends at small sizes, by the clock.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from problems import Problem, Tensors, problems
from torch import Tensor

REPEATS = {"cuda": 30, "cpu": 5}
L2_FLUSH_BYTES = 256 * 2**20
"""More than any chip's L2 cache: written before each call, so that none finds its operands there."""

ERROR_FACTOR = 2.0
"""How much larger than the reference's own error in the same type an implementation of ours may be."""


@dataclass(frozen=True)
class Time:
    """One implementation of one problem.

    Attributes:
        error: the largest relative error of an output or gradient against the reference in a wider type; None where
            the implementation draws its own dropout.
        correct: whether that is within ERROR_FACTOR of the reference's own error.
        forward_ms, both_ms: medians; `both` is forward and backward.
        forward_spread, both_spread: from the 20th to the 80th percentile, as a share of the median.
        tflops: what the maths needs over `both_ms`; `of_matmul` is that as a share of the measured ceiling.
        gbytes: operands, outputs and gradients, once, over `both_ms`, in GB/s; `of_copy` likewise.
        peak_bytes: the most that was allocated beyond the operands; None on a CPU.
    """

    op: str
    case: str
    tokens: int
    dtype: str
    implementation: str
    error: float | None
    correct: bool
    forward_ms: float
    forward_spread: float
    both_ms: float
    both_spread: float
    tflops: float
    of_matmul: float
    gbytes: float
    of_copy: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches: bytes a second of a copy, and operations a second of a product in each type."""

    copy: float
    matmul: dict[str, float]


def measure(ops: tuple[str, ...], device: torch.device) -> tuple[Ceilings, Iterator[Time]]:
    """The ceilings, and the times one by one as they are had."""
    torch.backends.cuda.matmul.allow_tf32 = False
    ceilings = _ceilings(device)
    full = device.type == "cuda"
    return ceilings, (row for p in problems(ops, device, full=full) for row in _times(p, ceilings, device))


def _ceilings(device: torch.device) -> Ceilings:
    on_gpu = device.type == "cuda"
    source = torch.randint(256, (2**30 if on_gpu else 2**26,), dtype=torch.uint8, device=device)
    out, clock = torch.empty_like(source), _clock(device)
    copy = 2 * source.numel() / statistics.median(clock(lambda: out.copy_(source), lambda: None))
    size, products = (8192 if on_gpu else 1024), {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32) if on_gpu else (torch.float32,):
        a = torch.randn(size, size, device=device).to(dtype)  # products of constants run faster
        products[_name(dtype)] = 2 * size**3 / statistics.median(clock(lambda a=a: a @ a, lambda: None))
    return Ceilings(copy, products)


def _times(problem: Problem, ceilings: Ceilings, device: torch.device) -> Iterator[Time]:
    exact = _run(problem, "reference", problem.widened())
    own = _worst(_run(problem, "reference", problem.tensors), exact)
    smallest = torch.finfo(problem.dtype).eps
    clock = _clock(device)
    for name in problem.implementations:
        print(f"{problem.op}: {problem.case}, {problem.tokens} tokens, {name}", file=sys.stderr, flush=True)
        try:
            error = None if name in problem.unchecked else _worst(_run(problem, name, _fresh(problem)), exact)
        except Exception as failure:  # a peer that cannot do this case is named, and the rest goes on
            print(f"  skipped: {type(failure).__name__}: {failure}", file=sys.stderr)
            if name in ("triton", "torch"):
                raise
            continue
        yield _time(problem, name, error, error is None or error <= ERROR_FACTOR * own + smallest, ceilings, clock)


def _time(problem: Problem, name: str, error: float | None, correct: bool, ceilings: Ceilings, clock: Clock) -> Time:
    given: Tensors = {}

    def prepare() -> None:
        given.clear()
        given.update(_leaves(problem, _fresh(problem)))

    implementation = problem.implementations[name]
    forward = clock(lambda: implementation(given), prepare)
    both = clock(lambda: _gradients(problem, implementation(given), given), prepare)
    seconds, moved = statistics.median(both), _bytes(problem)
    dtype = _name(problem.dtype)
    return Time(
        op=problem.op,
        case=problem.case,
        tokens=problem.tokens,
        dtype=dtype,
        implementation=name,
        error=error,
        correct=correct,
        forward_ms=statistics.median(forward) * 1e3,
        forward_spread=_spread(forward),
        both_ms=seconds * 1e3,
        both_spread=_spread(both),
        tflops=problem.flops / seconds / 1e12,
        of_matmul=problem.flops / seconds / ceilings.matmul[dtype],
        gbytes=moved / seconds / 1e9,
        of_copy=moved / seconds / ceilings.copy,
        peak_bytes=_peak(lambda: _gradients(problem, implementation(given), given), prepare),
    )


def _leaves(problem: Problem, tensors: Tensors) -> Tensors:
    return {name: t.detach().requires_grad_(name in problem.differentiable) for name, t in tensors.items()}


def _fresh(problem: Problem) -> Tensors:
    return {name: t.clone() if name in problem.spoilt else t for name, t in problem.tensors.items()}


def _gradients(problem: Problem, outputs: list[Tensor], given: Tensors) -> tuple[Tensor, ...]:
    """Of the outputs' sum of squares, or of a loss itself."""
    wanted = [given[name] for name in problem.differentiable]
    grads = [torch.ones_like(y) if y.dim() == 0 else y.detach() for y in outputs]
    return torch.autograd.grad(outputs, wanted, grads)


def _run(problem: Problem, name: str, tensors: Tensors) -> list[Tensor]:
    given = _leaves(problem, tensors)
    outputs = problem.implementations[name](given)
    return [*(y.detach() for y in outputs), *_gradients(problem, outputs, given)]


def _worst(actual: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error, by norms."""
    norm = torch.linalg.vector_norm
    return max(float(norm(a.to(e.dtype) - e) / norm(e)) for a, e in zip(actual, exact, strict=True))


def _bytes(problem: Problem) -> float:
    """All operands once, each output and each gradient once."""
    given = sum(t.numel() * t.element_size() for t in problem.tensors.values())
    gradients = sum(
        problem.tensors[name].numel() * problem.tensors[name].element_size() for name in problem.differentiable
    )
    return given + gradients


Clock = Callable[[Callable[[], object], Callable[[], object]], list[float]]
"""From a call, and what is to be done before each outside the time, to its seconds."""


def _clock(device: torch.device) -> Clock:
    return _by_events if device.type == "cuda" else _by_clock


def _by_events(call: Callable[[], object], prepare: Callable[[], object]) -> list[float]:
    flush = torch.empty(L2_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    pairs = []
    for _ in range(REPEATS["cuda"] + 3):
        prepare()
        flush.zero_()
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        call()
        ended.record()
        pairs.append((began, ended))
    torch.cuda.synchronize()
    return [began.elapsed_time(ended) / 1e3 for began, ended in pairs[3:]]


def _by_clock(call: Callable[[], object], prepare: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(REPEATS["cpu"] + 1):
        prepare()
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def _peak(call: Callable[[], object], prepare: Callable[[], object]) -> int | None:
    if not torch.cuda.is_available():
        return None
    prepare()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _spread(seconds: list[float]) -> float:
    fifths = statistics.quantiles(seconds, n=5)
    return (fifths[-1] - fifths[0]) / statistics.median(seconds)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def plot(rows: list[Time], path: Path) -> None:
    """Forward and backward of each problem at the most tokens, a bar an implementation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    most = max(row.tokens for row in rows)
    panels: dict[str, list[Time]] = {}
    for row in rows:
        if row.tokens == most or row.op == "cross_entropy":
            panels.setdefault(f"{row.case}, {row.tokens:,} tokens, {row.dtype}", []).append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5.5 * columns, 2.2 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, entries) in zip(axes.flat, panels.items(), strict=False):
        own = ["tab:orange" if e.implementation in ("triton", "torch") else "tab:gray" for e in entries]
        axis.barh([e.implementation for e in entries], [e.both_ms for e in entries], color=own)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("ms, forward and backward", fontsize=8)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def as_dict(row: Time) -> dict[str, Any]:
    """For the JSON."""
    return dataclasses.asdict(row)
