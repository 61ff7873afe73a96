"""The settings of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from domain_ft.checking import REQUIRED
from domain_ft.verbs.groups import CorpusOptions, MachineOptions, MeasureOptions, ScreenOptions, TokenOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(
    CorpusOptions, TokenOptions, MeasureOptions, MachineOptions, ScreenOptions, group="What to score"
):
    """Score models and runs side by side: language models on the same held-out text with the same masks, or runs of
    `classify` on the test examples of a task."""

    corpus: str | None = None  # type: ignore[assignment]
    """The text to score language models on, as for `adapt --corpus`."""

    task: str | None = None
    """The task to score runs of `classify` on, such as legal/license-category."""

    test: str | None = None
    """A file of labelled examples to score runs of `classify` on, with the same fields as their training data."""

    model: tuple[str, ...] = REQUIRED
    """A model or a run folder. Can be given several times; the others are compared with the first."""

    output: Path | None = None
    """A folder for result.json and report.html."""
