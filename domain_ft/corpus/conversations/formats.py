"""The file formats of conversations: a record in any of them becomes a `Conversation`.

chat      OpenAI's: {"messages": [{"role", "content"}, ...], "tools": [...]}
alpaca    {"instruction", "input", "output"}; also Dolly's context and response
prompt    {"prompt", "completion"}, texts or lists of messages
sharegpt  {"conversations": [{"from", "value"}, ...], "system", "tools"}
qa        a question and an answer, in fields that the user named or with usual names
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.extra_fields import (
    HISTORY,
    OPTIONS,
    REASONING,
    SYSTEM,
    attach_reasoning,
    context_fields,
    context_of,
    history_fields,
    history_of,
    is_preference,
    is_reference,
    options_of,
    preference_fault,
    reasoning_of,
    refuse_fields,
    refuse_missing_context,
    refuse_option_columns,
    refuse_questions,
)
from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.conversations.media import refuse_media, refuse_placeholders
from domain_ft.corpus.conversations.messages import (
    Placed,
    check_turns,
    looks_like_tools,
    read_tools,
    read_turns,
    to_chat,
)
from domain_ft.corpus.conversations.template_markers import find_template_marker, refuse_rendered
from domain_ft.corpus.conversations.training_marks import find_exclusion, is_blank, rejected_in
from domain_ft.corpus.left_out import VERDICT
from domain_ft.corpus.readers.base import RawRecord, field_names, kind_of
from domain_ft.errors import CorpusError, nearest
from domain_ft.quoting import listed

__all__ = [
    "FORMATS",
    "Fault",
    "FieldChoice",
    "Format",
    "Parsed",
    "Speaker",
    "parse",
    "recognise",
    "texts_read",
    "to_chat",
    "unrecognised",
]

Format = Literal["chat", "alpaca", "prompt", "sharegpt", "qa"]

Speaker = Literal["system", "user", "assistant", "text"]
"""Whose words a field holds; `text` if it is nobody's turn. The messages of a list have their own roles."""

FORMATS: Mapping[Format, str] = {
    "chat": "OpenAI's chat messages",
    "alpaca": "Alpaca's instruction, input and output",
    "prompt": "prompt and completion",
    "sharegpt": "ShareGPT's conversations",
    "qa": "question and answer",
}
"""The formats and their names in messages."""

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
_TRAINING_FAULTS = (
    *("unsupported-media", "unsupported-field", "bad-history", "bad-weight", "rendered-text"),
    "no-trained-turn",
)
"""Kinds of faults that do not matter if a record is only compared with others."""
_ANSWERS = ("completion", *_OUTPUT, *dict.fromkeys(answer for _, answer in _PAIRS))
_PROMPTS = (*dict.fromkeys(prompt for prompt, _ in _PAIRS), "text")


@dataclass(frozen=True)
class FieldChoice:
    """The format and fields that the user named. The attributes are the options of the same names.

    Attributes:
        prompt_field: one or more names, separated by commas. Their texts are joined by blank lines.
        system: the system turn of conversations without one.
    """

    format: Format | Literal["auto"] = "auto"
    prompt_field: str | None = None
    answer_field: str | None = None
    id_field: str | None = None
    group_field: str | None = None
    system: str | None = None

    @classmethod
    def of(cls, settings: Any) -> FieldChoice:
        """The choice in a verb's settings. Options that the verb does not have keep their default."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__ if hasattr(settings, name)})


class Parsed(NamedTuple):
    """The result of parsing a record.

    Attributes:
        conversation: None if a fault is an error, or if the record is left out.
        faults: everything wrong with the record.
        unread: fields that are not read; those of messages as `messages[].tag`.
        left_out: why the record is excluded from training, if it is marked so. This is not a fault.
    """

    conversation: Conversation | None
    faults: tuple[Fault, ...]
    unread: tuple[str, ...] = ()
    left_out: Fault | None = None


def recognise(fields: Mapping[str, Any], choice: FieldChoice, *, answered: bool = True) -> Format | None:
    """The format of a record, from `choice` or from the names of its fields; None if it is unknown.

    Args:
        fields: of the record.
        choice: the format and fields that the user named.
        answered: whether records need an answer; otherwise prompts without one are recognised too.
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
        return "prompt"  # `parse` reports why it cannot be used
    if any(prompt in fields and answer in fields for prompt, answer in _PAIRS):
        return "qa"
    if not answered and "prompt" in fields:
        return "prompt"
    if not answered and any(prompt in fields for prompt in _PROMPTS):
        return "qa"
    return None


