"""Readers: each turns one file or folder into a stream of documents.

A reader is a function `read(path, name, text_field, bad)` that yields `SourceDocument`s: `name` is what the file is
called in messages and ids, `text_field` names the field of the text where records have fields, and `bad` is told of
every record that cannot be read (`base.BadRecords`). A reader is imported when it is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

from domain_ft.corpus.readers.base import BadRecords, SourceDocument

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
    "licences": "licences:read_licences",
    "obo": "obo:read_obo",
    "icd-10-cm": "icd:read_icd",
}

# The ending of a file -> the reader of it; each may also end in .gz.
ENDINGS: dict[str, str] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}


def reader(name: str) -> ReaderFunction:
    """The reader named `name` in `READERS`."""
    module, function = READERS[name].split(":")
    found: ReaderFunction = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return found
