"""Finds and fixes text that was read in a wrong encoding (mojibake), and finds lost characters.

`ftfy` fixes most UTF-8 text that was decoded in a common single-byte encoding. A line that `ftfy` does not change is
encoded in each of `_CODE_PAGES`. If the bytes are valid UTF-8, the line is probably mojibake, and they are decoded.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

LOST = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")
_CODE_PAGES = ("cp932", "gb18030", "cp949", "big5hkscs", "cp1251", "koi8_r", "cp1253", "cp1256")
_FEWEST = 4  # the fewest non-ASCII characters of a line to try: the bytes of fewer may be valid UTF-8 by coincidence
_SHOWN = 12  # the most characters that a message shows of a text


def encoding_faults(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) for half characters, for the first line of mojibake, and for lost characters."""
    if text.isascii():
        return
    halves = _SURROGATES.findall(text)
    if halves:
        half = f"\\u{ord(halves[0]):04x}"
        yield "half-character", f"it contains half of a character ({half}, a lone surrogate), which UTF-8 cannot encode"
        text = _SURROGATES.sub(LOST, text)
    for line in text.split("\n"):
        fixed = _fixed(line)
        if fixed != line:
            was, is_now = _difference(line, fixed)
            yield "mojibake", f"it was read in a wrong encoding: '{was}' should be '{is_now}'"
            break
    lost = text.count(LOST) - len(halves)
    if lost:
        characters = "a character was" if lost == 1 else f"{lost:,} characters were"
        yield "mojibake", f"{characters} lost when the text was read in a wrong encoding (U+FFFD)"


def fix_encoding(text: str) -> str:
    """The text with mojibake fixed as far as possible, and without lone surrogates.

    >>> fix_encoding("the patientâ€™s cafÃ©")
    'the patient’s café'
    """
    if text.isascii():
        return text
    return "\n".join(_fixed(line) for line in _SURROGATES.sub("", text).split("\n"))


def without_surrogates(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate, so that it can be encoded in UTF-8."""
    return text if text.isascii() else _SURROGATES.sub(LOST, text)


def _fixed(line: str) -> str:
    if line.isascii():
        return line
    import ftfy  # slow to import

    fixed = ftfy.fix_encoding(line)
    return _reread(line) if fixed == line else fixed


def _reread(line: str) -> str:
    """The original of a UTF-8 line that was decoded in one of `_CODE_PAGES`; any other line unchanged."""
    foreign = sum(not character.isascii() for character in line)
    if foreign < _FEWEST:
        return line
    for encoding in _CODE_PAGES:
        try:
            fixed = line.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        if sum(not character.isascii() for character in fixed) >= 2 and fixed.replace("\t", " ").isprintable():
            return fixed
    return line


def _difference(was: str, is_now: str) -> tuple[str, str]:
    """The two texts without their common prefix and suffix, each cut to `_SHOWN` characters."""
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(was, is_now, strict=False)))
    same_end = 0
    while same_end < min(len(was), len(is_now)) - same and was[-1 - same_end] == is_now[-1 - same_end]:
        same_end += 1
    return was[same : len(was) - same_end][:_SHOWN], is_now[same : len(is_now) - same_end][:_SHOWN]
