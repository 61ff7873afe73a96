"""A conversation, independent of its file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: of the speaker.
        content: the text; empty if an assistant only calls tools.
        trained: whether the model is trained on the turn: an assistant's turn without a mark such as weight 0.
        tool_calls: the assistant's calls in OpenAI's format, with the arguments as an object.
        name: the message's `name`, such as that of the tool that answers.
        tool_call_id: the id of the call that a tool answers.
        reasoning: the assistant's reasoning before the answer, if it has a separate field.
    """

    role: Role
    content: str
    trained: bool = False
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None

    def message(self) -> dict[str, Any]:
        """The turn as input of a chat template."""
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
    """A training example, or a prompt to answer.

    Attributes:
        id: for messages and outputs, from the field that the user named, or the record's key; else `file:line`.
        file: the file's name.
        line: counted from 1; in a JSON list, a Parquet file or a data set on a hub, the number of the record.
        turns: in order.
        tools: the tools that the assistant may call, in OpenAI's format.
        group: a name that conversations from one source share, from the field that the user named.
        key: for outputs: the record's id with its original type (a number stays a number) if it has an id field; else
            `id`. None before `reading` sets it.
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
        """The turns as input of a chat template."""
        return [turn.message() for turn in self.turns]

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return self.file if self.line is None else f"{self.file}, line {self.line}"
