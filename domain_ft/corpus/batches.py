"""What the data hands to a model: pieces of documents laid end to end, with no padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PackedBatch:
    """One pass: whole pieces laid end to end in a single row of tokens. Attention stays inside each piece.

    Attributes:
        input_ids: (tokens,) int64, special tokens at both ends of each piece where the tokenizer has them.
        position_ids: (tokens,) int64, counted from 0 within each piece.
        cu_seqlens: (pieces + 1,) int32, where each piece begins, and the end of the last.
        rows: (pieces,) int64, the index of each piece in the TokenRows that it comes from.
        documents: (pieces,) int64, the index of the document that each piece is cut from.
        pieces: (pieces,) int32, which piece of its document each is, counted from 0.
        word_ids: (tokens,) int32, tokens of one word share a number within a piece; -1 for special tokens.
        token_bytes: (tokens,) int32, UTF-8 bytes of text from the end of the token before to the end of this one, so
            that they sum to the document's bytes; 0 for special tokens.
    """

    input_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    cu_seqlens: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int32]
    word_ids: npt.NDArray[np.int32]
    token_bytes: npt.NDArray[np.int32]

    @property
    def tokens(self) -> int:
        """Number of tokens in the pass, special tokens included."""
        return len(self.input_ids)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(pieces,) length of each piece in tokens."""
        return np.diff(self.cu_seqlens)
