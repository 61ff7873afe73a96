"""Causal language modelling, for decoders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain_ft.corpus.batches import PackedBatch
from domain_ft.objectives.base import IGNORED, Inputs, LanguageModelHead


@dataclass(frozen=True, kw_only=True)
class CausalLM(LanguageModelHead):
    """Causal language modelling: predict each token of a sequence from the tokens before it.

    Paper:
        Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1.

    Equation:
        loss = -(1/n) Σ_i log p(x_{i+1} | x_1 … x_i)

        over the n positions i that have a next token in their sequence. The last position of a sequence has no label,
        since the next token of the row belongs to another sequence.

    Inputs:
        A decoder (`BaseModel` with objective `clm`) and a `PackedBatch` of token rows (`TokenRows`).

    Relations:
        `Instructions` is the same loss on the assistant's tokens only. `MaskedLM` is its counterpart for encoders.

    Example::

        objective = CausalLM()
        inputs = objective.prepare(rows.pack([0, 1]), epoch=0)
        loss = objective.loss(base, inputs) / inputs.items
    """

    name: str = "clm"

    def prepare(self, batch: PackedBatch, epoch: int) -> Inputs:  # noqa: ARG002  (every epoch has the same labels)
        """The micro-batch with labels shifted inside each sequence."""
        labels = np.full(batch.tokens, IGNORED, dtype=np.int64)  # (T,)
        label_bytes = np.zeros(batch.tokens, dtype=np.int32)  # (T,)
        labels[:-1] = batch.input_ids[1:]
        label_bytes[:-1] = batch.token_bytes[1:]
        labels[batch.cu_seqlens[1:] - 1] = IGNORED
        return Inputs.with_labels(batch, batch.input_ids, labels, label_bytes)
