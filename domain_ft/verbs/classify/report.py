"""What the report on a classifier is made of: plain values that `classify` hands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain_ft.verbs.shared.facts import BaseFacts

if TYPE_CHECKING:
    from domain_ft.corpus.examples import Examples, TaskData
    from domain_ft.evaluation.predictions import Predictions
from domain_ft.verbs.shared.task_facts import WORST, TaskSummary

LARGEST_MATRIX = 30
"""Classes up to which a confusion matrix can be read; of more, the most frequent confusions are shown."""


CONFUSIONS = 20


_SHOWN = 600  # characters of a text that a report shows


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
