"""Reads conversation files for the checks: the faults of each record, and each text with its path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.items import Item, Passage, Visit
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.extra_fields import OPTIONS, REASONING, SYSTEM, context_fields, history_fields
from domain_ft.corpus.conversations.faults import Faults
from domain_ft.corpus.conversations.formats import FieldChoice, Format, Speaker, parse, texts_read
from domain_ft.corpus.conversations.messages import read_turns
from domain_ft.corpus.readers.base import RawRecord

_TEXT_FIELDS = ("content", "value", "text", "tool_calls", "function", "arguments", *REASONING)
"""The fields of a message that contain text, including tool calls."""


def conversation_items(records: Iterable[RawRecord], name: str, format: Format, choice: FieldChoice) -> Iterator[Item]:
    """The records of a file as `instruct` reads them.

    Args:
        records: the records of the file.
        name: the name of the file.
        format: the format of all records.
        choice: the fields that the user named.
    """
    for record in records:
        conversation, faults, unread, left_out = parse(record, name, format, choice)
        noted = faults if left_out is None else (*faults, left_out)
        findings = tuple(Finding(record.line, f.field, f.kind, f.message, f.error) for f in noted)
        passages: list[Passage] = []
        rewrite(record.fields, format, choice, collect(passages))
        prompt, answer = (None, None) if conversation is None else _last_exchange(conversation)
        answer_fields = [passage.field for passage in passages if passage.role == "assistant"]
        yield Item(
            record.line,
            tuple(passages),
            prompt,
            answer,
            answer_fields[-1] if answer_fields else None,
            findings,
            () if conversation is None else tuple(turn.role for turn in conversation.turns),
            conversation,
            unread=unread,
        )


def collect(passages: list[Passage]) -> Visit:
    """A visitor that appends each text to `passages` and leaves it unchanged."""

    def visit(passage: Passage) -> str:
        passages.append(passage)
        return passage.text

    return visit


def rewrite(fields: Mapping[str, Any], format: Format, choice: FieldChoice, visit: Visit) -> dict[str, Any]:
    """The record with each text of its conversation replaced by what `visit` returns."""
    rewritten = dict(fields)
    for name, role in _text_fields(fields, format, choice).items():
        value = fields[name]
        if name == "tools":
            rewritten[name] = _rewrite_tools(value, name, role, visit)
        elif role == "text":
            rewritten[name] = rewrite_all(value, name, visit)
        elif isinstance(value, list):
            rewritten[name] = rewrite_messages(value, name, visit)
        elif isinstance(value, str):
            rewritten[name] = visit(Passage(name, value, role))
    return rewritten


def _text_fields(fields: Mapping[str, Any], format: Format, choice: FieldChoice) -> dict[str, Speaker]:
    """The fields to check: those that are read, and others with usual names, which a fault may keep from being read."""
    named = (*history_fields(fields), *context_fields(fields, of_pairs=format not in ("chat", "sharegpt")))
    usual: dict[str, Speaker] = dict.fromkeys((*named, *OPTIONS, *REASONING), "text")
    usual |= dict.fromkeys(SYSTEM, "system")
    present = {name: speaker for name, speaker in usual.items() if fields.get(name) is not None}
    return present | texts_read(fields, format, choice)


def rewrite_all(value: Any, place: str, visit: Visit) -> Any:
    """Visit every text in a JSON value."""
    if isinstance(value, str):
        return visit(Passage(place, value))
    if isinstance(value, list):
        return [rewrite_all(part, f"{place}[{number}]", visit) for number, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {name: rewrite_all(part, f"{place}.{name}", visit) for name, part in value.items()}
    return value


def _rewrite_tools(value: Any, place: str, role: str, visit: Visit) -> Any:
    """Visit the texts of tools except their names, which the calls repeat."""
    if isinstance(value, str):
        return visit(Passage(place, value, role))
    if isinstance(value, list):
        return [_rewrite_tools(part, f"{place}[{number}]", role, visit) for number, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            name: part
            if name == "name" and isinstance(part, str)
            else _rewrite_tools(part, f"{place}.{name}", role, visit)
            for name, part in value.items()
        }
    return value


def rewrite_messages(messages: list[Any], place: str, visit: Visit) -> list[Any]:
    """Visit every text in a list of messages."""
    rewritten = []
    for message, (here, turn) in zip(messages, read_turns(messages, place, Faults()), strict=True):
        role = turn.role if turn else "text"
        rewritten.append(_rewrite_message(message, here, role, visit) if isinstance(message, Mapping) else message)
    return rewritten


def _rewrite_message(value: Any, place: str, role: str, visit: Visit) -> Any:
    if isinstance(value, str):
        return visit(Passage(place, value, role))
    if isinstance(value, list):
        return [_rewrite_message(part, f"{place}[{number}]", role, visit) for number, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            name: _rewrite_message(part, f"{place}.{name}", role, visit)
            if name in _TEXT_FIELDS or ".arguments" in place
            else part
            for name, part in value.items()
        }
    return value


def _last_exchange(conversation: Conversation) -> tuple[str | None, str | None]:
    """(all turns before the last answer, that answer with its tool calls), as texts; (None, None) without an answer."""
    turns = conversation.turns
    last = max((number for number, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        return None, None
    calls = "".join(str(call) for call in turns[last].tool_calls)
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns[:last]), turns[last].content + calls
