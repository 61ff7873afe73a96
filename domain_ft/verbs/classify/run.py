"""`domain-ft classify`: fine-tune a classifier and measure it.

task -> leaks -> rows of tokens -> trials (chosen on validation examples) -> test, once -> run folder

run = domain_ft.classify(ClassifySettings(task="legal/license-category", model="runs/legal"))
run.result["test"]["macro_f1"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from domain_ft.corpus.examples import TaskData
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.leaks import Leaks, find_leaks, remove_leaks
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.tasks.rows import ExampleRows, encode
from domain_ft.errors import SettingsError
from domain_ft.evaluation.baselines import Baseline, baseline_facts, majority, tfidf_svm
from domain_ft.evaluation.calibration import (
    calibrate,
    calibration_facts,
    choose_temperature,
    fit_threshold,
    negative_log_likelihood,
)
from domain_ft.evaluation.classification import classification_metrics, point_scores, seed_metrics
from domain_ft.evaluation.logits import compute_features, predict_logits
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.probe import HEAD_FOLDER, Probe, fit_probe
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.classification import ClassificationObjective, class_weights
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.classify.terminal import print_classify
from domain_ft.verbs.shared import runs
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.task_runs import (
    Outcome,
    TaskJob,
    TaskVerb,
    adapted_to,
    check_options,
    common_result,
    cut_fraction,
    kept_metrics,
    largest,
    learning_curve,
    load_model,
    plan_task,
    plan_trials,
    run_task,
    warn_of_leaks,
)
from domain_ft.verbs.shared.trials import Trial, train_trials, trials_of

SEED_SHARE = 0.9
"""With several seeds, the share of all examples that each probe is fitted to. A fit has no other randomness."""

ClassifyRun: TypeAlias = runs.FinishedRun[ClassifyReport, TaskModel]


@dataclass(frozen=True)
class ClassifyJob(TaskJob):
    """A classification task, read and encoded, and the model to be trained on it."""

    command = "classify"
    objective = "classification"

    settings: ClassifySettings
    data: TaskData
    rows: Mapping[str, ExampleRows]

    @property
    def task_facts(self) -> dict[str, Any]:
        """The classes, and the fields that the examples are read from."""
        return {"labels": list(self.data.labels.names), "fields": self.data.facts["fields"]}


@dataclass(frozen=True)
class ClassifyOutcome(Outcome):
    """The result of a trial.

    Attributes:
        validation: with the temperature and the threshold fitted on it.
        test: with the same temperature and threshold.
        probe: the probe of --method head.
    """

    validation: Predictions
    test: Predictions
    probe: Probe | None = field(default=None, repr=False, kw_only=True)


def classify(settings: ClassifySettings) -> ClassifyRun:
    """Fine-tune on a classification task and measure it; everything is in the run folder when this returns.

    Raises:
        UserError: an error that the user can fix; nothing is lost.
        Interrupted: ctrl-C or SIGTERM. A checkpoint is written; `resume=True` continues from it.
    """
    return run_task(_VERB, settings)


def run(settings: ClassifySettings) -> dict[str, Any]:
    """The verb: fine-tune, or with --dry-run say what would be done; print the table."""
    return runs.run_or_plan(settings, classify, lambda asked: plan_task(_VERB, asked), print_classify)


def output_folder(settings: ClassifySettings) -> Path:
    """--output, or runs/TASK-MODEL."""
    return runs.output_folder(settings, settings.task or name_of(settings.train or "task"))


def check(settings: ClassifySettings) -> None:
    """Raise for options that do not go together.

    Raises:
        SettingsError: both or neither of --task and --train; see also `check_options`.
    """
    if (settings.task is None) == (settings.train is None):
        problem = (
            "neither --task nor --train was given" if settings.task is None else "--task and --train were both given"
        )
        raise SettingsError(
            problem, fix="name a task of a corpus (--task legal/license-category), or a file of examples (--train FILE)"
        )
    check_options(settings)


def set_up(settings: ClassifySettings, machine: Machine, display: ProgressDisplay) -> ClassifyJob:
    """Read the task, look for leaks, load the model, and resolve the settings that depend on them.

    Raises:
        SettingsError: the processes do not have the same settings, examples and model.
    """
    rejected: list[Reject] = []
    with machine.main_first():
        data = open_task(TaskSource.of(settings), rejects=rejected.append, progress=display.job)
        leaks = find_leaks(data, adapted_to(settings.model, display), display.job)
        if settings.remove_leaks:
            data = remove_leaks(data, leaks)
        model = load_model(settings, machine, data.labels, "sequence", display)
        length = min(settings.max_length, model.max_length)
        rows = {
            split: encode(
                examples,
                data.labels,
                model.tokenizer,
                max_length=length,
                long_text=settings.long_text,
                progress=display.job,
            )
            for split, examples in data.splits.items()
        }
    machine.agree(settings.to_dict() | {"task": data.key, "base model": model.revision}, model.model)
    log_notes(data, leaks, rows, model, settings, display)
    objective = None
    if settings.method != "head":
        weights = class_weights(rows["train"].targets, data.labels) if settings.balance == "weights" else None
        objective = ClassificationObjective(kernels=machine.kernels, labels=data.labels, class_weights=weights)
    settings, trials = plan_trials(settings, machine, model, objective, rows["train"], length, display)
    return ClassifyJob(settings, machine, data, rows, leaks, model, trials, data.left_out, rejected)


def log_notes(
    data: TaskData,
    leaks: Leaks,
    rows: Mapping[str, ExampleRows],
    model: TaskModel,
    settings: ClassifySettings,
    display: ProgressDisplay,
) -> None:
    """Print what the user should know before training starts."""
    fields = data.facts["fields"]
    length = f"{data.facts['mean_characters']:,} characters on average"
    second = f", the second text from '{fields['pair']}'" if fields["pair"] else ""
    display.say(f"the text is read from '{fields['text']}' ({length}){second}, the label from '{fields['label']}'")
    for note in (*data.notes, *model.notes):
        display.say(f"note: {note}")
    cut = cut_fraction(rows)
    if cut > 0:
        longer = {"truncate": "head-tail or windows", "head-tail": "windows", "windows": "a larger --max-length"}
        display.say(
            f"note: {cut:.0%} of the examples are too long for the model to read whole "
            f"(--long-text {longer[settings.long_text]} reads more)"
        )
    warn_of_leaks(leaks, settings, display)
    if settings.method == "head" and settings.seeds > 1:
        display.say(
            f"note: each seed's probe is fitted to {SEED_SHARE:.0%} of the examples, drawn at random; "
            "with --seeds 1 it is fitted to all"
        )


def macro_f1_and_likelihood(validation: Predictions) -> tuple[float, float]:
    """The score that models are chosen by: macro F1, then the mean log-likelihood of the true labels."""
    likelihood = -negative_log_likelihood(validation.logits, validation.targets, validation.labels.multi_label)
    return point_scores(validation)["macro_f1"], likelihood


def _run_trials(job: ClassifyJob, folder: RunFolder, display: ProgressDisplay) -> list[ClassifyOutcome]:
    """Train and test every trial. The test examples are read once, after every choice of a trial has been made."""
    if job.trials is None:
        return _probe_trials(job, display)

    def evaluate() -> dict[str, Any]:
        validation = _predict(job, "validation")
        validation = dataclasses.replace(validation, threshold=fit_threshold(validation))
        macro_f1, likelihood = macro_f1_and_likelihood(validation)
        return {"macro_f1": macro_f1, "loss": -likelihood, "score": [macro_f1, likelihood]}

    return [
        _outcome(job, trial, _predict(job, "validation"), _predict(job, "test", display), state=state)
        for trial, state in train_trials(job.trials, folder, display, evaluate)
    ]


def _predict(job: ClassifyJob, split: str, display: ProgressDisplay | None = None) -> Predictions:
    assert job.trials is not None
    with job.machine.accelerator.autocast():
        logits = predict_logits(
            job.model,
            job.rows[split],
            tokens_per_micro_batch=job.trials.micro_batches.tokens_per_micro_batch,
            accelerator=job.machine.accelerator,
            progress=display.job if display else None,
        )
    return Predictions.of(job.data.splits[split], job.data.labels, logits)


def _probe_trials(job: ClassifyJob, display: ProgressDisplay) -> list[ClassifyOutcome]:
    """Fit a linear probe for every trial, on features that are computed once for all examples that a trial draws.

    A probe needs no validation examples, since its strength is chosen by cross-validation. So with all training
    examples it is fitted to the validation examples too; its predictions for them are then those of the
    cross-validation. A trial of fewer examples is fitted to these alone, so that a learning curve is what it says.
    """
    train = len(job.rows["train"])
    targets = np.concatenate([job.rows["train"].targets, job.rows["validation"].targets])
    drawn = [(trial, _probe_examples(job, trial, targets)) for trial in trials_of(job.settings, train)]
    used = np.unique(np.concatenate([*(chosen for _, chosen in drawn), np.arange(train, len(targets))]))
    used_train = used[used < train]
    with job.machine.accelerator.autocast():
        features = {
            split: compute_features(
                job.model,
                rows.take(used_train) if split == "train" else rows,
                tokens_per_micro_batch=job.settings.tokens_per_micro_batch or 4096,
                accelerator=job.machine.accelerator,
                progress=display.job,
            )
            for split, rows in job.rows.items()
        }
    both = np.concatenate([features["train"], features["validation"]])  # (used, D)
    sources = [
        example.group or example.id
        for examples in (job.data.splits["train"].take(used_train), job.data.splits["validation"])
        for example in examples
    ]
    groups = np.unique(sources, return_inverse=True)[1].reshape(-1)
    outcomes = []
    for trial, chosen in drawn:
        rows = np.searchsorted(used, chosen)
        fitted = fit_probe(
            both[rows],
            targets[chosen],
            job.data.labels,
            groups=groups[rows],
            balanced=job.settings.balance == "weights",
            seed=trial.seed,
        )
        logits = {
            split: fitted.probe.logits(torch.from_numpy(features[split])).numpy() for split in ("validation", "test")
        }
        seen = chosen >= train
        logits["validation"][chosen[seen] - train] = fitted.held_out[seen]
        validation, test = (
            Predictions.of(job.data.splits[split], job.data.labels, values) for split, values in logits.items()
        )
        outcomes.append(_outcome(job, trial, validation, test, probe=fitted.probe))
    return outcomes


def _probe_examples(job: ClassifyJob, trial: Trial, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(rows,) the examples that a trial's probe is fitted to.

    Args:
        targets: (examples, ...) of the training examples, then of the validation examples.
    """
    if trial.size is not None:
        return trial.indices(job.rows["train"].targets, job.settings.balance)
    share = SEED_SHARE if job.settings.seeds > 1 else 1.0
    return dataclasses.replace(trial, size=round(share * len(targets))).indices(targets, job.settings.balance)


