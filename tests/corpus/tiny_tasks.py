"""Small files of labelled examples in several formats."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from domain_ft.corpus.examples import TaskData
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.opening import TaskSource, open_task

WORDS = "amber birch cedar delta ember fjord grove heath inlet jetty knoll larch marsh north ocean pearl ridge".split()  # noqa: SIM905


def sentence(number: int) -> str:
    """A text that differs from those of all other numbers."""
    return " ".join(f"{WORDS[(number * step + step) % len(WORDS)]}{number * step}" for step in range(1, 12))


ROWS = [{"text": sentence(i), "label": ["no", "yes"][i % 2]} for i in range(20)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write the rows in the format of the path's ending. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    sink = io.StringIO()
    if kind == "jsonl":
        sink.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif kind == "json":
        json.dump(rows, sink)
    elif kind in ("csv", "tsv"):
        writer = csv.DictWriter(sink, list(rows[0]), delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
    content = sink.getvalue().encode()
    if kind == "parquet":
        packed = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), packed)
        content = packed.getvalue()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def task(train: Path | str, rejects: list[Reject] | None = None, **options: Any) -> TaskData:
    return open_task(TaskSource(train=str(train), **options), rejects=None if rejects is None else rejects.append)
