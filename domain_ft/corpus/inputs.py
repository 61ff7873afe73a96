"""The records of a file or stream that the user names as input."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from domain_ft.corpus.readers import ENDINGS, RECORDS, raw_records
from domain_ft.corpus.readers.base import BadRecords, Columns, RawRecord, decode, read_lines
from domain_ft.corpus.readers.encoding_names import UTF8
from domain_ft.corpus.readers.files import check_file, ending
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
        columns: called with a file's name, returns the function that chooses which of the file's fields to read.

    Raises:
        CorpusError: there is no such file, or it cannot be read.
    """
    if not isinstance(spec, Path):
        yield from _stream_records(spec, STREAM, bad)
        return
    if is_stream(spec):
        with _opened(spec) as stream:
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
    """Whether a path's data can be read only once: a named pipe, a character device, /dev/stdin or /dev/fd/N."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        return False
    is_descriptor = path == Path("/dev/stdin") or path.is_relative_to("/dev/fd")
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or is_descriptor


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise CorpusError(
            f"this cannot be read: {error.strerror or error}",
            where=str(path),
            fix="give yourself the right to read it" if denied else "write the data to a file, and name that file",
        ) from error


def _stream_records(stream: BinaryIO, name: str, bad: BadRecords) -> Iterator[tuple[RawRecord, str]]:
    """Records of JSON lines if the first non-blank character is `{`; otherwise one text per line.

    Only the bytes that arrive first are looked at: if all of them are blank, the lines are texts.
    """
    if not isinstance(stream, io.BufferedReader):
        buffered = io.BufferedReader(cast(io.RawIOBase, stream))
        try:
            yield from _stream_records(buffered, name, bad)
        finally:
            buffered.detach()  # otherwise the buffer would close the caller's stream
        return
    try:
        begin = stream.peek(1)
    except OSError:  # reported when the lines are read
        begin = b""
    first = begin.decode(bad.encoding or UTF8, "replace").lstrip("\ufeff").lstrip()[:1]
    lines = raw_records(stream, name, "jsonl", bad) if first == "{" else _text_lines(stream, name, bad)
    yield from ((record, name) for record in lines)


def _text_lines(source: Path | BinaryIO, name: str, bad: BadRecords) -> Iterator[RawRecord]:
    """A record for each line of plain text, with the field `text`; blank lines are skipped."""
    for number, offset, raw in read_lines(source, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line and line.strip():
            yield RawRecord(number, {"text": line.rstrip("\r\n")})
