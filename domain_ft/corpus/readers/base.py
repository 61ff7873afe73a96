"""Shared by all readers: documents, the handling of bad records, the choice of the text field, and strict decoding."""

from __future__ import annotations

import array
import codecs
import contextlib
import csv
import io
import itertools
import math
import shlex
import statistics
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from domain_ft.corpus.documents import Document
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.choosing import LOOKED_AT, Holds, what_fields_hold
from domain_ft.corpus.readers.encoding_names import UTF8, is_wide, label
from domain_ft.corpus.readers.encodings import advice, beginning, candidates, is_iso2022
from domain_ft.corpus.readers.packing import BUFFER, DAMAGED, WideError, as_utf8, open_packed, packing
from domain_ft.errors import CorpusError, RecordError, nearest
from domain_ft.quoting import listed, shown

OnBadRecord = Literal["stop", "skip"]

LARGEST_WHOLE = 256_000_000  # the most bytes, unpacked, of a line or of a file that is read as a whole
BOM = codecs.BOM_UTF8
_OFFICE = {
    b"PK\x03\x04": "a ZIP archive, such as an Excel workbook (.xlsx) or a Word document (.docx)",
    b"\xd0\xcf\x11\xe0": "an old Office file (.xls, .doc) or an encrypted one",
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONGEST_NAME = 60  # the most characters of a plausible field name


@dataclass(frozen=True)
class SourceDocument(Document):
    """A document, with its language if the source states it."""

    language: str | None = None


@dataclass(frozen=True)
class Reject:
    """A record or file that was left out, and why: a line of rejects.jsonl."""

    file: str
    line: int | None
    field: str | None
    reason: str


class RawRecord(NamedTuple):
    """A record of a file, before a document or an example is made of it.

    Attributes:
        line: the number of its first line, from 1. In a JSON list, a Parquet file or a data set on a hub, it is the
            number of the record. None if the record is a whole file.
        fields: the values of its fields, by name.
        key: its id, if that is not in a field, such as the key in a JSON object of objects.
    """

    line: int | None
    fields: Mapping[str, Any]
    key: str | None = None


Columns = Callable[[Mapping[str, int]], "list[str] | None"]
"""Receives each field of a file with a header, and what it `Holds`. Returns the fields to read, or None for all."""


@dataclass
class Seen:
    """Facts about what was read, for the report of a run.

    Attributes:
        left_out: the fields and files that were not read.
        lengths: for each text field, or several joined by commas, the number of characters of each text.
        found: the fields that were chosen automatically.
    """

    left_out: LeftOut = field(default_factory=LeftOut)
    lengths: dict[str, array.array[int]] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)

    def text(self, chosen: TextField, record: Mapping[str, Any], text: str) -> None:
        """Note the length of a text, and the fields of its record that were not read."""
        name = join_names(chosen.names)
        if name not in self.lengths:
            self.lengths[name] = array.array("q")
        if chosen.guessed:
            self.found.add(name)
        self.lengths[name].append(len(text))
        self.left_out.see_fields(map(str, {**dict.fromkeys(chosen.known), **record}), chosen.names)

    def text_fields(self) -> list[dict[str, Any]]:
        """The fields that texts were read from, for result.json. The field with the most texts comes first."""
        return [
            {
                "field": name,
                "found": name in self.found,
                "records": len(lengths),
                "median_characters": int(statistics.median(lengths)),
            }
            for name, lengths in sorted(self.lengths.items(), key=lambda item: -len(item[1]))
        ]


