"""Placeholders of a template that were never filled, such as {{name}}: a model would read them as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_PLACEHOLDER = re.compile(r"\{\{\s*[^\W\d][\w.-]*\s*\}\}")


def find_placeholder(text: str) -> str | None:
    """The first placeholder in a text: a name in two braces. Jinja's expressions and code are none.

    >>> find_placeholder("Dear {{ name }},")
    '{{ name }}'
    """
    found = _PLACEHOLDER.search(text)
    return found.group() if found else None


@dataclass
class Unfilled:
    """Counts the records of a file that have placeholders.

    Attributes:
        count: of the records.
        place: of the first of them, such as `prompts.jsonl, line 3`.
        example: the placeholder there.
    """

    count: int = 0
    place: str | None = None
    example: str | None = None

    def see(self, texts: Iterable[str], place: str) -> None:
        """Look at the texts of one record."""
        found = next((one for text in texts if (one := find_placeholder(text))), None)
        if found:
            self.count += 1
            self.place, self.example = self.place or place, self.example or found

    def as_dict(self) -> dict[str, Any]:
        """As result.json has it."""
        return {"records": self.count, "first": self.place, "example": self.example}

    def sentence(self) -> str | None:
        """What a person is told; None where there are none."""
        if not self.count:
            return None
        prompts = (
            "1 prompt has a placeholder that was"
            if self.count == 1
            else (f"{self.count:,} prompts have placeholders that were")
        )
        return f"{prompts} not filled, the first {self.example} in {self.place}: the model reads it as it is"
