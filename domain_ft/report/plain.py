"""Untrusted text for the terminal, shown literally: rich reads no markup in it, and control characters are escaped."""

from __future__ import annotations

from rich.text import Text

from domain_ft.terminal_text import printable


def plain(text: str, style: str = "") -> Text:
    """`text` in `style`, with control characters as visible escapes."""
    return Text(printable(text), style=style)
