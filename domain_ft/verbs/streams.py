"""Files that are read and answered line by line: the output, what was left out, and going on where a call stopped.

`predict` and `generate` share it: memory does not depend on how many lines there are, and what was stopped goes on with
--resume. The input is read again, which is cheap, and answered after the last whole line of the output.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.errors import SettingsError


class Named(Protocol):
    """What is answered: a text, a prompt."""

    @property
    def id(self) -> str: ...


class StreamOptions(Protocol):
    """The settings of a verb that reads --input and writes --output."""

    @property
    def input(self) -> str | None: ...
    @property
    def output(self) -> Path | None: ...
    @property
    def resume(self) -> bool: ...
    @property
    def json(self) -> bool: ...


@dataclass
class Output:
    """Where lines go, and what an earlier call has written there.

    Attributes:
        file: to write to.
        done: whole lines of an earlier call.
        last: the id in the last of them.
    """

    file: TextIO
    done: int = 0
    last: str | None = None

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write a batch; it is with the system when this returns."""
        for line in lines:
            self.file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self.file.flush()


def check_streams(settings: StreamOptions, written: str) -> None:
    """Refuse options that cannot go together, and an input that is not there. `written`: what the lines are.

    Raises:
        SettingsError: with what to give.
    """
    if settings.json and not settings.output:
        raise SettingsError(
            f"--json without --output: the {written} and the result cannot both go to standard output",
            fix=f"give --output F, or leave --json out: the {written} are JSON lines in any case",
        )
    if settings.resume and not settings.output:
        raise SettingsError("--resume without --output: there is nothing to go on with", fix="give the --output F")
    if settings.input != "-" and not Path(str(settings.input)).is_file():
        raise SettingsError(
            f"--input {settings.input}: there is no such file", fix="check the path; - is standard input"
        )


@contextlib.contextmanager
def open_output(settings: StreamOptions, stdout: TextIO) -> Iterator[Output]:
    """Standard output, a new file, or with --resume one whose last line may be cut.

    Raises:
        SettingsError: the file is there and is not to be gone on with, or holds something else.
    """
    path = settings.output
    if path is None:
        yield Output(stdout)
        return
    if path.exists() and not settings.resume:
        raise SettingsError(
            f"--output {path} exists already",
            fix="go on with it by --resume, remove it, or give another name; nothing was changed",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    done, last = _cut_to_whole_lines(path) if path.exists() else (0, None)
    with path.open("a", encoding="utf-8") as file:
        yield Output(file, done, last)


def _cut_to_whole_lines(path: Path) -> tuple[int, str | None]:
    """Drop a last line that was cut short; the number of lines that are left, and the id in the last of them."""
    lines, end, last = 0, 0, b""
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines, end, last = lines + 1, end + len(line), line
        file.truncate(end)
    try:
        return lines, str(json.loads(last)["id"]) if last else None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"--resume: {path} holds something else than JSON lines with an id", fix="give another --output"
        ) from error


def pass_over(items: Iterator[Named], output: Output, settings: StreamOptions) -> None:
    """Read what an earlier call has answered, and make sure that it is this input.

    Raises:
        SettingsError: the input has something else in that place.
    """
    last = next(itertools.islice(items, output.done - 1, None), None) if output.done else None
    if output.done and (last is None or last.id != output.last):
        raise SettingsError(
            f"--resume: line {output.done:,} of {settings.output} answers '{output.last}', which is not what --input "
            f"has there",
            fix="give the input that the output was begun with, or another --output",
        )


class Rejects:
    """A file of the records that could not be read, in their order; it is there only if there are any."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._file: TextIO | None = None
        path.unlink(missing_ok=True)  # the input is read from its beginning, so all of them are found again

    def add(self, reject: Reject) -> None:
        """List a record."""
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
        self._file.flush()
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


@contextlib.contextmanager
def open_rejects(settings: StreamOptions, path: Path | None = None) -> Iterator[Rejects | None]:
    """`path`, or OUTPUT.rejects.jsonl; None where a bad record stops the reading."""
    if path is None and settings.output:
        path = settings.output.with_name(f"{settings.output.name}.rejects.jsonl")
    if path is None:
        yield None
        return
    rejects = Rejects(path)
    try:
        yield rejects
    finally:
        rejects.close()


def bad_records(rejects: Rejects | None, encoding: str | None = None) -> BadRecords:
    """What becomes of a record that cannot be read: it is listed, or where there is no list it stops the reading."""
    return BadRecords("skip", rejects.add, encoding) if rejects else BadRecords("stop", _never, encoding)


def _never(reject: Reject) -> None:
    raise AssertionError(reject)
