"""Reads data sets on a hub as streams. Their rows are not stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetNotFoundError
from datasets.packaged_modules.parquet.parquet import ParquetConfig

from domain_ft.corpus.readers.base import BadRecords, RawRecord, SourceDocument, TextField, looked_at
from domain_ft.corpus.readers.gated import gated_error
from domain_ft.corpus.readers.hub_copies import COPY, commit_of_copy, no_copy_error
from domain_ft.corpus.readers.parquet import row_batches
from domain_ft.corpus.recipes import Source
from domain_ft.errors import CorpusError, nearest
from domain_ft.quoting import shown


def read_hub(source: Source, revision: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """The documents of a split of a data set, with ids `SPLIT:NUMBER`, numbered from 1.

    Raises:
        CorpusError: the data set, configuration or split does not exist or cannot be reached.
    """
    name = str(source.id)
    splits = open_splits(name, source.config, revision)
    if source.split not in splits:
        where, fix = hub_name(name, source.config), nearest(source.split, splits)
        raise CorpusError(f"the data set has no split '{source.split}'", where=where, fix=fix)
    rows = splits[source.split]
    field = TextField(source.text_field, f"hf:{name}")
    numbered = (RawRecord(number, row) for number, row in enumerate(itertools.islice(rows, source.documents), 1))
    for number, record, _ in looked_at(numbered, field.look, bad):
        text = field.of(record, bad, number)
        if text is not None:
            bad.seen.text(field, record, text)
            yield SourceDocument(id=f"{source.split}:{number}", text=text, source=name)


def open_splits(identifier: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """The splits of a data set, each an iterable that streams records and has `features`.

    Raises:
        CorpusError: the data set or configuration does not exist or cannot be reached.
    """
    where = hub_name(identifier, config)
    try:
        builder = _builder(identifier, config, revision)
        if isinstance(builder.config, ParquetConfig):
            splits: Mapping[str, Any] = {
                str(split): _ParquetRows.of(files, where, builder) for split, files in builder.config.data_files.items()
            }
        else:
            splits = builder.as_streaming_dataset()
    except DatasetNotFoundError as error:  # `datasets` raises it in all these cases, without the cause
        if "is a gated dataset" in str(error):
            raise gated_error(identifier, where) from error
        if f"Revision '{COPY}'" in str(error):
            raise no_copy_error(where) from error
        if revision and f"Revision '{commit_of_copy(revision) or revision}'" in str(error):
            fix = "give the hash of a commit that is on the hub, or no revision for the newest"
            raise CorpusError(f"the data set has no revision '{revision}'", where=where, fix=fix) from error
        fix = "check the id on the hub; a private data set needs a token (hf auth login)"
        raise CorpusError(f"there is no data set '{identifier}' on the hub", where=where, fix=fix) from error
    except CorpusError:
        raise
    except Exception as error:  # the library raises many types
        fix = "if the data set has several configurations, name one: hf:ID:config; check the network"
        raise CorpusError(f"the data set cannot be opened: {error}", where=where, fix=fix) from error
    return splits


def _builder(identifier: str, config: str | None, revision: str | None) -> datasets.DatasetBuilder:
    """The builder of a data set, or of its Parquet copy if it has a loading script, which `datasets` does not run."""
    copy = commit_of_copy(revision)
    if copy is None:
        try:
            return datasets.load_dataset_builder(identifier, config, revision=revision)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            if revision is not None:
                raise CorpusError(
                    f"the revision '{shown(revision)}' has a loading script, which is not run, and the hub's Parquet "
                    "copy may be of another revision",
                    where=hub_name(identifier, config),
                    fix=f'give no revision, for the newest copy, or a revision of the copy: revision = "{COPY}@COMMIT"',
                ) from error
    builder = datasets.load_dataset_builder(identifier, data_dir=config, revision=copy or COPY)
    files = itertools.chain.from_iterable(builder.config.data_files.values())
    configs = sorted({PurePosixPath(file).parts[-3] for file in files})  # CONFIG/SPLIT/0000.parquet
    if config is None and len(configs) > 1:
        fix = f"name one of them: {', '.join(hub_name(identifier, name) for name in configs[:5])}"
        raise CorpusError("the data set has several configurations", where=hub_name(identifier, None), fix=fix)
    return builder


@dataclass(frozen=True)
class _ParquetRows:
    """A split in Parquet files, the usual format of the hub, read a few rows at a time.

    `datasets` would decode ahead of its consumer, until the whole file is in memory.

    Attributes:
        name: the name of the data set, for messages.
        files: the paths or URLs of the files.
        access: for each protocol, the options with which fsspec opens a file.
        features: the types of the fields.
    """

    name: str
    files: Sequence[str]
    access: Mapping[str, Any]
    features: datasets.Features

    @classmethod
    def of(cls, files: Sequence[str], name: str, builder: datasets.DatasetBuilder) -> _ParquetRows:
        """The rows of `files`, a split of the builder's data set."""
        rows = cls(name, files, builder.storage_options or {}, builder.info.features or datasets.Features())
        if rows.features:
            return rows
        with rows._open(files[0]) as file:
            return cls(name, files, rows.access, datasets.Features.from_arrow_schema(pq.read_schema(file)))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(map(self._rows, self.files))

    def _rows(self, address: str) -> Iterator[dict[str, Any]]:
        try:
            with self._open(address) as file:
                for batch in row_batches(pq.ParquetFile(file, pre_buffer=False)):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            reason = f"the data set cannot be read: {str(error).splitlines()[0]}"
            fix = "check the network and the file"
            raise CorpusError(reason, where=f"{self.name}, {address}", fix=fix) from error

    def _open(self, address: str) -> Any:
        protocol, separator, _ = address.partition("://")
        return fsspec.open(address, "rb", **(self.access.get(protocol, {}) if separator else {})).open()


def class_names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """The class names of each field that holds class labels or lists of them."""
    names = {}
    for field, feature in (features or {}).items():
        while hasattr(feature, "feature"):  # a list of classes
            feature = feature.feature
        if isinstance(feature, datasets.ClassLabel):
            names[field] = list(feature.names)
    return names


def hub_name(identifier: str, config: str | None) -> str:
    """The name of a data set in messages and on the command line."""
    return f"hf:{identifier}" + (f":{config}" if config else "")
