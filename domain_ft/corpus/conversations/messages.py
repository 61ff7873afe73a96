"""Converts messages to turns. Each message may be in OpenAI's chat format or in ShareGPT's.

All faults of a record are reported, not only the first, so that a file can be fixed in one go.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from domain_ft.corpus.conversations.conversation import ROLES, Conversation, Role, Turn
from domain_ft.corpus.conversations.extra_fields import REASONING, reasoning_of
from domain_ft.corpus.conversations.faults import Faults
from domain_ft.corpus.conversations.media import refuse_media
from domain_ft.corpus.conversations.training_marks import is_blank, is_mark, is_weight, turn_mark
from domain_ft.corpus.readers.base import kind_of
from domain_ft.errors import nearest
from domain_ft.json_files import loads

_OTHER_NAMES: dict[str, Role] = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function": "tool",
    "function_call": "assistant",  # its content is the call
    "function_response": "tool",
    "observation": "tool",
}
"""Other names of the roles: OpenAI's newer and older ones, and ShareGPT's."""

_MEANT: dict[str, Role] = {
    **dict.fromkeys(("ユーザー", "ユーザ", "人間", "質問者", "用户", "customer", "client", "patient"), "user"),
    **dict.fromkeys(("アシスタント", "助手", "回答者", "ai", "bot", "model", "agent", "doctor"), "assistant"),
    **dict.fromkeys(("システム", "系统", "instruction"), "system"),
}
"""Likely meanings of unknown roles. They are only suggested: the model would be trained on a wrong guess."""

_READ_FIELDS = {"role", "content", "from", "value", "name", "tool_calls", "function_call", "tool_call_id"}

_SINGLE_CALLS = ("tool_call", "tool_use")
"""Fields with one call, which are refused."""

_Calls: TypeAlias = tuple[Mapping[str, Any] | None, ...]
"""The tool calls of a message. A call that cannot be read is None, and a fault says why."""

_TEXT_PARTS = ("text", "input_text", "output_text")
"""The types of text parts in OpenAI's APIs."""


class Placed(NamedTuple):
    """A turn with the path of its message, such as `messages[2]`. The turn is None if it cannot be read."""

    place: str
    turn: Turn | None


def read_turns(value: Any, place: str, faults: Faults) -> list[Placed]:
    """The turns of a list of messages.

    Args:
        value: messages with role and content, or with from and value.
        place: the name of the field, for faults.
        faults: receives the faults of the list and of each message.
    """
    if not isinstance(value, list | tuple):
        faults.error("wrong-type", place, f"the field holds {kind_of(value)}, where a list of messages is expected")
        return []
    if not value:
        faults.error("no-messages", place, "the list of messages is empty")
    places = [f"{place}[{number}]" for number in range(len(value))]
    return [Placed(here, _turn(message, here, faults)) for here, message in zip(places, value, strict=True)]


def read_tools(value: Any, faults: Faults) -> tuple[Mapping[str, Any], ...]:
    """The tools that a conversation may call, from a list of objects or its JSON text."""
    if isinstance(value, str) and value.strip():
        try:
            value = loads(value)
        except ValueError as error:
            faults.error("wrong-type", "tools", f"the tools are not valid JSON: {error}")
            return ()
    if value is None or value == "":
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        faults.error("wrong-type", "tools", "the field is not a list of objects, one per tool, in OpenAI's format")
        return ()
    return tuple(value)


def looks_like_tools(value: Any) -> bool:
    """Whether the value of a field `tools` declares tools to call. The field may also hold something else."""
    tools = read_tools(value, Faults())
    return bool(tools) and all("function" in tool or "name" in tool for tool in tools)


def check_turns(placed: Sequence[Placed], place: str, faults: Faults, *, answered: bool) -> None:
    """Check a list of messages as a whole.

    Args:
        placed: the turns of all messages.
        place: the field that holds the messages.
        faults: receives the faults.
        answered: whether an answer to train on is required. If not, the messages may be only a prompt.
    """
    _check_tool_turns(placed, faults)
    before: Turn | None = None
    for number, (here, turn) in enumerate(placed):
        if turn is not None:
            if turn.role == "assistant" and number == 0:
                reason = "the conversation begins with an assistant turn: there is no prompt"
                faults.error("first-turn-of-assistant", here, reason)
            if turn.role == "system" and number:
                faults.warn("system-not-first", here, "the system turn is not first: many chat templates refuse this")
            if before and turn.role == before.role and turn.role in ("user", "assistant"):
                faults.warn("roles-do-not-alternate", here, f"the turn before it is also the {turn.role}'s")
        before = turn
    turns = [turn for _, turn in placed if turn is not None]
    if not placed or not answered or len(turns) < len(placed):  # a turn of unknown role may be an answer
        return
    answers = [turn for turn in turns if turn.role == "assistant"]
    if not answers:
        faults.error("no-assistant-turn", place, "there is no assistant turn: nothing to learn")
    elif not any(turn.trained for turn in answers):
        faults.error("no-trained-turn", place, "all assistant turns are marked as excluded from training")
    if answers and turns[-1].role != "assistant":
        reason = f"the last turn is the {turns[-1].role}'s: nothing is learned from it"
        faults.warn("unanswered-last-turn", placed[-1].place, reason)


