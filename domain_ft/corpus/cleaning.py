"""Cleaning of text in any script.

Unicode is composed (NFC), line ends become `\\n`, lone surrogates become U+FFFD, control characters and spaces at line
ends are removed, and runs of spaces and of empty lines are shortened. Characters that carry meaning in some script are
kept: the ideographic space (U+3000), zero-width joiners and directional marks.

`Aligned` maps each character of a cleaned text to the original, so that reported offsets refer to the user's text.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Line ends other than \n: \r\n, \r, vertical tab, form feed, next line, line and paragraph separators.
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# Control characters (but not \t and line ends), the byte order mark, U+FFFE and U+FFFF.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of a character, from truncated JSON escapes; not valid in UTF-8
# Spaces that differ only in width or line breaking. Not U+3000, with which Japanese and Chinese texts indent and
# separate words.
_SPACES = re.compile("[\xa0\u2000-\u200a\u202f\u205f]")
_RUNS = re.compile("[ \t]{2,}")
_TRAILING = re.compile("[ \t]+(?=\n)")
_SEGMENT = 1_000_000  # characters from which white space is removed at a time
_EMPTY_LINES = re.compile("\n{3,}")
_MARGINS = re.compile(r"\A[ \t\n]+|[ \t\n]+\Z")

# Replacements before Unicode is composed, and after it.
_Step = tuple[re.Pattern[str], str]
_BEFORE: tuple[_Step, ...] = ((_LINE_ENDS, "\n"), (_CONTROLS, ""), (_SURROGATES, "\ufffd"))
_AFTER: tuple[_Step, ...] = ((_SPACES, " "), (_RUNS, " "), (_TRAILING, ""), (_EMPTY_LINES, "\n\n"), (_MARGINS, ""))


def clean(text: str) -> str:
    """Clean a text for training. Idempotent.

    >>> clean("one\\r\\ntwo \\x07  three\\n\\n\\n\\nfour ")
    'one\\ntwo three\\n\\nfour'
    """
    for pattern, replacement in _BEFORE:
        text = pattern.sub(replacement, text)
    text = unicodedata.normalize("NFC", text)
    for pattern, replacement in _AFTER:
        text = pattern.sub(replacement, text)
    return text


@dataclass(frozen=True, eq=False)
class Aligned:
    """A cleaned text, with its characters mapped to the original.

    Attributes:
        text: `clean` of the original.
        starts, ends: (characters of `text`,) for each character, the start and end of the part of the original from
            which it comes.
    """

    text: str
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, given: str) -> Aligned:
        """Clean a text as `clean` does, and keep track of every character."""
        places = np.arange(len(given))
        aligned = cls(given, places, places + 1)
        for pattern, replacement in _BEFORE:
            aligned = aligned._replaced((m.start(), m.end(), replacement) for m in pattern.finditer(aligned.text))
        aligned = aligned._replaced(_composed(aligned.text))
        for pattern, replacement in _AFTER:
            aligned = aligned._replaced((m.start(), m.end(), replacement) for m in pattern.finditer(aligned.text))
        return aligned

    def given_span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original from which the characters `start` up to `end` of the cleaned text come.

        Characters that were removed at the edges of the span are not in it; those removed inside it are.

        Raises:
            ValueError: the span is empty, or not in the cleaned text.
        """
        if not 0 <= start < end <= len(self.text):
            raise ValueError(f"[{start}, {end}) is not a span of the {len(self.text)} cleaned characters")
        return int(self.starts[start]), int(self.ends[end - 1])

    def _replaced(self, changes: Iterable[tuple[int, int, str]]) -> Aligned:
        """The text with each (start, end, replacement) applied. Every new character maps to the whole replaced span."""
        texts: list[str] = []
        starts: list[npt.NDArray[np.int64]] = []
        ends: list[npt.NDArray[np.int64]] = []
        kept = 0
        for start, end, replacement in changes:
            texts += [self.text[kept:start], replacement]
            starts += [self.starts[kept:start], np.full(len(replacement), self.starts[start])]
            ends += [self.ends[kept:start], np.full(len(replacement), self.ends[end - 1])]
            kept = end
        if not texts:
            return self
        text = "".join([*texts, self.text[kept:]])
        return Aligned(text, np.concatenate([*starts, self.starts[kept:]]), np.concatenate([*ends, self.ends[kept:]]))


def _composed(text: str) -> Iterator[tuple[int, int, str]]:
    """The changes that make a text NFC: (start, end, composed), each from a stable character up to the next.

    A character is stable if its decomposition begins with a base that never composes with what precedes it. So the
    parts of a text that begin at stable characters can be composed separately.
    """
    if unicodedata.is_normalized("NFC", text):
        return
    start = 0
    for place in range(1, len(text) + 1):
        if place < len(text) and not _is_stable(text[place]):
            continue
        composed = unicodedata.normalize("NFC", text[start:place])
        if composed != text[start:place]:
            yield start, place, composed
        start = place


@functools.cache
def _is_stable(character: str) -> bool:
    base = unicodedata.normalize("NFD", character)[0]
    return unicodedata.combining(base) == 0 and base not in _second_characters()


@functools.cache
def _second_characters() -> frozenset[str]:
    """The characters that may compose with the previous character: the second of each pair that Unicode composes."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # Hangul composes by rule
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)


def normalise(text: str) -> str:
    """The form in which texts are compared to find copies: NFKC, casefolded, without white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # In segments, because the list of all words of a book takes ten times the memory of the book.
    return "".join("".join(folded[start : start + _SEGMENT].split()) for start in range(0, len(folded), _SEGMENT))
