"""The settings of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from domain_ft.checking import REQUIRED
from domain_ft.verbs.groups import CorpusOptions, MachineOptions, MeasureOptions, ScreenOptions, TokenOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(CorpusOptions, TokenOptions, MeasureOptions, MachineOptions, ScreenOptions, group="Model"):
    """Score models and runs side by side: language models on the same held-out text with the same masks, or runs of
    `classify` on the test examples of a task.
    """

    corpus: str | None = None  # type: ignore[assignment]
    """The text that language models are scored on: what `adapt --corpus` takes."""

    task: str | None = None
    """The task that runs of `classify` are scored on, such as legal/license-category."""

    test: str | None = None
    """A file of labelled examples that runs of `classify` are scored on, with the fields that they were trained on."""

    model: tuple[str, ...] = REQUIRED
    """A model or a run folder. Give it several times to compare; the first is what the others are compared with."""

    output: Path | None = None
    """A folder to write result.json and report.html to."""
