"""Reads the spans of a record: their offsets, their labels, and their copies of the text that they mark.

Spans often repeat the text that they mark, under a key whose name depends on the tool. `mention_keys` recognises the
key by a usual name (`NAMED`) or by its values: most of them are the text at the offsets, under one of the usual ways to
count, or at least occur in the text and are as long as their spans. Comparing the values with the text reveals wrong
offsets.
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
"""Keys whose name says that they hold the text of the span, whatever their values are."""

A_SPAN = 'write {"start", "end", "label"} or [start, end, label]'
_LONGEST_SPAN = 300  # characters of a span in a message
_MOST = 0.5  # a key holds the spans' text if more than this share of its values fit
_SAMPLE = 1_000  # the most values of a key that are tried with every way to count


class NotASpanError(ValueError):
    """A value is not a span: it is neither an object nor a list of three, or its start, end or label is missing."""


def mention_keys(spans: Iterable[tuple[str, Any]], counting: Counting) -> frozenset[str]:
    """The keys that hold the text of the spans in a file.

    Args:
        spans: (text, span) of each span.
        counting: how offsets are counted, according to --span-offsets.
    """
    values: defaultdict[str, list[tuple[Claim, bool]]] = defaultdict(list)
    for text, span in spans:
        for key in _other_keys(span):
            claim = claim_of(span, key, text)
            if claim is not None:
                values[key].append((claim, holds(span, claim, counting)))
    return frozenset(key for key, claims in values.items() if key in NAMED or _are_mentions(claims))


def _are_mentions(claims: Sequence[tuple[Claim, bool]]) -> bool:
    """Whether most values of a key are the text of their spans.

    Either they are the text at the offsets, with one way to count for all of them, or they occur in the text and are as
    long as their spans.
    """
    if sum(fits for _, fits in claims) > _MOST * len(claims):
        return True
    sample = [claim for claim, _ in claims[:: len(claims) // _SAMPLE + 1]]
    enough = _MOST * len(sample)
    as_written = sum(agrees(claim.mention, claim.text[claim.start : claim.end]) for claim in sample)
    if max(as_written, likely_causes(sample)[1]) > enough:
        return True
    # If offsets belong to another version of the text, no way to count explains them, but the spans' lengths are right.
    return (
        sum(claim.end - claim.start == len(claim.mention) and claim.mention in claim.text for claim in sample) > enough
    )


def _other_keys(span: Any) -> list[str]:
    """The keys of a span other than `offsets` and the first key each for its start, its end and its label."""
    if not isinstance(span, Mapping):
        return []
    read = {"offsets", first_of(span, STARTS), first_of(span, ENDS), first_of(span, LABELS)}
    return [key for key in map(str, span) if key not in read]


def unread_keys(spans: Iterable[Any], mention_keys: Collection[str]) -> list[str]:
    """The unread keys of the spans, each once."""
    return list(dict.fromkeys(key for span in spans for key in _other_keys(span) if key not in mention_keys))


def claims_of(span: Any, keys: Iterable[str], text: str) -> Iterator[tuple[str, Claim]]:
    """(key, claim) for each of `keys` under which a span has a claim."""
    for key in keys:
        claim = claim_of(span, key, text) if isinstance(span, Mapping) else None
        if claim is not None:
            yield key, claim


def claim_of(span: Mapping[str, Any], key: str, text: str) -> Claim | None:
    """The claim of a span under a key; None if the value is blank or not text, or the offsets cannot be read."""
    mention = span.get(key)
    if isinstance(mention, list) and mention and all(isinstance(part, str) for part in mention):
        mention = " ".join(mention)  # several parts, in BigBIO's format
    if not isinstance(mention, str) or not mention.strip():
        return None
    parts = parts_of(span)
    if not parts:
        return None
    return Claim(text, min(start for start, _ in parts), max(end for _, end in parts), mention)


def parts_of(span: Mapping[str, Any]) -> list[Bounds]:
    """(start, end) of each part of a span, as in the file; empty if one of them is not a pair of whole numbers."""
    if isinstance(span.get("offsets"), list):
        parts = span["offsets"]
    else:
        parts = [[span.get(first_of(span, STARTS) or ""), span.get(first_of(span, ENDS) or "")]]
    valid = all(isinstance(part, list) and len(part) == 2 and all(type(n) is int for n in part) for part in parts)
    return [(start, end) for start, end in parts] if valid else []


def holds(span: Mapping[str, Any], claim: Claim, counting: Counting) -> bool:
    """Whether the claim of a span is correct."""
    try:
        parts = [to_characters(claim.text, start, end, counting) for start, end in parts_of(span)]
    except ValueError:
        return False
    if any(not 0 <= start <= end <= len(claim.text) for start, end in parts):
        return False
    return agrees(claim.mention, " ".join(claim.text[start:end] for start, end in parts)) or agrees(
        claim.mention, claim.text[parts[0][0] : parts[-1][1]]
    )


def read_span(value: Any, text: str, counting: Counting = "characters") -> tuple[Span, int]:
    """The span without white space at its ends, and the number of its parts.

    `value` is an object with start, end and label, or with `offsets` (a list of [start, end]) and label, or a list
    [start, end, label].

    Raises:
        NotASpanError: `value` has another form, or its start, end or label is missing.
        ValueError: the offsets or the label are invalid, or the span holds no text.
    """
    shown = _span_in_words(value)
    if isinstance(value, str):
        raise NotASpanError(f"{shown} is a name, such as a label of the whole text, but a span is expected")
    if isinstance(value, Mapping):
        named = first_of(value, LABELS)
        parts = parts_of(value)
        has_places = "offsets" in value or (first_of(value, STARTS) and first_of(value, ENDS))
        if named is None or not has_places:
            parts_of_span = {"start": has_places or first_of(value, STARTS), "end": has_places or first_of(value, ENDS)}
            missing = [name for name, found in {**parts_of_span, "label": named}.items() if not found]
            raise NotASpanError(
                f"{shown} is not a span with start, end and label: it has no {' and no '.join(missing)}"
            )
        label = value[named]
        if named == "value" and parts and label == text[parts[0][0] : parts[-1][1]]:
            raise NotASpanError(f"{shown} has no label: 'value' holds the text of the span")
        if isinstance(label, list) and len(label) == 1:
            label = label[0]
    elif isinstance(value, list) and len(value) == 3:
        parts = [(value[0], value[1])] if all(type(number) is int for number in value[:2]) else []
        label = value[2]
    else:
        raise NotASpanError(f"{shown} is not a span with start, end and label")
    if not parts:
        if isinstance(value, Mapping) and "offsets" in value:
            raise ValueError(f"the offsets of {shown} are not a list of [start, end] in whole numbers")
        raise ValueError(f"the start and end of {shown} are not whole numbers")
    if not isinstance(label, str) or not label:
        raise ValueError(f"the label of {shown} is not a name")
    places = [to_characters(text, start, end, counting) for start, end in parts]
    if any(start > end for start, end in places):
        raise ValueError(f"in {shown}, an end is before its start")
    if any(not 0 <= start <= end <= len(text) for start, end in places):
        raise ValueError(f"{shown} is outside the text, which has {len(text)} characters")
    start, end = min(start for start, _ in places), max(end for _, end in places)
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    end -= len(inside) - len(inside.rstrip())
    if start >= end:
        raise ValueError(f"{shown} holds no text")
    return Span(start, end, label), len(parts)


def _span_in_words(value: Any) -> str:
    """A span for messages. Long values are cut, because one may be a whole document."""
    if isinstance(value, Mapping):
        value = {cut(key): cut(part) if isinstance(part, str) else part for key, part in list(value.items())[:8]}
    elif isinstance(value, list):
        value = [cut(part) if isinstance(part, str) else part for part in value[:8]]
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= _LONGEST_SPAN else f"{written[:_LONGEST_SPAN]}…"
