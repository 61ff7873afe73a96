"""DPO that is unbiased when labels are wrong at a known rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from domain_ft.objectives.preference.answers import LogProbs
from domain_ft.objectives.preference.dpo import margins


@dataclass(frozen=True, kw_only=True)
class Robust:
    """Provably robust DPO.

    Paper:
        Ray Chowdhury et al. 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback".

    Equation:
        loss = [ -(1 - ε) log σ(β Δ) + ε log σ(-β Δ) ] / (1 - 2 ε)

        If a share ε of the labels is flipped at random, the expected loss is that of `DPO` with correct labels.

    Inputs:
        Log-probabilities of both answers under the model and under the reference.

    Relations:
        With ε = 0 it is `DPO`. It can be negative, and has no lower bound for a single pair.

    Attributes:
        beta: β, as in `DPO`.
        label_smoothing: ε, the share of flipped labels; below 0.5.

    Example::

        losses = Robust(beta=0.1, label_smoothing=0.1).losses(policy, reference)  # (pairs,)
    """

    beta: float = 0.1
    label_smoothing: float = 0.1
    name: ClassVar[str] = "robust"
    uses_reference: ClassVar[bool] = True

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """(pairs,) float64."""
        scaled = self.beta * margins(policy, reference)  # (pairs,)
        flipped = self.label_smoothing
        return (-(1 - flipped) * F.logsigmoid(scaled) + flipped * F.logsigmoid(-scaled)) / (1 - 2 * flipped)
