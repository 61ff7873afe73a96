"""The settings of `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from domain_ft.checking import PASSING, REQUIRED
from domain_ft.verbs.groups import MachineOptions, ScreenOptions, TextStreamOptions


@dataclass(frozen=True, kw_only=True)
class PredictSettings(TextStreamOptions, MachineOptions, ScreenOptions, group="Texts"):
    """Predict the labels and probabilities of texts, or their entities, as JSON lines in the order of the input."""

    model: str = REQUIRED
    """The run folder of `classify` or `tag`."""

    output: Path | None = None
    """The output file. By default standard output."""

    text_field: str | None = None
    """The field with the text. By default the same as in training."""

    pair_field: str | None = None
    """The field with the second text of a pair. By default the same as in training."""

    id_field: str | None = None
    """The field that names a record. By default the same as in training, or one with a common name, such as id, or else
    the record's position in the input."""

    calibrate: bool = True
    """Calibrate the probabilities of classes with the temperature that `classify` fitted, if it used one."""

    resume: Annotated[bool, PASSING] = False
    """Continue after the last complete line of --output."""
