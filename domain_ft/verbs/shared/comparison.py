"""A comparison of runs, as plain values: the report of `compare`, and of `evaluate` on tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.left_out import LeftOut

if TYPE_CHECKING:
    from domain_ft.corpus.readers.base import Reject


@dataclass(frozen=True)
class Disagreement:
    """A test example that only one of two models got right.

    Attributes:
        id: the example's id.
        truth: the names of the true classes.
        first: the first run's prediction.
        other: the other run's prediction.
    """

    id: str
    truth: Sequence[str]
    first: Sequence[str]
    other: Sequence[str]


@dataclass(frozen=True)
class ComparedRun:
    """One run in a comparison.

    Attributes:
        name: the run's name as the user gave it.
        model: the base model.
        seeds: the number of seeds.
        scores: by metric, with `mean`, `sd`, `values` and `interval`. For a run of `adapt` or `instruct`: by role, the
            losses (`Scores.summary`) on the documents that all runs were scored on.
        differences: by metric (or role), the difference from the first run; empty for the first run.
        learning_curve: `learning_curve` of the run's result.json; may be empty.
        answers: the numbers of test examples that the kept models of the first run and of this run got right or wrong:
            `both_right`, `first_only` (right), `other_only` (right), `both_wrong`. Only `compare` fills it, for runs of
            `classify` after the first.
        disagreements: some of the examples that only one of these two models got right.
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
    """Finished runs of one kind, compared with the first.

    Attributes:
        kind: the verb that made them: `classify`, `tag`, `adapt` or `instruct`.
        subject: what they were measured on, for titles: a task, a file, or held-out text.
        runs: the runs, in the order given.
        metrics: the scores that are compared, the most important first; for losses, the roles.
        notes: what the user should know, in sentences.
        left_out: what `evaluate` did not read from the examples; `compare` reads none.
        rejects: the records that `evaluate` could not read.
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
        """Whether the runs are compared by held-out losses; otherwise by scores on a task."""
        return self.kind in ("adapt", "instruct")
