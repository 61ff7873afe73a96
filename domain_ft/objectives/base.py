"""What the objectives share: interfaces, the tensors of a micro-batch, and a loss that never stores all logits.

An objective turns a micro-batch of the corpus (numpy) into tensors with labels, such as a `PackedBatch` into `Inputs`,
and returns the sum of the losses of its items. The loop divides once, by the number of items of all micro-batches and
ranks:

    loss = (Σ over ranks and micro-batches of objective.loss) / (Σ over ranks and micro-batches of inputs.items)

Notation: T tokens of the micro-batch, S sequences in it, n labelled positions, D hidden size, V vocabulary, L classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from domain_ft.corpus.batches import IGNORED, PackedBatch
from domain_ft.models.base import BaseModel, Tokens
from domain_ft_kernels import linear_cross_entropy

EVALUATION_EPOCH = -1
"""The epoch for which evaluation masks are drawn: always the same, and never an epoch of training."""


@dataclass(frozen=True)
class Inputs(Tokens):
    """One micro-batch of a language model as tensors.

    Attributes:
        input_ids: (tokens,) int64, as the model reads them: masked, for a masked LM.
        labels: (tokens,) int64, the token to predict at each position; IGNORED where there is none.
        labelled: (items,) int64, the positions with a label, in rising order. They are computed on the CPU, since on a
            GPU the host would have to wait for their number.
        scored_bytes: (tokens,) int32 numpy, UTF-8 bytes of the token to predict at each position; 0 where there is
            none.
    """

    labels: Tensor
    labelled: Tensor
    scored_bytes: npt.NDArray[np.int32]

    @classmethod
    def with_labels(
        cls,
        batch: PackedBatch,
        input_ids: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        label_bytes: npt.NDArray[np.int32],
    ) -> Inputs:
        """The tensors of `batch`.

        Args:
            input_ids: (tokens,) as the model reads them.
            labels: (tokens,) IGNORED where there is none.
            label_bytes: (tokens,) UTF-8 bytes of each label; those of IGNORED do not matter.
        """
        has_label = labels != IGNORED
        return cls.from_batch(
            batch,
            input_ids,
            labels=torch.from_numpy(labels),
            labelled=torch.from_numpy(np.flatnonzero(has_label)),
            scored_bytes=np.where(has_label, label_bytes, 0).astype(np.int32),
        )

    @property
    def items(self) -> int:
        """Number of labelled positions."""
        return len(self.labelled)

    def without_labels(self) -> Inputs:
        """The same tokens without labels: what a rank runs when it has no rows left in a step."""
        return dataclasses.replace(
            self,
            labels=torch.full_like(self.labels, IGNORED),
            labelled=self.labelled[:0],
            scored_bytes=np.zeros_like(self.scored_bytes),
        )


class MicroBatch(Protocol):
    """What the loop reads of a micro-batch: `Inputs` of a language model, or `TaskInputs`."""

    @property
    def input_ids(self) -> Tensor:
        """(T,) int64."""

    @property
    def items(self) -> int:
        """Number of labelled items: the divisor of the sum of losses."""

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same with its tensors on `device`."""

    def without_labels(self) -> MicroBatch:
        """The same tokens without labels: what a rank runs when it has no rows left in a step."""


class TrainedModel(Protocol):
    """What the loop needs of a model: a language model's `BaseModel`, or a downstream task's `TaskModel`."""

    model: PreTrainedModel

    @property
    def name(self) -> str:
        """The name that the model was loaded by."""

    @property
    def source(self) -> str:
        """What an adapter records as its base: an embedded name, a hub id, or an absolute path."""

    @property
    def revision(self) -> str:
        """The hub's commit, or `sha256:` and the hash of the weights."""

    @property
    def packed(self) -> bool:
        """Whether sequences are packed into one row without padding; otherwise batches are padded."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def padding_fraction(self, batch: Any) -> float:
        """The share of padding in the tokens that are computed for a micro-batch."""


class Objective(Protocol):
    """What the loop needs of an objective."""

    @property
    def name(self) -> str:
        """Its short name, such as `mlm`, `clm` or `classification`."""

    def prepare(self, batch: Any, epoch: int) -> MicroBatch:
        """The tensors and labels of packed rows; the same for the same rows and epoch."""

    def loss(self, base: Any, inputs: Any) -> Tensor:
        """0-d float32, the sum of the losses of all items."""

    def row_losses(self, base: Any, inputs: Any) -> Tensor:
        """(rows,) float32, the sum of the losses of each row of the micro-batch, in its order."""


@runtime_checkable
class CoupledObjective(Objective, Protocol):
    """An objective whose loss couples rows of different micro-batches, such as one with in-batch negatives.

    The loop computes `step_loss` over the whole step and gives each micro-batch its part of the gradient; see
    `Contrastive`.
    """

    def embeddings(self, base: Any, inputs: Any) -> Tensor:
        """(items, ...), what `step_loss` needs of each item of a micro-batch."""

    def step_loss(self, embeddings: Tensor, keys: Tensor) -> Tensor:
        """0-d, the sum of the losses of all items of a step.

        Args:
            embeddings: (N, ...) of all items.
            keys: (N, ...), the `keys` of all micro-batches: what decides which items belong together.
        """


class LanguageModelObjective(Objective, Protocol):
    """What scoring held-out text needs of an objective."""

    def prepare(self, batch: Any, epoch: int) -> Inputs:
        """The tensors and labels of a `PackedBatch`; the same for the same sequences and epoch."""

    def losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(T,) float32, the loss at each position in nats; 0 where there is no label."""


@dataclass(frozen=True)
class LanguageModelHead:
    """The fused linear cross-entropy that the language-modelling objectives share.

    With h_i the hidden state at labelled position i, y_i its label, W (V, D) and b (V,) the output projection:

        ℓ_i = log Σ_v exp(h_i · W_v + b_v) - (h_i · W_{y_i} + b_{y_i})

    with softcap(logits) in place of the logits if the model has a softcap. Only labelled positions pass through the
    output projection, and the logits (n, V) exist one tile at a time.

    Attributes:
        kernels: the backend of the ops, as in `--kernels`.
    """

    kernels: str = "auto"

    def losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(T,) float32, the loss at each position in nats; 0 where there is no label."""
        labelled = self.labelled_losses(base, inputs)  # (n,)
        return labelled.new_zeros(len(inputs.labels)).index_copy(0, inputs.labelled, labelled)  # (T,)

    def labelled_losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(n,) float32, the loss at each labelled position in nats."""
        return self._cross_entropy(base, inputs, "none")

    def loss(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """0-d float32, the sum of the losses of the labelled positions in nats."""
        return self._cross_entropy(base, inputs, "sum")

    def row_losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(S,) float32, the sum of the losses of each sequence in nats."""
        return torch.segment_reduce(self.losses(base, inputs), "sum", lengths=torch.diff(inputs.cu_seqlens).long())

    def _cross_entropy(self, base: BaseModel, inputs: Inputs, reduction: str) -> Tensor:
        hidden = base.hidden(inputs, inputs.labelled)  # (n, D)
        weight, bias, softcap = base.projection()  # (V, D), (V,)
        target = inputs.labels.index_select(0, inputs.labelled)  # (n,)
        return linear_cross_entropy(
            hidden, weight, target, bias, softcap=softcap, reduction=reduction, backend=self.kernels
        )
