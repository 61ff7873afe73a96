"""Text for the terminal that is shown as it is: no markup is read in it, no control character reaches the terminal."""

from __future__ import annotations

from rich.text import Text

from domain_ft.terminal_text import printable


def plain(text: str, style: str = "") -> Text:
    """`text` in `style`, with control characters as visible escapes. For names and texts of the user's."""
    return Text(printable(text), style=style)
