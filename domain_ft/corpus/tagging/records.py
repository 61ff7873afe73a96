"""Converts plain records to texts with entities. A record has words with tags, text with spans, or passages.

Tags and spans are checked after the whole file is read: the scheme depends on all tags, and one cause may explain all
wrong offsets. Offsets count Unicode characters (code points), unless `TagFields.offsets` says otherwise.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain_ft.corpus.knowledge_bases import Document, KnowledgeBaseError, is_knowledge_base, read_document
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.no_label import means_no_label
from domain_ft.corpus.readers.base import BadRecords, kind_of
from domain_ft.corpus.tagging.entities import (
    OUTSIDE,
    Scheme,
    Span,
    TagError,
    TaggedText,
    chunks,
    is_tag,
    keep_longest,
    recognise,
)
from domain_ft.corpus.tagging.fields import Entry, Role, TagFields, choose_spans_field
from domain_ft.corpus.tagging.offsets import COUNTED, Claim, border_notes, contradiction, likely_causes
from domain_ft.corpus.tagging.spans import (
    A_SPAN,
    NAMED,
    NotASpanError,
    claims_of,
    holds,
    mention_keys,
    parts_of,
    read_span,
    unread_keys,
)
from domain_ft.corpus.unread_values import UnreadValues
from domain_ft.corpus.verdicts import accepting_fields, annotation_rejected, names_verdict
from domain_ft.corpus.words import join_words
from domain_ft.errors import CorpusError, nearest
from domain_ft.quoting import shown
from domain_ft.wording import counted

_HEADINGS = frozenset({"token", "tokens", "word", "words", "form", "text", "tag", "tags", "label", "labels", "ner"})
_SUFFIX = re.compile("(.+)[-_]([BIESLU])")  # Drug-B
_UNDERSCORE = re.compile("([BIESLU])_(.+)")  # B_Drug


@dataclass
class Sentence:
    """Words with unchecked tags. `lines` has the line of each word."""

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
    """`read_tagged` for plain records from any source."""
    sentences: list[Sentence] = []
    texts: list[TaggedText] = []
    entries = list(records)
    fields, field_notes = choose_spans_field(fields, entries)
    if notes is not None:
        notes += field_notes
    parsed = [
        one for one in (_Record(entry, fields, name, bad) for entry in entries) if not one.leave_out_if_rejected()
    ]
    unread = UnreadValues()
    claims = _Claims(mention_keys(itertools.chain.from_iterable(map(_spans_in, parsed)), fields.offsets))
    for record in parsed:
        if fields.has_words(record.values):
            sentence = _tagged_words(record)
            sentences += [sentence] if sentence else []
            read = sentence is not None
        else:
            passages = is_knowledge_base(record.values) and not record.has("text")
            text = _text_of_passages(record) if passages else _spanned_text(record, claims)
            texts += [text] if text else []
            read = text is not None
        if read and left is not None:
            record.count_unread(left, claims.keys, unread)
    claims.reject()
    if notes is not None:
        notes += border_notes(claims.without, fields.offsets)
        rejected = sum(_is_rejected(span) for record in parsed for _, span in _spans_in(record))
        notes += [f"{counted(rejected, 'span is', 'spans are')} marked as rejected and left out"] if rejected else []
        notes += unread.verdict_notes()
    if sentences and texts:
        raise CorpusError(
            "some records have words with tags, and others have text with spans",
            where=f"{name}: {len(sentences)} with words, {len(texts)} with spans, such as on line {texts[0].line}",
            fix="write all records in the same way, or give two files",
        )
    return (texts, None) if texts else with_scheme(sentences, name, scheme, bad, without)


def with_scheme(
    sentences: Sequence[Sentence], name: str, scheme: Scheme | None, bad: BadRecords, without: Collection[int | None]
) -> tuple[list[TaggedText], Scheme]:
    """The texts of sentences, and the scheme of their tags. See `read_tagged` for the arguments."""
    sentences = [sentence for sentence in sentences if not any(line in without for line in sentence.lines)]
    scheme = scheme or recognise(sentence.tags for sentence in sentences)
    return list(_check_tags(sentences, name, scheme, bad)), scheme


def _check_tags(sentences: Sequence[Sentence], name: str, scheme: Scheme, bad: BadRecords) -> Iterator[TaggedText]:
    """The sentences with valid tags, as texts with spans. The others go to `bad`."""
    for sentence in sentences:
        try:
            found = chunks(sentence.tags, scheme)
        except TagError as error:
            line = sentence.lines[error.index]
            word = sentence.words[error.index]
            fix = _fix_of(sentence.tags[error.index], word, line)
            bad.add(f"{error}, at the word '{shown(word)}'", file=name, line=line, fix=fix)
            continue
        text, bounds = join_words(sentence.words)
        spans = tuple(Span(bounds[span.start][0], bounds[span.end - 1][1], span.label) for span in found)
        yield TaggedText(sentence.id, text, bounds, spans, sentence.group, name, sentence.lines[0])


def _fix_of(tag: str, word: str, line: int) -> str:
    """What to do about an invalid tag. Naming another scheme helps only if the tag is known in some scheme."""
    if is_tag(tag):
        return "fix the tag; or, if the wrong scheme was detected, name the right one: --scheme iob1|iob2|bioes|bilou"
    if {tag.casefold(), word.casefold()} <= _HEADINGS:
        return f"line {line} looks like a header of the columns: remove it"
    if found := _SUFFIX.fullmatch(tag):
        return f"write the prefix first: {found[2]}-{found[1]} instead of {shown(tag)}"
    if found := _UNDERSCORE.fullmatch(tag):
        return f"write a hyphen after the prefix: {found[1]}-{found[2]} instead of {shown(tag)}"
    fix = "write O for a word outside entities, B-TYPE for the first word of an entity and I-TYPE for its other words"
    if any(sign in tag for sign in "(*)") or tag == "-":
        fix += "; brackets, as in CoNLL-2012, are not read"
    return fix


@dataclass(frozen=True)
class _Record:
    """A plain record, its location, and the roles of its fields."""

    entry: Entry
    fields: TagFields
    source: str
    bad: BadRecords

    @property
    def values(self) -> Mapping[str, Any]:
        """The values of its fields."""
        return self.entry.plain.record

    @property
    def line(self) -> int:
        """Its line, or its number if the source has no lines."""
        return self.entry.line

    @property
    def file(self) -> str:
        """The name of its file."""
        return self.entry.plain.file or self.source

    def name(self, role: Role) -> str:
        """The field of a role."""
        return self.fields.name(role, self.values)

    def has(self, role: Role) -> bool:
        """Whether the record has the field of a role."""
        return self.name(role) in self.values

    def find(self, role: Role, kind: type, expected: str) -> Any:
        """The value of a role's field; None if it is missing or not of type `kind`, which is reported."""
        field = self.name(role)
        if field not in self.values:
            hint = nearest(field, map(str, self.values)) if self.values else "the record has no fields"
            fix = f"name the right one with --{role}-field ({hint})"
            self.reject("the field is missing", field, fix)
            return None
        value = self.values[field]
        if not isinstance(value, kind):
            self.reject(f"the field holds {kind_of(value)}, where {expected} is expected", field)
            return None
        return value

    def reject(self, reason: str, field: str | None = None, fix: str | None = None) -> None:
        """Report the record to `bad`."""
        line = None if self.entry.plain.file else self.line
        self.bad.add(reason, file=self.file, line=line, field=field, fix=fix)

    def leave_out_if_rejected(self) -> bool:
        """Leave out the record if its annotation was rejected. Returns whether it was."""
        named = (self.fields.text, self.fields.tokens, self.fields.tags, self.fields.spans, self.fields.group)
        rejected = annotation_rejected(self.values, [name for name in named if name])
        if rejected is None:
            return False
        field, reason = rejected
        self.bad.leave_out(reason, file=self.file, line=None if self.entry.plain.file else self.line, field=field)
        return True

    def count_unread(self, left: LeftOut, mention_keys: Collection[str], values: UnreadValues) -> None:
        """Count the fields of the record and of its spans that are not read.

        Args:
            left: counts these fields.
            mention_keys: the keys under which spans hold their text. They count as read, because their values are
                checked.
            values: receives the values of the fields that are not read.
        """
        if not self.fields.has_words(self.values):
            spans = self.values.get(self.name("spans"))
            if is_knowledge_base(self.values):
                mention_keys = {*mention_keys, "id", "text"}  # `read_document` compares these
            unread = []
            if isinstance(spans, list):
                keys = unread_keys(spans, mention_keys)
                unread = [key for key in keys if not (names_verdict(key) and _has_verdict(spans, key))]
            # Converted spans have an id that the tool's file may lack.
            unread = unread if self.entry.plain.unread is None else [key for key in unread if key != "id"]
            left.fields.update(f"{self.name('spans')}[].{key}" for key in unread)
        if self.entry.plain.unread is not None:
            left.fields.update(self.entry.plain.unread)
            return
        read = {self.fields.id, self.fields.group, self.name("text")}
        if self.fields.has_words(self.values):
            read |= {self.name("tokens"), self.name("tags")}
            read -= {self.name("text")}
        else:
            read |= {self.name("spans"), *(("passages", "entities") if is_knowledge_base(self.values) else ())}
        read |= accepting_fields(self.values)
        left.see_fields(map(str, self.values), {name for name in read if name})
        values.add(self.values, [str(name) for name in self.values if name not in read])

    @property
    def id(self) -> str:
        """The record's id. Without one, it is `file:line`, or the file if the record has a file of its own."""
        value = self.values.get(self.fields.id) if self.fields.id else None
        if value is not None:
            return str(value)
        return self.entry.plain.file or f"{self.source}:{self.line}"

    @property
    def group(self) -> str:
        """The value of the record's group field; without one, the document that its tool names, or the record's id."""
        value = self.values.get(self.fields.group) if self.fields.group else None
        return (self.entry.plain.group or self.id) if value is None else str(value)


