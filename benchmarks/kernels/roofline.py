"""The least time that a chip can take for what an op moves and computes, from the chip's stated rates.

    time = max(FLOPs / tensor cores, compulsory bytes / memory, requested bytes / L2)

No launch reaches it; it says which of the three an op is bound by, and how two ways of doing it compare. A call of
cuBLAS counts as if it asked for its operands once, whatever its tiles, so a peer's L2 time is rather too short.
"""

from __future__ import annotations

from dataclasses import dataclass

from traffic import Total

L2_BYTES_PER_CLOCK = 64
"""What a processor's port to the L2 cache carries in a clock: so the L2 rate below is an upper bound on every chip."""


@dataclass(frozen=True)
class Chip:
    """A GPU as its maker states it.

    Attributes:
        name: as people call it.
        flops: dense bfloat16 operations a second on the tensor cores.
        memory: bytes a second.
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
        """Bytes a second between the processors and the L2 cache, at most."""
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
    """Seconds that each of the three would take alone."""

    compute: float
    memory: float
    cache: float

    @property
    def seconds(self) -> float:
        """The least time."""
        return max(self.compute, self.memory, self.cache)

    @property
    def bound(self) -> str:
        """What the time is spent on: `compute`, `memory` or `cache`."""
        return max(("compute", "memory", "cache"), key=lambda name: float(getattr(self, name)))


def predict(chip: Chip, amount: Total) -> Prediction:
    """The least times for `amount` on `chip`."""
    return Prediction(amount.flops / chip.flops, amount.compulsory / chip.memory, amount.requested / chip.l2)
