"""One writer per folder or file: a lock of the operating system, with a note about the process that holds it.

The lock ends with its process, so nothing has to be cleaned up after a crash. The note is for messages only: it is
ignored unless the lock is held.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import filelock

from domain_ft.errors import SettingsError
from domain_ft.files import refuse_unwritable
from domain_ft.storage import write_json


def is_locked(lock: Path) -> bool:
    """Whether any process holds `lock`."""
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # another user's file: writing there will fail with a clear message
        return False


@contextlib.contextmanager
def only_writer(lock: Path, target: Path) -> Iterator[None]:
    """Refuse to write to `target` while another process holds `lock`, and hold it inside the block.

    The lock and its note are removed afterwards.

    Args:
        lock: the lock file, in an existing folder; the note is beside it.
        target: the folder or file, for the message.

    Raises:
        SettingsError: another process holds the lock. The message gives the process, its machine, the time at which it
            took the lock, and its command.
    """
    held = filelock.FileLock(lock)
    note = note_of(lock)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise in_use(lock, target) from None
    try:
        write_json(note, _own_note())
        yield
    finally:
        # Remove the files before releasing the lock. If a process has opened the lock file already, it then locks an
        # unlinked file; filelock notices this and retries.
        note.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def writing_beside(target: Path) -> Iterator[None]:
    """`only_writer` for a file or folder that appears at `target` when it is complete. The lock is beside `target`."""
    place = target.parent.resolve() / target.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(place.with_name(f".{place.name}.lock"), target):
        yield


def refuse_below_file(output: Path, option: str = "--output") -> None:
    """Check that no folder on the path to `output` is in fact a file, and that `output` can be created.

    Raises:
        SettingsError: a folder on the path is a file, or `output` cannot be created.
    """
    for folder in output.absolute().parents:
        if folder.exists() and not folder.is_dir():
            raise SettingsError(
                f"{option} {output} is below {folder}, which is a file", fix=f"give {option} another place"
            )
    refuse_unwritable(output, option)


def note_of(lock: Path) -> Path:
    """The file of the note about the process that holds `lock`."""
    return lock.with_name(f"{lock.name}.json")


def in_use(lock: Path, target: Path) -> SettingsError:
    """The error for a lock that another process holds."""
    return SettingsError(
        f"--output {target} is in use: another domain-ft is writing to it",
        where=_holder(note_of(lock)),
        fix="wait until it ends, stop it (ctrl-C, or kill PID), or give another --output",
    )


def _own_note() -> dict[str, object]:
    """The note about this process."""
    words = ["domain-ft", *sys.argv[1:]] if Path(sys.argv[0]).name in ("domain-ft", "__main__.py") else sys.argv
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(words),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _holder(note: Path) -> str:
    """The process that holds a lock, for a message. Its note may be missing, since it is written after locking."""
    try:
        read = json.loads(note.read_text(encoding="utf-8"))
        return f"process {read['pid']} on {read['host']}, since {read['since']}: {read['command']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that has just started"
