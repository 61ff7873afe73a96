"""Records in text files: JSON lines, JSON, CSV and TSV; and the documents that are made of any records."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from domain_ft.corpus.readers.base import (
    BadRecords,
    Columns,
    RawRecord,
    SourceDocument,
    TextField,
    decode,
    kind_of,
    read_lines,
    read_whole,
    report_empty,
)
from domain_ft.errors import CorpusError

_LARGEST_FIELD = 2**31 - 1  # the csv module's own limit is 131,072 characters; a field may be a whole book


def read_jsonl(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """JSON lines: an object a line is a document."""
    field = TextField(text_field, name)
    yield from documents(jsonl_records(path, name, bad), field, bad)


def read_json(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """A JSON file: an object of a list, or of an object of objects, is a document."""
    field = TextField(text_field, name)
    yield from documents(json_records(path, name, bad), field, bad)


def read_csv(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """CSV with a header line; quoted fields may hold newlines."""
    field = TextField(text_field, name)
    yield from documents(csv_records(path, name, bad, field.settle), field, bad)


def read_tsv(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """Tab-separated values with a header line; quoted fields may hold newlines."""
    field = TextField(text_field, name)
    yield from documents(tsv_records(path, name, bad, field.settle), field, bad)


def documents(records: Iterable[RawRecord], field: TextField, bad: BadRecords) -> Iterator[SourceDocument]:
    """Each record as a document, named by its key, else by its line."""
    for record in records:
        text = field.of(record.fields, bad, record.line)
        if text is not None:
            yield SourceDocument(id=record.key or f"{field.name}:{record.line}", text=text, source=field.name)


def jsonl_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None = None
) -> Iterator[RawRecord]:
    """The objects of JSON lines, one a line. Blank lines are passed over. There is no header to choose `columns` of."""
    del columns
    lines, blank = 0, 0
    for number, offset, raw in read_lines(path, name, bad):
        lines += 1
        if b"\0" in raw:
            bad.add("the line holds a zero byte", file=name, line=number)
            continue
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None:
            continue
        if not line.strip():
            blank += 1
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            bad.add(f"broken JSON: {error.msg} at column {error.colno}", file=name, line=number)
            continue
        except (ValueError, RecursionError) as error:
            bad.add(f"broken JSON: {error}", file=name, line=number)
            continue
        if is_object(value, name, bad, number):
            yield RawRecord(number, value)
    if lines and blank == lines:
        report_empty(name, bad)


def json_records(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """The objects of a JSON list, or of an object that names each. The file is read whole: a large one is refused."""
    del columns
    text = read_whole(path, name, bad, f"write it as JSON lines (.jsonl): jq -c '.[]' {name}")
    if text is None:
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        bad.add(f"broken JSON: {error.msg} at column {error.colno}", file=name, line=error.lineno)
        return
    except (ValueError, RecursionError) as error:
        bad.add(f"broken JSON: {error}", file=name)
        return
    if isinstance(values, dict) and values and all(isinstance(value, dict) for value in values.values()):
        for number, (key, value) in enumerate(values.items(), 1):
            yield RawRecord(number, value, key)
        return
    if not isinstance(values, list):
        bad.add(
            f"the file holds {kind_of(values)}, where a list of objects is wanted",
            file=name,
            fix="write a list of objects, an object of objects by their ids, or JSON lines (.jsonl), an object a line",
        )
        return
    for number, value in enumerate(values, 1):
        if is_object(value, name, bad, number):
            yield RawRecord(number, value)


def is_object(value: Any, name: str, bad: BadRecords, line: int) -> bool:
    """Whether a JSON value is an object, as a record has to be; what is not is reported."""
    if isinstance(value, dict):
        return True
    bad.add(f"the record is {kind_of(value)}, where an object is wanted", file=name, line=line)
    return False


def csv_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None = None
) -> Iterator[RawRecord]:
    """The rows of comma-separated values under a header; quoted fields may hold newlines."""
    yield from _table_records(path, name, bad, columns, ",")


def tsv_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None = None
) -> Iterator[RawRecord]:
    """The rows of tab-separated values under a header; quoted fields may hold newlines."""
    yield from _table_records(path, name, bad, columns, "\t")


def _table_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None, delimiter: str
) -> Iterator[RawRecord]:
    csv.field_size_limit(_LARGEST_FIELD)
    undecodable: list[int] = []
    rows = csv.reader(_text_lines(path, name, bad, undecodable), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            kind = (path.suffix if isinstance(path, Path) else "") or "CSV"
            fix = "a quotation mark within a quoted field is written twice; an opened quotation is closed"
            bad.add(f"broken {kind} record: {error}", file=name, line=start, fix=fix)
            start = rows.line_num + 1
            continue
        line, start = start, rows.line_num + 1
        if undecodable and undecodable[-1] >= line:
            continue  # already reported; the row that holds the undecodable line is left out
        if header is None:
            header = _check_header(row, name, delimiter)
            if columns:
                columns(dict.fromkeys(header, True))
        elif len(row) == len(header):
            yield RawRecord(line, dict(zip(header, row, strict=True)))
        elif row:
            bad.add(f"the record has {len(row)} fields, where the header has {len(header)}", file=name, line=line)


def _check_header(header: list[str], name: str, delimiter: str) -> list[str]:
    """The header row, once it is sure that it is one."""
    for other, word in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if len(header) == 1 and other != delimiter and other in header[0]:
            raise CorpusError(
                f"the fields seem to be parted by {word}: the header is {header[0]!r}",
                where=f"{name}, line 1",
                fix="write .csv with commas and .tsv with tabs",
            )
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise CorpusError(f"the header names '{doubled[0]}' twice", where=f"{name}, line 1")
    return header


def _text_lines(path: Path | BinaryIO, name: str, bad: BadRecords, undecodable: list[int]) -> Iterator[str]:
    """The lines of a file as text. A line that is not UTF-8 is reported, noted, and kept for its quotation marks."""
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None:
            undecodable.append(number)
            line = raw.decode("utf-8", errors="replace")
        yield line
