"""What a corpus is made of, before it becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    Attributes:
        id: stable name of the document within its corpus, such as `afl-2.0` or `notes.jsonl:17`.
        text: the text, as Unicode.
        source: the name of the source or file that it comes from.
    """

    id: str
    text: str
    source: str
