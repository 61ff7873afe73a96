"""The names of classes that `datasets` writes into the schema of a Parquet file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain_ft.corpus.readers.base import BadRecords
from domain_ft.corpus.readers.packing import PACKED
from domain_ft.corpus.readers.parquet import class_names, file_class_names, parquet_records
from domain_ft.errors import RecordError

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
NAMES = {"names": ["civil", "penal"], "_type": "ClassLabel"}


def _schema(**features: object) -> pa.Schema:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, pa.int64()) for name in features], metadata=metadata)


@pytest.mark.parametrize(
    "feature",
    [
        NAMES,
        {"feature": NAMES, "_type": "Sequence"},
        {"feature": NAMES, "_type": "List"},
        [NAMES],
        {"feature": {"feature": NAMES, "_type": "List"}, "length": -1, "_type": "List"},
    ],
)
def test_classes_and_lists_of_classes_have_their_names(feature: object) -> None:
    text = {"dtype": "string", "_type": "Value"}
    assert class_names(_schema(text=text, label=feature)) == {"label": ["civil", "penal"]}


@pytest.mark.parametrize("metadata", [None, {"huggingface": "{"}, {"huggingface": "[]"}, {"other": "x"}])
def test_a_schema_without_names_has_none(metadata: dict[str, str] | None) -> None:
    assert class_names(pa.schema([("label", pa.int64())], metadata=metadata)) == {}


@pytest.mark.parametrize("compression", ["", *PACKED])
def test_the_names_of_a_file_are_read_whatever_its_compression(tmp_path: Path, compression: str) -> None:
    pq.write_table(pa.table({"label": [0, 1]}, schema=_schema(label=NAMES)), tmp_path / "a.parquet")
    data = _COMPRESS[compression]((tmp_path / "a.parquet").read_bytes())
    for name in (f"a.parquet{compression}", "another-name.parquet"):  # the compression is recognised by content
        (tmp_path / name).write_bytes(data)
        assert file_class_names(tmp_path / name) == {"label": ["civil", "penal"]}


@pytest.mark.parametrize("compression", ["", *PACKED])
def test_a_damaged_file_has_no_names(tmp_path: Path, compression: str) -> None:
    """What is wrong with it is reported when its rows are read."""
    path = tmp_path / f"broken.parquet{compression}"
    for data in (_COMPRESS[compression](b"PAR1"), _COMPRESS[compression](bytes(range(256)) * 9)[:-20], b"PAR1"):
        path.write_bytes(data)
        assert file_class_names(path) == {}
        with pytest.raises(RecordError, match=r"broken\.parquet"):
            list(parquet_records(path, path.name, BadRecords("stop", lambda _: None)))


def test_names_that_datasets_writes_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["civil", "penal"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "tags": datasets.Sequence(label)})
    rows = {"text": ["a"], "label": [1], "tags": [[0, 1]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert file_class_names(tmp_path / "a.parquet") == {"label": ["civil", "penal"], "tags": ["civil", "penal"]}
