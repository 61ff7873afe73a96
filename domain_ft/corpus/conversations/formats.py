"""The formats that conversations are written in: a record of any of them becomes a `Conversation`.

chat      OpenAI's: {"messages": [{"role", "content"}, ...], "tools": [...]}
alpaca    {"instruction", "input", "output"}; Dolly's context and response are read as well
prompt    {"prompt", "completion"}, texts or lists of messages
sharegpt  {"conversations": [{"from", "value"}, ...], "system", "tools"}
qa        a question and an answer, in fields that are named or have usual names
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from domain_ft.corpus.conversations.beside import (
    CONTEXT,
    HISTORY,
    OPTIONS,
    REASONING,
    SYSTEM,
    context_of,
    history_of,
    is_preference,
    is_reference,
    options_of,
    preference_fault,
    reasoning_beside,
    reasoning_of,
    refuse_fields,
    refuse_option_columns,
    refuse_questions,
    refuse_unsaid,
)
from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.conversations.markers import refuse_rendered, rendered_mark
from domain_ft.corpus.conversations.marks import is_blank, marked_out, rejected_in
from domain_ft.corpus.conversations.media import refuse_media, refuse_media_places
from domain_ft.corpus.conversations.messages import (
    Placed,
    check_turns,
    looks_like_tools,
    read_tools,
    read_turns,
    to_chat,
)
from domain_ft.corpus.left_out import VERDICT
from domain_ft.corpus.readers.base import RawRecord, field_names, kind_of
from domain_ft.errors import CorpusError, nearest
from domain_ft.quoting import listed

__all__ = ["FORMATS", "Fault", "FieldChoice", "Format", "Parsed", "parse", "recognise", "to_chat", "unrecognised"]

Format = Literal["chat", "alpaca", "prompt", "sharegpt", "qa"]

FORMATS: Mapping[Format, str] = {
    "chat": "OpenAI's chat messages",
    "alpaca": "Alpaca's instruction, input and output",
    "prompt": "prompt and completion",
    "sharegpt": "ShareGPT's conversations",
    "qa": "question and answer",
}
"""What each format is called before a person."""

_CONVERSATIONS = ("conversations", "conversation")
_OUTPUT = ("output", "response")
_PAIRS = (
    ("question", "answer"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("input", "output"),
    ("question", "response"),
    ("instruction", "answer"),
)
_OF_MEANING = (
    *("unsupported-media", "unsupported-field", "bad-history", "bad-weight", "rendered-text"),
    "no-trained-turn",
)
"""Faults of what is learned and of fields beside what is said."""
_ANSWERS = ("completion", *_OUTPUT, *dict.fromkeys(answer for _, answer in _PAIRS))
_PROMPTS = (*dict.fromkeys(prompt for prompt, _ in _PAIRS), "text")


@dataclass(frozen=True)
class FieldChoice:
    """What was said of the form of the records; the attributes are the options of these names.

    Attributes:
        prompt_field: several, separated by commas, are joined by a blank line.
        system: what the system turn says in conversations that have none.
    """

    format: Format | Literal["auto"] = "auto"
    prompt_field: str | None = None
    answer_field: str | None = None
    id_field: str | None = None
    group_field: str | None = None
    system: str | None = None

    @classmethod
    def of(cls, settings: Any) -> FieldChoice:
        """What the settings of a verb say; those that it does not have are as by default."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__ if hasattr(settings, name)})


class Parsed(NamedTuple):
    """What a record is.

    Attributes:
        conversation: None where a fault is an error, or it is left out.
        faults: all that is wrong with it.
        unread: its fields that nothing reads, those of messages as `messages[].tag`.
        left_out: why it is not learned, where the record itself is marked so: no fault.
    """

    conversation: Conversation | None
    faults: tuple[Fault, ...]
    unread: tuple[str, ...] = ()
    left_out: Fault | None = None


def recognise(fields: Mapping[str, Any], choice: FieldChoice, *, answered: bool = True) -> Format | None:
    """The format of a record, by the names of its fields or as it was chosen; None where it is none of them.

    Args:
        fields: of the record.
        choice: what was said.
        answered: whether records have answers; prompts alone are recognised too where they need not.
    """
    if choice.format != "auto":
        return choice.format
    if choice.prompt_field or choice.answer_field:
        return "qa"
    if "messages" in fields:
        return "chat"
    if any(name in fields for name in _CONVERSATIONS):
        return "sharegpt"
    if "instruction" in fields and (not answered or any(name in fields for name in _OUTPUT)):
        return "alpaca"
    if "prompt" in fields and "completion" in fields:
        return "prompt"
    if answered and is_preference(fields):
        return "prompt"  # which says why it is not learned
    if any(prompt in fields and answer in fields for prompt, answer in _PAIRS):
        return "qa"
    if not answered and "prompt" in fields:
        return "prompt"
    if not answered and any(prompt in fields for prompt in _PROMPTS):
        return "qa"
    return None


