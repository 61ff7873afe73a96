"""Facts about a base model, a corpus and answers, for the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain_ft.corpus.prepared import PreparedCorpus


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus, for the report.

    Attributes:
        name: the corpus's name, such as `legal`.
        description: one sentence.
        licence: an SPDX name if there is one; empty if unknown.
        citation: how to cite the corpus; may be empty.
        language: a BCP 47 code such as `en`; empty if unknown.
        statistics: counts by name; the report shows those in `adapt.words.STATISTICS`.
        notes: sentences on anything unusual in how the corpus was read.
        lengths: tokens of each training document, or of a sample of them, for the histogram; may be empty.
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
    """The base model, for the report.

    Attributes:
        name: the model's name as the user gave it.
        source: what an adapter records as its base: an embedded name, a Hub id, or an absolute path.
        revision: the Hub's commit, or a hash of the weights.
        embedded: whether it is one of domain-ft's embedded models.
        licence: an SPDX name; empty if unknown.
    """

    name: str
    source: str
    revision: str = ""
    embedded: bool = False
    licence: str = ""

    @property
    def short_name(self) -> str:
        """The last part of a path or Hub id."""
        return self.name.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_run(self) -> bool:
        """Whether `source` is a run folder, which transformers cannot load."""
        return (Path(self.source) / "result.json").is_file()

    @property
    def on_hub(self) -> bool:
        """Whether `source` is a Hub id: neither embedded nor a path."""
        return not self.embedded and self.source.count("/") <= 1 and not self.source.startswith((".", "/", "~"))


@dataclass(frozen=True)
class AnswerPair:
    """A test prompt with both models' answers.

    Attributes:
        id: the example's.
        prompt: the text of the last turn before the answer.
        reference: the answer in the data.
        before: the base model's answer.
        after: the trained model's answer.
        stopped: whether each answer (before, after) ended its turn; otherwise it was cut.
    """

    id: str
    prompt: str
    reference: str
    before: str
    after: str
    stopped: tuple[bool, bool] = (True, True)
