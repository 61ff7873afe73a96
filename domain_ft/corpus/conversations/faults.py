"""Collects the faults of a record, and cleans its texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from domain_ft.corpus.readers.base import kind_of

_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of characters, left by truncated JSON escapes
_LINE_ENDS = re.compile("\r+\n")


@dataclass(frozen=True)
class Fault:
    """Something wrong with a record.

    Attributes:
        kind: a short name, such as `unknown-role`.
        field: the path in the record, such as `messages[2].role`; None for the whole record.
        message: what is wrong, in a sentence.
        error: whether the record cannot be used; otherwise it is a warning.
    """

    kind: str
    field: str | None
    message: str
    error: bool = True


@dataclass
class Faults:
    """Collects the faults of a record.

    Attributes:
        found: in the order of detection.
        unread: fields of messages that are not read, such as `messages[].tag`.
    """

    found: list[Fault] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)

    def error(self, kind: str, place: str | None, message: str) -> None:
        """Add a fault that makes the record unusable."""
        self.found.append(Fault(kind, place, message))

    def warn(self, kind: str, place: str | None, message: str) -> None:
        """Add a warning."""
        self.found.append(Fault(kind, place, message, error=False))

    @property
    def fatal(self) -> bool:
        """Whether the record cannot be used."""
        return any(fault.error for fault in self.found)

    def text(self, value: Any, place: str) -> str | None:
        """A text with \\n for \\r\\n and U+FFFD for lone surrogates; None for another value, with a fault added."""
        if not isinstance(value, str):
            self.error("wrong-type", place, f"the field holds {kind_of(value)}, where text is expected")
            return None
        if _SURROGATES.search(value):
            self.warn(
                "half-character", place, "the text contains half of a character (a lone surrogate): it is replaced"
            )
            value = _SURROGATES.sub("\ufffd", value)
        return _LINE_ENDS.sub("\n", value)
