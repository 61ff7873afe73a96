"""What a check finds, and the words for each kind of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where.

    Attributes:
        line: counted from 1; None where it is the file.
        field: the path in the record, such as `messages[2].content`; None where it is the record.
        kind: a slug, such as `near-duplicate`.
        message: what is wrong, in a sentence that holds no text of the file whole.
        error: whether a verb would refuse it or learn wrongly from it; else it is worth a look.
    """

    line: int | None
    field: str | None
    kind: str
    message: str
    error: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"line": self.line, "field": self.field, "kind": self.kind, "message": self.message}

    @property
    def order(self) -> tuple[int, str, str]:
        """By place: line, field, kind; what is of the file comes first."""
        return self.line or 0, self.field or "", self.kind
