"""The log-probabilities of answers, from which every preference loss is computed.

Only the answers' tokens pass through the output projection, and no logits are stored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.corpus.conversations.rows import ConversationBatch
from domain_ft.models.base import BaseModel
from domain_ft.objectives.base import IGNORED, Inputs
from domain_ft.objectives.instructions import Instructions

Reference = npt.NDArray[np.float64]
"""(rows, 2, 2) log-probabilities under the reference of the two answers of each row: over all tokens of the answer, and
over its first min(|y_1|, |y_2|) tokens."""


@dataclass(frozen=True)
class LogProbs:
    """The log-probabilities of answers, under one model.

    Attributes:
        sums: (pairs, 2) float64, log π(y|x) of the better and the worse answer.
        lengths: (pairs, 2) int64, |y|.
    """

    sums: Tensor
    lengths: Tensor

    @property
    def means(self) -> Tensor:
        """(pairs, 2), log π(y|x) / |y|."""
        return self.sums / self.lengths.clamp(min=1)


class PairLoss(Protocol):
    """The loss of a pair of answers, as a function of their log-probabilities."""

    name: ClassVar[str]
    uses_reference: ClassVar[bool]

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """(pairs,) float64, the loss of each pair. `reference` is all zeros if it is not used."""


@dataclass(frozen=True)
class AnswerInputs(Inputs):
    """One micro-batch of rows of two answers each, as tensors.

    Attributes:
        answer_tokens: (S,) int64, labelled positions of each sequence.
        shared: (n,) bool, whether a labelled position is among the first min(|y_1|, |y_2|) of its answer.
        reference: (rows, 2, 2) float64, see `Reference`.
    """

    answer_tokens: Tensor
    shared: Tensor
    reference: Tensor

    @classmethod
    def of_rows(
        cls, batch: ConversationBatch, partner: npt.NDArray[np.int64], reference: Reference, **fields: Any
    ) -> Any:
        """The tensors of `batch`, with labels on the answers' tokens.

        Args:
            partner: (S,) the index of the sequence with the other answer of the same row.
            reference: (rows in the micro-batch, 2, 2).
            fields: the fields that a subclass adds.
        """
        inputs = Instructions().prepare(batch, 0)
        labelled = inputs.labelled.numpy()
        owners = np.searchsorted(batch.cu_seqlens, labelled, side="right") - 1  # (n,)
        counts = np.bincount(owners, minlength=len(partner))  # (S,)
        begins = np.cumsum(counts) - counts
        place = np.arange(len(labelled)) - begins[owners]  # (n,) the token's number within its answer
        shared = place < np.minimum(counts, counts[partner])[owners]
        values = {one.name: getattr(inputs, one.name) for one in dataclasses.fields(inputs)}
        return cls(
            **values,
            answer_tokens=torch.from_numpy(counts.astype(np.int64)),
            shared=torch.from_numpy(shared),
            reference=torch.from_numpy(reference),
            **fields,
        )

    @property
    def items(self) -> int:
        """Number of rows."""
        return len(self.reference)

    def without_labels(self) -> Any:
        """The same tokens without labels and rows: what a rank runs when it has no rows left in a step."""
        return dataclasses.replace(
            self,
            labels=torch.full_like(self.labels, IGNORED),
            labelled=self.labelled[:0],
            scored_bytes=np.zeros_like(self.scored_bytes),
            answer_tokens=torch.zeros_like(self.answer_tokens),
            shared=self.shared[:0],
            reference=self.reference[:0],
        )


def reference_of(reference: Reference | None, rows: npt.NDArray[np.int64]) -> Reference:
    """The log-probabilities of these rows; zeros if there is no reference."""
    return np.zeros((len(rows), 2, 2)) if reference is None else reference[rows]


def answer_sums(base: BaseModel, inputs: AnswerInputs, kernels: str) -> Tensor:
    """(S, 2) float64, log π(y|x) of each sequence: over all tokens of its answer, and over the shared ones.

    Args:
        kernels: the backend of the op.
    """
    losses = Instructions(kernels=kernels).labelled_losses(base, inputs).double()  # (n,)
    both = torch.stack([losses, losses * inputs.shared], dim=1)  # (n, 2)
    return -torch.segment_reduce(both, "sum", lengths=inputs.answer_tokens, axis=0, initial=0.0)


def tempered(sums: Tensor, alpha: float) -> Tensor:
    """(...,) log-probabilities in which the tokens that only the longer answer has count `alpha` times: LD-DPO.

    Args:
        sums: (..., 2), over all tokens and over the shared ones.
        alpha: 1 for the plain log-probability.
    """
    if alpha == 1.0:
        return sums[..., 0]
    return alpha * sums[..., 0] + (1 - alpha) * sums[..., 1]
