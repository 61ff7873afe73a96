"""Tagging of entities: token classification with a label on the first token of each word."""

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
    """Token classification: cross-entropy of the tag of each word, predicted at the word's first token.

    Paper:
        Devlin et al. 2018, "BERT", section 5.3.

    Equation:
        loss = (1/n) Σ_i w_{y_i} (log Σ_c exp z_{i,c} - z_{i,y_i})

        over the n labelled tokens i, one per word, with logits z_i (L,) and tag y_i. The mean is over words, not over
        texts. The weights w are 1 unless `tag_weights` are given.

    Inputs:
        A `TaskModel` of kind `token` and a `TaskBatch` of windows whose `targets` are (T,).

    Relations:
        The single-label loss of `ClassificationObjective` is the same loss for whole texts.

    Attributes:
        kernels: the backend of the ops, as in `--kernels`.
        tag_weights: (L,) float32, the factor of the losses of each tag; None for no weights.

    Example::

        objective = TaggingObjective()
        inputs = objective.prepare(rows.pack([0, 1]), epoch=0)
        loss = objective.loss(task, inputs) / inputs.items
    """

    kernels: str = "auto"
    tag_weights: npt.NDArray[np.float32] | None = None
    name: str = "tagging"

    def prepare(self, batch: TaskBatch, epoch: int) -> TaskInputs:  # noqa: ARG002 (nothing is drawn at random)
        """The tensors of a micro-batch, whose `targets` and `weights` are (tokens,); the same for every epoch."""
        has_label = batch.targets != IGNORED  # (T,)
        weights = has_label if self.tag_weights is None else has_label * self.tag_weights[np.maximum(batch.targets, 0)]
        return TaskInputs.from_task_batch(
            batch,
            targets=torch.from_numpy(batch.targets),
            weights=torch.from_numpy(weights.astype(np.float32)),
            items=int(has_label.sum()),
        )

    def loss(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        """0-d float32, the sum of the losses of the labelled tokens in nats."""
        return self._losses(base, inputs).sum()

    def row_losses(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        """(S,) float32, the sum of the losses of each window in nats."""
        lengths = torch.diff(inputs.cu_seqlens).long()  # (S,)
        return torch.segment_reduce(self._losses(base, inputs), "sum", lengths=lengths)

    def _losses(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        """(T,) float32, the weighted loss of each token; 0 where there is no label."""
        logits = base.logits(inputs)  # (T, L)
        losses = cross_entropy(logits, inputs.targets, ignore_index=IGNORED, reduction="none", backend=self.kernels)
        return losses * inputs.weights  # (T,)
