"""`domain-ft classify`: fine-tune a model to tell classes of texts apart, and measure how well it does.

task -> leaks -> rows of tokens -> trials (chosen on validation examples) -> test, once -> run folder

run = domain_ft.classify(ClassifySettings(task="legal/license-category", model="runs/legal"))
run.result["test"]["macro_f1"]
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.examples import TaskData
from domain_ft.corpus.tasks.leaks import KIND_WORDS, Leaks, find_leaks, remove_leaks
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.tasks.rows import ExampleRows, encode
from domain_ft.errors import SettingsError
from domain_ft.evaluation.baselines import Baseline, majority, tfidf_svm
from domain_ft.evaluation.calibration import calibrate, calibration_facts, fit_threshold, negative_log_likelihood
from domain_ft.evaluation.classification import classification_metrics, point_scores, seed_metrics
from domain_ft.evaluation.logits import compute_features, predict_logits
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models import embedded
from domain_ft.models.export import export_merged
from domain_ft.models.peft_format import save_adapter
from domain_ft.models.probe import HEAD_FOLDER, Probe, fit_probe
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel, load_task_model
from domain_ft.objectives.classification import ClassificationObjective, class_weights
from domain_ft.report.data import BaseFacts
from domain_ft.report.run_folder import RunFolder
from domain_ft.report.task_data import ClassifyReport
from domain_ft.settings import ClassifySettings
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import over_ranks, peak_memory_bytes
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.lineage import training_corpora
from domain_ft.verbs.machine import Machine, choose_machine, is_main_process, provenance
from domain_ft.verbs.tasks import TaskJob, Trial, restore, run_trial, set_up_trials, trials_of
from domain_ft.verbs.training import alpha_of, as_started, settle_config

if TYPE_CHECKING:
    from domain_ft.corpus.prepared import PreparedCorpus


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
class Job:
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


def largest(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of the largest number of training examples, one for each seed."""
    return [outcome for outcome in outcomes if outcome.trial.size == outcomes[-1].trial.size]


def judged(validation: Predictions) -> tuple[float, float]:
    """How good predictions of validation examples are: their macro F1, then how likely the truth is to them."""
    likelihood = -negative_log_likelihood(validation.logits, validation.targets, validation.labels.several)
    return point_scores(validation)["macro_f1"], likelihood


def classify(settings: ClassifySettings) -> ClassifyRun:
    """Fine-tune on a classification task and measure it; everything is in the run folder when this returns.

    Raises:
        UserError: something that the user can mend; nothing is lost.
        Interrupted: ctrl-C or SIGTERM; a checkpoint is written, and `resume=True` goes on from it.
    """
    began = time.perf_counter()
    _check(settings)
    folder = RunFolder(output_folder(settings))
    machine = choose_machine(settings, track=settings.track, project=folder.path)
    with machine.main_first():
        if machine.is_main:
            folder = RunFolder.create(folder.path, resume=settings.resume)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        rejected: list[Reject] = []
        job = set_up(as_started(settings, folder), machine, display, rejected)
        facts = _provenance(job)
        settle_config(job.settings, facts, folder, machine, sources=("model", "task"))
        _write_findings(job, folder, rejected)
        outcomes = _probe_trials(job, display) if job.tasks is None else _trials(job, job.tasks, folder, display)
        kept = max(largest(outcomes), key=lambda outcome: outcome.score)
        if job.tasks is not None:
            restore(job.tasks, kept.trial, job.tasks.folder(kept.trial, folder))
        baselines = _baselines(job, display) if settings.baselines else {}
        report = _report(job, folder, outcomes, kept, baselines, facts, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report, outcomes, kept)
        machine.accelerator.wait_for_everyone()
    return ClassifyRun(folder.path, report, job.model)


def run(settings: ClassifySettings) -> dict[str, Any]:
    """The verb: fine-tune, or say what would be done; print the table."""
    if settings.dry_run:
        return _dry_run(settings)
    from domain_ft.report.terminal import print_classify

    finished = classify(settings)
    console = Console(quiet=settings.json or not is_main_process())
    print_classify(finished.report, console)
    console.print(f"\nrun folder: {finished.folder}", highlight=False, soft_wrap=True)
    console.print(f"report:     {finished.folder / 'report.html'}", highlight=False, soft_wrap=True)
    return dict(finished.result)


def output_folder(settings: ClassifySettings) -> Path:
    """--output, or runs/TASK-MODEL by the last parts of their names."""
    if settings.output:
        return settings.output
    words = (settings.task or Path(settings.train or "task").stem, Path(settings.model).name)
    task, model = (re.sub(r"[^\w.-]+", "-", word) for word in words)
    return Path("runs") / f"{task}-{model}"


def _check(settings: ClassifySettings) -> None:
    if (settings.task is None) == (settings.train is None):
        given = (
            "neither --task nor --train was given" if settings.task is None else "--task and --train were both given"
        )
        raise SettingsError(
            given, fix="name a task of a corpus (--task legal/license-category), or a file of examples (--train F)"
        )
    if settings.sharding != "none":
        raise SettingsError(
            "--sharding full: a task's model is not sharded yet",
            fix="leave the option out; with several processes each keeps the whole model",
        )