def unrecognised(fields: Mapping[str, Any], where: str) -> CorpusError:
    """The error for a record of unknown format.

    Args:
        fields: of the record.
        where: its file and line.
    """
    texts = {name: text for name, text in fields.items() if isinstance(text, str)}
    rendered = next((name for name, text in texts.items() if find_template_marker(text)), None)
    if rendered is not None:
        return CorpusError(
            f"the field '{rendered}' holds conversations that a chat template has already rendered "
            f"({find_template_marker(texts[rendered])}); the model's own template has to render them",
            where=where,
            fix='write each turn as a message: {"messages": [{"role": "user", "content": "..."}, ...]}',
        )
    known = "; ".join(f"{kind}: {what}" for kind, what in FORMATS.items())
    return CorpusError(
        f"it is not clear which fields hold the prompt and the answer; the fields are: {listed(fields)}",
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
    """The conversation of a record, and everything that is wrong with it.

    Args:
        record: unchanged, as in the file.
        file: the file's name.
        format: of the record.
        choice: the fields that the user named; its `format` is ignored.
        answered: whether an answer to train on is required; otherwise the last turn may be the user's.
        compared: whether the record is only compared with others, not trained on. If so, training marks are ignored,
            and fields that cannot be used are not faults.
    """
    faults = Faults()
    fields = {name: value for name, value in record.fields.items() if value is not None}
    read = {*(name for name in (choice.id_field, choice.group_field) if name)}
    if answered and not compared:
        named = {*field_names(choice.prompt_field), choice.answer_field, choice.id_field, choice.group_field}
        left_out = find_exclusion(
            {name: value for name, value in fields.items() if name not in named},
            of_prompts=format == "prompt",
            answer_is_text=format == "qa" and qa_fields(fields, choice)[1] == VERDICT,
            answers=_answers(fields, choice),
            read=read,
            faults=faults,
        )
        if left_out is not None:
            return Parsed(None, tuple(faults.found), left_out=left_out)
        if is_preference(fields) and not choice.answer_field:
            return Parsed(None, (preference_fault(),))
    reading = _Record(fields, choice, faults, answered, read)
    turns, tools = reading.conversation(format)
    if not compared:
        refuse_media(fields, "", faults)
        refuse_placeholders(turns, fields, faults)
        refuse_rendered(turns, faults)
        refuse_fields(fields, faults)
    name = _name(record, choice.id_field, faults) or record.key or f"{file}:{record.line}"
    group = _name(record, choice.group_field, faults)
    unread = (*(name for name in map(str, fields) if name not in read), *sorted(faults.unread))
    found = tuple(fault for fault in faults.found if not (compared and fault.kind in _TRAINING_FAULTS))
    errors = [fault for fault in found if fault.error]
    lists = (fields.get(name) for name in ("messages", *_CONVERSATIONS, "completion"))
    verdict = next(filter(None, map(rejected_in, lists)), None)
    if verdict is not None and [fault.kind for fault in errors] == ["no-trained-turn"]:
        reason = f"every answer is marked as excluded from training, or as bad ({': '.join(verdict)})"
        return Parsed(None, (), left_out=Fault("not-learned", errors[0].field, reason, error=False))
    if errors:
        return Parsed(None, found, unread)
    return Parsed(Conversation(name, file, record.line, tuple(turns), tools, group), found, unread)


def texts_read(fields: Mapping[str, Any], format: Format, choice: FieldChoice) -> dict[str, Speaker]:
    """The fields from which `parse` takes the conversation, each with its speaker. Those of no speaker come first."""
    present = {name: value for name, value in fields.items() if value is not None}
    reading = _Record(present, choice, Faults(), answered=True)
    reading.conversation(format)
    others: dict[str, Speaker] = {name: "text" for name in present if name in reading.read - reading.speakers.keys()}
    return others | {name: speaker for name, speaker in reading.speakers.items() if name in present}


def _answers(fields: Mapping[str, Any], choice: FieldChoice) -> Iterator[str]:
    """All texts of a raw record that may be its answer."""
    for name in (*_ANSWERS, choice.answer_field):
        value = fields.get(name) if name else None
        if isinstance(value, str):
            yield value
    for name in ("messages", *_CONVERSATIONS, "completion"):
        value = fields.get(name)
        for message in value if isinstance(value, list) else ():
            content = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
            if isinstance(content, str):
                yield content


@dataclass(frozen=True)
class _Record:
    """Converts a record to turns.

    Attributes:
        fields: without nulls.
        read: receives every field that is read.
        speakers: receives the speaker of each read field that holds turns or tools.
    """

    fields: Mapping[str, Any]
    choice: FieldChoice
    faults: Faults
    answered: bool
    read: set[str] = field(default_factory=set)
    speakers: dict[str, Speaker] = field(default_factory=dict)

    def conversation(self, format: Format) -> tuple[list[Turn], tuple[Mapping[str, Any], ...]]:
        """All turns, the system turn included, and the tools."""
        turns = [turn for turn in self._turns(format) if turn.role != "system" or turn.content.strip()]
        system = self._system(turns)
        if system and not any(turn.role == "system" for turn in turns):
            turns = [Turn("system", system), *turns]
        if format == "qa" and (self.named or not looks_like_tools(self.fields.get("tools"))):
            return turns, ()
        self._note("system", "tools")
        return turns, read_tools(self.fields.get("tools"), self.faults)

    def _note(self, speaker: Speaker, *names: str) -> None:
        """Record that fields are read, and that they hold the words of a speaker."""
        self.read.update(names)
        self.speakers.update(dict.fromkeys(names, speaker))

    @property
    def named(self) -> bool:
        """Whether the user named the field of the prompt or the answer. Then context, history etc. are not read."""
        return bool(self.choice.prompt_field or self.choice.answer_field)

    def _turns(self, format: Format) -> list[Turn]:
        """The turns of a record in this format. Adds to `faults`."""
        if format == "chat":
            return self._messages("messages")
        if format == "sharegpt":
            return self._messages(next((name for name in _CONVERSATIONS if name in self.fields), _CONVERSATIONS[0]))
        if format == "prompt":
            return self._prompt()
        return self._alpaca() if format == "alpaca" else self._qa()

    def _system(self, turns: Sequence[Turn]) -> str | None:
        """The text of the system turn: from a field of the record, or from `choice` if there is no such field."""
        name = next((name for name in SYSTEM if not is_blank(self.fields.get(name))), None)
        self.read.update(name for name in SYSTEM if is_blank(self.fields.get(name)))
        if name is None:
            return self.choice.system
        text = self.faults.text(self.fields[name], name)
        system_turn = next((turn.content for turn in turns if turn.role == "system"), None)
        if system_turn is not None and text is not None and system_turn.strip() != text.strip():
            reason = "the messages have a different system turn: the field is not read"
            self.faults.warn("two-system-texts", name, reason)
            return None
        self._note("system", name)
        return text

    def _messages(self, name: str) -> list[Turn]:
        self._note("user", name)
        if name not in self.fields:
            self._missing(name)
            return []
        placed = read_turns(self.fields[name], name, self.faults)
        check_turns(placed, name, self.faults, answered=self.answered)
        turns = [turn for _, turn in placed if turn is not None]
        refuse_missing_context(self.fields, turns, self.read, self.faults)
        return attach_reasoning(self.fields, turns, self.read, self.faults)

    def _prompt(self) -> list[Turn]:
        """Prompt and completion, each a text or a list of messages (TRL's conversational format)."""
        prompt, answer = self.fields.get("prompt"), self.fields.get("completion")
        self._note("user", "prompt")
        self._note("assistant", "completion")
        placed: list[Placed] = []
        if isinstance(prompt, list):
            placed += read_turns(prompt, "prompt", self.faults)
            refuse_missing_context(self.fields, [turn for _, turn in placed if turn], self.read, self.faults)
        else:
            text = self._with_input(self._prompt_text("prompt"), ["prompt", "completion"])
            placed += [Placed(HISTORY, turn) for turn in self._history()]
            placed.append(
                Placed("prompt", None if text is None else Turn("user", self._with_context(text, ["prompt"])))
            )
        if isinstance(answer, list):
            placed += read_turns(answer, "completion", self.faults)
        else:
            text = self._answer("completion")
            # Files for OpenAI's older completions API have a space before each completion.
            turn = None if text is None else self._answer_turn(text.lstrip(" "))
            placed.append(Placed("completion", turn))
        if isinstance(prompt, list) or isinstance(answer, list):
            check_turns(placed, "completion", self.faults, answered=self.answered)
        turns = [turn for _, turn in placed if turn is not None]
        return attach_reasoning(self.fields, turns, self.read, self.faults) if isinstance(answer, list) else turns

    def _alpaca(self) -> list[Turn]:
        answer = next((name for name in _OUTPUT if name in self.fields), _OUTPUT[0])
        prompt = self._with_input(self._prompt_text("instruction"), ["instruction", answer])
        if prompt:
            prompt = self._with_context(prompt, ["instruction"], context_last=True)
        return [*self._history(), *self._pair(prompt, self._answer(answer))]

    def _qa(self) -> list[Turn]:
        prompts, answer = qa_fields(self.fields, self.choice)
        self._note("user", *prompts)
        texts: list[str | None] = []
        for name in prompts:
            if name in self.fields:
                texts.append(self.faults.text(self.fields[name], name))
            else:
                self._missing(name)
                texts.append(None)
        prompt = "\n\n".join(text for text in texts if text and text.strip())
        if not prompt and None not in texts:
            self.faults.error("empty-prompt", prompts[0], "the prompt is empty")
        prompt = self._with_input(prompt, [*prompts, answer]) or ""
        prompt = self._with_context(prompt, prompts) if prompt else prompt
        return [*self._history(), *self._pair(prompt or None, self._answer(answer))]

    def _with_input(self, prompt: str | None, used: Sequence[str]) -> str | None:
        """The prompt followed by the field `input`, unless that is in `used`."""
        if not prompt or self.named or "input" in used or "input" not in self.fields:
            return prompt
        self._note("user", "input")
        if is_blank(self.fields["input"]):
            return prompt
        return "\n\n".join(part for part in (prompt, self.faults.text(self.fields["input"], "input")) if part)

    def _with_context(self, prompt: str, prompts: Sequence[str], *, context_last: bool = False) -> str:
        """The prompt with its context and options, separated by blank lines.

        Args:
            prompt: the question.
            prompts: the fields that the question comes from.
            context_last: whether the context follows the question, like Alpaca's input, instead of preceding it.
        """
        if self.named:
            return prompt
        contexts: list[str] = []
        for name in context_fields(self.fields, of_pairs=True):
            value = self.fields[name]
            if name in prompts or is_reference(name, value):
                continue
            self.read.add(name)
            text = "" if is_blank(value) else context_of(value, name, self.faults)
            if text not in contexts and text not in prompt:
                contexts.append(text)
        parts = [prompt, *contexts] if context_last else [*contexts, prompt]
        for name in OPTIONS:
            if name in self.fields:
                self.read.add(name)
                if not is_blank(self.fields[name]):
                    parts.append(options_of(self.fields[name], name, self.faults))
        refuse_option_columns(self.fields, prompts, self.faults)
        refuse_questions(self.fields, prompt, prompts, self.read, self.faults)
        return "\n\n".join(part for part in parts if part)

    def _history(self) -> list[Turn]:
        """The earlier turns. Their answers are trained on too."""
        if self.named:
            return []
        histories = history_fields(self.fields)
        self.read.update(histories)
        given = [name for name in histories if not is_blank(self.fields[name])]
        if len(given) > 1 and any(self.fields[name] != self.fields[given[0]] for name in given):
            self.faults.error("bad-history", given[1], f"{listed(given)} differ: keep one of them")
        return history_of(self.fields[given[0]], given[0], self.faults) if given else []

    def _pair(self, prompt: str | None, answer: str | None) -> list[Turn]:
        turns = [] if prompt is None else [Turn("user", prompt)]
        return turns if answer is None else [*turns, self._answer_turn(answer)]

    def _answer_turn(self, answer: str) -> Turn:
        """The answer to train on, with the reasoning from its separate field."""
        turn = Turn("assistant", answer, trained=True)
        if self.named:
            return turn
        self.read.update(REASONING)
        return replace(turn, reasoning=reasoning_of(self.fields, "", self.faults))

    def _prompt_text(self, name: str) -> str | None:
        self._note("user", name)
        return self._text(name, "empty-prompt", f"the {name} is empty")

    def _answer(self, name: str) -> str | None:
        self._note("assistant", name)
        if not self.answered and not self.fields.get(name):
            return None
        return self._text(name, "empty-answer", "the answer is empty")

    def _text(self, name: str, kind: str, empty: str) -> str | None:
        """The text of a field; None, with a fault added, if it is missing or blank."""
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
    """The fields of the prompt and the field of the answer: those that the user named, or usual ones in the record."""
    prompts, answer = field_names(choice.prompt_field), choice.answer_field
    for usual_prompt, usual_answer in _PAIRS:
        fits = (usual_prompt if not prompts else prompts[0]) in fields and (answer or usual_answer) in fields
        if fits and usual_answer not in prompts and usual_prompt != answer:
            return prompts or (usual_prompt,), answer or usual_answer
    usual = next((name for name in _PROMPTS if name in fields and name != answer), _PAIRS[0][0])
    return prompts or (usual,), answer or _PAIRS[0][1]


def _name(record: RawRecord, field: str | None, faults: Faults) -> str | None:
    """The id or group in a field; None if `field` is None. If the field holds no name, None, and a fault is added."""
    if field is None:
        return None
    value = record.fields.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value):
        reason = "the field is missing" if field not in record.fields else f"the field holds {kind_of(value)}"
        faults.error("missing-field" if value is None else "wrong-type", field, f"{reason}, where a name is expected")
        return None
    return str(value)
