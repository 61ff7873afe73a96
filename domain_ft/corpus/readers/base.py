"""What every reader shares: the documents it yields, what becomes of bad records, and bytes read strictly as UTF-8."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from domain_ft.corpus.documents import Document
from domain_ft.errors import CorpusError, RecordError, nearest

OnBadRecord = Literal["stop", "skip"]

LARGEST_WHOLE = 256_000_000  # bytes, unpacked, of a file that has to be read whole
BOM = codecs.BOM_UTF8
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class SourceDocument(Document):
    """A document as its reader found it, with the language where the source says it."""

    language: str | None = None


@dataclass(frozen=True)
class Reject:
    """A record that was left out, and why: a line of rejects.jsonl."""

    file: str
    line: int | None
    field: str | None
    reason: str


class RawRecord(NamedTuple):
    """A record as its file has it: what documents, examples and whatever else has fields are made of.

    Attributes:
        line: where it begins, counted from 1; in a JSON list or a Parquet file its number; None where it is the file.
        fields: by name.
        key: its name, where it has one without being asked for a field: a JSON object of objects gives one to each.
    """

    line: int | None
    fields: Mapping[str, Any]
    key: str | None = None


Columns = Callable[[Mapping[str, bool]], "list[str] | None"]
"""Told every field of a file with a header, and whether it holds text; gives those that are wanted, or None for all."""


class BadRecords:
    """What becomes of a record that cannot be read: `stop` raises a RecordError, `skip` hands a Reject to `sink`.

    Args:
        policy: stop or skip.
        sink: told of each record that is left out.
        advice: how the verb leaves such records out, for the message; None where it cannot.
    """

    def __init__(
        self,
        policy: OnBadRecord,
        sink: Callable[[Reject], None],
        *,
        advice: str | None = "leave such records out: --on-bad-record skip",
    ) -> None:
        self.policy, self.sink, self.advice = policy, sink, advice

    def add(
        self, reason: str, *, file: str, line: int | None = None, field: str | None = None, fix: str | None = None
    ) -> None:
        """Report a record. With the policy `skip` the caller goes on with the next one."""
        if self.policy == "skip":
            self.sink(Reject(file, line, field, reason))
            return
        where = file + (f", line {line}" if line is not None else "") + (f', field "{field}"' if field else "")
        mend = (fix or "fix it") + (f"; or {self.advice}" if self.advice else "")
        raise RecordError(reason, where=where, fix=mend)


def open_bytes(path: Path | BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    """Open a file for reading, unpacked where it ends in .gz. A stream is handed back, and stays open."""
    if not isinstance(path, Path):
        return contextlib.nullcontext(path)
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


@contextlib.contextmanager
def reported(name: str, bad: BadRecords) -> Iterator[None]:
    """What goes wrong with a file while it is opened and read counts as one bad record."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        bad.add(f"the gzip data is damaged or cut off ({error})", file=name, fix="fetch or pack the file again")
    except OSError as error:
        bad.add(f"the file cannot be read: {error.strerror or error}", file=name)


def read_lines(path: Path | BinaryIO, name: str, bad: BadRecords) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a file as (number from 1, byte offset, bytes), its byte order mark left out."""
    with reported(name, bad), open_bytes(path) as file:
        offset, number = 0, 0
        for number, line in enumerate(file, 1):
            content = line
            if number == 1:
                if is_foreign(line, name, bad):
                    return
                content = line.removeprefix(BOM)
            if content:
                yield number, offset + len(line) - len(content), content
            offset += len(line)
        if number == 0:
            report_empty(name, bad)


def read_bytes(path: Path, name: str, bad: BadRecords, fix: str) -> bytes | None:
    """The bytes of a file that has to be read whole; None where it was rejected, such as for its size."""
    with reported(name, bad), open_bytes(path) as file:
        data = file.read(LARGEST_WHOLE + 1)
        if len(data) <= LARGEST_WHOLE:
            return data
        reason = f"the file holds more than {LARGEST_WHOLE / 1e6:,.0f} MB, and a file of this kind is read whole"
        bad.add(reason, file=name, fix=fix)
    return None


def read_whole(path: Path, name: str, bad: BadRecords, fix: str = "cut it in several files") -> str | None:
    """The text of a whole file; None where it was rejected. `fix`: what to do with one that is too large."""
    data = read_bytes(path, name, bad, fix)
    if data is None or is_foreign(data, name, bad):
        return None
    if not data:
        report_empty(name, bad)
        return None
    return decode(data.removeprefix(BOM), name, bad, offset=3 if data.startswith(BOM) else 0)


def report_empty(name: str, bad: BadRecords) -> None:
    """Say that a file holds nothing."""
    bad.add("the file is empty", file=name, fix="remove it or put its text in")


def is_foreign(data: bytes, name: str, bad: BadRecords) -> bool:
    """Whether a file that begins with `data` is no UTF-8 text at all; if so, it is reported."""
    if data.startswith(_UTF16):
        fix = f"convert it: iconv -f UTF-16 -t UTF-8 {name} > utf8-{Path(name).name}"
        bad.add("the file is UTF-16, and UTF-8 is wanted", file=name, fix=fix)
        return True
    if b"\0" in data:
        bad.add("this is a binary file (it holds a zero byte), not text", file=name, fix="give the text in it as .txt")
        return True
    return False


def decode(
    data: bytes, name: str, bad: BadRecords, *, offset: int = 0, line: int | None = None, lines_before: int = 0
) -> str | None:
    """`data` as strict UTF-8; None where a byte is not, which is reported with its line and its offset in the file."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if line is None:
            line = lines_before + data.count(b"\n", 0, error.start) + 1
        bad.add(
            f"byte 0x{data[error.start]:02X} at offset {offset + error.start} is not UTF-8",
            file=name,
            line=line,
            fix=f"convert the file, if it is in a Western encoding with: iconv -f WINDOWS-1252 -t UTF-8 {name}",
        )
        return None


