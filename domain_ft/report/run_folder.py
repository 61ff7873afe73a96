"""The run folder: its files, a lock against other writers, and atomic writes.

    config.toml      every setting and the provenance: enough to repeat the run
    metrics.jsonl    a line for each logged step
    scores/          the losses by document, before and after, on the domain and the control
    adapter/         in PEFT's format
    checkpoints/     step-N/
    rejects.jsonl    the records that were skipped because they could not be read
    README.md        the model card
    report.html      the report
    result.json      written last: with it, the run is finished

Some verbs write further files. A folder has one run, written by one process at a time (`claimed`). A new run never
overwrites the files of another.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain_ft.errors import CheckpointError, SettingsError
from domain_ft.evaluation.scores import Scores
from domain_ft.files import refuse_unwritable
from domain_ft.json_files import read_result
from domain_ft.locks import in_use, is_locked, only_writer
from domain_ft.storage import storage_error, write_atomic, write_json

_LOCK = ".in-use"
_NAMED = 3  # files that a message names


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run, and how to read and write them. Made by `create`, `claimed` or `open`.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, *, resume: bool = False) -> RunFolder:
        """The folder for a run: new or empty, or with `resume` one with an unfinished run.

        Raises:
            SettingsError: the folder has a run or other files, is not a folder, or cannot be written; or there is
                nothing to resume.
        """
        run = cls(path)
        run.check(resume=resume)
        run._check_writable()
        return run

    def check(self, *, resume: bool = False) -> None:
        """Check the folder as `create` does, but change nothing: for --dry-run.

        Raises:
            SettingsError: as `create`.
        """
        held = self._held()
        if resume:
            self._check_unfinished(held)
        else:
            self._check_empty(held)
        refuse_unwritable(self.path, "--output")

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, path: Path, *, resume: bool = False) -> Iterator[RunFolder]:
        """`create`, with the folder locked inside the block, so that no other process can write a run to it.

        Raises:
            SettingsError: as `create`; or another process, which the message names, is using the folder.
        """
        lock = path / _LOCK
        if is_locked(lock):  # first, since the checks of `create` would report the other process's files
            raise in_use(lock, path)
        cls.create(path, resume=resume)
        with only_writer(lock, path):
            yield cls.create(path, resume=resume)  # again, since another process may have written a run meanwhile

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a finished run.

        Raises:
            SettingsError: there is no finished run.
        """
        run = cls(path)
        if not run.finished:
            raise SettingsError(
                f"'{path}' holds no finished run (no result.json)",
                fix="give the folder of a finished run"
                + ("; this run can be continued with --resume" if run.config.is_file() else ""),
            )
        return run

    @property
    def config(self) -> Path:
        """config.toml."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def adapter(self) -> Path:
        """The folder that PEFT loads."""
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, step-N/."""
        return self.path / "checkpoints"

    @property
    def rejects(self) -> Path:
        """rejects.jsonl."""
        return self.path / "rejects.jsonl"

    @property
    def card(self) -> Path:
        """README.md, the model card."""
        return self.path / "README.md"

    @property
    def report(self) -> Path:
        """report.html."""
        return self.path / "report.html"

    @property
    def result(self) -> Path:
        """result.json."""
        return self.path / "result.json"

    def scores(self, when: str, role: str) -> Path:
        """The file of scores for `when` (`before` or `after`) and `role` (`domain` or `control`)."""
        return self.path / "scores" / f"{when}-{role}.json"

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.result.is_file()

    def write_config(self, text: str) -> None:
        """Write config.toml, the TOML `text` of the settings."""
        with self.writing():
            write_atomic(self.config, text)

    def write_scores(self, path: Path, scores: Scores) -> None:
        """Write scores to a `path` from `self.scores`."""
        with self.writing():
            path.parent.mkdir(exist_ok=True)
            scores.save(path)

    def write_card(self, text: str) -> None:
        """Write README.md, the model card."""
        with self.writing():
            write_atomic(self.card, text)

    def write_report(self, text: str) -> None:
        """Write report.html."""
        with self.writing():
            write_atomic(self.report, text)

    def write_lines(self, path: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records to a `path` in the folder, one JSON object per line."""
        with self.writing():
            write_atomic(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl, and flush it."""
        with self.writing(), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after `step`, which a resumed run writes again, and an incomplete last line."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        with self.writing():
            write_atomic(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without an incomplete last line.

        Raises:
            CheckpointError: a line before the last is damaged.
        """
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        read = [_parsed(line) for line in lines]
        if read and read[-1] is None:
            read.pop()
        whole = [line for line in read if line is not None]
        if len(whole) < len(read):
            raise CheckpointError(
                "a line of the run's metrics is damaged",
                where=f"{self.metrics}, line {read.index(None) + 1}",
                fix="remove that line",
            )
        return whole

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, which marks the run as finished: call it last.

        Raises:
            ValueError: a number in it is not finite; the message names it.
        """
        for place, value in _numbers(result, ""):
            if not math.isfinite(value):
                raise ValueError(f"result.json: {place} is {value}")
        with self.writing():
            write_json(self.result, result)

    def read_result(self) -> dict[str, Any]:
        """result.json of a finished run.

        Raises:
            SettingsError: the run is not finished.
            CheckpointError: the file is damaged: not a JSON object, or a value of the wrong type.
        """
        self.open(self.path)
        return read_result(self.path)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of the operating system inside the block into errors about this folder.

        Raises:
            CheckpointError: for every OSError, such as a full disk.
        """
        try:
            yield
        except OSError as error:
            explained = storage_error(
                error, where=self.path, then="continue with --resume", kind=CheckpointError, doing="written"
            )
            if explained is None:
                named = error.filename or self.path
                explained = CheckpointError(
                    f"{named} cannot be written: {error.strerror or error}",
                    where=str(self.path),
                    fix="check that the folder still exists at this path; then continue with --resume",
                )
            raise explained from error

    def _held(self) -> set[str]:
        """The names of everything in the folder, except hidden files."""
        try:
            return {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        except FileNotFoundError:
            return set()
        except NotADirectoryError as error:
            raise SettingsError(
                f"--output {self.path} is a file, or is below one",
                fix="give a folder that is new or empty",
            ) from error
        except OSError as error:
            raise self._unusable("read", error) from error

    def _unusable(self, verb: str, error: OSError) -> SettingsError:
        """The error for a folder that cannot be read or written."""
        explained = storage_error(error, where=self.path)
        return SettingsError(
            f"--output {self.path} cannot be {verb}: {error.strerror or error}",
            where=explained.where if explained else None,
            fix="give an --output in a folder that you may write to, on a disk with room",
        )

    def _check_empty(self, held: set[str]) -> None:
        if self.finished:
            raise SettingsError(
                f"--output {self.path} holds a finished run",
                fix="give another --output, or remove that folder if you do not need it",
            )
        if self.config.is_file():
            raise SettingsError(
                f"--output {self.path} holds an unfinished run",
                fix="continue it with --resume, or give another --output",
            )
        if held:
            named = ", ".join(sorted(held)[:_NAMED]) + (f" and {len(held) - _NAMED} more" if len(held) > _NAMED else "")
            raise SettingsError(
                f"--output {self.path} is not empty and holds no run",
                where=named,
                fix="give a folder that is new or empty; nothing was changed",
            )

    def _check_unfinished(self, held: set[str]) -> None:
        if self.finished:
            raise SettingsError(
                f"--resume: the run in {self.path} is finished",
                fix="read its report.html, or start a new run with another --output",
            )
        if not self.config.is_file():
            state = "holds other files" if held else "is empty" if self.path.is_dir() else "does not exist"
            raise SettingsError(
                f"--resume: there is nothing to resume: {self.path} {state}",
                fix="leave --resume out to start a run, or give the --output of the run that was stopped",
            )

    def _check_writable(self) -> None:
        """Create the folder and write to it, so that errors appear now, not after an hour of training."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(b"\0" * 4096)
        except OSError as error:
            raise self._unusable("written to", error) from error


@contextlib.contextmanager
def report_folder(path: Path | None) -> Iterator[RunFolder | None]:
    """The folder for the result of a verb that only measures; None without --output."""
    if path is None:
        yield None
        return
    with RunFolder.claimed(path) as folder:
        yield folder


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is damaged."""
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """(path such as `after.domain.loss`, number) for all floats in nested JSON values."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{place}[{index}]")
    elif isinstance(value, float):
        yield place, value
