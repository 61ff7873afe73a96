"""What the report on an instructed model is made of: plain values that `instruct` hands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.verbs.shared.facts import BaseFacts, CorpusFacts

if TYPE_CHECKING:
    from domain_ft.corpus.conversations.reading import ConversationData


@dataclass(frozen=True)
class ConversationFacts:
    """The examples of a run, as the report tells of them. Nothing of what is said in them is here.

    Attributes:
        name: such as `medquad`.
        format: how they are written: `chat`, `alpaca`, `prompt`, `sharegpt` or `qa`.
        facts: what is known of them by name. The report shows `split`, `rejects`, `leaks`, `language`, `licence` and
            `citation`, where they are known.
        notes: what was found when they were read, in sentences.
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
class AnswerPair:
    """A test prompt with what both models said.

    Attributes:
        id: the conversation's.
        prompt: what was asked, for people to read: no tokens of a template.
        reference: the answer that the data gives.
        before: what the base model said.
        after: what the trained model said.
        stopped: whether (before, after) each ended its turn by itself; else it was cut.
    """

    id: str
    prompt: str
    reference: str
    before: str
    after: str
    stopped: tuple[bool, bool] = (True, True)


@dataclass(frozen=True)
class InstructReport:
    """All that is known when `instruct` is done.

    Attributes:
        result: the run's result.json. `before` and `after` hold `test`, `control` (or None) as `adapt` has them, and
            `answers`: `AnswerScores.summary`, or None where no prompt was answered.
        base: the model that was trained.
        data: the examples that it learned from.
        control: the corpus that forgetting was measured on, if any.
        differences: `test` and with a control `control`, of `evaluation.bootstrap.difference`; where prompts were
            answered `answers`: of `evaluation.answers.answer_differences`.
        settings: the settings as resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl; a held-out point has `evaluation` with `test` or `control`.
        answers: the prompts that are shown; none where no text of the data may be.
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
        """Whether every weight was trained, so that the run holds a model and no adapter."""
        return self.settings.get("method") == "full"

    @property
    def roles(self) -> tuple[tuple[str, ConversationFacts | CorpusFacts], ...]:
        """(`test` or `control`, what it is) of all that a loss was measured on."""
        measured: list[tuple[str, ConversationFacts | CorpusFacts]] = [("test", self.data)]
        if self.control is not None:
            measured.append(("control", self.control))
        return tuple(measured)

    @property
    def answered(self) -> bool:
        """Whether both models answered prompts."""
        return bool(self.result["after"].get("answers"))
