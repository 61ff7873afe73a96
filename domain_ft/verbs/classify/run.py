"""`domain-ft classify`: fine-tune a model to tell classes of texts apart, and measure how well it does.

task -> leaks -> rows of tokens -> trials (chosen on validation examples) -> test, once -> run folder

run = domain_ft.classify(ClassifySettings(task="legal/license-category", model="runs/legal"))
run.result["test"]["macro_f1"]
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domain_ft.corpus.examples import TaskData
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.leaks import Leaks, find_leaks, remove_leaks
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.tasks.rows import ExampleRows, encode
from domain_ft.embedded.loading import load_task_model
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
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.shared.machine import Machine, choose_machine
from domain_ft.verbs.shared.runs import (
    as_started,
    base_facts,
    console_of,
    costs,
    default_folder,
    origin,
    print_paths,
    print_plan,
    resolve_config,
    started,
    write_model,
)
from domain_ft.verbs.shared.task_runs import (
    adapted_to,
    check_options,
    cut_fraction,
    drop_checkpoints,
    keep_metrics,
    largest,
    resolve_settings,
    warn_of_leaks,
    write_findings,
)
from domain_ft.verbs.shared.trials import TaskJob, Trial, restore, run_trial, set_up_trials, trials_of


@dataclass(frozen=True)
class ClassifyRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        report: all that was found out; `result` is what result.json holds of it.
        model: the fine-tuned model, ready to use.
    """

    folder: Path
    report: ClassifyReport
    model: TaskModel

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""
        return self.report.result


@dataclass(frozen=True)
class ClassifyJob:
    """A classification task, read and encoded, and the model that learns it.

    Attributes:
        settings: with nothing left to a default that depends on the machine, the model or the task.
        machine: where it is computed.
        data: the task.
        rows: by split.
        leaks: what stands in two splits, or in the text that the model was adapted to.
        model: the task's model.
        tasks: what the trials share; None for a probe, which has no loop.
    """

    settings: ClassifySettings
    machine: Machine
    data: TaskData
    rows: Mapping[str, ExampleRows]
    leaks: Leaks
    model: TaskModel
    tasks: TaskJob | None


@dataclass(frozen=True)
class Outcome:
    """What a trial has come to.

    Attributes:
        trial: which.
        validation: its predictions of the validation examples, with the temperature and threshold found on them.
        test: its predictions of the test examples, read with the same.
        state: of its training; None for a probe.
        probe: its probe, of --method head.
    """

    trial: Trial
    validation: Predictions
    test: Predictions
    state: TrainingState | None = None
    probe: Probe | None = field(default=None, repr=False)

    @property
    def score(self) -> tuple[float, ...]:
        """What trials are chosen by: macro F1 on the validation examples, and their likelihood where it is equal."""
        return judged(self.validation)


def judged(validation: Predictions) -> tuple[float, float]:
    """How good predictions of validation examples are: their macro F1, then how likely the truth is to them."""
    likelihood = -negative_log_likelihood(validation.logits, validation.targets, validation.labels.multi_label)
    return point_scores(validation)["macro_f1"], likelihood


def classify(settings: ClassifySettings) -> ClassifyRun:
    """Fine-tune on a classification task and measure it; everything is in the run folder when this returns.

    Raises:
        UserError: something that the user can mend; nothing is lost.
        Interrupted: ctrl-C or SIGTERM; a checkpoint is written, and `resume=True` goes on from it.
    """
    began = time.perf_counter()
    _check(settings)
    with started(settings, output_folder(settings)) as (folder, machine, display):
        rejected: list[Reject] = []
        job = set_up(as_started(settings, folder), machine, display, rejected)
        facts = origin(machine, job.model, task={"name": job.data.name, "content": job.data.key})
        resolve_config(job.settings, facts, folder, machine, sources=("model", "task"))
        if machine.is_main:
            write_findings(folder, job.leaks, rejected)
        outcomes = _probe_trials(job, display) if job.tasks is None else _trials(job, job.tasks, folder, display)
        kept = max(largest(outcomes), key=lambda outcome: outcome.score)
        if job.tasks is not None:
            restore(job.tasks, kept.trial, job.tasks.folder(kept.trial, folder))
        baselines = _baselines(job, kept.trial, display) if settings.baselines else {}
        report = _report(job, folder, outcomes, kept, baselines, facts, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report, outcomes, kept)
    return ClassifyRun(folder.path, report, job.model)


