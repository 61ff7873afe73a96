"""The run of `classify` and `tag`: the steps are the same, and each verb adds its own parts as a `TaskVerb`.

check -> set up -> trials -> keep the best on validation examples -> report -> run folder
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.prepared import PreparedCorpus
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.leaks import KIND_WORDS, Leaks
from domain_ft.embedded.loading import load_task_model
from domain_ft.errors import SettingsError
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.base import Objective
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.shared.lineage import training_corpora
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.read_first import ReadableTask, Reading, free_models, plan_reading, read_first
from domain_ft.verbs.shared.runs import (
    FinishedRun,
    HasResult,
    as_started,
    costs,
    origin,
    planning,
    resolve_config,
    resolved,
    started,
)
from domain_ft.verbs.shared.trials import (
    TaskRows,
    TaskSettings,
    Trial,
    TrialSetup,
    restore,
    set_up_trials,
    trials_of,
)
from domain_ft.verbs.tag.settings import TagSettings

if TYPE_CHECKING:
    from typing_extensions import Self


class Task(Protocol):
    """A task's labelled texts."""

    @property
    def name(self) -> str:
        """The task's name, such as `legal/license-category`."""

    @property
    def key(self) -> str:
        """A hash of the task's content."""

    @property
    def splits(self) -> Mapping[str, Sized]:
        """The examples by split: train, validation, test."""


class SplitRows(TaskRows, Protocol):
    """The rows of a split."""

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        """(examples,) whether a text was truncated (`classify`) or split into windows (`tag`)."""


class Predicted(Protocol):
    """A model's predictions for a split with the true labels (`classify`), or counts of its entities (`tag`)."""

    def save(self, path: Path) -> None:
        """Write an .npz file."""


