"""What the objectives share: the tensors of a micro-batch, and a head that never makes the full logits.

An objective turns a `PackedBatch` (numpy, from the corpus) into `Inputs` (tensors, with labels), and returns the sum of
the losses of the labelled positions. The loop divides once, by the number of items of all micro-batches and ranks:

    loss = (Σ over ranks and micro-batches of objective.loss) / (Σ over ranks and micro-batches of inputs.items)

Notation: T tokens of the micro-batch, S sequences in it, n labelled positions, D hidden size, V vocabulary, L classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from domain_ft.corpus.batches import PackedBatch
from domain_ft.models.base import BaseModel
from domain_ft_kernels import linear_cross_entropy

IGNORED = -100
"""The label of a position without a target."""

EVALUATION_EPOCH = -1
"""The epoch of the evaluation masks: the same before and after training, and no epoch of training."""


@dataclass(frozen=True)
class Inputs:
    """One micro-batch as tensors.

    Attributes:
        input_ids: (T,) int64, as the model reads them (masked, for a masked LM).
        position_ids: (T,) int64, counted from 0 within each sequence.
        cu_seqlens: (S + 1,) int32, where each sequence begins, and the end of the last.
        max_seqlen: length of the longest sequence in tokens.
        labels: (T,) int64, the target token of each position; IGNORED where there is none.
        labelled: (n,) int64, the labelled positions, rising; computed on the CPU, so that a GPU need not be waited for.
        scored_bytes: (T,) int32 numpy, UTF-8 bytes of each target token; 0 where there is none.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    labels: Tensor
    labelled: Tensor
    scored_bytes: npt.NDArray[np.int32]

    @classmethod
    def of(
        cls,
        batch: PackedBatch,
        input_ids: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        label_bytes: npt.NDArray[np.int32],
    ) -> Inputs:
        """The tensors of `batch`, with these `input_ids`, `labels` and bytes of each label, (T,) each."""
        has_label = labels != IGNORED  # (T,)
        return cls(
            input_ids=torch.from_numpy(input_ids),
            position_ids=torch.from_numpy(batch.position_ids),
            cu_seqlens=torch.from_numpy(batch.cu_seqlens),
            max_seqlen=int(batch.lengths.max(initial=0)),
            labels=torch.from_numpy(labels),
            labelled=torch.from_numpy(np.flatnonzero(has_label)),
            scored_bytes=np.where(has_label, label_bytes, 0).astype(np.int32),
        )

    @property
    def items(self) -> int:
        """Number of labelled positions."""
        return len(self.labelled)

    def to(self, device: torch.device | str) -> Inputs:
        """The same micro-batch with its tensors on `device`."""
        if torch.device(device) == self.input_ids.device:
            return self
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def without_labels(self) -> Inputs:
        """The same tokens without targets: what a rank runs when a step has no rows for it."""
        return dataclasses.replace(
            self,
            labels=torch.full_like(self.labels, IGNORED),
            labelled=self.labelled[:0],
            scored_bytes=np.zeros_like(self.scored_bytes),
        )


class MicroBatch(Protocol):
    """One micro-batch as tensors, for any objective."""

    @property
    def input_ids(self) -> Tensor:
        """(T,) int64."""

    @property
    def position_ids(self) -> Tensor:
        """(T,) int64, counted from 0 within each sequence."""

    @property
    def cu_seqlens(self) -> Tensor:
        """(S + 1,) int32, where each sequence begins, and the end of the last."""

    @property
    def max_seqlen(self) -> int:
        """Length of the longest sequence in tokens."""

    @property
    def items(self) -> int:
        """How many losses are summed: what the sum is divided by."""

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same micro-batch with its tensors on `device`."""

    def without_labels(self) -> MicroBatch:
        """The same tokens without targets: what a rank runs when a step has no rows for it."""


class TrainedModel(Protocol):
    """What the loop needs of a model: a language model's `BaseModel`, or a downstream task's `TaskModel`."""

    model: PreTrainedModel

    @property
    def name(self) -> str:
        """The name that it was loaded by."""

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
        """The fraction of the computed tokens of a micro-batch that is padding."""


class Objective(Protocol):
    """What the loop needs of an objective."""

    @property
    def name(self) -> str:
        """Its short name, as in result.json: `mlm`, `clm`, `instructions`, `classification` or `tagging`."""

    def prepare(self, batch: Any, epoch: int) -> MicroBatch:
        """The tensors and labels of packed rows; the same for the same rows and epoch."""

    def loss(self, base: Any, inputs: Any) -> Tensor:
        """0-d float32, the sum of the losses of all items."""

    def row_losses(self, base: Any, inputs: Any) -> Tensor:
        """(rows,) float32, the sum of the losses of each row of the micro-batch, in its order."""


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

    Hidden states are taken at labelled positions only, and the logits (n, V) exist one tile at a time.

    Attributes:
        kernels: the backend of the ops, as in `--kernels`.
    """

    kernels: str = "auto"

    def losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(T,) float32, the loss at each position in nats; 0 where there is no label."""
        labelled = self._cross_entropy(base, inputs, "none")  # (n,)
        return labelled.new_zeros(len(inputs.labels)).index_copy(0, inputs.labelled, labelled)  # (T,)

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
