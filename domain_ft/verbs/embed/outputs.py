"""Where vectors go: JSON lines, a NumPy array with a list of ids, or a Parquet file, by the ending of --output.

JSON lines and arrays grow batch by batch and can be resumed. An array can be read at any time: its header counts the
rows that have an id. A Parquet file ends with its index, so it is written under another name and appears when it is
complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO

import numpy as np
import numpy.typing as npt

from domain_ft.errors import SettingsError
from domain_ft.files import writing
from domain_ft.locks import writing_beside
from domain_ft.verbs.embed.settings import EmbedSettings
from domain_ft.verbs.shared.stream_state import Identity, read_header
from domain_ft.verbs.shared.streams import Named, Output, check_streams, open_output
from domain_ft.wording import counted

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Vectors = npt.NDArray[np.float32]

_LINE = frozenset({"id", "vector"})
_ID = frozenset({"id"})
_ROW_GROUP = 8192  # rows


class VectorOutput(Protocol):
    """An output of vectors; its first three members are those of `streams.Resumable`."""

    @property
    def done(self) -> int: ...
    def answered(self) -> Iterator[tuple[Any, str]]: ...
    def begin(self) -> None: ...
    def write(self, vectors: Vectors, items: Sequence[Named]) -> None:
        """Write the vectors (items, D) of a batch."""


def check_output(settings: EmbedSettings, stdin: BinaryIO | None) -> None:
    """Refuse an unknown format, and files that cannot be read or written. Nothing is changed.

    Raises:
        SettingsError: an option or a file cannot be used.
    """
    check_streams(settings, "vectors", stdin)
    output = settings.output
    if output is None:
        return
    if output.suffix not in (".jsonl", ".npy", ".parquet"):
        raise SettingsError(
            f"--output {output}: the format of the vectors is not clear",
            fix="let the name end in .jsonl, .npy or .parquet",
        )
    if output.suffix == ".parquet" and settings.resume:
        raise SettingsError(
            f"--resume: {output} cannot be continued, because a Parquet file is either complete or not there",
            fix="leave --resume out, or write vectors that can be continued: --output F.npy or F.jsonl",
        )
    if output.suffix == ".npy":
        check_streams(_listing_ids(settings), "vectors", stdin)


@contextlib.contextmanager
def open_vectors(
    settings: EmbedSettings, stdout: TextIO, dimension: int, identity: Callable[[], Identity]
) -> Iterator[VectorOutput]:
    """The output that `settings` names.

    Args:
        stdout: where JSON lines go without --output.
        dimension: the length of a vector.
        identity: computes what the vectors depend on; called only for an output that can be resumed.

    Raises:
        SettingsError: the file exists and --resume is not given, was not written by `embed`, was started with another
            model or other options, or cannot be written.
    """
    output = settings.output
    if output is not None and output.suffix == ".parquet":
        with _parquet(output, dimension) as parquet:
            yield parquet
    elif output is not None and output.suffix == ".npy":
        with (
            open_output(_listing_ids(settings), stdout, [_ID], identity) as ids,
            _array(output, dimension, ids) as array,
        ):
            yield array
    else:
        with open_output(settings, stdout, [_LINE], identity) as lines:
            yield JsonVectors(lines)


class _OnLines:
    """An output that continues after the last complete line of a file."""

    def __init__(self, lines: Output) -> None:
        self.lines = lines

    @property
    def done(self) -> int:
        """The number of complete vectors from an earlier call."""
        return self.lines.done

    def answered(self) -> Iterator[tuple[Any, str]]:
        """(id, digest of the text) of each complete vector from an earlier call, in order."""
        return self.lines.answered()

    def begin(self) -> None:
        """Prepare the files for writing."""
        self.lines.begin()


class JsonVectors(_OnLines):
    """A line {"id", "vector"} for each text. Numbers are written with the fewest digits that give the same float32."""

    def write(self, vectors: Vectors, items: Sequence[Named]) -> None:
        """Write the vectors (items, D) of a batch."""
        lines = (
            {"id": item.key, "vector": [float(str(number)) for number in vector]}
            for item, vector in zip(items, vectors, strict=True)
        )
        self.lines.write(lines, items)


# ------------------------------------------------------------------------------------------------------- NumPy arrays


class ArrayVectors(_OnLines):
    """An array (texts, D) float32, and a line {"id"} for each of its rows in another file."""

    def __init__(self, file: BinaryIO, dimension: int, ids: Output) -> None:
        super().__init__(ids)
        self._file, self._dimension, self._rows = file, dimension, ids.done

    def begin(self) -> None:
        """Drop the rows without an id."""
        super().begin()
        self._file.truncate(len(_header(0, self._dimension)) + self._rows * 4 * self._dimension)
        self._write_header()

    def write(self, vectors: Vectors, items: Sequence[Named]) -> None:
        """Write the vectors (items, D) of a batch: the rows, then their ids, and then the header with the new count."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(vectors.astype("<f4").tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())  # so that each id on disk has its row on disk
        self.lines.write(({"id": item.key} for item in items), items)
        self._rows += len(vectors)
        self._write_header()

    def _write_header(self) -> None:
        self._file.seek(0)
        self._file.write(_header(self._rows, self._dimension))
        self._file.flush()