def unrecognised(fields: Mapping[str, Any], where: str) -> CorpusError:
    """What is said of a record whose format is not known.

    Args:
        fields: of the record.
        where: its file and line.
    """
    rendered = next((name for name, text in fields.items() if isinstance(text, str) and rendered_mark(text)), None)
    if rendered is not None:
        return CorpusError(
            f"the field '{rendered}' holds whole conversations that a chat template rendered "
            f"({rendered_mark(fields[rendered])}), and the model's own template is to render them",
            where=where,
            fix='write each turn as a message: {"messages": [{"role": "user", "content": "..."}, ...]}',
        )
    known = "; ".join(f"{kind}: {what}" for kind, what in FORMATS.items())
    return CorpusError(
        f"it is not clear what is asked and what is answered; the fields are: {listed(fields)}",
        where=where,
        fix=f"name the fields: --prompt-field F --answer-field F; or write one of the formats ({known})",
    )


def parse(
    record: RawRecord,
    file: str,
    format: Format,
    choice: FieldChoice,
    *,
    answered: bool = True,
    compared: bool = False,
) -> Parsed:
    """The conversation that a record is, and all that is wrong with it.

    Args:
        record: as its file has it.
        file: what the file is called.
        format: of the record.
        choice: which fields; `format` in it is not looked at.
        answered: whether there has to be an answer to learn; else the last turn may be the user's.
        compared: only what is said counts, for records that are compared and not learned: marks are not followed, and
            fields that cannot be followed are no fault.
    """
    faults = Faults()
    fields = {name: value for name, value in record.fields.items() if value is not None}
    read = {*(name for name in (choice.id_field, choice.group_field) if name)}
    if answered and not compared:
        named = {*field_names(choice.prompt_field), choice.answer_field, choice.id_field, choice.group_field}
        left_out = marked_out(
            {name: value for name, value in fields.items() if name not in named},
            of_prompts=format == "prompt",
            of_pairs=format == "qa" and qa_fields(fields, choice)[1] == VERDICT,
            said=_answers(fields, choice),
            read=read,
            faults=faults,
        )
        if left_out is not None:
            return Parsed(None, tuple(faults.found), left_out=left_out)
        if is_preference(fields) and not choice.answer_field:
            return Parsed(None, (preference_fault(),))
    reading = _Record(fields, choice, faults, answered, read)
    turns = [turn for turn in reading.turns(format) if _says_something(turn)]
    system = reading.system(turns)
    if system and not any(turn.role == "system" for turn in turns):
        turns = [Turn("system", system), *turns]
    tools: tuple[Mapping[str, Any], ...] = ()
    if format != "qa" or (not reading.named and looks_like_tools(fields.get("tools"))):
        read.add("tools")
        tools = read_tools(fields.get("tools"), faults)
    if not compared:
        refuse_media(fields, "", faults)
        refuse_media_places(turns, fields, faults)
        refuse_rendered(turns, faults)
        refuse_fields(fields, faults)
    name = _name(record, choice.id_field, faults) or record.key or f"{file}:{record.line}"
    group = _name(record, choice.group_field, faults)
    unread = (*(name for name in map(str, fields) if name not in read), *sorted(faults.unread))
    found = tuple(fault for fault in faults.found if not (compared and fault.kind in _OF_MEANING))
    errors = [fault for fault in found if fault.error]
    lists = (fields.get(name) for name in ("messages", *_CONVERSATIONS, "completion"))
    verdict = next(filter(None, map(rejected_in, lists)), None)
    if verdict is not None and [fault.kind for fault in errors] == ["no-trained-turn"]:
        reason = f"every answer is marked as not to be learned, or as a bad one ({': '.join(verdict)})"
        return Parsed(None, (), left_out=Fault("not-learned", errors[0].field, reason, error=False))
    if errors:
        return Parsed(None, found, unread)
    return Parsed(Conversation(name, file, record.line, tuple(turns), tools, group), found, unread)


def _answers(fields: Mapping[str, Any], choice: FieldChoice) -> Iterator[str]:
    """The texts that a record may have as its answer, before it is read."""
    for name in (*_ANSWERS, choice.answer_field):
        value = fields.get(name) if name else None
        if isinstance(value, str):
            yield value
    for name in ("messages", *_CONVERSATIONS, "completion"):
        value = fields.get(name)
        for message in value if isinstance(value, list) else ():
            said = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
            if isinstance(said, str):
                yield said


