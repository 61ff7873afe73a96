"""`domain-ft tag`: fine-tune a model to find entities in texts and measure it.

files -> texts with spans -> labelled rows of tokens -> trials -> the best on validation texts -> run folder

    run = domain_ft.tag(TagSettings(train="train.txt", test="test.txt", model="runs/medical"))
    run.result["test"]["f1"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tagging.entities import Span, TaggingData
from domain_ft.corpus.tagging.opening import TaggingSource, as_task, open_tagging, without
from domain_ft.corpus.tagging.rows import TaggingRows, encode_tags
from domain_ft.corpus.tasks.leaks import Leaks, find_leaks
from domain_ft.errors import CorpusError
from domain_ft.evaluation.entities import ENTITY_METRICS, EntityCounts, Gazetteer, entity_difference, entity_metrics
from domain_ft.evaluation.tagging import predict_tags
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.classification import class_weights
from domain_ft.objectives.tagging import TaggingObjective
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.shared import runs
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.read_first import ReadableTask
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
from domain_ft.verbs.shared.trials import Trial, TrialSetup, train_trials
from domain_ft.verbs.tag.report import TagReport
from domain_ft.verbs.tag.settings import TagSettings
from domain_ft.verbs.tag.terminal import print_tag
from domain_ft.wording import counted

TagRun: TypeAlias = runs.FinishedRun[TagReport, TaskModel]


@dataclass(frozen=True)
class TagJob(TaskJob):
    """A tagging task, read and tokenised, and the model to be trained on it."""

    command = "tag"
    objective = "tagging"

    settings: TagSettings
    data: TaggingData
    rows: Mapping[str, TaggingRows]
    trials: TrialSetup

    @property
    def readable(self) -> ReadableTask:
        """The texts, and the field that they are read from if the user named it."""
        return ReadableTask(as_task(self.data).splits, [self.settings.text_field] if self.settings.text_field else [])

    @property
    def task_facts(self) -> dict[str, Any]:
        """The types, the scheme, and how many entities were dropped as overlapping, or joined from several parts."""
        texts = [text for split in self.data.splits.values() for text in split]
        return {
            "labels": list(self.data.types),
            "scheme": self.data.scheme,
            "overlapping_entities": sum(text.overlapping for text in texts),
            "joined_entities": sum(text.joined for text in texts),
        }


@dataclass(frozen=True)
class TagOutcome(Outcome):
    """The result of a trial.

    Attributes:
        spans: the predicted spans of each test text.
    """

    validation: EntityCounts
    test: EntityCounts
    spans: Sequence[tuple[Span, ...]] = field(repr=False, kw_only=True)


def tag(settings: TagSettings) -> TagRun:
    """Fine-tune a model on a tagging task and measure it; everything is in the run folder when this returns.

    Raises:
        UserError: an error that the user can fix.
        Interrupted: ctrl-C or SIGTERM. A checkpoint is written; `resume=True` continues from it.
    """
    return run_task(_VERB, settings)


def run(settings: TagSettings) -> dict[str, Any]:
    """The verb: fine-tune and print the table, or with --dry-run print the plan."""
    return runs.run_or_plan(settings, tag, lambda asked: plan_task(_VERB, asked), print_tag)


def output_folder(settings: TagSettings) -> Path:
    """--output, or runs/TASK-MODEL."""
    return runs.output_folder(settings, name_of(settings.train))


def set_up(settings: TagSettings, machine: Machine, display: ProgressDisplay) -> TagJob:
    """Read the task, look for leaks, load the model, and resolve the settings that depend on them.

    Raises:
        CorpusError: the tokenizer finds no token in the texts of a split.
        SettingsError: the processes do not have the same settings, texts and model.
    """
    rejected: list[Reject] = []
    with machine.main_first():
        left_out = LeftOut()
        data = open_tagging(TaggingSource.of(settings), rejects=rejected.append, left=left_out)
        left_out.records = len(rejected)
        leaks = find_leaks(as_task(data), adapted_to(settings.model, display), display.job)
        if settings.remove_leaks:
            data = without(data, leaks.removals)
        model = load_model(settings, machine, Labels(data.tags), "token", display)
        settings = dataclasses.replace(settings, max_length=min(settings.max_length, model.max_length))
        rows = {
            split: encode_tags(texts, data.tags, model.tokenizer, max_length=settings.max_length, progress=display.job)
            for split, texts in data.splits.items()
        }
    for split, encoded in rows.items():
        if not len(encoded):
            raise CorpusError(
                f"the tokenizer found no token in any of the {split} texts", fix="check the language of the texts"
            )
    machine.agree(settings.to_dict() | {"task": data.key, "base model": model.revision}, model.model)
    log_notes(data, leaks, rows, model, settings, display, left_out)
    weights = class_weights(rows["train"].token_targets, model.labels) if settings.balance == "weights" else None
    objective = TaggingObjective(kernels=machine.kernels, tag_weights=weights)
    settings, trials = plan_trials(settings, machine, model, objective, rows["train"], settings.max_length, display)
    assert trials is not None
    return TagJob(settings, machine, data, rows, leaks, model, trials, left_out, rejected)


def log_notes(
    data: TaggingData,
    leaks: Leaks,
    rows: Mapping[str, TaggingRows],
    model: TaskModel,
    settings: TagSettings,
    display: ProgressDisplay,
    left_out: LeftOut,
) -> None:
    """Print what the user should know before training starts."""
    for note in (*data.notes, *model.notes):
        display.say(f"note: {note}")
    for sentence in sentences(left_out.to_result()):
        display.warn(sentence)
    cut = cut_fraction(rows)
    if cut:
        display.say(f"note: {cut:.1%} of the texts are longer than {settings.max_length} tokens and read in windows")
    inexact = sum(split.inexact for split in rows.values())
    if inexact:
        display.say(
            f"note: {counted(inexact, 'entity begins or ends', 'entities begin or end')} inside a token of this "
            "model, which cannot find them exactly"
        )
    warn_of_leaks(leaks, settings, display)


def _run_trials(job: TagJob, folder: RunFolder, display: ProgressDisplay) -> list[TagOutcome]:
    """Train every trial, and test each once, after its best checkpoint has been chosen on the validation texts."""

    def evaluate(trial: Trial) -> dict[str, Any]:  # noqa: ARG001 (the model is the trial's)
        counts, _, loss = _find_entities(job, "validation")
        scores = counts.point_scores()
        return {**scores, "loss": loss, "score": [scores["macro_f1"], -loss]}

    outcomes = []
    for trial, state in train_trials(job.trials, folder, display, evaluate):
        validation, _, loss = _find_entities(job, "validation")
        test, spans, _ = _find_entities(job, "test", display)
        score = (validation.point_scores()["macro_f1"], -loss)
        outcomes.append(TagOutcome(trial, validation, test, score, state=state, spans=spans))
    return outcomes


def _find_entities(
    job: TagJob, split: str, display: ProgressDisplay | None = None
) -> tuple[EntityCounts, list[tuple[Span, ...]], float]:
    """Predict the entities of a split. Returns their counts, the spans of each text, and the mean loss per word."""
    rows = job.rows[split]
    with job.machine.accelerator.autocast():
        classes, _, loss = predict_tags(
            job.model,
            rows,
            tokens_per_micro_batch=job.settings.tokens_per_micro_batch or 4096,
            accelerator=job.machine.accelerator,
            progress=display.job if display else None,
        )
    spans = rows.spans(classes)
    return EntityCounts.of(rows.texts, spans), spans, loss


def _report(
    job: TagJob,
    folder: RunFolder,
    outcomes: Sequence[TagOutcome],
    kept: TagOutcome,
    provenance: Mapping[str, Any],
    began: float,
    display: ProgressDisplay,
) -> TagReport:
    """All results, as plain values."""
    del display
    settings = job.settings
    trained = [p for p in job.model.model.parameters() if p.requires_grad]

    def seed_scores(outcomes: Sequence[TagOutcome]) -> dict[str, Any]:
        scores = entity_metrics([outcome.test for outcome in outcomes], seed=settings.seed)
        by_metric = {name: scores["seeds"][name] | {"interval": scores["interval"][name]} for name in ENTITY_METRICS}
        return {"n": len(outcomes), **by_metric}

    tests = [outcome.test for outcome in largest(outcomes)]
    result = common_result(job, outcomes, trained, began) | {
        "test": _scores(kept.test, settings),
        "validation": _scores(kept.validation, settings),
        "seeds": {"kept": kept.trial.seed, **seed_scores(largest(outcomes))},
        "baselines": _baselines(job, tests) if settings.baselines else {},
        "learning_curve": learning_curve(outcomes, len(job.rows["train"]), seed_scores),
        "inexact_entities": sum(split.inexact for split in job.rows.values()),
    }
    return TagReport.of(
        result,
        runs.base_facts(job.model),
        job.data,
        kept.spans,
        settings=settings.to_dict(),
        provenance=provenance,
        metrics=kept_metrics(job, kept, folder),
        examples=settings.examples,
    )


def _scores(counts: EntityCounts, settings: TagSettings) -> dict[str, Any]:
    """The scores of one model."""
    scores = entity_metrics([counts], seed=settings.seed)
    del scores["seeds"]  # one model has no spread over seeds
    return scores


def _baselines(job: TagJob, tests: Sequence[EntityCounts]) -> dict[str, Any]:
    """The scores of looking up the entities of the training texts, and the model's difference from them."""
    texts = job.data.splits["test"]
    gazetteer = Gazetteer(job.data.splits["train"])
    counts = EntityCounts.of(texts, [list(gazetteer.spans(text)) for text in texts])
    difference = entity_difference([counts], tests, seed=job.settings.seed)
    return {"gazetteer": _scores(counts, job.settings) | {"entries": len(gazetteer), "difference": difference}}


def _save(job: TagJob, folder: RunFolder, kept: TagOutcome) -> None:
    """Write the model, and task.json for `predict`."""
    del kept
    settings, model = job.settings, job.model
    runs.write_model(model, settings.method, folder, model.task_type)
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


def _render(report: TagReport) -> tuple[str, str]:
    from domain_ft.verbs.tag import page  # matplotlib is slow to import, so not before training

    return page.render_card(report), page.render_page(report)


_VERB = TaskVerb(check_options, output_folder, set_up, lambda job, _: job, _run_trials, _report, _save, _render)
