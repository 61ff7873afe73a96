"""What classify and evaluate do not read is counted, listed, and reported in result.json, page and screen."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from classify_jobs import records, settings, write_jsonl
from rich.console import Console

from domain_ft.verbs.classify.run import ClassifyRun, classify
from domain_ft.verbs.classify.terminal import print_classify
from domain_ft.verbs.evaluate.run import run
from domain_ft.verbs.evaluate.settings import EvaluateSettings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ClassifyRun:
    """A run of `classify --on-bad-record skip` on 90 records, three of which cannot be read."""
    folder = tmp_path_factory.mktemp("left-out")
    rows: list[dict[str, Any]] = [{**row, "court": "north"} for row in records(90)]
    rows[4]["label"] = None
    rows[8]["label"] = "-"
    rows[12]["text"] = ""
    train = write_jsonl(folder / "train.jsonl", rows)
    return classify(settings(folder, train=str(train), on_bad_record="skip", max_steps=2, evaluate_every=2))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_that_classify_skips_are_listed(finished: ClassifyRun) -> None:
    listed = lines(finished.folder / "rejects.jsonl")
    assert [(one["file"], one["line"]) for one in listed] == [("train.jsonl", line) for line in (5, 9, 13)]
    assert all(one["reason"] for one in listed)
    result = json.loads((finished.folder / "result.json").read_text(encoding="utf-8"))
    assert result["rejected"] == 3
    assert result["unread_fields"] == {"court": 90}
    assert result["unread_files"] == {"count": 0, "files": []}
    assert (result["fields"]["text"], result["fields"]["label"]) == ("text", "label")
    assert sum(result["examples"].values()) == 87


def test_skipped_records_are_on_the_page_the_card_and_the_screen(finished: ClassifyRun) -> None:
    screen = Console(file=io.StringIO(), width=200)
    print_classify(finished.report, screen)
    shown = [(finished.folder / name).read_text(encoding="utf-8") for name in ("report.html", "README.md")]
    shown.append(screen.file.getvalue())  # type: ignore[attr-defined]
    for text in shown:
        assert "3 records were left out" in text
        assert "court (90)" in text.replace("\\", "")
    assert "text read from" in shown[0]


def test_records_that_evaluate_skips_are_listed(
    finished: ClassifyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [{**row, "judge": "x"} for row in records(30, seed=5)]
    rows[2]["label"] = "n/a"
    test = write_jsonl(tmp_path / "fresh.jsonl", rows)
    asked = EvaluateSettings(
        test=str(test),
        model=(str(finished.folder),),
        output=tmp_path / "found",
        on_bad_record="skip",
        dtype="float32",
        quiet=True,
    )
    result = run(asked)
    (reject,) = lines(tmp_path / "found" / "rejects.jsonl")
    assert (reject["file"], reject["line"]) == ("fresh.jsonl", 3)
    assert (result["rejected"], result["unread_fields"]) == (1, {"judge": 30})
    assert json.loads((tmp_path / "found" / "result.json").read_text(encoding="utf-8"))["rejected"] == 1
    assert result["models"][0]["test"]["examples"] == 29
    for text in (capsys.readouterr().out, (tmp_path / "found" / "report.html").read_text(encoding="utf-8")):
        flat = " ".join(text.split())
        assert "1 record was left out" in flat
        assert "fresh.jsonl, line 3" in flat
        assert "judge (30)" in flat
