"""What every objective shares: the tensors of one micro-batch, and the head that never makes a full logits tensor.

An objective prepares a `PackedBatch` (numpy, from the corpus) into `Inputs` (tensors, with labels), and gives the sum
of the losses of the labelled positions. The loop divides once, by the number of items of all micro-batches and ranks.
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
"""The label of a position that asks for nothing."""

EVALUATION_EPOCH = -1
"""The epoch that evaluation masks are drawn for: the same before and after training, and met by no training step."""


@dataclass(frozen=True)
class Inputs:
    """One micro-batch as tensors.

    Attributes:
        input_ids: (tokens,) int64, as the model reads them (masked, for a masked LM).
        position_ids: (tokens,) int64, counted from 0 within each sequence.
        cu_seqlens: (sequences + 1,) int32, where each sequence begins, and the end of the last.
        max_seqlen: length of the longest sequence in tokens.
        labels: (tokens,) int64, the token asked for at each position; IGNORED where none is.
        labelled: (items,) int64, the positions that are labelled, in rising order; known before anything goes to a
            GPU, so that taking them needs no wait for it.
        scored_bytes: (tokens,) int32 numpy, UTF-8 bytes of the token asked for at each position; 0 where none is.
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
        """The tensors of `batch` read as `input_ids`, with `labels` (tokens,) whose texts are `label_bytes` long."""
        asked = labels != IGNORED
        return cls(
            input_ids=torch.from_numpy(input_ids),
            position_ids=torch.from_numpy(batch.position_ids),
            cu_seqlens=torch.from_numpy(batch.cu_seqlens),
            max_seqlen=int(batch.lengths.max(initial=0)),
            labels=torch.from_numpy(labels),
            labelled=torch.from_numpy(np.flatnonzero(asked)),
            scored_bytes=np.where(asked, label_bytes, 0).astype(np.int32),
        )

    @property
    def items(self) -> int:
        """Number of labelled positions."""
        return len(self.labelled)

    def to(self, device: torch.device | str) -> Inputs:
        """The same pass with its tensors on `device`."""
        if torch.device(device) == self.input_ids.device:
            return self
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def without_labels(self) -> Inputs:
        """The same tokens, asking for nothing: what a rank runs when a step has no rows for it."""
        return dataclasses.replace(
            self,
            labels=torch.full_like(self.labels, IGNORED),
            labelled=self.labelled[:0],
            scored_bytes=np.zeros_like(self.scored_bytes),
        )


class MicroBatch(Protocol):
    """One micro-batch as tensors, whatever is asked of the model."""

    @property
    def input_ids(self) -> Tensor:
        """(tokens,) int64."""

    @property
    def position_ids(self) -> Tensor:
        """(tokens,) int64, counted from 0 within each sequence."""

    @property
    def cu_seqlens(self) -> Tensor:
        """(sequences + 1,) int32, where each sequence begins, and the end of the last."""

    @property
    def max_seqlen(self) -> int:
        """Length of the longest sequence in tokens."""

    @property
    def items(self) -> int:
        """How many things are asked for: what the sum of losses is divided by."""

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same pass with its tensors on `device`."""

    def without_labels(self) -> MicroBatch:
        """The same tokens, asking for nothing: what a rank runs when a step has no rows for it."""


class TrainedModel(Protocol):
    """What the loop asks of a model: a language model's `BaseModel`, or a downstream task's `TaskModel`."""

    model: PreTrainedModel

    @property
    def name(self) -> str:
        """As it was asked for."""

    @property
    def source(self) -> str:
        """What an adapter records as its base: an embedded name, a hub id, or an absolute path."""

    @property
    def revision(self) -> str:
        """The hub's commit, or `sha256:` and the hash of the weights."""

    @property
    def packed(self) -> bool:
        """Attention keeps sequences of one row apart; otherwise batches are padded."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    def padding_fraction(self, batch: Any) -> float:
        """The share of what is computed for a micro-batch that is padding."""


class Objective(Protocol):
    """What the loop asks of an objective."""

    @property
    def name(self) -> str:
        """Its short name, as result.json has it: `mlm`, `clm`, `classification` or `tagging`."""

    def prepare(self, batch: Any, epoch: int) -> MicroBatch:
        """The tensors and labels of a micro-batch that rows were packed into; the same for the same rows and epoch."""

    def loss(self, base: Any, inputs: Any) -> Tensor:
        """0-d float32, the sum of the losses of all items."""

    def row_losses(self, base: Any, inputs: Any) -> Tensor:
        """(rows,) float32, the sum of the losses of each row of the micro-batch, in its order."""


class LanguageModelObjective(Objective, Protocol):
    """What the scoring of held-out text asks of an objective."""

    def prepare(self, batch: Any, epoch: int) -> Inputs:
        """The tensors and labels of a `PackedBatch`; the same for the same sequences and epoch."""

    def losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(tokens,) float32, the loss at each position in nats; 0 where nothing is asked."""


@dataclass(frozen=True)
class LanguageModelHead:
    """The fused head that masked and causal LMs share.

    Attributes:
        kernels: the backend of the ops, as `--kernels` names it.
    """

    kernels: str = "auto"

    def losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(tokens,) float32, the loss at each position in nats; 0 where nothing is asked."""
        rows = self._cross_entropy(base, inputs, "none")
        return rows.new_zeros(len(inputs.labels)).index_copy(0, inputs.labelled, rows)

    def loss(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """0-d float32, the sum of the losses of the labelled positions in nats."""
        return self._cross_entropy(base, inputs, "sum")

    def row_losses(self, base: BaseModel, inputs: Inputs) -> Tensor:
        """(sequences,) float32, the sum of the losses of each sequence in nats."""
        return torch.segment_reduce(self.losses(base, inputs), "sum", lengths=torch.diff(inputs.cu_seqlens).long())

    def _cross_entropy(self, base: BaseModel, inputs: Inputs, reduction: str) -> Tensor:
        hidden = base.hidden(inputs, inputs.labelled)
        weight, bias, softcap = base.projection()
        target = inputs.labels.index_select(0, inputs.labelled)
        return linear_cross_entropy(
            hidden, weight, target, bias, softcap=softcap, reduction=reduction, backend=self.kernels
        )
