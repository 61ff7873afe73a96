"""What `prefer` measures on held-out preferences: log-probabilities of answers, and the distance to the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft.corpus.packing import micro_batches
from domain_ft.evaluation.preferences import PreferenceScores
from domain_ft.models.base import BaseModel
from domain_ft.models.modes import evaluating
from domain_ft.objectives.base import EVALUATION_EPOCH
from domain_ft.objectives.preference.answers import Reference
from domain_ft.verbs.prefer.prepare import PreferJob

KL_TOKENS = 4_000
"""The tokens of the held-out rows on which the KL divergence is computed, prompts included."""

_POSITIONS = 128  # whose logits exist at a time


def scores_of(job: PreferJob, values: Reference, reference: Reference) -> PreferenceScores:
    """The scores of the selected test rows.

    Args:
        values: (selected, 2, 2) log-probabilities under the model.
        reference: (selected, 2, 2) those under the reference.
    """
    rows, prompts = job.test_rows, job.test_prompts[job.selected]
    lengths = rows.answer_lengths[job.selected]  # (selected, 2)
    answers = np.stack([values[..., 0], reference[..., 0], lengths], axis=-1)  # (selected, 2, 3)
    if rows.desirable is None:
        return PreferenceScores(answers[:, 0], answers[:, 1], prompts, prompts, paired=True)
    good = rows.desirable[job.selected]
    return PreferenceScores(answers[good, 0], answers[~good, 0], prompts[good], prompts[~good], paired=False)


@dataclass(frozen=True)
class ReferenceStates:
    """The reference's hidden states at the answers' tokens, and its output projection.

    Attributes:
        rows: the test rows of each micro-batch.
        states: (n, D) of each micro-batch.
        projection: weight (V, D), bias (V,) or None, and softcap or None.
    """

    rows: list[npt.NDArray[np.int64]]
    states: list[Tensor]
    projection: tuple[Tensor, Tensor | None, float | None]


def reference_states(job: PreferJob) -> ReferenceStates:
    """The states of the model as it is, before training, on the first of the selected test rows."""
    lengths = job.test_rows.lengths[job.selected]
    count = max(1, int(np.searchsorted(np.cumsum(lengths, dtype=np.int64), KL_TOKENS, side="right")))
    rows = micro_batches(job.selected[:count], job.test_rows.lengths, job.loop.tokens_per_micro_batch)
    weight, bias, softcap = job.base.projection()
    if job.settings.method == "full" or job.settings.train_modules:  # training may change it
        weight, bias = weight.detach().clone(), None if bias is None else bias.detach().clone()
    return ReferenceStates(rows, [_states(job, chosen) for chosen in rows], (weight, bias, softcap))


def kl_to_reference(job: PreferJob, reference: ReferenceStates) -> float:
    """KL(π ‖ π_ref) in nats per token: the mean over the positions of held-out answers, over the whole vocabulary."""
    total, positions = 0.0, 0
    with torch.no_grad():
        for chosen, before in zip(reference.rows, reference.states, strict=True):
            after = _states(job, chosen)
            for own, other in zip(after.split(_POSITIONS), before.split(_POSITIONS), strict=True):
                logs, others = _log_probs(own, job.base.projection()), _log_probs(other, reference.projection)  # (n, V)
                total += float((logs.exp() * (logs - others)).sum(dtype=torch.float64))
            positions += len(after)
    return total / positions


def _states(job: PreferJob, rows: npt.NDArray[np.int64]) -> Tensor:
    """(n, D) the states from which the tokens of the answers of these rows are predicted."""
    base: BaseModel = job.base
    inputs = job.test_objective.prepare(job.test_rows.pack(rows), EVALUATION_EPOCH).to(base.device)
    with evaluating(base.model), job.machine.accelerator.autocast():
        return base.hidden(inputs, inputs.labelled)


def _log_probs(states: Tensor, projection: tuple[Tensor, Tensor | None, float | None]) -> Tensor:
    """(n, V) float32."""
    weight, bias, softcap = projection
    logits = F.linear(states.to(weight.dtype), weight, bias).float()
    return (logits if softcap is None else torch.tanh(logits / softcap) * softcap).log_softmax(-1)