# --- Before the first step --------------------------------------------------------------------------------------------


def set_up(
    settings: ClassifySettings, machine: Machine, display: ProgressDisplay, rejected: list[Reject] | None = None
) -> Job:
    """Read the task, look for leaks, load the model, and settle every setting that depends on them.

    Args:
        rejected: takes the records that were left out, with --on-bad-record skip.

    Raises:
        SettingsError: the processes do not have the same settings, examples and model.
    """
    with machine.main_first():
        data = open_task(TaskSource.of(settings), rejects=(rejected or []).append, progress=display.job)
        leaks = find_leaks(data, _adapted_to(settings.model, display), display.job)
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
    _say_what_is_odd(data, leaks, rows, model, settings, display)
    settled: dict[str, Any] = {
        "max_length": length,
        "alpha": alpha_of(settings),
        "device": machine.device.type,
        "dtype": machine.dtype,
        "kernels": machine.kernels,
    }
    tasks = None
    if settings.method != "head":
        weights = class_weights(rows["train"].targets, data.labels) if settings.balance == "weights" else None
        objective = ClassificationObjective(kernels=machine.kernels, labels=data.labels, class_weights=weights)
        tasks = set_up_trials(settings, machine, model, objective, rows["train"], display)
        loop = tasks.loop(tasks.trials[-1])
        settled |= {
            "learning_rate": loop.learning_rate,
            "batch_size": loop.rows_per_step,
            "tokens_per_pass": loop.tokens_per_pass,
            "activation_checkpointing": "on" if loop.activation_checkpointing else "off",
        }
    resolved = dataclasses.replace(settings, **settled)
    if tasks is not None:
        tasks = dataclasses.replace(tasks, settings=resolved)
    return Job(resolved, machine, data, rows, leaks, model, tasks)


def _adapted_to(model: str, display: ProgressDisplay) -> list[PreparedCorpus]:
    """The corpora that a run of `adapt`, or the runs that it stands on, were trained on, if they can be had."""
    corpora, unknown = training_corpora(model, display)
    for name in unknown:
        display.say(f"note: '{name}', which the model was adapted to, cannot be read now: no check against its text")
    return corpora


def _say_what_is_odd(
    data: TaskData,
    leaks: Leaks,
    rows: Mapping[str, ExampleRows],
    model: TaskModel,
    settings: ClassifySettings,
    display: ProgressDisplay,
) -> None:
    """What a person should know before the numbers come."""
    for note in (*data.notes, *model.notes):
        display.say(f"note: {note}")
    cut = cut_fraction(rows)
    if cut > 0:
        ways = {"truncate": "head-tail or windows", "head-tail": "windows", "windows": "a larger --max-length"}
        display.say(
            f"note: {cut:.0%} of the examples are longer than what is read of them "
            f"(--long-text {ways[settings.long_text]} reads more)"
        )
    for kind, count in leaks.counts.items():
        if count:
            display.warn(f"{KIND_WORDS[kind]}: {count:,} (listed in leaks.jsonl)")
    if any(len(indices) for indices in leaks.removals.values()) and not settings.remove_leaks:
        display.say("note: --remove-leaks leaves out what stands in two splits")
    for note in leaks.notes:
        display.say(f"note: {note}")
    if settings.method == "head" and settings.seeds > 1:
        display.say("note: a probe on all examples depends on no seed, so one seed is as good as several")


def cut_fraction(rows: Mapping[str, ExampleRows]) -> float:
    """The share of all examples of which some text is not read."""
    cut = [split.cut for split in rows.values()]
    return float(np.concatenate(cut).mean())


def _write_findings(job: Job, folder: RunFolder, rejected: Sequence[Reject]) -> None:
    """leaks.jsonl and rejects.jsonl, where there is anything to list."""
    if not job.machine.is_main:
        return
    with folder.writing():
        if any(job.leaks.counts.values()):
            job.leaks.write(folder.path / "leaks.jsonl")
        if rejected:
            lines = (json.dumps(dataclasses.asdict(reject), ensure_ascii=False) for reject in rejected)
            folder.rejects.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# --- Trials -----------------------------------------------------------------------------------------------------------


def _trials(job: Job, tasks: TaskJob, folder: RunFolder, display: ProgressDisplay) -> list[Outcome]:
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


def _predictions(job: Job, tasks: TaskJob, split: str, display: ProgressDisplay | None = None) -> Predictions:
    with job.machine.accelerator.autocast():
        logits = predict_logits(
            job.model,
            job.rows[split],
            tokens_per_pass=tasks.passes.tokens_per_pass,
            accelerator=job.machine.accelerator,
            progress=display.job if display else None,
        )
    return Predictions.of(job.data.splits[split], job.data.labels, logits)


