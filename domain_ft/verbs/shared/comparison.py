"""Finished runs side by side, as plain values: what `compare` and `evaluate` on tasks report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.left_out import LeftOut

if TYPE_CHECKING:
    from domain_ft.corpus.readers.base import Reject


@dataclass(frozen=True)
class Disagreement:
    """A test example of which one of two models was right, and the other was not.

    Attributes:
        id: the example's.
        truth: the names of its classes.
        first: what the first run's model said.
        other: what the other's said.
    """

    id: str
    truth: Sequence[str]
    first: Sequence[str]
    other: Sequence[str]


@dataclass(frozen=True)
class ComparedRun:
    """One run in a comparison.

    Attributes:
        name: as the user gave it.
        model: what was trained.
        seeds: how many.
        scores: by metric `mean`, `sd`, `values` and `interval`; of an `adapt` run the L of result.json by role.
        differences: by metric (or role) the difference from the first run; empty for the first itself.
        learning_curve: of its result.json; may be empty.
        answers: how many test examples `both_right`, `first_only`, `other_only`, `both_wrong`: the kept models'; empty
            for the first run, and where single answers are not kept.
        disagreements: some of the examples that only one of the two had right.
    """

    name: str
    model: str
    seeds: int
    scores: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    learning_curve: Sequence[Mapping[str, Any]] = ()
    answers: Mapping[str, int] = field(default_factory=dict)
    disagreements: Sequence[Disagreement] = ()


@dataclass(frozen=True)
class CompareReport:
    """Finished runs of one kind, side by side; the first is what the others are compared with.

    Attributes:
        kind: the verb that made them: `classify`, `tag`, `adapt` or `instruct`.
        subject: the task, or the corpora, that they were measured on.
        runs: in the order given.
        metrics: the scores that are compared, the first to be looked at first.
        notes: what a person should know, in sentences.
        left_out: what was not read of the examples, where they were read for this.
        rejects: the records of them that could not be read.
    """

    kind: str
    subject: str
    runs: Sequence[ComparedRun]
    metrics: Sequence[str]
    notes: Sequence[str] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    rejects: Sequence[Reject] = ()

    @property
    def of_losses(self) -> bool:
        """Whether language models are compared by their losses on held-out text; else tasks by their scores."""
        return self.kind in ("adapt", "instruct")