def run(settings: ClassifySettings) -> dict[str, Any]:
    """The verb: fine-tune, or say what would be done; print the table."""
    if settings.dry_run:
        return _dry_run(settings)
    from domain_ft.verbs.classify.terminal import print_classify

    finished = classify(settings)
    console = console_of(settings)
    print_classify(finished.report, console)
    print_paths(finished.folder, console)
    return dict(finished.result)


def output_folder(settings: ClassifySettings) -> Path:
    """--output, or runs/TASK-MODEL by the last parts of their names."""
    if settings.output:
        return settings.output
    return default_folder(settings.task or name_of(settings.train or "task"), name_of(settings.model))


def _check(settings: ClassifySettings) -> None:
    if (settings.task is None) == (settings.train is None):
        given = (
            "neither --task nor --train was given" if settings.task is None else "--task and --train were both given"
        )
        raise SettingsError(
            given, fix="name a task of a corpus (--task legal/license-category), or a file of examples (--train F)"
        )
    check_options(settings)


def set_up(
    settings: ClassifySettings, machine: Machine, display: ProgressDisplay, rejected: list[Reject] | None = None
) -> ClassifyJob:
    """Read the task, look for leaks, load the model, and settle every setting that depends on them.

    Args:
        rejected: takes the records that were left out, with --on-bad-record skip.

    Raises:
        SettingsError: the processes do not have the same settings, examples and model.
    """
    rejected = [] if rejected is None else rejected
    with machine.main_first():
        data = open_task(TaskSource.of(settings), rejects=rejected.append, progress=display.job)
        leaks = find_leaks(data, adapted_to(settings.model, display), display.job)
        if settings.remove_leaks:
            data = remove_leaks(data, leaks)
        model = load_task_model(
            settings.model,
            data.labels,
            kind="sequence",
            adapter=settings.adapter,
            device=machine.device,
            dtype=machine.weights_dtype(settings.method, settings.train_modules),
            progress=display.job,
        )
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
    tasks = None
    if settings.method != "head":
        weights = class_weights(rows["train"].targets, data.labels) if settings.balance == "weights" else None
        objective = ClassificationObjective(kernels=machine.kernels, labels=data.labels, class_weights=weights)
        tasks = set_up_trials(settings, machine, model, objective, rows["train"], display)
    resolved = dataclasses.replace(settings, **resolve_settings(settings, machine, length, tasks))
    if tasks is not None:
        tasks = dataclasses.replace(tasks, settings=resolved)
    return ClassifyJob(resolved, machine, data, rows, leaks, model, tasks)


def log_notes(
    data: TaskData,
    leaks: Leaks,
    rows: Mapping[str, ExampleRows],
    model: TaskModel,
    settings: ClassifySettings,
    display: ProgressDisplay,
) -> None:
    """What a person should know before the numbers come."""
    fields = data.facts["fields"]
    length = f"{data.facts['mean_characters']:,} characters on average"
    second = f", the second text from '{fields['pair']}'" if fields["pair"] else ""
    display.say(f"the text is read from '{fields['text']}' ({length}){second}, the label from '{fields['label']}'")
    for note in (*data.notes, *model.notes):
        display.say(f"note: {note}")
    cut = cut_fraction(rows)
    if cut > 0:
        ways = {"truncate": "head-tail or windows", "head-tail": "windows", "windows": "a larger --max-length"}
        display.say(
            f"note: {cut:.0%} of the examples are longer than what is read of them "
            f"(--long-text {ways[settings.long_text]} reads more)"
        )
    warn_of_leaks(leaks, settings, display)
    if settings.method == "head" and settings.seeds > 1:
        display.say("note: a probe on all examples depends on no seed, so one seed is as good as several")


def _trials(job: ClassifyJob, tasks: TaskJob, folder: RunFolder, display: ProgressDisplay) -> list[Outcome]:
    """Train and test every trial. The test examples are read once, after all choices of a trial are made."""
    outcomes = []
    for number, trial in enumerate(tasks.trials, 1):
        if len(tasks.trials) > 1:
            display.say(f"trial {number} of {len(tasks.trials)}: {trial.describe()}")

        def point() -> dict[str, Any]:
            found = _predictions(job, tasks, "validation")
            found = dataclasses.replace(found, threshold=fit_threshold(found))
            macro_f1, likelihood = judged(found)
            return {"macro_f1": macro_f1, "loss": -likelihood, "score": [macro_f1, likelihood]}

        state = run_trial(tasks, trial, tasks.folder(trial, folder), display, point)
        validation = _read_well(_predictions(job, tasks, "validation"), job.settings)
        test = _predictions(job, tasks, "test", display)
        outcomes.append(Outcome(trial, validation, _read_as(test, validation), state))
    return outcomes