class TextField:
    """Which field of a record is the text: the one named, or found by the first record and then kept.

    Args:
        text_field: the name; several, separated by commas, are joined by a blank line.
        name: of the file, for messages.
        usual: the names that are taken where none is given, the likeliest first.
        option: the option that names the field.
    """

    def __init__(
        self,
        text_field: str | None,
        name: str,
        *,
        usual: Sequence[str] = ("text",),
        option: str = "--text-field",
    ) -> None:
        self.names = field_names(text_field)
        self.name, self.usual, self.option = name, usual, option

    def settle(self, fields: Mapping[str, bool]) -> list[str]:
        """The fields of the text, chosen where none was named. `fields`: every field, and whether it holds text.

        Raises:
            CorpusError: none has a usual name and not exactly one holds text.
        """
        if self.names:
            return list(self.names)
        texts = [field for field, is_text in fields.items() if is_text]
        usual = [field for field in self.usual if fields.get(field)]
        if usual:
            self.names = (usual[0],)
        elif len(texts) == 1:
            self.names = (texts[0],)
        else:
            listed = ", ".join(fields) or "none"
            example = texts[0] if texts else "F"
            joined = f", or several, joined by a blank line: {self.option} {','.join(texts[:2])}" if texts[1:] else ""
            raise CorpusError(
                f"it is not clear which field holds the text; the fields are: {listed}",
                where=self.name,
                fix=f"name it: {self.option} {example}{joined} ({self.option[2:].replace('-', '_')} in a TOML)",
            )
        return list(self.names)

    def of(self, record: Mapping[str, Any], bad: BadRecords, line: int | None) -> str | None:
        """The record's text; None where a field is missing or no text, which is reported.

        A list of texts is one text, its parts on lines of their own.
        """
        self.settle({field: isinstance(value, str) for field, value in record.items()})
        parts: list[str] = []
        for field in self.names:
            if field not in record:
                known = nearest(field, map(str, record)) if record else "the record has no fields"
                hint = f"name the right one with {self.option} ({known})"
                bad.add("the field is missing", file=self.name, line=line, field=field, fix=hint)
                return None
            value = record[field]
            if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
                value = "\n".join(value)
            if not isinstance(value, str):
                bad.add(f"the field holds {kind_of(value)}, not text", file=self.name, line=line, field=field)
                return None
            parts.append(value)
        return "\n\n".join(part for part in parts if part)


ID_NAMES = ("id", "_id", "uid", "uuid", "guid", "doc_id", "document_id", "record_id", "example_id", "sample_id", "idx")
"""What the field that names a record is usually called, in any case; the likeliest first."""


def usual_id(fields: Iterable[str]) -> str | None:
    """The field that has a usual name of ids, None where there is none.

    >>> usual_id(["text", "ID"])
    'ID'
    """
    by_name = {str(field).lower(): field for field in fields}
    return next((by_name[name] for name in ID_NAMES if name in by_name), None)


def as_id(value: Any) -> str | int | float | None:
    """A value as an id, unchanged; None where it names nothing: null, an empty text, NaN, a list or an object."""
    if isinstance(value, str | int | float) and value != "" and value == value and value not in (math.inf, -math.inf):
        return value
    return None


def field_names(given: str | None) -> tuple[str, ...]:
    """The names in an option that may give several, separated by commas.

    >>> field_names("title, body")
    ('title', 'body')
    """
    return tuple(part.strip() for part in given.split(",") if part.strip()) if given else ()


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
