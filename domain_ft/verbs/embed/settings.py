"""The settings of `embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from domain_ft.checking import PASSING, REQUIRED
from domain_ft.verbs.groups import MachineOptions, PositiveInt, ScreenOptions, TextStreamOptions


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(TextStreamOptions, MachineOptions, ScreenOptions, group="Texts"):
    """Compute the sentence vectors of texts, in the order of the input."""

    model: str = REQUIRED
    """The model: a run folder of `adapt`, an embedded name (minilm), a folder, or a Hub id. Pooling, length and prompts
    are read from its sentence-transformers files, if it has them."""

    output: Path | None = None
    """The output file, by its ending: .jsonl, .npy (with the ids in OUTPUT.ids.jsonl) or .parquet. By default JSON
    lines on standard output."""

    text_field: str | None = None
    """The field with the text. Several, separated by commas, are joined. By default one with a usual name, such as
    text; otherwise the only field that holds text."""

    id_field: str | None = None
    """The field that names a record. By default one with a common name, such as id, or else the record's position
    in the input."""

    prompt: str | None = None
    """What to put before every text: the name of one of the model's prompts, such as query, or a text such as
    'query: '. By default the model's default prompt, if it has one; '' means no prompt."""

    dimensions: PositiveInt | None = None
    """Keep only the first N numbers of each vector, for models trained with a Matryoshka loss. Vectors of a model that
    normalises have length 1 again. By default the model's truncate_dim, or all numbers."""

    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """The precision of the computation. Vectors from different machines agree best in float32; bfloat16 is faster
    on a GPU and on a CPU with bfloat16 instructions, where auto uses it."""

    resume: Annotated[bool, PASSING] = False
    """Continue after the last complete vector of --output (.jsonl or .npy)."""
