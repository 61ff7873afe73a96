"""The facts of a model and a corpus that every report shows."""

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
