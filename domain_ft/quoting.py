"""How messages show what a user's file holds: names of fields, labels, cells. Never a whole text, and never ambiguous.

A file may be private, and a table without a header has texts where the names of columns are. So a message shows the
beginning at most, and marks where it is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

SHOWN = 40
"""Characters of a user's text that a message shows at most."""

LISTED = 20
"""Names that a message lists at most."""

_PLAIN = re.compile(r"[^\s,;:'\"()|]+")  # a name whose end is clear in a list without quotes


def shown(text: Any) -> str:
    """As much of a user's text as a message may show, on one line.

    >>> shown("word " * 30)
    'word word word word word word word word…'
    """
    flat = " ".join(str(text)[: 4 * SHOWN].split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN].rstrip()}…"


def quoted(name: Any) -> str:
    """A name as a message lists it: in double quotes where its end would not be clear, and cut where it is long.

    >>> quoted("text"), quoted("findings, all"), quoted("")
    ('text', '"findings, all"', '""')
    """
    cut = shown(name)
    if cut == str(name) and _PLAIN.fullmatch(cut):
        return cut
    return '"' + cut.replace('"', '""') + '"'


def listed(names: Iterable[Any]) -> str:
    """Names of fields or columns as a message lists them; `none` where there are none.

    >>> listed(["id", "findings, all"])
    'id, "findings, all"'
    """
    each = [quoted(name) for name in names]
    more = f" and {len(each) - LISTED:,} more" if len(each) > LISTED else ""
    return (", ".join(each[:LISTED]) + more) or "none"
