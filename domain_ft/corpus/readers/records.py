"""Records in text files: JSON lines, a JSON list, CSV and TSV. One record is one document."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domain_ft.corpus.readers.base import (
    BadRecords,
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
    """JSON lines: an object a line. Blank lines are passed over."""
    field, lines, blank = TextField(text_field, name), 0, 0
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
            record = json.loads(line)
        except json.JSONDecodeError as error:
            bad.add(f"broken JSON: {error.msg} at column {error.colno}", file=name, line=number)
            continue
        except (ValueError, RecursionError) as error:
            bad.add(f"broken JSON: {error}", file=name, line=number)
            continue
        document = _document(record, field, bad, number)
        if document:
            yield document
    if lines and blank == lines:
        report_empty(name, bad)


def read_json(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """A JSON file that is a list of objects. It is read whole, so that a large one is refused."""
    text = read_whole(path, name, bad, f"write it as JSON lines (.jsonl): jq -c '.[]' {name}")
    if text is None:
        return
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        bad.add(f"broken JSON: {error.msg} at column {error.colno}", file=name, line=error.lineno)
        return
    except (ValueError, RecursionError) as error:
        bad.add(f"broken JSON: {error}", file=name)
        return
    if not isinstance(records, list):
        bad.add(
            f"the file holds {kind_of(records)}, where a list of objects is wanted",
            file=name,
            fix="write a list of objects, or JSON lines (.jsonl), an object a line",
        )
        return
    field = TextField(text_field, name)
    for number, record in enumerate(records, 1):
        document = _document(record, field, bad, number)
        if document:
            yield document


def read_csv(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """CSV with a header line; quoted fields may hold newlines."""
    yield from _read_table(path, name, text_field, bad, ",")


def read_tsv(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """Tab-separated values with a header line; quoted fields may hold newlines."""
    yield from _read_table(path, name, text_field, bad, "\t")


def _document(record: Any, field: TextField, bad: BadRecords, line: int) -> SourceDocument | None:
    if not isinstance(record, dict):
        bad.add(f"the record is {kind_of(record)}, where an object is wanted", file=field.name, line=line)
        return None
    text = field.of(record, bad, line)
    return None if text is None else SourceDocument(id=f"{field.name}:{line}", text=text, source=field.name)


def _read_table(
    path: Path, name: str, text_field: str | None, bad: BadRecords, delimiter: str
) -> Iterator[SourceDocument]:
    csv.field_size_limit(_LARGEST_FIELD)
    undecodable: list[int] = []
    rows = csv.reader(_text_lines(path, name, bad, undecodable), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    field, start = TextField(text_field, name), 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            fix = "a quotation mark within a quoted field is written twice; an opened quotation is closed"
            bad.add(f"broken {path.suffix or 'CSV'} record: {error}", file=name, line=start, fix=fix)
            start = rows.line_num + 1
            continue
        line, start = start, rows.line_num + 1
        if undecodable and undecodable[-1] >= line:
            continue  # already reported; the row that holds the undecodable line is left out
        if header is None:
            header = _check_header(row, field, delimiter)
        elif len(row) == len(header):
            text = field.of(dict(zip(header, row, strict=True)), bad, line)
            if text is not None:
                yield SourceDocument(id=f"{name}:{line}", text=text, source=name)
        elif row:
            bad.add(f"the record has {len(row)} fields, where the header has {len(header)}", file=name, line=line)


def _check_header(header: list[str], field: TextField, delimiter: str) -> list[str]:
    """The header row, once it is sure that it is one and that it holds the text field."""
    for other, word in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if len(header) == 1 and other != delimiter and other in header[0]:
            raise CorpusError(
                f"the fields seem to be parted by {word}: the header is {header[0]!r}",
                where=f"{field.name}, line 1",
                fix="write .csv with commas and .tsv with tabs",
            )
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise CorpusError(f"the header names '{doubled[0]}' twice", where=f"{field.name}, line 1")
    field.settle(dict.fromkeys(header, True))
    return header


def _text_lines(path: Path, name: str, bad: BadRecords, undecodable: list[int]) -> Iterator[str]:
    """The lines of a file as text. A line that is not UTF-8 is reported, noted, and kept for its quotation marks."""
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None:
            undecodable.append(number)
            line = raw.decode("utf-8", errors="replace")
        yield line
