"""The settings of `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from domain_ft.checking import REQUIRED
from domain_ft.verbs.groups import ScreenOptions, Seed


@dataclass(frozen=True, kw_only=True)
class CompareSettings(ScreenOptions, group="Runs"):
    """Put finished runs side by side: is one better than the first, worse, or is no difference shown?"""

    positional: ClassVar[tuple[str, ...]] = ("runs",)

    runs: tuple[str, ...] = REQUIRED
    """The run folders. The first is what the others are compared with."""

    output: Path | None = None
    """A folder to write result.json and report.html to."""

    examples: bool = True
    """List test examples of which only one model was right, by id with their labels; --no-examples leaves them out."""

    seed: Seed = 0
    """Of the draws behind the intervals."""
