"""OUTPUT.state.jsonl: the model, options and texts behind an output, so that --resume cannot mix two models' answers.

The first line names the model and options. Each further line is a digest of the texts behind an answer, in the order of
the output; it is on disk before the answer is written. The file is kept when the output is finished, because the input
may grow and --resume then answers the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from domain_ft.errors import SettingsError
from domain_ft.storage import write_atomic

_KEYS = frozenset({"command", "model", "models", "options", "begun"})
_DIGEST = 16  # hexadecimal digits
_LONGEST_HEADER = 1 << 20  # bytes


@dataclass(frozen=True)
class Identity:
    """What the answers depend on besides the input.

    Attributes:
        command: the verb.
        model: the name of the model, for messages only: the same model may later have another path.
        models: the digest of each model that answers.
        options: the options that affect answers, such as `--max-new-tokens`, with their values as in JSON.
        begun: the date (YYYY-MM-DD) on which the output was started, for chat templates that write it.
    """

    command: str
    model: str
    models: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    begun: str = ""


def state_path(output: Path) -> Path:
    """The path of an output's state file."""
    return output.with_name(f"{output.name}.state.jsonl")


def read_header(output: Path) -> dict[str, Any] | None:
    """The first line of an output's state; None if there is no such file, or it is not ours."""
    try:
        with state_path(output).open("rb") as file:
            header = json.loads(file.readline(_LONGEST_HEADER))
    except (OSError, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) and header.keys() == _KEYS else None


class State:
    """The state file of an output.

    Args:
        output: the file of answers.
        identity: the identity of this call.
    """

    def __init__(self, output: Path, identity: Identity) -> None:
        self._output, self._path, self._identity = output, state_path(output), identity
        self._file: IO[bytes] | None = None

    def check(self) -> None:
        """Check that the answers in the output came from this model and these options.

        Raises:
            SettingsError: they did not, or the state file is missing or damaged; nothing was changed.
        """
        header = read_header(self._output)
        if header is None:
            raise SettingsError(
                f"--resume: the model and options behind the answers in {self._output} are not known, because "
                f"{self._path} is missing or damaged",
                fix="restore that file, give another --output, or delete both and start again; nothing was changed",
            )
        ours = json.loads(json.dumps(asdict(self._identity)))
        differing = []
        if header["command"] != ours["command"]:
            differing.append(f"`{header['command']}` wrote it, not `{ours['command']}`")
        elif header["models"] != ours["models"]:
            same = " (the files of that model have changed)" if header["model"] == ours["model"] else ""
            differing.append(f"its answers are from another model: '{header['model']}'{same}")
        then = header["options"] if isinstance(header["options"], dict) else {}
        for option in dict.fromkeys([*ours["options"], *then]):
            before, now = then.get(option), ours["options"].get(option)
            if before != now:
                differing.append(
                    f"it was started with {_spelled(option, before)}, this call has {_spelled(option, now)}"
                )
        if differing:
            raise SettingsError(
                f"--resume: {self._output} cannot be continued: {'; '.join(differing)}",
                fix="give the model and options that it was started with, or another --output; nothing was changed",
            )

    def digests(self) -> Iterator[str]:
        """The digests of the texts behind the lines of the output, in order."""
        with self._path.open("rb") as file:
            file.readline()
            for line in file:
                yield line.strip().decode("ascii", "replace")

    def begin(self, done: int) -> None:
        """Open the file for writing: a new one if nothing is answered yet, else that of the earlier call, truncated to
        its header and `done` digests."""
        if done:
            with self._path.open("rb") as file:
                size = len(file.readline()) + done * (_DIGEST + 1)
            os.truncate(self._path, size)
        else:
            write_atomic(self._path, json.dumps(asdict(self._identity)) + "\n")
        self._file = self._path.open("ab")

    def add(self, read: Iterable[tuple[str, ...]]) -> None:
        """Record the texts that are about to be answered, and sync the file to disk."""
        assert self._file is not None
        self._file.write(b"".join(digest(one).encode() + b"\n" for one in read))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def remove(self) -> None:
        """Remove the file of a call that has answered nothing."""
        self.close()
        if read_header(self._output) is not None:
            self._path.unlink()


def digest(read: tuple[str, ...]) -> str:
    """A digest of the texts that one answer depends on."""
    data = json.dumps(read).encode()
    return hashlib.blake2b(data, digest_size=_DIGEST // 2).hexdigest()


def state_is_ours(output: Path) -> bool:
    """Whether an output's state file may be replaced: it does not exist, or it is ours."""
    path = state_path(output)
    if not (path.exists() or path.is_symlink()):
        return True
    return path.is_file() and not path.is_symlink() and read_header(output) is not None


def _spelled(option: str, value: Any) -> str:
    """An option with its value, as on the command line."""
    if value is None:
        return f"no {option}"
    if isinstance(value, bool):
        return option if value else f"--no-{option.removeprefix('--')}"
    return f"{option} {value}"
