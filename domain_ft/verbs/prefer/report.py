"""The report on a preference-tuned model, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.verbs.shared.facts import AnswerPair, BaseFacts, CorpusFacts

if TYPE_CHECKING:
    from domain_ft.corpus.preferences.reading import PreferenceData


@dataclass(frozen=True)
class PreferenceFacts:
    """Facts about the preferences of a run, for the report, without their texts.

    Attributes:
        name: such as `pairs`.
        kind: `pairs` or `rated`.
        format: of the records, such as `pairs`, `transcript` or `ranking`.
        facts: facts by name. The report shows `split`, `ties` and `leaks`.
        notes: remarks on how the preferences were read, in sentences.
    """

    name: str
    kind: str
    format: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, data: PreferenceData) -> PreferenceFacts:
        """The facts of preferences that were read."""
        return cls(name=data.name, kind=data.kind, format=data.format, facts=data.facts, notes=tuple(data.notes))


@dataclass(frozen=True)
class PreferReport:
    """All results of `prefer`.

    Attributes:
        result: the run's result.json. `before` and `after` hold `test` (`PreferenceScores.summary`, and
            `kl_per_token`), `control` as for `adapt` (or None), and `answers`: `AnswerScores.summary`, or None if no
            prompt was answered.
        base: the base model.
        data: facts about the preferences.
        control: the corpus that forgetting was measured on, if any.
        differences: `test`, from `evaluation.preferences.preference_differences`; with a control `control`; and if
            prompts were answered `answers`, from `evaluation.answers.answer_differences`.
        settings: with every default resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl.
        answers: the prompts to show; none with --no-examples.
    """

    result: Mapping[str, Any]
    base: BaseFacts
    data: PreferenceFacts
    control: CorpusFacts | None
    differences: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    answers: Sequence[AnswerPair] = ()

    @property
    def full(self) -> bool:
        """Whether every weight was trained, so that the run holds a model instead of an adapter."""
        return self.settings.get("method") == "full"

    @property
    def paired(self) -> bool:
        """Whether the preferences are pairs."""
        return self.data.kind == "pairs"

    @property
    def roles(self) -> tuple[tuple[str, CorpusFacts], ...]:
        """The texts that losses were measured on, as (`control`, corpus)."""
        return () if self.control is None else (("control", self.control),)

    @property
    def answered(self) -> bool:
        """Whether both models answered prompts."""
        return bool(self.result["after"].get("answers"))
