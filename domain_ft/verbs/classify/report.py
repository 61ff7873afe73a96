"""The report on a classifier, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.verbs.shared.facts import BaseFacts
from domain_ft.verbs.shared.task_facts import WORST, TaskSummary

if TYPE_CHECKING:
    from domain_ft.corpus.examples import Examples, TaskData
    from domain_ft.evaluation.predictions import Predictions

LARGEST_MATRIX = 30
"""The most classes of a readable confusion matrix; with more, only the most frequent confusions are shown."""

CONFUSIONS = 20  # the number of confusions in a report
_SHOWN = 600  # characters of a text that a report shows


@dataclass(frozen=True)
class ClassifyReport:
    """All results of `classify`. Make one with `of`.

    Attributes:
        result: the run's result.json.
        base: the base model.
        task: the task.
        settings: with every default resolved.
        provenance: versions, device, hashes.
        metrics: the lines of metrics.jsonl; a held-out point has `evaluation` with `macro_f1`.
        notes: what the user should know about the run, in sentences.
        confusion: (L, L) counts, with a row for each true class and a column for each predicted one; empty for
            multi-label tasks and for more than `LARGEST_MATRIX` classes.
        confusions: (truth, predicted, count) of the most frequent mistakes; empty for multi-label tasks.
        reliability: the bins of `calibration.reliability`, `before` and `after` the temperature.
        errors: the most confident mistakes with their texts: `id`, `text`, `pair`, `truth`, `predicted`, `confidence`;
            empty if texts may not be shown.
        leaks: the number of copies by kind.
    """

    result: Mapping[str, Any]
    base: BaseFacts
    task: TaskSummary
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
        """The report of a run whose kept model predicts `test` for the task's test examples.

        Args:
            result: the content of result.json.
            base: the base model.
            task: the task.
            test: predictions with the temperature and threshold that were fitted to the validation examples.
            settings: with every default resolved.
            provenance: versions, device, hashes.
            metrics: the lines of metrics.jsonl.
            notes: what the user should know about the run, in sentences.
            examples: whether texts may be shown.
        """
        from domain_ft.evaluation.calibration import reliability
        from domain_ft.evaluation.classification import confusion_matrix, confusions

        single = not test.labels.multi_label
        return cls(
            result=result,
            base=base,
            task=TaskSummary.of(task),
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
    """The model's most confident mistakes. Long texts are shortened."""
    from domain_ft.evaluation.classification import worst_errors

    names, predicted = test.labels.names, test.predicted()

    def names_of(answer: Any) -> list[str]:
        return [name for name, holds in zip(names, answer, strict=True) if holds] if answer.ndim else [names[answer]]

    shown = []
    for index, confidence in worst_errors(test, WORST):
        example = examples[index]
        shown.append(
            {
                "id": example.id,
                "text": _clipped(example.text),
                "pair": None if example.pair is None else _clipped(example.pair),
                "truth": names_of(test.targets[index]),
                "predicted": names_of(predicted[index]),
                "confidence": confidence,
            }
        )
    return shown


def _clipped(text: str) -> str:
    """A text on one line; of a long one only the beginning and the end, since either may hold the evidence."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN * 2 // 3]} … {text[-_SHOWN // 3 :]}"
