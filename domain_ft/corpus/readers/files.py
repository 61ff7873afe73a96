"""Finds the files of a source, and reads plain text files."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from domain_ft.corpus.left_out import UnreadFile
from domain_ft.corpus.readers import ENDINGS, EXTRA, is_installed, reader
from domain_ft.corpus.readers.base import (
    BOM,
    BadRecords,
    SourceDocument,
    decode,
    is_foreign,
    open_bytes,
    report_empty,
    reported,
    text_encoding,
)
from domain_ft.corpus.readers.packing import PACKED, plain_name
from domain_ft.errors import CorpusError

PART = 16_000_000  # bytes; a larger plain text file is cut into several documents
KNOWN_ENDINGS = f"{', '.join(ENDINGS)}, each also with {', '.join(PACKED[:-1])} or {PACKED[-1]}"
"""The supported file endings, for messages."""


@dataclass(frozen=True)
class Listing:
    """The files of a source: those to read, as (path, name), and those that are not read."""

    files: tuple[tuple[Path, str], ...]
    unread: tuple[UnreadFile, ...] = ()


def ending(path: Path) -> str:
    """The ending that selects a file's reader, in lower case. An ending such as .gz is ignored.

    >>> ending(Path("notes.JSONL.gz"))
    '.jsonl'
    """
    return Path(plain_name(path.name.lower())).suffix


def stem(path: Path) -> str:
    """The name of a file without the supported endings.

    >>> stem(Path("notes.jsonl.zst"))
    'notes'
    """
    name = plain_name(path.name)
    return name[: len(name) - len(ending(path))] if ending(path) in ENDINGS else name


_DENIED = "cannot be read: permission denied"
_FOLDER = "a folder"


def why_unreadable(path: Path) -> str | None:
    """Why a path is not a readable file, in words; None if it is one. The path is not opened."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a broken symbolic link" if path.is_symlink() else "there is no such file"
    except PermissionError:
        return _DENIED
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not stat.S_ISREG(mode):
        kinds = {
            stat.S_IFIFO: "a named pipe (FIFO)",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
            stat.S_IFDIR: _FOLDER,
        }
        return kinds.get(stat.S_IFMT(mode), "a special file")
    return None if os.access(path, os.R_OK) else _DENIED


def walk(folder: Path) -> Listing:
    """All files under a folder, sorted by path.

    Hidden, irregular and inaccessible files are not read, nor are hidden folders and links to folders.
    """
    files: list[tuple[Path, str]] = []
    unread: list[UnreadFile] = []

    def refused(error: OSError) -> None:
        name = Path(os.fspath(error.filename)).relative_to(folder).as_posix()
        unread.append(UnreadFile(f"{name}/", f"cannot be read: {error.strerror}"))

    for place, folders, names in os.walk(folder, onerror=refused):
        inside = Path(place).relative_to(folder)
        for name in list(folders):
            if name.startswith(".") or (Path(place) / name).is_symlink():
                folders.remove(name)
                reason = "a hidden folder" if name.startswith(".") else "a link to a folder"
                unread.append(UnreadFile(f"{(inside / name).as_posix()}/", reason))
        for name in names:
            path, shown = Path(place) / name, (inside / name).as_posix()
            problem = "hidden" if name.startswith(".") else why_unreadable(path)
            if problem is None:
                files.append((path, shown))
            else:
                unread.append(UnreadFile(shown, problem))
    return Listing(
        tuple(sorted(files, key=lambda file: file[0].as_posix())), tuple(sorted(unread, key=lambda one: one.file))
    )


def why_left_out(path: Path) -> str | None:
    """Why a file with the ending of `path` is not read; None if it is read."""
    kind = ENDINGS.get(ending(path))
    if kind is None:
        return f"the ending {ending(path)} is not read" if ending(path) else "the name has no ending"
    return None if is_installed(kind) else f"needs {EXTRA}"


