"""Files that are whole or absent: atomic writes, hashes, the user's cache folder, and what to say of a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import filelock
import platformdirs

from domain_ft.errors import StorageError, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_MISNAMED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
_OTHER = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)


class WriteError(OSError):
    """What the system said against a file that was being written."""


def storage_error(
    error: Exception,
    what: str | None = None,
    *,
    where: Path | str | None = None,
    then: str = "run it again",
    kind: type[UserError] = StorageError,
    doing: Literal["written", "read"] | None = None,
) -> UserError | None:
    """What to tell the user of a disk that is full, closed or broken; None for an error of another kind.

    Args:
        what: what was being written, such as `the checkpoint of step 50`. By default the file's name.
        where: the file or folder, where the error does not name it.
        then: what to do once the cause is gone.
        kind: of the error that is given.
        doing: what was being done with the file. By default it is written where there is a `what`, or where only a
            write can fail like this; of other errors nothing is claimed.
    """
    system = as_os_error(error)
    if system is None or system.errno not in _FULL + _DENIED + _MISNAMED + _OTHER:
        return None
    named_by_system = system.filename if isinstance(system.filename, str | bytes) else None
    place = os.fsdecode(named_by_system) if named_by_system is not None else where
    path = None if place is None else Path(place)
    reason = os.strerror(system.errno or 0)
    if doing is None and (what or isinstance(system, WriteError) or system.errno in (*_FULL, errno.EROFS)):
        doing = "written"
    if system.errno in _FULL:
        space = "" if path is None else _free_space(path)
        fix = f"make room there, or name another place ({_place(path)}); then {then}"
    elif system.errno in _DENIED:
        right = {"written": "to write there", "read": "to read it"}.get(doing or "", "to open it")
        other = "another file" if doing == "read" else f"another place ({_place(path)})"
        space, fix = "", f"give yourself the right {right}, or name {other}"
    elif system.errno in _MISNAMED:
        space, fix = "", f"name another place ({_place(path)})"
        if doing != "written":
            fix = "look at what is there, and name " + (
                "another file" if doing == "read" else f"another file or place ({_place(path)})"
            )
    else:
        space, fix = "", f"look at the disk and the limits of this machine; then {then}"
    named = what or (str(path) if path else "a file")
    return kind(f"{named} cannot be {doing or 'opened'}: {reason}", where=f"{path}{space}" if path else None, fix=fix)


def as_os_error(error: BaseException) -> OSError | None:
    """The error of the system that `error` is or reports: libraries in Rust have its number in their words."""
    if isinstance(error, OSError):
        return error
    numbered = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(numbered[1]), os.strerror(int(numbered[1]))) if numbered else None


def _free_space(path: Path) -> str:
    """How much is free where `path` is to be, such as ` (1.2 MB of 10.0 GB free)`."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            return f" ({_readable(usage.free)} of {_readable(usage.total)} free on this disk)"
    return ""


def _readable(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _place(path: Path | None) -> str:
    """How another place is named for what is at `path`."""
    if path is not None and path.absolute().is_relative_to(_cache_root().absolute()):
        return "DOMAIN_FT_CACHE=FOLDER"
    if path is not None and path.absolute().is_relative_to(tempfile.gettempdir()):
        return "TMPDIR=FOLDER, or --output"
    return "--output, or DOMAIN_FT_CACHE=FOLDER for the cache"


def _cache_root() -> Path:
    root = os.environ.get("DOMAIN_FT_CACHE")
    return Path(root) if root else Path(platformdirs.user_cache_dir("domain-ft"))


def user_path(given: str) -> Path:
    """A path as the user gave it, `~` being the home folder. `~name` of a user that is not there stays as it is."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)


def cache_folder(*parts: str) -> Path:
    """A folder under the user's cache (`DOMAIN_FT_CACHE`, else the system's usual place), made if it is not there.

    Raises:
        StorageError: it cannot be made, or nothing can be written to it.
    """
    folder = _cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise StorageError(
            f"the cache folder {folder} cannot be used: {error.strerror or error}",
            where="DOMAIN_FT_CACHE" if os.environ.get("DOMAIN_FT_CACHE") else "the usual place of this system",
            fix="name another folder that you may write to: DOMAIN_FT_CACHE=FOLDER",
        ) from error
    return folder


@contextlib.contextmanager
def _naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let an error of the disk inside the block name `path`, in place of a file inside `temporary` or of none."""
    try:
        yield
    except Exception as error:
        system = as_os_error(error)
        if system is None or system.errno not in _FULL + _DENIED + _MISNAMED + _OTHER:
            raise
        named = None if system.filename is None else Path(os.fsdecode(system.filename))
        if temporary is not None and named is not None and not named.is_relative_to(temporary):
            raise  # of another file, such as one that is read
        raise WriteError(system.errno, os.strerror(system.errno), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entry to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, flush it and rename it: a reader sees the old file or the new one, whole."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with _naming(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused, since JSON has neither."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears at `path` only when the block ends without an error, all its files flushed.

    Where another process made the same folder in the meantime, that one is kept.

    >>> with new_folder(cache / "tokens-1a2b") as folder:  # doctest: +SKIP
    ...     (folder / "rows.arrow").write_bytes(data)
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _naming(path, temporary):
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():  # safetensors writes for its owner alone; a cache may be shared
                    file.chmod(0o666 & ~_umask())
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Let no two processes, on any machine that sees the file system, make what is to stand at `path` at once.

    Args:
        path: inside the block it is to be looked for again: whoever came first may have made it.
        waiting: told when another process is at it; it is waited for, however long it takes.
    """
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if waiting:
            waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
