"""Locates and reads labelled examples in files and assets and on hubs; reads the inputs of `predict`.

`places` lists the splits of a source. Their examples are read only when `Place.read` is called.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from domain_ft.corpus.corpus import hash_files, hub_revision
from domain_ft.corpus.examples import Example, Input
from domain_ft.corpus.hub_splits import SPLIT_NAMES, flat, hub_splits
from domain_ft.corpus.inputs import RECORD_ENDINGS, STREAM, input_records, is_stream
from domain_ft.corpus.left_out import LeftOut, UnreadFile
from domain_ft.corpus.readers import ENDINGS, RECORDS, raw_records, reader
from domain_ft.corpus.readers.base import (
    BadRecords,
    Columns,
    RawRecord,
    looked_at,
    read_whole,
)
from domain_ft.corpus.readers.files import Listing, check_file, ending, walk, why_left_out
from domain_ft.corpus.readers.packing import PACKED
from domain_ft.corpus.recipes import Source
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.errors import CorpusError
from domain_ft.storage import user_path


@dataclass(frozen=True)
class Place:
    """The location of one split's examples.

    Attributes:
        name: for messages.
        content: plain values that identify the content: equal values mean equal examples.
        read: yields the examples, in a fixed order.
        unread: files and splits of the source that are not read.
    """

    name: str
    content: Any
    read: Callable[[ExampleFields, BadRecords], Iterator[Example]]
    unread: Sequence[UnreadFile] = ()


@dataclass(frozen=True)
class RowReader:
    """Converts the rows of a data set on the hub to records.

    Attributes:
        records: returns any number of records for a row. Its arguments are the row, the name of the data set, and the
            receiver of bad rows.
        content: plain values that identify the conversion: equal values mean equal records for equal rows.
    """

    records: Callable[[RawRecord, str, BadRecords], Iterable[RawRecord]]
    content: tuple[Any, ...] = ()


def flat_record(row: RawRecord, name: str, bad: BadRecords) -> Iterator[RawRecord]:
    """The row as one `flat` record: the default conversion of `hub_places`."""
    del name, bad
    yield row._replace(fields=flat(row.fields))


def single_label(field: str) -> RowReader:
    """A reader for rows with lists of one label in `field`: each such list is replaced by its item.

    Other lists are unchanged, and refused when the labels are read.
    """

    def records(row: RawRecord, name: str, bad: BadRecords) -> Iterator[RawRecord]:
        for record in flat_record(row, name, bad):
            labels = record.fields.get(field)
            one = {field: labels[0]} if isinstance(labels, list) and len(labels) == 1 else {}
            yield record._replace(fields={**record.fields, **one})

    return RowReader(records, ("single-label", field))


def places(spec: str) -> dict[str, Place]:
    """The splits of a file, a folder or `hf:ID[:config]`, by the names in `SPLITS`. A source without splits is `train`.

    Raises:
        CorpusError: the file, folder or data set does not exist, cannot be read as examples, or has no training split.
    """
    if spec.startswith("hf:"):
        identifier, _, config = spec.removeprefix("hf:").partition(":")
        return hub_places(identifier, config or None, None)
    path = user_path(spec)
    if path.is_dir():
        return _folder_places(path)
    check_file(path)
    if ending(path) not in RECORD_ENDINGS:
        kind = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
        sheet = "export the sheet as CSV (UTF-8); " if ending(path) in (".xlsx", ".xls", ".xlsm", ".ods") else ""
        raise CorpusError(
            f"labelled examples cannot be read from {kind}",
            where=spec,
            fix=f"{sheet}supported endings: {', '.join(RECORD_ENDINGS)}, each also with {', '.join(PACKED)}; "
            "or give a folder with a folder of texts for each class",
        )
    return {"train": file_place([(path, path.name)], ENDINGS[ending(path)])}


def file_place(files: Sequence[tuple[Path, str]], kind: str, content: Any = None) -> Place:
    """The examples in files of records.

    Args:
        files: (path, name in messages) of each file, in order.
        kind: the reader of their records, as in `readers.RECORDS`.
        content: identifies their content; by default their hashes.
    """

    def read(fields: ExampleFields, bad: BadRecords) -> Iterator[Example]:
        for path, name in files:
            if kind == "parquet":
                from domain_ft.corpus.readers.parquet import file_class_names  # imports pyarrow

                fields.classes = file_class_names(path)
            records = fields.plain(raw_records(path, name, kind, bad, fields.columns(name)), name, bad)
            for record in looked_at(records, functools.partial(fields.look, file=name), bad):
                example = fields.example(record, name, bad)
                if example is not None:
                    yield example

    return Place(files[0][1] if len(files) == 1 else files[0][0].parent.name, content or _hashes(files), read)


def hub_places(
    identifier: str, config: str | None, revision: str | None, reader: RowReader = RowReader(flat_record)
) -> dict[str, Place]:
    """The splits of a data set on a hub. `identifier` may be a local folder."""
    if not identifier:
        raise CorpusError("'hf:' names no data set", where="hf:", fix="write hf:ID or hf:ID:config")
    commit = hub_revision(Source(kind="hub", id=identifier, config=config, revision=revision))
    content: list[Any] = [identifier, config, commit]
    if commit is None:
        content.append(_hashes([(file, file.name) for file in sorted(Path(identifier).rglob("*")) if file.is_file()]))
    where = f"hf:{identifier}" + (f":{config}" if config else "")
    splits = hub_splits(identifier, config, commit, content)
    chosen = {split: next((name for name in names if name in splits), None) for split, names in SPLIT_NAMES.items()}
    if chosen["train"] is None:
        reason = f"the data set has no split 'train', only {', '.join(splits)}"
        raise CorpusError(reason, where=where, fix="name a data set that has one")

    def place(split: str) -> Place:
        def read(fields: ExampleFields, bad: BadRecords) -> Iterator[Example]:
            from domain_ft.corpus.readers.hub import class_names, open_splits  # imports datasets

            rows = open_splits(identifier, config, commit)[split]
            fields.classes = class_names(rows.features)
            numbered = (RawRecord(number, row) for number, row in enumerate(rows, 1))
            each = (reader.records(row, f"{where} {split}", bad) for row in numbered)
            records = fields.plain(itertools.chain.from_iterable(each), f"{where} {split}", bad)
            for record in looked_at(records, functools.partial(fields.look, file=f"{where} {split}"), bad):
                example = fields.example(record, f"{where} {split}", bad)
                if example is not None:
                    yield example

        return Place(f"{where} {split}", [*content, split, *reader.content], read)

    places = {split: place(name) for split, name in chosen.items() if name is not None}
    unread = tuple(
        UnreadFile(f"{where} {name}", "a split with an unusual name") for name in splits if name not in chosen.values()
    )
    return places | {"train": replace(places["train"], unread=unread)}


def _folder_places(path: Path) -> dict[str, Place]:
    """The splits of a folder that has a folder for each class, or a folder for each split with class folders in it."""
    inside = {folder.name.lower(): folder for folder in path.iterdir() if folder.is_dir()}
    folders = {
        split: next((inside[name] for name in names if name in inside), None) for split, names in SPLIT_NAMES.items()
    }
    if folders["train"] is not None and any(folder.is_dir() for folder in folders["train"].iterdir()):
        places = {split: _class_folders(folder, path) for split, folder in folders.items() if folder is not None}
        others = [part for part in sorted(path.iterdir()) if part not in folders.values()]
        unread = [UnreadFile(part.name, _why_unread(part)) for part in others]
        return places | {"train": replace(places["train"], unread=[*places["train"].unread, *unread])}
    return {"train": _class_folders(path, path)}


def _class_folders(folder: Path, root: Path) -> Place:
    """The examples in a folder with a folder for each class, whose name is the label. Each file is an example."""
    listing = walk(folder)
    prefix = folder.relative_to(root)
    files: list[tuple[Path, str, str]] = []
    unread = [UnreadFile((prefix / one.file).as_posix(), one.reason) for one in listing.unread]
    for file, inside in listing.files:
        name = (prefix / inside).as_posix()
        reason = why_left_out(file)
        if reason is None and ENDINGS[ending(file)] in RECORDS:
            reason = "a file of records, but each file must be one example"
        if reason is None and "/" not in inside:
            reason = "not in a folder of a class"
        if reason is None:
            files.append((file, name, inside.partition("/")[0]))
        else:
            unread.append(UnreadFile(name, reason))
    files.sort(key=lambda file: (file[2], file[0].as_posix()))
    if not files:
        raise CorpusError(
            "the folder has no folders of texts, one for each class",
            where=str(folder),
            fix=f"arrange it as CLASS/NAME.txt; or name one file with labels ({', '.join(RECORD_ENDINGS)})",
        )

    def read(fields: ExampleFields, bad: BadRecords) -> Iterator[Example]:
        for file, name, label in files:
            text = _whole_text(file, name, bad)
            record = RawRecord(None, {"text": text, "label": label}, name)
            example = None if text is None else fields.example(record, name, bad)
            if example is not None:
                yield example

    return Place(str(folder), _hashes([(file, name) for file, name, _ in files]), read, unread)


def _why_unread(part: Path) -> str:
    """Why a file or folder next to the folders of splits is not read."""
    if part.name.startswith("."):
        return "hidden"
    return "a folder that is not a split" if part.is_dir() else "not in a folder of a class"


def _whole_text(file: Path, name: str, bad: BadRecords) -> str | None:
    """The text of a file that is one example; None if it was rejected."""
    kind = ENDINGS[ending(file)]
    if kind == "text":
        return read_whole(file, name, bad)
    return next((document.text for document in reader(kind)(file, name, None, bad)), None)


def _hashes(files: Sequence[tuple[Path, str]]) -> list[list[str]]:
    return [[name, digest] for (_, name), digest in hash_files(Listing(tuple(files)))]


def iterate_inputs(
    spec: Path | BinaryIO,
    fields: FieldNames,
    id_field: str | None,
    bad: BadRecords,
    left_out: LeftOut | None = None,
    *,
    text_required: bool = False,
) -> Iterator[Input]:
    """The texts to predict, one at a time and in the order of the file. Labels are ignored.

    Args:
        spec: a file of records; a file with another ending, which has one text per line; or a stream, which is JSON
            lines if it begins with a brace, and otherwise has one text per line.
        fields: the names of the fields in training. If the file lacks the text field, another one is determined as in
            training.
        id_field: the field of ids. If None, ids are read from the field used in training, or from one with a usual
            name; if there is neither, an id is `file:line`.
        bad: receives each record that cannot be read.
        left_out: counts the fields that are not read.
        text_required: whether the text must be in the field that `fields` names.

    Raises:
        CorpusError: the file does not exist, or it is not clear which field is the text.
        RecordError: a record cannot be read, and the policy of `bad` is `stop`.
    """
    names = FieldNames(text=fields.text, pair=fields.pair, id=id_field or fields.id)
    required = [kind for kind, is_required in (("id", id_field is not None), ("text", text_required)) if is_required]
    maker = ExampleFields(names, labelled=False, required=required)
    header: list[str] = []

    def columns(file: str) -> Columns:
        choose = maker.columns(file)

        def note_header(names: Mapping[str, int]) -> list[str] | None:
            header[:] = names
            return choose(names)

        return note_header

    records: Iterator[RawRecord] = (record for record, _ in input_records(spec, bad, columns))
    name = spec.name if isinstance(spec, Path) else STREAM
    if isinstance(spec, Path) and not is_stream(spec):  # each line of a stream is predicted before the next is read
        records = looked_at(records, functools.partial(maker.look, file=name), bad)
    for record in records:
        example = maker.example(record, name, bad)
        if left_out is not None:
            absent = [field for field, value in record.fields.items() if value is None or value == ""]
            left_out.see_fields(header or record.fields, maker.read.union(absent))
        if isinstance(example, Input):
            yield example
