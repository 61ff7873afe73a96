"""Reads records in JSON lines, JSON, CSV and TSV, and makes documents of records."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from domain_ft.corpus.annotation_tools import are_spans
from domain_ft.corpus.readers import base
from domain_ft.corpus.readers.base import (
    BadRecords,
    Columns,
    RawRecord,
    SourceDocument,
    TextField,
    decode,
    fields_of,
    kind_of,
    looked_at,
    read_lines,
    read_whole,
    report_empty,
    text_encoding,
)
from domain_ft.corpus.readers.choosing import LOOKED_AT, Holds
from domain_ft.corpus.readers.headers import DELIMITERS, check_header, check_is_table, check_shape
from domain_ft.errors import CorpusError
from domain_ft.json_files import MARKING, Doubled, RepeatedKeyError, find_doubled
from domain_ft.quoting import listed

_LARGEST_FIELD = 2**31 - 1  # the csv module's default, 131,072 characters, is too small for a book in one field
_SWALLOWED = 5  # a record of more lines may be several records joined by an unclosed quotation mark, so it is checked
_MOST_LINES = 10_000  # a record with more inner lines is not checked


def read_jsonl(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """JSON lines: each line is an object, which is a document."""
    field = TextField(text_field, name)
    yield from documents(looked_at(jsonl_records(path, name, bad), field.look, bad), field, bad)


def read_json(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """A JSON file: each object in a list, or in an object of objects, is a document."""
    field = TextField(text_field, name)
    yield from documents(looked_at(json_records(path, name, bad), field.look, bad), field, bad)


def read_csv(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """CSV with a header line: each row is a document. A quoted field may contain newlines."""
    field = TextField(text_field, name)
    yield from documents(csv_records(path, name, bad, field.choose), field, bad)


def read_tsv(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """Tab-separated values with a header line: each row is a document. A quoted field may contain newlines."""
    field = TextField(text_field, name)
    yield from documents(tsv_records(path, name, bad, field.choose), field, bad)


def documents(records: Iterable[RawRecord], field: TextField, bad: BadRecords) -> Iterator[SourceDocument]:
    """Records as documents. The id of a document is the record's key, or file and line if the record has no key."""
    for record in records:
        text = field.of(record.fields, bad, record.line)
        if text is not None:
            bad.seen.text(field, record.fields, text)
            yield SourceDocument(id=record.key or f"{field.name}:{record.line}", text=text, source=field.name)


# ---------------------------------------------------------------------------------------------------------------- JSON


def jsonl_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None = None
) -> Iterator[RawRecord]:
    """The objects of JSON lines. Blank lines are skipped. `columns` is not used, because there is no header.

    A file with a list of objects, or with objects over several lines, is read as a whole.
    """
    del columns
    for line, value in json_values(path, name, bad, _listed_objects):
        if is_object(value, name, bad, line):
            yield RawRecord(line, value)


def _listed_objects(value: Any) -> list[Any] | None:
    """The value, if it is a non-empty list of objects."""
    return value if isinstance(value, list) and value and all(isinstance(item, dict) for item in value) else None


def json_values(
    path: Path | BinaryIO,
    name: str,
    bad: BadRecords,
    records_in: Callable[[Any], list[Any] | None],
    fix: str | None = None,
) -> Iterator[tuple[int, Any]]:
    """The values in JSON lines, or in JSON over several lines.

    Args:
        records_in: returns the list of records that a value contains, or None if the value is itself a record.
        fix: what to do about a broken line.

    Returns:
        (line, value) for each value; for the records of a file's only list, (number in the list, value). A record that
        repeats a field is reported and left out.
    """
    return dropping_doubled(_marked_values(path, name, bad, records_in, fix), name, bad)


