"""The findings of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A problem and its location.

    Attributes:
        line: the number of the line or record, from 1 (see `RawRecord.line`); None for the whole file.
        field: the path in the record, such as `messages[2].content`; None for the whole record.
        kind: a short name, such as `near-duplicate`.
        message: what is wrong, in a sentence. Quotations from the file are shortened.
        error: whether a verb would refuse the record or learn wrongly from it; otherwise the finding is a warning.
    """

    line: int | None
    field: str | None
    kind: str
    message: str
    error: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The finding in the output of `--json`."""
        return {"line": self.line, "field": self.field, "kind": self.kind, "message": self.message}

    @property
    def order(self) -> tuple[int, str, str]:
        """Sort key: line, field, kind. Findings on the whole file come first."""
        return self.line or 0, self.field or "", self.kind
