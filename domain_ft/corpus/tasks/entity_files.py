"""Files of texts with entities: CoNLL columns, and records of words and tags, text and spans, or passages and entities.

A file is read whole before its tags are judged, since its scheme shows only in all of them. Offsets count Unicode
characters (code points) as Python does: not bytes, and not the UTF-16 units of JavaScript and Java.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from domain_ft.corpus.readers import raw_records
from domain_ft.corpus.readers.base import BadRecords, decode, kind_of, read_lines
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.tasks.conll import begins_document, column_problem, columns_of, conll_blocks
from domain_ft.corpus.tasks.entities import Scheme, Span, TagError, TaggedText, chunks, join_words, recognise
from domain_ft.corpus.tasks.knowledge_bases import KnowledgeBaseError, flat_spans, is_knowledge_base, read_document
from domain_ft.errors import CorpusError, nearest

TEXT_FIELDS = ("text",)
TOKENS_FIELDS = ("tokens", "words")
TAGS_FIELDS = ("tags", "ner_tags", "labels")
SPANS_FIELDS = ("entities", "spans", "label")

Role = Literal["text", "tokens", "tags", "spans"]
_USUAL: Mapping[Role, tuple[str, ...]] = {
    "text": TEXT_FIELDS,
    "tokens": TOKENS_FIELDS,
    "tags": TAGS_FIELDS,
    "spans": SPANS_FIELDS,
}

_RECORD_ENDINGS = (".jsonl", ".json", ".ndjson", ".parquet")


@dataclass(frozen=True)
class TagFields:
    """Which fields of a JSON record hold what; where None, the usual names are tried."""

    text: str | None = None
    tokens: str | None = None
    tags: str | None = None
    spans: str | None = None
    id: str | None = None
    group: str | None = None

    def name(self, role: Role, record: Mapping[str, Any]) -> str:
        """The field of a role: the one that was named, else the first usual one that is there, else the usual one."""
        named: str | None = getattr(self, role)
        return named or next((name for name in _USUAL[role] if name in record), _USUAL[role][0])


@dataclass
class _Sentence:
    """Words with tags as the file has them, not judged yet. `lines` is the line of each word."""

    words: list[str]
    tags: list[str]
    lines: list[int]
    id: str
    group: str


def read_tagged(
    path: Path,
    name: str,
    fields: TagFields,
    scheme: Scheme | None,
    bad: BadRecords,
    without: Collection[int | None] = (),
) -> tuple[list[TaggedText], Scheme | None]:
    """The texts of a file with their entities, and the scheme of its tags.

    Args:
        path: a file of JSON lines (.jsonl, .json, .ndjson) or Parquet by its ending, else CoNLL columns; text files may
            end in .gz too.
        name: what it is called in messages and ids.
        fields: of JSON records.
        scheme: of the tags; None to find it.
        bad: told of every record that cannot be read.
        without: lines: sentences of words that have any of them are passed over, as if they were not in the file.

    Returns:
        the texts in the file's order, and the scheme; None where the file has spans of characters.

    Raises:
        RecordError: a bad record, where `bad` stops at them.
    """
    if not has_columns(path):
        return read_tagged_records(tagged_records(path, name, bad), name, fields, scheme, bad, without)
    sentences = list(_conll_sentences(path, name, bad))
    if len({sentence.group for sentence in sentences}) == 1:  # one -DOCSTART- at the top says nothing of documents
        for sentence in sentences:
            sentence.group = sentence.id
    return _with_scheme(sentences, name, scheme, bad, without)


def has_columns(path: Path) -> bool:
    """Whether a file is read as CoNLL columns, as all are that do not end as JSON lines or Parquet do."""
    return ending(path) not in _RECORD_ENDINGS


def tagged_records(path: Path, name: str, bad: BadRecords) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The records of a file without columns, each with its line."""
    if ending(path) == ".parquet":
        return ((record.line or 0, record.fields) for record in raw_records(path, name, "parquet", bad))
    return _json_records(path, name, bad)


def read_tagged_records(
    records: Iterable[tuple[int, Mapping[str, Any]]],
    name: str,
    fields: TagFields,
    scheme: Scheme | None,
    bad: BadRecords,
    without: Collection[int | None] = (),
) -> tuple[list[TaggedText], Scheme | None]:
    """`read_tagged` of records with their lines, whatever they were read from."""
    sentences: list[_Sentence] = []
    texts: list[TaggedText] = []
    for line, record in records:
        known = _Known(record, fields, name, line, bad)
        if known.has("tokens"):
            sentence = _tagged_words(known)
            sentences += [sentence] if sentence else []
        else:
            passages = is_knowledge_base(record) and not known.has("text")
            text = _text_of_passages(known) if passages else _spanned_text(known)
            texts += [text] if text else []
    if sentences and texts:
        raise CorpusError(
            "some records have words with tags, others text with spans",
            where=f"{name}: {len(sentences)} with words, {len(texts)} without, such as in line {texts[0].line}",
            fix="write all records in one form, or give two files",
        )
    return (texts, None) if texts else _with_scheme(sentences, name, scheme, bad, without)


def _with_scheme(
    sentences: Sequence[_Sentence], name: str, scheme: Scheme | None, bad: BadRecords, without: Collection[int | None]
) -> tuple[list[TaggedText], Scheme]:
    sentences = [sentence for sentence in sentences if not any(line in without for line in sentence.lines)]
    scheme = scheme or recognise(sentence.tags for sentence in sentences)
    return list(_judged(sentences, name, scheme, bad)), scheme


