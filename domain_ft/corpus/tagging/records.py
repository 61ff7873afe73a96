"""Plain records as texts with their entities: words with tags, text with spans, and passages.

A file is read whole before its tags are judged, since its scheme shows only in all of them; and before spans are, since
one cause may explain all that do not fit. Offsets count Unicode characters (code points) as Python does, unless
`TagFields.offsets` says otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain_ft.corpus.knowledge_bases import Document, KnowledgeBaseError, is_knowledge_base, read_document
from domain_ft.corpus.left_out import VERDICT, LeftOut
from domain_ft.corpus.readers.base import BadRecords, kind_of
from domain_ft.corpus.tagging.entities import (
    Scheme,
    Span,
    TagError,
    TaggedText,
    chunks,
    keep_longest,
    recognise,
)
from domain_ft.corpus.tagging.fields import Entry, Role, TagFields, with_usual_spans
from domain_ft.corpus.tagging.offsets import COUNTED, Claim, contradiction, likely_causes
from domain_ft.corpus.tagging.spans import NAMED, claims_of, holds, own_text_keys, read_span, unread_keys
from domain_ft.corpus.words import join_words
from domain_ft.errors import CorpusError, nearest
from domain_ft.quoting import shown


@dataclass
class Sentence:
    """Words with tags as the file has them, not judged yet. `lines` is the line of each word."""

    words: list[str]
    tags: list[str]
    lines: list[int]
    id: str
    group: str


def read_tagged_records(
    records: Iterable[Entry],
    name: str,
    fields: TagFields,
    scheme: Scheme | None,
    bad: BadRecords,
    without: Collection[int | None] = (),
    left: LeftOut | None = None,
    notes: list[str] | None = None,
) -> tuple[list[TaggedText], Scheme | None]:
    """`read_tagged` of plain records, whatever they were read from."""
    sentences: list[Sentence] = []
    texts: list[TaggedText] = []
    given = list(records)
    fields, said = with_usual_spans(fields, given)
    if notes is not None:
        notes += said
    everything = [_Known(entry, fields, name, bad) for entry in given]
    claims = _Claims(own_text_keys(itertools.chain.from_iterable(map(_spans_in, everything)), fields.offsets))
    for known in everything:
        if fields.has_words(known.record):
            sentence = _tagged_words(known)
            sentences += [sentence] if sentence else []
            read = sentence is not None
        else:
            passages = is_knowledge_base(known.record) and not known.has("text")
            text = _text_of_passages(known) if passages else _spanned_text(known, claims)
            texts += [text] if text else []
            read = text is not None
        if read and left is not None:
            known.count_unread(left, claims.keys)
    claims.reject()
    if sentences and texts:
        raise CorpusError(
            "some records have words with tags, others text with spans",
            where=f"{name}: {len(sentences)} with words, {len(texts)} without, such as in line {texts[0].line}",
            fix="write all records in one form, or give two files",
        )
    return (texts, None) if texts else with_scheme(sentences, name, scheme, bad, without)


def with_scheme(
    sentences: Sequence[Sentence], name: str, scheme: Scheme | None, bad: BadRecords, without: Collection[int | None]
) -> tuple[list[TaggedText], Scheme]:
    sentences = [sentence for sentence in sentences if not any(line in without for line in sentence.lines)]
    scheme = scheme or recognise(sentence.tags for sentence in sentences)
    return list(_judged(sentences, name, scheme, bad)), scheme


def _judged(sentences: Sequence[Sentence], name: str, scheme: Scheme, bad: BadRecords) -> Iterator[TaggedText]:
    """The sentences whose tags can stand where they stand, as texts with spans."""
    for sentence in sentences:
        try:
            found = chunks(sentence.tags, scheme)
        except TagError as error:
            line = sentence.lines[error.index]
            word = sentence.words[error.index]
            fix = "mend the tag, or name the file's scheme if it was taken for another: --scheme iob1|iob2|bioes"
            bad.add(f"{error}, at the word '{shown(word)}'", file=name, line=line, fix=fix)
            continue
        text, bounds = join_words(sentence.words)
        spans = tuple(Span(bounds[span.start][0], bounds[span.end - 1][1], span.label) for span in found)
        yield TaggedText(sentence.id, text, bounds, spans, sentence.group, name, sentence.lines[0])


@dataclass(frozen=True)
class _Known:
    """A plain record, its place, and which field is what."""

    entry: Entry
    fields: TagFields
    source: str
    bad: BadRecords

    @property
    def record(self) -> Mapping[str, Any]:
        """Its fields."""
        return self.entry.plain.record

    @property
    def line(self) -> int:
        """Its line, or its number."""
        return self.entry.line

    @property
    def file(self) -> str:
        """The file that it is in."""
        return self.entry.plain.file or self.source

    def name(self, role: Role) -> str:
        """The field of a role."""
        return self.fields.name(role, self.record)

    def has(self, role: Role) -> bool:
        """Whether the record has such a field."""
        return self.name(role) in self.record

    def find(self, role: Role, kind: type, wanted: str) -> Any:
        """The value, or None after a report where it is missing or of another kind."""
        field = self.name(role)
        if field not in self.record:
            known = nearest(field, map(str, self.record)) if self.record else "the record has no fields"
            fix = f"name the right one with --{role}-field ({known})"
            self.reject("the field is missing", field, fix)
            return None
        value = self.record[field]
        if not isinstance(value, kind):
            self.reject(f"the field holds {kind_of(value)}, where {wanted} is wanted", field)
            return None
        return value

    def reject(self, reason: str, field: str | None = None, fix: str | None = None) -> None:
        """Report the record."""
        line = None if self.entry.plain.file else self.line
        self.bad.add(reason, file=self.file, line=line, field=field, fix=fix)

    def count_unread(self, left: LeftOut, own_texts: Collection[str]) -> None:
        """Count the fields of the record and of its spans that nothing reads.

        Args:
            own_texts: the keys under which spans repeat their text, which is compared.
        """
        if not self.fields.has_words(self.record):
            spans = self.record.get(self.name("spans"))
            if is_knowledge_base(self.record):
                own_texts = {*own_texts, "id", "text"}  # which `read_document` compares
            own = unread_keys(spans, own_texts) if isinstance(spans, list) else []
            # Spans that a reader of a tool's file made have an id, which the file may not have.
            own = own if self.entry.plain.unread is None else [key for key in own if key != "id"]
            left.fields.update(f"{self.name('spans')}[].{key}" for key in own)
        if self.entry.plain.unread is not None:
            left.fields.update(self.entry.plain.unread)
            return
        read = {self.fields.id, self.fields.group, self.name("text")}
        if self.fields.has_words(self.record):
            read |= {self.name("tokens"), self.name("tags")}
            read -= {self.name("text")}
        else:
            read |= {self.name("spans"), *(("passages", "entities") if is_knowledge_base(self.record) else ())}
        if self.record.get(VERDICT) == "accept":
            read.add(VERDICT)
        left.see_fields(map(str, self.record), {name for name in read if name})

    @property
    def id(self) -> str:
        """The record's own id, or its place."""
        value = self.record.get(self.fields.id) if self.fields.id else None
        if value is not None:
            return str(value)
        return self.entry.plain.file or f"{self.source}:{self.line}"

    @property
    def group(self) -> str:
        """Its group, or its id."""
        value = self.record.get(self.fields.group) if self.fields.group else None
        return (self.entry.plain.group or self.id) if value is None else str(value)


