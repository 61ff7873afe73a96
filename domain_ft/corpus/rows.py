"""The interface of rows of tokens, which training and evaluation read."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import PackedBatch


class Rows(Protocol):
    """Sequences of a corpus (`TokenRows`), examples to classify (`ExampleRows`), parts of tagged texts (`TaggingRows`)
    or conversations (`ConversationRows`)."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(rows,) tokens of each row, special tokens included."""

    def pack(self, rows: npt.ArrayLike) -> PackedBatch:
        """Pack these rows end to end, in that order."""

    def row_id(self, row: int) -> str:
        """The id of the row's document or example, for messages."""


class CountedRows(Rows, Protocol):
    """Rows of a corpus or of conversations, on which a language model is trained for a number of tokens."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows together, special tokens included."""


class DocumentRows(CountedRows, Protocol):
    """Rows of a corpus or of conversations, on which a language model is scored by document."""

    @property
    def key(self) -> str:
        """A hash of the content: equal keys mean equal rows."""

    @property
    def documents(self) -> npt.NDArray[np.int64]:
        """(rows,) the index of each row's document."""

    def document_id(self, document: int) -> str:
        """The id of the document with this index. It is unique."""

    def select_documents(self, max_tokens: int | None) -> npt.NDArray[np.int64]:
        """(selected,) the rows of as many documents as `max_tokens` allows; all rows if it is None. Deterministic."""
