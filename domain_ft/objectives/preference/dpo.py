"""Direct preference optimisation, and its conservative form for noisy labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from domain_ft.objectives.preference.answers import LogProbs


@dataclass(frozen=True, kw_only=True)
class DPO:
    """Direct preference optimisation (DPO); with label smoothing, conservative DPO (cDPO).

    Papers:
        Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        equation 7. cDPO: Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO".

    Equation:
        loss = -(1 - ε) log σ(β Δ) - ε log σ(-β Δ)

        Δ = [log π(y_w|x) - log π_ref(y_w|x)] - [log π(y_l|x) - log π_ref(y_l|x)]

    Inputs:
        Log-probabilities of both answers under the model and under the reference.

    Relations:
        Before training Δ is 0, and the loss log 2. cDPO has its minimum at a finite margin, σ(β Δ) = 1 - ε, so that
        wrong labels push less. `Robust` also assumes wrong labels, but its loss is unbiased. `Hinge` and `IPO` bound
        the margin in other ways. `CPO` is DPO without a reference.

    Attributes:
        beta: β. The smaller it is, the further the model may move from the reference.
        label_smoothing: ε, the assumed share of pairs whose answers are in the wrong order; below 0.5.

    Example::

        losses = DPO(beta=0.1).losses(policy, reference)  # (pairs,)
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    name: ClassVar[str] = "dpo"
    uses_reference: ClassVar[bool] = True

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """(pairs,) float64."""
        scaled = self.beta * margins(policy, reference)  # (pairs,)
        smoothed = self.label_smoothing
        return -(1 - smoothed) * F.logsigmoid(scaled) - smoothed * F.logsigmoid(-scaled)


def margins(policy: LogProbs, reference: LogProbs) -> Tensor:
    """(pairs,), Δ: the log-ratio of the better answer minus that of the worse one."""
    ratios = policy.sums - reference.sums  # (pairs, 2)
    return ratios[:, 0] - ratios[:, 1]