class BadRecords:
    """The encoding in which records are read, and the policy for records that cannot be read.

    Args:
        policy: `stop` raises a RecordError; `skip` passes a Reject to `sink`.
        sink: receives a Reject for each record that is left out.
        encoding: the encoding of the files; None for UTF-8. A file that declares its encoding (HTML, XML, e-mail), or
            whose format defines it (Parquet, DOCX, PDF), is read accordingly.
        advice: how to leave bad records out, for the error's message; None if the verb cannot leave them out.

    Attributes:
        seen: facts about what was read.
        path: the file that is being read, for advice on its encoding; None for a stream.
        explains: whether the next Reject for undecodable bytes includes this advice; then it becomes False.
    """

    def __init__(
        self,
        policy: OnBadRecord,
        sink: Callable[[Reject], None],
        encoding: str | None = None,
        *,
        advice: str | None = "leave such records out: --on-bad-record skip",
    ) -> None:
        self.policy, self.sink, self.encoding, self.advice = policy, sink, encoding, advice
        self.seen = Seen()
        self.path: Path | None = None
        self.explains = False

    def add(
        self, reason: str, *, file: str, line: int | None = None, field: str | None = None, fix: str | None = None
    ) -> None:
        """Report an unreadable record. With the policy `skip`, the caller continues with the next record.

        Raises:
            RecordError: the policy is `stop`.
        """
        if self.policy == "skip":
            self.sink(Reject(file, line, field, reason))
            return
        where = file + (f", line {line}" if line is not None else "") + (f', field "{shown(field)}"' if field else "")
        advice = f"; or {self.advice}" if self.advice else ""
        raise RecordError(reason, where=where, fix=(fix or "fix it") + advice)

    def leave_out(self, reason: str, *, file: str, line: int | None = None, field: str | None = None) -> None:
        """Leave out a record because of a mark in it, such as its annotator's rejection, whatever the policy."""
        self.sink(Reject(file, line, field, reason))


def open_bytes(path: Path | BinaryIO, encoding: str | None = None) -> contextlib.AbstractContextManager[BinaryIO]:
    """Open a file for reading, and unpack it if its content is packed. A stream is not unpacked, and stays open.

    If `encoding` is UTF-7, UTF-16 or UTF-32, the bytes are converted to UTF-8.
    """
    if isinstance(path, Path):
        return cast("contextlib.AbstractContextManager[BinaryIO]", open_packed(path, encoding))
    if encoding is not None and is_wide(encoding):
        return contextlib.nullcontext(cast(BinaryIO, as_utf8(path, encoding)))
    return contextlib.nullcontext(path)


@contextlib.contextmanager
def reported(name: str, bad: BadRecords) -> Iterator[None]:
    """Report an error on opening or reading a file as one bad record."""
    try:
        yield
    except (*DAMAGED, zlib.error) as error:
        kind = (packing(bad.path) or ".gz").lstrip(".").replace("gz", "gzip") if bad.path else "packed"
        bad.add(f"the {kind} data is damaged or cut off ({error})", file=name, fix="fetch or pack the file again")
    except WideError as error:
        bad.add(str(error), file=name, fix="check --encoding")
    except OSError as error:
        bad.add(f"the file cannot be read: {error.strerror or error}", file=name)


