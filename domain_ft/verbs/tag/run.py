"""`domain-ft tag`: fine-tune a model to find entities in texts, and measure how well it does.

files -> texts with spans -> labelled rows of tokens -> trials (chosen on validation texts) -> test, once -> run folder

    run = domain_ft.tag(TagSettings(train="train.txt", test="test.txt", model="runs/medical"))
    run.result["test"]["f1"]
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tagging.entities import Span, TaggingData
from domain_ft.corpus.tagging.opening import TaggingSource, as_task, open_tagging, without
from domain_ft.corpus.tagging.rows import TaggingRows, encode_tags
from domain_ft.corpus.tasks.leaks import Leaks, find_leaks
from domain_ft.embedded.loading import load_task_model
from domain_ft.errors import CorpusError
from domain_ft.evaluation.entities import METRICS, EntityCounts, Gazetteer, entity_difference, entity_metrics
from domain_ft.evaluation.tagging import predict_tags
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.classification import class_weights
from domain_ft.objectives.tagging import TaggingObjective
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.progress import ProgressDisplay
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
from domain_ft.verbs.shared.trials import TaskJob, Trial, restore, run_trial, set_up_trials
from domain_ft.verbs.tag.report import TagReport
from domain_ft.verbs.tag.settings import TagSettings
from domain_ft.wording import counted


@dataclass(frozen=True)
class TagRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        report: all that was found out; `result` is what result.json holds of it.
        model: the fine-tuned model, ready to use.
    """

    folder: Path
    report: TagReport
    model: TaskModel

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""
        return self.report.result


@dataclass(frozen=True)
class TagJob:
    """A tagging task, read and encoded, and the model that learns it.

    Attributes:
        settings: with nothing left to a default that depends on the machine, the model or the task.
        machine: where it is computed.
        data: the task.
        rows: by split.
        leaks: what stands in two splits, or in the text that the model was adapted to.
        model: the task's model.
        tasks: what the trials share.
        left: what was not read of the files.
    """

    settings: TagSettings
    machine: Machine
    data: TaggingData
    rows: Mapping[str, TaggingRows]
    leaks: Leaks
    model: TaskModel
    tasks: TaskJob
    left: LeftOut


@dataclass(frozen=True)
class Outcome:
    """What a trial has come to.

    Attributes:
        trial: which.
        state: of its training.
        validation: the entities that it found in the validation texts.
        test: the entities that it found in the test texts.
        score: what trials are chosen by: macro F1 on the validation texts, and their likelihood where it is equal.
        said: the spans that it gave each test text.
    """

    trial: Trial
    state: TrainingState
    validation: EntityCounts
    test: EntityCounts
    score: tuple[float, float]
    said: Sequence[tuple[Span, ...]] = field(repr=False)


def tag(settings: TagSettings) -> TagRun:
    """Fine-tune on a tagging task and measure it; everything is in the run folder when this returns.

    Raises:
        UserError: something that the user can mend; nothing is lost.
        Interrupted: ctrl-C or SIGTERM; a checkpoint is written, and `resume=True` goes on from it.
    """
    began = time.perf_counter()
    check_options(settings)
    with started(settings, output_folder(settings)) as (folder, machine, display):
        rejected: list[Reject] = []
        job = set_up(as_started(settings, folder), machine, display, rejected)
        facts = origin(machine, job.model, task={"name": job.data.name, "content": job.data.key})
        resolve_config(job.settings, facts, folder, machine, sources=("model", "task"))
        if machine.is_main:
            write_findings(folder, job.leaks, rejected)
        outcomes = _trials(job, folder, display)
        kept = max(largest(outcomes), key=lambda outcome: outcome.score)
        restore(job.tasks, kept.trial, job.tasks.folder(kept.trial, folder))
        report = _report(job, folder, outcomes, kept, facts, time.perf_counter() - began)
        if machine.is_main:
            _write(job, folder, report, outcomes, kept)
    return TagRun(folder.path, report, job.model)


def run(settings: TagSettings) -> dict[str, Any]:
    """The verb: fine-tune, or say what would be done; print the table."""
    if settings.dry_run:
        return _dry_run(settings)
    from domain_ft.verbs.tag.terminal import print_tag

    finished = tag(settings)
    console = console_of(settings)
    print_tag(finished.report, console)
    print_paths(finished.folder, console)
    return dict(finished.result)


def output_folder(settings: TagSettings) -> Path:
    """--output, or runs/TASK-MODEL by the last parts of their names."""
    if settings.output:
        return settings.output
    return default_folder(name_of(settings.train), name_of(settings.model))


