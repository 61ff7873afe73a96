"""Causal language modelling, for decoders: each token of a sequence is asked for at the position before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain_ft.corpus.batches import PackedBatch
from domain_ft.objectives.base import IGNORED, Inputs, LanguageModelHead


@dataclass(frozen=True, kw_only=True)
class CausalLM(LanguageModelHead):
    """Guess the next token. The last position of a sequence asks for nothing: the next token is another document's."""

    name: str = "clm"

    def prepare(self, batch: PackedBatch, epoch: int) -> Inputs:  # noqa: ARG002  (every epoch asks for the same)
        """The micro-batch with labels shifted inside each sequence."""
        labels = np.full(batch.tokens, IGNORED, dtype=np.int64)
        label_bytes = np.zeros(batch.tokens, dtype=np.int32)
        labels[:-1] = batch.input_ids[1:]
        label_bytes[:-1] = batch.token_bytes[1:]
        labels[batch.cu_seqlens[1:] - 1] = IGNORED
        return Inputs.with_labels(batch, batch.input_ids, labels, label_bytes)
