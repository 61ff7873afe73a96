"""Examples in an Arrow file in the cache. It is memory-mapped, so that the texts are never all in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from domain_ft.corpus.corpus import content_key
from domain_ft.corpus.disk import disk_errors
from domain_ft.corpus.examples import Example
from domain_ft.corpus.near_copies import Integers
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, Reject
from domain_ft.corpus.readers.encoding_names import canonical
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, creation_lock, new_folder, write_json

# Increase this with every change to reading or cleaning, so that older cached files are not used.
VERSION = 6

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("labels", pa.list_(pa.string())),
        ("pair", pa.large_string()),
        ("group", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
    ]
)
_BATCH = 1_000_000  # characters of a batch in the file
_BLOCK = 256  # examples read at a time if a table has only some of the rows of its file


@dataclass(frozen=True)
class TableFacts:
    """Facts of a table that are stored with it.

    Attributes:
        fields: the names of the fields.
        multi_label: whether the task is multi-label.
        kinds: as `ExampleFields.kinds`.
        counts: examples by label, in the order of first occurrence.
        examples: the number of examples.
        rejects: the number of records that were left out.
        characters: the number of characters in all texts.
        unread_fields: by field that is not read, the number of records with it.
        notes: remarks for the user on how labels are written, and on text that is not read.
    """

    fields: FieldNames
    multi_label: bool
    kinds: dict[str, int]
    counts: dict[str, int]
    examples: int
    rejects: int
    characters: int
    unread_fields: dict[str, int]
    notes: list[str]


@dataclass(frozen=True)
class ExampleTable:
    """All or some of the examples in an Arrow file. Satisfies `Examples`.

    Attributes:
        folder: in the cache, with the file and its facts.
        rows: (examples,) rows of the file; None for all.
        origins: (rows of the file,) for each row, the row whose id is its group; None for the groups in the file.
    """

    folder: Path
    rows: Integers | None = None
    origins: Integers | None = None

    @property
    def key(self) -> str:
        """A hash of the content: equal keys mean equal examples in equal order."""
        digests = [
            None if part is None else hashlib.sha256(part.tobytes()).hexdigest() for part in (self.rows, self.origins)
        ]
        return content_key(self.folder.name, *digests)

    @cached_property
    def facts(self) -> TableFacts:
        """The facts of the whole file."""
        values = json.loads((self.folder / "table.json").read_text(encoding="utf-8"))
        return TableFacts(**{**values, "fields": FieldNames(**values["fields"])})

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        with pa.memory_map(str(self.folder / "examples.arrow")) as source:
            reader = pa.ipc.open_file(source)
            return [reader.get_batch(number) for number in range(reader.num_record_batches)]

    @cached_property
    def _starts(self) -> Integers:
        """(batches,) the first row of each batch."""
        return np.cumsum([0, *(batch.num_rows for batch in self._batches[:-1])])

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process, which maps the file again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __len__(self) -> int:
        return self.facts.examples if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        (example,) = self.take([index])
        return example

    def __iter__(self) -> Iterator[Example]:
        for rows, values in self._values(_SCHEMA.names):
            groups: list[str | None] = [None] * len(rows)
            if self.origins is not None:
                groups = [row["id"] for row in self._rows(self.origins[rows], ["id"])]
            for group, row in zip(groups, values, strict=True):
                row["group"] = group or row["group"] or row["id"]
                yield Example(**{**row, "labels": tuple(row["labels"])})

    def take(self, indices: npt.ArrayLike) -> ExampleTable:
        """The examples with these indices, in that order. Indices may repeat."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"examples {wanted.min()} to {wanted.max()} of {len(self)}")
        return dataclasses.replace(self, rows=np.arange(len(self))[wanted] if self.rows is None else self.rows[wanted])

    def grouped(self, origins: Integers) -> ExampleTable:
        """The same examples with new groups: the group of a row of the file is the id of row `origins[row]`."""
        return dataclasses.replace(self, origins=origins)

    def labels(self) -> Iterator[tuple[str, ...]]:
        """The labels of each example, without reading texts."""
        yield from (tuple(row["labels"]) for _, values in self._values(["labels"]) for row in values)

    def ids(self) -> Iterator[str]:
        """The id of each example."""
        yield from (row["id"] for _, values in self._values(["id"]) for row in values)

    def groups(self) -> Iterator[str]:
        """The group of each example in the file, ignoring `origins`; empty if it has none."""
        yield from (row["group"] for _, values in self._values(["group"]) for row in values)

    def _values(self, columns: list[str]) -> Iterator[tuple[Integers, list[dict[str, Any]]]]:
        """Some columns of all examples, a block of rows at a time."""
        if self.rows is None:
            for start, batch in zip(self._starts.tolist(), self._batches, strict=True):
                yield np.arange(start, start + batch.num_rows), batch.select(columns).to_pylist()
            return
        for start in range(0, len(self.rows), _BLOCK):
            block = self.rows[start : start + _BLOCK]
            yield block, self._rows(block, columns)

    def _rows(self, rows: Integers, columns: list[str]) -> list[dict[str, Any]]:
        """Some columns of the rows, in their order. Each batch of the file is read once."""
        picked: list[dict[str, Any]] = [{}] * len(rows)
        batch_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(batch_of):
            places = np.flatnonzero(batch_of == number)
            inside = self._batches[number].select(columns).take(pa.array(rows[places] - self._starts[number]))
            for place, values in zip(places.tolist(), inside.to_pylist(), strict=True):
                picked[place] = values
        return picked


