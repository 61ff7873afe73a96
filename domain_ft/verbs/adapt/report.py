"""The report on an adapted model, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain_ft.verbs.shared.facts import BaseFacts, CorpusFacts


@dataclass(frozen=True)
class AdaptReport:
    """All results of `adapt`.

    Attributes:
        result: the run's result.json.
        base: the base model.
        corpus: the corpus that the model was adapted to.
        control: the corpus that forgetting was measured on, if any.
        differences: from `evaluation.bootstrap`: `domain`, and with a control also `control` and `beyond_control`; from
            `evaluation.retrieval` for contrastive training: `retrieval`.
        settings: with every default resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl.
        samples: from `evaluation.samples.side_by_side`; may be empty.
    """

    result: Mapping[str, Any]
    base: BaseFacts
    corpus: CorpusFacts
    control: CorpusFacts | None
    differences: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()

    @property
    def encoder(self) -> bool:
        """Whether the model predicts masked words."""
        return bool(self.result.get("language_model", self.result["objective"]) == "mlm")

    @property
    def retrieval(self) -> Mapping[str, Any] | None:
        """The differences in retrieval, if sentence vectors were trained."""
        return self.differences.get("retrieval")

    @property
    def full(self) -> bool:
        """Whether every weight was trained, so that the run holds a model instead of an adapter."""
        return self.settings.get("method") == "full"

    @property
    def roles(self) -> tuple[tuple[str, CorpusFacts], ...]:
        """The corpora that losses were measured on, as (`domain` or `control`, corpus)."""
        measured = [("domain", self.corpus)]
        if self.control is not None:
            measured.append(("control", self.control))
        return tuple(measured)
