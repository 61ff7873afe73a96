"""The documents of a corpus, before they are tokenised."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    Attributes:
        id: a stable name within the corpus, such as `afl-2.0` or `notes.jsonl:17`.
        text: the text.
        source: the name of the source or file.
    """

    id: str
    text: str
    source: str
