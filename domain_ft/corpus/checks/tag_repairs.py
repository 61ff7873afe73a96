"""Fixes encoding errors and masks private data in texts with entities. Tags and spans stay on the same words.

A text is split into segments: its words, or the parts between the starts and ends of its spans. The encoding of each
segment is fixed separately, if `_fixed` allows it. Private data is found in the whole text, because a telephone number
may be several words. The part of the private data in each segment is replaced by a mark: "+1 202-555-0143" in two words
becomes "[PHONE] [PHONE]", and the words keep their tags. So tag sequences stay valid, and no mark crosses the
start or end of a span.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from domain_ft.corpus.annotation_tools import ENDS, LABELS, STARTS, first_of
from domain_ft.corpus.checks.encoding import fix_encoding, without_surrogates
from domain_ft.corpus.checks.private import Hit, redact
from domain_ft.corpus.knowledge_bases import is_knowledge_base
from domain_ft.corpus.readers.base import RawRecord
from domain_ft.corpus.tagging.conll import Layout
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.offsets import Counting, agrees, to_characters
from domain_ft.corpus.words import Bounds, join_words
from domain_ft.errors import CorpusError

Find = Callable[[str], Sequence[Hit]]
"""Finds the private data in a text."""

Note = Callable[[int | None, str | None, bool, Sequence[Hit]], None]
"""Called once per word or text with its line, its field, whether it was fixed, and what was masked in it."""


def fix_columns(lines: Sequence[tuple[int, str]], layout: Layout, find: Find, note: Note) -> Iterator[str]:
    """Yield the lines of a valid CoNLL sentence, after fixing and masking its words. `lines` has (number, line)."""
    columns = [None if layout.is_comment(line) else layout.columns_of(line) for _, line in lines]
    words = [layout.word_of(parts) for parts in columns if parts is not None and layout.is_word(parts)]
    segments = iter(_segments(words, join_words, find))
    for (number, line), parts in zip(lines, columns, strict=True):
        if parts is None or not layout.is_word(parts):
            yield line
            continue
        segment = next(segments)
        note(number, None, segment.fixed, segment.hits)
        yield line if segment.text == layout.word_of(parts) else layout.with_word(line, segment.text)


def fix_record(record: RawRecord, names: TagFields, find: Find, note: Note) -> dict[str, Any]:
    """The fields of a valid record, after fixing and masking its words or text. Spans are moved with the text.

    Raises:
        CorpusError: the record has passages, whose offsets are not updated.
    """
    fields = dict(record.fields)
    tokens = names.name("tokens", fields)
    if is_knowledge_base(fields):
        raise CorpusError(
            "--fix: records of passages (BigBIO's knowledge bases) are only checked, not fixed",
            where=f"line {record.line}",
            fix="correct them by hand, with the listed findings",
        )
    if names.has_words(fields):
        segments = _segments(fields[tokens], join_words, find)
        for place, segment in enumerate(segments):
            note(record.line, f"{tokens}[{place}]", segment.fixed, segment.hits)
        return {**fields, tokens: [segment.text for segment in segments]}
    text_field, spans_field = names.name("text", fields), names.name("spans", fields)
    text, spans = fields[text_field], fields[spans_field]
    bounds_of = [_bounds(span, text, names.offsets) for span in spans]
    marked = fields[tokens] if _have_offsets(fields.get(tokens)) else []  # Prodigy's tokens have offsets too
    tokens_bounds = [_bounds(token, text, names.offsets) for token in marked]
    ends = sorted({0, len(text), *itertools.chain(*bounds_of, *tokens_bounds)})
    segments = _segments([text[start:end] for start, end in itertools.pairwise(ends)], _end_to_end, find)
    hits = [hit for segment in segments for hit in segment.hits]
    note(record.line, text_field, any(segment.fixed for segment in segments), hits)
    new, bounds = _end_to_end([segment.text for segment in segments])
    places = dict(zip(ends, (0, *(end for _, end in bounds)), strict=True))
    moved = [_moved(span, bounds, places, text, new) for span, bounds in zip(spans, bounds_of, strict=True)]
    fields |= {text_field: new, spans_field: moved}
    if marked:
        fields[tokens] = [
            _moved(token, bounds, places, text, new) for token, bounds in zip(marked, tokens_bounds, strict=True)
        ]
    return fields


@dataclass(frozen=True)
class _Segment:
    """A word or part of a text after the repair. `hits` are what was masked in it, with offsets before masking."""

    text: str
    fixed: bool
    hits: Sequence[Hit]


def _segments(
    texts: Sequence[str], join: Callable[[Sequence[str]], tuple[str, Sequence[Bounds]]], find: Find
) -> list[_Segment]:
    """Fix and mask each segment. `join` returns the whole text, and the bounds of each segment in it."""
    fixed = [_fixed(text) for text in texts]
    whole, bounds = join(fixed)
    hits = find(whole)
    segments = []
    for before, text, (start, _) in zip(texts, fixed, bounds, strict=True):
        inside = list(_within(hits, start, text))
        segments.append(_Segment(redact(text, inside), text != before, inside))
    return segments


def _within(hits: Sequence[Hit], start: int, segment: str) -> Iterator[Hit]:
    """The parts of `hits` in a segment that begins at `start`, without white space at their ends.

    Their offsets count from the segment's start.
    """
    for hit in hits:
        first, end = max(hit.start - start, 0), min(hit.end - start, len(segment))
        part = segment[first:end] if first < end else ""
        if part.strip():
            yield replace(hit, start=end - len(part.lstrip()), end=first + len(part.rstrip()))


def _fixed(segment: str) -> str:
    """A segment with its encoding fixed, unless it would become blank, gain a word, or gain white space at an end.

    Lone surrogates are removed or replaced in any case.
    """
    fixed = fix_encoding(segment)
    words, before = len(fixed.split()), len(segment.split())
    ends = ((fixed[:1], segment[:1]), (fixed[-1:], segment[-1:]))
    is_damaged = (
        bool(words) != bool(before) or words > before or any(new.isspace() > old.isspace() for new, old in ends)
    )
    return without_surrogates(segment) if is_damaged else fixed


def _end_to_end(segments: Sequence[str]) -> tuple[str, tuple[Bounds, ...]]:
    ends = itertools.accumulate(map(len, segments), initial=0)
    return "".join(segments), tuple(itertools.pairwise(ends))


def _have_offsets(tokens: Any) -> bool:
    """Whether all tokens are objects with a start and an end."""
    return isinstance(tokens, list) and all(
        isinstance(token, Mapping) and type(token.get("start")) is int and type(token.get("end")) is int
        for token in tokens
    )


def _bounds(span: Any, text: str, counting: Counting) -> Bounds:
    """(start, end) of a valid span in characters. A span with several parts reaches from the first to the last."""
    if not isinstance(span, Mapping):
        return to_characters(text, span[0], span[1], counting)
    if "offsets" in span:
        parts = [to_characters(text, start, end, counting) for start, end in span["offsets"]]
        return min(start for start, _ in parts), max(end for _, end in parts)
    return to_characters(text, span[first_of(span, STARTS) or ""], span[first_of(span, ENDS) or ""], counting)


def _moved(span: Any, bounds: Bounds, places: Mapping[int, int], text: str, new: str) -> Any:
    """The span with its new offsets in characters, and new values of the fields that repeat its text."""
    start, end = bounds
    if not isinstance(span, Mapping):
        return [places[start], places[end], *span[2:]]
    mention = text[start:end]
    repeated = {
        name
        for name, value in span.items()
        if name != first_of(span, LABELS)
        and isinstance(value, str)
        and (value == mention or (value and agrees(value, mention)))
    }
    moved = dict(span)
    if "offsets" in span:
        repeated |= {"text"} & span.keys()  # the span now includes the text between its parts
        del moved["offsets"]
    moved[first_of(span, STARTS) or "start"] = places[start]
    moved[first_of(span, ENDS) or "end"] = places[end]
    return moved | dict.fromkeys(repeated, new[places[start] : places[end]])