def _check_tool_turns(placed: Sequence[Placed], faults: Faults) -> None:
    """Report tool turns without a matching call."""
    calls: Sequence[Mapping[str, Any]] | None = ()
    for here, turn in placed:
        if turn is None:
            return  # this turn may be the call
        if turn.role != "tool":
            calls = None if _has_bad_call(here, faults) else turn.tool_calls
            continue
        if calls is None:
            continue  # this may be the result of the call that cannot be read
        known = {call["id"] for call in calls if "id" in call}
        if not calls:
            faults.error("tool-without-call", here, "this is a tool's result, but there is no call before it")
        elif known and turn.tool_call_id is not None and turn.tool_call_id not in known:
            reason = f"this is the result of call '{turn.tool_call_id}', which is not among the calls before it"
            faults.error("tool-without-call", f"{here}.tool_call_id", reason)


def _has_bad_call(place: str, faults: Faults) -> bool:
    """Whether the message at `place` has a call that cannot be read."""
    kinds = ("bad-tool-call", "old-function-call")
    return any(fault.kind in kinds and (fault.field or "").startswith(f"{place}.") for fault in faults.found)


def to_chat(conversation: Conversation) -> dict[str, Any]:
    """The conversation as a record in OpenAI's chat format. Reading it gives the same turns and tools."""
    messages = []
    for turn in conversation.turns:
        message = turn.message()
        if turn.tool_calls:
            message["tool_calls"] = [_call_record(call) for call in turn.tool_calls]
        if turn.role == "assistant" and not turn.trained:
            message["weight"] = 0
        messages.append(message)
    record: dict[str, Any] = {"messages": messages}
    if conversation.tools:
        record["tools"] = [dict(tool) for tool in conversation.tools]
    return record


# --- One message ------------------------------------------------------------------------------------------------------


def _turn(message: Any, place: str, faults: Faults) -> Turn | None:
    """The turn of a message; None if the message is not an object or its role is unknown."""
    if not isinstance(message, Mapping):
        faults.error("wrong-type", place, f"the message is {kind_of(message)}, where an object is expected")
        return None
    # Parquet has nulls for absent fields.
    message = {name: value for name, value in message.items() if value is not None}
    role_field, content_field = (
        ("from", "value") if "from" in message and "role" not in message else ("role", "content")
    )
    role = _role(message, role_field, place, faults)
    learned, marks = _learned(message, role, place, faults)
    calls = _calls(message, role, place, faults)
    refused_call = "function_call" in message or any(not is_blank(message.get(name)) for name in _SINGLE_CALLS)
    content: str | None = ""
    if message.get(role_field) == "function_call":
        calls = _call_in_text(message.get(content_field), f"{place}.{content_field}", faults)
    elif content_field in message:
        content = _content(message[content_field], f"{place}.{content_field}", faults)
    elif not message.get("tool_calls") and not refused_call:
        faults.error("missing-content", f"{place}.{content_field}", "the message has no content")
        content = None
    if content is not None and not content.strip() and not calls and not refused_call:
        _check_empty(role, f"{place}.{content_field}", faults)
    refuse_media(message, place, faults)
    _refuse_other_forms(message, place, faults)
    reasoning = reasoning_of(message, place, faults) if role in ("assistant", None) else None
    read = {*_READ_FIELDS, *marks, *(REASONING if role == "assistant" else ())}
    list_place = re.sub(r"\[\d+\]", "[]", place)
    faults.unread.update(f"{list_place}.{field}" for field in message if field not in read)
    if role is None:
        return None
    read_calls = tuple(call for call in calls if call is not None)
    turn = Turn(role, content or "", role == "assistant" and learned, read_calls, reasoning=reasoning)
    if "name" in message:
        turn = replace(turn, name=faults.text(message["name"], f"{place}.name"))
    if "tool_call_id" in message:
        turn = replace(turn, tool_call_id=faults.text(message["tool_call_id"], f"{place}.tool_call_id"))
    return turn


def _refuse_other_forms(message: Mapping[str, Any], place: str, faults: Faults) -> None:
    """Report content in unsupported forms: a single tool call, or gpt-oss's reasoning in a separate turn."""
    for name in _SINGLE_CALLS:
        if not is_blank(message.get(name)):
            reason = f"{name} is not OpenAI's format: write the call in a list named tool_calls"
            faults.error("bad-tool-call", f"{place}.{name}", reason)
    channel = message.get("channel")
    if isinstance(channel, str) and channel.strip().casefold() == "analysis":
        reason = (
            "a turn in the channel 'analysis' is not an answer: write it into the answer's message as reasoning_content"
        )
        faults.error("unsupported-field", f"{place}.channel", reason)


