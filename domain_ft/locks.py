"""One writer for one folder or file: a lock of the operating system, with a note that says who holds it.

The lock goes with the process, however it ends, so a crash leaves nothing to clear away. The note is only for people:
it is read when the lock is taken, and ignored when it is free.
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
    """Whether some process holds `lock` now."""
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # somebody else's file: whoever wants to write there will hear of that
        return False


@contextlib.contextmanager
def only_writer(lock: Path, target: Path) -> Iterator[None]:
    """Let no other process write to `target` inside the block. The two files that this takes are gone afterwards.

    Args:
        lock: the file that is locked, in a folder that is there; the note stands beside it.
        target: what the user calls the folder or file, for the message.

    Raises:
        SettingsError: another process holds the lock; it says which, on which machine, with which command, since when.
    """
    held = filelock.FileLock(lock)
    note = note_of(lock)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise in_use(lock, target) from None
    try:
        write_json(note, _self())
        yield
    finally:
        # The files go before the lock does. Whoever has opened the old file in the meantime locks a file without a
        # name; filelock sees that, and tries again.
        note.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def writing_beside(target: Path) -> Iterator[None]:
    """`only_writer` for a file or folder that appears at `target` when it is complete: the lock stands beside it."""
    place = target.parent.resolve() / target.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(place.with_name(f".{place.name}.lock"), target):
        yield


def refuse_below_file(output: Path, option: str = "--output") -> None:
    """Make sure that no part of the way to `output` is a file, and that something can be made there.

    Raises:
        SettingsError: with the part that is, or with what the system says.
    """
    for folder in output.absolute().parents:
        if folder.exists() and not folder.is_dir():
            raise SettingsError(
                f"{option} {output} is below {folder}, which is a file", fix=f"give {option} another place"
            )
    refuse_unwritable(output, option)


def note_of(lock: Path) -> Path:
    """The file that says who holds `lock`."""
    return lock.with_name(f"{lock.name}.json")


def in_use(lock: Path, target: Path) -> SettingsError:
    """What to tell whoever finds `lock` held."""
    return SettingsError(
        f"--output {target} is in use: another domain-ft is writing to it",
        where=_holder(note_of(lock)),
        fix="wait until it has ended, or stop it (ctrl-C, or kill PID), or give another --output",
    )


def _self() -> dict[str, object]:
    words = ["domain-ft", *sys.argv[1:]] if Path(sys.argv[0]).name in ("domain-ft", "__main__.py") else sys.argv
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(words),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _holder(note: Path) -> str:
    """Who holds a lock, as far as its note can be read: it is written just after the lock is taken."""
    try:
        read = json.loads(note.read_text(encoding="utf-8"))
        return f"process {read['pid']} on {read['host']}, since {read['since']}: {read['command']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that has just begun"
