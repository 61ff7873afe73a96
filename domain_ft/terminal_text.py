"""Make untrusted text safe to print: file names, fields of records, model output.

Control characters can move the cursor, clear the screen, or make the terminal send input. Bidirectional controls
reorder the text after them. Both are shown as visible escapes.
"""

from __future__ import annotations

import re

# C0 except tab and newline, DEL, C1; bidirectional embeddings, overrides and isolates, and the characters that end
# them; and lone surrogates, which file names may contain but UTF-8 cannot encode. The bidirectional marks (U+200E,
# U+200F, U+061C) stay: Arabic and Hebrew need them, and they do not reorder the text after them.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with unsafe characters as visible escapes. Newlines and tabs stay; Windows line ends become newlines.

    >>> printable("notes\x1b[31m.txt")
    'notes\\x1b[31m.txt'
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