def _tagged_words(known: _Known) -> Sentence | None:
    words = known.find("tokens", list, "a list of words")
    tags = None if words is None else known.find("tags", list, "a list of tags")
    if words is None or tags is None:
        return None
    tokens_field, tags_field = known.name("tokens"), known.name("tags")
    if not words:
        known.reject("the sentence has no words", tokens_field)
    elif len(words) != len(tags):
        known.reject(f"there are {len(words)} words and {len(tags)} tags", tags_field)
    elif empty := [place for place, word in enumerate(words) if not isinstance(word, str) or not word.strip()]:
        known.reject(f"word {empty[0] + 1} is empty or no text", tokens_field)
    elif other := [tag for tag in tags if not isinstance(tag, str)]:
        fix = "write the tags' names, such as B-Disease; numbers mean nothing without a list of names"
        known.reject(f"the tags hold {kind_of(other[0])}, where names are wanted", tags_field, fix)
    else:
        return Sentence(words, tags, [known.line] * len(words), known.id, known.group)
    return None


@dataclass
class _Claims:
    """What spans say of their own text, over all records of a file: which fit, and which do not.

    Attributes:
        keys: under which spans repeat their text.
        contradicted: each record with the place of its first wrong span, the key, and its wrong claims.
    """

    keys: Collection[str] = ()
    fitting: list[Claim] = field(default_factory=list)
    contradicted: list[tuple[_Known, str, str, list[Claim]]] = field(default_factory=list)

    def reject(self) -> None:
        """Report each record with a span that contradicts itself, with the cause that explains most of them."""
        claims = [claim for *_, own in self.contradicted for claim in own]
        causes, explained = likely_causes(claims, self.fitting)
        for known, place, key, own in self.contradicted:
            reason, fix = contradiction(own[0], causes, explained, len(claims))
            if key not in NAMED:
                fix += f"; or give '{key}' another place than the span, if it is not the span's own text"
            known.reject(reason, place, fix)


