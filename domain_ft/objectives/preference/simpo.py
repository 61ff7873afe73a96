"""Simple preference optimisation: no reference, and means over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from domain_ft.objectives.preference.answers import LogProbs


@dataclass(frozen=True, kw_only=True)
class SimPO:
    """Simple preference optimisation (SimPO).

    Paper:
        Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", equation 6.

    Equation:
        loss = -log σ( (β / |y_w|) log π(y_w|x) - (β / |y_l|) log π(y_l|x) - γ )

    Inputs:
        Log-probabilities of both answers under the model. There is no reference.

    Relations:
        `CPO` has sums instead of means and no γ. SimPO has no likelihood term; `--sft-weight` adds one.

    Attributes:
        beta: β. Since means are about a hundred times smaller than sums, it is larger than in `DPO`.
        gamma: γ, the margin by which the better answer should win. The paper's range is 0.3 to 1.6.

    Example::

        losses = SimPO(beta=2.0, gamma=1.0).losses(policy, policy)  # (pairs,); the reference is not read
    """

    beta: float = 2.0
    gamma: float = 1.0
    name: ClassVar[str] = "simpo"
    uses_reference: ClassVar[bool] = False

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:  # noqa: ARG002
        """(pairs,) float64."""
        means = policy.means  # (pairs, 2)
        return -F.logsigmoid(self.beta * (means[:, 0] - means[:, 1]) - self.gamma)