def _marked_values(
    path: Path | BinaryIO,
    name: str,
    bad: BadRecords,
    records_in: Callable[[Any], list[Any] | None],
    fix: str | None,
) -> Iterator[tuple[int, Any]]:
    """The values of `json_values`, including the records that repeat a field, which `MARKING` marks."""
    lines = read_lines(path, name, bad)
    count = blank = 0
    held: tuple[int, Any] | None = None  # an object with a list of records; itself a record if a line follows
    for number, offset, raw in lines:
        count += 1
        if b"\0" in raw:
            bad.add("the line has a zero byte", file=name, line=number)
            continue
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None:
            continue
        if not line.strip():
            blank += 1
            continue
        if held is not None:
            yield held
            held = None
        is_first = blank + 1 == count
        try:
            value = MARKING.decode(line)
        except json.JSONDecodeError as error:
            if is_first and _continues(line, error):
                text = _rest(line, lines, name, bad)
                yield from () if text is None else _values(text, name, bad, number, records_in)
                return
            bad.add(f"broken JSON: {_syntax(error)}", file=name, line=number, fix=fix)
            continue
        except ValueError as error:
            bad.add(f"broken JSON: {error}", file=name, line=number, fix=fix)
            continue
        listed = records_in(value) if is_first else None
        if listed is None:
            yield number, value
        elif isinstance(value, list):
            yield from enumerate(listed, 1)
        else:
            held = number, value
    if held is not None:
        _report_doubled_list(held[1], name, bad)
        yield from enumerate(records_in(held[1]) or [], 1)
    if count and blank == count:
        report_empty(name, bad)


