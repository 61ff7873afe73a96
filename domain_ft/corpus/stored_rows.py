"""The base classes of rows of tokens: a store of records, in files or in memory, and views of some of its rows.

    StoredRows                       rows and views of them: `ExampleRows`, whose rows have one or several sequences
    └── SequenceRows                 one sequence a row: `TokenRows`, `ConversationRows`, `TaggingRows`

Subclasses differ in the records of their tokens and in the batches that they make of them.
"""

from __future__ import annotations

import copy
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import Indices, PackedBatch
from domain_ft.corpus.disk import disk_errors
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, creation_lock

if TYPE_CHECKING:
    from typing_extensions import Self

SEQUENCE = np.dtype([("start", "<i8"), ("document", "<i8"), ("number", "<i4")])
"""A sequence: the position of its first token, its document, and its number within the document, from 0."""


class Records(ABC):
    """A long array of records, read in parts."""

    def __init__(self, kind: np.dtype[Any]) -> None:
        self._kind = kind

    def read(self, starts: npt.ArrayLike, counts: npt.ArrayLike) -> npt.NDArray[Any]:
        """(records,) for each i, `counts[i]` records from `starts[i]` on, concatenated. The array is read-only."""
        size = self._kind.itemsize
        spans = zip(np.asarray(starts).tolist(), np.asarray(counts).tolist(), strict=True)
        data = b"".join(self._bytes(start * size, count * size) for start, count in spans)
        return np.frombuffer(data, dtype=self._kind)

    @abstractmethod
    def _bytes(self, offset: int, size: int) -> bytes | memoryview: ...


class RecordFile(Records):
    """Records in a file.

    The file is read, not memory-mapped: mapped pages count as memory of the process, and an epoch in random order would
    map the whole file.
    """

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        super().__init__(kind)
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def _bytes(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)


class RecordsInMemory(Records):
    """Records in an array (records,)."""

    def __init__(self, records: npt.NDArray[Any]) -> None:
        super().__init__(records.dtype)
        self._data = np.ascontiguousarray(records).view(np.uint8).data

    def __len__(self) -> int:
        return len(self._data) // self._kind.itemsize

    def _bytes(self, offset: int, size: int) -> memoryview:
        return self._data[offset : offset + size]


class StoredRows:
    """Rows of tokens, or a view of some rows of a store.

    Attributes:
        lengths: (rows,) int32, tokens of each row, special tokens included.
    """

    PER_ROW: ClassVar[tuple[str, ...]] = ("lengths",)
    """The attributes that have an entry for each row."""

    def __init__(self, lengths: npt.NDArray[np.int32]) -> None:
        self.lengths = lengths
        self._stored_at: Indices | None = None  # for a view, (rows,) the index of each row in the store

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all rows together, special tokens included."""
        return int(self.lengths.sum(dtype=np.int64))

    def _at(self, rows: npt.ArrayLike) -> Indices:
        """(rows,) the indices of these rows in the store."""
        rows = np.asarray(rows, dtype=np.int64)
        return rows if self._stored_at is None else self._stored_at[rows]

    def _view(self, rows: npt.ArrayLike) -> Self:
        """These rows, in this order, as a view of the same store. A row may occur several times."""
        rows = np.asarray(rows, dtype=np.int64)
        view = copy.copy(self)
        view._stored_at = self._at(rows)
        for name in self.PER_ROW:
            setattr(view, name, getattr(self, name)[rows])
        return view


class SequenceRows(StoredRows, ABC):
    """Rows of one sequence each.

    Args:
        tokens: records of all tokens of the store.
        sequences: records of all its sequences, with the fields of SEQUENCE.

    Attributes:
        lengths: (rows,) int32, tokens of each row, special tokens included.
        documents: (rows,) int64, the index of each row's document.
    """

    PER_ROW: ClassVar[tuple[str, ...]] = ("lengths", "documents")

    def __init__(
        self,
        tokens: Records,
        sequences: Records,
        lengths: npt.NDArray[np.int32],
        documents: npt.NDArray[np.int64],
    ) -> None:
        super().__init__(lengths)
        self.documents = documents
        self._tokens, self._sequences = tokens, sequences

    @abstractmethod
    def document_id(self, document: int) -> str:
        """The id of the document with index `document`."""

    def row_id(self, row: int) -> str:
        """The id of the row's document."""
        return self.document_id(int(self.documents[row]))

    def _read(self, rows: npt.ArrayLike) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """The token records of these rows, end to end, and the arguments of `PackedBatch.of` for their layout."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        stored = self._sequences.read(self._at(rows), np.ones_like(rows))
        layout = {"lengths": lengths, "rows": rows, "documents": stored["document"], "sequences": stored["number"]}
        return self._tokens.read(stored["start"], lengths), layout

    @abstractmethod
    def pack(self, rows: npt.ArrayLike) -> PackedBatch:
        """Pack the sequences `rows` (sequences,) end to end, in that order."""


def sequence_records(
    lengths: npt.NDArray[np.int32], documents: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64] | int = 0
) -> npt.NDArray[np.void]:
    """(sequences,) SEQUENCE records of sequences of these lengths, whose tokens are stored end to end.

    `numbers` are the numbers of the sequences within their documents.
    """
    records = np.empty(len(documents), dtype=SEQUENCE)
    records["start"] = np.cumsum(lengths, dtype=np.int64) - lengths
    records["document"], records["number"] = documents, numbers
    return records


def cached_rows(kind: str, key: str, make: Callable[[Path], None], progress: Progress | None, what: str) -> Path:
    """The folder in the cache with the rows of this key. It is made if it does not exist.

    If another process makes the same rows, this one waits for it.

    Args:
        kind: the name of the folder inside the cache.
        key: the name of the rows' folder, a hash of everything that determines them.
        make: writes the rows to the given folder.
        progress: called while this process waits.
        what: names what is tokenised, in messages.

    Raises:
        CorpusError: the rows cannot be written.
    """
    folder = cache_folder(kind) / key
    if not folder.is_dir():

        def waiting() -> None:
            if progress:
                progress(f"waiting for another run that tokenises the same {what}", 0, None)

        with disk_errors("the tokens", folder.parent), creation_lock(folder, waiting):
            if not folder.is_dir():
                make(folder)
    return folder
