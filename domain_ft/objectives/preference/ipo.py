"""Identity preference optimisation: a squared loss on the margin, which has a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from domain_ft.objectives.preference.answers import LogProbs


@dataclass(frozen=True, kw_only=True)
class IPO:
    """Identity preference optimisation (IPO), on means over tokens.

    Paper:
        Gheshlaghi Azar et al. 2024, "A General Theoretical Paradigm to Understand Learning from Human Preferences",
        equation 17.

    Equation:
        loss = ( δ - 1 / (2 τ) )²

        δ = [log π(y_w|x) - log π_ref(y_w|x)] / |y_w|  -  [log π(y_l|x) - log π_ref(y_l|x)] / |y_l|

        The paper has sums over tokens. Its authors use means in practice, since otherwise the target of the margin
        would not fit answers of different lengths.

    Inputs:
        Log-probabilities of both answers under the model and under the reference.

    Relations:
        The margin has a target, so that certain preferences do not push the model ever further, as they do in `DPO`.
        τ takes the place of β, but on another scale: the margin here is per token.

    Attributes:
        beta: τ.

    Example::

        losses = IPO(beta=0.1).losses(policy, reference)  # (pairs,)
    """

    beta: float = 0.1
    name: ClassVar[str] = "ipo"
    uses_reference: ClassVar[bool] = True

    def losses(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """(pairs,) float64."""
        ratios = policy.means - reference.means  # (pairs, 2)
        return (ratios[:, 0] - ratios[:, 1] - 1 / (2 * self.beta)) ** 2
