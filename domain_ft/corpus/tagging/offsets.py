"""How a file counts the places of its entities, and what has gone wrong where they do not fit the text.

Offsets here are Unicode characters (code points) from 0, with the end behind the last one. Tools count otherwise: in
UTF-16 units (JavaScript, Java), in bytes, from 1, or with the last character as the end. Where a span repeats its own
text, a wrong count shows; `likely_causes` finds it by trying.
"""

from __future__ import annotations

import html
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Counting = Literal["characters", "utf16", "bytes", "one-based", "inclusive", "one-based-inclusive"]

COUNTED = "offsets count Unicode characters from 0, and the end is behind the last one"

_SHOWN = 40  # characters of an entity in a message

# What offsets may have been counted in: the text as units, and how many of them an offset counts.
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
    "NFC": "offsets were counted in the text in the form NFC, with composed accents",
    "NFD": "offsets were counted in the text in the form NFD, with accents as characters of their own",
    "escaped": "offsets were counted in the text with HTML escapes such as &amp;",
    "unescaped": "offsets were counted in the text without its HTML escapes such as &amp;",
    "stripped": "offsets were counted without the white space at the beginning of the text",
}
_DECODED = {"utf16": ("utf-16-le", 2), "bytes": ("utf-8", 1)}


class Cause(NamedTuple):
    """A way to count: in which form of the text, from which number, and whether the end is the last character."""

    form: str
    base: int
    inclusive: int

    @property
    def words(self) -> str:
        """As a message says it."""
        said = [_FORM_WORDS[self.form]] if _FORM_WORDS[self.form] else []
        said += ["offsets are counted from 1"] if self.base else []
        said += ["the end is inclusive, the place of the last character"] if self.inclusive else []
        return ", and ".join(said)

    @property
    def counting(self) -> Counting | None:
        """The value of --span-offsets that reads it, if there is one."""
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
)[1:]  # the simplest first; without the right count itself


@dataclass(frozen=True)
class Claim:
    """A span that repeats its own text: offsets as the file has them, and that text."""

    text: str
    start: int
    end: int
    own: str


def to_characters(text: str, start: int, end: int, counting: Counting) -> tuple[int, int]:
    """Offsets that are counted in some way as characters of the text.

    Raises:
        ValueError: they lie within a character, or outside the text.
    """
    if counting in _DECODED:
        return _units(text, start, counting), _units(text, end, counting)
    if counting in ("one-based", "one-based-inclusive"):
        start, end = start - 1, end - 1
    return start, end + (counting in ("inclusive", "one-based-inclusive"))


def _units(text: str, place: int, counting: str) -> int:
    codec, size = _DECODED[counting]
    encoded = text.encode(codec, "surrogatepass")
    if not 0 <= place * size <= len(encoded):
        raise ValueError(f"{place} does not lie in the text, which has {len(encoded) // size} {counting} units")
    try:
        return len(encoded[: place * size].decode(codec))
    except UnicodeDecodeError:
        raise ValueError(f"{place} lies within a character, counted as --span-offsets {counting} says") from None


def agrees(own: str, there: str) -> bool:
    """Whether two texts are the same but for case, white space and how their accents are written."""
    return own == there or _bare(own) == _bare(there)


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).casefold().split())


def likely_causes(claims: Sequence[Claim], others: Sequence[Claim] = ()) -> tuple[list[Cause], int]:
    """The ways to count that explain most of the claims, the simplest first, and how many they explain.

    There are several only where the claims do not tell a shift from another form of the text.

    Args:
        claims: spans whose own text is not what they mark.
        others: spans that fit as they are. A cause that fits them too is preferred.
    """
    found = Counter(cause for claim in claims for cause in _causes(claim))
    if not found:
        return [], 0
    most = max(found.values())
    fitting = Counter(cause for claim in others[:1000] for cause in _causes(claim))
    best = [cause for cause in _CAUSES if found[cause] == most]
    best = [cause for cause in best if fitting[cause] == max(fitting[one] for one in best)]
    return [best[0], *(cause for cause in best[1:] if not cause.base and not cause.inclusive)], most


def _causes(claim: Claim) -> Iterator[Cause]:
    """The ways to count under which the claim is right."""
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
        there = part.decode(codec, "replace") if isinstance(part, bytes) else part
        # White space at the ends counts here: by a shift too far, a span would take the blank beside its word.
        if agrees(claim.own, there) and len(there) - len(there.strip()) == len(claim.own) - len(claim.own.strip()):
            yield cause


def contradiction(claim: Claim, causes: Sequence[Cause], explained: int, count: int) -> tuple[str, str]:
    """What is wrong with a claim, and what to do: one of `count`, of which the causes explain so many."""
    start, end = claim.start, claim.end
    inside = 0 <= start <= end <= len(claim.text)
    there = f"is '{shown(claim.text[start:end])}'" if inside else f"is no text ({len(claim.text)} characters)"
    reason = f"a span says that it is '{shown(claim.own)}', but at [{start}, {end}) {there}"
    if causes:
        share = "" if count == 1 else f" (explains {'all' if explained == count else f'{explained:,} of'} {count:,})"
        words = "; or ".join(cause.words for cause in causes)
        return f"{reason}; likely cause: {words}{share}", _fix_of(causes)
    place = claim.text.find(claim.own)
    if claim.own and place >= 0:
        reason += f"; it is at [{place}, {place + len(claim.own)})"
    return reason, f"correct the offsets or the text of the span: {COUNTED}; not bytes, not UTF-16 units"


def _fix_of(causes: Sequence[Cause]) -> str:
    """What to do about offsets that are counted in one of these ways."""
    known = " or ".join(f"--span-offsets {cause.counting}" for cause in causes if cause.counting)
    again = f"count the offsets again in the text as it is in the file: {COUNTED}"
    return f"if that is so, read the file by {known}" if known else again


def shown(text: str) -> str:
    """A short text for a message."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
