"""The records of a file or stream that the user names as input."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from domain_ft.corpus.readers import ENDINGS, RECORDS, raw_records
from domain_ft.corpus.readers.base import BOM, BadRecords, Columns, RawRecord, decode, read_lines
from domain_ft.corpus.readers.files import check_file, ending, why_unreadable
from domain_ft.errors import CorpusError

RECORD_ENDINGS = tuple(ending for ending, kind in ENDINGS.items() if kind in RECORDS)

STREAM = "standard input"


def input_records(
    spec: Path | BinaryIO, bad: BadRecords, columns: Callable[[str], Columns] | None = None
) -> Iterator[tuple[RawRecord, str]]:
    """The records of a file or stream, each with the name of the file for messages.

    Args:
        spec: a file, a named pipe, or a binary stream.
        bad: receives records that cannot be read.
        columns: gives, for the name of a file, the function that chooses among its fields.

    Raises:
        CorpusError: there is no such file, or it cannot be read.
    """
    if not isinstance(spec, Path):
        yield from _stream_records(spec, STREAM, bad)
        return
    if why_unreadable(spec) == "there is no such file":
        raise CorpusError("there is no such file", where=str(spec), fix="check the path; - is standard input")
    if not spec.is_dir() and is_stream(spec):
        with spec.open("rb") as stream:
            if ending(spec) in RECORD_ENDINGS:
                chosen = columns and columns(spec.name)
                rows = raw_records(stream, spec.name, ENDINGS[ending(spec)], bad, chosen)
                yield from ((record, spec.name) for record in rows)
            else:
                yield from _stream_records(stream, str(spec), bad)
        return
    check_file(spec)
    name = spec.name
    if ending(spec) in RECORD_ENDINGS:
        rows = raw_records(spec, name, ENDINGS[ending(spec)], bad, columns and columns(name))
    else:
        rows = _text_lines(spec, name, bad)
    yield from ((record, name) for record in rows)


def is_stream(path: Path) -> bool:
    """Whether a path can be read only once, such as a named pipe or /dev/stdin."""
    return path.is_fifo() or (not path.is_file() and path.exists()) or path.is_relative_to("/dev")


def _stream_records(stream: BinaryIO, name: str, bad: BadRecords) -> Iterator[tuple[RawRecord, str]]:
    """The records of JSON lines, if the first character is a brace; otherwise each line is a text."""
    if not isinstance(stream, io.BufferedReader) and isinstance(stream, io.RawIOBase):
        stream = io.BufferedReader(stream)
    begin = stream.peek(1) if isinstance(stream, io.BufferedReader) else b""
    first = begin.removeprefix(BOM).lstrip()[:1]
    lines = raw_records(stream, name, "jsonl", bad) if first == b"{" else _text_lines(stream, name, bad)
    yield from ((record, name) for record in lines)


def _text_lines(source: Path | BinaryIO, name: str, bad: BadRecords) -> Iterator[RawRecord]:
    """A record for each line of plain text, with the field `text`; blank lines are skipped."""
    for number, offset, raw in read_lines(source, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line and line.strip():
            yield RawRecord(number, {"text": line.rstrip("\r\n")})
