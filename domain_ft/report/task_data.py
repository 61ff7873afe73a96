"""What the reports on tasks are made of: plain values that `classify` and `compare` hand over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.left_out import LeftOut
from domain_ft.report.data import BaseFacts

if TYPE_CHECKING:
    from domain_ft.corpus.readers.base import Reject
    from domain_ft.corpus.tasks.examples import Examples, TaskData
    from domain_ft.evaluation.predictions import Predictions

LARGEST_MATRIX = 30
"""Classes up to which a confusion matrix can be read; of more, the most frequent confusions are shown."""

CONFUSIONS = 20
WORST = 20
_SHOWN = 600  # characters of a text that a report shows


@dataclass(frozen=True)
class TaskFacts:
    """A task, as the report tells of it.

    Attributes:
        name: such as `legal/license-category`.
        labels: the classes' names.
        several: whether an example may have several of them.
        examples: how many by split.
        facts: `TaskData.facts`: description, licence, citation, language, how it was split, known weaknesses.
        notes: what was found when it was read, in sentences.
    """

    name: str
    labels: Sequence[str]
    several: bool = False
    examples: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, task: TaskData) -> TaskFacts:
        """The facts of a task that was read."""
        return cls(
            name=task.name,
            labels=task.labels.names,
            several=task.labels.several,
            examples={split: len(examples) for split, examples in task.splits.items()},
            facts=task.facts,
            notes=tuple(task.notes),
        )


@dataclass(frozen=True)
class ClassifyReport:
    """All that is known when `classify` is done. Make one with `of`.

    Attributes:
        result: the run's result.json.
        base: the model that was fine-tuned.
        task: what it was fine-tuned on.
        settings: the settings as resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl; a held-out point has `evaluation` with `macro_f1`.
        notes: what a person should know of the run, in sentences.
        confusion: (L, L) counts, true by predicted; empty where several may hold, or of more than `LARGEST_MATRIX`.
        confusions: (truth, predicted, how often) of the most frequent mistakes; empty where several may hold.
        reliability: the bins of `calibration.reliability`, `before` and `after` the temperature.
        errors: the worst mistakes, with their texts: `id`, `text`, `pair`, `truth`, `predicted`, `confidence`; empty
            where no example may be shown.
        leaks: what was found twice, by kind.
    """

    result: Mapping[str, Any]
    base: BaseFacts
    task: TaskFacts
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    confusions: Sequence[tuple[str, str, int]] = ()
    reliability: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    errors: Sequence[Mapping[str, Any]] = ()
    leaks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        result: Mapping[str, Any],
        base: BaseFacts,
        task: TaskData,
        test: Predictions,
        *,
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        metrics: Sequence[Mapping[str, Any]] = (),
        notes: Sequence[str] = (),
        examples: bool = True,
    ) -> ClassifyReport:
        """The report of a run whose kept model has made the predictions `test` of the task's test examples.

        Args:
            result: as it will stand in result.json.
            base: the model that was fine-tuned.
            task: as it was trained and tested on.
            test: with the temperature and threshold that were found on validation examples.
            settings: as resolved.
            provenance: versions, device, hashes.
            metrics: the lines of metrics.jsonl.
            notes: of the run, in sentences.
            examples: whether texts may be shown.
        """
        from domain_ft.evaluation.calibration import reliability
        from domain_ft.evaluation.classification import confusion_matrix, confusions

        single = not test.labels.several
        return cls(
            result=result,
            base=base,
            task=TaskFacts.of(task),
            settings=settings,
            provenance=provenance,
            metrics=metrics,
            notes=notes,
            confusion=confusion_matrix(test).tolist() if single and len(test.labels) <= LARGEST_MATRIX else (),
            confusions=confusions(test, CONFUSIONS) if single else (),
            reliability={"before": reliability(test, 1.0), "after": reliability(test)},
            errors=shown_errors(test, task.splits["test"]) if examples else (),
            leaks=result.get("leaks") or {},
        )

    @property
    def test(self) -> Mapping[str, Any]:
        """The kept model's scores on the test examples."""
        scores: Mapping[str, Any] = self.result["test"]
        return scores


def shown_errors(test: Predictions, examples: Examples) -> list[dict[str, Any]]:
    """The mistakes that the model was surest of, with their texts, clipped."""
    from domain_ft.evaluation.classification import worst_errors

    names, predicted = test.labels.names, test.predicted()

    def said(answer: Any) -> list[str]:
        return [name for name, holds in zip(names, answer, strict=True) if holds] if answer.ndim else [names[answer]]

    shown = []
    for index, confidence in worst_errors(test, WORST):
        example = examples[index]
        shown.append(
            {
                "id": example.id,
                "text": _clipped(example.text),
                "pair": None if example.pair is None else _clipped(example.pair),
                "truth": said(test.targets[index]),
                "predicted": said(predicted[index]),
                "confidence": confidence,
            }
        )
    return shown


def _clipped(text: str) -> str:
    """The text's beginning, and its end where it is long: what tells it may stand at either."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN * 2 // 3]} … {text[-_SHOWN // 3 :]}"


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