def read_lines(path: Path | BinaryIO, name: str, bad: BadRecords) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a file as (number from 1, byte offset, bytes), without a byte order mark.

    If the lines at the beginning end with bare carriage returns, which some spreadsheets write, all line ends are
    replaced by newlines.
    """
    bad.path = path if isinstance(path, Path) else None
    with reported(name, bad), open_bytes(path, bad.encoding) as file:
        offset, number = 0, 0
        for number, line in enumerate(_lines(file), 1):
            content = line
            if number == 1:
                if is_foreign(line, name, bad):
                    return
                content = line.removeprefix(BOM)
            if len(line) > LARGEST_WHOLE:
                reason = f"the line has more than {LARGEST_WHOLE / 1e6:,.0f} MB; nothing after it is read"
                bad.add(reason, file=name, line=number, fix="check that this is text, with one record per line")
                return
            if content:
                yield number, offset + len(line) - len(content), content
            offset += len(line)
        if number == 0:
            report_empty(name, bad)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    begin = file.peek(BUFFER) if isinstance(file, io.BufferedReader) else b""
    if b"\r" not in begin or b"\n" in begin:
        yield from iter(lambda: file.readline(LARGEST_WHOLE + 1), b"")
        return
    rest = b""
    while block := file.read(BUFFER):
        *lines, rest = (rest + block).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def read_bytes(path: Path, name: str, bad: BadRecords, fix: str, encoding: str | None = None) -> bytes | None:
    """The bytes of a whole file, unpacked; None if it was rejected, for example because it is too large."""
    bad.path = path
    with reported(name, bad), open_bytes(path, encoding) as file:
        data = file.read(LARGEST_WHOLE + 1)
        if len(data) <= LARGEST_WHOLE:
            return data
        reason = f"the file has more than {LARGEST_WHOLE / 1e6:,.0f} MB, and a file of this kind is read as a whole"
        bad.add(reason, file=name, fix=fix)
    return None


def read_whole(path: Path, name: str, bad: BadRecords, fix: str = "split it into several files") -> str | None:
    """The text of a whole file; None if it was rejected. `fix` says what to do about a file that is too large."""
    data = read_bytes(path, name, bad, fix, bad.encoding)
    if data is None or is_foreign(data, name, bad):
        return None
    if not data:
        report_empty(name, bad)
        return None
    return decode(data.removeprefix(BOM), name, bad, offset=3 if data.startswith(BOM) else 0)


def report_empty(name: str, bad: BadRecords) -> None:
    """Report that a file is empty."""
    bad.add("the file is empty", file=name, fix="remove it, or add its text")


def is_foreign(data: bytes, name: str, bad: BadRecords) -> bool:
    """Whether a file that begins with `data` is binary, or text in UTF-16 or UTF-32; if so, it is reported."""
    office = next((what for mark, what in _OFFICE.items() if data.startswith(mark)), None)
    if office is not None:
        fix = "export its sheet as CSV (UTF-8), or its text as .txt"
        bad.add(f"this is {office}, not text", file=name, fix=fix)
        return True
    if data.startswith(_UTF16) or b"\0" in data:
        found = candidates(beginning(bad.path) or data)
        if not found:
            fix = "extract its text to a .txt file"
            bad.add("this is a binary file (it has a zero byte), not text", file=name, fix=fix)
            return True
        wide = label(found[0])
        fix = f"read it with --encoding {wide}, or convert it: iconv -f {wide} -t UTF-8 {name} > utf8-{Path(name).name}"
        bad.add(f"the file is {wide}, not UTF-8", file=name, fix=fix)
        return True
    return False


def text_encoding(bad: BadRecords) -> str:
    """The encoding of the bytes from `open_bytes`."""
    return UTF8 if bad.encoding is None or is_wide(bad.encoding) else bad.encoding


def decode(
    data: bytes, name: str, bad: BadRecords, *, offset: int = 0, line: int | None = None, lines_before: int = 0
) -> str | None:
    """Decode `data` strictly, as UTF-8 or in the encoding of `bad`.

    Args:
        offset: the byte offset of `data` in the file.
        line: the line of `data` in the file; None if `data` has several lines.
        lines_before: the number of lines before `data`, if `line` is None.

    Returns:
        the text; None if a byte cannot be decoded, or if the text is ISO-2022-JP instead of UTF-8. Both are reported.
    """
    encoding = text_encoding(bad)
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        what = f"byte 0x{data[start]:02X} at offset {offset + start} is not {label(encoding)}"
    else:
        if encoding != UTF8 or not is_iso2022(data):
            return text
        start, what = data.find(b"\x1b$"), "the text is in ISO-2022-JP (JIS), not UTF-8"
    if line is None:
        line = lines_before + data.count(b"\n", 0, start) + 1
    fix = advice(bad.path, data, name) if bad.policy == "stop" or bad.explains else None
    if bad.explains:
        what, bad.explains = f"{what}: {fix}", False
    bad.add(what, file=name, line=line, fix=fix)
    return None


class TextField:
    """The text field: the field or fields that the user named, or a field that is chosen from the first records.

    Args:
        text_field: the value of the option: a field, or several fields separated by commas, whose texts are joined by
            a blank line. If a field has the whole value as its name, that field is read. A name with a comma can be in
            double quotes.
        name: the name of the file, for messages.
        usual: the names to look for if the user named no field, the likeliest first.
        option: the option that names the field, for messages.

    Attributes:
        names: the text fields; empty if one has yet to be chosen.
        guessed: whether the field was chosen because the user named none.
        known: all fields of the file, if its records contain only the fields that are read.
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
        self._given = text_field
        self.guessed = False
        self.known: tuple[str, ...] = ()
        self.name, self.usual, self.option = name, usual, option

    def choose(self, fields: Mapping[str, int]) -> list[str]:
        """The text fields. One is chosen if the user named none. `fields`: every field, and what it `Holds`.

        Raises:
            CorpusError: no field has a usual name, and it is not clear which one holds the text.
        """
        if self._given is not None:
            if self._given in fields:
                self.names = (self._given,)
            self._given = None
        if self.names:
            return list(self.names)
        texts = [field for field, holds in fields.items() if holds not in (Holds.NOTHING, Holds.NAMES, Holds.INSIDE)]
        inside = [field for field, holds in fields.items() if holds is Holds.INSIDE]
        usual = usual_name(
            [field for field, holds in fields.items() if holds and holds is not Holds.INSIDE], self.usual
        )
        if usual is not None:
            self.names = (usual,)
        elif len(texts) == 1 and not inside:
            self.names = (texts[0],)
        else:
            raise self._unclear(fields, texts)
        self.guessed = True
        return list(self.names)

    def _unclear(self, fields: Mapping[str, int], texts: Sequence[str]) -> CorpusError:
        names = [field for field, holds in fields.items() if holds is Holds.NAMES]
        example = _argument([*texts, *names, "F"][:1])
        joined = within = ""
        if texts[1:] and _argument(texts[:2]) != "F":
            joined = f", or several, joined by a blank line: {self.option} {_argument(texts[:2])}"
        what = f"it is not clear which field holds the text; the fields are: {listed(fields)}"
        inside = [field for field, holds in fields.items() if holds is Holds.INSIDE]
        if inside:
            within = (
                f"most of the text is inside the objects or lists of {listed(inside)}, which are not read: write the "
                "text of each record into a separate field, such as text; or else "
            )
        if names and not texts:
            hold = "this seems to hold" if len(names) == 1 else "these seem to hold"
            what += (
                f" ({listed(names)}: {hold} identifiers, addresses, dates, numbers, names of persons, JSON "
                "or encoded data)"
            )
        header = "; if the file has no header, give it one as its first line" if any(map(_is_data, fields)) else ""
        return CorpusError(
            what,
            where=self.name,
            fix=f"{within}name it: {self.option} {example}{joined} "
            f"({self.option[2:].replace('-', '_')} in a TOML file){header}",
        )

    def look(self, records: Sequence[RawRecord]) -> None:
        """Choose the text field from the first records of a file."""
        self.choose(fields_of(records))

    def of(self, record: Mapping[str, Any], bad: BadRecords, line: int | None) -> str | None:
        """The record's text; None if a field is missing or not text, which is reported.

        The texts in a list are joined by newlines, the texts of several fields by blank lines.
        """
        if self._given is not None or not self.names:
            self.choose(what_fields_hold([record]))
        parts: list[str] = []
        for name in self.names:
            if name not in record:
                known = nearest(name, map(str, record)) if record else "the record has no fields"
                hint = f"name the right one with {self.option} ({known})"
                bad.add("the field is missing", file=self.name, line=line, field=name, fix=hint)
                return None
            value = record[name]
            if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
                value = "\n".join(value)
            if not isinstance(value, str):
                bad.add(f"the field holds {kind_of(value)}, not text", file=self.name, line=line, field=name)
                return None
            parts.append(value)
        return "\n\n".join(part for part in parts if part)


