"""Odds ratio preference optimisation: instruction tuning that also lowers the odds of the worse answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft.objectives.preference.answers import LogProbs


@dataclass(frozen=True, kw_only=True)
class ORPO:
    """Odds ratio preference optimisation (ORPO), without its likelihood term, which `PairedPreferences` adds.

    Paper:
        Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model", equations 6 and 7.

    Equation:
        loss = -λ log σ( log odds(y_w) - log odds(y_l) )

        log odds(y) = m - log(1 - exp m)  with  m = log π(y|x) / |y|

    Inputs:
        Log-probabilities of both answers under the model. There is no reference.

    Relations:
        The paper adds the negative log-likelihood of the better answer per token: that is `--sft-weight 1`, the default
        of `prefer --loss orpo`. So ORPO can take the place of `instruct` and `prefer` together.

    Attributes:
        beta: λ.

    Example::

        losses = ORPO(beta=0.1).losses(policy, policy)  # (pairs,); the reference is not read
    """

    beta: float = 0.1
    name: ClassVar[str] = "orpo"
    uses_reference: ClassVar[bool] = False

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:  # noqa: ARG002
        """(pairs,) float64."""
        odds = log_odds(policy.means)  # (pairs, 2)
        return -self.beta * F.logsigmoid(odds[:, 0] - odds[:, 1])


def log_odds(logs: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p < 0, finite for the smallest and the largest p.

    log(1 - p) is computed in two ways, each exact on its side of p = 1/2: Mächler 2012, "Accurately Computing
    log(1 - exp(-|a|))".
    """
    logs = logs.clamp(max=-torch.finfo(logs.dtype).tiny)  # p = 1 has infinite odds
    near = logs > -math.log(2)
    complement = torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, logs, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, logs))),
    )
    return logs - complement
