"""`data estimate` for conversations: detects them, counts their tokens, and warns."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain_ft.corpus.conversations.formats import FieldChoice, recognise
from domain_ft.corpus.conversations.variety import dominant_answer, dominant_phrase
from domain_ft.corpus.left_out import sentences
from domain_ft.corpus.readers import ENDINGS, RECORDS, raw_records
from domain_ft.corpus.readers.base import BadRecords
from domain_ft.corpus.readers.files import ending
from domain_ft.storage import user_path
from domain_ft.verbs.data.settings import EstimateSettings
from domain_ft.wording import counted

if TYPE_CHECKING:
    from domain_ft.verbs.instruct.prepare import InstructJob


FEW_EXAMPLES = 50
PROBED_TOKENS = 9
"""Tokens of an answer that are generated to measure the time per token."""

_SHOWN = 60  # the most characters of a dominant answer or phrase in a warning


@dataclass(frozen=True)
class Examples:
    """The conversations of a run.

    Attributes:
        format: their format.
        train: training rows: one per conversation, or several if the template cannot render it as one.
        test: held-out rows.
        dropped: conversations of both splits that have no token to train on within --max-length.
        cut: training rows of conversations that lose tokens to train on at the cut.
        trained_tokens: the tokens of `train` that are trained on: answers, and the ends of their turns.
        run_trained_tokens: those of the whole run, where a token counts once for each epoch.
        rejected: records that are left out: unusable, marked as excluded, or without an answer within --max-length.
        unread_fields: for each field that is not read, the number of records that have it.
    """

    format: str
    train: int
    test: int
    dropped: int
    cut: int
    trained_tokens: int
    run_trained_tokens: int
    rejected: int
    unread_fields: dict[str, int]


def holds_conversations(settings: EstimateSettings) -> bool:
    """Whether the corpus holds conversations, so that `instruct` is estimated.

    Decided by --kind, by options that only one of the two verbs has, or by the first record of the file.
    """
    if settings.kind != "auto":
        return settings.kind == "conversations"
    if settings.text_field or settings.objective != "auto":
        return False
    if settings.format != "auto" or settings.prompt_field or settings.answer_field:
        return True
    path = user_path(settings.corpus)
    kind = ENDINGS.get(ending(path), "")
    if kind not in RECORDS or not path.is_file():
        return False
    first = next(raw_records(path, path.name, kind, BadRecords("skip", lambda _: None, settings.encoding)), None)
    return first is not None and recognise(first.fields, FieldChoice.of(settings)) is not None


def examples_of(job: InstructJob) -> Examples:
    """The counts of a run that is set up."""
    rows = job.train_rows
    return Examples(
        format=job.data.format,
        train=len(rows),
        test=len(job.held_out["test"].rows.lengths),
        dropped=len(job.dropped),
        cut=int(rows.cut.sum()),
        trained_tokens=job.learned_tokens(job.steps_per_epoch),
        run_trained_tokens=job.learned_tokens(job.loop.total_steps),
        rejected=len(job.all_rejects),
        unread_fields=job.left_out.to_result()["unread_fields"],
    )


def warnings_of(job: InstructJob) -> Iterator[str]:
    """What the user should fix or know before training on these conversations."""
    rows, length = job.train_rows, job.settings.max_length
    if len(rows) < FEW_EXAMPLES:
        few = counted(len(rows), "example is", "examples are")
        yield f"{few} few to train on; {FEW_EXAMPLES} or more are usual"
    if cut := int(rows.cut.sum()):
        longer = f" (--max-length; this model reads up to {job.base.max_length:,})"
        hint = longer if job.base.max_length > length else ""
        yield f"{counted(cut, 'example is', 'examples are')} longer than {length:,} tokens, and cut at the end{hint}"
    if job.dropped:
        dropped = counted(len(job.dropped), "example has", "examples have")
        yield f"{dropped} no answer within --max-length, and cannot be trained on"
    if job.rejects:
        left_out = counted(len(job.rejects), "record is", "records are")
        yield f"{left_out} left out, the first because {job.rejects[0].reason}"
    yield from sentences({"unread_fields": job.left_out.to_result()["unread_fields"]})
    if answer := dominant_answer(job.data.train):
        yield (
            f"{answer.share:.0%} of the examples have the answer {_shown(answer.text)}: a model may learn to say only "
            "that"
        )
    if phrase := dominant_phrase(job.data.train):
        yield f"{phrase.share:.0%} of the prompts contain {_shown(phrase.text)}: a model may do worse on other prompts"


def answering_minutes(job: InstructJob) -> float:
    """Minutes to answer the test prompts before and after training, if every answer has the maximum length."""
    from domain_ft.models.generation import Sampling, generate
    from domain_ft.verbs.shared.answering import ANSWERED_AT_ONCE

    if not job.questions:
        return 0.0
    prompts = [question.prompt for question in job.questions[:ANSWERED_AT_ONCE]]

    def timed(tokens: int) -> tuple[float, int]:
        """The seconds to generate at most `tokens` tokens per prompt, and the length of the longest answer."""
        began = time.perf_counter()
        with job.machine.accelerator.autocast():
            sampling = Sampling(max_new_tokens=tokens)
            answers = generate(job.base, prompts, sampling, stop_tokens=(), batch_size=ANSWERED_AT_ONCE)
        return time.perf_counter() - began, max(answer.tokens for answer in answers)

    timed(1)  # a warm-up
    first_token, _ = timed(1)
    seconds, tokens = timed(PROBED_TOKENS)
    per_token = max(0.0, seconds - first_token) / max(1, tokens - 1)
    batches = math.ceil(len(job.questions) / ANSWERED_AT_ONCE)
    return 2 * batches * (first_token + (job.settings.max_new_tokens - 1) * per_token) / 60


def _shown(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return f"“{line[:_SHOWN]}…”" if len(line) > _SHOWN else f"“{line}”"
