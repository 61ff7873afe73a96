"""The interface of rows of tokens: what the loop and the evaluation read."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import PackedBatch


class Rows(Protocol):
    """Sequences of a corpus (`TokenRows`), examples of a task (`ExampleRows`), or conversations
    (`ConversationRows`)."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(rows,) tokens of each row, special tokens included."""

    def pack(self, rows: npt.ArrayLike) -> PackedBatch:
        """Lay these rows end to end, in that order."""

    def row_id(self, row: int) -> str:
        """The id of the row's document or example, for messages."""


class DocumentRows(Rows, Protocol):
    """Rows on which a language model is scored, document by document: of a corpus, or of conversations."""

    @property
    def key(self) -> str:
        """Names the content: equal keys, equal rows."""

    @property
    def tokens(self) -> int:
        """Of all rows together, special tokens included."""

    @property
    def documents(self) -> npt.NDArray[np.int64]:
        """(rows,) the index of each row's document."""

    def document_id(self, document: int) -> str:
        """The id of the document with this index; no two have the same."""

    def select_documents(self, max_tokens: int | None) -> npt.NDArray[np.int64]:
        """(selected,) rows of as many documents as `max_tokens` allows, the same each time; of all for None."""
