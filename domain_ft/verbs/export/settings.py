"""The settings of `export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from domain_ft.checking import REQUIRED
from domain_ft.verbs.groups import ScreenOptions


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ScreenOptions, group="Model"):
    """Merge a run's adapter into its base model, and write a model that transformers can load."""

    model: str = REQUIRED
    """The run folder."""

    output: Path = REQUIRED
    """The folder to write to. It must be new or empty."""