def _outcome(
    job: ClassifyJob, trial: Trial, validation: Predictions, test: Predictions, **trained: Any
) -> ClassifyOutcome:
    """The outcome with the temperature and the threshold that fit the validation examples."""
    temperature, threshold = calibrate(validation) if job.settings.calibrate else (1.0, fit_threshold(validation))
    validation, test = (
        dataclasses.replace(one, temperature=temperature, threshold=threshold) for one in (validation, test)
    )
    return ClassifyOutcome(trial, validation, test, macro_f1_and_likelihood(validation), **trained)


def _baselines(job: ClassifyJob, kept: Trial, display: ProgressDisplay) -> dict[str, Baseline]:
    """The majority class, and TF-IDF with a linear SVM, trained on the same examples as the kept model."""
    splits, labels = job.data.splits, job.data.labels
    train = splits["train"].take(kept.indices(job.rows["train"].targets, "none"))
    display.say("baselines: the majority class, and TF-IDF with a linear SVM")
    return {
        "majority": majority(train, splits["test"], labels),
        "tfidf_svm": tfidf_svm(
            train,
            splits["validation"],
            splits["test"],
            labels,
            balanced=job.settings.balance != "none",
            refit=kept.size is None,
            seed=job.settings.seed,
        ),
    }


def _report(
    job: ClassifyJob,
    folder: RunFolder,
    outcomes: Sequence[ClassifyOutcome],
    kept: ClassifyOutcome,
    provenance: Mapping[str, Any],
    began: float,
    display: ProgressDisplay,
) -> ClassifyReport:
    """All results, as plain values."""
    settings, model = job.settings, job.model
    baselines = _baselines(job, kept.trial, display) if settings.baselines else {}
    trained = [p for p in model.model.parameters() if p.requires_grad]
    if kept.probe is not None:
        trained = [kept.probe.weight, kept.probe.bias]

    def seed_scores(outcomes: Sequence[ClassifyOutcome]) -> Mapping[str, Any]:
        return seed_metrics([outcome.test for outcome in outcomes], seed=settings.seed)

    result = common_result(job, outcomes, trained, began) | {
        "test": _scores(kept.test, settings),
        "validation": _scores(kept.validation, settings),
        "calibration": dataclasses.asdict(choose_temperature(kept.validation)) if settings.calibrate else None,
        "seeds": {"kept": kept.trial.seed, **seed_scores(largest(outcomes))},
        "baselines": {
            name: baseline_facts(baseline, kept.test, seed=settings.seed) for name, baseline in baselines.items()
        },
        "learning_curve": learning_curve(outcomes, len(job.data.splits["train"]), seed_scores),
    }
    return ClassifyReport.of(
        result,
        runs.base_facts(model),
        job.data,
        kept.test,
        settings=settings.to_dict(),
        provenance=provenance,
        metrics=kept_metrics(job, kept, folder),
        notes=[note for baseline in baselines.values() for note in baseline.notes],
        examples=settings.examples,
    )


