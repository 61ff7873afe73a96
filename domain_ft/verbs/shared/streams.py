"""Output, rejects and resuming of `predict`, `embed` and `generate` on files.

Items are read and answered in batches, so memory does not grow with their number, except for JSON files that are read
as a whole. A stopped call continues with --resume: it reads the input again, which is cheap, and answers the items that
have no line in the output yet.

No file is opened for writing, truncated or removed unless it is ours: a new file, the output of an earlier call that
answers the same input with the same model and options (`stream_state`), or a list of rejects.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, TextIO

from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.errors import SettingsError
from domain_ft.files import refuse_folder, refuse_same, refuse_special, refuse_unwritable, writing
from domain_ft.verbs.shared.stream_state import Identity, State, digest, state_is_ours, state_path
from domain_ft.wording import counted

_LONGEST_LINE = 1 << 26  # bytes; our lines are far shorter, but a foreign file may be a single line of gigabytes


class Named(Protocol):
    """An item to answer: a text or a prompt."""

    @property
    def key(self) -> str | int | float:
        """The item's id, as written to the output."""

    @property
    def read(self) -> tuple[str, ...]:
        """The texts that the answer depends on."""


class StreamOptions(Protocol):
    """The settings of a verb that reads --input and writes --output."""

    @property
    def input(self) -> str | None: ...
    @property
    def output(self) -> Path | None: ...
    @property
    def rejects(self) -> Path | None: ...
    @property
    def resume(self) -> bool: ...
    @property
    def json(self) -> bool: ...


class Resumable(Protocol):
    """An output that an earlier call may have begun."""

    @property
    def done(self) -> int:
        """The number of complete answers from an earlier call."""

    def answered(self) -> Iterator[tuple[Any, str]]:
        """(id, digest of the texts read) of each complete answer from an earlier call, in order."""

    def begin(self) -> None:
        """Prepare the files for writing; until then nothing is changed."""


class Output:
    """Standard output, or a file that may have lines of an earlier call. Nothing is changed before `begin`.

    Attributes:
        done: the number of complete lines from an earlier call.
    """

    def __init__(
        self, file: TextIO, path: Path | None = None, state: State | None = None, done: int = 0, size: int = 0
    ) -> None:
        self.done = done
        self._file, self._path, self._state, self._size = file, path, state, size

    def answered(self) -> Iterator[tuple[Any, str]]:
        """(id, digest of the texts read) of each complete line of an earlier call, in order."""
        if self._path is not None and self._state is not None and self.done:
            with self._path.open("rb") as file:
                for line, read in zip(itertools.islice(file, self.done), self._state.digests(), strict=False):
                    yield json.loads(line)["id"], read

    def begin(self) -> None:
        """Drop an incomplete last line, and prepare the state file. The output has been checked to be ours."""
        if self._path is not None and self._state is not None:
            self._state.begin(self.done)
            if self._path.stat().st_size > self._size:
                os.truncate(self._path, self._size)

    def write(self, lines: Iterable[dict[str, Any]], items: Sequence[Named]) -> None:
        """Write the lines that answer a batch of items, and flush them."""
        if self._state is not None:
            self._state.add(item.read for item in items)
        for line in lines:
            self._file.write(_json_line(line))
        self._file.flush()


