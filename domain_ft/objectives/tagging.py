"""Tagging: which entity, if any, each word of a text is part of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.corpus.batches import TaskBatch
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.base import IGNORED
from domain_ft.objectives.classification import TaskInputs
from domain_ft_kernels import cross_entropy


@dataclass(frozen=True)
class TaggingObjective:
    """Say the tag of each unit of a text, at its first token. The loss of a token is its cross-entropy.

    An item is a labelled token: the mean loss of a step is over its words, not over its texts.

    Attributes:
        kernels: the backend of the ops, as `--kernels` names it.
        tag_weights: (L,) what the losses of each class are multiplied by; None for no weights.
    """

    kernels: str = "auto"
    tag_weights: npt.NDArray[np.float32] | None = None
    name: str = "tagging"

    def prepare(self, batch: TaskBatch, epoch: int) -> TaskInputs:  # noqa: ARG002 (nothing is drawn at random)
        """The tensors of a micro-batch, whose `targets` and `weights` are (tokens,); the same for every epoch."""
        asked = batch.targets != IGNORED
        weights = asked if self.tag_weights is None else asked * self.tag_weights[np.maximum(batch.targets, 0)]
        return TaskInputs.from_task_batch(
            batch,
            targets=torch.from_numpy(batch.targets),
            weights=torch.from_numpy(weights.astype(np.float32)),
            items=int(asked.sum()),
        )

    def loss(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        """0-d float32, the sum of the losses of the labelled tokens in nats."""
        return self._losses(base, inputs).sum()

    def row_losses(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        """(sequences,) float32, the sum of the losses of each window in nats."""
        lengths = torch.diff(inputs.cu_seqlens).long()
        return torch.segment_reduce(self._losses(base, inputs), "sum", lengths=lengths)

    def _losses(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        logits = base.logits(inputs)
        losses = cross_entropy(logits, inputs.targets, ignore_index=IGNORED, reduction="none", backend=self.kernels)
        return losses * inputs.weights
