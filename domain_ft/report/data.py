"""What the report is made of: plain values that the verbs hand over once a run is measured.

The page, the model card and the terminal's table all read the same object, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain_ft.corpus.prepared import PreparedCorpus


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus, as the report tells of it.

    Attributes:
        name: such as `legal`.
        description: what it is, in a sentence.
        licence: its licence, SPDX where there is one; empty where it is not known.
        citation: how to cite it; empty where nothing is asked.
        language: BCP 47 code such as `en`; empty where it is not known.
        statistics: counts by name; those that `words.STATISTICS` names are shown.
        notes: what was done out of the ordinary, in sentences.
        lengths: the length of each training document in tokens, or of a sample, for the histogram; may be empty.
    """

    name: str
    description: str = ""
    licence: str = ""
    citation: str = ""
    language: str = ""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    lengths: Sequence[int] = ()

    @classmethod
    def of(cls, prepared: PreparedCorpus, lengths: Sequence[int] = ()) -> CorpusFacts:
        """The facts of a prepared corpus."""
        recipe = prepared.recipe
        return cls(
            name=prepared.name,
            description=recipe.description,
            licence=recipe.licence,
            citation=recipe.citation,
            language=recipe.known_language,
            statistics=prepared.statistics.as_dict(),
            notes=tuple(prepared.statistics.notes),
            lengths=lengths,
        )


@dataclass(frozen=True)
class BaseFacts:
    """The model that was adapted.

    Attributes:
        name: as the user gave it.
        source: what `from_pretrained` reads: a hub id or a folder.
        revision: the hub's commit, or a hash of the content.
        embedded: whether `name` is one of the models that the program fetches by itself.
        licence: SPDX; empty where it is not known.
    """

    name: str
    source: str
    revision: str = ""
    embedded: bool = False
    licence: str = ""

    @property
    def short_name(self) -> str:
        """The last part of a path or hub id."""
        return self.name.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_run(self) -> bool:
        """Whether `source` is the folder of a run, which transformers cannot load."""
        return (Path(self.source) / "result.json").is_file()

    @property
    def on_hub(self) -> bool:
        """Whether `source` is a hub id: neither embedded nor a path."""
        return not self.embedded and self.source.count("/") <= 1 and not self.source.startswith((".", "/", "~"))


@dataclass(frozen=True)
class AdaptReport:
    """All that is known when `adapt` is done.

    Attributes:
        result: the run's result.json: before and after, tokens, seconds, parameters.
        base: the model that was adapted.
        corpus: the field's corpus.
        control: the corpus that forgetting was measured on, if any.
        differences: of `evaluation.bootstrap`: `domain`, and with a control also `control` and `beyond_control`.
        settings: the settings as resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl.
        samples: of `evaluation.samples.side_by_side`; may be empty.
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
    def full(self) -> bool:
        """Whether every weight was trained, so that the run holds a model and no adapter."""
        return self.settings.get("method") == "full"

    @property
    def roles(self) -> tuple[tuple[str, CorpusFacts], ...]:
        """(`domain` or `control`, its corpus) of all that was measured."""
        measured = [("domain", self.corpus)]
        if self.control is not None:
            measured.append(("control", self.control))
        return tuple(measured)


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
