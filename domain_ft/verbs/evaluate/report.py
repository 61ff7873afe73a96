"""What `evaluate` found out: plain values for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ModelScores:
    """One model in a comparison.

    Attributes:
        name: as the user gave it.
        scores: for each role (`domain`, `control`) its L of result.json.
        differences: for each role the difference from the first model; empty for the first itself.
    """

    name: str
    scores: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationReport:
    """Several models on the same held-out text; the first is what the others are compared with.

    Attributes:
        models: in the order given.
        corpora: for each role the name of its corpus.
        provenance: versions, device, hashes.
        text: of result.json: what of the corpus was not read, and which fields were.
        rejects: the file that lists the records left out, if there are any.
    """

    models: Sequence[ModelScores]
    corpora: Mapping[str, str]
    text: Mapping[str, Any] = field(default_factory=dict)
    rejects: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
