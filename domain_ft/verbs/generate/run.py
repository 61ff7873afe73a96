"""`domain-ft generate`: a decoder answers a prompt or a file of prompts, or chats in the terminal.

The prompts of a file are answered in batches, and the answers are written as JSON lines, in order. A stopped call
continues with --resume.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from typing import Any, BinaryIO, TextIO

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.formats import FieldChoice
from domain_ft.corpus.conversations.placeholders import Placeholders
from domain_ft.corpus.conversations.reading import iterate_conversations
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.readers.base import BadRecords
from domain_ft.embedded.loading import model_digest
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.models.generation import Generated
from domain_ft.terminal_text import printable
from domain_ft.training.loop import release_free_memory
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.generate.chat import AnswerScreen, chat
from domain_ft.verbs.generate.settings import GenerateSettings
from domain_ft.verbs.shared.chat_model import ChatModel, trained_from
from domain_ft.verbs.shared.machine import choose_machine
from domain_ft.verbs.shared.stream_state import Identity, read_header
from domain_ft.verbs.shared.streams import (
    Output,
    bad_records,
    check_streams,
    open_input,
    open_output,
    open_rejects,
    pass_over,
)
from domain_ft.wording import counted

_SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "min_p")
_ANSWER = frozenset({"id", "text", "tokens", "stopped", "seconds"})
FORMS = tuple(_ANSWER | more for more in (set(), {"against"}, {"reference"}, {"against", "reference"}))
"""The possible sets of keys of an output line."""

BATCHES = 4
"""Batches of prompts that are read at once, to group prompts of similar length."""


def generate(settings: GenerateSettings, stdin: BinaryIO | None = None, stdout: TextIO | None = None) -> dict[str, Any]:
    """Answer --prompt or every prompt of --input, or chat, and return the result that --json prints.

    Args:
        stdin: what `--input -` and a chat read; sys.stdin by default.
        stdout: where answers go; sys.stdout by default.

    Raises:
        UserError: the model, the input or the output cannot be used. Lines already written are kept for
            --resume.
    """
    began = time.perf_counter()
    _check(settings, stdin)
    against = trained_from(settings.model) if settings.against == "base" else settings.against
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet) as display:
        names = (settings.model, against) if against else (settings.model,)
        today = _day(settings)
        chat_models = [ChatModel.load(name, settings, machine, display, today) for name in names]
    if settings.prompt is not None:
        result = _answer_one(chat_models, settings, stdout or sys.stdout)
    elif settings.input is not None:
        result = _answer_file(chat_models, settings, today, stdin, stdout or sys.stdout)
    else:
        result = {"questions": chat(chat_models, settings.system, stdin, stdout or sys.stdout)}
    if against:
        result["against"] = {"model": against, **result.get("against", {})}
    return {
        "command": "generate",
        "model": settings.model,
        "device": machine.device.type,
        **result,
        "wall_seconds": time.perf_counter() - began,
    }


def run(settings: GenerateSettings) -> dict[str, Any]:
    """The verb: generate, and for a file print the number of prompts to standard error."""
    result = generate(settings)
    if settings.input is not None and not settings.quiet and not settings.json:
        where = f" in {settings.output}" if settings.output else ""
        lines = [
            f"{counted(result['prompts'], 'prompt')}{where}; {result['stopped']:,} of "
            f"{counted(result['answered'], 'new answer')} ended their turn",
            *sentences(result),
        ]
        print(printable("\n".join(lines)), file=sys.stderr)
    return result


def _check(settings: GenerateSettings, stdin: BinaryIO | None) -> None:
    if settings.input is not None:
        check_streams(settings, "answers", stdin)
    elif settings.output or settings.resume or settings.rejects:
        raise SettingsError(
            "--output, --rejects and --resume are for the answers to a file", fix="give the prompts as --input F"
        )
    elif settings.prompt is None and settings.json:
        raise SettingsError("--json: a conversation has no result to print", fix="give --prompt TEXT or --input F")
    elif settings.prompt is None and settings.raw:
        raise SettingsError("--raw: a conversation needs a chat template", fix="give --prompt TEXT or --input F")
    idle = [name for name in _SAMPLING_OPTIONS if getattr(settings, name) != getattr(GenerateSettings, name)]
    if idle and not settings.do_sample:
        given = " and ".join(f"--{name.replace('_', '-')} {getattr(settings, name)}" for name in idle)
        raise SettingsError(f"{given} without --do-sample has no effect", fix="add --do-sample")
    if settings.raw and settings.system:
        raise SettingsError(
            "--raw with --system: without a template there is no system prompt", fix="leave one of them out"
        )


def _answer_one(chat_models: Sequence[ChatModel], settings: GenerateSettings, stdout: TextIO) -> dict[str, Any]:
    """Answer --prompt, and show the answers unless --json is given."""
    assert settings.prompt is not None
    placeholders = Placeholders()
    placeholders.add(None, [settings.prompt])
    for one in placeholders.unfilled():
        ProgressDisplay(quiet=settings.quiet).warn(f"in --prompt, {one.message}")
    turns = [Turn("system", settings.system)] if settings.system else []
    turns.append(Turn("user", settings.prompt))
    prompts = [chat_model.prompt(turns) for chat_model in chat_models]
    if settings.json:
        answers = [
            chat_model.answer([prompt], ["--prompt"])[0]
            for chat_model, prompt in zip(chat_models, prompts, strict=True)
        ]
    else:
        answers = AnswerScreen(stdout).show(chat_models, prompts, "--prompt")
    return {"prompt": settings.prompt, **_facts(answers)}


def _facts(answers: Sequence[Generated]) -> dict[str, Any]:
    """The keys of an answer, with the second model's answer under `against`."""
    first, *others = (
        {"text": answer.text, "tokens": answer.tokens, "stopped": answer.stopped, "seconds": answer.seconds}
        for answer in answers
    )
    return first | ({"against": others[0]} if others else {})


