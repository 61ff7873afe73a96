"""The settings of `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from domain_ft.checking import PASSING, REQUIRED, Formerly
from domain_ft.verbs.groups import EncodingOptions, MachineOptions, PositiveInt, ScreenOptions


@dataclass(frozen=True, kw_only=True)
class PredictSettings(EncodingOptions, MachineOptions, ScreenOptions, group="Texts"):
    """Give the labels and probabilities of texts, or their entities, as JSON lines in the order of the input."""

    model: str = REQUIRED
    """The run folder of `classify` or `tag`."""

    input: str = REQUIRED
    """The texts: a JSONL, JSON, CSV, TSV, Parquet or text file (a text a line), or - for standard input."""

    output: Path | None = None
    """The file to write to. Standard output where none is given."""

    rejects: Path | None = None
    """Where records that cannot be read are listed with the reason. By default OUTPUT.rejects.jsonl; on standard output
    they stop the reading."""

    text_field: str | None = None
    """The field that holds the text. By default the one that the model was trained on."""

    pair_field: str | None = None
    """The field that holds the second text of a pair. By default the one that the model was trained on."""

    id_field: str | None = None
    """The field that names a record. By default the one of the training or one with a usual name, such as id, else its
    place in the input."""

    calibrate: bool = True
    """Give probabilities under the temperature that was fitted on the validation examples."""

    tokens_per_micro_batch: Annotated[PositiveInt, Formerly("tokens_per_pass")] = 4096
    """Tokens in a micro-batch, which goes through the model at once."""

    resume: Annotated[bool, PASSING] = False
    """Go on after the last whole line of --output."""