def _json_line(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, as from a truncated JSON escape: keep it as an escape
        text = json.dumps(value, allow_nan=False)
    return text + "\n"


def check_streams(settings: StreamOptions, written: str, stdin: BinaryIO | None = None) -> None:
    """Refuse options that do not go together, and files that cannot be read or written. Nothing is changed.

    Args:
        written: what the output holds, for messages, such as `predictions`.
        stdin: what `--input -` reads; sys.stdin by default.

    Raises:
        SettingsError: an option or a file is refused; the error states a fix.
    """
    if settings.json and not settings.output:
        raise SettingsError(
            f"--json without --output: the {written} and the result cannot both go to standard output",
            fix=f"give --output F, or leave --json out: the {written} are JSON lines in any case",
        )
    if settings.resume and not settings.output:
        raise SettingsError(
            "--resume without --output: there is nothing to resume", fix="give the --output FILE of the earlier call"
        )
    given = str(settings.input)
    if given != "-" and Path(given).is_dir():
        raise SettingsError(f"--input {given} is a folder, not a file", fix="name a file in it; - is standard input")
    if given != "-" and not Path(given).exists():
        raise SettingsError(f"--input {given}: there is no such file", fix="check the path; - is standard input")
    for path, option in ((settings.output, "--output"), (settings.rejects, "--rejects")):
        if path is not None:
            to_stdout = f"leave --output out and redirect standard output: > {path}" if option == "--output" else ""
            refuse_special(path, option, to_stdout)
            refuse_unwritable(path, option)
            refuse_folder(path, option)
    rejects = _rejects_path(settings)
    state = state_path(settings.output) if settings.output else None
    for path, what in ((state, "the state of --output"), (rejects, "the list of rejects")):
        if path is not None:
            refuse_unwritable(path, what)
    source = (stdin or sys.stdin.buffer) if given == "-" else Path(given)
    refuse_same(
        {
            f"--input {given}": source,
            f"--output {settings.output}": settings.output,
            f"--rejects {rejects}" if settings.rejects else f"the list of rejects {rejects}": rejects,
            f"the state of --output, {state}": state,
        }
    )
    if settings.output and not settings.resume and _is_there(settings.output):
        raise _exists(settings.output)
    if settings.output and not state_is_ours(settings.output):
        raise SettingsError(
            f"{state} exists already and is not the state file of an output; --output would write its state there",
            fix="move it, or give another --output; nothing was changed",
        )
    _check_rejects(settings)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _exists(output: Path) -> SettingsError:
    return SettingsError(
        f"--output {output} exists already",
        fix="continue it with --resume, remove it, or give another name; nothing was changed",
    )


def open_input(given: str, stdin: BinaryIO | None = None) -> Path | BinaryIO:
    """The file that `--input` names, or standard input."""
    return Path(given) if given != "-" else stdin or sys.stdin.buffer


@contextlib.contextmanager
def open_output(
    settings: StreamOptions, stdout: TextIO, forms: Collection[frozenset[str]], identity: Callable[[], Identity]
) -> Iterator[Output]:
    """Standard output, a new file, or with --resume the file of an earlier call, whose last line may be incomplete.

    Args:
        forms: the sets of keys that a line of ours may have.
        identity: computes what the answers depend on; called only if a file is written, because it reads the model's
            files.

    Raises:
        SettingsError: the file exists and --resume is not given, has lines that are not ours, was started with another
            model or other options, is being written by another call, or cannot be created; or its state file is missing
            or damaged.
    """
    path = settings.output
    if path is None:
        yield Output(stdout)
        return
    there = _is_there(path)
    if there and not settings.resume:
        raise _exists(path)
    if there and not path.is_file():
        raise SettingsError(f"--resume: --output {path} is not a file", fix="give another --output")
    # Append mode keeps existing content, and "x" lets only one call create a new file.
    with contextlib.ExitStack() as stack:
        try:
            with writing(path, "--output"):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("a" if there else "x", encoding="utf-8"))
        except FileExistsError as error:
            raise _exists(path) from error
        state = None
        try:
            _lock(file, path)
            done, size = _whole_lines(path, forms)
            state = State(path, identity())
            stack.callback(state.close)
            if done:
                state.check()
            yield Output(file, path, state, done, size)
        except BaseException:
            if not there and path.stat().st_size == 0:  # so that the next call does not find an empty file
                path.unlink()
                if state:
                    state.remove()
            raise


