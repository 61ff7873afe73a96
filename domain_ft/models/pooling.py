"""Pooling: from the hidden states of a sequence's tokens to one vector for the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PoolingKind = Literal["mean", "cls", "max", "last"]


@dataclass(frozen=True)
class Pooling:
    """How a sentence model turns hidden states into a sentence vector.

    Special tokens count, as in sentence-transformers.

    Attributes:
        kind: the `mean` over the tokens, the first token (`cls`), the `max` over the tokens, or the `last` token.
        normalise: whether vectors are scaled to length 1.
    """

    kind: PoolingKind = "mean"
    normalise: bool = False

    def vectors(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """(S, D) float32, or float64 for float64 states.

        Args:
            hidden: (T, D) states of the packed tokens.
            cu_seqlens: (S + 1,) where each sequence begins, and the end of the last. No sequence is empty.
        """
        hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
        if self.kind in ("mean", "max"):
            pooled = torch.segment_reduce(hidden, self.kind, lengths=torch.diff(cu_seqlens).long())  # (S, D)
        else:
            places = cu_seqlens[:-1] if self.kind == "cls" else cu_seqlens[1:] - 1  # (S,)
            pooled = hidden.index_select(0, places.long())
        return F.normalize(pooled, dim=-1) if self.normalise else pooled
