"""The run folder: it overwrites neither foreign files nor finished runs, and its errors say what to do."""

from __future__ import annotations

import errno
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from domain_ft.errors import CheckpointError, SettingsError
from domain_ft.evaluation.scores import Scores
from domain_ft.report.run_folder import RunFolder


def line(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": step * 10, "loss": 5.0 / step}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "legal")


def test_a_new_folder_is_made_with_its_parents(run: RunFolder) -> None:
    assert run.path.is_dir()
    assert list(run.path.iterdir()) == []


def test_a_folder_with_only_a_file_of_the_system_is_accepted(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    assert RunFolder.create(tmp_path).path == tmp_path


def test_a_finished_run_is_left_alone(run: RunFolder) -> None:
    run.write_config("rank = 16\n")
    run.write_result({"command": "adapt"})
    for resume in (False, True):
        with pytest.raises(SettingsError, match="finished"):
            RunFolder.create(run.path, resume=resume)
    assert RunFolder.open(run.path).read_result() == {"command": "adapt"}


def test_an_unfinished_run_continues_only_with_resume(run: RunFolder) -> None:
    run.write_config("rank = 16\n")
    with pytest.raises(SettingsError, match="--resume"):
        RunFolder.create(run.path)
    assert RunFolder.create(run.path, resume=True) == run
    with pytest.raises(SettingsError, match="can be continued with --resume"):
        RunFolder.open(run.path)


def test_foreign_files_are_named_and_left(tmp_path: Path) -> None:
    for name in ("thesis.tex", "a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("mine")
    for resume in (False, True):
        with pytest.raises(SettingsError):
            RunFolder.create(tmp_path, resume=resume)
    with pytest.raises(SettingsError, match=r"a\.txt, b\.txt, c\.txt and 1 more"):
        RunFolder.create(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_folder_with_nothing_to_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        RunFolder.create(tmp_path / "new", resume=True)
    with pytest.raises(SettingsError, match="is empty"):
        RunFolder.create(tmp_path, resume=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("below", ["", "runs/legal"])
def test_a_file_is_no_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingsError, match="is a file"):
        RunFolder.create(tmp_path / "file" / below)


def test_no_permission_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(SettingsError, match=r"cannot be written: Permission denied(.|\n)*you may write to"):
        RunFolder.create(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_reported_with_what_to_do(run: RunFolder) -> None:
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"No space left(.|\n)*make room(.|\n)*--resume"):
        run.append_metrics(line(1))


def test_metrics_are_kept_line_by_line(run: RunFolder) -> None:
    assert run.read_metrics() == []
    for step in range(1, 6):
        run.append_metrics(line(step))
    assert run.read_metrics() == [line(step) for step in range(1, 6)]
    run.truncate_metrics(3)
    run.append_metrics(line(4))
    assert [one["step"] for one in run.read_metrics()] == [1, 2, 3, 4]


def test_a_line_that_was_cut_short_is_dropped(run: RunFolder) -> None:
    run.append_metrics(line(1))
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.read_metrics() == [line(1)]
    run.truncate_metrics(5)
    run.append_metrics(line(2))
    assert run.read_metrics() == [line(1), line(2)]


def test_a_damaged_line_before_the_last_is_named(run: RunFolder) -> None:
    run.metrics.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(CheckpointError, match="line 2"):
        run.read_metrics()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_refused(run: RunFolder, bad: float) -> None:
    with pytest.raises(ValueError, match=r"after\.domain\.loss"):
        run.write_result({"after": {"domain": {"loss": bad}}, "steps": 3})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append_metrics({"step": 1, "loss": bad})
    assert not run.finished


def test_a_damaged_result_is_named(run: RunFolder) -> None:
    run.result.write_text('{"command": ')
    with pytest.raises(CheckpointError, match=r"result\.json"):
        run.read_result()


def test_the_result_is_written_as_json_without_change(run: RunFolder) -> None:
    result = {"model": "法律", "before": {"domain": {"loss": 0.1 + 0.2, "tokens": 3}}, "list": [1, 2.5]}
    run.write_result(result)
    assert json.loads(run.result.read_text(encoding="utf-8")) == result
    assert [entry.name for entry in run.path.iterdir()] == ["result.json"]


def test_scores_are_written_to_files_of_their_own(run: RunFolder) -> None:
    scores = Scores(("a",), np.array([1.5]), np.array([2]), np.array([7]))
    path = run.scores("before", "domain")
    assert path == run.path / "scores" / "before-domain.json"
    run.write_scores(path, scores)
    assert Scores.load(path).summary() == scores.summary()
    shutil.rmtree(path.parent)
    path.parent.touch()
    with pytest.raises(CheckpointError, match="scores"):
        run.write_scores(run.scores("after", "control"), scores)


def test_check_creates_nothing(tmp_path: Path) -> None:
    """`check` raises what `create` would raise; a dry run calls it."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    RunFolder(tmp_path / "new" / "deep").check()
    for path, said in (("file", "is a file"), ("file/below", "is below one"), ("full", "holds no run")):
        with pytest.raises(SettingsError, match=said):
            RunFolder(tmp_path / path).check()
    with pytest.raises(SettingsError, match="nothing to resume"):
        RunFolder(tmp_path / "new").check(resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


@pytest.mark.parametrize("verb", ["adapt", "classify", "tag", "instruct"])
def test_every_dry_run_checks_its_output_first(verb: str, tmp_path: Path) -> None:
    import importlib

    (tmp_path / "mine.txt").write_text("kept")
    data = {"adapt": "corpus", "classify": "train", "tag": "train", "instruct": "data"}[verb]
    kind = getattr(importlib.import_module(f"domain_ft.verbs.{verb}.settings"), f"{verb.capitalize()}Settings")
    asked = kind(**{data: "nowhere.jsonl", "model": "nowhere", "output": tmp_path, "dry_run": True, "quiet": True})
    with pytest.raises(SettingsError, match="is not empty"):
        importlib.import_module(f"domain_ft.verbs.{verb}.run").run(asked)
