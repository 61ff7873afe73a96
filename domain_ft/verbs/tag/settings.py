"""The settings of `tag`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from domain_ft.verbs.groups import (
    LengthOptions,
    MachineOptions,
    ModelOptions,
    ReadFirstOptions,
    RunOptions,
    ScreenOptions,
    TagOptions,
    TaskMethodOptions,
    TaskTrainingOptions,
)


@dataclass(frozen=True, kw_only=True)
class TagSettings(
    TagOptions,
    LengthOptions,
    ModelOptions,
    TaskMethodOptions,
    ReadFirstOptions,
    TaskTrainingOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Measuring",
):
    """Fine-tune a model to find entities in texts, and measure how well it does.

    The best model is chosen on validation texts by the F1 of whole entities, averaged over types, and scored on test
    texts, together with a baseline that looks up the entities of the training texts.
    """

    method: Literal["lora", "dora", "full"] = "lora"
    """Train low-rank adapters (lora, dora) or all weights (full), each with a new head."""

    baselines: bool = True
    """Score a baseline on the same test texts: looking up the entities of the training texts."""
