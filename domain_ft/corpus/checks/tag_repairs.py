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

from domain_ft.corpus.checks.encoding import mend_encoding, without_surrogates
from domain_ft.corpus.checks.private import Hit, redact
from domain_ft.corpus.readers.base import RawRecord
from domain_ft.corpus.tasks.conll import columns_of, with_word
from domain_ft.corpus.tasks.entities import Bounds, join_words
from domain_ft.corpus.tasks.entity_files import TagFields
from domain_ft.corpus.tasks.knowledge_bases import is_knowledge_base
from domain_ft.errors import CorpusError

Find = Callable[[str], Sequence[Hit]]
"""What is private in a text."""

Note = Callable[[int | None, str | None, bool, Sequence[Hit]], None]
"""Told of each word or text: its line, its field, whether it was mended, and what was masked in it."""


def mend_columns(lines: Sequence[tuple[int, str]], find: Find, note: Note) -> Iterator[str]:
    """The lines of a sound CoNLL sentence, given after their numbers, with their words mended and masked."""
    words = [columns_of(line.rstrip("\r\n"))[0] for _, line in lines]
    for (number, line), word, piece in zip(lines, words, _pieces(words, join_words, find), strict=True):
        note(number, None, piece.mended, piece.hits)
        yield line if piece.text == word else with_word(line, piece.text)


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
    if tokens in fields:
        pieces = _pieces(fields[tokens], join_words, find)
        for place, piece in enumerate(pieces):
            note(record.line, f"{tokens}[{place}]", piece.mended, piece.hits)
        return {**fields, tokens: [piece.text for piece in pieces]}
    text_field, spans_field = names.name("text", fields), names.name("spans", fields)
    text, spans = fields[text_field], fields[spans_field]
    ends = sorted({0, len(text), *itertools.chain(*map(_bounds, spans))})
    pieces = _pieces([text[start:end] for start, end in itertools.pairwise(ends)], _end_to_end, find)
    hits = [hit for piece in pieces for hit in piece.hits]
    note(record.line, text_field, any(piece.mended for piece in pieces), hits)
    new, bounds = _end_to_end([piece.text for piece in pieces])
    places = dict(zip(ends, (0, *(end for _, end in bounds)), strict=True))
    return {**fields, text_field: new, spans_field: [_moved(span, places, text, new) for span in spans]}


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


def _bounds(span: Any) -> Bounds:
    """Where a span of {"start", "end", "label"} or [start, end, label] begins and ends."""
    return (span["start"], span["end"]) if isinstance(span, Mapping) else (span[0], span[1])


def _moved(span: Any, places: Mapping[int, int], text: str, new: str) -> Any:
    """A span where its text now stands. If a field of its own repeats that text, it still does."""
    start, end = _bounds(span)
    if not isinstance(span, Mapping):
        return [places[start], places[end], *span[2:]]
    repeated = {name for name, value in span.items() if name != "label" and value == text[start:end]}
    moved = {**span, "start": places[start], "end": places[end]}
    return moved | dict.fromkeys(repeated, new[places[start] : places[end]])