def _probe_trials(job: Job, display: ProgressDisplay) -> list[Outcome]:
    """A linear probe for every trial, on features that are computed once."""
    with job.machine.accelerator.autocast():
        features = {
            split: compute_features(
                job.model,
                rows,
                tokens_per_pass=job.settings.tokens_per_pass or 4096,
                accelerator=job.machine.accelerator,
                progress=display.job,
            )
            for split, rows in job.rows.items()
        }
    outcomes = []
    for trial in trials_of(job.settings, len(job.rows["train"].lengths)):
        chosen = trial.indices(job.rows["train"].targets, balance=job.settings.balance)
        probe = fit_probe(
            features["train"][chosen],
            job.rows["train"].targets[chosen],
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


# --- What was found out -----------------------------------------------------------------------------------------------


def _baselines(job: Job, display: ProgressDisplay) -> dict[str, Baseline]:
    """A majority class and TF-IDF with a linear SVM, learned from the same examples."""
    splits, labels = job.data.splits, job.data.labels
    display.say("baselines: a majority class, and TF-IDF with a linear SVM")
    return {
        "majority": majority(splits["train"], splits["test"], labels),
        "tfidf_svm": tfidf_svm(
            splits["train"],
            splits["validation"],
            splits["test"],
            labels,
            balanced=job.settings.balance != "none",
            seed=job.settings.seed,
        ),
    }


def _report(
    job: Job,
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
    seconds, tokens = sum(state.seconds for state in states), sum(state.tokens for state in states)
    parameters = list(model.model.parameters())
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
        "tokens_seen": tokens,
        "steps": sum(state.step for state in states),
        "wall_seconds": wall_seconds,
        "training_seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "peak_memory_bytes": max(over_ranks(job.machine.accelerator, peak_memory_bytes()))[0],
        "processes": job.machine.processes,
        "trainable_parameters": sum(p.numel() for p in trained),
        "total_parameters": sum(p.numel() for p in parameters),
        "test": _scores(kept.test, settings),
        "validation": _scores(kept.validation, settings),
        "seeds": {"kept": kept.trial.seed, **seed_metrics([one.test for one in largest(outcomes)], seed=settings.seed)},
        "baselines": {
            name: _scores(baseline.predictions, settings, calibrated=False) if baseline.predictions else None
            for name, baseline in baselines.items()
        },
        "learning_curve": _learning_curve(outcomes, len(job.data.splits["train"]), settings),
        "leaks": dict(job.leaks.counts),
        "cut_fraction": cut_fraction(job.rows),
        "examples": {split: len(examples) for split, examples in job.data.splits.items()},
    }
    return ClassifyReport.of(
        result,
        _base_facts(model),
        job.data,
        kept.test,
        settings=settings.to_dict(),
        provenance=facts,
        metrics=job.tasks.folder(kept.trial, folder).read_metrics() if job.tasks else [],
        notes=[note for baseline in baselines.values() for note in baseline.notes],
        examples=settings.examples,
    )


def _scores(predictions: Predictions, settings: ClassifySettings, *, calibrated: bool = True) -> dict[str, Any]:
    scores = classification_metrics(predictions, seed=settings.seed)
    return scores | ({"calibration": calibration_facts(predictions)} if calibrated else {})


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


def _base_facts(model: TaskModel) -> BaseFacts:
    is_embedded = model.name in embedded.EMBEDDED
    return BaseFacts(
        name=model.name,
        source=model.source,
        revision=model.revision,
        embedded=is_embedded,
        licence=embedded.provenance(model.name)["licence"] if is_embedded else "",
    )


def _provenance(job: Job) -> dict[str, Any]:
    """Where the numbers come from: versions, machine, and what exactly was read and trained."""
    return provenance(job.machine) | {
        "model": {"source": job.model.source, "revision": job.model.revision},
        "task": {"name": job.data.name, "content": job.data.key},
    }


def _write(job: Job, folder: RunFolder, report: ClassifyReport, outcomes: Sequence[Outcome], kept: Outcome) -> None:
    """The model, the predictions, the page and the card, and last of all result.json."""
    from domain_ft.report import card, html  # they bring matplotlib, for which the first step need not wait

    settings, model = job.settings, job.model
    with folder.writing():
        if kept.probe is not None:
            kept.probe.save(folder.path / HEAD_FOLDER, base=model.source, revision=model.revision)
        elif settings.method == "full":
            export_merged(model, folder.path / "model")
        else:
            save_adapter(
                model.model, folder.adapter, base_name=model.source, revision=model.revision, task_type=model.task_type
            )
        for outcome in largest(outcomes):
            for split, predictions in (("validation", outcome.validation), ("test", outcome.test)):
                predictions.save(folder.path / "predictions" / f"{split}-seed-{outcome.trial.seed}.npz")
        if job.tasks is not None and (own := job.tasks.folder(kept.trial, folder)) != folder:
            shutil.copyfile(own.metrics, folder.metrics)
        _task_facts(job, kept).save(folder.path)
    folder.write_card(card.render_classify(report))
    folder.write_report(html.render_classify(report))
    folder.write_result(report.result)


def _task_facts(job: Job, kept: Outcome) -> TaskFacts:
    return TaskFacts(
        kind="sequence",
        labels=job.data.labels.names,
        several=job.data.labels.several,
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
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
    if not settings.json and machine.is_main:
        Console().print_json(data=planned)
    return planned
