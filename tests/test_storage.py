"""Messages about disks that are full or not writable; failed writes leave nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from domain_ft.errors import StorageError
from domain_ft.storage import (
    WriteError,
    as_os_error,
    cache_folder,
    new_folder,
    storage_error,
    user_path,
    write_atomic,
)


def test_a_full_disk_is_reported_with_path_free_space_and_advice(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a" / "b"))
    told = storage_error(full, "the checkpoint", then="go on with --resume")
    assert told is not None
    assert told.what == "the checkpoint cannot be written: No space left on device"
    assert str(told.where).startswith(f"{tmp_path / 'a' / 'b'} (")
    assert "free on this disk" in str(told.where)
    assert str(told.fix).startswith("make room there")
    assert str(told.fix).endswith("then go on with --resume")


def test_the_advice_names_the_variable_that_moves_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    told = storage_error(OSError(errno.EDQUOT, "quota", str(tmp_path / "cache" / "tokens")))
    assert told is not None
    assert "DOMAIN_FT_CACHE=FOLDER" in str(told.fix)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EIO, errno.ENOTDIR])
def test_errors_of_reading_do_not_mention_writing(tmp_path: Path, number: int) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "a"))
    told = storage_error(error)
    assert told is not None
    assert told.what == f"{tmp_path / 'a'} cannot be opened: {os.strerror(number)}"
    assert "write" not in str(told)
    read = storage_error(error, doing="read")
    assert read is not None
    assert "cannot be read" in read.what
    with pytest.raises(WriteError) as raised, new_folder(tmp_path / "merged"):
        raise OSError(number, os.strerror(number))
    written = storage_error(raised.value)
    assert written is not None
    assert written.what == f"{tmp_path / 'merged'} cannot be written: {os.strerror(number)}"


def test_other_errors_are_bugs() -> None:
    assert storage_error(ValueError("no")) is None
    assert storage_error(FileNotFoundError(errno.ENOENT, "gone", "/x")) is None
    assert storage_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) is None


def test_a_library_in_rust_reports_the_systems_error() -> None:
    found = as_os_error(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert found is not None
    assert found.errno == errno.ENOSPC
    assert as_os_error(RuntimeError("no")) is None


class SafetensorError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_folder_that_cannot_be_filled_is_named_and_absent(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as raised, new_folder(tmp_path / "merged") as folder:
        (folder / "half").write_text("half")
        raise error
    assert raised.value.filename == str(tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as raised, new_folder(tmp_path / "merged"):
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/shadow")
    assert raised.value.filename == "/etc/shadow"


@pytest.mark.parametrize("step", ["fsync", "replace", "mkstemp"])
def test_a_file_is_complete_or_unchanged(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"fsync": "os.fsync", "replace": "pathlib.Path.replace", "mkstemp": "tempfile.mkstemp"}[step]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as raised:
        patch.setattr(target, full)
        write_atomic(path, "new")
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_that_is_a_file_is_named(below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("mine")
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache" / below))
    with pytest.raises(StorageError, match=r"cache folder .*cache.* cannot be used(.|\n)*DOMAIN_FT_CACHE=FOLDER"):
        cache_folder("tokens")
    assert (tmp_path / "cache").read_text() == "mine"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)  # root can write to every folder
    with pytest.raises(StorageError, match="Permission denied"):
        cache_folder("tokens")


def test_the_home_of_an_unknown_user_is_an_ordinary_path() -> None:
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert user_path("~/x") == Path.home() / "x"
