"""How long the implementations of an op take on this machine. A problem's results are checked before it is timed.

Implementations take turns: each round calls every implementation, so that a machine that slows down or is shared slows
all of them alike. The results are medians over the rounds, of times and of the ratio to our backend in the same round.
Rates are compared with the measured rates of a copy and of a matrix product. On a GPU, calls are timed by CUDA events,
with a cold L2 cache, and torch multiplies float32 without TF32. Without a GPU, the CPU backends are timed at small
sizes, by wall-clock time.
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

ROUNDS = {"cuda": 30, "cpu": 5}
"""Timed rounds, after one warm-up round."""

OWN = ("triton", "torch")
"""Our backends. Ratios are to the first of them that a problem has, which should be the fastest."""

L2_FLUSH_BYTES = 256 * 2**20
"""More than any chip's L2 cache; written before each call to evict the operands."""

ERROR_FACTOR = 2.0
"""The largest allowed error, as a multiple of the reference's error in the same type (plus the type's epsilon)."""


@dataclass(frozen=True)
class Time:
    """The result of one implementation of one problem.

    Attributes:
        op, case, tokens, dtype: of the problem.
        implementation: its name.
        error: the largest relative error of an output or gradient against the reference in a wider type; None if
            the implementation draws other dropout masks.
        correct: whether the error is within the limit (ERROR_FACTOR); true if it is None.
        forward_ms, both_ms: medians; `both` is forward and backward.
        ratio: time of forward and backward relative to our backend (see OWN) in the same round; the median.
        forward_spread, both_spread: from the 20th to the 80th percentile, as a share of the median.
        tflops: required FLOPs over `both_ms`; `of_matmul` is the share of the measured ceiling.
        gbytes: operands and gradients, counted once, over `both_ms`, in GB/s; `of_copy` likewise.
        peak_bytes: peak allocation beyond the operands; None on a CPU.
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
    ratio: float
    tflops: float
    of_matmul: float
    gbytes: float
    of_copy: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of this machine: bytes per second of a copy, and FLOP/s of a matrix product in each type."""

    copy: float
    matmul: dict[str, float]


def measure(ops: tuple[str, ...], device: torch.device) -> tuple[Ceilings, Iterator[Time]]:
    """The ceilings, and an iterator over the times as they are measured."""
    torch.set_float32_matmul_precision("highest")  # no TF32, in cuBLAS, torch.compile and the ceiling
    ceilings = _ceilings(device)
    full = device.type == "cuda"
    return ceilings, (row for p in problems(ops, device, full=full) for row in _times(p, ceilings, device))


def _ceilings(device: torch.device) -> Ceilings:
    on_gpu = device.type == "cuda"
    source = torch.randint(256, (2**30 if on_gpu else 2**26,), dtype=torch.uint8, device=device)
    out = torch.empty_like(source)
    calls: dict[str, Call] = {"copy": Call(lambda: out.copy_(source))}
    size = 8192 if on_gpu else 1024
    for dtype in (torch.bfloat16, torch.float16, torch.float32) if on_gpu else (torch.float32,):
        a = torch.randn(size, size, device=device).to(dtype)  # products of constants run faster
        calls[_name(dtype)] = Call(lambda a=a: a @ a)
    seconds = {name: statistics.median(taken) for name, taken in _rounds(calls, device).items()}
    copy = 2 * source.numel() / seconds.pop("copy")
    return Ceilings(copy, {name: 2 * size**3 / taken for name, taken in seconds.items()})


def _times(problem: Problem, ceilings: Ceilings, device: torch.device) -> Iterator[Time]:
    """Check every implementation of `problem`, then time those that support it, in turns."""
    print(f"{problem.op}: {problem.case}, {problem.tokens} tokens, {_name(problem.dtype)}", file=sys.stderr, flush=True)
    exact = _run(problem, "reference", problem.widened())
    errors = _errors(problem, exact)
    reference_error = _worst(_run(problem, "reference", problem.tensors), exact)
    allowed = ERROR_FACTOR * reference_error + torch.finfo(problem.dtype).eps
    given: Tensors = {}

    def prepare() -> None:
        given.clear()
        given.update(_leaves(problem, _fresh(problem)))

    calls: dict[str, Call] = {}
    for name in errors:
        forward = problem.implementations[name]
        calls[f"{name} forward"] = Call(lambda forward=forward: forward(given), prepare)
        calls[f"{name} both"] = Call(lambda forward=forward: _gradients(problem, forward(given), given), prepare)
    seconds = _rounds(calls, device)
    fastest = next((name for name in OWN if name in errors), "reference")
    dtype, moved = _name(problem.dtype), _bytes(problem)
    for name, error in errors.items():
        forward_seconds, both = seconds[f"{name} forward"], seconds[f"{name} both"]
        ratios = [one / ours for one, ours in zip(both, seconds[f"{fastest} both"], strict=True)]
        median = statistics.median(both)
        yield Time(
            op=problem.op,
            case=problem.case,
            tokens=problem.tokens,
            dtype=dtype,
            implementation=name,
            error=error,
            correct=error is None or error <= allowed,
            forward_ms=statistics.median(forward_seconds) * 1e3,
            forward_spread=_spread(forward_seconds),
            both_ms=median * 1e3,
            both_spread=_spread(both),
            ratio=statistics.median(ratios),
            tflops=problem.flops / median / 1e12,
            of_matmul=problem.flops / median / ceilings.matmul[dtype],
            gbytes=moved / median / 1e9,
            of_copy=moved / median / ceilings.copy,
            peak_bytes=_peak(calls[f"{name} both"]),
        )


