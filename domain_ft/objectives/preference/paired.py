"""The objective of preference tuning on pairs: one of the losses of this package, on micro-batches of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from domain_ft.corpus.conversations.rows import ConversationBatch
from domain_ft.models.base import BaseModel
from domain_ft.objectives.preference.answers import (
    AnswerInputs,
    LogProbs,
    PairLoss,
    Reference,
    answer_sums,
    reference_of,
    tempered,
)


@dataclass(frozen=True, kw_only=True)
class PairedPreferences:
    """A preference loss on pairs of answers, and optionally the likelihood of the better answer.

    Papers:
        The likelihood term: Pang et al. 2024, "Iterative Reasoning Preference Optimization", equation 1. Length
        desensitising (LD-DPO): Liu et al. 2024, "Length Desensitization in Direct Preference Optimization".

    Equation, for N pairs in the step:

        loss = (1/N) Σ ( ℓ(pair) - w · log π(y_w|x) / |y_w| )

        ℓ is one of the losses of this package. With length desensitising, log π and log π_ref in ℓ are

            Σ_{t ≤ m} log p_t + α Σ_{t > m} log p_t     with m = min(|y_w|, |y_l|)

        so that the tokens by which one answer is longer than the other count α times.

    Inputs:
        A decoder and a `ConversationBatch` whose sequences are a better answer, its worse answer, the next better one,
        and so on, each after its prompt. `trained` marks the answers' tokens.

    Relations:
        Each pair has the same weight, whatever its length. `KTO` learns from answers that are not in pairs.

    Attributes:
        pair_loss: ℓ.
        sft_weight: w.
        length_weight: α; 1 for plain log-probabilities.
        reference: log-probabilities under the reference, by row; None if ℓ has no reference.
        kernels: the backend of the ops, as in `--kernels`.

    Example::

        objective = PairedPreferences(pair_loss=DPO(beta=0.1), reference=reference)
        inputs = objective.prepare(rows.pack([0, 1]), epoch=0)
        loss = objective.loss(base, inputs) / inputs.items
    """

    pair_loss: PairLoss
    sft_weight: float = 0.0
    length_weight: float = 1.0
    reference: Reference | None = None
    kernels: str = "auto"

    @property
    def name(self) -> str:
        """The name of the loss."""
        return self.pair_loss.name

    def prepare(self, batch: ConversationBatch, epoch: int) -> AnswerInputs:  # noqa: ARG002  (always the same labels)
        """The micro-batch, with labels on the answers' tokens."""
        partner = np.arange(len(batch.lengths)) ^ 1  # (S,) 1, 0, 3, 2, …
        return AnswerInputs.of_rows(batch, partner, reference_of(self.reference, batch.rows[::2]))

    def answers(self, base: BaseModel, inputs: AnswerInputs) -> Tensor:
        """(pairs, 2, 2) float64, log-probabilities as in `Reference`."""
        return answer_sums(base, inputs, self.kernels).view(-1, 2, 2)[: inputs.items]

    def loss(self, base: BaseModel, inputs: AnswerInputs) -> Tensor:
        """0-d float64, the sum of the losses of all pairs."""
        return self.row_losses(base, inputs).sum()

    def row_losses(self, base: BaseModel, inputs: AnswerInputs) -> Tensor:
        """(pairs,) float64, the loss of each pair."""
        sums = self.answers(base, inputs)  # (pairs, 2, 2)
        lengths = inputs.answer_tokens.view(-1, 2)[: inputs.items]  # (pairs, 2)
        policy, reference = (
            LogProbs(tempered(values, self.length_weight), lengths) for values in (sums, inputs.reference)
        )
        losses = self.pair_loss.losses(policy, reference)  # (pairs,)
        if not self.sft_weight:
            return losses
        return losses - self.sft_weight * LogProbs(sums[..., 0], lengths).means[:, 0]
