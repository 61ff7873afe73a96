"""Contrastive preference optimisation: DPO without a reference, beside a likelihood term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from domain_ft.objectives.preference.answers import LogProbs


@dataclass(frozen=True, kw_only=True)
class CPO:
    """Contrastive preference optimisation (CPO), without its likelihood term, which `PairedPreferences` adds.

    Paper:
        Xu et al. 2024, "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine
        Translation".

    Equation:
        loss = -log σ( β log π(y_w|x) - β log π(y_l|x) )

    Inputs:
        Log-probabilities of both answers under the model. There is no reference.

    Relations:
        `DPO` with a uniform reference. The paper adds the negative log-likelihood of the better answer: that is
        `--sft-weight 1`, the default of `prefer --loss cpo`. It keeps the model from making both answers unlikely.

    Attributes:
        beta: β.

    Example::

        losses = CPO(beta=0.1).losses(policy, policy)  # (pairs,); the reference is not read
    """

    beta: float = 0.1
    name: ClassVar[str] = "cpo"
    uses_reference: ClassVar[bool] = False

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:  # noqa: ARG002
        """(pairs,) float64."""
        return -F.logsigmoid(self.beta * (policy.sums[:, 0] - policy.sums[:, 1]))
