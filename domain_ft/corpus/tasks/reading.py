"""Where labelled examples are: files, folders of class folders, hubs, assets; and the stream that `predict` reads.

`places` says what splits a source holds and how each is read; nothing is read before `Place.read` is called.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from domain_ft.corpus.corpus import content_key, hash_files, hub_revision
from domain_ft.corpus.readers import ENDINGS, raw_records
from domain_ft.corpus.readers.base import (
    BOM,
    BadRecords,
    Columns,
    RawRecord,
    decode,
    read_lines,
    read_whole,
)
from domain_ft.corpus.readers.files import Listing, ending
from domain_ft.corpus.recipes import Source
from domain_ft.corpus.tasks.examples import Example
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.errors import CorpusError
from domain_ft.storage import cache_folder, user_path, write_json

RECORD_ENDINGS = tuple(ending for ending, kind in ENDINGS.items() if kind != "text")
# What the splits are called, in folders and on hubs.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
STREAM = "standard input"


@dataclass(frozen=True)
class Place:
    """Where the examples of one split are.

    Attributes:
        name: what it is called in messages.
        content: plain values: equal content, equal examples.
        read: gives the examples, in an order that stays.
    """

    name: str
    content: Any
    read: Callable[[ExampleFields, BadRecords], Iterator[Example]]


@dataclass(frozen=True)
class RowReader:
    """How the rows of a data set on the hub become records.

    Attributes:
        records: gives the records of a row, which may be none or several; told what the data set is called, and of bad
            rows.
        content: plain values: equal content, equal records of equal rows.
    """

    records: Callable[[RawRecord, str, BadRecords], Iterable[RawRecord]]
    content: tuple[Any, ...] = ()


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose fields that hold fields are fields of their own: `context.contexts`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat.update(
            {f"{name}.{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def flat_record(row: RawRecord, name: str, bad: BadRecords) -> Iterator[RawRecord]:
    """The row as one `flat` record, which is how rows are read unless a recipe says otherwise."""
    del name, bad
    yield row._replace(fields=flat(row.fields))


def single_label(field: str) -> RowReader:
    """Rows whose label is a list of one: that one is the label, so that no more than one class may hold.

    A list of several is left as it is, and refused where the labels are read.
    """

    def records(row: RawRecord, name: str, bad: BadRecords) -> Iterator[RawRecord]:
        for record in flat_record(row, name, bad):
            labels = record.fields.get(field)
            one = {field: labels[0]} if isinstance(labels, list) and len(labels) == 1 else {}
            yield record._replace(fields={**record.fields, **one})

    return RowReader(records, ("single-label", field))


def places(spec: str) -> dict[str, Place]:
    """The splits of a file, a folder or `hf:ID[:config]`, by the names of `SPLITS`. What has no splits is `train`.

    Raises:
        CorpusError: there is no such file, folder or data set, or nothing in it that holds examples.
    """
    if spec.startswith("hf:"):
        identifier, _, config = spec.removeprefix("hf:").partition(":")
        return hub_places(identifier, config or None, None)
    path = user_path(spec)
    if path.is_dir():
        return _folder_places(path)
    if not path.exists():
        raise CorpusError("there is no such file or folder", where=spec, fix="check the path")
    if ending(path) not in RECORD_ENDINGS:
        given = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
        raise CorpusError(
            f"{given} holds no labelled examples that can be read",
            where=spec,
            fix=f"the endings that are read: {', '.join(RECORD_ENDINGS)}, each also with .gz; "
            "or a folder with a folder of texts for each class",
        )
    return {"train": file_place([(path, path.name)], ENDINGS[ending(path)])}


def file_place(files: Sequence[tuple[Path, str]], kind: str, content: Any = None) -> Place:
    """Files of records, each with the name that it has in messages.

    Args:
        files: read one after the other.
        kind: the reader of their records, as in `readers.RECORDS`.
        content: names what they hold; by default their hashes do.
    """

    def read(fields: ExampleFields, bad: BadRecords) -> Iterator[Example]:
        for path, name in files:
            for record in raw_records(path, name, kind, bad, fields.columns(name)):
                example = fields.example(record, name, bad)
                if example is not None:
                    yield example

    return Place(files[0][1] if len(files) == 1 else files[0][0].parent.name, content or _hashes(files), read)


def hub_places(
    identifier: str, config: str | None, revision: str | None, reader: RowReader = RowReader(flat_record)
) -> dict[str, Place]:
    """The splits of a data set of a hub, or of a folder on this machine that stands where an id does."""
    if not identifier:
        raise CorpusError("'hf:' names no data set", where="hf:", fix="write hf:ID or hf:ID:config")
    commit = hub_revision(Source(kind="hub", id=identifier, config=config, revision=revision))
    content: list[Any] = [identifier, config, commit]
    if commit is None:
        content.append(_hashes([(file, file.name) for file in sorted(Path(identifier).rglob("*")) if file.is_file()]))
    where = f"hf:{identifier}" + (f":{config}" if config else "")
    there = hub_splits(identifier, config, commit, content)
    found = {split: next((name for name in names if name in there), None) for split, names in SPLIT_NAMES.items()}
    if found["train"] is None:
        reason = f"the data set has no split 'train', only {', '.join(there)}"
        raise CorpusError(reason, where=where, fix="name a data set that has one")

    def place(split: str) -> Place:
        def read(fields: ExampleFields, bad: BadRecords) -> Iterator[Example]:
            from domain_ft.corpus.readers.hub import class_names, open_splits  # imports datasets

            rows = open_splits(identifier, config, commit)[split]
            fields.classes = class_names(rows.features)
            for number, row in enumerate(rows, 1):
                for record in reader.records(RawRecord(number, row), f"{where} {split}", bad):
                    example = fields.example(record, f"{where} {split}", bad)
                    if example is not None:
                        yield example

        return Place(f"{where} {split}", [*content, split, *reader.content], read)

    return {split: place(name) for split, name in found.items() if name is not None}


def hub_splits(identifier: str, config: str | None, commit: str | None, content: Any) -> list[str]:
    """What the splits of a data set are called; once asked, the hub need not be in reach again."""
    memory = cache_folder("tasks") / f"{content_key('splits', content)}.json"
    if not memory.is_file():
        from domain_ft.corpus.readers.hub import open_splits  # imports datasets

        write_json(memory, list(open_splits(identifier, config, commit)))
    names: list[str] = json.loads(memory.read_text(encoding="utf-8"))
    return names


def _folder_places(path: Path) -> dict[str, Place]:
    """The splits of a folder whose folders are classes, or splits with the folders of the classes in them."""
    inside = {folder.name.lower(): folder for folder in path.iterdir() if folder.is_dir()}
    found = {
        split: next((inside[name] for name in names if name in inside), None) for split, names in SPLIT_NAMES.items()
    }
    if found["train"] is not None and any(folder.is_dir() for folder in found["train"].iterdir()):
        return {split: _class_folders(folder, path) for split, folder in found.items() if folder is not None}
    return {"train": _class_folders(path, path)}


def _class_folders(folder: Path, root: Path) -> Place:
    """Texts in a folder for each class: a file is an example, and its folder's name is its label."""
    files = [
        (file, file.relative_to(root).as_posix(), part.name)
        for part in sorted(folder.iterdir(), key=lambda part: part.name)
        if part.is_dir() and not part.name.startswith(".")
        for file in sorted(part.rglob("*"), key=lambda file: file.as_posix())
        if file.is_file() and not file.name.startswith(".") and ENDINGS.get(ending(file)) == "text"
    ]
    if not files:
        raise CorpusError(
            "the folder holds no folders with texts in them, one for each class",
            where=str(folder),
            fix=f"lay it out as CLASS/NAME.txt; or name one file with the labels in it ({', '.join(RECORD_ENDINGS)})",
        )

    def read(fields: ExampleFields, bad: BadRecords) -> Iterator[Example]:
        for file, name, label in files:
            text = read_whole(file, name, bad)
            record = RawRecord(None, {"text": text, "label": label}, name)
            example = None if text is None else fields.example(record, name, bad)
            if example is not None:
                yield example

    return Place(str(folder), _hashes([(file, name) for file, name, _ in files]), read)


