"""Reads Parquet files: a row is a record. Only the chosen columns are read, in batches."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

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
from domain_ft.corpus.readers.choosing import LOOKED_AT, Holds, what_fields_hold
from domain_ft.corpus.readers.packing import packing
from domain_ft.corpus.readers.records import documents
from domain_ft.errors import CorpusError, nearest
from domain_ft.quoting import shown

_ROWS = 256  # rows read at a time: few, so that a batch of long documents takes little memory


def read_parquet(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """Read the text column or columns of a Parquet file."""
    field = TextField(text_field, name)

    def choose(fields: Mapping[str, int]) -> list[str]:
        field.known = tuple(fields)  # the records have only the columns that are read
        return field.choose(fields)

    yield from documents(parquet_records(path, name, bad, choose), field, bad)


def parquet_records(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """The rows of a Parquet file, with the chosen `columns`.

    Raises:
        CorpusError: there is no such column.
    """
    with reported(name, bad), contextlib.ExitStack() as stack:
        table = _opened(path, name, bad, stack)
        if table is None:
            return
        schema = table.schema_arrow
        wanted = columns(_what_columns_hold(table, name)) if columns else None
        for column in wanted or ():
            if column not in schema.names:
                raise CorpusError(f"there is no field '{shown(column)}'", where=name, fix=nearest(column, schema.names))
        yield from _rows(table, name, wanted, bad)


def _opened(path: Path, name: str, bad: BadRecords, stack: contextlib.ExitStack) -> pq.ParquetFile | None:
    """The file, packed or not, open until `stack` is closed; None if it was rejected."""
    bad.path = path
    if packing(path) is not None:  # Parquet is read from the end, but packed data only from the beginning
        data = read_bytes(path, name, bad, "unpack it: a Parquet file is compressed already")
        if data is None:
            return None
        file: BinaryIO = io.BytesIO(data)
    else:
        file = stack.enter_context(open_bytes(path))
    try:
        return pq.ParquetFile(file, pre_buffer=False)
    except pa.ArrowException as error:
        bad.add(f"this is not a valid Parquet file: {str(error).splitlines()[0]}", file=name)
        return None


def row_batches(table: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows in batches, from one row group at a time: a reader of all groups would keep them all in memory."""
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


def _what_columns_hold(table: pq.ParquetFile, name: str) -> dict[str, Holds]:
    """What each column holds, by its type and, if it may hold text, its first rows."""
    schema = table.schema_arrow
    texts = [column.name for column in schema if _is_text(column.type)]
    holds = dict.fromkeys(schema.names, Holds.NOTHING)
    if texts:
        quiet = BadRecords("skip", lambda _: None)  # damage is reported when the rows are read
        first = itertools.islice(_rows(table, name, texts, quiet), LOOKED_AT)
        holds |= what_fields_hold(row.fields for row in first)
    return holds


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The class names of each field, from the metadata that `datasets` writes to a file's schema.

    Only fields of class labels, or of lists of them, have class names.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {field: _names_of(feature) for field, feature in features.items()}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}  # no such metadata, or not what `datasets` writes
    return {field: names for field, names in found.items() if names}


def _names_of(feature: Any) -> list[str]:
    """The names of a feature's classes; an empty list if it does not hold classes."""
    while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return []
    names = feature.get("names") or []
    return [str(name) for name in (names.values() if isinstance(names, dict) else names)]


def file_class_names(path: Path) -> dict[str, list[str]]:
    """`class_names` of a Parquet file; empty if it cannot be read, which is reported when its rows are read."""
    quiet = BadRecords("skip", lambda _: None)
    with reported(path.name, quiet), contextlib.ExitStack() as stack:
        table = _opened(path, path.name, quiet, stack)
        if table is not None:
            return class_names(table.schema_arrow)
    return {}
