"""Files of the user: which of those that were named are one and the same, and what may be written.

Files are compared as files and not as spellings: a symbolic link, a hard link, a relative path and, where the file
system takes no notice of case, another case all name the same one. Nothing is opened for writing, cut or removed before
these checks have passed.
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
"""A file that is named, or an open one."""


def same_file(one: File, other: File) -> bool:
    """Whether two files are one: what is written to one would be lost in, or read from, the other.

    Terminals, pipes and devices hold nothing that could be lost: two names of one are not the same file.
    """
    first, second = _status(one), _status(other)
    if first is not None and second is not None:
        return os.path.samestat(first, second) and (stat.S_ISREG(first.st_mode) or stat.S_ISDIR(first.st_mode))
    if first is not None or second is not None or not isinstance(one, str | Path) or not isinstance(other, str | Path):
        return False
    return _same_place(_resolved(one), _resolved(other))


def refuse_same(files: Mapping[str, File | None]) -> None:
    """Make sure that no two of the files are one. None stands for an option that names no file.

    Args:
        files: by what each is called in messages, such as `--output out.jsonl`.

    Raises:
        SettingsError: two are the same file.
    """
    named = [(name, file) for name, file in files.items() if file is not None]
    for (one, first), (other, second) in itertools.combinations(named, 2):
        if same_file(first, second):
            raise SettingsError(f"{one} and {other} are the same file", fix="give another name; nothing was changed")


def refuse_unwritable(path: Path, option: str) -> None:
    """Make sure that a file or folder can be made at `path`, or that what is there may be written. Nothing is changed.

    To be sure, a file without a name is made in the nearest folder that is there: some file systems give rights that
    they then refuse to act on.

    Raises:
        SettingsError: it is below a file, its name is not possible, or nothing can be written there.
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
            raise SettingsError(f"{option} {path}: the folder {folder} may not be written", fix="give another path")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _unwritable(path, option, OSError(error.errno, error.strerror, str(folder))) from error


@contextlib.contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Inside the block whatever the system says against a file that `option` names is an error of that option.

    That the file is there already is left to the caller.

    Raises:
        SettingsError: with the path, what the system says and what to do.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise _unwritable(path, option, error) from error


def _unwritable(path: Path, option: str, error: OSError) -> SettingsError:
    said = error.strerror or str(error)
    at = f" (in {error.filename})" if isinstance(error.filename, str) and error.filename != str(path) else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SettingsError(
        f"{option} {path} cannot be written: {said}{at}",
        fix=("make room there, or " if full else "") + f"give {option} a path on a disk that you may write to",
    )


def refuse_folder(path: Path, option: str) -> None:
    """Make sure that a path that names a file is no folder.

    Raises:
        SettingsError: it is one.
    """
    if path.is_dir():
        raise SettingsError(
            f"{option} {path} is a folder, and a file is wanted",
            fix=f"name a file in it, such as {option} {path / 'out.jsonl'}",
        )


def refuse_no_file(path: Path) -> None:
    """Make sure that a file that is about to be read is one: to open a pipe would wait for who writes to it.

    Raises:
        OSError: it is a folder, a pipe or a device, or the system does not know it.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def _ancestors(path: Path) -> Iterator[Path]:
    """The folders above a path, from the nearest on."""
    yield from Path(os.path.abspath(path)).parents  # noqa: PTH100 (resolve() would follow the last part too)


def _status(file: File) -> os.stat_result | None:
    """What the system knows of a file; None where there is none, or no file behind a stream."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation, AttributeError):
        return os.stat(file) if isinstance(file, str | Path) else os.fstat(file.fileno())  # noqa: PTH116
    return None


def _resolved(path: str | Path) -> Path:
    """Where a file that is not there would be made, symbolic links followed."""
    with contextlib.suppress(OSError, RuntimeError):  # a loop of links
        return Path(path).resolve()
    return Path(os.path.abspath(path))  # noqa: PTH100


def _same_place(one: Path, other: Path) -> bool:
    """Whether two resolved paths with nothing there would become one file."""
    if one == other:
        return True
    return str(one).casefold() == str(other).casefold() and _ignores_case(one)


def _ignores_case(path: Path) -> bool:
    """Whether the file system takes no notice of case, as far as the existing folders above `path` show."""
    for folder in path.parents:
        swapped = folder.with_name(folder.name.swapcase()) if folder.name else folder
        if folder.exists() and swapped != folder:
            return swapped.exists() and swapped.samefile(folder)
    return False