def looked_at(
    records: Iterable[RawRecord], look: Callable[[Sequence[RawRecord]], Any], bad: BadRecords
) -> Iterator[RawRecord]:
    """The records. Before the first is yielded, `look` is called once, with up to `LOOKED_AT` of them.

    Rejects between these records are reported in the order of the file.
    """
    records, report = iter(records), bad.sink
    first: list[RawRecord | Reject] = []
    stopped: RecordError | None = None
    bad.sink = first.append
    try:
        for record in itertools.islice(records, LOOKED_AT):
            first.append(record)  # noqa: PERF402 (rejects are appended in between)
    except RecordError as error:  # raised after the records before it are yielded: they may have an error too
        stopped = error
    finally:
        bad.sink = report
    seen = [one for one in first if isinstance(one, RawRecord)]
    if seen:
        look(seen)
    for one in first:
        if isinstance(one, Reject):
            report(one)
        else:
            yield one
    if stopped is not None:
        raise stopped
    yield from records


ID_NAMES = ("id", "_id", "uid", "uuid", "guid", "doc_id", "document_id", "record_id", "example_id", "sample_id", "idx")
"""The usual names of the field with a record's id, in lower case, the likeliest first."""


def usual_name(fields: Iterable[str], usual: Iterable[str]) -> str | None:
    """The field whose name comes first in `usual`, ignoring case and outer spaces; None if there is no such field.

    >>> usual_name(["Label", "Text"], ("text", "sentence"))
    'Text'
    """
    names = list(fields)
    there = {str(field).strip().casefold(): field for field in reversed(names)}
    return next((name if name in names else there[name] for name in usual if name in there), None)


