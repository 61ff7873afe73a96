"""Preferences, independent of their file format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from domain_ft.corpus.conversations.conversation import Conversation, Turn


@dataclass(frozen=True)
class PreferenceExample:
    """A prompt with a better and a worse answer.

    Attributes:
        id: from the field that the user named; else `file:line`.
        prompt: the turns before the answers.
        chosen, rejected: the turns of the better and the worse answer.
        margin: how much better the chosen answer is, if the record says so.
        source: the record as a conversation, without turns: its file, line and group.
    """

    id: str
    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    margin: float | None
    source: Conversation

    @property
    def answers(self) -> tuple[tuple[Turn, ...], ...]:
        """The answers, the better one first."""
        return (self.chosen, self.rejected)


@dataclass(frozen=True)
class RatedExample:
    """A prompt with one answer that is good or bad.

    Attributes:
        id, prompt, source: as in `PreferenceExample`.
        completion: the turns of the answer.
        desirable: whether the answer is good.
    """

    id: str
    prompt: tuple[Turn, ...]
    completion: tuple[Turn, ...]
    desirable: bool
    source: Conversation

    @property
    def answers(self) -> tuple[tuple[Turn, ...], ...]:
        """The only answer."""
        return (self.completion,)


Example: TypeAlias = PreferenceExample | RatedExample
