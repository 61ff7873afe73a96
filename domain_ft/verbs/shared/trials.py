"""What the verbs on downstream tasks share: training a task's model several times over, and keeping one of them.

A *trial* is one training: on all examples or a part of them, from one seed. Each begins with the same base and a head
of its own, is stopped and chosen by the validation examples alone, and leaves its best weights, so that a run of
several trials is resumed at the one that was interrupted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.corpus.rows import Rows
from domain_ft.corpus.tasks.sampling import balanced, subset
from domain_ft.errors import SettingsError
from domain_ft.models.lora import has_lora, lora_of
from domain_ft.models.task_model import TaskModel, reset_head
from domain_ft.objectives.base import Objective
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState, load_best
from domain_ft.training.loop import LoopSettings
from domain_ft.training.memory import MicroBatchPlan
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.training import (
    choose_micro_batches,
    loop_settings,
    make_trainable,
    tracked,
    train_into,
    trainable_for_now,
)
from domain_ft.verbs.tag.settings import TagSettings

TaskSettings: TypeAlias = ClassifySettings | TagSettings
"""The settings of a verb that trains on a task."""


BATCH_SIZE = 16


EPOCHS = 5.0


FEWEST_STEPS = 200
"""A task's budget where none is given: so many epochs, and so many steps at least. Small sets want many more epochs
than large ones (Mosbach et al. 2021, "On the Stability of Fine-tuning BERT")."""


LEARNING_RATES = {"lora": 1e-3, "dora": 1e-3, "full": 1e-4}
"""Lower than for `adapt` with adapters: at 2e-3 a run of few steps now and then falls back to the majority class."""


POINTS_PER_RUN = 10
"""Evaluations on the validation examples at most, where their distance is not given: one an epoch, if not more."""


class TaskRows(Rows, Protocol):
    """The rows of a task's split."""

    @property
    def targets(self) -> npt.NDArray[Any]:
        """(rows, ...) what is asked for."""

    def take(self, indices: npt.ArrayLike) -> TaskRows:
        """The rows with these indices, in that order; one may come twice."""


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        size: training examples; None for all.
        seed: of the head, the order, dropout, and of the draw of a part of the examples.
    """

    size: int | None
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.size or 'all'}-seed-{self.seed}"

    def describe(self) -> str:
        """What it is, for a person."""
        return f"{'all' if self.size is None else f'{self.size:,}'} examples, seed {self.seed}"

    def indices(self, targets: npt.NDArray[Any], balance: str) -> npt.NDArray[np.int64]:
        """(rows,) which training examples it learns from, of `targets` (examples, ...)."""
        chosen = np.arange(len(targets)) if self.size is None else subset(targets, self.size, self.seed)
        return chosen[balanced(targets[chosen], self.seed)] if balance == "sampling" else chosen


def trials_of(settings: TaskSettings, examples: int) -> list[Trial]:
    """One for each number of training examples, rising, and each seed; `examples` is how many there are.

    Raises:
        SettingsError: --train-sizes has something that is neither a number nor `all`.
    """
    asked = settings.train_sizes or "all"
    sizes = set()
    for word in asked.replace(" ", "").split(","):
        if word != "all" and (not word.isdigit() or int(word) < 2):
            raise SettingsError(
                f"--train-sizes {asked}: {word!r} is neither a number of examples nor all",
                fix="write such as --train-sizes 50,200,1000,all",
            )
        sizes.add(examples if word == "all" else min(int(word), examples))
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return [Trial(None if size == examples else size, seed) for size in sorted(sizes) for seed in seeds]


@dataclass(frozen=True)
class TaskJob:
    """Everything that the trials of a run share.

    Attributes:
        settings: as resolved.
        machine: where it is computed.
        model: the task's model; LoRA is not in it, unless an adapter is trained on.
        objective: what is asked of it.
        train_rows: the training examples.
        passes: how large a micro-batch is, and why.
        start: the weights that training changes, as they were loaded.
    """

    settings: TaskSettings
    machine: Machine
    model: TaskModel
    objective: Objective
    train_rows: TaskRows
    micro_batches: MicroBatchPlan
    start: Mapping[str, Tensor] = field(repr=False)

    @property
    def trials(self) -> list[Trial]:
        """In the order in which they are run."""
        return trials_of(self.settings, len(self.train_rows.lengths))

    def folder(self, trial: Trial, run: RunFolder) -> RunFolder:
        """Where the metrics and checkpoints of a trial are: the run's own folder, where it is the only one."""
        return run if len(self.trials) == 1 else RunFolder(run.path / "trials" / trial.name)

    def rows(self, trial: Trial) -> TaskRows:
        """What a trial learns from."""
        rows = self.train_rows
        return rows.take(trial.indices(rows.targets, self.settings.balance))

    def loop(self, trial: Trial) -> LoopSettings:
        """The loop's settings of a trial: its budget, and when it looks at the validation examples."""
        settings, lengths = self.settings, self.rows(trial).lengths
        others = {
            "learning_rate": settings.learning_rate or LEARNING_RATES[settings.method],
            "rows_per_step": batch_size(settings),
            "patience": settings.patience,
            "seed": trial.seed,
        }
        draft = loop_settings(settings, self.micro_batches, total_steps=1, evaluate_every=1, **others)
        per_epoch = draft.plan(lengths).steps_per_epoch
        if settings.max_steps is not None:
            steps = settings.max_steps
        elif settings.max_tokens is not None:
            steps = math.ceil(settings.max_tokens / int(lengths.sum(dtype=np.int64)) * per_epoch)
        elif settings.epochs is not None:
            steps = math.ceil(settings.epochs * per_epoch)
        else:
            steps = max(math.ceil(EPOCHS * per_epoch), FEWEST_STEPS)
        every = settings.evaluate_every or max(1, min(per_epoch, steps), -(-steps // POINTS_PER_RUN))
        return dataclasses.replace(draft, total_steps=max(1, steps), evaluate_every=every)


def set_up_trials(
    settings: TaskSettings,
    machine: Machine,
    model: TaskModel,
    objective: Objective,
    train_rows: TaskRows,
    display: ProgressDisplay,
) -> TaskJob:
    """Settle how large a micro-batch is, and remember the weights that every trial begins with.

    Raises:
        SettingsError: the processes were launched to share the weights out.
    """
    if machine.sharded:  # --sharding full is refused before; `accelerate launch --use_fsdp` means the same
        raise SettingsError(
            "the processes were launched for FSDP, and a task's model is not sharded yet",
            fix="launch them without --use_fsdp; each then keeps the whole model",
        )
    lengths = train_rows.lengths
    examples = batch_size(settings)
    step_tokens = math.ceil(examples * float(lengths.mean())) if examples else settings.tokens_per_step
    assert step_tokens is not None  # one of the two is there

    def micro_batches() -> MicroBatchPlan:
        return choose_micro_batches(model, objective, train_rows, settings, machine, display, step_tokens=step_tokens)

    if has_lora(model.model):  # an adapter that is trained on
        plan, changed = micro_batches(), None
    else:
        with trainable_for_now(model.model, settings, machine.kernels, model.new_modules):
            plan = micro_batches()
            whole = settings.method == "full"
            changed = ("",) if whole else tuple(f"{path}." for path in lora_of(model.model).trained_modules)
    start = {
        name: p.detach().clone()
        for name, p in model.model.named_parameters()
        if (p.requires_grad if changed is None else name.startswith(changed))
    }
    return TaskJob(settings, machine, model, objective, train_rows, plan, start)


def batch_size(settings: TaskSettings) -> int | None:
    """Examples in a step; None where steps are counted in tokens."""
    return settings.batch_size or (None if settings.tokens_per_step else BATCH_SIZE)


def begin(job: TaskJob, seed: int) -> None:
    """Put the model back to its base, with a head and adapters of `seed`, ready to be trained."""
    model = job.model.model
    continued = any(".lora_A" in name for name in job.start)
    if has_lora(model) and not continued:
        lora_of(model).discard()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in job.start.items():
            parameters[name].copy_(value)
    reset_head(job.model, seed, class_shares(job))
    if not continued:
        make_trainable(model, job.settings, job.machine.kernels, seed=seed, heads=job.model.new_modules)


def class_shares(job: TaskJob) -> npt.NDArray[np.float64] | None:
    """(L,) the share of the training examples that each class holds for, where several may, never 0 or 1; else None."""
    if job.model.kind != "sequence" or not job.model.labels.multi_label:
        return None
    targets = job.train_rows.targets
    shares: npt.NDArray[np.float64] = (targets.sum(0, dtype=np.float64) + 0.5) / (len(targets) + 1)
    return shares


def run_trial(
    job: TaskJob,
    trial: Trial,
    folder: RunFolder,
    display: ProgressDisplay,
    evaluate: Callable[[], Mapping[str, Any]],
) -> TrainingState:
    """Train the model from `trial`'s seed; it holds the best weights on the validation examples when this returns.

    Args:
        folder: of the trial.
        evaluate: a point on the validation examples, with the numbers that it is judged by under `score`.
    """
    begin(job, trial.seed)
    if job.machine.is_main:
        folder.path.mkdir(parents=True, exist_ok=True)
    with tracked(job.settings, job.machine):
        return train_into(
            folder,
            job.model,
            job.objective,
            job.rows(trial),
            job.loop(trial),
            job.machine,
            display,
            resume=job.settings.resume,
            evaluate=evaluate,
            score=lambda point: point["score"],
        )


def restore(job: TaskJob, trial: Trial, folder: RunFolder) -> None:
    """Put the best weights of a finished trial into the model."""
    begin(job, trial.seed)
    trained = {name: p for name, p in job.model.model.named_parameters() if p.requires_grad}
    load_best(folder.checkpoints, trained)
    job.model.model.eval()
