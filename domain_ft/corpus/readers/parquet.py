"""Parquet files: one row is one record. Only the columns that are wanted are read, batch by batch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from domain_ft.corpus.readers.base import (
    BadRecords,
    Columns,
    RawRecord,
    SourceDocument,
    TextField,
    open_bytes,
    read_bytes,
    reported,
)
from domain_ft.corpus.readers.records import documents
from domain_ft.errors import CorpusError, nearest

_ROWS = 256  # rows read at a time: few enough that a batch of long documents is small


def read_parquet(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """Read the text column or columns of a Parquet file."""
    field = TextField(text_field, name)
    yield from documents(parquet_records(path, name, bad, field.settle), field, bad)


def parquet_records(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """The rows of a Parquet file, of which the columns that are not wanted are not read."""
    with reported(name, bad), contextlib.ExitStack() as stack:
        if path.suffix.lower() == ".gz":  # Parquet is read from its end, and gzip from its beginning
            data = read_bytes(path, name, bad, "unpack it: Parquet packs its columns by itself")
            if data is None:
                return
            file: BinaryIO = io.BytesIO(data)
        else:
            file = stack.enter_context(open_bytes(path))
        try:
            table = pq.ParquetFile(file, pre_buffer=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            bad.add(f"this is no sound Parquet file: {str(error).splitlines()[0]}", file=name)
            return
        schema = table.schema_arrow
        wanted = columns({column.name: _is_text(column.type) for column in schema}) if columns else None
        for column in wanted or ():
            if column not in schema.names:
                raise CorpusError(f"there is no field '{column}'", where=name, fix=nearest(column, schema.names))
        yield from _rows(table, name, wanted, bad)


def row_batches(table: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows, a group of them after the other: a reader of all groups keeps what it read of each until its end."""
    for group in range(table.num_row_groups):
        yield from table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=columns)


def _rows(table: pq.ParquetFile, name: str, columns: list[str] | None, bad: BadRecords) -> Iterator[RawRecord]:
    number = 0
    batches = row_batches(table, columns)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            bad.add(f"the Parquet data is damaged: {str(error).splitlines()[0]}", file=name, line=number + 1)
            return
        for record in batch.to_pylist():
            number += 1
            yield RawRecord(number, record)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
