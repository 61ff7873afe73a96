"""What the verbs share that train a decoder to answer: the test prompts that it answers before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.errors import SettingsError
from domain_ft.evaluation.answers import AnswerScores
from domain_ft.models.base import BaseModel
from domain_ft.models.generation import Generated, Sampling, generate
from domain_ft.randomness import derive
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.prefer.settings import PreferSettings
from domain_ft.verbs.shared.facts import AnswerPair
from domain_ft.verbs.shared.language_model import NO_CONTROL
from domain_ft.verbs.shared.lineage import adapted_runs
from domain_ft.verbs.shared.machine import Machine

ANSWERED_AT_ONCE = 8

_CLIPPED = 1500  # characters of a text that the page shows


@dataclass(frozen=True)
class Question:
    """A test prompt that both models answer.

    Attributes:
        id: the example's.
        asked: the text of the last turn before the answer.
        prompt: the rendered text that the model reads.
        reference: the answer in the data.
        reference_tokens: the length of `reference` in tokens, plus one for the end of the turn.
    """

    id: str
    asked: str
    prompt: str
    reference: str
    reference_tokens: int


@dataclass(frozen=True)
class Candidate:
    """A test prompt and the answer in the data.

    Attributes:
        id: the example's.
        before: the turns before the answer.
        answer: the text of the answer.
        tools: the tools that the assistant may call.
    """

    id: str
    before: Sequence[Turn]
    answer: str
    tools: Sequence[Mapping[str, Any]] = ()


def day_of(settings: InstructSettings | PreferSettings) -> date:
    """--template-date, or today.

    Raises:
        SettingsError: it is not a date.
    """
    if settings.template_date is None:
        return date.today()
    try:
        return date.fromisoformat(settings.template_date)
    except ValueError as error:
        raise SettingsError(
            f"--template-date {settings.template_date}: {error}", fix="write the date as YYYY-MM-DD, such as 2026-01-31"
        ) from error


def control_of(settings: InstructSettings | PreferSettings) -> str | None:
    """The control corpus: --control, or an embedded corpus of another field; None for --control none."""
    if settings.control:
        return None if settings.control == NO_CONTROL else settings.control
    return "medical" if any(run.corpus == "legal" for run in adapted_runs(settings.model)) else "legal"


def draw_questions(
    candidates: Sequence[Candidate],
    template: ChatTemplate,
    base: BaseModel,
    settings: InstructSettings | PreferSettings,
) -> list[Question]:
    """Up to --generate-examples prompts, drawn by seed and id. Prompts that leave no room for an answer are skipped.

    Args:
        candidates: that the template can render.
    """
    questions: list[Question] = []
    room = base.max_length - settings.max_new_tokens
    for one in sorted(candidates, key=lambda one: derive(settings.seed, "question", one.id)):
        if len(questions) == settings.generate_examples:
            break
        prompt = template.prompt(one.before, one.tools)
        prompt_tokens, answer_tokens = (
            len(base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            for text in (prompt, one.answer)
        )
        if prompt_tokens <= room:
            questions.append(Question(one.id, one.before[-1].content, prompt, one.answer, answer_tokens + 1))
    return questions


def answer(
    base: BaseModel,
    questions: Sequence[Question],
    template: ChatTemplate,
    settings: InstructSettings | PreferSettings,
    machine: Machine,
    when: str,
    display: ProgressDisplay,
) -> list[Generated]:
    """The model's answers to the test prompts, by greedy decoding, so that they are reproducible."""
    if not questions:
        return []
    with machine.accelerator.autocast():
        return generate(
            base,
            [question.prompt for question in questions],
            Sampling.of(settings),
            stop_tokens=template.stop_tokens,
            batch_size=ANSWERED_AT_ONCE,
            progress=lambda _, done, total: display.job(f"{when}: answering", done, total),
        )


def scored(questions: Sequence[Question], answers: Sequence[Generated]) -> AnswerScores:
    """The scores of the answers against those in the data."""
    return AnswerScores.of(
        [answer.text for answer in answers],
        [question.reference for question in questions],
        tokens=[answer.tokens for answer in answers],
        stopped=[answer.stopped for answer in answers],
    )


def side_by_side(
    questions: Sequence[Question], before: Sequence[Generated], after: Sequence[Generated]
) -> list[AnswerPair]:
    """The prompts with both models' answers, for the page."""
    return [
        AnswerPair(
            question.id,
            question.asked,
            question.reference,
            first.text,
            second.text,
            stopped=(first.stopped, second.stopped),
        )
        for question, first, second in zip(questions, before, after, strict=True)
    ]


def clipped(text: str) -> str:
    """A text; if it is too long for the page, its beginning and its end.

    >>> clipped("short")
    'short'
    """
    text = text.strip()
    return text if len(text) <= _CLIPPED else f"{text[: _CLIPPED * 2 // 3]} … {text[-_CLIPPED // 3 :]}"