def json_records(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """The objects in a JSON list or in an object of objects. The file is read as a whole, so a large one is refused.

    A file of JSON lines is read too.

    Raises:
        CorpusError: the file is one object, with the records in one of its fields.
    """
    del columns
    text = read_whole(path, name, bad, _as_lines("[", name))
    if text is None:
        return
    try:
        values = MARKING.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines
            found = _values(text, name, bad, 1, _listed_objects)
            for line, value in dropping_doubled(found, name, bad):
                if is_object(value, name, bad, line):
                    yield RawRecord(line, value)
            return
        bad.add(f"broken JSON: {_syntax(error)}", file=name, line=error.lineno)
        return
    except ValueError as error:
        bad.add(f"broken JSON: {error}", file=name)
        return
    lists = lists_of_records(values)
    if lists:
        raise wrapped(lists, name)
    if isinstance(values, dict) and values and all(isinstance(value, dict) for value in values.values()):
        if isinstance(values, Doubled):
            bad.add(f"two records have the id {values.key!r:.100}", file=name, field=values.key, fix=ONE_KEY)
        for number, (key, value) in enumerate(values.items(), 1):
            if not is_doubled(value, name, bad, number):
                yield RawRecord(number, value, key)
        return
    if not isinstance(values, list):
        bad.add(
            f"the file holds {kind_of(values)}, where a list of objects is expected",
            file=name,
            fix="write a list of objects, an object of objects by their ids, or JSON lines (.jsonl), one object a line",
        )
        return
    for number, value in dropping_doubled(enumerate(values, 1), name, bad):
        if is_object(value, name, bad, number):
            yield RawRecord(number, value)


_TEXTS = frozenset(
    {"text", "tokens", "words", "sentence", "question", "context", "content", "document", "body"}
    | {"messages", "conversations", "prompt"}
)
"""Names of fields by which an object is taken for a record."""


def lists_of_records(value: Any) -> list[str]:
    """The fields of a file's only object that hold its records: lists of objects, or objects of objects by their ids.

    Empty if the object is a record itself, or an object of records by their ids.
    """
    if not isinstance(value, dict) or not _TEXTS.isdisjoint(map(str, value)):
        return []
    found = []
    for name, part in value.items():
        records = list(part.values()) if isinstance(part, dict) else part
        if not (isinstance(records, list) and records and all(isinstance(record, dict) for record in records)):
            continue
        if not are_spans(records) and any(not _TEXTS.isdisjoint(map(str, record)) for record in records[:LOOKED_AT]):
            found.append(str(name))
    return found


def wrapped(lists: Sequence[str], name: str) -> CorpusError:
    """The error about a file whose records are in these fields of its only object."""
    first, given = json.dumps(lists[0], ensure_ascii=False), shlex.quote(name)
    program = shlex.quote(f".[{first}][]")
    several = ", each into a file of its own" if len(lists) > 1 else ""
    return CorpusError(
        f"the file is one object, and its records are in its field{'s' if len(lists) > 1 else ''} {listed(lists)}",
        where=name,
        fix=f"write them as JSON lines{several}: jq -c {program} {given} > {shlex.quote(f'{lists[0]}.jsonl')}",
    )


ONE_KEY = "keep one of the two, or give the other another name"
"""The fix for a record that repeats a field."""


def is_doubled(value: Any, name: str, bad: BadRecords, line: int) -> bool:
    """Whether a record read by `MARKING` repeats a field, so that a value is lost. If so, it is reported."""
    key = find_doubled(value)
    if key is None:
        return False
    bad.add(str(RepeatedKeyError(key)), file=name, line=line, field=key, fix=ONE_KEY)
    return True


def dropping_doubled(values: Iterable[tuple[int, Any]], name: str, bad: BadRecords) -> Iterator[tuple[int, Any]]:
    """The numbered records, except those that repeat a field, which are reported."""
    return ((number, value) for number, value in values if not is_doubled(value, name, bad, number))


def _report_doubled_list(value: Any, name: str, bad: BadRecords) -> None:
    """Report an object that lists the records of a file, if it repeats a field, so that a value is lost."""
    if isinstance(value, Doubled):
        bad.add(str(RepeatedKeyError(value.key)), file=name, field=value.key, fix=ONE_KEY)


def _as_lines(begin: str, name: str) -> str:
    """How to write a JSON file as JSON lines; `begin` is its first character."""
    program = "'.[]'" if begin == "[" else "."
    return f"write it as JSON lines (.jsonl): jq -c {program} {shlex.quote(name)}"


def is_object(value: Any, name: str, bad: BadRecords, line: int) -> bool:
    """Whether a JSON value is an object, as records must be; others are reported."""
    if isinstance(value, dict):
        return True
    bad.add(f"the record is {kind_of(value)}, where an object is expected", file=name, line=line)
    return False


def _continues(line: str, error: json.JSONDecodeError) -> bool:
    """Whether the JSON in the first line of a file continues in the next lines."""
    return line.lstrip()[0] in "[{" and error.pos >= len(line.rstrip())


def _syntax(error: json.JSONDecodeError) -> str:
    """What is wrong and in which column. Some of Python's messages already end in "at"."""
    return f"{error.msg.removesuffix(' at')} at column {error.colno}"


def _rest(begin: str, lines: Iterator[tuple[int, int, bytes]], name: str, bad: BadRecords) -> str | None:
    """`begin` and the lines after it as one text; None if it is too large or cannot be decoded."""
    parts = [begin]
    size = 0
    for number, offset, raw in lines:
        size += len(raw)
        if size > base.LARGEST_WHOLE:
            reason = (
                f"the file has more than {base.LARGEST_WHOLE / 1e6:,.0f} MB, and a file of this kind is read as a whole"
            )
            bad.add(reason, file=name, fix=_as_lines(begin.lstrip()[0], name))
            return None
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None:
            return None
        parts.append(line)
    return "".join(parts)


def _values(
    text: str, name: str, bad: BadRecords, first_line: int, records_in: Callable[[Any], list[Any] | None]
) -> Iterator[tuple[int, Any]]:
    """Consecutive JSON values over any number of lines, each with the line on which it begins.

    A list of records yields its elements: with their numbers in the list if it is the only value, otherwise with its
    line. After a broken value, reading resumes at the next line that begins with "{".
    """
    place, line, counted = 0, first_line, 0
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        if place >= len(text):
            return
        line += text.count("\n", counted, place)
        counted = begin = place
        try:
            value, place = MARKING.raw_decode(text, place)
        except ValueError as error:
            at = line
            reason = str(error)
            if isinstance(error, json.JSONDecodeError):
                at = line + text.count("\n", counted, error.pos)
                reason = _syntax(error)
            begun = "" if at == line else f" (the record begins on line {line})"
            bad.add(f"broken JSON: {reason}{begun}", file=name, line=at)
            place = text.find("\n{", place + 1) + 1
            if not place:
                return
            continue
        listed = records_in(value)
        is_only_value = place >= len(text.rstrip()) and not text[:begin].strip()
        if listed is None or not (is_only_value or isinstance(value, list)):
            yield line, value
        else:
            _report_doubled_list(value, name, bad)
            yield from enumerate(listed, 1) if is_only_value else ((line, item) for item in listed)


# --------------------------------------------------------------------------------------------------------- CSV and TSV


def csv_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None = None
) -> Iterator[RawRecord]:
    """The rows of comma-separated values with a header. A quoted field may contain newlines."""
    yield from _table_records(path, name, bad, columns, ",")