def set_up(
    settings: TagSettings, machine: Machine, display: ProgressDisplay, rejected: list[Reject] | None = None
) -> TagJob:
    """Read the task, load the model, and settle every setting that depends on them.

    Args:
        rejected: takes the records that were left out, with --on-bad-record skip.

    Raises:
        SettingsError: the processes do not have the same settings, texts and model.
    """
    rejected = [] if rejected is None else rejected
    with machine.main_first():
        left = LeftOut()
        data = open_tagging(TaggingSource.of(settings), rejects=rejected.append, left=left)
        left.records = len(rejected)
        leaks = find_leaks(as_task(data), adapted_to(settings.model, display), display.job)
        if settings.remove_leaks:
            data = without(data, leaks.removals)
        model = load_task_model(
            settings.model,
            Labels(data.tags),
            kind="token",
            adapter=settings.adapter,
            device=machine.device,
            dtype=machine.weights_dtype(settings.method, settings.train_modules),
            progress=display.job,
        )
        length = min(settings.max_length, model.max_length)
        rows = {
            split: encode_tags(texts, data.tags, model.tokenizer, max_length=length, progress=display.job)
            for split, texts in data.splits.items()
        }
    for split, own in rows.items():
        if not len(own):
            raise CorpusError(f"the tokenizer found no token in any of the {split} texts", fix="check their language")
    machine.agree(settings.to_dict() | {"task": data.key, "base model": model.revision}, model.model)
    log_notes(data, leaks, rows, model, settings, display, left)
    weights = class_weights(rows["train"].token_targets, model.labels) if settings.balance == "weights" else None
    objective = TaggingObjective(kernels=machine.kernels, tag_weights=weights)
    tasks = set_up_trials(settings, machine, model, objective, rows["train"], display)
    resolved = dataclasses.replace(settings, **resolve_settings(settings, machine, length, tasks))
    return TagJob(resolved, machine, data, rows, leaks, model, dataclasses.replace(tasks, settings=resolved), left)


def log_notes(
    data: TaggingData,
    leaks: Leaks,
    rows: Mapping[str, TaggingRows],
    model: TaskModel,
    settings: TagSettings,
    display: ProgressDisplay,
    left: LeftOut,
) -> None:
    """What a person should know before the numbers come."""
    for note in (*data.notes, *model.notes):
        display.say(f"note: {note}")
    for sentence in sentences(left.to_result()):
        display.warn(sentence)
    cut = cut_fraction(rows)
    if cut:
        display.say(f"note: {cut:.1%} of the texts are longer than {settings.max_length} tokens, and read in windows")
    inexact = sum(own.inexact for own in rows.values())
    if inexact:
        display.say(
            f"note: {counted(inexact, 'entity begins or ends', 'entities begin or end')} within "
            "a token of this model, and cannot be found exactly"
        )
    warn_of_leaks(leaks, settings, display)


def _trials(job: TagJob, folder: RunFolder, display: ProgressDisplay) -> list[Outcome]:
    """Train and test every trial. The test texts are read once, after all choices of a trial are made."""
    outcomes = []
    tasks = job.tasks
    for number, trial in enumerate(tasks.trials, 1):
        if len(tasks.trials) > 1:
            display.say(f"trial {number} of {len(tasks.trials)}: {trial.describe()}")

        def point() -> dict[str, Any]:
            counts, _, loss = _found(job, "validation")
            scores = counts.point_scores()
            return {**scores, "loss": loss, "score": [scores["macro_f1"], -loss]}

        state = run_trial(tasks, trial, tasks.folder(trial, folder), display, point)
        validation, _, loss = _found(job, "validation")
        test, said, _ = _found(job, "test", display)
        score = (validation.point_scores()["macro_f1"], -loss)
        outcomes.append(Outcome(trial, state, validation, test, score, said))
    return outcomes


def _found(
    job: TagJob, split: str, display: ProgressDisplay | None = None
) -> tuple[EntityCounts, list[tuple[Span, ...]], float]:
    """The entities that the model finds in a split, counted and as spans, and the mean loss of a word."""
    rows = job.rows[split]
    with job.machine.accelerator.autocast():
        classes, _, loss = predict_tags(
            job.model,
            rows,
            tokens_per_micro_batch=job.settings.tokens_per_micro_batch or 4096,
            accelerator=job.machine.accelerator,
            progress=display.job if display else None,
        )
    said = rows.spans(classes)
    return EntityCounts.of(rows.texts, said), said, loss


def _report(
    job: TagJob,
    folder: RunFolder,
    outcomes: Sequence[Outcome],
    kept: Outcome,
    facts: Mapping[str, Any],
    wall_seconds: float,
) -> TagReport:
    """All that the run has found out, as plain values."""
    settings, model = job.settings, job.model
    trained = [p for p in model.model.parameters() if p.requires_grad]
    tests = [outcome.test for outcome in largest(outcomes)]
    result = {
        "command": "tag",
        "model": model.name,
        "objective": "tagging",
        "device": job.machine.device.type,
        "kernels": job.machine.kernels,
        "task": job.data.name,
        "labels": list(job.data.types),
        "scheme": job.data.scheme,
        "method": settings.method,
        **costs(job.machine, model, [one.state for one in outcomes], trained, wall_seconds),
        "test": _scores([kept.test], settings),
        "validation": _scores([kept.validation], settings),
        "seeds": {"kept": kept.trial.seed, **_seeds(tests, settings)},
        "baselines": _baselines(job, tests) if settings.baselines else {},
        "learning_curve": _learning_curve(outcomes, len(job.rows["train"]), settings),
        "leaks": dict(job.leaks.counts),
        "cut_fraction": cut_fraction(job.rows),
        "inexact_entities": sum(own.inexact for own in job.rows.values()),
        **_changed(job.data),
        **job.left.to_result(),
        "examples": {split: len(texts) for split, texts in job.data.splits.items()},
    }
    return TagReport.of(
        result,
        base_facts(model),
        job.data,
        kept.said,
        settings=settings.to_dict(),
        provenance=facts,
        metrics=job.tasks.folder(kept.trial, folder).read_metrics(),
        examples=settings.examples,
    )


