"""The settings of `bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from domain_ft.checking import REQUIRED, Settings


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings, group="Benchmark"):
    """Run a benchmark.

    Options after -- are passed to the benchmark: `domain-ft bench kernels -- --help` shows them.
    """

    positional: ClassVar[tuple[str, ...]] = ("what",)

    what: Literal[
        "kernels", "training", "memory", "corpus", "scaling", "startup", "tasks", "adaptation", "few-labels"
    ] = REQUIRED
    """The benchmark."""

    arguments: tuple[str, ...] = ()
    """The benchmark's arguments."""
