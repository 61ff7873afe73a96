"""Instruction tuning, for decoders: a causal LM that is asked for the answers alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain_ft.corpus.conversations.rows import ConversationBatch
from domain_ft.objectives.base import IGNORED, Inputs, LanguageModelHead


@dataclass(frozen=True, kw_only=True)
class Instructions(LanguageModelHead):
    """Guess the next token where it is one that the assistant says, or the one that ends its turn.

    Prompts are read and ask for nothing. The loss of a step is the mean over the tokens that are asked for, so that a
    long answer counts for more than a short one.
    """

    name: str = "instructions"

    def prepare(self, batch: ConversationBatch, epoch: int) -> Inputs:  # noqa: ARG002  (as it draws nothing)
        """The micro-batch with the labels of what is learned, shifted inside each sequence; the same for every
        epoch."""
        labels = np.full(batch.tokens, IGNORED, dtype=np.int64)
        label_bytes = np.zeros(batch.tokens, dtype=np.int32)
        labels[:-1] = np.where(batch.trained[1:], batch.input_ids[1:], IGNORED)
        label_bytes[:-1] = batch.token_bytes[1:]
        labels[batch.cu_seqlens[1:] - 1] = IGNORED
        return Inputs.with_labels(batch, batch.input_ids, labels, label_bytes)
