"""The settings of `tag`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from domain_ft.verbs.groups import (
    LengthOptions,
    MachineOptions,
    ModelOptions,
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
    TaskTrainingOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Model",
):
    """Fine-tune a model to find entities in texts, and measure how well it does.

    The files are CoNLL columns (the word first, the tag last), or JSON lines of words and tags, or of texts and spans
    of characters. The model is chosen on validation texts alone, by the mean over types of the F1 of whole entities,
    and reported on test texts, beside a list of the entities that training had.
    """

    method: Literal["lora", "dora", "full"] = "lora"
    """Train low-rank adapters (lora, dora) or every weight (full), each with a new head."""

    baselines: bool = True
    """Score a list of the training texts' entities, looked up, on the same test texts."""
