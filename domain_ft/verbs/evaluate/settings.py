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
    """Score models and runs side by side: language models on the same held-out text, or runs of `classify` on the
    same labelled examples."""

    corpus: str | None = None  # type: ignore[assignment]
    """The text to score language models on, as for `adapt --corpus`."""

    task: str | None = None
    """The task to score runs of `classify` on, such as legal/license-category."""

    test: str | None = None
    """A file of labelled examples to score runs of `classify` on, with the same fields as their training data."""

    model: tuple[str, ...] = REQUIRED
    """A model or a run folder. Can be given several times; the others are compared with the first."""

    retrieval: bool = False
    """Also measure retrieval: how well the models' sentence vectors, and BM25, find the held-out text that follows a
    heading or first sentence. The models must have the same tokenizer."""

    output: Path | None = None
    """A folder for result.json and report.html."""


def no_list(settings: EvaluateSettings) -> dict[str, str]:
    """What tells `left_out.sentences` that no list of records is written, if there is no --output for it."""
    return {} if settings.output else {"rejects": ""}
