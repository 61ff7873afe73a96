"""Cleaning: the same text for every writing system, without what no reader sees.

Unicode is composed (NFC), line ends become `\\n`, control characters go, runs of spaces and of empty lines shrink.
What carries meaning in some script stays: the ideographic space (U+3000), zero-width joiners, marks of direction.
"""

from __future__ import annotations

import re
import unicodedata

# Line ends other than \n: \r\n, \r, vertical tab, form feed, next line, line and paragraph separators.
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# Controls but \t and \n, the byte order mark, and code points that are no characters.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of a character, such as cut JSON escapes leave: no UTF-8 for them
# Spaces that differ in width alone. U+3000 is not among them: Japanese and Chinese indent and part words with it.
_SPACES = re.compile("[\xa0\u2000-\u200a\u202f\u205f]")
_RUNS = re.compile("[ \t]{2,}")
_TRAILING = re.compile("[ \t]+(?=\n)")
_SEGMENT = 1_000_000  # characters
_EMPTY_LINES = re.compile("\n{3,}")


def clean(text: str) -> str:
    """The text as it is trained on. Cleaning twice changes nothing more.

    >>> clean("one\\r\\ntwo \\x07  three\\n\\n\\n\\nfour ")
    'one\\ntwo three\\n\\nfour'
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", text))
    text = _RUNS.sub(" ", text)
    text = _TRAILING.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip(" \t\n")


def normalise(text: str) -> str:
    """What copies of a text have in common: no case, no white space, compatible forms made alike (NFKC)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # In segments, since the words of a whole book as a list take ten times the memory of the book.
    return "".join("".join(folded[start : start + _SEGMENT].split()) for start in range(0, len(folded), _SEGMENT))
