"""Reads files of texts with entities: CoNLL columns, records, and the formats of annotation tools.

The kind of a file is determined from its ending or its first line. Its records are converted to plain ones
(`annotations`), which `records` reads. Columns are read here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from domain_ft.corpus.annotation_tools import (
    Outcome,
    Plain,
    Refused,
    Skipped,
    is_label_studio,
    label_studio_answers,
    labels_whole_text,
    spans_in,
)
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.listed_text import listed_in
from domain_ft.corpus.readers import ENDINGS, raw_records
from domain_ft.corpus.readers.base import BadRecords, read_lines
from domain_ft.corpus.readers.choosing import LOOKED_AT
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.readers.records import ONE_KEY, json_values, lists_of_records, wrapped
from domain_ft.corpus.tagging.annotations import label_studio_fields, outcomes, records_of
from domain_ft.corpus.tagging.conll import begins_document, conll_blocks, layout_of
from domain_ft.corpus.tagging.entities import OUTSIDE, Scheme, TaggedText, is_tag
from domain_ft.corpus.tagging.fields import Entry, TagFields, choose_spans_field
from domain_ft.corpus.tagging.records import Sentence, read_tagged_records, with_scheme
from domain_ft.corpus.tagging.standoff import is_brat, is_pubtator, read_bioc_xml, read_brat, read_pubtator
from domain_ft.errors import CorpusError
from domain_ft.json_files import RepeatedKeyError, loads
from domain_ft.quoting import listed

FileKind = Literal["columns", "records", "parquet", "brat", "pubtator", "bioc", "table"]

_RECORD_ENDINGS = (".jsonl", ".json", ".ndjson")
_TO_JSON_LINES = 'write JSON lines of {"text": ..., "entities": [{"start", "end", "label"}]}'
_NOT_READ = {
    ".spacy": ("spaCy's binary format (DocBin)", f"{_TO_JSON_LINES} from DocBin().from_disk(F).get_docs(nlp.vocab)"),
    ".xmi": ("UIMA's XMI", "export CoNLL columns, BRAT or BioC instead"),
    ".zip": ("an archive", "unpack it, and give the file or the BRAT folder in it"),
}


# ------------------------------------------------------------------------------------------------------- kinds of files


def file_kind(path: Path) -> FileKind:
    """The kind of a file or BRAT folder, from its ending or its first line.

    Raises:
        CorpusError: the kind is known, but not supported.
    """
    if is_brat(path):
        return "brat"
    end = ending(path)
    if end in _NOT_READ:
        what, fix = _NOT_READ[end]
        raise CorpusError(f"this is {what}, which is not supported", where=path.name, fix=fix)
    if end == ".parquet":
        return "parquet"
    if end in _RECORD_ENDINGS:
        return "records"
    if end == ".csv":
        return "table"
    first = _first_line(path)
    if first.startswith("#FORMAT=WebAnno"):
        fix = "export CoNLL 2003 or BRAT from INCEpTION or WebAnno instead"
        raise CorpusError("this is WebAnno's TSV format, which is not supported", where=path.name, fix=fix)
    if end == ".tsv" and "annotation_id" in first.split("\t"):  # Label Studio's
        return "table"
    if end in (".pubtator",) or is_pubtator(first):
        return "pubtator"
    if end == ".xml" or first.lstrip().startswith(("<?xml", "<collection", "<!DOCTYPE")):
        return "bioc"
    return "records" if _is_json(first) else "columns"


def _first_line(path: Path) -> str:
    """The first line that is not blank; empty if the file cannot be read, which its reader reports."""
    lines = read_lines(path, path.name, BadRecords("skip", lambda _: None))
    return next((raw.decode("utf-8", "replace") for _, _, raw in lines if raw.strip()), "")


def _is_json(line: str) -> bool:
    if line.strip() in ("[", "{", "[{"):
        return True
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def has_columns(path: Path) -> bool:
    """Whether a file is read as CoNLL columns."""
    return file_kind(path) == "columns"


def read_tagged(
    path: Path,
    name: str,
    fields: TagFields,
    scheme: Scheme | None,
    bad: BadRecords,
    without: Collection[int | None] = (),
    left: LeftOut | None = None,
    notes: list[str] | None = None,
) -> tuple[list[TaggedText], Scheme | None]:
    """The texts of a file with their entities, and the scheme of its tags.

    Args:
        path: a file of any `FileKind`, or a BRAT folder. Text files may be compressed.
        name: its name in messages and ids.
        fields: of JSON records, or of columns.
        scheme: of the tags; None to determine it.
        bad: receives each record that cannot be read.
        without: line numbers. Tagged sentences with any of these lines are skipped, as if they were not in the file.
        left: counts what is not read.
        notes: receives remarks for the user on how the file was read.

    Returns:
        the texts in the order of the file, and the scheme (None if the file has character spans).

    Raises:
        RecordError: a record is bad, and `bad` stops at it.
        CorpusError: the file's kind is not supported, or it is not clear which columns hold the words and the tags.
    """
    left = LeftOut() if left is None else left
    if not has_columns(path):
        records = entries(path, name, fields, bad, left)
        return read_tagged_records(records, name, fields, scheme, bad, without, left, notes)
    sentences = _conll_sentences(path, name, fields, bad, left, [] if notes is None else notes)
    if len({sentence.group for sentence in sentences}) == 1:  # a single -DOCSTART- divides nothing
        for sentence in sentences:
            sentence.group = sentence.id
    return with_scheme(sentences, name, scheme, bad, without)


def entries(path: Path, name: str, fields: TagFields, bad: BadRecords, left: LeftOut | None = None) -> Iterator[Entry]:
    """The plain records of a file of any kind except columns. Skipped and unreadable records go to `bad`."""
    for line, outcome in _outcomes(path, name, fields, bad, LeftOut() if left is None else left):
        if isinstance(outcome, Plain):
            yield Entry(line, outcome)
        elif isinstance(outcome, Skipped):
            bad.leave_out(outcome.reason, file=name, line=line, field=outcome.field)
        else:
            bad.add(outcome.reason, file=name, line=line, field=outcome.field, fix=outcome.fix)


def _outcomes(
    path: Path, name: str, fields: TagFields, bad: BadRecords, left: LeftOut
) -> Iterator[tuple[int, Outcome]]:
    kind = file_kind(path)
    if kind == "brat":
        yield from read_brat(path, bad, left)
    elif kind == "pubtator":
        yield from read_pubtator(path, name, bad)
    elif kind == "bioc":
        yield from read_bioc_xml(path, name, bad)
    elif kind == "table":
        yield from _table(path, name, fields, bad)
    elif kind == "parquet":
        from domain_ft.corpus.readers.parquet import file_class_names  # imports pyarrow

        classes = file_class_names(path)
        for record in raw_records(path, name, "parquet", bad):
            yield record.line or 0, Plain(named_classes(record.fields, classes))
    else:
        values = tagged_values(path, name, bad)
        first = next(values, None)
        values = itertools.chain([] if first is None else [first], values)
        shown_in: Mapping[str, str] | None = None
        if first is not None and isinstance(first[1], Mapping) and is_label_studio(first[1]):
            read = list(values)
            shown_in, values = label_studio_fields(value for _, value in read), iter(read)
        for line, value in values:
            if isinstance(value, Mapping) and labels_whole_text(value) and not fields.spans:
                reason = "the record has choices for its whole text, but no entities"
                yield line, Refused(reason, None, "for labels of whole texts use `domain-ft classify`")
                continue
            for outcome in outcomes(value, fields.text, fields.spans, shown_in):
                yield line, outcome


def resolve_fields(path: Path, name: str, fields: TagFields, bad: BadRecords) -> TagFields:
    """The fields that `read_tagged` uses for the records of a file."""
    return choose_spans_field(fields, list(entries(path, name, fields, bad)))[0]


# --------------------------------------------------------------------------------------------------------------- tables


def _table(path: Path, name: str, fields: TagFields, bad: BadRecords) -> Iterator[tuple[int, Outcome]]:
    """The rows of a table with JSON lists of spans, as in Label Studio's CSV, or with lists of words and of tags.

    Raises:
        CorpusError: the table has neither, or several columns hold spans.
    """
    records = raw_records(path, name, ENDINGS[ending(path)], bad)
    first = list(itertools.islice(records, LOOKED_AT))
    columns = list(first[0].fields) if first else []
    span_columns = [column for column in columns if any(spans_in(record.fields[column]) for record in first)]
    if fields.spans in columns:
        span_columns = [fields.spans]
    if not span_columns and (lists := _columns_of_lists([record.fields for record in first], fields)):
        for record in itertools.chain(first, records):
            parsed = {column: listed_in(str(record.fields[column])) for column in lists}
            yield record.line or 0, Plain({**record.fields, **{key: part for key, part in parsed.items() if part}})
        return
    if len(span_columns) != 1:
        tool = "this is an export of Label Studio" if label_studio_answers(columns) is not None else "this is a table"
        what = "none of its columns lists entities with start, end and label"
        fix = f"{_TO_JSON_LINES}; for labels of whole texts use `domain-ft classify`"
        tagged = [column for column in columns if _holds_tags([record.fields[column] for record in first])]
        if tagged:
            what = f"each row has a word and its tag (column {listed(tagged)})"
            fix = (
                "write a word, a tab and its tag in each line, and a blank line after each sentence; or JSON lines of "
                '{"tokens": [...], "tags": [...]}'
            )
        if span_columns:
            what, fix = f"several of its columns list entities: {listed(span_columns)}", "name one: --spans-field F"
        raise CorpusError(f"{tool}, and {what}", where=name, fix=fix)
    (column,) = span_columns
    for record in itertools.chain(first, records):
        cell = record.fields[column].strip()
        rest = {other: value for other, value in record.fields.items() if other != column}
        try:
            spans = loads(cell) if cell else []
        except RepeatedKeyError as error:
            yield record.line or 0, Refused(str(error), column, ONE_KEY)
            continue
        except ValueError as error:
            yield record.line or 0, Refused(f"broken JSON: {error}", column)
            continue
        yield from ((record.line or 0, one) for one in outcomes({**rest, fields.spans or "entities": spans}))


def _columns_of_lists(rows: Sequence[Mapping[str, Any]], fields: TagFields) -> tuple[str, ...]:
    """The columns of words and of tags, if both hold a list as text in the first row; otherwise empty."""
    if not rows:
        return ()
    names = fields.name("tokens", rows[0]), fields.name("tags", rows[0])
    present = all(name in rows[0] for name in names) and names[0] != names[1]
    return names if present and all(listed_in(str(rows[0][name])) for name in names) else ()


def _holds_tags(cells: Sequence[Any]) -> bool:
    """Whether a column holds the tag of one word in each row, with at least one entity."""
    tags = [str(cell) for cell in cells if cell]
    return bool(tags) and all(map(is_tag, tags)) and any("-" in tag for tag in tags)


# --------------------------------------------------------------------------------------------------------------- CoNLL


def _conll_sentences(
    path: Path, name: str, fields: TagFields, bad: BadRecords, left: LeftOut, notes: list[str]
) -> list[Sentence]:
    """The sentences of a file of columns. A blank line ends a sentence; a -DOCSTART- line begins a document."""
    documents = 0
    sentences = []
    blocks = list(conll_blocks(path, name, bad))
    layout = layout_of(blocks, name, fields.tokens, fields.tags)
    notes += [layout.note] if layout.note else []
    for block in blocks:
        sentence = Sentence([], [], [], "", "")
        unreadable = False  # whether a line is unreadable, so that the sentence is left out
        ranges: list[tuple[int, range]] = []  # CoNLL-U range lines with an entity tag
        tagged: set[str] = set()  # the numbers of words with an entity tag
        for number, line in block.sentence:
            if line is None:
                unreadable = True
                continue
            if layout.is_comment(line):
                continue
            parts = layout.columns_of(line)
            problem = layout.problem(parts)
            if problem:
                if not unreadable:
                    bad.add(problem, file=name, line=number, fix="write a word and its tag in each line")
                unreadable = True
            elif not layout.is_word(parts):
                if layout.words_of_range(parts) and is_tag(layout.tag_of(parts)) and layout.tag_of(parts) != OUTSIDE:
                    ranges.append((number, layout.words_of_range(parts)))
            else:
                tagged |= {parts[0]} if layout.tag_of(parts) != OUTSIDE else set()
                sentence.words.append(layout.word_of(parts))
                sentence.tags.append(layout.tag_of(parts))
                sentence.lines.append(number)
        for number, words in ranges:
            if not unreadable and not any(str(word) in tagged for word in words):
                reason = f"the words {words[0]} to {words[-1]} are tagged in a range line, which is not read"
                bad.add(reason, file=name, line=number, fix="write the tag of each word in the word's line")
                unreadable = True
        if sentence.words and not unreadable:
            sentence.id = f"{name}:{sentence.lines[0]}"
            sentence.group = f"{name}: document {documents}" if documents else sentence.id
            left.fields.update(layout.unread)
            sentences.append(sentence)
        documents += sum(map(begins_document, block.after))
    if len(sentences) == 1 and len(sentences[0].words) > 1:
        notes.append(
            f"the file has no blank line between sentences, so its {len(sentences[0].words):,} words are one text: "
            "put a blank line after each sentence"
        )
    return sentences


# ----------------------------------------------------------------------------------------------------------------- JSON


def tagged_values(path: Path, name: str, bad: BadRecords) -> Iterator[tuple[int, Any]]:
    """(line, record) for each record of JSON lines, (number, record) for those of a JSON list."""
    fix = "write JSON lines, one object per line; CoNLL columns are read from .txt, .conll and other endings"

    def records_in(value: Any) -> list[Any] | None:
        by_name = isinstance(value, dict) and all(isinstance(part, dict) for part in value.values())
        lists = lists_of_records(value) if ending(path) == ".json" and (by_name or _records_in(value) is None) else []
        if lists:
            raise wrapped(lists, name)
        # [] is a valid JSON file without records, but not a valid line of JSON lines.
        return None if value == [] and ending(path) != ".json" else _records_in(value)

    return json_values(path, name, bad, records_in, fix)


def _records_in(value: Any) -> list[Any] | None:
    """The records in a parsed value; None if it is a record itself, or holds something other than records."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return None
    records = records_of(value)
    if records is None or records == [value]:
        return None
    return records if all(record is None or isinstance(record, list | dict) for record in records) else None


def named_classes(record: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The record with class numbers replaced by names. A number without a name is kept, and later refused as a tag."""
    named = {
        field: [
            names[number] if isinstance(number, int) and 0 <= number < len(names) else number
            for number in record[field]
        ]
        for field, names in classes.items()
        if isinstance(record.get(field), list)
    }
    return {**record, **named}