def _predictions(job: ClassifyJob, tasks: TaskJob, split: str, display: ProgressDisplay | None = None) -> Predictions:
    with job.machine.accelerator.autocast():
        logits = predict_logits(
            job.model,
            job.rows[split],
            tokens_per_micro_batch=tasks.micro_batches.tokens_per_micro_batch,
            accelerator=job.machine.accelerator,
            progress=display.job if display else None,
        )
    return Predictions.of(job.data.splits[split], job.data.labels, logits)


def _probe_trials(job: ClassifyJob, display: ProgressDisplay) -> list[Outcome]:
    """A linear probe for every trial, on features that are computed once, of the examples that a trial draws."""
    targets = job.rows["train"].targets
    drawn = [(trial, trial.indices(targets, job.settings.balance)) for trial in trials_of(job.settings, len(targets))]
    used = np.unique(np.concatenate([chosen for _, chosen in drawn]))
    with job.machine.accelerator.autocast():
        features = {
            split: compute_features(
                job.model,
                rows.take(used) if split == "train" else rows,
                tokens_per_micro_batch=job.settings.tokens_per_micro_batch or 4096,
                accelerator=job.machine.accelerator,
                progress=display.job,
            )
            for split, rows in job.rows.items()
        }
    outcomes = []
    for trial, chosen in drawn:
        probe = fit_probe(
            features["train"][np.searchsorted(used, chosen)],
            targets[chosen],
            job.data.labels,
            validation=(features["validation"], job.rows["validation"].targets),
            balanced=job.settings.balance == "weights",
        )
        found = {
            split: Predictions.of(
                job.data.splits[split], job.data.labels, probe.logits(torch.from_numpy(features[split]))
            )
            for split in ("validation", "test")
        }
        validation = _read_well(found["validation"], job.settings)
        outcomes.append(Outcome(trial, validation, _read_as(found["test"], validation), probe=probe))
    return outcomes


def _read_well(validation: Predictions, settings: ClassifySettings) -> Predictions:
    """Predictions of validation examples with the temperature and threshold that suit them."""
    temperature, threshold = calibrate(validation) if settings.calibrate else (1.0, fit_threshold(validation))
    return dataclasses.replace(validation, temperature=temperature, threshold=threshold)


def _read_as(test: Predictions, validation: Predictions) -> Predictions:
    return dataclasses.replace(test, temperature=validation.temperature, threshold=validation.threshold)


def _baselines(job: ClassifyJob, kept: Trial, display: ProgressDisplay) -> dict[str, Baseline]:
    """A majority class and TF-IDF with a linear SVM, learned from the same examples as the model that is kept."""
    splits, labels = job.data.splits, job.data.labels
    train = splits["train"].take(kept.indices(job.rows["train"].targets, "none"))
    display.say("baselines: a majority class, and TF-IDF with a linear SVM")
    return {
        "majority": majority(train, splits["test"], labels),
        "tfidf_svm": tfidf_svm(
            train,
            splits["validation"],
            splits["test"],
            labels,
            balanced=job.settings.balance != "none",
            seed=job.settings.seed,
        ),
    }


def _report(
    job: ClassifyJob,
    folder: RunFolder,
    outcomes: Sequence[Outcome],
    kept: Outcome,
    baselines: Mapping[str, Baseline],
    facts: Mapping[str, Any],
    wall_seconds: float,
) -> ClassifyReport:
    """All that the run has found out, as plain values."""
    settings, model = job.settings, job.model
    states = [outcome.state for outcome in outcomes if outcome.state]
    parameters = model.model.parameters()
    trained = [p for p in parameters if p.requires_grad] if kept.probe is None else [kept.probe.weight, kept.probe.bias]
    result = {
        "command": "classify",
        "model": model.name,
        "objective": "classification",
        "device": job.machine.device.type,
        "kernels": job.machine.kernels,
        "task": job.data.name,
        "labels": list(job.data.labels.names),
        "method": settings.method,
        **costs(job.machine, model, states, trained, wall_seconds),
        "test": _scores(kept.test, settings),
        "validation": _scores(kept.validation, settings),
        "calibration": dataclasses.asdict(choose_temperature(kept.validation)) if settings.calibrate else None,
        "seeds": {"kept": kept.trial.seed, **seed_metrics([one.test for one in largest(outcomes)], seed=settings.seed)},
        "baselines": {
            name: baseline_facts(baseline, kept.test, seed=settings.seed) for name, baseline in baselines.items()
        },
        "learning_curve": _learning_curve(outcomes, len(job.data.splits["train"]), settings),
        "leaks": dict(job.leaks.counts),
        "cut_fraction": cut_fraction(job.rows),
        "examples": {split: len(examples) for split, examples in job.data.splits.items()},
        "fields": job.data.facts["fields"],
        **job.data.left_out.to_result(),
    }
    return ClassifyReport.of(
        result,
        base_facts(model),
        job.data,
        kept.test,
        settings=settings.to_dict(),
        provenance=facts,
        metrics=job.tasks.folder(kept.trial, folder).read_metrics() if job.tasks else [],
        notes=[note for baseline in baselines.values() for note in baseline.notes],
        examples=settings.examples,
    )


