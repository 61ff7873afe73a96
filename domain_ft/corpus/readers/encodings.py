"""Suggests encodings for a file that is not UTF-8. They are only suggested: files are read as UTF-8 or --encoding.

Strict decoding finds the possible encodings, which are then ordered by likelihood.
"""

from __future__ import annotations

import codecs
import lzma
import unicodedata
import zlib
from pathlib import Path

from domain_ft.corpus.readers.encoding_names import WIDE, label

MOST_BYTES = 4_000_000  # bytes at the beginning of a file that are examined

_EAST_ASIAN = ("cp932", "euc_jp", "gb18030", "big5hkscs", "cp949")
_ONE_BYTE = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r", "iso8859_15")
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"))
# Characters that usually make up at least a tenth of a long text in Chinese or Korean.
_FREQUENT = frozenset(
    "的一是不了在有人这为之大来以个中上们到时国和地要于出会可也对生能而這為來個們時國會對이다는을의에가하고지도를은"
)
_LISTED = 4  # the most encodings in a message


def candidates(data: bytes) -> list[str]:
    """The plausible encodings of a file that begins with `data`, the likeliest first; an empty list if none is."""
    for mark, encoding in _MARKS:
        if data.startswith(mark) and _decoded(data, encoding) is not None:
            return [encoding]
    if data.startswith(codecs.BOM_UTF16_BE):
        return ["utf-16"]
    if b"\0" in data:
        found = [name for name in WIDE if (text := _decoded(data, name)) is not None and _is_plain(text)]
        return sorted(found, key=lambda name: len(data.decode(name, "ignore")))[:1]
    if is_iso2022(data):
        return ["iso2022_jp"]
    found = [name for name in _EAST_ASIAN if (text := _decoded(data, name)) is not None and _is_east_asian(text)]
    found.sort(key=lambda name: -_familiar(data.decode(name, "ignore")))
    return found or _one_byte(data)


def is_iso2022(data: bytes) -> bool:
    """Whether the bytes are Japanese text in ISO-2022-JP, which consists of ASCII bytes with escape sequences."""
    if b"\x1b$" not in data:
        return False
    text = _decoded(data, "iso2022_jp")
    return text is not None and not text.isascii()


def advice(path: Path | None, data: bytes, name: str) -> str:
    """What to do about a file that is not UTF-8: the encodings that decode it, and the two ways to read it.

    Args:
        path: the file, whose beginning is examined; None for a stream.
        data: the bytes that could not be decoded, which are examined if the file cannot be.
        name: the name of the stream, for the message.
    """
    found = candidates(beginning(path) or data)
    if not found:
        return "write the file as UTF-8; none of the usual encodings decodes it"
    labels = [label(encoding) for encoding in found[:_LISTED]]
    which = labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} or {labels[-1]}"
    shown = path.name if path is not None else name
    return (
        f"it can be decoded as {which}: if {labels[0]} is right, read it with --encoding {labels[0]}, "
        f"or convert it: iconv -f {labels[0]} -t UTF-8 {shown} > utf8-{Path(shown).name}"
    )


def beginning(path: Path | None) -> bytes:
    """The first `MOST_BYTES` of a file, unpacked; empty for a stream (None) or an unreadable file."""
    from domain_ft.corpus.readers.packing import open_packed

    if path is None:
        return b""
    try:
        with open_packed(path) as file:
            return file.read(MOST_BYTES)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
        return b""


def _decoded(data: bytes, encoding: str) -> str | None:
    """The decoded text; None if a byte cannot be decoded. A character that is cut at `MOST_BYTES` is dropped."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    try:
        return decoder.decode(data, len(data) < MOST_BYTES)
    except UnicodeError:
        return None


def _is_plain(text: str) -> bool:
    """Whether a text decoded as UTF-16 or UTF-32 is plausible.

    At most 1 % of its characters are control, private-use or unassigned characters, and most are ASCII or East Asian. A
    wrong encoding seldom produces such a text.
    """
    begin = text[:10_000]
    strange = sum(unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\n\r\f" for c in begin)
    foreign = sum(not c.isascii() for c in begin)
    return strange <= len(begin) / 100 and (foreign == 0 or _is_east_asian(text) or foreign < len(begin) / 2)


def _is_east_asian(text: str) -> bool:
    """Whether the non-ASCII characters are mostly wide and side by side, unlike an é among Latin letters."""
    foreign = [place for place, character in enumerate(text[:20_000]) if not character.isascii()]
    if not foreign or any(unicodedata.category(text[place]) in ("Co", "Cn", "Cc") for place in foreign):
        return False
    beside = set(foreign)
    together = sum(place - 1 in beside or place + 1 in beside for place in foreign)
    wide = sum(unicodedata.east_asian_width(text[place]) in "WF" for place in foreign)
    return together >= 0.7 * len(foreign) and wide >= 0.9 * len(foreign)


def _familiar(text: str) -> float:
    """A score that grows with the share of kana, Hangul and common ideographs among the non-ASCII characters."""
    foreign = [character for character in text[:20_000] if not character.isascii()]
    weights = {"HIRAGANA": 1.5, "KATAKANA": 1.2, "HANGUL": 0.8, "IDEOGRAPHIC": 0.8, "FULLWIDTH": 0.8}
    total = 0.0
    for character in foreign:
        first = unicodedata.name(character, "").split(" ")[0]
        if first == "CJK":
            first = "IDEOGRAPHIC" if _is_usual(character) else ""
        total += weights.get(first, 0.0) + 2.0 * (character in _FREQUENT)
    return total / max(1, len(foreign))


def _is_usual(character: str) -> bool:
    """Whether an ideograph is common in Japanese or Chinese: in level 1 of JIS, GB 2312 or Big5."""
    for encoding, first, last in (("euc_jp", 0xB0, 0xCF), ("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        try:
            lead = character.encode(encoding)[0]
        except UnicodeEncodeError:
            continue
        if first <= lead <= last:
            return True
    return False


def _one_byte(data: bytes) -> list[str]:
    possible = [name for name in _ONE_BYTE if (text := _decoded(data, name)) is not None and not _has_controls(text)]
    if len(possible) < 2:
        return possible
    from charset_normalizer import from_bytes  # slow to import

    ranked = [match.encoding for match in from_bytes(data[:200_000], cp_isolation=possible)]
    western = ["cp1252"] if "cp1252" in possible and _mostly_ascii(data) else []
    return list(dict.fromkeys([*western, *(name for name in ranked if name in possible), *possible]))


def _has_controls(text: str) -> bool:
    """Whether a text has control or unassigned characters, which a wrong encoding often produces."""
    return any(unicodedata.category(c) in ("Cc", "Cn") and c not in "\t\n\r\f\x1b" for c in text[:20_000])


def _mostly_ascii(data: bytes) -> bool:
    """Whether there are over three ASCII letters for each non-ASCII byte, as in Latin script with a few accents."""
    letters = sum(chr(byte).isalpha() for byte in data[:20_000] if byte < 128)
    return letters > 3 * sum(byte >= 128 for byte in data[:20_000])
