"""JSON that is nested too deep is refused or skipped like other broken JSON, and never ends in a RecursionError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tiny_tasks import sentence, task, write

from domain_ft.corpus.conversations.extra_fields import history_of
from domain_ft.corpus.conversations.faults import Faults
from domain_ft.corpus.conversations.messages import read_tools, read_turns
from domain_ft.corpus.readers.parquet import class_names
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.opening import TaggingSource, open_tagging
from domain_ft.errors import CheckpointError, CorpusError
from domain_ft.json_files import MARKING, loads, read_object
from domain_ft.report.run_folder import RunFolder
from domain_ft.verbs.data.split import _has_an_object_per_line

DEEP = "[" * 100_000


def faults_of(read: Any, *arguments: Any) -> list[tuple[str, str | None, str]]:
    faults = Faults()
    read(*arguments, faults)
    return [(fault.kind, fault.field, fault.message) for fault in faults.found]


@pytest.mark.parametrize("parse", [loads, MARKING.decode, MARKING.raw_decode])
def test_deep_nesting_is_a_value_error(parse: Any) -> None:
    with pytest.raises(ValueError, match="it is nested too deep"):
        parse(DEEP)


def test_a_deep_file_of_a_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(DEEP)
    with pytest.raises(CheckpointError, match=r"task\.json is damaged: it is not JSON \(it is nested too deep\)"):
        read_object(path, CheckpointError, fix="run it again")


def test_a_deep_line_of_metrics_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text(f'{{"step": 1}}\n{DEEP}\n{{"step": 3}}\n')
    with pytest.raises(CheckpointError, match="line 2"):
        run.read_metrics()


def test_deep_tools_calls_and_histories_are_faults() -> None:
    assert faults_of(read_tools, DEEP) == [
        ("wrong-type", "tools", "the tools are not valid JSON: it is nested too deep")
    ]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": DEEP}}]}
    (fault,) = faults_of(read_turns, [call], "messages")
    assert fault[:2] == ("bad-tool-call", "messages[0].tool_calls[0].function.arguments")
    assert [kind for kind, *_ in faults_of(history_of, DEEP, "history")] == ["bad-history"]


def test_deep_metadata_of_a_parquet_file_is_ignored() -> None:
    assert class_names(pa.schema([("label", pa.int64())], metadata={"huggingface": DEEP})) == {}


def test_deep_files_of_test_ids_are_refused(tmp_path: Path) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text(DEEP)
    rows = [{"text": sentence(i), "label": "no" if i % 2 else "yes", "id": i} for i in range(20)]
    with pytest.raises(CorpusError, match="none of the 1 ids is the id of a training example"):
        task(write(tmp_path / "train.jsonl", rows), id_field="id", test_ids=ids)
    texts = tmp_path / "texts.jsonl"
    lines = (json.dumps({"id": f"r{n}", "text": f"flu{n}", "entities": [[0, 3, "D"]]}) + "\n" for n in range(20))
    texts.write_text("".join(lines))
    with pytest.raises(CorpusError, match="is broken JSON"):
        open_tagging(TaggingSource(train=str(texts), test_ids=ids, fields=TagFields(id="id")))


def test_a_deep_line_is_no_object(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(f"{DEEP}\n")
    assert not _has_an_object_per_line(data)