def _scores(predictions: Predictions, settings: ClassifySettings) -> dict[str, Any]:
    return classification_metrics(predictions, seed=settings.seed) | {"calibration": calibration_facts(predictions)}


def _learning_curve(outcomes: Sequence[Outcome], examples: int, settings: ClassifySettings) -> list[dict[str, Any]]:
    """For each number of training examples the scores on the test, over seeds; empty where there is one number."""
    sizes = list(dict.fromkeys(outcome.trial.size for outcome in outcomes))
    if len(sizes) == 1:
        return []
    return [
        {
            "examples": size or examples,
            **seed_metrics([one.test for one in outcomes if one.trial.size == size], seed=settings.seed),
        }
        for size in sizes
    ]


def _write(
    job: ClassifyJob, folder: RunFolder, report: ClassifyReport, outcomes: Sequence[Outcome], kept: Outcome
) -> None:
    """The model, the predictions, the page and the card, and last of all result.json."""
    from domain_ft.verbs.classify import card, page  # they import matplotlib: not before the first step

    settings, model = job.settings, job.model
    with folder.writing():
        if kept.probe is not None:
            kept.probe.save(folder.path / HEAD_FOLDER, base=model.source, revision=model.revision)
        else:
            write_model(model, settings.method, folder, model.task_type)
        for outcome in largest(outcomes):
            for split, predictions in (("validation", outcome.validation), ("test", outcome.test)):
                predictions.save(folder.path / "predictions" / f"{split}-seed-{outcome.trial.seed}.npz")
        if job.tasks is not None:
            keep_metrics(job.tasks, kept.trial, folder)
        _task_facts(job, kept).save(folder.path)
    folder.write_card(card.render_classify(report))
    folder.write_report(page.render_classify(report))
    folder.write_result(report.result)
    if job.tasks is not None:
        drop_checkpoints(job.tasks, folder)


def _task_facts(job: ClassifyJob, kept: Outcome) -> TaskFacts:
    return TaskFacts(
        kind="sequence",
        labels=job.data.labels.names,
        multi_label=job.data.labels.multi_label,
        method=job.settings.method,
        base=job.model.source,
        max_length=job.settings.max_length,
        long_text=job.settings.long_text,
        temperature=kept.validation.temperature,
        threshold=kept.validation.threshold,
        fields=job.data.facts.get("fields", {}),
    )


def _dry_run(settings: ClassifySettings) -> dict[str, Any]:
    """Check and prepare everything that `classify` would, and say what it would do."""
    _check(settings)
    RunFolder(output_folder(settings)).check(resume=settings.resume)
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        job = set_up(settings, machine, display)
    loops = [job.tasks.loop(trial) for trial in job.tasks.trials] if job.tasks else []
    planned = {
        "command": "classify",
        "dry_run": True,
        "model": job.model.name,
        "objective": "classification",
        "device": machine.device.type,
        "kernels": machine.kernels,
        "task": job.data.name,
        "labels": list(job.data.labels.names),
        "examples": {split: len(examples) for split, examples in job.data.splits.items()},
        "trials": len(trials_of(settings, len(job.rows["train"].lengths))),
        "steps": sum(loop.total_steps for loop in loops),
        "leaks": dict(job.leaks.counts),
        "cut_fraction": cut_fraction(job.rows),
        "fields": job.data.facts["fields"],
        **job.data.left_out.to_result(),
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
    print_plan(planned, settings, machine)
    return planned
