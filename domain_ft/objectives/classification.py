"""Classification of texts: single-label or multi-label."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft.corpus.batches import TaskBatch
from domain_ft.corpus.examples import Labels
from domain_ft.models.task_micro_batches import TaskTokens
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.base import IGNORED
from domain_ft_kernels import cross_entropy

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class TaskInputs(TaskTokens):
    """One micro-batch of a task as tensors.

    Attributes:
        targets: the labels. For texts (examples,) int64, or for a multi-label task (examples, L) float32 of 0 and 1;
            for tokens (tokens,) int64. An int64 target without a label is IGNORED.
        weights: float32 factors of the losses, of the shape of `targets`.
        items: number of labelled examples or tokens.
    """

    targets: Tensor
    weights: Tensor
    items: int

    def without_labels(self) -> Self:
        """The same texts with weight 0: what a rank runs when it has no examples left in a step."""
        return dataclasses.replace(self, weights=torch.zeros_like(self.weights), items=0)


@dataclass(frozen=True)
class ClassificationObjective:
    """Classification of texts: softmax cross-entropy, or binary cross-entropy for multi-label tasks.

    Paper:
        The fine-tuning loss of Devlin et al. 2018, "BERT", section 4.1; multi-label as in transformers'
        `multi_label_classification`.

    Equation:
        Single-label, for an example with logits z (L,) and class y:
            ℓ = w_y (log Σ_c exp z_c - z_y)
        Multi-label, with y (L,) of 0 and 1 and σ the logistic function:
            ℓ = -(1/L) Σ_c w_{c, y_c} (y_c log σ(z_c) + (1 - y_c) log(1 - σ(z_c)))
        An item is an example: loss = (1/n) Σ ℓ. The weights w are 1 unless `class_weights` are given.

    Inputs:
        A `TaskModel` of kind `sequence` and a `TaskBatch` of examples. The logits of an example with several windows
        are the mean over its windows.

    Relations:
        `TaggingObjective` is the single-label loss for each labelled token.

    Attributes:
        labels: the classes.
        class_weights: factors of the losses, as the function `class_weights` computes them; None for no weights.
        kernels: the backend of the ops, as in `--kernels`.

    Example::

        objective = ClassificationObjective(Labels(("law", "medicine")))
        inputs = objective.prepare(rows.pack([0, 1]), epoch=0)
        loss = objective.loss(task, inputs) / inputs.items
    """

    labels: Labels
    class_weights: npt.NDArray[np.float32] | None = None
    kernels: str = "auto"
    name: str = "classification"

    def prepare(self, batch: TaskBatch, epoch: int) -> TaskInputs:  # noqa: ARG002 (nothing is drawn at random)
        """The tensors of a micro-batch; the same for every epoch."""
        weights = self._weights(batch.targets)
        return TaskInputs.from_task_batch(
            batch,
            targets=torch.from_numpy(batch.targets),
            weights=torch.from_numpy(weights),
            items=len(batch.targets) if self.labels.multi_label else int((batch.targets != IGNORED).sum()),
        )

    def loss(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        """0-d float32, the sum of the losses of the examples in nats."""
        return self.row_losses(base, inputs).sum()

    def row_losses(self, base: TaskModel, inputs: TaskInputs) -> Tensor:
        """(examples,) float32, the loss of each example in nats."""
        logits = base.logits(inputs)  # (examples, L)
        if self.labels.multi_label:
            losses = F.binary_cross_entropy_with_logits(logits, inputs.targets.to(logits.dtype), reduction="none")
            return (losses * inputs.weights).mean(1)  # the losses are (examples, L)
        losses = cross_entropy(logits, inputs.targets, ignore_index=IGNORED, reduction="none", backend=self.kernels)
        return losses * inputs.weights  # (examples,)

    def _weights(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Factors of the losses, of the shape of `targets`."""
        if self.class_weights is None:
            return np.ones(targets.shape, dtype=np.float32)
        if self.labels.multi_label:
            absent, present = self.class_weights
            return np.where(targets > 0, present, absent).astype(np.float32)
        return self.class_weights[np.maximum(targets, 0)]


def class_weights(targets: npt.NDArray[Any], labels: Labels) -> npt.NDArray[np.float32]:
    """Balanced weights as in scikit-learn: all classes contribute equally to the sum, and the mean over examples is 1.

    Args:
        targets: of the training examples, as `Labels.targets` returns them.
        labels: the classes.

    Returns:
        (L,) n / (K · n_c) for a class with n_c of n examples, where K classes occur. Multi-label (2, L): the weights
        of a class where it is absent and where it is present, n / (2 · n_c) each, with n_c examples of that kind; both
        are 1 if only one kind occurs. Where n_c is 0, the weight is 1.
    """
    if labels.multi_label:
        present = targets.sum(0, dtype=np.float64)  # (L,)
        counts = np.stack([len(targets) - present, present])  # (2, L)
    else:
        counts = np.bincount(targets[targets != IGNORED], minlength=len(labels)).astype(np.float64)  # (L,)
    occurring = (counts > 0).sum(0)  # how many of a class's two outcomes (L,), or of all classes ()
    total = counts.sum(0)
    return np.where(counts > 0, total / (np.maximum(occurring, 1) * np.maximum(counts, 1)), 1.0).astype(np.float32)
