"""Micro-batches: the sequences that a model reads, packed end to end without padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Self

Indices = npt.NDArray[np.int64]

IGNORED = -100
"""The label of a position that has no loss."""


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch: whole sequences packed end to end. Attention stays inside each sequence.

    Attributes:
        input_ids: (tokens,) int64, with special tokens.
        position_ids: (tokens,) int64, counted from 0 within each sequence.
        cu_seqlens: (sequences + 1,) int32, where each sequence begins, and where the last one ends.
        rows: (sequences,) int64, the index of the row that each sequence comes from.
        documents: (sequences,) int64, the index of each sequence's document.
        sequences: (sequences,) int32, the number of each sequence within its document, from 0.
        word_ids: (tokens,) int32; the tokens of a word in a sequence have the same number; -1 for special tokens.
        token_bytes: (tokens,) int32, UTF-8 bytes of text from the end of the previous token to the end of this one, so
            that every byte is counted once; 0 for special tokens.
    """

    input_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    cu_seqlens: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    sequences: npt.NDArray[np.int32]
    word_ids: npt.NDArray[np.int32]
    token_bytes: npt.NDArray[np.int32]

    @classmethod
    def of(
        cls,
        input_ids: npt.NDArray[Any],
        *,
        lengths: npt.ArrayLike,
        rows: Indices,
        documents: npt.NDArray[Any],
        sequences: npt.NDArray[Any],
        word_ids: npt.NDArray[np.int32] | None = None,
        token_bytes: npt.NDArray[Any] | None = None,
        **fields: Any,
    ) -> Self:
        """A micro-batch of sequences whose tokens are already concatenated.

        Args:
            input_ids: (tokens,) any integers.
            lengths: (sequences,) tokens of each sequence.
            rows, documents, sequences: (sequences,) see the class.
            word_ids, token_bytes: (tokens,) see the class; zeros by default, for models that do not need them.
            fields: the fields that a subclass adds.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        ends = np.cumsum(lengths)
        zeros = np.zeros(len(input_ids), dtype=np.int32)
        return cls(
            input_ids=input_ids.astype(np.int64),
            position_ids=np.arange(len(input_ids)) - np.repeat(ends - lengths, lengths),
            cu_seqlens=np.concatenate(([0], ends)).astype(np.int32),
            rows=rows,
            documents=documents.astype(np.int64),
            sequences=sequences.astype(np.int32),
            word_ids=zeros if word_ids is None else word_ids,
            token_bytes=zeros if token_bytes is None else token_bytes.astype(np.int32),
            **fields,
        )

    def repeated(self, lengths: Sequence[int]) -> Self:
        """For measuring memory: a micro-batch of sequences with these lengths, each a prefix of this micro-batch."""
        places = np.concatenate([np.arange(length) for length in lengths])
        return dataclasses.replace(self, **self._taken(places, np.zeros(len(lengths), dtype=np.int64), lengths))

    def _taken(self, tokens: Indices, sequences: Indices, lengths: Sequence[int]) -> dict[str, Any]:
        """The fields of a micro-batch with the tokens and the sequences at these indices."""
        return {
            "input_ids": self.input_ids[tokens],
            "position_ids": self.position_ids[tokens],
            "cu_seqlens": np.concatenate(([0], np.cumsum(lengths))).astype(np.int32),
            "rows": self.rows[sequences],
            "documents": self.documents[sequences],
            "sequences": self.sequences[sequences],
            "word_ids": self.word_ids[tokens],
            "token_bytes": self.token_bytes[tokens],
        }

    @property
    def tokens(self) -> int:
        """Number of tokens, special tokens included."""
        return len(self.input_ids)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(sequences,) length of each sequence in tokens."""
        return np.diff(self.cu_seqlens)


@dataclass(frozen=True)
class TaskBatch(PackedBatch):
    """One micro-batch of a downstream task. An example has one sequence, or one for each of its windows.

    The sequences of an example are adjacent, and `rows` repeats its index for each of them.

    Attributes:
        type_ids: (tokens,) int64, the segment of each token: 1 for the second text of a pair, if the tokenizer
            distinguishes the two.
        targets: what to predict. For classification (examples,) int64 classes, or (examples, classes) float32 of 0 and
            1 for multi-label tasks; for tagging (tokens,) int64. IGNORED where an example or token has no label.
        by_token: whether `targets` has an entry for each token.
    """

    type_ids: npt.NDArray[np.int64]
    targets: npt.NDArray[Any]
    by_token: bool = False

    @property
    def owners(self) -> Indices:
        """(sequences,) the example of each sequence, counted from 0 within the micro-batch."""
        return np.cumsum(np.append(False, self.rows[1:] != self.rows[:-1])).astype(np.int64)

    @property
    def examples(self) -> int:
        """Number of examples in the micro-batch."""
        return int(self.owners.max(initial=-1)) + 1

    def _taken(self, tokens: Indices, sequences: Indices, lengths: Sequence[int]) -> dict[str, Any]:
        return super()._taken(tokens, sequences, lengths) | {
            "rows": np.arange(len(sequences)),
            "type_ids": self.type_ids[tokens],
            "targets": self.targets[tokens if self.by_token else sequences],
        }
