"""Words in any script: finding them in a text, and joining them into a text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

Bounds = tuple[int, int]

# Scripts that are written without spaces between words: (first, last) code points, in order.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # radicals, CJK punctuation, Hiragana, Katakana, Bopomofo
    (0x3190, 0x31FF),  # Kanbun to Katakana's extension
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF00, 0xFFEF),  # full-width and half-width forms
    (0x20000, 0x3FFFF),  # rarer Han characters
)


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words, or to its punctuation."""
    code = ord(character)
    return code >= 0x0E00 and any(first <= code <= last for first, last in _UNSPACED)


def join_words(words: Sequence[str]) -> tuple[str, tuple[Bounds, ...]]:
    """Join words into a text. Also returns the bounds of each word in it.

    Two words are joined by a space, unless one of the adjoining characters belongs to a script without spaces. For
    example, the Japanese words "EGFR", "遺伝子", "の" become "EGFR遺伝子の".
    """
    parts: list[str] = []
    bounds: list[Bounds] = []
    length = 0
    for word in words:
        if parts and not (is_unspaced(parts[-1][-1]) or is_unspaced(word[0])):
            parts.append(" ")
            length += 1
        bounds.append((length, length + len(word)))
        parts.append(word)
        length += len(word)
    return "".join(parts), tuple(bounds)


def find_words(text: str) -> tuple[Bounds, ...]:
    """The bounds of the words of a text, for any tokenizer. Entities consist of whole words.

    A word is a run of letters, digits and underscores; a single other character, such as a comma; or a character of a
    script without spaces. A combining mark or joiner belongs to the character before it.
    """
    bounds: list[Bounds] = []
    running = False  # whether the last word is a run that the next character may continue
    for place, character in enumerate(text):
        if character.isspace():
            running = False
            continue
        joins = _is_mark(character) and bool(bounds) and bounds[-1][1] == place
        letter = not is_unspaced(character) and (character.isalnum() or character == "_")
        if joins or (letter and running):
            bounds[-1] = (bounds[-1][0], place + 1)
        else:
            bounds.append((place, place + 1))
            running = letter
    return tuple(bounds)


def _is_mark(character: str) -> bool:
    """Whether a character is a combining mark, a joiner or a variation selector (as in emoji)."""
    return not character.isascii() and (unicodedata.category(character)[0] == "M" or character in "\u200c\u200d")