def _scores(predictions: Predictions, settings: ClassifySettings) -> dict[str, Any]:
    return classification_metrics(predictions, seed=settings.seed) | {"calibration": calibration_facts(predictions)}


def _save(job: ClassifyJob, folder: RunFolder, kept: ClassifyOutcome) -> None:
    """Write the model or the probe, and what `predict` needs to know of it."""
    model = job.model
    if kept.probe is not None:
        kept.probe.save(folder.path / HEAD_FOLDER, base=model.source, revision=model.revision)
    else:
        runs.write_model(model, job.settings.method, folder, model.task_type)
    TaskFacts(
        kind="sequence",
        labels=job.data.labels.names,
        multi_label=job.data.labels.multi_label,
        method=job.settings.method,
        base=model.source,
        max_length=job.settings.max_length,
        long_text=job.settings.long_text,
        temperature=kept.validation.temperature,
        threshold=kept.validation.threshold,
        fields=job.data.facts.get("fields", {}),
    ).save(folder.path)


def _render(report: ClassifyReport) -> tuple[str, str]:
    from domain_ft.verbs.classify import card, page  # matplotlib is slow to import, so not before training

    return card.render_classify(report), page.render_classify(report)


_VERB = TaskVerb(check, output_folder, set_up, _run_trials, _report, _save, _render)