def _judged(sentences: Sequence[_Sentence], name: str, scheme: Scheme, bad: BadRecords) -> Iterator[TaggedText]:
    """The sentences whose tags can stand where they stand, as texts with spans."""
    for sentence in sentences:
        try:
            found = chunks(sentence.tags, scheme)
        except TagError as error:
            line = sentence.lines[error.index]
            word = sentence.words[error.index]
            fix = "mend the tag, or name the file's scheme if it was taken for another: --scheme iob1|iob2|bioes"
            bad.add(f"{error}, at the word '{word}'", file=name, line=line, fix=fix)
            continue
        text, bounds = join_words(sentence.words)
        spans = tuple(Span(bounds[span.start][0], bounds[span.end - 1][1], span.label) for span in found)
        yield TaggedText(sentence.id, text, bounds, spans, sentence.group, name, sentence.lines[0])


# --------------------------------------------------------------------------------------------------------------- CoNLL


def _conll_sentences(path: Path, name: str, bad: BadRecords) -> Iterator[_Sentence]:
    """Sentences of columns: the word first, the tag last. A blank line ends one, a -DOCSTART- line a document."""
    columns = documents = 0
    for block in conll_blocks(path, name, bad):
        sentence = _Sentence([], [], [], "", "")
        spoiled = False  # a line of the sentence could not be read: it is left out whole
        for number, line in block.sentence:
            if line is None:
                spoiled = True
                continue
            parts = columns_of(line.rstrip("\r\n"))
            columns = columns or len(parts)
            problem = column_problem(parts, columns)
            if problem:
                if not spoiled:
                    bad.add(problem, file=name, line=number, fix="write a word a line, the tag in the last column")
                spoiled = True
                continue
            sentence.words.append(parts[0])
            sentence.tags.append(parts[-1])
            sentence.lines.append(number)
        if sentence.words and not spoiled:
            sentence.id = f"{name}:{sentence.lines[0]}"
            sentence.group = f"{name}: document {documents}" if documents else sentence.id
            yield sentence
        documents += sum(map(begins_document, block.behind))


# ---------------------------------------------------------------------------------------------------------- JSON lines


def _json_records(path: Path, name: str, bad: BadRecords) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON lines file with their lines. Blank lines are passed over."""
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None or not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            fix = "write JSON lines, an object a line; CoNLL columns are read from .txt, .conll and other endings"
            bad.add(f"broken JSON: {reason}", file=name, line=number, fix=fix)
            continue
        if not isinstance(record, dict):
            bad.add(f"the record is {kind_of(record)}, where an object is wanted", file=name, line=number)
            continue
        yield number, record


@dataclass(frozen=True)
class _Known:
    """A JSON record, its place, and which field is what."""

    record: Mapping[str, Any]
    fields: TagFields
    file: str
    line: int
    bad: BadRecords

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
            self.bad.add(
                "the field is missing",
                file=self.file,
                line=self.line,
                field=field,
                fix=f"name the right one with --{role}-field ({known})",
            )
            return None
        value = self.record[field]
        if not isinstance(value, kind):
            self.reject(f"the field holds {kind_of(value)}, where {wanted} is wanted", field)
            return None
        return value

    def reject(self, reason: str, field: str | None = None, fix: str | None = None) -> None:
        """Report the record."""
        self.bad.add(reason, file=self.file, line=self.line, field=field, fix=fix)

    @property
    def id(self) -> str:
        """The record's own id, or its place."""
        value = self.record.get(self.fields.id) if self.fields.id else None
        return f"{self.file}:{self.line}" if value is None else str(value)

    @property
    def group(self) -> str:
        """Its group, or its id."""
        value = self.record.get(self.fields.group) if self.fields.group else None
        return self.id if value is None else str(value)


def _tagged_words(known: _Known) -> _Sentence | None:
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
        return _Sentence(words, tags, [known.line] * len(words), known.id, known.group)
    return None


def _spanned_text(known: _Known) -> TaggedText | None:
    text = known.find("text", str, "text")
    raw = None if text is None else known.find("spans", list, "a list of spans")
    if text is None or raw is None:
        return None
    field = known.name("spans")
    if not text.strip():
        known.reject("the text is empty", known.name("text"))
        return None
    try:
        spans = sorted(_span(value, text) for value in raw)
    except ValueError as error:
        fix = "offsets count Unicode characters from 0, the end is behind the last; not bytes, not UTF-16 units"
        known.reject(str(error), field, fix)
        return None
    for one, other in itertools.pairwise(spans):
        if other.start < one.end:
            both = " and ".join(f"[{s.start}, {s.end}) {s.label} '{text[s.start : s.end]}'" for s in (one, other))
            known.reject(f"two spans overlap: {both}", field, "keep one of them: a word has one tag")
            return None
    return TaggedText(known.id, text, None, tuple(spans), known.group, known.file, known.line)


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


def _span(value: Any, text: str) -> Span:
    """A span of {"start", "end", "label"} or [start, end, label], without the white space at its ends.

    Raises:
        ValueError: it is no span of the text, in words.
    """
    shown = json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping) and {"start", "end", "label"} <= set(value):
        start, end, label = value["start"], value["end"], value["label"]
    elif isinstance(value, list) and len(value) == 3:
        start, end, label = value
    else:
        raise ValueError(f'{shown} is neither {{"start", "end", "label"}} nor [start, end, label]')
    if any(isinstance(number, bool) or not isinstance(number, int) for number in (start, end)):
        raise ValueError(f"the start and end of {shown} are not whole numbers")
    if not isinstance(label, str) or not label:
        raise ValueError(f"the label of {shown} is no name")
    if not 0 <= start <= end <= len(text):
        raise ValueError(f"{shown} does not lie in the text, which has {len(text)} characters")
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    end -= len(inside) - len(inside.rstrip())
    if start >= end:
        raise ValueError(f"{shown} holds no text")
    return Span(start, end, label)
