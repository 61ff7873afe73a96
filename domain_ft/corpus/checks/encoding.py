"""Text that was read in another encoding than it was written in (mojibake), and characters that were lost on the way.

Most of what was once read as a code page of one byte a character is found and mended by `ftfy`. It leaves out those of
East Asia, and some text of other scripts: UTF-8 that was read as one of those is found by writing it back.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

LOST = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")
_CODE_PAGES = ("cp932", "gb18030", "cp949", "big5hkscs", "cp1251", "koi8_r", "cp1253", "cp1256")
_FEWEST = 4  # characters beyond ASCII, from which on a line that is also UTF-8 in another encoding is no accident
_SHOWN = 12  # characters of a text that a message shows


def encoding_faults(text: str) -> Iterator[tuple[str, str]]:
    """What is wrong with the characters of a text, as (kind, message)."""
    if text.isascii():
        return
    halves = _SURROGATES.findall(text)
    if halves:
        half = f"\\u{ord(halves[0]):04x}"
        yield "half-character", f"it holds half of a character ({half}, a lone surrogate), for which there is no UTF-8"
        text = _SURROGATES.sub(LOST, text)
    for line in text.split("\n"):
        mended = _mended(line)
        if mended != line:
            was, is_now = _difference(line, mended)
            yield "mojibake", f"it was read in a wrong encoding: '{was}' stands for '{is_now}'"
            break
    lost = text.count(LOST) - len(halves)
    if lost:
        characters = "a character was" if lost == 1 else f"{lost:,} characters were"
        yield "mojibake", f"{characters} lost when it was read in a wrong encoding (U+FFFD)"


def mend_encoding(text: str) -> str:
    """The text as it was written, as far as that can be told; halves of characters are left out.

    >>> mend_encoding("the patientâ€™s cafÃ©")
    'the patient’s café'
    """
    if text.isascii():
        return text
    return "\n".join(_mended(line) for line in _SURROGATES.sub("", text).split("\n"))


def without_surrogates(text: str) -> str:
    """The text with a mark in place of each half of a character, so that it can be written as UTF-8."""
    return text if text.isascii() else _SURROGATES.sub(LOST, text)


def _mended(line: str) -> str:
    if line.isascii():
        return line
    import ftfy  # slow to import

    mended = ftfy.fix_encoding(line)
    return _written_back(line) if mended == line else mended


def _written_back(line: str) -> str:
    """The UTF-8 that a line is if it was read as another code page; the line itself if it was not."""
    foreign = sum(not character.isascii() for character in line)
    if foreign < _FEWEST:
        return line
    for encoding in _CODE_PAGES:
        try:
            mended = line.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        if sum(not character.isascii() for character in mended) >= 2 and mended.replace("\t", " ").isprintable():
            return mended
    return line


def _difference(was: str, is_now: str) -> tuple[str, str]:
    """The first place at which the two differ."""
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(was, is_now, strict=False)))
    same_end = 0
    while same_end < min(len(was), len(is_now)) - same and was[-1 - same_end] == is_now[-1 - same_end]:
        same_end += 1
    return was[same : len(was) - same_end][:_SHOWN], is_now[same : len(is_now) - same_end][:_SHOWN]