def _tagged_words(record: _Record) -> Sentence | None:
    words = record.find("tokens", list, "a list of words")
    tags = None if words is None else record.find("tags", list, "a list of tags")
    if words is None or tags is None:
        return None
    tokens_field, tags_field = record.name("tokens"), record.name("tags")
    if not words:
        record.reject("the sentence has no words", tokens_field)
    elif len(words) != len(tags):
        record.reject(f"there are {len(words)} words and {len(tags)} tags", tags_field)
    elif empty := [place for place, word in enumerate(words) if not isinstance(word, str) or not word.strip()]:
        record.reject(f"word {empty[0] + 1} is empty or not a text", tokens_field)
    elif other := [tag for tag in tags if not isinstance(tag, str)]:
        fix = "write tag names such as B-Disease; numbers are read only if a Parquet file or data set names their tags"
        record.reject(f"the tags hold {kind_of(other[0])}, where names are expected", tags_field, fix)
    else:
        return Sentence(words, tags, [record.line] * len(words), record.id, record.group)
    return None


@dataclass
class _Claims:
    """The claims of all spans in a file about their text.

    Attributes:
        keys: the keys under which spans hold their text.
        fitting: correct claims.
        without: (text, start, end) of spans that do not give their text, with the offsets in the file.
        contradicted: (record, path of its first wrong span, key of this span's text, wrong claims) of each record with
            wrong claims.
    """

    keys: Collection[str] = ()
    fitting: list[Claim] = field(default_factory=list)
    without: list[tuple[str, int, int]] = field(default_factory=list)
    contradicted: list[tuple[_Record, str, str, list[Claim]]] = field(default_factory=list)

    def reject(self) -> None:
        """Report each record with a wrong claim, with the causes that explain the most wrong claims."""
        claims = [claim for *_, wrong in self.contradicted for claim in wrong]
        causes, explained = likely_causes(claims, self.fitting)
        for record, place, key, wrong in self.contradicted:
            reason, fix = contradiction(wrong[0], causes, explained, len(claims))
            if key not in NAMED:
                fix += f"; or, if '{key}' is not the text of the span, move it out of the span"
            record.reject(reason, place, fix)