def _spans_in(known: _Known) -> Iterator[tuple[str, Any]]:
    """The spans of a record, each after its text."""
    text, spans = known.record.get(known.name("text")), known.record.get(known.name("spans"))
    if isinstance(text, str) and isinstance(spans, list) and not known.fields.has_words(known.record):
        yield from ((text, span) for span in spans)


def _spanned_text(known: _Known, claims: _Claims) -> TaggedText | None:
    text = known.find("text", str, "text")
    raw = None if text is None else known.find("spans", list, "a list of spans")
    if text is None or raw is None:
        return None
    field = known.name("spans")
    if not text.strip():
        known.reject("the text is empty", known.name("text"))
        return None
    spans: list[Span] = []
    wrong: list[tuple[int, str, Claim]] = []
    joined = 0
    for place, value in enumerate(raw):
        try:
            said = list(claims_of(value, claims.keys, text))
            untrue = [(place, *one) for one in said if not holds(value, one[1], known.fields.offsets)]
            if untrue:
                wrong.append(untrue[0])
                continue
            span, parts = read_span(value, text, known.fields.offsets)
        except ValueError as error:
            fix = f"{COUNTED}; not bytes, not UTF-16 units (--span-offsets names another way)"
            known.reject(str(error), f"{field}[{place}]", fix)
            return None
        claims.fitting += [claim for _, claim in said[:1]]
        spans.append(span)
        joined += parts > 1
    if wrong:
        place, key, _ = wrong[0]
        claims.contradicted.append((known, f"{field}[{place}]", key, [claim for *_, claim in wrong]))
        return None
    kept, overlapping = keep_longest(spans)
    where = known.group, known.file, known.line
    return TaggedText(known.id, text, None, kept, *where, overlapping, joined)


def _text_of_passages(known: _Known) -> TaggedText | None:
    try:
        document = read_document(known.record)
    except KnowledgeBaseError as error:
        known.reject(str(error), error.field, error.fix)
        return None
    spans, overlapping = flat_spans(document)
    joined = sum(entity.parts > 1 for entity in document.entities)
    place = known.group, known.file, known.line
    return TaggedText(known.id, document.text, None, spans, *place, overlapping, joined)


def flat_spans(document: Document) -> tuple[tuple[Span, ...], int]:
    """The entities as sorted spans, none of which overlap: of those that do, the longest stays, then the first.

    One of several parts is all that lies between its first and its last.

    Returns:
        the spans, and how many are left out. Entities that say the same of the same place are one.
    """
    return keep_longest(Span(entity.start, entity.end, entity.type) for entity in document.entities)
