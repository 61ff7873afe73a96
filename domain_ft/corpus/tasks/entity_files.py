"""Files of texts with entities: CoNLL columns, and records of words and tags, text and spans, or passages and entities.

A file is read whole before its tags are judged, since its scheme shows only in all of them. Offsets count Unicode
characters (code points) as Python does: not bytes, and not the UTF-16 units of JavaScript and Java.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain_ft.corpus.readers import raw_records
from domain_ft.corpus.readers.base import BadRecords, decode, kind_of, read_lines
from domain_ft.corpus.tasks.entities import Scheme, Span, TagError, TaggedText, chunks, join_words, recognise
from domain_ft.corpus.tasks.knowledge_bases import KnowledgeBaseError, flat_spans, is_knowledge_base, read_document
from domain_ft.errors import CorpusError, nearest

TEXT_FIELDS = ("text",)
TOKENS_FIELDS = ("tokens", "words")
TAGS_FIELDS = ("tags", "ner_tags", "labels")
SPANS_FIELDS = ("entities", "spans", "label")

_JSON_ENDINGS = (".jsonl", ".json", ".ndjson")
COLUMNS = (2, 4)
"""Of CoNLL files, the fewest and the most."""

DOCUMENT = "-DOCSTART-"
"""The word of a CoNLL line at which a document begins."""

_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class TagFields:
    """Which fields of a JSON record hold what; where None, the usual names are tried."""

    text: str | None = None
    tokens: str | None = None
    tags: str | None = None
    spans: str | None = None
    id: str | None = None
    group: str | None = None


@dataclass
class _Sentence:
    """Words with tags as the file has them, not judged yet. `lines` is the line of each word."""

    words: list[str]
    tags: list[str]
    lines: list[int]
    id: str
    group: str


def read_tagged(
    path: Path, name: str, fields: TagFields, scheme: Scheme | None, bad: BadRecords
) -> tuple[list[TaggedText], Scheme | None]:
    """The texts of a file with their entities, and the scheme of its tags.

    Args:
        path: a file of JSON lines (.jsonl, .json, .ndjson) or Parquet by its ending, else CoNLL columns; text files may
            end in .gz too.
        name: what it is called in messages and ids.
        fields: of JSON records.
        scheme: of the tags; None to find it.
        bad: told of every record that cannot be read.

    Returns:
        the texts in the file's order, and the scheme; None where the file has spans of characters.

    Raises:
        RecordError: a bad record, where `bad` stops at them.
    """
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] == ".gz":
        endings.pop()
    if endings and endings[-1] in _JSON_ENDINGS:
        return read_tagged_records(_json_records(path, name, bad), name, fields, scheme, bad)
    if endings and endings[-1] == ".parquet":
        records = ((record.line or 0, record.fields) for record in raw_records(path, name, "parquet", bad))
        return read_tagged_records(records, name, fields, scheme, bad)
    sentences = list(_conll_sentences(path, name, bad))
    if len({sentence.group for sentence in sentences}) == 1:  # one -DOCSTART- at the top says nothing of documents
        for sentence in sentences:
            sentence.group = sentence.id
    return _with_scheme(sentences, name, scheme, bad)


def read_tagged_records(
    records: Iterable[tuple[int, Mapping[str, Any]]],
    name: str,
    fields: TagFields,
    scheme: Scheme | None,
    bad: BadRecords,
) -> tuple[list[TaggedText], Scheme | None]:
    """`read_tagged` of records with their lines, whatever they were read from."""
    sentences: list[_Sentence] = []
    texts: list[TaggedText] = []
    for line, record in records:
        known = _Known(record, fields, name, line, bad)
        if known.has("tokens", TOKENS_FIELDS):
            sentence = _tagged_words(known)
            sentences += [sentence] if sentence else []
        else:
            passages = is_knowledge_base(record) and not known.has("text", TEXT_FIELDS)
            text = _text_of_passages(known) if passages else _spanned_text(known)
            texts += [text] if text else []
    if sentences and texts:
        raise CorpusError(
            "some records have words with tags, others text with spans",
            where=f"{name}: {len(sentences)} with words, {len(texts)} without, such as in line {texts[0].line}",
            fix="write all records in one form, or give two files",
        )
    return (texts, None) if texts else _with_scheme(sentences, name, scheme, bad)


def _with_scheme(
    sentences: Sequence[_Sentence], name: str, scheme: Scheme | None, bad: BadRecords
) -> tuple[list[TaggedText], Scheme]:
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


def columns_of(line: str) -> list[str]:
    """The columns of a CoNLL line: between tabs, or between blanks where it has no tab."""
    parts = line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))
    return [part.strip(" ") for part in parts]


def _conll_sentences(path: Path, name: str, bad: BadRecords) -> Iterator[_Sentence]:
    """Sentences of columns: the word first, the tag last. A blank line ends one, a -DOCSTART- line a document."""
    sentence = _Sentence([], [], [], "", "")
    columns = documents = 0
    spoiled = False  # a line of the sentence could not be read: it is left out whole

    def finished() -> Iterator[_Sentence]:
        nonlocal sentence, spoiled
        if sentence.words and not spoiled:
            sentence.id = f"{name}:{sentence.lines[0]}"
            sentence.group = f"{name}: document {documents}" if documents else sentence.id
            yield sentence
        sentence, spoiled = _Sentence([], [], [], "", ""), False

    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None:
            spoiled = True
            continue
        line = line.rstrip("\r\n")
        if not line.strip(" \t"):
            yield from finished()
            continue
        parts = columns_of(line)
        if parts[0] == DOCUMENT:
            yield from finished()
            documents += 1
            continue
        columns = columns or len(parts)
        problem = _column_problem(parts, columns)
        if problem:
            if not spoiled:
                bad.add(problem, file=name, line=number, fix="write a word a line, the tag in the last column")
            spoiled = True
            continue
        sentence.words.append(parts[0])
        sentence.tags.append(parts[-1])
        sentence.lines.append(number)
    yield from finished()


def _column_problem(parts: Sequence[str], columns: int) -> str | None:
    fewest, most = COLUMNS
    if not fewest <= len(parts) <= most:
        return f"the line has {_counted(len(parts))}, where {fewest} to {most} are wanted"
    if len(parts) != columns:
        return f"the line has {_counted(len(parts))}, where the lines before have {columns}"
    if not parts[0].strip():
        return "the word is empty or white space"
    return None if parts[-1] else "the tag is empty"


def _counted(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"


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

    def name(self, role: str, usual: Sequence[str]) -> str:
        """The field of a role: the one that was named, else the first usual one that is there, else the usual one."""
        named: str | None = getattr(self.fields, role)
        return named or next((name for name in usual if name in self.record), usual[0])

    def has(self, role: str, usual: Sequence[str]) -> bool:
        """Whether the record has such a field."""
        return self.name(role, usual) in self.record

    def find(self, role: str, usual: Sequence[str], kind: type, wanted: str) -> Any:
        """The value, or None after a report where it is missing or of another kind."""
        field = self.name(role, usual)
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
    words = known.find("tokens", TOKENS_FIELDS, list, "a list of words")
    tags = None if words is None else known.find("tags", TAGS_FIELDS, list, "a list of tags")
    if words is None or tags is None:
        return None
    tokens_field, tags_field = known.name("tokens", TOKENS_FIELDS), known.name("tags", TAGS_FIELDS)
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
    text = known.find("text", TEXT_FIELDS, str, "text")
    raw = None if text is None else known.find("spans", SPANS_FIELDS, list, "a list of spans")
    if text is None or raw is None:
        return None
    field = known.name("spans", SPANS_FIELDS)
    if not text.strip():
        known.reject("the text is empty", known.name("text", TEXT_FIELDS))
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
