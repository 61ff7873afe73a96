"""A conversation, whatever format it was written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Turn:
    """What one side says.

    Attributes:
        role: who.
        content: the text; empty for an assistant that only calls tools.
        trained: whether the model learns to say it: an answer that no mark (weight 0) leaves out.
        tool_calls: what an assistant calls, as OpenAI writes it, with the arguments as an object.
        name: of the tool that answers, where it is given.
        tool_call_id: which call a tool answers.
        reasoning: what an assistant thought before it answered, where that is a field of its own.
    """

    role: Role
    content: str
    trained: bool = False
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None

    def message(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        return message


@dataclass(frozen=True)
class Conversation:
    """An example to learn from.

    Attributes:
        id: names it in messages and in what is answered: a field, or `file:line`.
        file: where it stands.
        line: counted from 1; in a JSON list or a Parquet file its number.
        turns: in their order.
        tools: the tools that the assistant may call, as OpenAI writes them.
        group: what conversations of one source share, where the file says it.
        key: the record's id as it has it, a number too, where a field names it; else `id`.
    """

    id: str
    file: str
    line: int | None
    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    group: str | None = None
    key: str | int | float | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns as chat templates take them."""
        return [turn.message() for turn in self.turns]

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return self.file if self.line is None else f"{self.file}, line {self.line}"