@dataclass(frozen=True)
class Question:
    """A prompt of a file.

    Attributes:
        id: names the prompt in messages, and seeds its sampling.
        key: the id in the output, with its type in the record.
        prompts: the rendered prompt for each model.
        reference: the answer in the file, if any.
    """

    id: str
    key: str | int | float
    prompts: tuple[str, ...]
    reference: str | None

    @property
    def read(self) -> tuple[str, ...]:
        """What the output line depends on: the id, which seeds sampling, the prompts and the reference."""
        return self.id, *self.prompts, self.reference or ""


def _answer_file(
    chat_models: Sequence[ChatModel], settings: GenerateSettings, today: date, stdin: BinaryIO | None, stdout: TextIO
) -> dict[str, Any]:
    """Answer every prompt of --input."""
    left_out, placeholders = LeftOut(), Placeholders()
    counts = {"answered": 0, "tokens": 0, "stopped": 0}
    with ProgressDisplay(quiet=settings.quiet) as display, contextlib.ExitStack() as stack:
        rejects = stack.enter_context(open_rejects(settings, left_out))
        output = stack.enter_context(
            open_output(settings, stdout, FORMS, partial(_identity, settings, chat_models, today))
        )
        source = open_input(str(settings.input), stdin)
        bad = bad_records(rejects, settings.encoding, "have such records listed: --rejects F")
        conversations = iterate_conversations(source, FieldChoice.of(settings), bad, answered=False, left_out=left_out)
        questions = _questions(conversations, chat_models, bad, placeholders)
        pass_over(questions, output, rejects, settings)
        while block := list(itertools.islice(questions, settings.batch_size * BATCHES)):
            for answer in _answer_block(chat_models, block, output):
                counts["answered"] += 1
                counts["tokens"] += answer.tokens
                counts["stopped"] += answer.stopped
            display.job("answering", output.done + counts["answered"], None)
            release_free_memory()
        for one in placeholders.unfilled():
            display.warn(one.message)
    return {
        "prompts": output.done + counts["answered"],
        "done_before": output.done,
        **left_out.to_result(),
        "rejects": str(rejects.path) if rejects and left_out.records else None,
        "unfilled_placeholders": [one._asdict() for one in placeholders.unfilled()],
        **counts,  # of this call
        "output": str(settings.output) if settings.output else None,
    }


def _identity(settings: GenerateSettings, chat_models: Sequence[ChatModel], today: date) -> Identity:
    """What the answers depend on besides the input. Sampled answers also depend on the seed and the kind of device."""
    names = ("format", "prompt_field", "answer_field", "system", "encoding", "id_field", "raw")
    options = {name: getattr(settings, name) for name in names} | asdict(chat_models[0].sampling)
    if settings.do_sample:
        options["device"] = chat_models[0].base.model.device.type
    else:
        del options["seed"]
    options["dtype"] = str(chat_models[0].base.model.dtype).removeprefix("torch.")
    flags = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    digests = tuple(model_digest(chat_model.name) for chat_model in chat_models)
    return Identity(
        "generate", " against ".join(chat_model.name for chat_model in chat_models), digests, flags, str(today)
    )


def _day(settings: GenerateSettings) -> date:
    """The date that chat templates may write: today, or with --resume the day on which the output was started."""
    header = read_header(settings.output) if settings.resume and settings.output else None
    with contextlib.suppress(ValueError, TypeError):
        return date.fromisoformat(header["begun"]) if header else date.today()
    return date.today()


def _questions(
    conversations: Iterator[Conversation], chat_models: Sequence[ChatModel], bad: BadRecords, placeholders: Placeholders
) -> Iterator[Question]:
    """The question of each conversation; if it ends with an answer, this is the reference.

    Conversations that cannot be asked are reported to `bad`. `placeholders` counts the placeholders of the others.
    """
    for conversation in conversations:
        turns, reference = conversation.turns, None
        if turns[-1].role == "assistant":
            turns, reference = turns[:-1], turns[-1].content
        try:
            prompts = tuple(chat_model.prompt(turns, conversation.tools) for chat_model in chat_models)
            for chat_model, prompt in zip(chat_models, prompts, strict=True):
                chat_model.check(prompt)
        except CorpusError as error:
            reason = f"{error.where}: {error.what}" if error.where else error.what
            bad.add(reason, file=conversation.file, line=conversation.line, fix=error.fix)
            continue
        placeholders.add(conversation.line, (turn.content for turn in turns))
        key = conversation.id if conversation.key is None else conversation.key
        yield Question(conversation.id, key, prompts, reference)


def _answer_block(chat_models: Sequence[ChatModel], block: Sequence[Question], output: Output) -> list[Generated]:
    """Let all models answer, write the lines, and return the first model's answers."""
    names = [question.id for question in block]
    answers = [
        chat_model.answer([question.prompts[place] for question in block], names)
        for place, chat_model in enumerate(chat_models)
    ]
    output.write(
        (
            {
                "id": question.key,
                **_facts(own),
                **({} if question.reference is None else {"reference": question.reference}),
            }
            for question, own in zip(block, zip(*answers, strict=True), strict=True)
        ),
        block,
    )
    return answers[0]
