"""Files and folders of files: what there is to read, and the plain texts among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from domain_ft.corpus.readers import ENDINGS, reader
from domain_ft.corpus.readers.base import (
    BOM,
    BadRecords,
    SourceDocument,
    decode,
    is_foreign,
    open_bytes,
    report_empty,
    reported,
)
from domain_ft.errors import CorpusError

PART = 16_000_000  # bytes of a plain text, more than which are cut in several documents: some ten long books


@dataclass(frozen=True)
class Listing:
    """The files of a source: those that can be read, as (path, name), and how many of each other ending there are."""

    files: tuple[tuple[Path, str], ...]
    unread: dict[str, int]


def ending(path: Path) -> str:
    """The ending that says what a file is, in small letters, `.gz` left out.

    >>> ending(Path("notes.JSONL.gz"))
    '.jsonl'
    """
    return Path(path.name.lower().removesuffix(".gz")).suffix


def list_files(path: Path, reader_name: str = "auto") -> Listing:
    """What is to be read under `path`: the file itself, or every file of the folder, hidden ones left out, sorted.

    With the reader `auto`, files of a folder whose ending says nothing to us are counted, by ending, and not read.

    Raises:
        CorpusError: there is no such path, or nothing in it that can be read.
    """
    known = ", ".join(ENDINGS)
    if path.is_dir():
        inside = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.as_posix())
        names = [(file, file.relative_to(path).as_posix()) for file in inside]
        names = [(file, name) for file, name in names if not any(part[0] == "." for part in Path(name).parts)]
        unread: dict[str, int] = {}
        files: list[tuple[Path, str]] = []
        for file, name in names:
            if reader_name == "auto" and ending(file) not in ENDINGS:
                unread[ending(file) or "no ending"] = unread.get(ending(file) or "no ending", 0) + 1
            else:
                files.append((file, name))
        if not files:
            raise CorpusError(
                "the folder holds no file that can be read",
                where=str(path),
                fix=f"the endings that are read: {known}, each also with .gz",
            )
        return Listing(tuple(files), unread)
    if not path.exists():
        raise CorpusError("there is no such file or folder", where=str(path), fix="check the path")
    if reader_name == "auto" and ending(path) not in ENDINGS:
        raise CorpusError(
            f"a file ending in '{ending(path)}' is not read" if ending(path) else "a file with no ending is not read",
            where=str(path),
            fix=f"the endings that are read: {known}, each also with .gz",
        )
    return Listing(((path, path.name),), {})


def read_by_ending(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """Read a file by the reader that its ending stands for."""
    yield from reader(ENDINGS[ending(path)])(path, name, text_field, bad)


def read_text(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """A plain text or Markdown file: one document. A larger one than `PART` is several, so that memory stays flat."""
    del text_field  # a text has no fields
    with reported(name, bad), open_bytes(path) as file:
        offset = lines = 0
        for number, data in enumerate(_parts(file), 1):
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


def _parts(file: BinaryIO) -> Iterator[bytes]:
    """A text, as UTF-8, in parts of up to `PART` bytes, cut after a paragraph, else a line, a space, a character."""
    waiting = file.read(PART + 1)
    while len(waiting) > PART:
        ends = [waiting.rfind(end, PART // 2, PART) + len(end) for end in (b"\n\n", b"\n", b" ")]
        cut = next((end for end in ends if end > PART // 2), PART)
        while cut > PART - 4 and waiting[cut] & 0xC0 == 0x80:  # within a character
            cut -= 1
        yield waiting[:cut]
        waiting = waiting[cut:] + file.read(cut)
    yield waiting
