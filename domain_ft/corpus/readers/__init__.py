"""Readers: each turns one file into a stream of documents.

A reader is a function `read(path, name, text_field, bad)` that yields `SourceDocument`s. `name` is the file's name in
messages and ids; `text_field` is the field of the text, for records with fields; every record that cannot be read is
reported to `bad` (`base.BadRecords`). A reader is imported when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from domain_ft.corpus.readers.base import BadRecords, Columns, RawRecord, SourceDocument

ReaderFunction = Callable[[Path, str, "str | None", BadRecords], Iterator[SourceDocument]]

# The reader's name in a recipe -> module:function.
READERS: dict[str, str] = {
    "auto": "files:read_by_ending",
    "text": "files:read_text",
    "jsonl": "records:read_jsonl",
    "json": "records:read_json",
    "csv": "records:read_csv",
    "tsv": "records:read_tsv",
    "parquet": "parquet:read_parquet",
    "html": "extracted:read_html",
    "xml": "extracted:read_xml",
    "email": "extracted:read_email",
    "docx": "extracted:read_docx",
    "pdf": "extracted:read_pdf",
    "licences": "licences:read_licences",
    "obo": "obo:read_obo",
    "icd-10-cm": "icd:read_icd",
}

# The ending of a file -> its reader; each may be followed by .gz, .zst, .xz or .bz2.
ENDINGS: dict[str, str] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".xml": "xml",
    ".eml": "email",
    ".docx": "docx",
    ".pdf": "pdf",
}

# Reader -> the module that it needs from the extra `documents`.
NEEDED: dict[str, str] = {"html": "lxml", "xml": "lxml", "email": "lxml", "docx": "docx", "pdf": "pypdf"}
EXTRA = "pip install 'domain-ft[documents]'"

# The name of a reader of records in a recipe -> module:function, which yields records with fields.
RECORDS: dict[str, str] = {
    "jsonl": "records:jsonl_records",
    "json": "records:json_records",
    "csv": "records:csv_records",
    "tsv": "records:tsv_records",
    "parquet": "parquet:parquet_records",
    "license-categories": "licences:license_categories",
    "license-rules": "licences:license_rules",
    "phenotype-systems": "obo:phenotype_systems",
    "icd-chapters": "icd:icd_chapters",
}


def is_installed(name: str) -> bool:
    """Whether the dependencies of the reader named `name` are installed."""
    return name not in NEEDED or importlib.util.find_spec(NEEDED[name]) is not None


def reader(name: str) -> ReaderFunction:
    """The reader named `name` in `READERS`."""
    found: ReaderFunction = _function(READERS[name])
    return found


def raw_records(
    path: Path | BinaryIO, name: str, kind: str, bad: BadRecords, columns: Columns | None = None
) -> Iterator[RawRecord]:
    """The records of a file or stream, with their lines.

    Args:
        path: the file or stream. From a stream, only JSON lines, CSV and TSV can be read.
        name: of the file, for messages.
        kind: a key of `RECORDS`.
        bad: receives every record that cannot be read.
        columns: chooses among the fields of a file with a header.
    """
    return cast(Iterator[RawRecord], _function(RECORDS[kind])(path, name, bad, columns))


def _function(place: str) -> Any:
    module, function = place.split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)