def tabulate(
    content: Any,
    read: Callable[[ExampleFields, BadRecords], Iterable[Example]],
    fields: ExampleFields,
    *,
    on_bad_record: OnBadRecord,
    encoding: str | None = None,
    rejects: Callable[[Reject], None] | None = None,
    progress: Progress | None = None,
    label: str = "reading examples",
) -> ExampleTable:
    """Make a table of the examples that `read` yields, or find it in the cache.

    Args:
        content: plain values that identify the content: equal values mean equal examples.
        read: yields the examples, in a fixed order.
        fields: converts records to examples.
        on_bad_record: stop at a record that cannot be read, or leave it out.
        encoding: of the files; None for UTF-8.
        rejects: receives each record that is left out, even if the table comes from the cache.
        progress: called with (label, examples, None).

    Raises:
        RecordError: a record cannot be read, and the policy is `stop`.
        CorpusError: labels would be learned wrongly, a field is missing, or the disk is full.
    """
    rules = dataclasses.asdict(fields.rules)
    options = (dataclasses.asdict(fields.names), fields.multi_label, rules, sorted(fields.known))
    encoding = encoding and canonical(encoding)
    key = content_key("examples", VERSION, content, options, on_bad_record, encoding)
    folder = cache_folder("tasks") / key
    if not (folder / "table.json").is_file():
        waiting = _Waiting(progress)
        with disk_errors("the examples", folder.parent), creation_lock(folder, waiting.tell):
            if not (folder / "table.json").is_file():
                with new_folder(folder) as fresh:
                    _write(fresh, read, fields, on_bad_record, encoding, progress, label)
    if rejects:
        with (folder / "rejects.jsonl").open(encoding="utf-8") as file:
            for line in file:
                rejects(Reject(**json.loads(line)))
    return ExampleTable(folder)


@dataclass(frozen=True)
class _Waiting:
    progress: Progress | None

    def tell(self) -> None:
        if self.progress:
            self.progress("waiting for another run that reads the same examples", 0, None)


def _write(
    folder: Path,
    read: Callable[[ExampleFields, BadRecords], Iterable[Example]],
    fields: ExampleFields,
    on_bad_record: OnBadRecord,
    encoding: str | None,
    progress: Progress | None,
    label: str,
) -> None:
    counts: Counter[str] = Counter()
    examples = rejected = characters = 0
    notes = _survey(read, fields, encoding)
    with (folder / "rejects.jsonl").open("w", encoding="utf-8") as rejects:

        def leave_out(reject: Reject) -> None:
            nonlocal rejected
            rejected += 1
            rejects.write(json.dumps(dataclasses.asdict(reject)) + "\n")

        with pa.ipc.new_file(str(folder / "examples.arrow"), _SCHEMA) as writer:
            for batch in _batched(read(fields, BadRecords(on_bad_record, leave_out, encoding))):
                for example in batch:
                    counts.update(example.labels)
                rows = [{**dataclasses.asdict(example), "labels": list(example.labels)} for example in batch]
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                examples += len(batch)
                characters += sum(len(example.text) for example in batch)
                if progress:
                    progress(label, examples, None)
    facts = TableFacts(
        fields=fields.names,
        multi_label=bool(fields.multi_label),
        kinds=dict(fields.kinds),
        counts=dict(counts),
        examples=examples,
        rejects=rejected,
        characters=characters,
        unread_fields=dict(fields.left_out.fields),
        notes=notes,
    )
    write_json(folder / "table.json", dataclasses.asdict(facts))


def _survey(
    read: Callable[[ExampleFields, BadRecords], Iterable[Example]], fields: ExampleFields, encoding: str | None
) -> list[str]:
    """Determine from all records the fields and how labels are written. Returns notes for the user.

    Raises:
        CorpusError: the labels would be learned wrongly.
    """
    survey = fields.survey()
    silent = BadRecords("skip", lambda _: None, encoding)  # bad records are reported when the examples are made
    for _ in read(survey, silent):
        pass
    notes, problems = survey.finish()
    for problem in problems:
        raise problem.error(fields.names.label or "label")
    return notes


def _batched(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in batches of about `_BATCH` characters."""
    batch: list[Example] = []
    waiting = 0
    for example in examples:
        batch.append(example)
        waiting += len(example.text) + len(example.pair or "") + 100
        if waiting >= _BATCH:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch
