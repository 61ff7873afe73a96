"""Files and streams that the user names as input: which are streams, which are JSON lines, which cannot be read."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from domain_ft.corpus.inputs import input_records, is_stream
from domain_ft.corpus.readers.base import BadRecords
from domain_ft.errors import CorpusError, RecordError

RECORDS = [{"text": "Löwe und {Maus}"}, {"text": "骨"}]
JSON_LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def fields(spec: Path | BinaryIO, encoding: str | None = None) -> list[Any]:
    return [dict(record.fields) for record, _ in input_records(spec, BadRecords("stop", print, encoding))]


class Raw(io.RawIOBase):
    """A raw stream that returns at most 16 bytes per read."""

    def __init__(self, data: bytes) -> None:
        self.source = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.source.read(min(16, len(buffer)))
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("make", [io.BytesIO, Raw, lambda data: io.BufferedReader(Raw(data))])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n\t"])
@pytest.mark.parametrize("encoding", [None, "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_stream_that_begins_with_a_brace_is_json_lines(make: Any, before: str, encoding: str | None) -> None:
    assert fields(make((before + JSON_LINES).encode(encoding or "utf-8")), encoding) == RECORDS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-7"])
def test_json_lines_are_recognised_in_other_encodings(encoding: str) -> None:
    assert fields(io.BytesIO(JSON_LINES.encode(encoding)), encoding) == RECORDS


def test_any_other_stream_has_a_text_in_each_line() -> None:
    source = io.BytesIO("[1]\n\n骨 {x}\n".encode())
    assert fields(source) == [{"text": "[1]"}, {"text": "骨 {x}"}]
    assert not source.closed
    assert fields(io.BytesIO("Löwe\n".encode("utf-16")), "utf-16") == [{"text": "Löwe"}]


def test_a_stream_that_cannot_be_read_is_one_bad_record() -> None:
    class Broken(Raw):
        def readinto(self, buffer: Any) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(RecordError, match="the file cannot be read: Input/output error"):
        fields(io.BufferedReader(Broken(b"")))


def test_a_regular_file_is_no_stream_wherever_it_is() -> None:
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK):
        pytest.skip("no /dev/shm here")
    path = place / f"domain-ft-{os.getpid()}.jsonl.gz"
    try:
        path.write_bytes(gzip.compress(JSON_LINES.encode()))
        assert not is_stream(path)
        assert fields(path) == RECORDS
    finally:
        path.unlink()


def test_what_can_be_read_only_once_is_a_stream(tmp_path: Path) -> None:
    path, pipe = tmp_path / "a.jsonl", tmp_path / "pipe"
    path.write_text(JSON_LINES, encoding="utf-8")
    os.mkfifo(pipe)
    assert [is_stream(one) for one in (path, tmp_path, tmp_path / "absent", tmp_path / ("a" * 300))] == [False] * 4
    assert is_stream(pipe) and is_stream(Path("/dev/null"))
    with path.open("rb") as file:
        descriptor = Path(f"/dev/fd/{file.fileno()}")
        assert is_stream(descriptor)
        assert fields(descriptor) == RECORDS
    writer = threading.Thread(target=lambda: pipe.write_text(JSON_LINES, encoding="utf-8"))
    writer.start()
    assert fields(pipe) == RECORDS
    writer.join()


def test_what_cannot_be_opened_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("plug")
        with pytest.raises(CorpusError, match="this is a socket, not a file"):
            fields(Path("plug"))
        with pytest.raises(CorpusError, match="this cannot be read: No such device or address") as caught:
            fields(Path(f"/dev/fd/{plug.fileno()}"))
        assert caught.value.fix == "write the data to a file, and name that file"
    with pytest.raises(CorpusError, match="this is a folder, not a file"):
        fields(tmp_path)
    with pytest.raises(CorpusError, match="no such file") as caught:
        fields(tmp_path / "absent")
    assert caught.value.fix == "check the path"  # no mention of -: not every option reads standard input
    with pytest.raises(CorpusError, match="this cannot be read: File name too long"):
        fields(tmp_path / ("a" * 300))


def test_a_pipe_without_read_permission_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> BinaryIO:
        raise PermissionError(13, "Permission denied", str(path))

    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(Path, "open", refuse)  # because root may read everything
    with pytest.raises(CorpusError, match="this cannot be read: Permission denied") as caught:
        fields(tmp_path / "pipe")
    assert caught.value.fix == "give yourself the right to read it"
