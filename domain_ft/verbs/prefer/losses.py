"""From the options of a loss to its objective: which options each loss has, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from domain_ft.checking import refuse
from domain_ft.objectives.preference.answers import PairLoss, Reference
from domain_ft.objectives.preference.cpo import CPO
from domain_ft.objectives.preference.dpo import DPO
from domain_ft.objectives.preference.hinge import Hinge
from domain_ft.objectives.preference.ipo import IPO
from domain_ft.objectives.preference.kto import KTO
from domain_ft.objectives.preference.orpo import ORPO
from domain_ft.objectives.preference.paired import PairedPreferences
from domain_ft.objectives.preference.robust import Robust
from domain_ft.objectives.preference.simpo import SimPO
from domain_ft.verbs.prefer.settings import PreferSettings

PreferenceObjective: TypeAlias = PairedPreferences | KTO

DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "dpo": {"beta": 0.1, "label_smoothing": 0.0, "length_weight": 1.0, "sft_weight": 0.0},
    "robust": {"beta": 0.1, "label_smoothing": 0.1, "length_weight": 1.0, "sft_weight": 0.0},
    "hinge": {"beta": 0.1, "length_weight": 1.0, "sft_weight": 0.0},
    "ipo": {"beta": 0.1, "sft_weight": 0.0},
    "kto": {"beta": 0.1, "sft_weight": 0.0},
    "orpo": {"beta": 0.1, "sft_weight": 1.0},
    "simpo": {"beta": 2.0, "gamma": 1.0, "sft_weight": 0.0},
    "cpo": {"beta": 0.1, "sft_weight": 1.0},
}
"""The options that each loss has, with their defaults."""

_LOSSES: Mapping[str, Any] = {loss.name: loss for loss in (DPO, Robust, Hinge, IPO, ORPO, SimPO, CPO)}


def loss_options(settings: PreferSettings) -> dict[str, float]:
    """The options of --loss, with defaults.

    Raises:
        SettingsError: an option was given that the loss does not have.
    """
    own = DEFAULTS[settings.loss]
    every = dict.fromkeys(name for options in DEFAULTS.values() for name in options)
    given = {name: getattr(settings, name) for name in every if getattr(settings, name) is not None}
    refuse(
        [
            f"--{name.replace('_', '-')} is not an option of --loss {settings.loss}, but of "
            f"{', '.join(loss for loss, options in DEFAULTS.items() if name in options)}"
            for name in given
            if name not in own
        ]
    )
    return {**own, **given}


def uses_reference(loss: str) -> bool:
    """Whether the loss is computed with a reference."""
    return loss == "kto" or bool(_LOSSES[loss].uses_reference)


def objective_of(
    settings: PreferSettings,
    kernels: str,
    reference: Reference | None,
    desirable: npt.NDArray[np.bool_] | None,
) -> PreferenceObjective:
    """The objective of --loss.

    Args:
        kernels: the backend of the ops.
        reference: see `Reference`.
        desirable: (rows,) for rated answers; None for pairs.
    """
    options = loss_options(settings)
    if desirable is not None:
        good, bad = (max(1, int(count)) for count in (desirable.sum(), (~desirable).sum()))
        return KTO(
            desirable=desirable,
            reference=reference,
            desirable_weight=max(1.0, bad / good),  # so that both kinds weigh the same: λ_D n_D = λ_U n_U
            undesirable_weight=max(1.0, good / bad),
            beta=options["beta"],
            sft_weight=options["sft_weight"],
            kernels=kernels,
        )
    outer = {name: options.pop(name) for name in ("sft_weight", "length_weight") if name in options}
    loss: PairLoss = _LOSSES[settings.loss](**options)
    return PairedPreferences(pair_loss=loss, reference=reference, kernels=kernels, **outer)
