"""Bytes that each op moves and FLOPs that it computes: closed forms from the shapes, launch by launch.

Two counts, for every launch and tensor:

    requested   what all loads and stores request: the traffic that the caches must serve
    compulsory  the distinct bytes among them: what crosses the memory bus if caches serve every repeated access in a
                launch, and none between launches. A byte that is read and written counts twice.

`tests/kernels/test_traffic.py` compares the forms with a count of the real kernels' loads and stores at small sizes.
A call of PyTorch or cuBLAS is a launch whose operands are requested once, since its tiles are not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Moved:
    """Bytes of one tensor in one launch."""

    requested: float
    compulsory: float

    def __mul__(self, times: float) -> Moved:
        return Moved(self.requested * times, self.compulsory * times)


def once(count: float) -> Moved:
    """`count` bytes, each requested once."""
    return Moved(count, count)


@dataclass(frozen=True)
class Step:
    """One launch, or `times` equal launches.

    Attributes:
        name: the kernel or the operation.
        reads, writes: by tensor.
        flops: per launch; a multiply-add counts as two.
        times: how many launches.
    """

    name: str
    reads: dict[str, Moved] = field(default_factory=dict)
    writes: dict[str, Moved] = field(default_factory=dict)
    flops: float = 0.0
    times: float = 1


@dataclass(frozen=True)
class Total:
    """The sums over all launches.

    Attributes:
        requested, compulsory: bytes.
        flops: floating-point operations.
    """

    requested: float
    compulsory: float
    flops: float

    def __add__(self, other: Total) -> Total:
        return Total(self.requested + other.requested, self.compulsory + other.compulsory, self.flops + other.flops)


def total(steps: Iterable[Step]) -> Total:
    """The sum over all launches."""
    requested = compulsory = flops = 0.0
    for step in steps:
        for moved in (*step.reads.values(), *step.writes.values()):
            requested += step.times * moved.requested
            compulsory += step.times * moved.compulsory
        flops += step.times * step.flops
    return Total(requested, compulsory, flops)
