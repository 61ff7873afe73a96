"""The data and the model of a `classify` run, and the outcome of each trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from domain_ft.corpus.examples import TaskData
from domain_ft.corpus.tasks.rows import ExampleRows
from domain_ft.evaluation.calibration import calibrate, fit_threshold, negative_log_likelihood
from domain_ft.evaluation.classification import point_scores
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.probe import FittedProbe, Probe
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.shared.read_first import ReadableTask
from domain_ft.verbs.shared.task_runs import Outcome, TaskJob
from domain_ft.verbs.shared.trials import Trial


@dataclass(frozen=True)
class FeatureChoice:
    """Probes on the features of an adapted model and of its base model, and the choice between them.

    Attributes:
        chosen: `base` or `adapted`.
        base: the name of the base model.
        fitted: the two probes, by `base` and `adapted`.
    """

    chosen: str
    base: str
    fitted: Mapping[str, FittedProbe]

    def to_result(self) -> dict[str, Any]:
        """The value of `features` in result.json, with the probes' log-losses in cross-validation, in nats."""
        return {
            "chosen": self.chosen,
            "base": self.base,
            **{f"{kind}_loss": probe.loss for kind, probe in self.fitted.items()},
        }


@dataclass(frozen=True)
class ClassifyJob(TaskJob):
    """A classification task, read and encoded, and the model to be trained on it.

    Attributes:
        features: how the features of a probe were chosen; None if there was no choice.
    """

    command = "classify"
    objective = "classification"

    settings: ClassifySettings
    data: TaskData
    rows: Mapping[str, ExampleRows]
    features: FeatureChoice | None = None

    @property
    def readable(self) -> ReadableTask:
        """The texts, and the fields of the text and of the second text."""
        fields = self.data.facts["fields"]
        return ReadableTask(self.data.splits, [fields[name] for name in ("text", "pair") if fields[name]])

    @property
    def task_facts(self) -> dict[str, Any]:
        """The classes, and the fields that the examples are read from."""
        return {"labels": list(self.data.labels.names), "fields": self.data.facts["fields"]}


@dataclass(frozen=True)
class ClassifyOutcome(Outcome):
    """The result of a trial.

    Attributes:
        validation: the predictions, with the temperature and the threshold fitted to them.
        test: the predictions, with the same temperature and threshold.
        probe: the probe of --method head or contrastive.
    """

    validation: Predictions
    test: Predictions
    probe: Probe | None = field(default=None, repr=False, kw_only=True)


def outcome_of(
    job: ClassifyJob, trial: Trial, validation: Predictions, test: Predictions, **trained: Any
) -> ClassifyOutcome:
    """The outcome of a trial, with a threshold and (unless --no-calibrate) a temperature fitted to `validation`."""
    temperature, threshold = calibrate(validation) if job.settings.calibrate else (1.0, fit_threshold(validation))
    validation, test = (
        dataclasses.replace(one, temperature=temperature, threshold=threshold) for one in (validation, test)
    )
    return ClassifyOutcome(trial, validation, test, macro_f1_and_likelihood(validation), **trained)


def macro_f1_and_likelihood(validation: Predictions) -> tuple[float, float]:
    """The score that models are chosen by: macro F1, then the mean log-likelihood of the true labels."""
    likelihood = -negative_log_likelihood(validation.logits, validation.targets, validation.labels.multi_label)
    return point_scores(validation)["macro_f1"], likelihood