def _errors(problem: Problem, exact: list[Tensor]) -> dict[str, float | None]:
    """The error of each implementation that supports `problem`; None for one that draws other dropout masks.

    Raises:
        Exception: one of ours fails. A failing peer is named and left out.
    """
    errors: dict[str, float | None] = {}
    for name in problem.implementations:
        try:
            found = _worst(_run(problem, name, _fresh(problem)), exact)
        except Exception as failure:
            if name in OWN:
                raise
            print(f"  {name} left out: {type(failure).__name__}: {failure}", file=sys.stderr)
            continue
        errors[name] = None if name in problem.unchecked else found
    return errors


def _leaves(problem: Problem, tensors: Tensors) -> Tensors:
    return {name: t.detach().requires_grad_(name in problem.differentiable) for name, t in tensors.items()}


def _fresh(problem: Problem) -> Tensors:
    return {name: t.clone() if name in problem.overwritten else t for name, t in problem.tensors.items()}


def _gradients(problem: Problem, outputs: list[Tensor], given: Tensors) -> tuple[Tensor, ...]:
    """The gradients of a loss, or of half the sum of the outputs' squares."""
    inputs = [given[name] for name in problem.differentiable]
    grads = [torch.ones_like(y) if y.dim() == 0 else y.detach() for y in outputs]
    return torch.autograd.grad(outputs, inputs, grads)


def _run(problem: Problem, name: str, tensors: Tensors) -> list[Tensor]:
    given = _leaves(problem, tensors)
    outputs = problem.implementations[name](given)
    return [*(y.detach() for y in outputs), *_gradients(problem, outputs, given)]


def _worst(actual: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error, in norm."""
    norm = torch.linalg.vector_norm
    return max(float(norm(a.to(e.dtype) - e) / norm(e)) for a, e in zip(actual, exact, strict=True))


def _bytes(problem: Problem) -> float:
    """Bytes of all operands and gradients, each once; outputs are not counted."""
    given = sum(t.numel() * t.element_size() for t in problem.tensors.values())
    gradients = sum(
        problem.tensors[name].numel() * problem.tensors[name].element_size() for name in problem.differentiable
    )
    return given + gradients


@dataclass(frozen=True)
class Call:
    """What is timed, and the untimed preparation before each call."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def _rounds(calls: dict[str, Call], device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call by round; in each round all calls take turns."""
    clock = _by_events if device.type == "cuda" else _by_clock
    taken: dict[str, list[Callable[[], float]]] = {name: [] for name in calls}
    for _ in range(ROUNDS[device.type] + 1):
        for name, call in calls.items():
            taken[name].append(clock(call))
    return {name: [seconds() for seconds in listed[1:]] for name, listed in taken.items()}


def _by_events(call: Call) -> Callable[[], float]:
    """Queue a call. The returned function waits for it and returns its seconds.

    It is called only after all calls are queued, so that the GPU does not wait for Python.
    """
    call.prepare()
    torch.empty(L2_FLUSH_BYTES, dtype=torch.uint8, device="cuda").zero_()
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    call.run()
    ended.record()

    def seconds() -> float:
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3

    return seconds


def _by_clock(call: Call) -> Callable[[], float]:
    call.prepare()
    began = time.perf_counter()
    call.run()
    taken = time.perf_counter() - began
    return lambda: taken


def _peak(call: Call) -> int | None:
    if not torch.cuda.is_available():
        return None
    call.prepare()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call.run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _spread(seconds: list[float]) -> float:
    fifths = statistics.quantiles(seconds, n=5)
    return (fifths[-1] - fifths[0]) / statistics.median(seconds)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def plot(rows: list[Time], path: Path) -> None:
    """Plot forward and backward, a bar per implementation: cross_entropy at all sizes, others with the most tokens."""
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
        colours = ["tab:orange" if e.implementation in OWN else "tab:gray" for e in entries]
        axis.barh([e.implementation for e in entries], [e.both_ms for e in entries], color=colours)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("ms, forward and backward", fontsize=8)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def as_dict(row: Time) -> dict[str, Any]:
    """For the JSON."""
    return dataclasses.asdict(row)
