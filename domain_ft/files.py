"""The user's files: which paths are the same file, and what may be written.

Different paths can name the same file: symbolic and hard links, relative paths and, on file systems that ignore case,
paths in other letters. Callers run these checks before they open a file for writing, truncate it or remove it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from domain_ft.errors import SettingsError

File = str | Path | IO[Any]
"""A path or an open file."""


_SPECIAL = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def same_file(one: File, other: File) -> bool:
    """Whether two files are the same, so that writing to one changes the other.

    Terminals, pipes and devices never count as the same: they have no content that could be lost.
    """
    first, second = _status(one), _status(other)
    if first is not None and second is not None:
        return os.path.samestat(first, second) and (stat.S_ISREG(first.st_mode) or stat.S_ISDIR(first.st_mode))
    if first is not None or second is not None or not isinstance(one, str | Path) or not isinstance(other, str | Path):
        return False
    return _same_place(_resolved(one), _resolved(other))


def refuse_same(files: Mapping[str, File | None]) -> None:
    """Check that no two files are the same.

    Args:
        files: by their names in messages, such as `--output out.jsonl`; None if the option was not given.

    Raises:
        SettingsError: two are the same file.
    """
    named = [(name, file) for name, file in files.items() if file is not None]
    for (one, first), (other, second) in itertools.combinations(named, 2):
        if same_file(first, second):
            raise SettingsError(f"{one} and {other} are the same file", fix="give another name; nothing was changed")


def refuse_unwritable(path: Path, option: str) -> None:
    """Check that a file or folder can be created at `path`, or replaced there, and leave nothing behind.

    The check creates a temporary file in the nearest existing folder above `path` and removes it, because some file
    systems report permissions that they do not honour.

    Raises:
        SettingsError: the path is below a file or a dangling link, is not valid, or cannot be written.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _unwritable(path, option, error) from error
    with writing(path, option):
        folder = next(parent for parent in _ancestors(path) if parent.exists() or parent.is_symlink())
        if not folder.is_dir():
            what = "a symbolic link to nothing" if not folder.exists() else "a file, not a folder"
            raise SettingsError(f"{option} {path}: {folder} is {what}", fix="give another path; nothing was changed")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(f"{option} {path}: the folder {folder} is not writable", fix="give another path")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _unwritable(path, option, OSError(error.errno, error.strerror, str(folder))) from error


@contextlib.contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Turn an OSError inside the block into an error about `option`, unless it is a FileExistsError.

    Raises:
        SettingsError: for such an error, with the path, the system's message and what to do.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise _unwritable(path, option, error) from error


def _unwritable(path: Path, option: str, error: OSError) -> SettingsError:
    reason = error.strerror or str(error)
    at = f" (in {error.filename})" if isinstance(error.filename, str) and error.filename != str(path) else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SettingsError(
        f"{option} {path} cannot be written: {reason}{at}",
        fix=("make room there, or " if full else "") + f"give {option} a path on a disk that you may write to",
    )


def refuse_folder(path: Path, option: str) -> None:
    """Check that the path of a file is not a folder.

    Raises:
        SettingsError: it is a folder.
    """
    if path.is_dir():
        raise SettingsError(
            f"{option} {path} is a folder, not a file",
            fix=f"name a file in it, such as {option} {path / 'out.jsonl'}",
        )


def refuse_special(path: Path, option: str, instead: str = "") -> None:
    """Check that nothing but a file or folder is at the path of an output, since devices must not be replaced.

    Args:
        instead: for the hint, what to do other than naming a new file; may be empty.

    Raises:
        SettingsError: it is a device, a pipe, a socket or another special file.
    """
    status = _status(path)
    if status is None or stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return
    what = next((what for is_it, what in _SPECIAL if is_it(status.st_mode)), "a special file")
    raise SettingsError(
        f"{option} {path} is {what}, and {option} has to be a new file",
        fix=f"{instead}{', or ' if instead else ''}give the name of a new file; nothing was changed",
    )


def require_file(path: Path) -> None:
    """Check that a path to read is a regular file: opening a pipe would wait for its writer.

    Raises:
        OSError: it is not a regular file, does not exist, or cannot be reached.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def _ancestors(path: Path) -> Iterator[Path]:
    """The folders above a path, nearest first."""
    yield from Path(os.path.abspath(path)).parents  # noqa: PTH100 (resolve() would follow the last part too)


def _status(file: File) -> os.stat_result | None:
    """The stat of a file; None if it does not exist or cannot be reached, or if a stream has no file descriptor."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation, AttributeError):
        return os.stat(file) if isinstance(file, str | Path) else os.fstat(file.fileno())  # noqa: PTH116
    return None


def _resolved(path: str | Path) -> Path:
    """The path at which a missing file would be created, with symbolic links followed."""
    with contextlib.suppress(OSError, RuntimeError):  # a loop of links
        return Path(path).resolve()
    return Path(os.path.abspath(path))  # noqa: PTH100


def _same_place(one: Path, other: Path) -> bool:
    """Whether two resolved paths that do not exist would become the same file."""
    if one == other:
        return True
    return str(one).casefold() == str(other).casefold() and _ignores_case(one)


def _ignores_case(path: Path) -> bool:
    """Whether the file system ignores case, as far as the existing folders above `path` show."""
    for folder in path.parents:
        swapped = folder.with_name(folder.name.swapcase()) if folder.name else folder
        if folder.exists() and swapped != folder:
            return swapped.exists() and swapped.samefile(folder)
    return False