def list_files(path: Path, reader_name: str = "auto") -> Listing:
    """The files to read at `path`: the file itself, or all files under the folder, as in `walk`.

    With the reader `auto`, files of a folder that have an unknown ending, or need a missing extra, are not read.

    Raises:
        CorpusError: the path does not exist, or has no file that can be read.
    """
    if why_unreadable(path) == _FOLDER:
        listing = walk(path)
        if reader_name != "auto":
            found = listing
        else:
            reasons = {file: why_left_out(file) for file, _ in listing.files}
            more = [UnreadFile(name, reason) for file, name in listing.files if (reason := reasons[file])]
            files = tuple((file, name) for file, name in listing.files if not reasons[file])
            found = Listing(files, tuple(sorted((*listing.unread, *more), key=lambda one: one.file)))
        if not found.files:
            listed = ", ".join(f"{one.file} ({one.reason})" for one in found.unread[:5])
            others = f" and {len(found.unread) - 5:,} more" if len(found.unread) > 5 else ""
            endings = f"supported endings: {KNOWN_ENDINGS}"
            raise CorpusError(
                f"the folder has no file that can be read{f': {listed}{others}' if listed else ''}",
                where=str(path),
                fix=endings if reader_name == "auto" else "put files into it, or name another folder",
            )
        return found
    check_file(path)
    reason = why_left_out(path) if reader_name == "auto" else None
    if reason is not None:
        if ending(path) in ENDINGS:
            raise CorpusError(f"a file ending in '{ending(path)}' {reason}", where=str(path), fix=EXTRA)
        raise CorpusError(
            f"a file ending in '{ending(path)}' is not read" if ending(path) else "a file with no ending is not read",
            where=str(path),
            fix=f"supported endings: {KNOWN_ENDINGS}",
        )
    return Listing(((path, path.name),))


def check_file(path: Path) -> None:
    """Check that a path is a readable file. The path is not opened, because opening a pipe would block.

    Raises:
        CorpusError: the path is not a readable file.
    """
    reason = why_unreadable(path)
    if reason == "there is no such file":
        raise CorpusError("there is no such file or folder", where=str(path), fix="check the path")
    if reason is not None:
        what = f"this {reason}" if reason.startswith("cannot") else f"this is {reason}, not a file"
        fix = "write the data to a file, and name that file"
        if reason == _FOLDER:
            fix = "name a file in it"
        elif reason == _DENIED:
            fix = "give yourself the right to read it"
        elif reason.startswith("cannot"):
            fix = "check the path"
        raise CorpusError(what, where=str(path), fix=fix)


def read_by_ending(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """Read a file with the reader for its ending."""
    yield from reader(ENDINGS[ending(path)])(path, name, text_field, bad)


def read_text(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """A plain text or Markdown file as one document, or as several if it is larger than `PART`, to limit memory."""
    del text_field  # a text has no fields
    bad.path = path
    with reported(name, bad), open_bytes(path, bad.encoding) as file:
        offset = lines = 0
        for number, data in enumerate(_parts(file, text_encoding(bad)), 1):
            if is_foreign(data, name, bad):
                return
            if not data:
                report_empty(name, bad)
                return
            mark = len(BOM) if offset == 0 and data.startswith(BOM) else 0
            text = decode(data[mark:], name, bad, offset=offset + mark, lines_before=lines)
            if text is not None:
                yield SourceDocument(id=name if number == 1 else f"{name}#part-{number}", text=text, source=name)
            offset, lines = offset + len(data), lines + data.count(b"\n")


def _parts(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """A text in parts of up to `PART` bytes, cut after a paragraph, or else a line, a space or a character."""
    waiting = file.read(PART + 1)
    while len(waiting) > PART:
        ends = [waiting.rfind(end, PART // 2, PART) + len(end) for end in (b"\n\n", b"\n", b" ")]
        cut = next((end for end in ends if end > PART // 2), 0)
        if not cut:
            decoder = codecs.getincrementaldecoder(encoding)("replace")
            decoder.decode(waiting[:PART])
            cut = PART - len(decoder.getstate()[0])  # not inside a character
        yield waiting[:cut]
        waiting = waiting[cut:] + file.read(cut)
    yield waiting
