"""Instruction tuning, for decoders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain_ft.corpus.conversations.rows import ConversationBatch
from domain_ft.objectives.base import IGNORED, Inputs, LanguageModelHead


@dataclass(frozen=True, kw_only=True)
class Instructions(LanguageModelHead):
    """Supervised fine-tuning on conversations: causal language modelling on the assistant's tokens only.

    Paper:
        Ouyang et al. 2022, "Training language models to follow instructions with human feedback" (supervised step).

    Equation:
        loss = -(1/n) Σ_i log p(x_{i+1} | x_1 … x_i)

        over the n positions i whose next token is written by the assistant, including the token that ends its turn. All
        other tokens are context. The mean is over tokens, so a long answer weighs more than a short one.

    Inputs:
        A decoder (`BaseModel` with objective `clm`) and a `ConversationBatch` of rendered conversations
        (`ConversationRows`), whose `trained` (T,) bool marks the assistant's tokens.

    Relations:
        With every token marked it is `CausalLM`.

    Example::

        objective = Instructions()
        inputs = objective.prepare(rows.pack([0, 1]), epoch=0)
        loss = objective.loss(base, inputs) / inputs.items
    """

    name: str = "instructions"

    def prepare(self, batch: ConversationBatch, epoch: int) -> Inputs:  # noqa: ARG002  (every epoch has the same labels)
        """The micro-batch with labels shifted inside each sequence, on the assistant's tokens only."""
        labels = np.full(batch.tokens, IGNORED, dtype=np.int64)  # (T,)
        label_bytes = np.zeros(batch.tokens, dtype=np.int32)  # (T,)
        labels[:-1] = np.where(batch.trained[1:], batch.input_ids[1:], IGNORED)
        label_bytes[:-1] = batch.token_bytes[1:]
        labels[batch.cu_seqlens[1:] - 1] = IGNORED
        return Inputs.with_labels(batch, batch.input_ids, labels, label_bytes)
