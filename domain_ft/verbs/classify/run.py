"""`domain-ft classify`: fine-tune a classifier and measure it.

task -> leaks -> rows of tokens -> trials (chosen on validation examples) -> test, once -> run folder

run = domain_ft.classify(ClassifySettings(task="legal/license-category", model="runs/legal"))
run.result["test"]["macro_f1"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from domain_ft.corpus.examples import Labels, TaskData
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.leaks import Leaks, find_leaks, remove_leaks
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.tasks.rows import ExampleRows, encode
from domain_ft.errors import SettingsError
from domain_ft.evaluation.baselines import Baseline, baseline_facts, majority, tfidf_svm
from domain_ft.evaluation.calibration import calibration_facts, choose_temperature, fit_threshold
from domain_ft.evaluation.classification import classification_metrics, seed_metrics
from domain_ft.evaluation.logits import predict_logits
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.probe import HEAD_FOLDER
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.base import Objective
from domain_ft.objectives.classification import ClassificationObjective, class_weights
from domain_ft.objectives.supervised_contrastive import SupervisedContrastive
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.adaptation import choose_features, effect_of_adaptation
from domain_ft.verbs.classify.job import ClassifyJob, ClassifyOutcome, macro_f1_and_likelihood, outcome_of
from domain_ft.verbs.classify.probes import (
    SEED_SHARE,
    check_class_sizes,
    check_contrastive,
    predict_with_new_probe,
    probe_outcomes,
)
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.classify.terminal import print_classify
from domain_ft.verbs.shared import runs
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.task_runs import (
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

ClassifyRun: TypeAlias = runs.FinishedRun[ClassifyReport, TaskModel]


def classify(settings: ClassifySettings) -> ClassifyRun:
    """Fine-tune a model on a classification task and measure it; everything is in the run folder when this returns.

    Raises:
        UserError: an error that the user can fix.
        Interrupted: ctrl-C or SIGTERM during training. A checkpoint is written; `resume=True` continues from it.
    """
    return run_task(_VERB, settings)


def run(settings: ClassifySettings) -> dict[str, Any]:
    """The verb: fine-tune and print the table, or with --dry-run print the plan."""
    return runs.run_or_plan(settings, classify, lambda asked: plan_task(_VERB, asked), print_classify)


def output_folder(settings: ClassifySettings) -> Path:
    """--output, or runs/TASK-MODEL."""
    return runs.output_folder(settings, settings.task or name_of(settings.train or "task"))


def check(settings: ClassifySettings) -> None:
    """Refuse options that do not go together.

    Raises:
        SettingsError: both or neither of --task and --train; --features adapted without --method head; or the reasons
            of `check_options` and `check_contrastive`.
    """
    if (settings.task is None) == (settings.train is None):
        problem = (
            "neither --task nor --train was given" if settings.task is None else "--task and --train were both given"
        )
        raise SettingsError(
            problem, fix="name a task of a corpus (--task legal/license-category), or a file of examples (--train FILE)"
        )
    check_options(settings)
    if settings.features != "auto" and settings.method != "head":
        raise SettingsError(
            f"--features {settings.features} is an option of --method head, not of --method {settings.method}",
            fix="leave it out, or add --method head",
        )
    if settings.method == "contrastive":
        check_contrastive(settings)


def set_up(settings: ClassifySettings, machine: Machine, display: ProgressDisplay) -> ClassifyJob:
    """Read the task, look for leaks, load the model, and resolve the settings that depend on them.

    Raises:
        UserError: the examples, the model or the settings cannot be used, or the processes differ in them.
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
    if settings.method == "contrastive":
        check_class_sizes(rows["train"].targets, data.labels, trials_of(settings, len(rows["train"])), display)
    objective = _objective(settings, machine, data.labels, rows["train"])
    settings, trials = plan_trials(settings, machine, model, objective, rows["train"], length, display)
    return ClassifyJob(settings, machine, data, rows, leaks, model, trials, data.left_out, rejected)


def _objective(settings: ClassifySettings, machine: Machine, labels: Labels, train: ExampleRows) -> Objective | None:
    """The training loss; None for a probe on a frozen model."""
    if settings.method == "head":
        return None
    if settings.method == "contrastive":
        return SupervisedContrastive()
    weights = class_weights(train.targets, labels) if settings.balance == "weights" else None
    return ClassificationObjective(kernels=machine.kernels, labels=labels, class_weights=weights)


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
        more = {
            "truncate": "--long-text head-tail or windows",
            "head-tail": "--long-text windows",
            "windows": "a larger --max-length",
        }
        display.say(
            f"note: {cut:.0%} of the examples are too long for the model to read whole "
            f"({more[settings.long_text]} reads more)"
        )
    warn_of_leaks(leaks, settings, display)
    if settings.method == "head" and settings.seeds > 1:
        display.say(
            f"note: each seed's probe is fitted to {SEED_SHARE:.0%} of the examples, drawn at random; "
            "with --seeds 1 the probe is fitted to all of them"
        )


def _run_trials(job: ClassifyJob, folder: RunFolder, display: ProgressDisplay) -> list[ClassifyOutcome]:
    """Train and test every trial. The test examples are only scored: nothing is chosen by them."""
    if job.trials is None:
        return probe_outcomes(job, trials_of(job.settings, len(job.rows["train"])), display)
    contrastive = job.trials.contrastive

    def evaluate(trial: Trial) -> dict[str, Any]:
        validation = predict_with_new_probe(job, trial) if contrastive else _predict(job, "validation")
        validation = dataclasses.replace(validation, threshold=fit_threshold(validation))
        macro_f1, likelihood = macro_f1_and_likelihood(validation)
        return {"macro_f1": macro_f1, "loss": -likelihood, "score": [macro_f1, likelihood]}

    outcomes = []
    for trial, state in train_trials(job.trials, folder, display, evaluate):
        if contrastive:
            outcomes += probe_outcomes(job, [trial], display, state)
        else:
            validation, test = _predict(job, "validation"), _predict(job, "test", display)
            outcomes.append(outcome_of(job, trial, validation, test, state=state))
    return outcomes


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


def _baselines(job: ClassifyJob, kept: Trial, display: ProgressDisplay) -> dict[str, Baseline]:
    """The majority class, and TF-IDF with a linear SVM, fitted to the kept trial's training examples."""
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
    trained = [p for p in model.model.parameters() if p.requires_grad] if job.trials else []
    if kept.probe is not None:
        trained += [kept.probe.weight, kept.probe.bias]
        model.probe = kept.probe.to(model.device)  # the returned model predicts with it

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
        "features": job.features.to_result() if job.features else None,
        "adaptation": effect_of_adaptation(job, display) if settings.baselines else None,
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
    """Write the model, the probe or both, and task.json for `predict`."""
    model = job.model
    if kept.probe is not None:
        kept.probe.save(folder.path / HEAD_FOLDER, base=model.source, revision=model.revision)
    if job.trials is not None:  # PEFT has no name for the task of an adapter below a probe
        runs.write_model(model, job.settings.method, folder, model.task_type if kept.probe is None else None)
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


_VERB = TaskVerb(check, output_folder, set_up, choose_features, _run_trials, _report, _save, _render)
