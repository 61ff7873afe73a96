"""The settings of `adapt`."""

from __future__ import annotations

from dataclasses import dataclass

from domain_ft.verbs.groups import (
    CorpusOptions,
    MachineOptions,
    MeasureOptions,
    MethodOptions,
    ModelOptions,
    RunOptions,
    ScreenOptions,
    TokenOptions,
    TrainingOptions,
)


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(
    CorpusOptions,
    TokenOptions,
    ModelOptions,
    MethodOptions,
    TrainingOptions,
    MeasureOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
):
    """Adapt a model to the language of a field, and measure what it gained and forgot.

    Continues pretraining on the corpus: an encoder learns to predict masked words, a decoder the next word. The run
    folder holds the adapter in PEFT's format, the scores before and after, a model card and a report.
    """