def _spans_in(record: _Record) -> Iterator[tuple[str, Any]]:
    """(text, span) for each span of a record."""
    text, spans = record.values.get(record.name("text")), record.values.get(record.name("spans"))
    if isinstance(text, str) and isinstance(spans, list) and not record.fields.has_words(record.values):
        yield from ((text, span) for span in spans)


def _is_rejected(span: Any) -> bool:
    """Whether a span is marked as rejected, so that it is no entity."""
    return isinstance(span, Mapping) and annotation_rejected(span) is not None


def _has_verdict(spans: Iterable[Any], key: str) -> bool:
    """Whether a key of the spans, such as `rejected`, holds a verdict in any of them."""
    held = [{key: span[key]} for span in spans if isinstance(span, Mapping) and key in span]
    return any(accepting_fields(one) or annotation_rejected(one) for one in held)


def _spanned_text(record: _Record, claims: _Claims) -> TaggedText | None:
    text = record.find("text", str, "text")
    raw = None if text is None else record.find("spans", list, "a list of spans")
    if text is None or raw is None:
        return None
    field = record.name("spans")
    if not text.strip():
        record.reject("the text is empty", record.name("text"))
        return None
    spans: list[Span] = []
    wrong: list[tuple[int, str, Claim]] = []
    joined = 0
    for place, value in enumerate(raw):
        if _is_rejected(value):
            continue
        try:
            of_span = list(claims_of(value, claims.keys, text))
            untrue = [(place, *one) for one in of_span if not holds(value, one[1], record.fields.offsets)]
            if untrue:
                wrong.append(untrue[0])
                continue
            span, parts = read_span(value, text, record.fields.offsets)
        except NotASpanError as error:
            record.reject(str(error), f"{field}[{place}]", A_SPAN)
            return None
        except ValueError as error:
            fix = f"{COUNTED}; not bytes, not UTF-16 units (--span-offsets changes this)"
            record.reject(str(error), f"{field}[{place}]", fix)
            return None
        claims.fitting += [claim for _, claim in of_span[:1]]
        if not of_span:
            places = parts_of(value) if isinstance(value, Mapping) else [(value[0], value[1])]
            claims.without += [(text, *place) for place in places]
        spans.append(span)
        joined += parts > 1
    if wrong:
        place, key, _ = wrong[0]
        claims.contradicted.append((record, f"{field}[{place}]", key, [claim for *_, claim in wrong]))
        return None
    labelled = [span for span in spans if span.label != OUTSIDE and not means_no_label(span.label)]
    kept, overlapping = keep_longest(labelled)
    where = record.group, record.file, record.line
    return TaggedText(record.id, text, None, kept, *where, overlapping, joined, len(spans) - len(labelled))


def _text_of_passages(record: _Record) -> TaggedText | None:
    try:
        document = read_document(record.values)
    except KnowledgeBaseError as error:
        record.reject(str(error), error.field, error.fix)
        return None
    spans, overlapping = flat_spans(document)
    joined = sum(entity.parts > 1 for entity in document.entities)
    place = record.group, record.file, record.line
    return TaggedText(record.id, document.text, None, spans, *place, overlapping, joined)


def flat_spans(document: Document) -> tuple[tuple[Span, ...], int]:
    """The entities of a document as spans, sorted and without overlaps (see `keep_longest`).

    An entity with several parts is one span, from its first to its last part.

    Returns:
        the spans, and the number of those that were dropped. Equal spans count once.
    """
    return keep_longest(Span(entity.start, entity.end, entity.type) for entity in document.entities)
