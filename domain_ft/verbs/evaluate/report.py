"""The results of `evaluate`, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelScores:
    """One model in a comparison.

    Attributes:
        name: as the user gave it.
        scores: the losses by role (`domain`, `control`), as in result.json.
        differences: the differences from the first model by role; empty for the first.
        retrieval: the scores of retrieval by role, with `difference` for all but the first; empty if not measured.
    """

    name: str
    scores: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    retrieval: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationReport:
    """Several models on the same held-out text, compared with the first.

    Attributes:
        models: in the order given.
        corpora: the corpus's name by role.
        text: the keys of result.json about what was not read from the corpus, and about the text fields.
        rejects: the file that lists the records that were left out, if any.
        bm25: the scores of BM25 by role, if retrieval was measured.
        provenance: versions, device, hashes.
    """

    models: Sequence[ModelScores]
    corpora: Mapping[str, str]
    text: Mapping[str, Any] = field(default_factory=dict)
    rejects: Path | None = None
    bm25: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
