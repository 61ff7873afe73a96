"""What the loop reads: rows of tokens, whatever they are rows of."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import PackedBatch


class Rows(Protocol):
    """Pieces of a corpus (`TokenRows`), or the examples of a task (`ExampleRows`)."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(rows,) tokens of each row, special tokens included."""

    def pack(self, rows: npt.ArrayLike) -> PackedBatch:
        """Lay these rows end to end, in that order."""

    def row_id(self, row: int) -> str:
        """What a person knows the row by: the id of its document or example."""


class ScoredRows(Rows, Protocol):
    """Rows that a language model is scored on: pieces of documents, or conversations, each a document of its own."""

    @property
    def key(self) -> str:
        """Names the content: equal keys, equal rows."""

    @property
    def documents(self) -> npt.NDArray[np.int64]:
        """(rows,) the index of the document that each row is of."""

    def document_id(self, document: int) -> str:
        """What a person knows a document by."""

    def select_documents(self, max_tokens: int | None) -> npt.NDArray[np.int64]:
        """(selected,) indices of rows of as many documents as `max_tokens` allows; all of them where it is None."""
