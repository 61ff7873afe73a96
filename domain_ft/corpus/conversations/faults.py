"""What is wrong with a record, in words; and texts, whole."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from domain_ft.corpus.readers.base import kind_of

_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of a character, as cut JSON escapes leave them
_LINE_ENDS = re.compile("\r+\n")


@dataclass(frozen=True)
class Fault:
    """Something wrong with a record.

    Attributes:
        kind: a short name, such as `unknown-role`.
        field: where in the record, such as `messages[2].role`; None for the whole of it.
        message: what is wrong, in a sentence.
        error: the record cannot be used; else it is a warning.
    """

    kind: str
    field: str | None
    message: str
    error: bool = True


@dataclass
class Faults:
    """Collects the faults of a record.

    Attributes:
        found: in the order in which they were noted.
        unread: fields of messages that nothing reads, such as `messages[].tag`.
    """

    found: list[Fault] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)

    def error(self, kind: str, place: str | None, message: str) -> None:
        """Note what makes the record useless."""
        self.found.append(Fault(kind, place, message))

    def warn(self, kind: str, place: str | None, message: str) -> None:
        """Note what is worth a look."""
        self.found.append(Fault(kind, place, message, error=False))

    @property
    def fatal(self) -> bool:
        """Whether the record cannot be used."""
        return any(fault.error for fault in self.found)

    def text(self, value: Any, place: str) -> str | None:
        """A text, whole, its lines ended by \\n; None where it is none, which is noted."""
        if not isinstance(value, str):
            self.error("wrong-type", place, f"the field holds {kind_of(value)}, where text is wanted")
            return None
        if _SURROGATES.search(value):
            self.warn(
                "half-character", place, "half of a character (a lone surrogate) stands in the text: it is replaced"
            )
            value = _SURROGATES.sub("\ufffd", value)
        return _LINE_ENDS.sub("\n", value)
