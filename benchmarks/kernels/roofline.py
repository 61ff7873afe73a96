"""The least time that a chip can take for an op's traffic and FLOPs, from the chip's stated rates.

    time = max(FLOPs / tensor cores, compulsory bytes / memory, requested bytes / L2)

Real launches take longer. The time shows which of the three limits an op, and how two implementations compare. L1
caches are assumed to serve nothing. A cuBLAS call is counted as if it requested its operands once, whatever its tiles,
so a peer's L2 time is an underestimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from traffic import Total

L2_BYTES_PER_CLOCK = 64
"""The most bytes per clock between a processor and the L2 cache, on any of the chips."""


@dataclass(frozen=True)
class Chip:
    """A GPU's stated rates.

    Attributes:
        name: the common name.
        flops: dense bfloat16 FLOP/s on the tensor cores.
        memory: bytes per second.
        processors: streaming multiprocessors or compute units.
        clock: boost clock in Hz.
    """

    name: str
    flops: float
    memory: float
    processors: int
    clock: float

    @property
    def l2(self) -> float:
        """Maximum bytes per second between the processors and the L2 cache."""
        return self.processors * L2_BYTES_PER_CLOCK * self.clock


CHIPS = (
    Chip("A100", 312e12, 2.04e12, 108, 1.41e9),
    Chip("H100", 989e12, 3.35e12, 132, 1.83e9),
    Chip("H200", 989e12, 4.80e12, 132, 1.83e9),
    Chip("B200", 2250e12, 8.00e12, 148, 1.85e9),
    Chip("MI300X", 1307e12, 5.30e12, 304, 2.10e9),
)


@dataclass(frozen=True)
class Prediction:
    """Seconds that each of the three resources needs alone."""

    compute: float
    memory: float
    cache: float

    @property
    def seconds(self) -> float:
        """The least time."""
        return max(self.compute, self.memory, self.cache)

    @property
    def bound(self) -> str:
        """The binding resource: `compute`, `memory` or `cache`."""
        return max(("compute", "memory", "cache"), key=lambda name: float(getattr(self, name)))


def predict(chip: Chip, amount: Total) -> Prediction:
    """The least seconds for `amount` on `chip`, by resource."""
    return Prediction(amount.flops / chip.flops, amount.compulsory / chip.memory, amount.requested / chip.l2)
