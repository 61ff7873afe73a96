"""One writer per path: a second one is told who holds it, and a crash leaves nothing locked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from domain_ft.errors import SettingsError
from domain_ft.locks import is_locked, only_writer, refuse_below_file, writing_beside
from domain_ft.report.run_folder import RunFolder

FORK = multiprocessing.get_context("fork")


def hold(path: Path, resume: bool, ready: Connection) -> None:
    with RunFolder.claimed(path, resume=resume):
        ready.send("held")
        time.sleep(60)


@pytest.fixture(params=[False, True], ids=["new", "resumed"])
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bool, multiprocessing.process.BaseProcess]:
    path, resume = tmp_path / "run", request.param
    if resume:
        RunFolder.create(path).write_config("rank = 1\n")
    here, there = FORK.Pipe()
    process = FORK.Process(target=hold, args=(path, resume, there))
    process.start()
    request.addfinalizer(process.join)
    request.addfinalizer(process.kill)
    assert here.recv() == "held"
    return path, resume, process


def test_the_second_run_is_told_who_holds_the_folder(
    holder: tuple[Path, bool, multiprocessing.process.BaseProcess],
) -> None:
    path, resume, process = holder
    before = sorted(entry.name for entry in path.iterdir())
    with pytest.raises(SettingsError) as refused, RunFolder.claimed(path, resume=resume):
        raise AssertionError
    said = str(refused.value)
    assert f"--output {path} is in use" in said
    assert f"process {process.pid} on {os.uname().nodename}, since 20" in said
    assert "wait" in said
    assert sorted(entry.name for entry in path.iterdir()) == before


def test_a_killed_process_holds_nothing(holder: tuple[Path, bool, multiprocessing.process.BaseProcess]) -> None:
    path, resume, process = holder
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with RunFolder.claimed(path, resume=resume) as run:
        assert run.path == path
    assert sorted(entry.name for entry in path.iterdir()) == (["config.toml"] if resume else [])


def test_another_name_of_the_same_folder_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with (
        RunFolder.claimed(tmp_path / "run"),
        pytest.raises(SettingsError, match="in use"),
        RunFolder.claimed(tmp_path / "link"),
    ):
        raise AssertionError


def test_an_error_inside_releases_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with pytest.raises(ZeroDivisionError), only_writer(lock, tmp_path):
        assert is_locked(lock)
        raise ZeroDivisionError
    assert not is_locked(lock)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_file_is_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "mixed.jsonl"
    with writing_beside(target):
        assert not target.exists()
        with pytest.raises(SettingsError, match=r"mixed\.jsonl is in use"), writing_beside(target):
            raise AssertionError
    assert list(target.parent.iterdir()) == []


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingsError, match=r"--fix .*b is below .*file, which is a file"):
        refuse_below_file(tmp_path / "file" / "a" / "b", "--fix")
    refuse_below_file(tmp_path / "file")
    refuse_below_file(tmp_path / "not" / "yet")
