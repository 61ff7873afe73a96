"""Finds unfilled template placeholders such as `Dear {{name}},`, which the model would learn literally.

Double braces are always reported. `{name}` and `<NAME>` also occur in ordinary texts, so they are reported only if the
same one occurs in several records, as in texts from one template. Code is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

_CODE = re.compile(r"```.*?(```|\Z)|`[^`\n]*`", re.DOTALL)
_DOUBLE = re.compile(r"\{\{\s*[^\W\d][\w .-]{0,40}\}\}")
_SINGLE = re.compile(r"(?<![\\\w^}{$%)])\{[^\W\d]\w{2,40}\}(?!\})|<[A-Z][A-Z_]{2,40}>")
# `{name}` and `<NAME>` are reported if they occur in at least this number and this share of the records.
_RECURS = 3
_SHARE = 0.02


class Unfilled(NamedTuple):
    """A placeholder: its text, the number of records that have it, and the line of the first of them."""

    text: str
    records: int
    line: int | None

    @property
    def message(self) -> str:
        """The warning."""
        records = "1 record has" if self.records == 1 else f"{self.records:,} records have"
        where = "" if self.line is None else f", first on line {self.line}"
        return f"{records} the placeholder {self.text}{where}: a template may not have been filled"


@dataclass
class Placeholders:
    """Counts the placeholders of records."""

    records: int = 0
    _found: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # by placeholder, (records, first line)

    def add(self, line: int | None, texts: Iterable[str]) -> None:
        """Count the placeholders in the texts of a record."""
        self.records += 1
        seen: set[str] = set()
        for text in texts:
            if "{" in text or "<" in text:
                bare = _CODE.sub(" ", text)
                seen.update(re.sub(r"\s", "", match[0]) for match in _DOUBLE.finditer(bare))
                seen.update(match[0] for match in _SINGLE.finditer(bare))
        for placeholder in seen:
            count, first = self._found.get(placeholder, (0, line))
            self._found[placeholder] = (count + 1, first)

    def unfilled(self) -> list[Unfilled]:
        """The placeholders that seem to belong to a template, the most frequent first."""
        least = max(_RECURS, _SHARE * self.records)
        found = [
            Unfilled(text, count, line)
            for text, (count, line) in self._found.items()
            if text.startswith("{{") or count >= least
        ]
        return sorted(found, key=lambda one: (-one.records, one.text))
