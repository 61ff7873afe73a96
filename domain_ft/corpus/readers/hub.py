"""Data sets of a hub, by the `datasets` library, streamed: nothing is kept but what is being read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
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
    splits = open_splits(name, source.config, revision)
    if source.split not in splits:
        where, fix = hub_name(name, source.config), nearest(source.split, splits)
        raise CorpusError(f"the data set has no split '{source.split}'", where=where, fix=fix)
    rows = splits[source.split]
    field = TextField(source.text_field, f"hf:{name}")
    for number, record in enumerate(itertools.islice(rows, source.documents), 1):
        text = field.of(record, bad, number)
        if text is not None:
            yield SourceDocument(id=f"{source.split}:{number}", text=text, source=name)


def open_splits(identifier: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """The splits of a data set, streamed: each gives records, and says what they are in `features`.

    Raises:
        CorpusError: no such data set or configuration, or it cannot be reached.
    """
    where = hub_name(identifier, config)
    try:
        builder = datasets.load_dataset_builder(identifier, config, revision=revision)
        if isinstance(builder.config, ParquetConfig):
            builder.config.batch_size, builder.config.fragment_scan_options = _ROWS, _SCAN
        splits: Mapping[str, Any] = builder.as_streaming_dataset()
    except DatasetNotFoundError as error:
        fix = "check the id on the hub; a private one wants a token (hf auth login)"
        raise CorpusError(f"there is no data set '{identifier}' on the hub", where=where, fix=fix) from error
    except Exception as error:  # the library raises what its many parts raise
        fix = "name a configuration as hf:ID:config where the data set has several; check the network"
        raise CorpusError(f"the data set cannot be opened: {error}", where=where, fix=fix) from error
    return splits


def class_names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """The names that the numbers of a field stand for, for each field that holds classes or lists of them."""
    names = {}
    for field, feature in (features or {}).items():
        while hasattr(feature, "feature"):  # a list of classes
            feature = feature.feature
        if isinstance(feature, datasets.ClassLabel):
            names[field] = list(feature.names)
    return names


def hub_name(identifier: str, config: str | None) -> str:
    """What a data set is called in messages, and on the command line."""
    return f"hf:{identifier}" + (f":{config}" if config else "")
