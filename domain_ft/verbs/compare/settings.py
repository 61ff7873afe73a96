"""The settings of `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from domain_ft.checking import REQUIRED
from domain_ft.verbs.groups import ScreenOptions, Seed


@dataclass(frozen=True, kw_only=True)
class CompareSettings(ScreenOptions, group="Runs"):
    """Compare finished runs with the first: is each better or worse, or is no difference shown?"""

    positional: ClassVar[tuple[str, ...]] = ("runs",)

    runs: tuple[str, ...] = REQUIRED
    """The run folders. The others are compared with the first."""

    output: Path | None = None
    """A folder for result.json and report.html."""

    examples: bool = True
    """For runs of `classify`, list the test examples that only one of two runs got right: their ids, their labels and
    both predictions. --no-examples leaves them out."""

    seed: Seed = 0
    """The seed of the bootstrap, for intervals and p-values."""