def tsv_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None = None
) -> Iterator[RawRecord]:
    """The rows of tab-separated values with a header. A quoted field may contain newlines."""
    yield from _table_records(path, name, bad, columns, "\t")


class _Line(NamedTuple):
    """A line of a table. `decoded` is false if some bytes are not valid in the encoding."""

    number: int
    text: str
    decoded: bool


class _Row(NamedTuple):
    """A record of a table, with its first line and its number of lines. A broken record has a `problem`."""

    line: int
    fields: list[str]
    lines: int
    decoded: bool = True
    problem: str | None = None


def _table_records(
    path: Path | BinaryIO, name: str, bad: BadRecords, columns: Columns | None, delimiter: str
) -> Iterator[RawRecord]:
    """The rows of a table.

    They are split at `delimiter`, unless the first line names another delimiter, as Excel writes it (`sep=;`), or only
    another delimiter splits the header and most of the first rows into as many fields.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    lines = _text_lines(path, name, bad)
    begin = list(itertools.islice(lines, 1))
    if begin and begin[0].text.strip().lower()[:4] == "sep=" and len(begin[0].text.strip()) <= 5:
        delimiter = begin[0].text.rstrip("\r\n")[4:5] or delimiter
        begin = []
    begin += itertools.islice(lines, LOOKED_AT)
    check_is_table(next((line.text for line in begin if line.text.strip()), ""), name)
    delimiter = _delimiter(begin, delimiter)
    spaces = _has_spaces_after(begin, delimiter)
    rows = _rows(itertools.chain(begin, lines), delimiter, spaces)
    header: list[str] | None = None
    for row in rows:
        if not row.decoded:
            continue  # the undecodable line is already reported
        if row.problem is not None:
            _add_problem(row, name, delimiter, bad)
        elif row.fields:
            header = row.fields
            break
    if header is None:
        return
    while len(header) > 1 and not header[-1].strip():  # spreadsheets write empty columns after the last one
        header.pop()
    counts = [len(_trimmed(row.fields, len(header))) for row in _rows(iter(begin), delimiter, spaces) if row.fields]
    check_shape(header, counts[1:-1] if len(begin) > LOOKED_AT else counts[1:], name)

    def look(first: Sequence[RawRecord]) -> None:
        check_header(header, [list(record.fields.values()) for record in first], name, delimiter)
        if columns:
            columns(fields_of(first) or dict.fromkeys(header, Holds.TEXT))

    records = looked_at(_valid_rows(rows, header, name, delimiter, bad), look, bad)
    first = next(records, None)
    if first is None:
        look([])  # a header without records is checked too
        if not any(counts[1:]):
            bad.add("the file has a header but no records", file=name, fix="remove it, or add its records")
        return
    yield first
    yield from records


def _valid_rows(
    rows: Iterator[_Row], header: Sequence[str], name: str, delimiter: str, bad: BadRecords
) -> Iterator[RawRecord]:
    """The rows that have as many fields as the header, as records. All other rows but blank ones are reported."""
    for row in rows:
        if not row.decoded:
            continue
        if row.problem is not None:
            _add_problem(row, name, delimiter, bad)
            continue
        fields = _trimmed(row.fields, len(header))
        if len(header) > 1 and not any(map(str.strip, fields)):
            continue  # spreadsheets write a blank row as delimiters only
        if fields == header and len(header) > 1:
            reason = "the record repeats the header, as in concatenated files"
            bad.add(reason, file=name, line=row.line, fix="remove the line")
        elif len(fields) == len(header):
            yield RawRecord(row.line, dict(zip(header, fields, strict=True)))
        elif fields:
            reason = f"the record has {len(fields)} fields, where the header has {len(header)}"
            fix = "put each field that contains the delimiter in double quotes, and write empty fields too"
            bad.add(reason, file=name, line=row.line, fix=fix)


def _add_problem(row: _Row, name: str, delimiter: str, bad: BadRecords) -> None:
    kind = "TSV" if delimiter == "\t" else "CSV"
    extent = f" (its quoted field runs over {row.lines:,} lines; all but the first are read again as records)"
    fix = 'end each quoted field with ", and write a " inside it twice'
    bad.add(f"broken {kind} record: {row.problem}{extent if row.lines > 1 else ''}", file=name, line=row.line, fix=fix)


def _trimmed(fields: Sequence[str], columns: int) -> list[str]:
    """The fields without the empty ones that spreadsheets write after the last of the `columns`."""
    count = len(fields)
    while count > columns and not fields[count - 1].strip():
        count -= 1
    return list(fields[:count])


def _rows(source: Iterator[_Line], delimiter: str, spaces: bool = False) -> Iterator[_Row]:
    """The records of a table. If a quoted field is not closed, only its first line is lost: the rest is read again.

    `spaces`: whether to skip spaces after each delimiter.
    """
    again: deque[_Line] = deque()
    used: list[_Line] = []

    def feed() -> Iterator[str]:
        while True:
            line = again.popleft() if again else next(source, None)
            if line is None:
                return
            used.append(line)
            yield line.text

    columns = 0
    reader = csv.reader(feed(), delimiter=delimiter, strict=True, skipinitialspace=spaces)
    while True:
        used.clear()
        problem = None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], str(error)
        first, decoded, count = used[0].number, all(line.decoded for line in used), len(used)
        columns = columns or len(fields)
        if problem is None and count > _SWALLOWED and _swallows(used, fields, columns, delimiter):
            problem = "a quoted field is not closed on its line, and the lines below it seem to be other records"
        if problem is not None:
            again.extendleft(reversed(used[1:]))
            reader = csv.reader(feed(), delimiter=delimiter, strict=True, skipinitialspace=spaces)
            decoded = used[0].decoded
        yield _Row(first, fields, count, decoded, problem)


def _swallows(lines: Sequence[_Line], fields: Sequence[str], columns: int, delimiter: str) -> bool:
    """Whether a record of many lines is probably several records, joined by an unclosed quotation mark."""
    inner = lines[1:-1]
    if columns < 2 or len(inner) > _MOST_LINES:
        return False
    if len(fields) != columns:
        return True
    return all(len(_split(line.text, delimiter)) == columns for line in inner)


def _split(line: str, delimiter: str) -> list[str]:
    """The fields of a single line; empty if it is not a valid record."""
    with contextlib.suppress(csv.Error, StopIteration):
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    return []


def _has_spaces_after(lines: Sequence[_Line], delimiter: str) -> bool:
    """Whether a space follows each delimiter of the header, as in `text, label`.

    Such a space may come before the quotation mark of a quoted field, so it has to be skipped.
    """
    header = _split(next((line.text for line in lines if line.text.strip()), ""), delimiter)
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])


def _delimiter(lines: Sequence[_Line], delimiter: str) -> str:
    """`delimiter`, unless only another one splits the header and most of the first rows into as many fields."""
    header = next((line.text for line in lines if line.text.strip()), "")
    if len(_split(header, delimiter)) > 1:
        return delimiter
    texts = [line.text for line in lines]
    for other in DELIMITERS:
        columns = len(_split(header, other))
        if other != delimiter and columns > 1:
            rows = list(itertools.islice((row.fields for row in _rows(iter(lines), other) if row.fields), len(texts)))
            if len(rows) > 1 and sum(len(row) == columns for row in rows) >= 0.9 * len(rows):
                return other
    return delimiter


def _text_lines(path: Path | BinaryIO, name: str, bad: BadRecords) -> Iterator[_Line]:
    """The lines of a file as text. A line that cannot be decoded is reported but kept: it may open a quoted field."""
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        yield _Line(number, raw.decode(text_encoding(bad), "replace") if line is None else line, line is not None)