def ids_path(output: Path) -> Path:
    """The file with the ids of an array's rows."""
    return output.with_name(f"{output.name}.ids.jsonl")


def _listing_ids(settings: EmbedSettings) -> EmbedSettings:
    """The same settings with the list of ids as the output, which decides where --resume continues."""
    assert settings.output is not None
    return dataclasses.replace(settings, output=ids_path(settings.output))


def _header(rows: int, dimension: int) -> bytes:
    """The header of an array file. NumPy leaves room in it, so its length does not depend on `rows`."""
    written = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(written, shape)
    return written.getvalue()


@contextlib.contextmanager
def _array(path: Path, dimension: int, ids: Output) -> Iterator[ArrayVectors]:
    """A new array, or the one that belongs to `ids`. The lock on the file of `ids` protects both files."""
    there = path.exists()
    if there:
        _check_array(path, dimension, ids.done)
    elif ids.done:
        raise SettingsError(
            f"--resume: {ids_path(path)} lists {counted(ids.done, 'vector')}, but {path} is not there",
            fix="restore the array, or give another --output; nothing was changed",
        )
    with contextlib.ExitStack() as stack:
        with writing(path, "--output"):
            file = stack.enter_context(path.open("r+b" if there else "x+b"))
        try:
            yield ArrayVectors(file, dimension, ids)
        except BaseException:
            if not there and path.stat().st_size <= len(_header(0, dimension)):  # nothing to continue
                path.unlink()
            raise


def _check_array(path: Path, dimension: int, rows: int) -> None:
    """Refuse a file that is not the array of an earlier call, or has fewer than `rows` rows."""
    other = SettingsError(
        f"--resume: {path} is not the array that {ids_path(path)} belongs to",
        fix="give another --output; nothing was changed",
    )
    if read_header(ids_path(path)) is None or not path.is_file():
        raise other
    if path.stat().st_size == 0 and rows == 0:  # killed before its first byte
        return
    with path.open("rb") as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
        except ValueError:
            raise other from None
        begin = file.tell()
    if kind != np.dtype("<f4") or len(shape) != 2 or begin != len(_header(0, dimension)):
        raise other
    if shape[1] != dimension or path.stat().st_size < begin + rows * 4 * dimension:
        raise other


# ------------------------------------------------------------------------------------------------------------ Parquet


class ParquetVectors:
    """Columns `id` (text) and `vector` (a list of D float32). An unfinished file is never continued."""

    done = 0

    def __init__(self, writer: pq.ParquetWriter, dimension: int) -> None:
        self._writer, self._dimension = writer, dimension
        self._ids: list[str] = []
        self._vectors: list[Vectors] = []

    def answered(self) -> Iterator[tuple[Any, str]]:
        """Nothing: a Parquet file is always written from the beginning."""
        return iter(())

    def begin(self) -> None:
        """Nothing has to be prepared."""

    def write(self, vectors: Vectors, items: Sequence[Named]) -> None:
        """Keep the vectors (items, D) of a batch, and write all that are kept once they fill a row group."""
        # A lone surrogate, as from a truncated JSON escape, is kept as an escape.
        self._ids += [str(item.key).encode("utf-8", "backslashreplace").decode() for item in items]
        self._vectors.append(vectors)
        if len(self._ids) >= _ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the vectors that wait for a full row group."""
        import pyarrow as pa

        if not self._ids:
            return
        numbers = pa.array(np.concatenate(self._vectors).ravel())
        column = pa.FixedSizeListArray.from_arrays(numbers, self._dimension)
        self._writer.write_table(pa.table([pa.array(self._ids, pa.string()), column], schema=self._writer.schema))
        self._ids, self._vectors = [], []


@contextlib.contextmanager
def _parquet(path: Path, dimension: int) -> Iterator[ParquetVectors]:
    """A Parquet file that appears at `path` if the block ends without an error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), dimension))])
    with writing_beside(path):
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        with writing(path, "--output"):
            file = unfinished.open("xb")  # fails if the file exists
        try:
            with file, pq.ParquetWriter(file, schema) as writer:
                vectors = ParquetVectors(writer, dimension)
                yield vectors
                vectors.flush()
                writer.close()
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
