"""Atomic writes, hashes, the cache folder, and messages for disk errors."""

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
    """An OSError that occurred while a file was being written."""


def storage_error(
    error: Exception,
    what: str | None = None,
    *,
    where: Path | str | None = None,
    then: str = "run it again",
    kind: type[UserError] = StorageError,
    doing: Literal["written", "read"] | None = None,
) -> UserError | None:
    """The error to raise for a full, read-only or broken disk, or an unusable path; None for other errors.

    Args:
        what: what was being written, such as `the checkpoint of step 50`. By default the file's path.
        where: the file or folder, if the error does not name it.
        then: what to do once the cause is removed.
        kind: the class of the returned error.
        doing: whether the file was being written or read. By default `written` if there is a `what`, or if only a
            write can fail with this error; otherwise the message only says that the file cannot be opened.
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
        space, fix = "", f"get permission {right}, or name {other}"
    elif system.errno in _MISNAMED:
        space, fix = "", f"name another place ({_place(path)})"
        if doing != "written":
            fix = "check what is there, and name " + (
                "another file" if doing == "read" else f"another file or place ({_place(path)})"
            )
    else:
        space, fix = "", f"check the disk and the limits of this machine; then {then}"
    named = what or (str(path) if path else "a file")
    return kind(f"{named} cannot be {doing or 'opened'}: {reason}", where=f"{path}{space}" if path else None, fix=fix)


def as_os_error(error: BaseException) -> OSError | None:
    """`error` if it is an OSError; an OSError with the number in the message of a Rust library's error; else None."""
    if isinstance(error, OSError):
        return error
    numbered = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(numbered[1]), os.strerror(int(numbered[1]))) if numbered else None


def _free_space(path: Path) -> str:
    """The free space at `path`, such as ` (1.2 MB of 10.0 GB free on this disk)`."""
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
    """The options and variables that name another place for `path`."""
    if path is not None and path.absolute().is_relative_to(_cache_root().absolute()):
        return "DOMAIN_FT_CACHE=FOLDER"
    if path is not None and path.absolute().is_relative_to(tempfile.gettempdir()):
        return "TMPDIR=FOLDER, or --output"
    return "--output, or DOMAIN_FT_CACHE=FOLDER for the cache"


def _cache_root() -> Path:
    root = os.environ.get("DOMAIN_FT_CACHE")
    return Path(root) if root else Path(platformdirs.user_cache_dir("domain-ft"))


def user_path(given: str) -> Path:
    """A path from the user, with `~` as the home folder. `~name` of an unknown user stays as it is."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)


def cache_folder(*parts: str) -> Path:
    """A folder in the user's cache (`DOMAIN_FT_CACHE`, or the system's default place), created if missing.

    Raises:
        StorageError: it cannot be created or written.
    """
    folder = _cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise StorageError(
            f"the cache folder {folder} cannot be used: {error.strerror or error}",
            where="DOMAIN_FT_CACHE" if os.environ.get("DOMAIN_FT_CACHE") else "the system's default place",
            fix="name another folder that you may write to: DOMAIN_FT_CACHE=FOLDER",
        ) from error
    return folder


@contextlib.contextmanager
def _naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn disk errors inside the block into errors about `path`, unless they name a file outside `temporary`."""
    try:
        yield
    except Exception as error:
        system = as_os_error(error)
        if system is None or system.errno not in _FULL + _DENIED + _MISNAMED + _OTHER:
            raise
        named = None if system.filename is None else Path(os.fsdecode(system.filename))
        if temporary is not None and named is not None and not named.is_relative_to(temporary):
            raise  # about another file, such as one that is being read
        raise WriteError(system.errno, os.strerror(system.errno), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a temporary file, flush it and rename it: readers see either the old file or the complete new one."""
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
    """Write `value` as indented JSON, atomically. NaN and infinity, which JSON lacks, are refused."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill. It is flushed and renamed to `path` if the block ends without an error.

    If another process has created `path` in the meantime, that folder is kept.

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
                if file.is_file():  # safetensors makes files that only their owner can read, but a cache may be shared
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
def creation_lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Let only one process at a time create `path`, across all machines that share the file system.

    Args:
        path: inside the block, check whether it exists: another process may have created it in the meantime.
        waiting: called if another process holds the lock, before waiting for it without a time limit.
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
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
