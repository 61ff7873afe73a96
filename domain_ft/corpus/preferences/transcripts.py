"""Transcripts like HH-RLHF's: a conversation in one text, with "Human:" and "Assistant:" before each turn."""

from __future__ import annotations

import re
from typing import Any

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):(?: |(?=\n)|\Z)")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(value: Any) -> bool:
    """Whether a value is a transcript: a text that begins with the human's turn.

    >>> is_transcript("\\n\\nHuman: Why?\\n\\nAssistant: So.")
    True
    """
    found = _SPEAKER.match(value) if isinstance(value, str) else None
    return found is not None and found[1] == "Human"


def messages_of(transcript: str) -> list[dict[str, str]]:
    """The messages of a transcript. A last turn without text, which asks for the answer, is left out.

    >>> messages_of("\\n\\nHuman: Why?\\n\\nAssistant: So.")
    [{'role': 'user', 'content': 'Why?'}, {'role': 'assistant', 'content': 'So.'}]
    """
    _, *parts = _SPEAKER.split(transcript)
    turns = [
        {"role": _ROLES[speaker], "content": text.strip()}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns
