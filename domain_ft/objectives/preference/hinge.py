"""A hinge loss on the margin, which stops pushing pairs that are far enough apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from domain_ft.objectives.preference.answers import LogProbs
from domain_ft.objectives.preference.dpo import margins


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """The hinge loss on DPO's margin.

    Paper:
        Zhao et al. 2023, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback", with log-ratios in place of
        log-probabilities, as in Liu et al. 2024, "Statistical Rejection Sampling Improves Preference Optimization".

    Equation:
        loss = max(0, 1 - β Δ)

    Inputs:
        Log-probabilities of both answers under the model and under the reference.

    Relations:
        `DPO` with max(0, 1 - h) for -log σ(h): a pair whose margin has reached 1/β has no gradient.

    Attributes:
        beta: β, the inverse of the margin that suffices.

    Example::

        losses = Hinge(beta=0.1).losses(policy, reference)  # (pairs,)
    """

    beta: float = 0.1
    name: ClassVar[str] = "hinge"
    uses_reference: ClassVar[bool] = True

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """(pairs,) float64."""
        return torch.relu(1 - self.beta * margins(policy, reference))