def _hashes(files: Sequence[tuple[Path, str]]) -> list[list[str]]:
    return [[name, digest] for (_, name), digest in hash_files(Listing(tuple(files), {}))]


def iterate_inputs(
    spec: Path | BinaryIO, fields: FieldNames, id_field: str | None, bad: BadRecords
) -> Iterator[Example]:
    """The texts to predict, one at a time, in the order of the file: memory stays flat. Labels are not looked at.

    Args:
        spec: a file of records or, with any other ending, of a text a line; or a binary stream of JSON lines or of a
            text a line, which its first character tells.
        fields: what text and pair were called when the model learned. Where the file has no such text field, it is
            found as in training.
        id_field: what names a record; else the field of the training if it is there, else `file:line`.
        bad: told of each record that cannot be read.

    Raises:
        CorpusError: no such file, or it is not clear which field is the text; RecordError where `bad` stops.
    """
    names = FieldNames(text=fields.text, pair=fields.pair, id=id_field or fields.id)
    maker = ExampleFields(names, labelled=False)
    for record, name in input_records(spec, bad, maker.columns):
        example = maker.example(record, name, bad)
        if example is not None:
            yield example


def input_records(
    spec: Path | BinaryIO, bad: BadRecords, columns: Callable[[str], Columns] | None = None
) -> Iterator[tuple[RawRecord, str]]:
    """The records of a file or stream, with what it is called in messages; `columns` of a name chooses the fields.

    Raises:
        CorpusError: there is no such file.
    """
    if not isinstance(spec, Path):
        stream = io.BufferedReader(spec) if isinstance(spec, io.RawIOBase) else spec
        begin = stream.peek(1) if isinstance(stream, io.BufferedReader) else b""
        first = begin.removeprefix(BOM).lstrip()[:1]
        lines = raw_records(stream, STREAM, "jsonl", bad) if first == b"{" else _text_lines(stream, STREAM, bad)
        yield from ((record, STREAM) for record in lines)
        return
    if not spec.is_file():
        raise CorpusError("there is no such file", where=str(spec), fix="check the path; - is standard input")
    name = spec.name
    if ending(spec) in RECORD_ENDINGS:
        rows = raw_records(spec, name, ENDINGS[ending(spec)], bad, columns and columns(name))
    else:
        rows = _text_lines(spec, name, bad)
    yield from ((record, name) for record in rows)


def _text_lines(source: Path | BinaryIO, name: str, bad: BadRecords) -> Iterator[RawRecord]:
    """A record for each line of plain text, with the field `text`; blank lines are passed over."""
    for number, offset, raw in read_lines(source, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line and line.strip():
            yield RawRecord(number, {"text": line.rstrip("\r\n")})