def _says_something(turn: Turn) -> bool:
    """Whether a turn is kept: a system turn of nothing is not."""
    return turn.role != "system" or bool(turn.content.strip())


@dataclass(frozen=True)
class _Record:
    """A record on its way to turns; its fields that hold null are left out."""

    fields: Mapping[str, Any]
    choice: FieldChoice
    faults: Faults
    answered: bool
    read: set[str] = field(default_factory=set)

    @property
    def named(self) -> bool:
        """Whether it was said which fields are read: then no other is."""
        return bool(self.choice.prompt_field or self.choice.answer_field)

    def turns(self, format: Format) -> list[Turn]:
        """The turns of a record of this format; what is wrong goes to `faults`."""
        if format == "chat":
            return self._messages("messages")
        if format == "sharegpt":
            return self._messages(next((name for name in _CONVERSATIONS if name in self.fields), _CONVERSATIONS[0]))
        if format == "prompt":
            return self._prompt()
        return self._alpaca() if format == "alpaca" else self._qa()

    def system(self, turns: Sequence[Turn]) -> str | None:
        """What the system turn says: the record's own field, else as chosen."""
        name = next((name for name in SYSTEM if not is_blank(self.fields.get(name))), None)
        self.read.update(name for name in SYSTEM if is_blank(self.fields.get(name)))
        if name is None:
            return self.choice.system
        text = self.faults.text(self.fields[name], name)
        told = next((turn.content for turn in turns if turn.role == "system"), None)
        if told is not None and text is not None and told.strip() != text.strip():
            reason = "the messages have a system turn that says something else: the field is not read"
            self.faults.warn("two-system-texts", name, reason)
            return None
        self.read.add(name)
        return text

    def _messages(self, name: str) -> list[Turn]:
        self.read.add(name)
        if name not in self.fields:
            self._missing(name)
            return []
        placed = read_turns(self.fields[name], name, self.faults)
        check_turns(placed, name, self.faults, answered=self.answered)
        turns = [turn for _, turn in placed if turn is not None]
        refuse_unsaid(self.fields, turns, self.read, self.faults)
        return reasoning_beside(self.fields, turns, self.read, self.faults)

    def _prompt(self) -> list[Turn]:
        """Either side may be a list of messages, as TRL's conversational form has it."""
        asked, answer = self.fields.get("prompt"), self.fields.get("completion")
        self.read.update(("prompt", "completion"))
        placed: list[Placed] = []
        if isinstance(asked, list):
            placed += read_turns(asked, "prompt", self.faults)
            refuse_unsaid(self.fields, [turn for _, turn in placed if turn], self.read, self.faults)
        else:
            text = self._with_input(self._asked("prompt"), ["prompt", "completion"])
            placed += [Placed(HISTORY, turn) for turn in self._history()]
            placed.append(Placed("prompt", None if text is None else Turn("user", self._with_beside(text, ["prompt"]))))
        if isinstance(answer, list):
            placed += read_turns(answer, "completion", self.faults)
        else:
            text = self._answer("completion")
            # Files for older services have a space before each completion.
            turn = None if text is None else self._said(text.lstrip(" "))
            placed.append(Placed("completion", turn))
        if isinstance(asked, list) or isinstance(answer, list):
            check_turns(placed, "completion", self.faults, answered=self.answered)
        turns = [turn for _, turn in placed if turn is not None]
        return reasoning_beside(self.fields, turns, self.read, self.faults) if isinstance(answer, list) else turns

    def _alpaca(self) -> list[Turn]:
        answer = next((name for name in _OUTPUT if name in self.fields), _OUTPUT[0])
        asked = self._with_input(self._asked("instruction"), ["instruction", answer])
        if asked:
            asked = self._with_beside(asked, ["instruction"], context_last=True)
        return [*self._history(), *self._pair(asked, self._answer(answer))]

    def _qa(self) -> list[Turn]:
        prompts, answer = qa_fields(self.fields, self.choice)
        self.read.update((*prompts, answer))
        texts: list[str | None] = []
        for name in prompts:
            if name in self.fields:
                texts.append(self.faults.text(self.fields[name], name))
            else:
                self._missing(name)
                texts.append(None)
        asked = "\n\n".join(text for text in texts if text and text.strip())
        if not asked and None not in texts:
            self.faults.error("empty-prompt", prompts[0], "the prompt is empty")
        asked = self._with_input(asked, [*prompts, answer]) or ""
        asked = self._with_beside(asked, prompts) if asked else asked
        return [*self._history(), *self._pair(asked or None, self._answer(answer))]

    def _with_input(self, asked: str | None, used: Sequence[str]) -> str | None:
        """A question with the `input` below it, where that is not one of the fields used."""
        if not asked or self.named or "input" in used or "input" not in self.fields:
            return asked
        self.read.add("input")
        if is_blank(self.fields["input"]):
            return asked
        return "\n\n".join(part for part in (asked, self.faults.text(self.fields["input"], "input")) if part)

    def _with_beside(self, asked: str, prompts: Sequence[str], *, context_last: bool = False) -> str:
        """A question with its context and the options, each after a blank line.

        Args:
            asked: the question.
            prompts: the fields that it is read from.
            context_last: whether the context comes after the question, as Alpaca's input does, and not before it.
        """
        if self.named:
            return asked
        contexts: list[str] = []
        for name in CONTEXT:
            value = self.fields.get(name)
            if name not in self.fields or name in prompts or is_reference(name, value):
                continue
            self.read.add(name)
            text = "" if is_blank(value) else context_of(value, name, self.faults)
            if text not in contexts and text not in asked:
                contexts.append(text)
        parts = [asked, *contexts] if context_last else [*contexts, asked]
        for name in OPTIONS:
            if name in self.fields:
                self.read.add(name)
                if not is_blank(self.fields[name]):
                    parts.append(options_of(self.fields[name], name, self.faults))
        refuse_option_columns(self.fields, prompts, self.faults)
        refuse_questions(self.fields, asked, prompts, self.read, self.faults)
        return "\n\n".join(part for part in parts if part)

    def _history(self) -> list[Turn]:
        """The earlier turns, of which the answers are learned too."""
        if self.named or HISTORY not in self.fields:
            return []
        self.read.add(HISTORY)
        value = self.fields[HISTORY]
        return [] if is_blank(value) else history_of(value, HISTORY, self.faults)

    def _pair(self, asked: str | None, answer: str | None) -> list[Turn]:
        turns = [] if asked is None else [Turn("user", asked)]
        return turns if answer is None else [*turns, self._said(answer)]

    def _said(self, answer: str) -> Turn:
        """The answer to learn, with the reasoning that stands in a field of its own."""
        turn = Turn("assistant", answer, trained=True)
        if self.named:
            return turn
        self.read.update(REASONING)
        return replace(turn, reasoning=reasoning_of(self.fields, "", self.faults))

    def _asked(self, name: str) -> str | None:
        return self._text(name, "empty-prompt", f"the {name} is empty")

    def _answer(self, name: str) -> str | None:
        self.read.add(name)
        if not self.answered and not self.fields.get(name):
            return None
        return self._text(name, "empty-answer", "the answer is empty")

    def _text(self, name: str, kind: str, empty: str) -> str | None:
        """A text that says something; None where there is none, which is noted."""
        self.read.add(name)
        if name not in self.fields:
            self._missing(name)
            return None
        text = self.faults.text(self.fields[name], name)
        if text is not None and not text.strip():
            self.faults.error(kind, name, empty)
            return None
        return text

    def _missing(self, name: str) -> None:
        hint = nearest(name, map(str, self.fields)) if self.fields else "the record has no fields"
        self.faults.error("missing-field", name, f"the field is missing; {hint}")


def qa_fields(fields: Mapping[str, Any], choice: FieldChoice) -> tuple[Sequence[str], str]:
    """The fields of the prompt, and that of the answer: as they were named, else the usual ones that are there."""
    prompts, answer = field_names(choice.prompt_field), choice.answer_field
    for usual_prompt, usual_answer in _PAIRS:
        fits = (usual_prompt if not prompts else prompts[0]) in fields and (answer or usual_answer) in fields
        if fits and usual_answer not in prompts and usual_prompt != answer:
            return prompts or (usual_prompt,), answer or usual_answer
    alone = next((name for name in _PROMPTS if name in fields and name != answer), _PAIRS[0][0])
    return prompts or (alone,), answer or _PAIRS[0][1]


def _name(record: RawRecord, field: str | None, faults: Faults) -> str | None:
    """What a field of names holds; None where none was named."""
    if field is None:
        return None
    value = record.fields.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value):
        reason = "the field is missing" if field not in record.fields else f"the field holds {kind_of(value)}"
        faults.error("missing-field" if value is None else "wrong-type", field, f"{reason}, where a name is wanted")
        return None
    return str(value)
