"""Words and texts with entities, mended and masked so that each tag and each span stands by what it stood by.

A text is taken in pieces, which are its words, or what lies within its spans and between them. Each piece is mended by
itself, where it stays a word. What is private is looked for in the whole text, since a number may be several words, and
each piece gets a mark in place of its own part of it: "+1 202-555-0143" in two words becomes "[PHONE] [PHONE]", and the
words keep their tags. So a sequence of tags stays valid, and no two spans meet in one mark.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from domain_ft.corpus.annotation_tools import ENDS, LABELS, STARTS, first_of
from domain_ft.corpus.checks.encoding import mend_encoding, without_surrogates
from domain_ft.corpus.checks.private import Hit, redact
from domain_ft.corpus.knowledge_bases import is_knowledge_base
from domain_ft.corpus.readers.base import RawRecord
from domain_ft.corpus.tagging.conll import Layout
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.offsets import Counting, agrees, to_characters
from domain_ft.corpus.words import Bounds, join_words
from domain_ft.errors import CorpusError

Find = Callable[[str], Sequence[Hit]]
"""What is private in a text."""

Note = Callable[[int | None, str | None, bool, Sequence[Hit]], None]
"""Told of each word or text: its line, its field, whether it was mended, and what was masked in it."""


def mend_columns(lines: Sequence[tuple[int, str]], layout: Layout, find: Find, note: Note) -> Iterator[str]:
    """The lines of a sound CoNLL sentence, given after their numbers, with their words mended and masked."""
    columns = [None if layout.is_comment(line) else layout.columns_of(line) for _, line in lines]
    words = [layout.word_of(parts) for parts in columns if parts is not None and layout.is_word(parts)]
    pieces = iter(_pieces(words, join_words, find))
    for (number, line), parts in zip(lines, columns, strict=True):
        if parts is None or not layout.is_word(parts):
            yield line
            continue
        piece = next(pieces)
        note(number, None, piece.mended, piece.hits)
        yield line if piece.text == layout.word_of(parts) else layout.with_word(line, piece.text)


def mend_record(record: RawRecord, names: TagFields, find: Find, note: Note) -> dict[str, Any]:
    """The fields of a sound record with its words or its text mended and masked. Spans are moved with the text.

    Raises:
        CorpusError: the record is one of passages, each of whose offsets a change would move.
    """
    fields = dict(record.fields)
    tokens = names.name("tokens", fields)
    if is_knowledge_base(fields) and tokens not in fields and names.name("text", fields) not in fields:
        raise CorpusError(
            "--fix: records of passages (BigBIO's knowledge bases) are checked, and not mended",
            where=f"line {record.line}",
            fix="mend them by the lines that are listed",
        )
    if names.has_words(fields):
        pieces = _pieces(fields[tokens], join_words, find)
        for place, piece in enumerate(pieces):
            note(record.line, f"{tokens}[{place}]", piece.mended, piece.hits)
        return {**fields, tokens: [piece.text for piece in pieces]}
    text_field, spans_field = names.name("text", fields), names.name("spans", fields)
    text, spans = fields[text_field], fields[spans_field]
    bounds_of = [_bounds(span, text, names.offsets) for span in spans]
    marked = fields[tokens] if _have_offsets(fields.get(tokens)) else []  # Prodigy's tokens, which have places too
    tokens_bounds = [_bounds(token, text, names.offsets) for token in marked]
    ends = sorted({0, len(text), *itertools.chain(*bounds_of, *tokens_bounds)})
    pieces = _pieces([text[start:end] for start, end in itertools.pairwise(ends)], _end_to_end, find)
    hits = [hit for piece in pieces for hit in piece.hits]
    note(record.line, text_field, any(piece.mended for piece in pieces), hits)
    new, bounds = _end_to_end([piece.text for piece in pieces])
    places = dict(zip(ends, (0, *(end for _, end in bounds)), strict=True))
    moved = [_moved(span, own, places, text, new) for span, own in zip(spans, bounds_of, strict=True)]
    fields |= {text_field: new, spans_field: moved}
    if marked:
        fields[tokens] = [
            _moved(token, own, places, text, new) for token, own in zip(marked, tokens_bounds, strict=True)
        ]
    return fields


@dataclass(frozen=True)
class _Piece:
    """A word or a part of a text, and what was done to it. `hits` is what was masked, by its place in the piece."""

    text: str
    mended: bool
    hits: Sequence[Hit]


def _pieces(
    texts: Sequence[str], join: Callable[[Sequence[str]], tuple[str, Sequence[Bounds]]], find: Find
) -> list[_Piece]:
    """Each text mended and masked. `join` gives the whole of them, and where each stands in it."""
    mended = [_mended(text) for text in texts]
    whole, bounds = join(mended)
    hits = find(whole)
    pieces = []
    for before, text, (start, _) in zip(texts, mended, bounds, strict=True):
        own = list(_within(hits, start, text))
        pieces.append(_Piece(redact(text, own), text != before, own))
    return pieces


def _within(hits: Sequence[Hit], start: int, piece: str) -> Iterator[Hit]:
    """The parts of hits that lie in a piece which begins at `start`, without white space around, by their places."""
    for hit in hits:
        first, end = max(hit.start - start, 0), min(hit.end - start, len(piece))
        part = piece[first:end] if first < end else ""
        if part.strip():
            yield replace(hit, start=end - len(part.lstrip()), end=first + len(part.rstrip()))


def _mended(piece: str) -> str:
    """A piece as it was written; as it is where it would become blank or more words, or end in white space."""
    mended = mend_encoding(piece)
    words, before = len(mended.split()), len(piece.split())
    ends = ((mended[:1], piece[:1]), (mended[-1:], piece[-1:]))
    is_spoiled = (
        bool(words) != bool(before) or words > before or any(new.isspace() > old.isspace() for new, old in ends)
    )
    return without_surrogates(piece) if is_spoiled else mended


def _end_to_end(pieces: Sequence[str]) -> tuple[str, tuple[Bounds, ...]]:
    ends = itertools.accumulate(map(len, pieces), initial=0)
    return "".join(pieces), tuple(itertools.pairwise(ends))


def _have_offsets(tokens: Any) -> bool:
    """Whether they are objects with a start and an end."""
    return isinstance(tokens, list) and all(
        isinstance(token, Mapping) and type(token.get("start")) is int and type(token.get("end")) is int
        for token in tokens
    )


def _bounds(span: Any, text: str, counting: Counting) -> Bounds:
    """Where a sound span begins and ends, in characters: of one of several parts, where the first and the last do."""
    if not isinstance(span, Mapping):
        return to_characters(text, span[0], span[1], counting)
    if "offsets" in span:
        parts = [to_characters(text, start, end, counting) for start, end in span["offsets"]]
        return min(start for start, _ in parts), max(end for _, end in parts)
    return to_characters(text, span[first_of(span, STARTS) or ""], span[first_of(span, ENDS) or ""], counting)


def _moved(span: Any, bounds: Bounds, places: Mapping[int, int], text: str, new: str) -> Any:
    """A span where its text now is, in characters. If a field of its own repeats that text, it still does."""
    start, end = bounds
    if not isinstance(span, Mapping):
        return [places[start], places[end], *span[2:]]
    there = text[start:end]
    repeated = {
        name
        for name, value in span.items()
        if name not in LABELS[:2] and isinstance(value, str) and (value == there or (value and agrees(value, there)))
    }
    moved = dict(span)
    if "offsets" in span:
        own = {"text"} if "text" in span else set()  # of several parts: the text between them belongs to it now
        repeated |= own
        del moved["offsets"]
    moved[first_of(span, STARTS) or "start"] = places[start]
    moved[first_of(span, ENDS) or "end"] = places[end]
    return moved | dict.fromkeys(repeated, new[places[start] : places[end]])
