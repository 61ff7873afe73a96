"""The report on an instruction-tuned model, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.verbs.shared.facts import AnswerPair, BaseFacts, CorpusFacts

if TYPE_CHECKING:
    from domain_ft.corpus.conversations.reading import ConversationData


@dataclass(frozen=True)
class ConversationFacts:
    """Facts about the examples of a run, for the report, without their texts.

    Attributes:
        name: such as `medquad`.
        format: `chat`, `alpaca`, `prompt`, `sharegpt` or `qa`.
        facts: facts by name. The report shows `split`, `leaks`, `language`, `licence` and `citation`, if known.
        notes: remarks on how the examples were read, in sentences.
    """

    name: str
    format: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, data: ConversationData) -> ConversationFacts:
        """The facts of examples that were read."""
        return cls(name=data.name, format=data.format, facts=data.facts, notes=tuple(data.notes))


@dataclass(frozen=True)
class InstructReport:
    """All results of `instruct`.

    Attributes:
        result: the run's result.json. `before` and `after` hold `test` and `control` (or None) as for `adapt`, and
            `answers`: `AnswerScores.summary`, or None if no prompt was answered.
        base: the base model.
        data: facts about the examples.
        control: the corpus that forgetting was measured on, if any.
        differences: `test`, and with a control `control`, from `evaluation.bootstrap.difference`; if prompts were
            answered also `answers`, from `evaluation.answers.answer_differences`.
        settings: with every default resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl; some have an `evaluation` with the losses on `test`.
        answers: the prompts to show; none with --no-examples.
    """

    result: Mapping[str, Any]
    base: BaseFacts
    data: ConversationFacts
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
    def roles(self) -> tuple[tuple[str, ConversationFacts | CorpusFacts], ...]:
        """The data that losses were measured on, as (`test` or `control`, data)."""
        measured: list[tuple[str, ConversationFacts | CorpusFacts]] = [("test", self.data)]
        if self.control is not None:
            measured.append(("control", self.control))
        return tuple(measured)

    @property
    def answered(self) -> bool:
        """Whether both models answered prompts."""
        return bool(self.result["after"].get("answers"))
