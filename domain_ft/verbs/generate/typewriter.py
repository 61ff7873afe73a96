"""Write text to a terminal as it arrives, wrapped between words."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TextIO

from rich.cells import cell_len

from domain_ft.terminal_text import printable

_JOINER = "\N{ZERO WIDTH JOINER}"
_NEVER_FIRST = ("Pe", "Pf", "Po", "Lm", "Sk")  # closing brackets and quotes, punctuation, modifiers of what precedes
_NEVER_LAST = ("Ps", "Pi")  # opening brackets and quotes


class Typewriter:
    """Writes text as it arrives; a word appears once it is complete.

    Beside a wide character, as in Japanese, a line may break without a space, but not before closing or after opening
    punctuation.

    Args:
        file: a terminal.
        width: of a line, in cells; most East Asian characters take two.
        indent: the start of each line.
    """

    def __init__(self, file: TextIO, width: int, indent: str = "") -> None:
        self._file = file
        self._room = max(width - cell_len(indent), 2)
        self._indent = indent
        self._column: int | None = None  # cells written after the indent; None if nothing is written on this line
        self._space = ""
        self._word = ""
        self._return = ""  # a carriage return whose line feed may come with the next text

    def write(self, text: str) -> None:
        """Take more text; complete words appear at once."""
        text = self._return + text
        self._return = "\r" if text.endswith("\r") else ""
        self._take(text.removesuffix("\r"))
        self._file.flush()

    def _take(self, text: str) -> None:
        for character in printable(text):
            if character == "\n":
                self._put_word()
                self._break()
            elif character.isspace():
                self._put_word()
                self._space += character.expandtabs(4)
            else:
                if self._word and not _joined(self._word[-1], character):
                    self._put_word()
                self._word += character

    def end(self) -> None:
        """Write the last word and end its line."""
        self._take(self._return)
        self._return = ""
        self._put_word()
        if self._column is not None:
            self._break()
        self._file.flush()

    def _put_word(self) -> None:
        if not self._word:
            return
        if (self._column or 0) + cell_len(self._space + self._word) > self._room:
            if self._column:
                self._break()
            self._space = ""
        for place, part in enumerate(_parts(self._word, self._room)):
            if place:
                self._break()
            self._put(self._space + part)
        self._word = ""

    def _put(self, text: str) -> None:
        if self._column is None:
            self._file.write(self._indent)
            self._column = 0
        self._file.write(text)
        self._column += cell_len(text)
        self._space = ""

    def _break(self) -> None:
        self._file.write("\n")
        self._column, self._space = None, ""


def _parts(word: str, room: int) -> Iterator[str]:
    """A word, or parts of it that fit into `room` cells."""
    part = ""
    for character in word:
        if part and cell_len(part + character) > room:
            yield part
            part = ""
        part += character
    yield part


def _joined(before: str, after: str) -> bool:
    """Whether two characters, neither of them white space, stay on one line."""
    widths = cell_len(before), cell_len(after)
    return (
        widths[1] == 0
        or before == _JOINER
        or unicodedata.category(after) in _NEVER_FIRST
        or unicodedata.category(before) in _NEVER_LAST
        or max(widths) == 1
    )