def _changed(data: TaggingData) -> dict[str, int]:
    """How many entities are left out since they overlap a longer one, and how many of several parts are joined."""
    texts = [text for own in data.splits.values() for text in own]
    return {
        "overlapping_entities": sum(text.overlapping for text in texts),
        "joined_entities": sum(text.joined for text in texts),
    }


def _scores(seeds: Sequence[EntityCounts], settings: TagSettings) -> dict[str, Any]:
    """The scores of one model, without those that only several seeds have."""
    scores = entity_metrics(seeds, seed=settings.seed)
    del scores["seeds"]
    return scores


def _seeds(tests: Sequence[EntityCounts], settings: TagSettings) -> dict[str, Any]:
    """How many seeds there are, and each score over them."""
    found = entity_metrics(tests, seed=settings.seed)
    return {"n": len(tests)} | {name: found["seeds"][name] | {"interval": found["interval"][name]} for name in METRICS}


def _baselines(job: TagJob, tests: Sequence[EntityCounts]) -> dict[str, Any]:
    """The entities of the training texts looked up, and how much better the model is than that."""
    texts = job.data.splits["test"]
    gazetteer = Gazetteer(job.data.splits["train"])
    counts = EntityCounts.of(texts, [list(gazetteer.spans(text)) for text in texts])
    difference = entity_difference([counts], tests, seed=job.settings.seed)
    return {"gazetteer": _scores([counts], job.settings) | {"entries": len(gazetteer), "difference": difference}}


def _learning_curve(outcomes: Sequence[Outcome], rows: int, settings: TagSettings) -> list[dict[str, Any]]:
    """For each number of training rows the scores on the test, over seeds; empty where there is one number."""
    sizes = list(dict.fromkeys(outcome.trial.size for outcome in outcomes))
    if len(sizes) == 1:
        return []
    return [
        {
            "examples": size or rows,
            **_seeds([outcome.test for outcome in outcomes if outcome.trial.size == size], settings),
        }
        for size in sizes
    ]


def _write(job: TagJob, folder: RunFolder, report: TagReport, outcomes: Sequence[Outcome], kept: Outcome) -> None:
    """The model, the counts, the page and the card, and last of all result.json."""
    from domain_ft.verbs.tag import page  # it brings matplotlib, for which the first step need not wait

    settings, model = job.settings, job.model
    with folder.writing():
        write_model(model, settings.method, folder, model.task_type)
        for outcome in largest(outcomes):
            for split, counts in (("validation", outcome.validation), ("test", outcome.test)):
                counts.save(folder.path / "predictions" / f"{split}-seed-{outcome.trial.seed}.npz")
        keep_metrics(job.tasks, kept.trial, folder)
        TaskFacts(
            kind="token",
            labels=job.data.tags,
            multi_label=False,
            method=settings.method,
            base=model.source,
            max_length=settings.max_length,
            long_text="windows",
            fields={"text": settings.text_field or "text", "id": settings.id_field},
        ).save(folder.path)
    folder.write_card(page.render_card(report))
    folder.write_report(page.render_page(report))
    folder.write_result(report.result)
    drop_checkpoints(job.tasks, folder)


def _dry_run(settings: TagSettings) -> dict[str, Any]:
    """Check and prepare everything that `tag` would, and say what it would do."""
    check_options(settings)
    RunFolder(output_folder(settings)).check(resume=settings.resume)
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        job = set_up(settings, machine, display)
    planned = {
        "command": "tag",
        "dry_run": True,
        "model": job.model.name,
        "objective": "tagging",
        "device": machine.device.type,
        "kernels": machine.kernels,
        "task": job.data.name,
        "labels": list(job.data.types),
        "scheme": job.data.scheme,
        "examples": {split: len(texts) for split, texts in job.data.splits.items()},
        "trials": len(job.tasks.trials),
        "steps": sum(job.tasks.loop(trial).total_steps for trial in job.tasks.trials),
        "leaks": dict(job.leaks.counts),
        "cut_fraction": cut_fraction(job.rows),
        **_changed(job.data),
        **job.left.to_result(),
        "settings": job.settings.to_dict(),
        "output": str(output_folder(settings)),
    }
    print_plan(planned, settings, machine)
    return planned
