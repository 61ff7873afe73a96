"""Files of conversations: each record with all its faults, and each text in it with the path to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.items import Item, Passage, Visit
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.extra_fields import CONTEXT, HISTORY, OPTIONS, REASONING
from domain_ft.corpus.conversations.faults import Faults
from domain_ft.corpus.conversations.formats import FieldChoice, Format, parse, qa_fields
from domain_ft.corpus.conversations.messages import read_turns
from domain_ft.corpus.readers.base import RawRecord

_MESSAGES = {"chat": ("messages",), "sharegpt": ("conversations", "conversation")}
_SAID = ("content", "value", "text", "tool_calls", "function", "arguments", *REASONING)
"""What of a message somebody says: its texts, and what tools are called with."""


def conversation_items(records: Iterable[RawRecord], name: str, format: Format, choice: FieldChoice) -> Iterator[Item]:
    """The records of a file as `instruct` reads them.

    Args:
        records: of the file.
        name: what the file is called.
        format: of all its records.
        choice: which fields.
    """
    for record in records:
        conversation, faults, unread, left_out = parse(record, name, format, choice)
        noted = faults if left_out is None else (*faults, left_out)
        findings = tuple(Finding(record.line, f.field, f.kind, f.message, f.error) for f in noted)
        passages: list[Passage] = []
        rewrite(record.fields, format, choice, collect(passages))
        prompt, answer = (None, None) if conversation is None else _asked_and_said(conversation)
        said = [passage.field for passage in passages if passage.role == "assistant"]
        yield Item(
            record.line,
            tuple(passages),
            prompt,
            answer,
            said[-1] if said else None,
            findings,
            () if conversation is None else tuple(turn.role for turn in conversation.turns),
            conversation,
            unread=unread,
        )


def collect(passages: list[Passage]) -> Visit:
    """Puts each text into `passages` and leaves it as it is."""

    def visit(passage: Passage) -> str:
        passages.append(passage)
        return passage.text

    return visit


def rewrite(fields: Mapping[str, Any], format: Format, choice: FieldChoice, visit: Visit) -> dict[str, Any]:
    """A record with each text that somebody says in it as `visit` gives it; all else stays as it is."""
    rewritten = dict(fields)
    for name, role in _spoken_fields(fields, format, choice).items():
        value = fields[name]
        if role == "text":
            rewritten[name] = _rewrite_all(value, name, visit)
        elif isinstance(value, list):
            rewritten[name] = _rewrite_messages(value, name, visit)
        elif isinstance(value, str):
            rewritten[name] = visit(Passage(name, value, role))
    return rewritten


def _spoken_fields(fields: Mapping[str, Any], format: Format, choice: FieldChoice) -> dict[str, str]:
    """The fields that are there, in which somebody says something, and who does where it is a text."""
    given = {name: value for name, value in fields.items() if value is not None}
    if format == "qa":
        prompts, answer = qa_fields(given, choice)
        roles = {"system": "system", "input": "user", **dict.fromkeys(prompts, "user"), answer: "assistant"}
    elif format == "alpaca":
        users = ("instruction", "input", "context")
        roles = {"system": "system", **dict.fromkeys(users, "user"), "output": "assistant", "response": "assistant"}
    elif format == "prompt":
        roles = {"system": "system", "prompt": "user", "completion": "assistant"}
    else:
        roles = {"system": "system", **dict.fromkeys(_MESSAGES[format], "user")}
    beside = dict.fromkeys((HISTORY, *CONTEXT, *OPTIONS, *REASONING), "text")
    return {name: role for name, role in (beside | {"system_prompt": "system"} | roles).items() if name in given}


def _rewrite_all(value: Any, place: str, visit: Visit) -> Any:
    """Every text in a value, whatever its form."""
    if isinstance(value, str):
        return visit(Passage(place, value))
    if isinstance(value, list):
        return [_rewrite_all(part, f"{place}[{number}]", visit) for number, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {name: _rewrite_all(part, f"{place}.{name}", visit) for name, part in value.items()}
    return value


def _rewrite_messages(messages: list[Any], place: str, visit: Visit) -> list[Any]:
    rewritten = []
    for message, (here, turn) in zip(messages, read_turns(messages, place, Faults()), strict=True):
        role = turn.role if turn else "text"
        rewritten.append(_rewrite_said(message, here, role, visit) if isinstance(message, Mapping) else message)
    return rewritten


def _rewrite_said(value: Any, place: str, role: str, visit: Visit) -> Any:
    if isinstance(value, str):
        return visit(Passage(place, value, role))
    if isinstance(value, list):
        return [_rewrite_said(part, f"{place}[{number}]", role, visit) for number, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            name: _rewrite_said(part, f"{place}.{name}", role, visit)
            if name in _SAID or ".arguments" in place
            else part
            for name, part in value.items()
        }
    return value


def _asked_and_said(conversation: Conversation) -> tuple[str | None, str | None]:
    """What the last answer answers, and that answer."""
    turns = conversation.turns
    last = max((number for number, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        return None, None
    called = "".join(str(call) for call in turns[last].tool_calls)
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns[:last]), turns[last].content + called
