"""Files are compared by identity, not by name, and checks change nothing."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from domain_ft.errors import SettingsError
from domain_ft.files import refuse_folder, refuse_same, refuse_unwritable, same_file, writing


def test_every_name_of_a_file_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "notes.jsonl"
    file.write_text("{}\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "soft").symlink_to(file)
    os.link(file, tmp_path / "hard")
    for other in ("notes.jsonl", "./notes.jsonl", "folder/../notes.jsonl", tmp_path / "soft", tmp_path / "hard"):
        assert same_file(file, other)
    with file.open() as opened:
        assert same_file(opened, "soft")
    copy = tmp_path / "copy"
    copy.write_text("{}\n")
    assert not same_file(file, copy)
    assert not same_file(file, "absent")
    assert same_file("folder", tmp_path / "folder")


def test_files_that_do_not_exist_yet_are_compared_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    assert same_file("new", tmp_path / "new")
    assert same_file("link/new", "folder/new")
    assert same_file("dangling", "new")
    assert not same_file("new", "other")


def test_case_matters_if_the_file_system_distinguishes_it(tmp_path: Path) -> None:
    (tmp_path / "Probe").touch()
    ignores_case = (tmp_path / "pROBE").exists()
    assert same_file(tmp_path / "out", tmp_path / "OUT") == ignores_case


def test_devices_and_pipes_are_never_the_same_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert not same_file("/dev/null", "/dev/null")
    assert not same_file(pipe, pipe)


def test_two_options_for_one_file_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("kept")
    refuse_same({"--input a": file, "--output b": tmp_path / "b", "--rejects": None})
    with pytest.raises(SettingsError, match="--input a and --output b are the same file"):
        refuse_same({"--input a": file, "--output b": str(file)})
    assert file.read_text() == "kept"


def test_unwritable_paths_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path, said in (
        (file / "below", "a file, not a folder"),
        (file / "far" / "below", "a file, not a folder"),
        (tmp_path / "link" / "x", "a symbolic link to nothing"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(SettingsError, match=said):
            refuse_unwritable(path, "--output")
    with pytest.raises(SettingsError, match=r"--output .* is a folder"):
        refuse_folder(tmp_path, "--output")
    refuse_unwritable(tmp_path / "new" / "deep" / "file", "--output")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "link"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(SettingsError, match="is not writable"):
        refuse_unwritable(folder / "x", "--output")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
@pytest.mark.parametrize("path", ["/proc/nobody/out", "/proc/out", "/sys/out", "/sys/kernel/deep/out"])
def test_places_where_nobody_can_write_are_refused_at_the_start(path: str) -> None:
    with pytest.raises(SettingsError, match=f"--output {path}.*(cannot|may not) be written"):
        refuse_unwritable(Path(path), "--output")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EINVAL, errno.ENOSPC, errno.EIO, errno.ENXIO, errno.ENOENT])
def test_any_system_error_about_an_output_is_an_error_for_the_user(tmp_path: Path, number: int) -> None:
    with pytest.raises(SettingsError) as caught, writing(tmp_path / "out", "--output"):
        raise OSError(number, os.strerror(number), str(tmp_path / "out"))
    assert str(tmp_path / "out") in str(caught.value) and os.strerror(number) in str(caught.value)
    assert "give --output a path" in str(caught.value.fix)
