"""Converts the offsets of entities, and finds out why they do not fit the text.

domain-ft counts Unicode characters (code points) from 0, with an exclusive end. Other tools count UTF-16 units
(JavaScript, Java) or bytes, count from 1, or use an inclusive end. If spans also give their text, wrong offsets can be
detected, and `likely_causes` finds the ways to count that explain them.
"""

from __future__ import annotations

import html
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from domain_ft.corpus.words import find_words, is_unspaced

Counting = Literal["characters", "utf16", "bytes", "one-based", "inclusive", "one-based-inclusive"]

COUNTED = "offsets count Unicode characters from 0, and the end is exclusive"

_FEWEST_SPANS = 5  # with fewer spans, nothing is concluded from where they begin and end
_SAMPLED_SPANS = 10_000  # the most spans that are tried with every way to count
_NEARLY_ALL = 0.9  # a way to count is likely if at least this share of the spans then begin and end with words
_SHOWN = 40  # characters of an entity in a message

# Forms of the text in which offsets may have been counted.
_FORMS: Mapping[str, Callable[[str], str | bytes]] = {
    "characters": lambda text: text,
    "utf16": lambda text: text.encode("utf-16-le", "surrogatepass"),
    "bytes": lambda text: text.encode("utf-8", "surrogatepass"),
    "crlf": lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n"),
    "lf": lambda text: text.replace("\r\n", "\n"),
    "NFC": lambda text: unicodedata.normalize("NFC", text),
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "escaped": lambda text: html.escape(text, quote=False),
    "unescaped": html.unescape,
    "stripped": str.lstrip,
}
_FORM_WORDS = {
    "characters": "",
    "utf16": "offsets count UTF-16 units, as JavaScript and Java do",
    "bytes": "offsets count UTF-8 bytes",
    "crlf": "offsets were counted with two characters (CR LF) at the end of each line",
    "lf": "offsets were counted with one character at the end of each line, and the text has two (CR LF)",
    "NFC": "offsets were counted in the NFC form of the text, with composed accents",
    "NFD": "offsets were counted in the NFD form of the text, with accents as separate characters",
    "escaped": "offsets were counted in the text with HTML escapes such as &amp;",
    "unescaped": "offsets were counted in the text without its HTML escapes such as &amp;",
    "stripped": "offsets were counted without the white space at the beginning of the text",
}
_DECODED = {"utf16": ("utf-16-le", 2), "bytes": ("utf-8", 1)}


class Cause(NamedTuple):
    """A way to count: the form of the text, the first offset, and whether the end is inclusive."""

    form: str
    base: int
    inclusive: int

    @property
    def words(self) -> str:
        """The cause as part of a message."""
        parts = [_FORM_WORDS[self.form]] if _FORM_WORDS[self.form] else []
        parts += ["offsets are counted from 1"] if self.base else []
        parts += ["the end is inclusive"] if self.inclusive else []
        return ", and ".join(parts)

    @property
    def counting(self) -> Counting | None:
        """The value of --span-offsets for this way to count; None if there is none."""
        known: dict[tuple[str, int, int], Counting] = {
            ("utf16", 0, 0): "utf16",
            ("bytes", 0, 0): "bytes",
            ("characters", 1, 0): "one-based",
            ("characters", 0, 1): "inclusive",
            ("characters", 1, 1): "one-based-inclusive",
        }
        return known.get((self.form, self.base, self.inclusive))


_CAUSES = sorted(
    (Cause(form, base, inclusive) for form in _FORMS for base in (0, 1) for inclusive in (0, 1)),
    key=lambda cause: (cause.base + cause.inclusive + 2 * (cause.form != "characters"), list(_FORMS).index(cause.form)),
)[1:]  # the simplest first, without domain-ft's own way to count


@dataclass(frozen=True)
class Claim:
    """The text that a span gives in the file, to compare with the text at its offsets.

    Attributes:
        text: the whole text.
        start, end: the offsets in the file.
        mention: the span's text in the file.
    """

    text: str
    start: int
    end: int
    mention: str


def to_characters(text: str, start: int, end: int, counting: Counting) -> tuple[int, int]:
    """Convert offsets to characters of the text, with an exclusive end.

    Raises:
        ValueError: an offset in UTF-16 units or bytes is inside a character, or outside the text.
    """
    if counting in _DECODED:
        return _characters_before(text, start, counting), _characters_before(text, end, counting)
    if counting in ("one-based", "one-based-inclusive"):
        start, end = start - 1, end - 1
    return start, end + (counting in ("inclusive", "one-based-inclusive"))


def _characters_before(text: str, place: int, counting: str) -> int:
    """The number of characters before an offset in UTF-16 units or bytes."""
    codec, size = _DECODED[counting]
    encoded = text.encode(codec, "surrogatepass")
    if not 0 <= place * size <= len(encoded):
        raise ValueError(f"{place} is outside the text, which ends at {len(encoded) // size}, counted in {counting}")
    try:
        return len(encoded[: place * size].decode(codec))
    except UnicodeDecodeError:
        raise ValueError(f"{place} is inside a character, counted with --span-offsets {counting}") from None


def agrees(one: str, other: str) -> bool:
    """Whether two texts are equal except for case, white space and the Unicode form of accents."""
    return one == other or _normalised(one) == _normalised(other)


def _normalised(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).casefold().split())