@dataclass(frozen=True)
class TaskJob:
    """A task, read and encoded, and the model to be trained on it.

    Attributes:
        command: the verb's name.
        objective: the objective's name in result.json.
        settings: the settings, as `plan_trials` resolves them.
        machine: device, precision and processes.
        data: the task.
        rows: the rows by split.
        leaks: copies between splits, test examples in the text that the model was adapted to, and copies with
            different labels.
        model: the task's model.
        trials: what the trials share; None with --method head, which has no training loop.
        left_out: what was not read from the files.
        rejected: the records that were skipped.
        reading: the finished reading; None without --read-first.
    """

    command: ClassVar[str]
    objective: ClassVar[str]

    settings: TaskSettings
    machine: Machine
    data: Task
    rows: Mapping[str, SplitRows]
    leaks: Leaks
    model: TaskModel
    trials: TrialSetup | None
    left_out: LeftOut
    rejected: Sequence[Reject]
    reading: Reading | None = field(default=None, kw_only=True)

    @property
    def trained_from(self) -> str:
        """The model before `choose_model`: --model, or with --read-first the run that adapted it."""
        return str(self.reading.folder) if self.reading else self.settings.model

    @property
    def readable(self) -> ReadableTask:
        """The texts of the task, for --read-first."""
        raise NotImplementedError

    @property
    def task_facts(self) -> dict[str, Any]:
        """The verb's keys about the task, in result.json and in the plan of --dry-run."""
        raise NotImplementedError

    def after(self, reading: Reading, model: str) -> Self:
        """The job with the results of a reading. Its model is called `model` again, as the user named it."""
        self.model.name = model
        return dataclasses.replace(
            self,
            settings=dataclasses.replace(self.settings, model=model),
            left_out=self.left_out.and_also(reading.gathered.unread),
            rejected=[*self.rejected, *reading.gathered.rejects],
            reading=reading,
        )

    def to_result(self) -> dict[str, Any]:
        """The keys about model and data that result.json and the plan share."""
        return {
            "model": self.model.name,
            "objective": self.objective,
            "device": self.machine.device.type,
            "kernels": self.machine.kernels,
            "task": self.data.name,
            **self.task_facts,
            "examples": {split: len(examples) for split, examples in self.data.splits.items()},
            "leaks": dict(self.leaks.counts),
            "cut_fraction": cut_fraction(self.rows),
            **({"read_first": self.reading.to_result()} if self.reading else {}),
            **self.left_out.to_result(),
        }


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
        trial: the trial.
        validation: predictions on the validation examples.
        test: predictions on the test examples.
        score: macro F1 on the validation examples; if equal, their log-likelihood decides. Of the trials with the
            largest training size, the one with the highest score is kept.
        state: the final training state; None with --method head.
    """

    trial: Trial
    validation: Predicted
    test: Predicted
    score: tuple[float, ...]
    state: TrainingState | None = field(default=None, kw_only=True)


S = TypeVar("S", ClassifySettings, TagSettings)
J = TypeVar("J", bound=TaskJob)
OutcomeT = TypeVar("OutcomeT", bound=Outcome)
R = TypeVar("R", bound=HasResult)


@dataclass(frozen=True)
class TaskVerb(Generic[S, J, OutcomeT, R]):
    """A verb's own parts of the run.

    Attributes:
        check: refuses options that do not go together.
        output_folder: chooses the run folder.
        set_up: reads the task, loads the model, and resolves the settings.
        choose_model: replaces the model if another one suits the task better. It may use any training
            examples, whatever --train-sizes says.
        run_trials: trains and tests every trial.
        report: builds the report from (job, run folder, outcomes, kept outcome, provenance, start time, display).
        save: writes the kept model, and task.json for `predict`.
        render: returns the model card and the page.
    """

    check: Callable[[S], None]
    output_folder: Callable[[S], Path]
    set_up: Callable[[S, Machine, ProgressDisplay], J]
    choose_model: Callable[[J, ProgressDisplay], J]
    run_trials: Callable[[J, RunFolder, ProgressDisplay], list[OutcomeT]]
    report: Callable[[J, RunFolder, Sequence[OutcomeT], OutcomeT, Mapping[str, Any], float, ProgressDisplay], R]
    save: Callable[[J, RunFolder, OutcomeT], None]
    render: Callable[[R], tuple[str, str]]


def run_task(verb: TaskVerb[S, J, OutcomeT, R], settings: S) -> FinishedRun[R, TaskModel]:
    """Fine-tune and measure; everything is in the run folder when this returns.

    Raises:
        UserError: an error that the user can fix.
        Interrupted: ctrl-C or SIGTERM during training. A checkpoint is written; `resume=True` continues from it.
    """
    began = time.perf_counter()
    verb.check(settings)
    with started(settings, verb.output_folder(settings)) as (folder, machine, display):
        job = _set_up(verb, as_started(settings, folder), folder, machine, display)
        provenance = origin(machine, job.model, task={"name": job.data.name, "content": job.data.key})
        if job.reading:
            provenance["model"]["source"] = job.reading.folder.name  # in the run, which may be moved
        resolve_config(job.settings, provenance, folder, machine, sources=("model", "task"))
        if machine.is_main:
            _write_findings(folder, job.leaks, job.rejected)
        job = verb.choose_model(job, display)
        outcomes = verb.run_trials(job, folder, display)
        kept = max(largest(outcomes), key=lambda outcome: outcome.score)
        if job.trials is not None:
            restore(job.trials, kept.trial, folder)
        report = verb.report(job, folder, outcomes, kept, provenance, began, display)
        if machine.is_main:
            _write(verb, job, folder, report, outcomes, kept)
    return FinishedRun(folder.path, report, job.model)


def plan_task(verb: TaskVerb[S, J, OutcomeT, R], settings: S) -> dict[str, Any]:
    """Check and prepare everything that a run needs, and return what it would do."""
    verb.check(settings)
    with planning(settings, verb.output_folder(settings)) as (machine, display):
        job = verb.set_up(settings, machine, display)
        reading = plan_reading(job.readable, settings, machine, display) if settings.reads_first else None
    setup = job.trials
    return {
        "command": job.command,
        "dry_run": True,
        **job.to_result(),
        **({"read_first": reading} if reading else {}),
        "trials": len(trials_of(settings, len(job.rows["train"].lengths))),
        "steps": sum(setup.loop(trial).total_steps for trial in setup.trials) if setup else 0,
        "settings": job.settings.to_dict(),
        "output": str(verb.output_folder(settings)),
    }


def _set_up(
    verb: TaskVerb[S, J, OutcomeT, R], settings: S, folder: RunFolder, machine: Machine, display: ProgressDisplay
) -> J:
    """Set the run up, after a reading if there is --read-first.

    Reading takes long, so the run is also set up before it, to find faults of the task early.
    """
    if not settings.reads_first:
        return verb.set_up(settings, machine, display)
    task = verb.set_up(settings, machine, display).readable
    free_models()
    reading = read_first(task, settings, folder, machine, display)
    with display.without_repeats():
        job = verb.set_up(dataclasses.replace(settings, model=str(reading.folder)), machine, display)
    return job.after(reading, settings.model)


def _write(
    verb: TaskVerb[S, J, OutcomeT, R],
    job: J,
    folder: RunFolder,
    report: R,
    outcomes: Sequence[OutcomeT],
    kept: OutcomeT,
) -> None:
    """Write the model, the predictions, the card and the page, and result.json last."""
    with folder.writing():
        verb.save(job, folder, kept)
        for outcome in largest(outcomes):
            for split, predicted in (("validation", outcome.validation), ("test", outcome.test)):
                predicted.save(folder.path / "predictions" / f"{split}-seed-{outcome.trial.seed}.npz")
        if job.trials and len(job.trials.trials) > 1:
            shutil.copyfile(job.trials.folder(kept.trial, folder).metrics, folder.metrics)
    card, page = verb.render(report)
    folder.write_card(card)
    folder.write_report(page)
    folder.write_result(report.result)
    if job.trials and len(job.trials.trials) > 1:  # the run is complete: no trial will be resumed
        for trial in job.trials.trials:
            shutil.rmtree(job.trials.folder(trial, folder).checkpoints, ignore_errors=True)


def _write_findings(folder: RunFolder, leaks: Leaks, rejected: Sequence[Reject]) -> None:
    """Write leaks.jsonl and rejects.jsonl, unless they would be empty."""
    if any(leaks.counts.values()):
        with folder.writing():
            leaks.write(folder.path / "leaks.jsonl")
    if rejected:
        folder.write_lines(folder.rejects, map(dataclasses.asdict, rejected))


# Helpers for the verbs' own parts.


def check_options(settings: TaskSettings) -> None:
    """Refuse options that do not go together, or that tasks do not support.

    Raises:
        SettingsError: --sharding full; --adapter continue without adapters to train; --read-first-tokens without
            --read-first.
    """
    if settings.read_first_tokens and not settings.reads_first:
        raise SettingsError(
            f"--read-first-tokens {settings.read_first_tokens} has no effect: nothing is read first",
            fix="add --read-first, or leave --read-first-tokens out",
        )
    if settings.adapter == "continue" and settings.method not in ("lora", "dora"):
        raise SettingsError(
            f"--adapter continue needs --method lora or dora, not {settings.method}",
            fix="leave --adapter out: the run's adapter is then merged into the base model",
        )
    if settings.sharding != "none":
        raise SettingsError(
            "--sharding full: task models cannot be sharded yet",
            fix="leave the option out; each process then keeps the whole model",
        )


def adapted_to(model: str, display: ProgressDisplay) -> list[PreparedCorpus]:
    """The corpora that `model` was adapted to; prints a note for each that cannot be read now."""
    corpora, unknown = training_corpora(model, display)
    for name in unknown:
        display.say(
            f"note: the model was adapted to '{name}', which cannot be read now, so the test examples are not checked "
            "for copies in it"
        )
    return corpora


def load_model(
    settings: TaskSettings,
    machine: Machine,
    labels: Labels,
    kind: Literal["sequence", "token"],
    display: ProgressDisplay,
) -> TaskModel:
    """Load the model with a head for `labels`."""
    return load_task_model(
        settings.model,
        labels,
        kind=kind,
        adapter=settings.adapter,
        device=machine.device,
        dtype=machine.weights_dtype(settings.method, settings.train_modules),
        progress=display.job,
    )


def plan_trials(
    settings: S,
    machine: Machine,
    model: TaskModel,
    objective: Objective | None,
    train_rows: TaskRows,
    max_length: int,
    display: ProgressDisplay,
) -> tuple[S, TrialSetup | None]:
    """Resolve the defaults that `resolved` lists, and set the trials up, which resolves the batch size.

    Args:
        objective: None with --method head, which has no training loop.
        max_length: the maximum number of tokens that the model reads at once.
    """
    if objective is None:
        return dataclasses.replace(settings, **resolved(settings, machine, max_length, None)), None
    setup = set_up_trials(settings, machine, model, objective, train_rows, display)
    loop = setup.loop(setup.trials[-1])
    values = resolved(settings, machine, max_length, loop) | {"batch_size": loop.rows_per_step}
    settings = dataclasses.replace(settings, **values)
    return settings, dataclasses.replace(setup, settings=settings)


def warn_of_leaks(leaks: Leaks, settings: TaskSettings, display: ProgressDisplay) -> None:
    """Print a line for each kind of leak that was found, what --remove-leaks does or did, and the notes."""
    where = "" if settings.dry_run else " (listed in leaks.jsonl)"
    for kind, count in leaks.counts.items():
        if count:
            display.warn(f"{KIND_WORDS[kind]}: {count:,}{where}")
    if any(len(indices) for indices in leaks.removals.values()):
        copies = (
            "training examples that are copies of validation or test examples, and validation examples that are copies "
            "of test examples"
        )
        display.say(
            f"note: {copies}, were left out" if settings.remove_leaks else f"note: --remove-leaks leaves out {copies}"
        )
    for note in leaks.notes:
        display.say(f"note: {note}")


def cut_fraction(rows: Mapping[str, SplitRows]) -> float:
    """The share of all texts that were truncated (`classify`) or split into windows (`tag`)."""
    return float(np.concatenate([split.cut for split in rows.values()]).mean())


def largest(outcomes: Sequence[OutcomeT]) -> list[OutcomeT]:
    """The outcomes of the largest training size, one for each seed. The last outcome has that size."""
    return [outcome for outcome in outcomes if outcome.trial.size == outcomes[-1].trial.size]


def learning_curve(
    outcomes: Sequence[OutcomeT], examples: int, seed_scores: Callable[[list[OutcomeT]], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The scores over seeds for each training size; empty if there is only one.

    Args:
        examples: the total number of training examples; for `tag`, of windows.
        seed_scores: the scores of outcomes that differ only in their seeds.
    """
    sizes = list(dict.fromkeys(outcome.trial.size for outcome in outcomes))
    if len(sizes) == 1:
        return []
    return [
        {"examples": size or examples, **seed_scores([one for one in outcomes if one.trial.size == size])}
        for size in sizes
    ]


def common_result(job: TaskJob, outcomes: Sequence[Outcome], trained: Iterable[Tensor], began: float) -> dict[str, Any]:
    """Keys of result.json for both verbs: verb, model, data, method, and costs.

    Args:
        trained: the parameters that were trained.
        began: `time.perf_counter()` at the start of the run.
    """
    states = [outcome.state for outcome in outcomes if outcome.state]
    return {
        "command": job.command,
        **job.to_result(),
        "method": job.settings.method,
        **costs(job.machine, job.model, states, trained, time.perf_counter() - began),
    }


def kept_metrics(job: TaskJob, kept: Outcome, folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of the kept trial; none with --method head."""
    return job.trials.folder(kept.trial, folder).read_metrics() if job.trials else []
