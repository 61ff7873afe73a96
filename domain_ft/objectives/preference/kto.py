"""Kahneman-Tversky optimisation, for answers that are rated one by one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.corpus.conversations.rows import ConversationBatch
from domain_ft.models.base import BaseModel
from domain_ft.objectives.preference.answers import AnswerInputs, LogProbs, Reference, answer_sums, reference_of


@dataclass(frozen=True)
class RatedInputs(AnswerInputs):
    """One micro-batch of rated answers as tensors: first all answers, then all mismatched answers, in the same order.

    Attributes:
        keys: (rows,) int64, 1 for a desirable answer, 0 for an undesirable one.
        gradients: (rows, 2), the gradient of the step's loss with respect to `KTO.embeddings`; None if it is not
            computed yet, or if the micro-batch is the whole step.
    """

    keys: Tensor
    gradients: Tensor | None = None

    def without_labels(self) -> RatedInputs:
        """The same tokens without labels and rows: what a rank runs when it has no rows left in a step."""
        return dataclasses.replace(super().without_labels(), keys=self.keys[:0])

    def with_gradients(self, gradients: Tensor) -> RatedInputs:
        """The micro-batch without its mismatched answers, which have no gradient, and with the gradients of the rest.

        The answers come first, so their tokens keep their places, and with them their dropout.
        """
        rows = len(self.answer_tokens) // 2
        tokens, labelled = int(self.cu_seqlens[rows]), int(self.answer_tokens[:rows].sum())
        return dataclasses.replace(
            self,
            input_ids=self.input_ids[:tokens],
            position_ids=self.position_ids[:tokens],
            cu_seqlens=self.cu_seqlens[: rows + 1],
            labels=self.labels[:tokens],
            labelled=self.labelled[:labelled],
            scored_bytes=self.scored_bytes[:tokens],
            answer_tokens=self.answer_tokens[:rows],
            shared=self.shared[:labelled],
            gradients=gradients,
        )


@dataclass(frozen=True, kw_only=True)
class KTO:
    """Kahneman-Tversky optimisation (KTO): learn from answers that are good or bad, without pairs.

    Paper:
        Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", equation 8.

    Equation, for N answers in the step, with r(x, y) = log π(y|x) - log π_ref(y|x):

        loss = (1/N) Σ_i ( ℓ_i - w · [y_i is desirable] · log π(y_i|x_i) / |y_i| )

        ℓ_i = λ_D (1 - σ(β (r(x_i, y_i) - z)))     if y_i is desirable
              λ_U (1 - σ(β (z - r(x_i, y_i))))     if it is undesirable
        z   = max(0, (1/N) Σ_i r(x_i, y'_i)), without a gradient

        y'_i is the answer of another example. z estimates how far the model is from the reference.

    Inputs:
        A decoder and a `ConversationBatch` (`MismatchedRows`) whose first half of sequences are the answers after their
        prompts, and whose second half are the same prompts with the answers of others.

    Relations:
        z depends on the whole step, so the loop computes all r without a gradient first, and gives each micro-batch its
        part of the gradient, as for `Contrastive`. So the micro-batch size does not change z. For pairs, `DPO` uses
        the data better; KTO needs no second answer to the same prompt.

    Attributes:
        desirable: (rows of the store,) bool.
        desirable_weight: λ_D.
        undesirable_weight: λ_U. The paper advises λ_D n_D / (λ_U n_U) between 1 and 4/3 for n_D and n_U examples.
        beta: β.
        sft_weight: w.
        reference: log-probabilities under the reference of the answer and the mismatched answer, by row; None for
            zeros.
        kernels: the backend of the ops, as in `--kernels`.

    Example::

        objective = KTO(desirable=rows.desirable, reference=reference)
        inputs = objective.prepare(rows.pack([0, 1, 2]), epoch=0)
        loss = objective.loss(base, inputs) / inputs.items
    """

    desirable: npt.NDArray[np.bool_]
    reference: Reference | None = None
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    beta: float = 0.1
    sft_weight: float = 0.0
    kernels: str = "auto"
    name: str = "kto"

    def prepare(self, batch: ConversationBatch, epoch: int) -> RatedInputs:  # noqa: ARG002  (always the same labels)
        """The micro-batch, with labels on the answers' tokens."""
        half = len(batch.lengths) // 2
        rows = batch.rows[:half]
        keys = torch.from_numpy(self.desirable[rows].astype(np.int64))
        partner = np.roll(np.arange(2 * half), half)  # (S,)
        inputs: RatedInputs = RatedInputs.of_rows(batch, partner, reference_of(self.reference, rows), keys=keys)
        return inputs

    def answers(self, base: BaseModel, inputs: AnswerInputs) -> Tensor:
        """(rows, 2, 2) float64, log-probabilities as in `Reference`."""
        return answer_sums(base, inputs, self.kernels).view(2, -1, 2).transpose(0, 1)[: inputs.items]

    def embeddings(self, base: BaseModel, inputs: RatedInputs) -> Tensor:
        """(rows, 2) float64, r of the answer and of the mismatched answer."""
        return self._ratios(answer_sums(base, inputs, self.kernels)[:, 0], inputs)

    def step_loss(self, embeddings: Tensor, keys: Tensor) -> Tensor:
        """0-d, Σ ℓ_i over the answers of a step.

        Args:
            embeddings: (N, 2) of all answers of the step.
            keys: (N,) int64.
        """
        ratios, mismatched = embeddings.unbind(1)  # (N,) each
        baseline = mismatched.mean().clamp(min=0).detach()  # 0-d, z
        gains = self.beta * (ratios - baseline)
        good = self.desirable_weight * torch.sigmoid(-gains)  # 1 - σ(v) = σ(-v)
        bad = self.undesirable_weight * torch.sigmoid(gains)
        return torch.where(keys.bool(), good, bad).sum()

    def loss(self, base: BaseModel, inputs: RatedInputs) -> Tensor:
        """0-d float64, the micro-batch's part of N times the step's loss.

        Without `inputs.gradients` the micro-batch is the whole step. With them, the value is that of the likelihood
        term only, but the gradient is that of both.
        """
        sums = answer_sums(base, inputs, self.kernels)[:, 0]  # (2 rows,), or (rows,) with gradients
        ratios = self._ratios(sums, inputs)
        if inputs.gradients is None:
            answers = self.step_loss(ratios, inputs.keys)
        else:
            linear = (ratios[:, 0] * inputs.gradients[:, 0]).sum()
            answers = linear - linear.detach()
        return answers - self.sft_weight * self._likelihoods(sums, inputs).sum()

    def row_losses(self, base: BaseModel, inputs: RatedInputs) -> Tensor:
        """(rows,) float64, r of each answer: not finite where its loss is not."""
        return self._ratios(answer_sums(base, inputs, self.kernels)[:, 0], inputs)[:, 0]

    def _ratios(self, sums: Tensor, inputs: RatedInputs) -> Tensor:
        """(rows, 2), or (rows, 1) without the mismatched answers, from log π (S,)."""
        if not inputs.items:
            return sums[:0, None].expand(0, 2)
        logs = sums.view(-1, inputs.items).T  # (rows, 2) or (rows, 1)
        return logs - inputs.reference[:, : logs.shape[1], 0]

    def _likelihoods(self, sums: Tensor, inputs: RatedInputs) -> Tensor:
        """(rows,), log π(y|x) / |y| of desirable answers, and 0 for the rest."""
        means = LogProbs(sums, inputs.answer_tokens).means[: inputs.items]
        return torch.where(inputs.keys.bool(), means, torch.zeros_like(means))
