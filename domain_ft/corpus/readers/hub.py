"""Data sets of a hub, by the `datasets` library, streamed: nothing is kept but what is being read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow.dataset
from datasets.exceptions import DatasetNotFoundError
from datasets.packaged_modules.parquet.parquet import ParquetConfig

from domain_ft.corpus.readers.base import BadRecords, SourceDocument, TextField
from domain_ft.corpus.recipes import Source
from domain_ft.errors import CorpusError, nearest

_ROWS = 256  # of a Parquet file that are read at a time; by default it is a whole group of rows
# By default what was read of a Parquet file stays in memory until its end.
_SCAN = pyarrow.dataset.ParquetFragmentScanOptions(use_buffered_stream=True, buffer_size=8 << 20, pre_buffer=False)


def read_hub(source: Source, revision: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """The documents of a data set's split, each named `split:number`, counted from 1.

    Raises:
        CorpusError: no such data set, configuration or split, or it cannot be reached.
    """
    name = str(source.id)
    rows = _open(source, revision)
    field = TextField(source.text_field, f"hf:{name}")
    for number, record in enumerate(itertools.islice(rows, source.documents), 1):
        text = field.of(record, bad, number)
        if text is not None:
            yield SourceDocument(id=f"{source.split}:{number}", text=text, source=name)


def _open(source: Source, revision: str | None) -> Any:
    where = f"hf:{source.id}" + (f":{source.config}" if source.config else "")
    try:
        builder = datasets.load_dataset_builder(source.id, source.config, revision=revision)
        if isinstance(builder.config, ParquetConfig):
            builder.config.batch_size, builder.config.fragment_scan_options = _ROWS, _SCAN
        splits = builder.as_streaming_dataset()
    except DatasetNotFoundError as error:
        fix = "check the id on the hub; a private one wants a token (hf auth login)"
        raise CorpusError(f"there is no data set '{source.id}' on the hub", where=where, fix=fix) from error
    except Exception as error:  # the library raises what its many parts raise
        fix = "name a configuration as hf:ID:config where the data set has several; check the network"
        raise CorpusError(f"the data set cannot be opened: {error}", where=where, fix=fix) from error
    if source.split not in splits:
        raise CorpusError(f"the data set has no split '{source.split}'", where=where, fix=nearest(source.split, splits))
    return splits[source.split]
