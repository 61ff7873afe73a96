"""The settings of `adapt`."""

from __future__ import annotations

from dataclasses import dataclass

from domain_ft.verbs.groups import (
    CorpusOptions,
    MachineOptions,
    MeasureOptions,
    MethodOptions,
    ModelOptions,
    ObjectiveOptions,
    PositiveInt,
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
    ObjectiveOptions,
    TrainingOptions,
    MeasureOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Measuring",
):
    """Adapt a model to the language of a field, and measure what it gained and forgot.

    Continues pretraining on the corpus: an encoder learns to predict masked words, and a decoder the next word. With
    --objective contrastive, the model also learns sentence vectors. The run folder holds the adapter in PEFT's format,
    the scores before and after, a model card and a report.
    """

    task: str | None = None
    """A classification task that is also measured before and after training, by a linear probe on the model's features:
    a task of a corpus, such as legal/clause-or-notice, a file of labelled examples, or hf:ID. Test examples that are in
    the training text are left out."""

    wrong_field: str | None = None
    """With --task: a finished run of adapt on another field, from the same base model and preferably with the same
    budget. The report compares the scores of both models on the task: what both gain does not come from the field's
    text."""

    tokens_per_step: PositiveInt | None = None  # type: ignore[assignment]
    """Tokens in an optimiser step, over all micro-batches and processes. By default 4,096; for contrastive training
    16,384, because all pairs of a step are each other's negatives."""
