"""Show names, labels and cells of a user's file in messages, shortened and unambiguous.

Files may be private, and a table without a header has texts in place of column names. So a message shows only the
beginning of a text, and an ellipsis where it is cut.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

SHOWN = 40
"""The most characters of a user's text in a message."""

LISTED = 20
"""The most names that a message lists."""

_PLAIN = re.compile(r"[^\s,;:'\"()|]+")  # a name that needs no quotes in a list


def shown(text: Any) -> str:
    """The start of a user's text, on one line, for a message.

    >>> shown("word " * 30)
    'word word word word word word word word…'
    """
    flat = " ".join(str(text)[: 4 * SHOWN].split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN].rstrip()}…"


def is_invisible(character: str) -> bool:
    """Whether a character has no width of its own: format characters, such as U+200B, and variation selectors."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def made_visible(text: str) -> str:
    """A text with its invisible characters as escapes, to tell apart names that look the same.

    >>> made_visible("law\u200b")
    'law\\\\u200b'
    """
    return "".join(f"\\u{ord(one):04x}" if is_invisible(one) else one for one in text)


def quoted(name: Any) -> str:
    """A name for a list in a message: shortened if long, and in double quotes if cut or if its end would be unclear.

    >>> quoted("text"), quoted("findings, all"), quoted("")
    ('text', '"findings, all"', '""')
    """
    cut = shown(name)
    if cut == str(name) and _PLAIN.fullmatch(cut):
        return cut
    return '"' + cut.replace('"', '""') + '"'


def listed(names: Iterable[Any]) -> str:
    """A list of names in a message; `none` for an empty one.

    >>> listed(["id", "findings, all"])
    'id, "findings, all"'
    """
    each = [quoted(name) for name in names]
    more = f" and {len(each) - LISTED:,} more" if len(each) > LISTED else ""
    return (", ".join(each[:LISTED]) + more) or "none"
