"""The settings of `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from domain_ft.checking import PASSING, REQUIRED, Formerly
from domain_ft.verbs.groups import EncodingOptions, MachineOptions, PositiveInt, ScreenOptions


@dataclass(frozen=True, kw_only=True)
class PredictSettings(EncodingOptions, MachineOptions, ScreenOptions, group="Texts"):
    """Predict the labels and probabilities of texts, or their entities, as JSON lines in the order of the input."""

    model: str = REQUIRED
    """The run folder of `classify` or `tag`."""

    input: str = REQUIRED
    """The texts: a JSONL, JSON, CSV, TSV or Parquet file, a text file with one text a line, or - for standard input."""

    output: Path | None = None
    """The output file. By default standard output."""

    rejects: Path | None = None
    """The file that lists unreadable records and why. By default OUTPUT.rejects.jsonl; with standard output,
    the first such record stops the run."""

    text_field: str | None = None
    """The field with the text. By default the same as in training."""

    pair_field: str | None = None
    """The field with the second text of a pair. By default the same as in training."""

    id_field: str | None = None
    """The field that names a record. By default the same as in training, or one with a common name, such as id, or else
    its position in the input."""

    calibrate: bool = True
    """Give calibrated probabilities, with the temperature fitted on the validation examples."""

    tokens_per_micro_batch: Annotated[PositiveInt, Formerly("tokens_per_pass")] = 4096
    """Tokens that the model processes at once."""

    resume: Annotated[bool, PASSING] = False
    """Continue after the last complete line of --output."""