def usual_id(fields: Iterable[str]) -> str | None:
    """The field whose name comes first in `ID_NAMES`, ignoring case; None if no field has one of these names.

    >>> usual_id(["text", "ID"])
    'ID'
    """
    by_name = {str(field).lower(): field for field in fields}
    return next((by_name[name] for name in ID_NAMES if name in by_name), None)


def as_id(value: Any) -> str | int | float | None:
    """The value, if it can be an id. None for null, an empty text, NaN, an infinite number, a list or an object."""
    if isinstance(value, str | int | float) and value != "" and value == value and value not in (math.inf, -math.inf):
        return value
    return None


def fields_of(records: Sequence[RawRecord]) -> dict[str, Holds]:
    """What the fields of some records hold."""
    return what_fields_hold(record.fields for record in records)


def field_names(given: str | None) -> tuple[str, ...]:
    """The names in the value of an option. Commas separate them, so a name with a comma must be in double quotes.

    >>> field_names('title, "findings, all"')
    ('title', 'findings, all')
    """
    if not given:
        return ()
    parts = next(csv.reader([given.replace("\n", " ")], skipinitialspace=True), [])
    names = (part if f'"{part}"' in given else part.strip() for part in parts)
    return tuple(name for name in names if name.strip())


def join_names(names: Iterable[str]) -> str:
    """The names as the value of an option; the inverse of `field_names`."""
    return ",".join(
        '"' + name.replace('"', '""') + '"' if "," in name or name != name.strip() else name for name in names
    )


def _argument(names: Sequence[str]) -> str:
    """Names of fields as the value of an option, quoted for a shell; F if a message would not show them in full."""
    joined = join_names(names)
    return shlex.quote(joined) if all(shown(name) == name for name in names) else "F"


def _is_data(field: str) -> bool:
    """Whether this is probably a sentence or a number, not the name of a field."""
    return len(field) > _LONGEST_NAME or len(field.split()) > 5 or field.replace(".", "", 1).isdigit()


def kind_of(value: Any) -> str:
    """The type of a JSON value, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
