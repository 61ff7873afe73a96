"""Supervised contrastive learning: texts with the same label get similar vectors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft.corpus.batches import TaskBatch
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.classification import TaskInputs

TEMPERATURE = 0.1
"""The temperature of Khosla et al. 2020."""


@dataclass(frozen=True)
class ComparedInputs(TaskInputs):
    """One micro-batch of examples that are compared with all others of their step.

    Attributes:
        gradients: (examples, D), the gradient of the step's loss with respect to `SupervisedContrastive.embeddings`;
            None if it is not computed yet, or if the micro-batch is the whole step.
    """

    gradients: Tensor | None = None

    @property
    def keys(self) -> Tensor:
        """(items,) int64 or (items, L) float32, the labels that decide which pairs of a step are positive."""
        return self.targets[: self.items]

    def with_gradients(self, gradients: Tensor) -> ComparedInputs:
        """The same with the gradients of the step's loss."""
        return dataclasses.replace(self, gradients=gradients)


@dataclass(frozen=True)
class SupervisedContrastive:
    """Supervised contrastive learning over all pairs of a step: the first phase of few-label classification, before a
    linear probe is fitted to the features.

    Paper:
        Khosla et al. 2020, "Supervised Contrastive Learning", equation 2, on text vectors. Used as in Tunstall et al.
        2022, "Efficient Few-Shot Learning Without Prompts" (SetFit), which instead regresses the cosine similarity of
        sampled pairs to 1 or 0.

    Equation:
        With v_i the vector of example i, scaled to length 1, P(i) the other examples of the step that have its label,
        and τ the temperature:

            ℓ_i = -1/|P(i)| Σ_{p in P(i)} log( exp(v_i · v_p / τ) / Σ_{a ≠ i} exp(v_i · v_a / τ) )

        If no other example of the step has the label of i, then ℓ_i = 0, and i is only a negative for the others. An
        item is an example: loss = (1/N) Σ_i ℓ_i over the N examples of the step. In a multi-label task, P(i)
        contains the examples that share at least one label with i, as in SetFit; it is empty if i has no labels.

    Inputs:
        A `TaskModel` of kind `sequence` and a `TaskBatch` of examples. Vectors are `TaskModel.features`: the mean of
        the last hidden states, over all windows of an example. The head of the model is not used.

    Relations:
        `ClassificationObjective` trains a head on the same rows. Its loss is a sum over examples; this loss is a sum
        over pairs of a step. So either a micro-batch is a whole step, or the loop gives it the gradient of the step's
        loss with respect to its vectors, as for `Contrastive`.

    Attributes:
        temperature: τ. The lower it is, the more weight the most similar negatives have.

    Example::

        objective = SupervisedContrastive()
        inputs = objective.prepare(rows.pack([0, 1, 2, 3]), epoch=0)
        loss = objective.loss(task, inputs) / inputs.items
    """

    temperature: float = TEMPERATURE
    name: str = "supervised_contrastive"

    def prepare(self, batch: TaskBatch, epoch: int) -> ComparedInputs:  # noqa: ARG002 (nothing is drawn at random)
        """The tensors of a micro-batch; the same for every epoch. All weights are 1."""
        return ComparedInputs.from_task_batch(
            batch,
            targets=torch.from_numpy(batch.targets),
            weights=torch.ones(batch.examples),
            items=batch.examples,
        )

    def embeddings(self, base: TaskModel, inputs: ComparedInputs) -> Tensor:
        """(items, D) float32, the vectors of the examples, not yet scaled to length 1."""
        return base.features(inputs)[: inputs.items]

    def step_loss(self, embeddings: Tensor, keys: Tensor) -> Tensor:
        """0-d, the sum of the losses of the examples of a step in nats; float32, or float64 for float64 embeddings.

        Args:
            embeddings: (N, D) of all examples of the step.
            keys: (N,) int64 classes, or (N, L) of 0 and 1 for a multi-label task.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
            vectors = F.normalize(wide, dim=-1)  # (N, D)
            similarities = vectors @ vectors.T / self.temperature  # (N, N)
            itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
            others = similarities.masked_fill(itself, torch.finfo(similarities.dtype).min)
            log_shares = similarities - others.logsumexp(1, keepdim=True)  # (N, N)
            positive = share_label(keys) & ~itself  # (N, N)
            sums = torch.where(positive, log_shares, 0.0).sum(1)  # (N,)
            return -(sums / positive.sum(1).clamp(min=1)).sum()

    def loss(self, base: TaskModel, inputs: ComparedInputs) -> Tensor:
        """0-d float32, the sum of the losses of a step that is one micro-batch, in nats.

        With `inputs.gradients`, the micro-batch is a part of a step: the value is 0, and the gradient is this part
        of the gradient of the step's loss.
        """
        embeddings = self.embeddings(base, inputs)
        if inputs.gradients is None:
            return self.step_loss(embeddings, inputs.keys)
        linear = (embeddings * inputs.gradients).sum()
        return linear - linear.detach()

    def row_losses(self, base: TaskModel, inputs: ComparedInputs) -> Tensor:
        """(items,) float32, NaN where an example's vector is not finite, otherwise 0, since losses belong to pairs."""
        return (self.embeddings(base, inputs) * 0).sum(1)


def share_label(targets: Tensor) -> Tensor:
    """(N, N) bool, whether two examples have the same class, or in a multi-label task at least one class in common.

    Args:
        targets: (N,) int64 classes, or (N, L) of 0 and 1.
    """
    if targets.ndim == 1:
        return targets.unsqueeze(1) == targets
    return targets.float() @ targets.float().T > 0
