"""Examples on the disk: an Arrow file in the cache, mapped, so that memory stays flat however many there are."""

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

from domain_ft.corpus.assets import Progress
from domain_ft.corpus.corpus import content_key
from domain_ft.corpus.disk import disk_errors
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, Reject
from domain_ft.corpus.tasks.examples import Example
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.storage import alone, cache_folder, new_folder, write_json

# Raise this with every change to reading or cleaning: what older code wrote is then left alone.
VERSION = 1

Integers = npt.NDArray[np.int64]

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


@dataclass(frozen=True)
class TableFacts:
    """What is known of a table without reading it.

    Attributes:
        fields: as they were found.
        several: whether several labels may hold.
        kinds: how many labels were text, numbers, true or false.
        counts: examples by label, the labels in the order in which they came.
        examples: how many there are.
        rejects: records that were left out.
    """

    fields: FieldNames
    several: bool
    kinds: dict[str, int]
    counts: dict[str, int]
    examples: int
    rejects: int


@dataclass(frozen=True)
class ExampleTable:
    """The examples of an Arrow file, or some of them: satisfies `Examples`.

    Attributes:
        folder: in the cache, with the file and what is known of it.
        rows: (examples,) rows of the file; None for all of them.
        origins: (rows of the file,) the row whose id is each one's group; None where groups are as they were read.
    """

    folder: Path
    rows: Integers | None = None
    origins: Integers | None = None

    @property
    def key(self) -> str:
        """Equal keys, equal examples in equal order."""
        digests = [
            None if part is None else hashlib.sha256(part.tobytes()).hexdigest() for part in (self.rows, self.origins)
        ]
        return content_key(self.folder.name, *digests)

    @cached_property
    def facts(self) -> TableFacts:
        """Of the whole file."""
        values = json.loads((self.folder / "table.json").read_text(encoding="utf-8"))
        return TableFacts(**{**values, "fields": FieldNames(**values["fields"])})

    @cached_property
    def _table(self) -> pa.Table:
        with pa.memory_map(str(self.folder / "examples.arrow")) as source:
            return pa.ipc.open_file(source).read_all()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it maps the file by itself."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __len__(self) -> int:
        return self.facts.examples if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._example(int(index % len(self) if self.rows is None else self.rows[index]))

    def __iter__(self) -> Iterator[Example]:
        if self.rows is not None:
            yield from map(self._example, self.rows.tolist())
            return
        row = 0
        for batch in self._table.to_batches():
            for values in batch.to_pylist():
                yield self._made(row, values)
                row += 1

    def take(self, indices: npt.ArrayLike) -> ExampleTable:
        """The examples with these indices, in that order; one may come twice."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"examples {wanted.min()} to {wanted.max()} of {len(self)}")
        return dataclasses.replace(self, rows=np.arange(len(self))[wanted] if self.rows is None else self.rows[wanted])

    def grouped(self, origins: Integers) -> ExampleTable:
        """The same examples, each in the group that is called by the id of the row that `origins` has for its row."""
        return dataclasses.replace(self, origins=origins)

    @property
    def file_rows(self) -> Integers:
        """(examples,) the row of each in the file."""
        return np.arange(len(self)) if self.rows is None else self.rows

    def labels(self) -> Iterator[tuple[str, ...]]:
        """The labels of each example; no text is read."""
        column = self._table.column("labels")
        if self.rows is not None:
            yield from (tuple(column[row].as_py()) for row in self.rows.tolist())
            return
        for chunk in column.chunks:
            yield from map(tuple, chunk.to_pylist())

    def ids(self) -> Iterator[str]:
        """The id of each example."""
        column = self._table.column("id")
        yield from (column[row].as_py() for row in self.file_rows.tolist())

    def groups(self) -> Iterator[str]:
        """The group of each example, as it was read; empty where nothing is known of it."""
        column = self._table.column("group")
        yield from (column[row].as_py() for row in self.file_rows.tolist())

    def _example(self, row: int) -> Example:
        return self._made(row, {name: self._table.column(name)[row].as_py() for name in _SCHEMA.names})

    def _made(self, row: int, values: dict[str, Any]) -> Example:
        if self.origins is not None:
            values["group"] = self._table.column("id")[int(self.origins[row])].as_py()
        values["group"] = values["group"] or values["id"]
        return Example(**{**values, "labels": tuple(values["labels"])})


def tabulate(
    content: Any,
    read: Callable[[ExampleFields, BadRecords], Iterable[Example]],
    fields: ExampleFields,
    *,
    on_bad_record: OnBadRecord,
    rejects: Callable[[Reject], None] | None = None,
    progress: Progress | None = None,
    label: str = "reading examples",
) -> ExampleTable:
    """The table of what `read` gives, made now or found in the cache.

    Args:
        content: plain values that name what is read: equal values, equal examples.
        read: gives the examples, in an order that stays.
        fields: how records become examples; what is left to find is found by the first record.
        on_bad_record: stop at a record that cannot be read, or leave it out.
        rejects: told of each record that is left out, also where the table was made before.
        progress: told (label, examples, None).

    Raises:
        RecordError: a record cannot be read, with the policy `stop`.
        CorpusError: a field is missing, or the disk is full.
    """
    given = (dataclasses.asdict(fields.names), fields.several)
    key = content_key("examples", VERSION, content, given, on_bad_record)
    folder = cache_folder("tasks") / key
    if not (folder / "table.json").is_file():
        waiting = _Waiting(progress)
        with disk_errors("the examples", folder.parent), alone(folder, waiting.tell):
            if not (folder / "table.json").is_file():
                with new_folder(folder) as fresh:
                    _write(fresh, read, fields, on_bad_record, progress, label)
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
    progress: Progress | None,
    label: str,
) -> None:
    counts: Counter[str] = Counter()
    examples = rejected = 0
    with (folder / "rejects.jsonl").open("w", encoding="utf-8") as rejects:

        def leave_out(reject: Reject) -> None:
            nonlocal rejected
            rejected += 1
            rejects.write(json.dumps(dataclasses.asdict(reject)) + "\n")

        with pa.ipc.new_file(str(folder / "examples.arrow"), _SCHEMA) as writer:
            for batch in _batched(read(fields, BadRecords(on_bad_record, leave_out))):
                for example in batch:
                    counts.update(example.labels)
                rows = [{**dataclasses.asdict(example), "labels": list(example.labels)} for example in batch]
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                examples += len(batch)
                if progress:
                    progress(label, examples, None)
    facts = TableFacts(fields.names, bool(fields.several), dict(fields.kinds), dict(counts), examples, rejected)
    write_json(folder / "table.json", dataclasses.asdict(facts))


def _batched(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in lists of about `_BATCH` characters."""
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
