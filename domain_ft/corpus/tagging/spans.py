"""The spans of a record: their places, their labels, and what they say of their own text.

A span often repeats the text that it marks, under a key that each tool names in its own way. Such a key is known by
what it holds: for most spans of the file it is the text at their offsets, counted in one of the usual ways
(`own_text_keys`). What it says is then compared with the text, so that wrong offsets are found.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from domain_ft.corpus.annotation_tools import ENDS, LABELS, STARTS, first_of
from domain_ft.corpus.tagging.entities import Span
from domain_ft.corpus.tagging.offsets import Claim, Counting, agrees, likely_causes, to_characters
from domain_ft.corpus.words import Bounds
from domain_ft.quoting import shown as cut

NAMED = (
    "text", "mention", "surface", "surface_form", "span_text", "entity_text", "matched_text", "quote", "exact",
    "covered_text", "coveredText",
)  # fmt: skip
"""Keys that say by their name that they hold a span's own text, whatever they hold."""

_A_SPAN = 'write {"start", "end", "label"} or [start, end, label]'
_LONGEST_SPAN = 300  # characters of a span that a message shows
_MOST = 0.5  # of a key's values, more than which show that it holds the spans' own text
_SAMPLE = 1_000  # values of a key that are tried in every way to count


def own_text_keys(spans: Iterable[tuple[str, Any]], counting: Counting) -> frozenset[str]:
    """The keys under which the spans of a file repeat their own text.

    Args:
        spans: each after the text that it belongs to.
        counting: how offsets are counted, as far as it is known.
    """
    values: defaultdict[str, list[tuple[Claim, bool]]] = defaultdict(list)
    for text, span in spans:
        for key in _other_keys(span):
            claim = claim_of(span, key, text)
            if claim is not None:
                values[key].append((claim, holds(span, claim, counting)))
    return frozenset(key for key, found in values.items() if key in NAMED or _repeat_the_text(found))


def _repeat_the_text(found: Sequence[tuple[Claim, bool]]) -> bool:
    """Whether most values are the text at the span's offsets, by one way to count for all of them."""
    if sum(fits for _, fits in found) > _MOST * len(found):
        return True
    sample = [claim for claim, _ in found[:: len(found) // _SAMPLE + 1]]
    enough = _MOST * len(sample)
    as_written = sum(agrees(claim.own, claim.text[claim.start : claim.end]) for claim in sample)
    if max(as_written, likely_causes(sample)[1]) > enough:
        return True
    # Offsets in another edition of the text are off by more than any way to count explains; the lengths still fit.
    return sum(claim.end - claim.start == len(claim.own) and claim.own in claim.text for claim in sample) > enough


def _other_keys(span: Any) -> list[str]:
    """The keys of a span that hold neither its place nor its label."""
    if not isinstance(span, Mapping):
        return []
    read = {"offsets", first_of(span, STARTS), first_of(span, ENDS), first_of(span, LABELS)}
    return [key for key in map(str, span) if key not in read]


def unread_keys(spans: Iterable[Any], own_texts: Collection[str]) -> list[str]:
    """The keys of some spans that nothing reads, each once."""
    return list(dict.fromkeys(key for span in spans for key in _other_keys(span) if key not in own_texts))


def claims_of(span: Any, keys: Iterable[str], text: str) -> Iterator[tuple[str, Claim]]:
    """What a span says of its own text under each of some keys."""
    for key in keys:
        claim = claim_of(span, key, text) if isinstance(span, Mapping) else None
        if claim is not None:
            yield key, claim


def claim_of(span: Mapping[str, Any], key: str, text: str) -> Claim | None:
    """What a span says of its own text under a key; None where it says nothing, or has no sound offsets."""
    own = span.get(key)
    if isinstance(own, list) and own and all(isinstance(part, str) for part in own):
        own = " ".join(own)  # of several parts, as BigBIO writes it
    if not isinstance(own, str) or not own.strip():
        return None
    parts = parts_of(span)
    if not parts:
        return None
    return Claim(text, min(start for start, _ in parts), max(end for _, end in parts), own)


def parts_of(span: Mapping[str, Any]) -> list[Bounds]:
    """The (start, end) of each part of a span as the file has them; none where they are no whole numbers."""
    if isinstance(span.get("offsets"), list):
        parts = span["offsets"]
    else:
        parts = [[span.get(first_of(span, STARTS) or ""), span.get(first_of(span, ENDS) or "")]]
    sound = all(isinstance(part, list) and len(part) == 2 and all(type(n) is int for n in part) for part in parts)
    return [(start, end) for start, end in parts] if sound else []


def holds(span: Mapping[str, Any], claim: Claim, counting: Counting) -> bool:
    """Whether a span marks the text that it says it does."""
    try:
        parts = [to_characters(claim.text, start, end, counting) for start, end in parts_of(span)]
    except ValueError:
        return False
    if any(not 0 <= start <= end <= len(claim.text) for start, end in parts):
        return False
    return agrees(claim.own, " ".join(claim.text[start:end] for start, end in parts)) or agrees(
        claim.own, claim.text[parts[0][0] : parts[-1][1]]
    )


def read_span(value: Any, text: str, counting: Counting = "characters") -> tuple[Span, int]:
    """A span, without the white space at its ends, and how many parts it has.

    Read are objects with a start, an end (or `offsets`, a list of both for each part) and a label, and lists of the
    three.

    Raises:
        ValueError: it is no span of the text, in words.
    """
    shown = _span_in_words(value)
    if isinstance(value, str):
        raise ValueError(f"{shown} is a name, as of a label of the whole text, and a span is wanted: {_A_SPAN}")
    if isinstance(value, Mapping):
        named = first_of(value, LABELS)
        parts = parts_of(value)
        has_places = "offsets" in value or (first_of(value, STARTS) and first_of(value, ENDS))
        if named is None or not has_places:
            raise ValueError(f"{shown} is neither a span with start, end and label nor a list of the three: {_A_SPAN}")
        label = value[named]
        if isinstance(label, list) and len(label) == 1:
            label = label[0]
    elif isinstance(value, list) and len(value) == 3:
        parts = [(value[0], value[1])] if all(type(number) is int for number in value[:2]) else []
        label = value[2]
    else:
        raise ValueError(f"{shown} is neither a span with start, end and label nor a list of the three: {_A_SPAN}")
    if not parts:
        raise ValueError(f"the start and end of {shown} are not whole numbers")
    if not isinstance(label, str) or not label:
        raise ValueError(f"the label of {shown} is no name")
    places = [to_characters(text, start, end, counting) for start, end in parts]
    if any(not 0 <= start <= end <= len(text) for start, end in places):
        raise ValueError(f"{shown} does not lie in the text, which has {len(text)} characters")
    start, end = min(start for start, _ in places), max(end for _, end in places)
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    end -= len(inside) - len(inside.rstrip())
    if start >= end:
        raise ValueError(f"{shown} holds no text")
    return Span(start, end, label), len(parts)


def _span_in_words(value: Any) -> str:
    """A span as a message shows it: its texts are cut, since one may be the whole of a document."""
    if isinstance(value, Mapping):
        value = {cut(key): cut(part) if isinstance(part, str) else part for key, part in list(value.items())[:8]}
    elif isinstance(value, list):
        value = [cut(part) if isinstance(part, str) else part for part in value[:8]]
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= _LONGEST_SPAN else f"{written[:_LONGEST_SPAN]}…"
