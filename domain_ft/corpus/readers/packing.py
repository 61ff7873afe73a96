"""Unpacks gzip, Zstandard, xz and bzip2 files while they are read. They are detected by content, not by name."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from domain_ft.corpus.readers.encoding_names import is_wide

BUFFER = 1 << 16  # bytes that are read at a time; the kind of line ends is detected in the first block


def _zstd(file: BinaryIO) -> BinaryIO:
    import pyarrow as pa  # slow to import

    return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))


# Ending, first bytes and unpacker of each format.
_PACKINGS: dict[str, tuple[bytes, Callable[[BinaryIO], BinaryIO]]] = {
    ".gz": (b"\x1f\x8b", lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file))),
    ".zst": (b"\x28\xb5\x2f\xfd", _zstd),
    ".xz": (b"\xfd7zXZ\0", lambda file: cast(BinaryIO, lzma.LZMAFile(file))),  # noqa: SIM115 (closed by `open_packed`)
    ".bz2": (b"BZh", lambda file: cast(BinaryIO, bz2.BZ2File(file))),
}
PACKED = tuple(_PACKINGS)
"""The endings of packed files, in lower case."""

DAMAGED = (gzip.BadGzipFile, EOFError, lzma.LZMAError)
"""Exceptions for damaged or truncated packed data, besides zlib.error and other kinds of OSError."""


def plain_name(name: str) -> str:
    """A file's name without the ending of its packing.

    >>> plain_name("notes.JSONL.zst")
    'notes.JSONL'
    """
    packed = next((ending for ending in PACKED if name.lower().endswith(ending)), "")
    return name[: len(name) - len(packed)]


def packing(path: Path) -> str | None:
    """The packing of a file, by its first bytes: an ending of `PACKED`, or None."""
    with path.open("rb") as file:
        return _packing_of(file.read(8))


def _packing_of(begin: bytes) -> str | None:
    return next((ending for ending, (magic, _) in _PACKINGS.items() if begin.startswith(magic)), None)


@contextlib.contextmanager
def open_packed(path: Path, encoding: str | None = None) -> Iterator[io.BufferedReader]:
    """Open a file for reading, unpacked, whatever its name.

    Args:
        path: a regular file.
        encoding: the encoding of the text. Text in UTF-7, UTF-16 or UTF-32, whose bytes cannot be split into lines, is
            converted to UTF-8. The bytes of other encodings are unchanged.
    """
    with contextlib.ExitStack() as stack:
        raw = cast(io.BufferedReader, stack.enter_context(path.open("rb", buffering=BUFFER)))
        kind = _packing_of(raw.peek(8)[:8])
        stream: Any = raw if kind is None else stack.enter_context(contextlib.closing(_PACKINGS[kind][1](raw)))
        if encoding is not None and is_wide(encoding):
            stream = _AsUtf8(stream, encoding)
        if not isinstance(stream, io.BufferedReader):
            stream = stack.enter_context(io.BufferedReader(stream, BUFFER))
        yield stream


def as_utf8(stream: BinaryIO, encoding: str) -> io.BufferedReader:
    """Convert a stream in UTF-7, UTF-16 or UTF-32 to UTF-8."""
    return io.BufferedReader(_AsUtf8(stream, encoding), BUFFER)


class WideError(ValueError):
    """Bytes are invalid in UTF-7, UTF-16 or UTF-32."""


class _AsUtf8(io.RawIOBase):
    """A stream in UTF-7, UTF-16 or UTF-32 that is decoded strictly and encoded as UTF-8."""

    def __init__(self, source: BinaryIO, encoding: str) -> None:
        self._source, self._encoding = source, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("strict")
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        while not self._waiting:
            data = self._source.read(BUFFER)
            try:
                self._waiting = self._decoder.decode(data, not data).encode("utf-8")
            except UnicodeError as error:
                raise WideError(f"the bytes are not {self._encoding.upper()}: {error}") from error
            if not data and not self._waiting:
                return 0
        count = min(len(view), len(self._waiting))
        view[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count
