"""The names of classes that `datasets` writes into the schema of a Parquet file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain_ft.corpus.readers.parquet import class_names, file_class_names

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


def test_the_names_of_a_file_packed_or_not(tmp_path: Path) -> None:
    table = pa.table({"label": [0, 1]}, schema=_schema(label=NAMES))
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "broken.parquet.gz").write_bytes(b"PAR1")
    assert file_class_names(tmp_path / "a.parquet") == {"label": ["civil", "penal"]}
    assert file_class_names(tmp_path / "a.parquet.gz") == {"label": ["civil", "penal"]}
    assert file_class_names(tmp_path / "broken.parquet") == file_class_names(tmp_path / "broken.parquet.gz") == {}


def test_what_datasets_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["civil", "penal"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "tags": datasets.Sequence(label)})
    rows = {"text": ["a"], "label": [1], "tags": [[0, 1]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert file_class_names(tmp_path / "a.parquet") == {"label": ["civil", "penal"], "tags": ["civil", "penal"]}