def likely_causes(claims: Sequence[Claim], others: Sequence[Claim] = ()) -> tuple[list[Cause], int]:
    """The ways to count that explain the most claims, the simplest first, and how many claims each of them explains.

    After the first, only ways to count from 0 and with an exclusive end are listed.

    Args:
        claims: spans whose text differs from the text at their offsets.
        others: correct claims. They break ties: the ways to count that fit the most of the first thousand are
            preferred.
    """
    explained = Counter(cause for claim in claims for cause in _causes(claim))
    if not explained:
        return [], 0
    most = max(explained.values())
    fitting = Counter(cause for claim in others[:1000] for cause in _causes(claim))
    best = [cause for cause in _CAUSES if explained[cause] == most]
    best = [cause for cause in best if fitting[cause] == max(fitting[one] for one in best)]
    return [best[0], *(cause for cause in best[1:] if not cause.base and not cause.inclusive)], most


def _causes(claim: Claim) -> Iterator[Cause]:
    """The ways to count under which the claim is correct."""
    forms: dict[str, str | bytes] = {}
    for cause in _CAUSES:
        if cause.form not in forms:
            forms[cause.form] = _FORMS[cause.form](claim.text)
        codec, size = _DECODED.get(cause.form, ("", 1))
        start, end = (claim.start - cause.base) * size, (claim.end - cause.base + cause.inclusive) * size
        units = forms[cause.form]
        if not 0 <= start <= end <= len(units):
            continue
        part = units[start:end]
        marked = part.decode(codec, "replace") if isinstance(part, bytes) else part
        # White space at the ends has to agree too, or a shift by one could match a word with the space beside it.
        if agrees(claim.mention, marked) and _margin(marked) == _margin(claim.mention):
            yield cause


def _margin(text: str) -> int:
    return len(text) - len(text.strip())


def contradiction(claim: Claim, causes: Sequence[Cause], explained: int, count: int) -> tuple[str, str]:
    """The message and the fix for a wrong claim. `causes` explain `explained` of all `count` wrong claims."""
    start, end = claim.start, claim.end
    inside = 0 <= start <= end <= len(claim.text)
    found = f"[{start}, {end}) is outside the text, which has {len(claim.text)} characters"
    if end < start:
        found = f"[{start}, {end}) ends before it starts"
    elif inside:
        found = f"the text at [{start}, {end}) is '{_shortened(claim.text[start:end])}'"
    reason = f"the text of a span is '{_shortened(claim.mention)}', but {found}"
    if causes:
        some = "all" if explained == count else f"{explained:,} of"
        share = "" if count == 1 else f" (explains {some} {count:,} wrong spans)"
        words = "; or ".join(cause.words for cause in causes)
        return f"{reason}; likely cause: {words}{share}", _fix_of(causes)
    place = claim.text.find(claim.mention)
    if claim.mention and place >= 0:
        reason += f"; it is at [{place}, {place + len(claim.mention)})"
    return reason, f"correct the offsets or the text of the span: {COUNTED}; not bytes, not UTF-16 units"


def border_notes(places: Sequence[tuple[str, int, int]], counting: Counting) -> list[str]:
    """A note if most spans begin or end inside a word: their offsets are probably counted in another way.

    Args:
        places: (text, start, end) of spans that do not give their text, with the offsets in the file.
        counting: how the offsets were read.
    """
    cut = [place for place in places if _cuts_word(*place, counting)]
    if len(places) < _FEWEST_SPANS or len(cut) <= len(places) / 2:
        return []
    text, start, end = cut[0]
    start, end = to_characters(text, start, end, counting)
    words = [(first, last) for first, last in find_words(text) if first < end and start < last]
    example = f"'{_shortened(text[start:end])}' in '{_shortened(text[words[0][0] : words[-1][1]])}'"
    note = f"most entities begin or end inside a word ({len(cut):,} of {len(places):,}), such as {example}"
    sample = places[:: len(places) // _SAMPLED_SPANS + 1]
    fits = {
        cause: sum(_is_at_words(*place, cause.counting) for place in sample)
        for cause in _CAUSES
        if cause.counting not in (None, counting)
    }
    best = max(fits, key=lambda cause: fits[cause])
    if fits[best] < _NEARLY_ALL * len(sample):
        return [f"{note}: check how the offsets are counted (--span-offsets)"]
    return [f"{note}; likely cause: {best.words}; {_fix_of([best])}"]


def _cuts_word(text: str, start: int, end: int, counting: Counting) -> bool:
    """Whether a span of the text begins or ends inside a word."""
    start, end = to_characters(text, start, end, counting)
    return _is_inside_word(text, start) or _is_inside_word(text, end)


def _is_at_words(text: str, start: int, end: int, counting: Counting | None) -> bool:
    """Whether a span whose offsets are counted in this way is in the text, and begins and ends with words."""
    try:
        start, end = to_characters(text, start, end, counting or "characters")
    except ValueError:
        return False
    if not 0 <= start < end <= len(text) or text[start].isspace() or text[end - 1].isspace():
        return False
    return not (_is_inside_word(text, start) or _is_inside_word(text, end))


def _is_inside_word(text: str, place: int) -> bool:
    """Whether the characters before and after a place are letters or digits of one word.

    False for scripts without spaces, and for Korean, whose particles follow a word without a space.
    """
    around = text[place - 1 : place + 1] if place else ""
    return len(around) == 2 and all(
        character.isalnum() and not is_unspaced(character) and not "\uac00" <= character <= "\ud7a3"
        for character in around
    )


def _fix_of(causes: Sequence[Cause]) -> str:
    """The fix for offsets that are counted in one of these ways."""
    options = " or ".join(f"--span-offsets {cause.counting}" for cause in causes if cause.counting)
    recount = f"count the offsets again in the text of the file: {COUNTED}"
    return f"if so, read the file with {options}" if options else recount


def _shortened(text: str) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