def _lock(file: TextIO, path: Path) -> None:
    """Lock a file against other calls for as long as it is open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SettingsError(
            f"--output {path}: another call is writing it", fix="wait until it is done, or give another --output"
        ) from error
    except OSError:  # a file system without locks
        return


def _whole_lines(path: Path, forms: Collection[frozenset[str]]) -> tuple[int, int]:
    """The number of complete lines in a file of ours, and the offset where the last of them ends.

    Raises:
        SettingsError: a line is not ours; nothing was changed.
    """
    lines = end = 0
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            ours = _is_ours(line, forms) if line.endswith(b"\n") else _begins_as_ours(line)
            if not ours:
                raise SettingsError(
                    f"--resume: line {lines + 1:,} of {path} was not written by this verb",
                    fix="give another --output; nothing was changed",
                )
            if line.endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
    return lines, end


def _is_ours(line: bytes, forms: Collection[frozenset[str]]) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and frozenset(value) in forms


def _begins_as_ours(line: bytes) -> bool:
    """Whether an incomplete line may be ours: all our lines begin with the id."""
    begin = b'{"id": '
    return line.startswith(begin) or begin.startswith(line)


def pass_over(items: Iterator[Named], output: Resumable, rejects: Rejects | None, settings: StreamOptions) -> None:
    """Skip the items that an earlier call answered, check that they are the same, and prepare the files.

    Raises:
        SettingsError: the input differs; nothing was changed.
    """
    other = "give the input that the output was started with, or another --output; nothing was changed"
    compared = 0
    for number, (key, read) in enumerate(output.answered(), 1):
        item = next(items, None)
        if item is None or item.key != key:
            raise SettingsError(
                f"--resume: line {number:,} of {settings.output} answers '{key}', but --input has something else there",
                fix=other,
            )
        if digest(item.read) != read:
            raise SettingsError(
                f"--resume: line {number:,} of {settings.output} answers '{key}', whose text in --input has changed",
                fix=other,
            )
        compared = number
    if compared < output.done:
        raise SettingsError(
            f"--resume: {state_path(settings.output) if settings.output else ''} is incomplete: it has {compared:,} "
            f"of the {counted(output.done, 'text')} that were answered",
            fix="restore that file, or give another --output; nothing was changed",
        )
    output.begin()
    if rejects:
        rejects.begin()


class Rejects:
    """A file that lists the records that could not be read, in order. It exists only if there are any.

    Records found before `begin` wait in a temporary file, so that a refused call changes nothing.

    Attributes:
        path: the file, which does not exist yet or is the list of an earlier call.
    """

    def __init__(self, path: Path, left_out: LeftOut) -> None:
        self.path = path
        self._left_out = left_out
        self._waiting: IO[str] | None = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._file: TextIO | None = None

    def begin(self) -> None:
        """Replace the list of an earlier call: the input is read from the start, so all rejects are found again."""
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        with waiting:
            if self.path.is_file() and self.path.stat().st_size:
                self.path.unlink()
            if self._left_out.records:
                waiting.seek(0)
                shutil.copyfileobj(waiting, self._opened())
                self._opened().flush()

    def add(self, reject: Reject) -> None:
        """List a record."""
        file = self._waiting or self._opened()
        file.write(_json_line(asdict(reject)))
        file.flush()
        self._left_out.records += 1

    def close(self) -> None:
        """Close the file."""
        for file in (self._waiting, self._file):
            if file:
                file.close()

    def _opened(self) -> TextIO:
        if self._file is None:
            with writing(self.path, "--rejects"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", encoding="utf-8")
        return self._file


def _check_rejects(settings: StreamOptions) -> None:
    """Check that the list of rejects would not overwrite anything except an earlier list.

    The list of an earlier call is replaced if it has the default name, or with --resume.
    """
    path = _rejects_path(settings)
    if path is None or not _is_there(path):
        return
    replaced = settings.resume or settings.rejects is None
    if replaced and _lists_rejects(path):
        return
    option = "--rejects" if settings.rejects else "the list of rejects"
    raise SettingsError(
        f"{option} {path} exists already" + (" and is not a list of rejects" if replaced else ""),
        fix="remove it, or give another name with --rejects; nothing was changed",
    )


def _lists_rejects(path: Path) -> bool:
    """Whether a file is a list of rejects that domain-ft wrote; an empty file counts as one."""
    if path.is_symlink() or not path.is_file():
        return False
    form = frozenset(field.name for field in fields(Reject))
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
        return all(_is_ours(line, {form}) if line.endswith(b"\n") else line.startswith(b'{"file": ') for line in lines)


def _rejects_path(settings: StreamOptions) -> Path | None:
    """`--rejects`, or OUTPUT.rejects.jsonl; None if a bad record stops the call."""
    if settings.rejects is None and settings.output:
        return settings.output.with_name(f"{settings.output.name}.rejects.jsonl")
    return settings.rejects


@contextlib.contextmanager
def open_rejects(settings: StreamOptions, left_out: LeftOut) -> Iterator[Rejects | None]:
    """The list of unreadable records, which are counted in `left_out`; None if such a record stops the call."""
    path = _rejects_path(settings)
    if path is None:
        yield None
        return
    _check_rejects(settings)
    rejects = Rejects(path, left_out)
    try:
        yield rejects
    finally:
        rejects.close()


def bad_records(rejects: Rejects | None, encoding: str | None = None, advice: str | None = None) -> BadRecords:
    """The policy for records that cannot be read: list them, or stop if there is no list.

    Args:
        rejects: the list.
        encoding: the input's encoding; None for UTF-8.
        advice: how this verb skips such records, for the message; None if it cannot.
    """
    if rejects is None:
        return BadRecords("stop", _never, encoding, advice=advice)
    return BadRecords("skip", rejects.add, encoding)


def _never(reject: Reject) -> None:
    raise AssertionError(reject)