def _role(message: Mapping[str, Any], name: str, place: str, faults: Faults) -> Role | None:
    if name not in message:
        faults.error("missing-role", f"{place}.{name}", "the message has no role")
        return None
    value = faults.text(message[name], f"{place}.{name}")
    if value is None:
        return None
    role = _OTHER_NAMES.get(value, value)
    for known in ROLES:
        if role == known:
            return known
    plain = unicodedata.normalize("NFKC", value).strip().casefold()
    meant = plain if plain in ROLES else _OTHER_NAMES.get(plain) or _MEANT.get(plain)
    hint = f"if it is the {meant}, write '{meant}'" if meant else nearest(plain, ROLES)
    faults.error("unknown-role", f"{place}.{name}", f"there is no role '{value[:40]}'; {hint}")
    return None


def _learned(message: Mapping[str, Any], role: Role | None, place: str, faults: Faults) -> tuple[bool, set[str]]:
    """Whether to train on an assistant turn (yes, unless a mark says no), and the names of the marks."""
    marked, read = turn_mark(message, place, of_answer=role == "assistant", faults=faults)
    if role not in ("assistant", None):
        for name in message:
            if is_mark(name) and (is_weight(name) or marked):
                reason = f"only assistant turns are learned: the {name} is not read"
                faults.warn("bad-weight", f"{place}.{name}", reason)
    return marked is not False, read


def _content(value: Any, place: str, faults: Faults) -> str | None:
    """A text, or the texts of a list of parts joined by newlines. None, with a fault added, if one cannot be read."""
    if not isinstance(value, list):
        return faults.text(value, place)
    texts = []
    for number, part in enumerate(value):
        here = f"{place}[{number}]"
        if not isinstance(part, Mapping):
            faults.error("wrong-type", here, f"the part is {kind_of(part)}, where an object is expected")
        elif part.get("type") not in _TEXT_PARTS:
            reason = f"a part of type '{str(part.get('type'))[:40]}' cannot be learned from: only text can"
            faults.error("unsupported-part", here, reason)
        else:
            texts.append(faults.text(part.get("text"), f"{here}.text"))
    known = [text for text in texts if text is not None]
    return "\n".join(known) if len(known) == len(value) else None


def _check_empty(role: Role | None, place: str, faults: Faults) -> None:
    """Report an empty turn. A tool turn may be empty."""
    if role == "assistant":
        faults.error("empty-answer", place, "the answer is empty")
    elif role == "user":
        faults.error("empty-prompt", place, "the user's turn is empty")
    elif role == "system":
        faults.warn("empty-system", place, "the system turn is empty")


def _calls(message: Mapping[str, Any], role: Role | None, place: str, faults: Faults) -> _Calls:
    """The assistant's tool calls."""
    if "function_call" in message:
        reason = "function_call is OpenAI's old format: write it as tool_calls"
        faults.error("old-function-call", f"{place}.function_call", reason)
    value = message.get("tool_calls")
    if not value:
        return ()
    place = f"{place}.tool_calls"
    if role not in ("assistant", None):
        faults.error("bad-tool-call", place, f"only the assistant calls tools, and this turn is the {role}'s")
        return ()
    if not isinstance(value, list):
        faults.error("bad-tool-call", place, f"the field holds {kind_of(value)}, where a list of calls is expected")
        return (None,)
    return tuple(_call(call, f"{place}[{number}]", faults) for number, call in enumerate(value))


def _call(call: Any, place: str, faults: Faults) -> Mapping[str, Any] | None:
    """A call in OpenAI's format, with its arguments as an object. None, with a fault added, if it is invalid."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        faults.error("bad-tool-call", place, "the call has no function name")
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = loads(arguments)
        except ValueError as error:
            faults.error("bad-tool-call", f"{place}.function.arguments", f"the arguments are not valid JSON: {error}")
            return None
    if not isinstance(arguments, Mapping):
        reason = f"the arguments are {kind_of(arguments)}, where an object is expected"
        faults.error("bad-tool-call", f"{place}.function.arguments", reason)
        return None
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _call_in_text(value: Any, place: str, faults: Faults) -> _Calls:
    """The calls in the text of a ShareGPT turn with the role `function_call`."""
    try:
        parsed = loads(value) if isinstance(value, str) else value
    except ValueError as error:
        faults.error("bad-tool-call", place, f"the call is not valid JSON: {error}")
        return (None,)
    return tuple(_call(call, place, faults) for call in (parsed if isinstance(parsed, list) else [parsed]))


def _call_record(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as JSON text."""
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
