"""Shared by the verbs on data files: strict reading of records, writing JSON lines, and refusing to overwrite."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domain_ft.corpus.readers import ENDINGS, RECORDS
from domain_ft.corpus.readers.base import BadRecords
from domain_ft.corpus.readers.files import check_file, ending
from domain_ft.corpus.readers.packing import PACKED
from domain_ft.errors import CorpusError, RecordError, SettingsError
from domain_ft.files import refuse_special
from domain_ft.locks import refuse_below_file
from domain_ft.storage import user_path


class Refusing(BadRecords):
    """Raises an error at the first unreadable record, with its line, so that no record is silently skipped."""

    def __init__(self, encoding: str | None = None) -> None:
        super().__init__("stop", lambda _: None, encoding)

    def add(
        self, reason: str, *, file: str, line: int | None = None, field: str | None = None, fix: str | None = None
    ) -> None:
        """Raise a RecordError."""
        where = file + (f", line {line}" if line is not None else "") + (f', field "{field}"' if field else "")
        default = "fix it; domain-ft data check lists all problems, and its --fix repairs what it can"
        raise RecordError(reason, where=where, fix=fix or default)


def record_file(given: str) -> tuple[Path, str]:
    """The path of a file of records, and the key of its reader in `readers.RECORDS`.

    Raises:
        CorpusError: the file does not exist or cannot be read, or its format has no records.
    """
    path = user_path(given)
    check_file(path)
    kind = ENDINGS.get(ending(path))
    if kind not in RECORDS:
        known = ", ".join(name for name, reader in ENDINGS.items() if reader in RECORDS)
        what = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
        raise CorpusError(
            f"{what} holds no records",
            where=given,
            fix=f"known endings: {known}, each also with {', '.join(PACKED)}",
        )
    return path, kind


def refuse_existing(output: Path, option: str = "--output") -> None:
    """Check that a new file or folder can be created at `output`.

    Raises:
        SettingsError: `output` exists, or is below a file.
    """
    refuse_special(output, option)
    refuse_below_file(output, option)
    if output.exists() or output.is_symlink():
        what = "exists already as a folder" if output.is_dir() else "exists already"
        raise SettingsError(f"{option} {output} {what}", fix="remove it, or give another name; nothing was changed")


def json_line(record: Mapping[str, Any], place: str) -> bytes:
    """A record as a line of JSON in UTF-8. Dates, times and decimals, which Parquet has but JSON lacks, become text.

    Raises:
        CorpusError: a value, such as bytes, cannot be written as JSON. The error names `place`.
    """
    try:
        text = json.dumps(record, ensure_ascii=False, default=_as_text)
    except TypeError as error:
        raise CorpusError(f"the record cannot be written as JSON: {error}", where=place) from error
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, as from a truncated JSON escape: keep it as an escape
        return json.dumps(record, default=_as_text).encode("ascii") + b"\n"


def _as_text(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"it holds {type(value).__name__}")
