"""Trials: train a task's model once for each seed and training size, and keep the best.

Each trial starts from the same base weights with a new head. Early stopping and the choice of the best trial use the
validation examples only. A trial leaves its best weights on disk, so a run of several trials resumes at the interrupted
one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.corpus.rows import Rows
from domain_ft.corpus.tasks.sampling import BalancedSteps, balanced, subset
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
"""The default of --batch-size: examples in a step."""

CONTRASTIVE_BATCH_SIZE = 32
"""The same default for --method contrastive, which compares each example with the others in its step."""

EPOCHS = 5.0

FEWEST_STEPS = 200
"""By default a trial trains for `EPOCHS`, but at least this many steps: small data sets need many more epochs (Mosbach
et al. 2021, "On the Stability of Fine-tuning BERT")."""

FEWEST_CONTRASTIVE_STEPS = 100
"""The same minimum for --method contrastive, whose steps have twice as many examples."""

LEARNING_RATES = {"lora": 1e-3, "dora": 1e-3, "full": 1e-4, "contrastive": 1e-3}
"""By --method. With adapters, the rate is lower than in `adapt`: at 2e-3, short runs sometimes collapse to the majority
class."""

POINTS_PER_RUN = 10
"""By default a trial is evaluated once an epoch, but at most this many times."""


class TaskRows(Rows, Protocol):
    """The rows of a task's split."""

    @property
    def targets(self) -> npt.NDArray[Any]:
        """(rows, ...) the labels of each row."""

    def take(self, indices: npt.ArrayLike) -> TaskRows:
        """The rows with these indices, in that order; indices may repeat."""


@dataclass(frozen=True)
class Trial:
    """One training run, with its training size and seed.

    Attributes:
        size: number of training examples; None for all.
        seed: seeds the head and adapters, the order, dropout, and the choice of examples.
    """

    size: int | None
    seed: int

    @property
    def name(self) -> str:
        """The name of the trial's folder."""
        return f"{self.size or 'all'}-seed-{self.seed}"

    def describe(self) -> str:
        """The trial in words, for messages."""
        return f"{'all' if self.size is None else f'{self.size:,}'} examples, seed {self.seed}"

    def indices(self, targets: npt.NDArray[Any], balance: str) -> npt.NDArray[np.int64]:
        """(rows,) the indices of the examples to train on, given the `targets` (examples, ...) of all."""
        chosen = np.arange(len(targets)) if self.size is None else subset(targets, self.size, self.seed)
        return chosen[balanced(targets[chosen], self.seed)] if balance == "sampling" else chosen


def trials_of(settings: TaskSettings, examples: int) -> list[Trial]:
    """One trial for each training size, in rising order, and each seed.

    Args:
        examples: the number of training examples.

    Raises:
        SettingsError: a part of --train-sizes is neither a whole number of at least 2 nor `all`.
    """
    train_sizes = settings.train_sizes or "all"
    sizes = set()
    for word in train_sizes.replace(" ", "").split(","):
        if word != "all" and (not word.isdigit() or int(word) < 2):
            raise SettingsError(
                f"--train-sizes {train_sizes}: {word!r} is neither a number of examples (2 or more) nor 'all'",
                fix="for example --train-sizes 50,200,1000,all",
            )
        sizes.add(examples if word == "all" else min(int(word), examples))
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return [Trial(None if size == examples else size, seed) for size in sorted(sizes) for seed in seeds]


@dataclass(frozen=True)
class TrialSetup:
    """What the trials of a run share.

    Attributes:
        settings: the settings, with every default resolved.
        machine: device, precision and processes.
        model: the task's model, without LoRA unless an existing adapter is trained further.
        objective: the training loss.
        train_rows: the training examples.
        micro_batches: the size of a micro-batch, and why.
        start: the initial values of the weights that training changes.
    """

    settings: TaskSettings
    machine: Machine
    model: TaskModel
    objective: Objective
    train_rows: TaskRows
    micro_batches: MicroBatchPlan
    start: Mapping[str, Tensor] = field(repr=False)

    @property
    def contrastive(self) -> bool:
        """Whether training compares the vectors of examples, and does not use the model's head."""
        return self.settings.method == "contrastive"

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order in which they run."""
        return trials_of(self.settings, len(self.train_rows.lengths))

    def folder(self, trial: Trial, run: RunFolder) -> RunFolder:
        """The folder of a trial's metrics and checkpoints: that of the run if there is only one trial."""
        return run if len(self.trials) == 1 else RunFolder(run.path / "trials" / trial.name)

    def rows(self, trial: Trial) -> TaskRows:
        """The rows that a trial trains on. Contrastive training repeats no rows: its steps are balanced instead."""
        rows = self.train_rows
        return rows.take(trial.indices(rows.targets, "none" if self.contrastive else self.settings.balance))

    def steps(self, trial: Trial) -> BalancedSteps | None:
        """The source of the rows of each step; None for all rows in random order."""
        if not self.contrastive:
            return None
        return BalancedSteps(self.rows(trial).targets, batch_size(self.settings) or 0, trial.seed)

    def loop(self, trial: Trial) -> LoopSettings:
        """A trial's loop settings, with its number of steps and the interval between evaluations."""
        settings, lengths = self.settings, self.rows(trial).lengths
        others: dict[str, Any] = {
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
            steps = max(math.ceil(EPOCHS * per_epoch), FEWEST_CONTRASTIVE_STEPS if self.contrastive else FEWEST_STEPS)
        every = settings.evaluate_every or max(1, min(per_epoch, steps), -(-steps // POINTS_PER_RUN))
        return dataclasses.replace(draft, total_steps=max(1, steps), evaluate_every=every)


def set_up_trials(
    settings: TaskSettings,
    machine: Machine,
    model: TaskModel,
    objective: Objective,
    train_rows: TaskRows,
    display: ProgressDisplay,
) -> TrialSetup:
    """Choose the micro-batch size and copy the weights that every trial starts from.

    Raises:
        SettingsError: the processes were launched for FSDP.
    """
    if machine.sharded:  # --sharding full was refused earlier; `accelerate launch --use_fsdp` asks for the same
        raise SettingsError(
            "the processes were launched for FSDP, but task models cannot be sharded yet",
            fix="launch them without --use_fsdp; each then keeps the whole model",
        )
    lengths = train_rows.lengths
    examples = batch_size(settings)
    step_tokens = math.ceil(examples * float(lengths.mean())) if examples else settings.tokens_per_step
    assert step_tokens is not None  # batch_size has a default if tokens_per_step is None
    parts = _parts(settings, model)

    def micro_batches() -> MicroBatchPlan:
        return choose_micro_batches(model, objective, train_rows, settings, machine, display, step_tokens=step_tokens)

    if has_lora(model.model):  # --adapter continue
        plan, changed = micro_batches(), None
    else:
        with trainable_for_now(model.model, settings, machine.kernels, **parts):
            plan = micro_batches()
            everything = settings.method == "full"
            changed = ("",) if everything else tuple(f"{path}." for path in lora_of(model.model).trained_modules)
    start = {
        name: p.detach().clone()
        for name, p in model.model.named_parameters()
        if (p.requires_grad if changed is None else name.startswith(changed))
    }
    return TrialSetup(settings, machine, model, objective, train_rows, plan, start)


def batch_size(settings: TaskSettings) -> int | None:
    """Examples in a step; None if steps are measured in tokens."""
    default = CONTRASTIVE_BATCH_SIZE if settings.method == "contrastive" else BATCH_SIZE
    return settings.batch_size or (None if settings.tokens_per_step else default)


def reset_model(setup: TrialSetup, seed: int) -> None:
    """Restore the initial weights, make a new head from `seed`, and make the model trainable for a new trial.

    That adds a new adapter, except with --method full, or if an existing adapter is trained further.
    """
    model = setup.model.model
    continued = any(".lora_A" in name for name in setup.start)
    if has_lora(model) and not continued:
        lora_of(model).discard()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in setup.start.items():
            parameters[name].copy_(value)
    reset_head(setup.model, seed, class_shares(setup))
    if not continued:
        make_trainable(model, setup.settings, setup.machine.kernels, seed=seed, **_parts(setup.settings, setup.model))


def _parts(settings: TaskSettings, model: TaskModel) -> dict[str, Sequence[str]]:
    """The modules that train in full (`heads`), and those that get no adapters (`without`), for `make_trainable`."""
    if settings.method == "contrastive":
        return {"heads": (), "without": model.beside_features}
    return {"heads": model.new_modules, "without": ()}


def class_shares(setup: TrialSetup) -> npt.NDArray[np.float64] | None:
    """(classes,) the smoothed share of training examples in each class, within (0, 1); None unless multi-label."""
    if setup.model.kind != "sequence" or not setup.model.labels.multi_label:
        return None
    targets = setup.train_rows.targets
    shares: npt.NDArray[np.float64] = (targets.sum(0, dtype=np.float64) + 0.5) / (len(targets) + 1)
    return shares


def train_trials(
    setup: TrialSetup, folder: RunFolder, display: ProgressDisplay, evaluate: Callable[[Trial], Mapping[str, Any]]
) -> Iterator[tuple[Trial, TrainingState]]:
    """Train every trial. When a trial is yielded, the model holds its best weights on the validation examples.

    Args:
        folder: the run folder.
        evaluate: evaluates a trial's model on the validation examples; the best weights are chosen by the `score` in
            its result.
    """
    trials = setup.trials
    for number, trial in enumerate(trials, 1):
        if len(trials) > 1:
            display.say(f"trial {number} of {len(trials)}: {trial.describe()}")
        reset_model(setup, trial.seed)
        trial_folder = setup.folder(trial, folder)
        if setup.machine.is_main:
            trial_folder.path.mkdir(parents=True, exist_ok=True)
        with tracked(setup.settings, setup.machine):
            state = train_into(
                trial_folder,
                setup.model,
                setup.objective,
                setup.rows(trial),
                setup.loop(trial),
                setup.machine,
                display,
                resume=setup.settings.resume,
                evaluate=functools.partial(evaluate, trial),
                score=lambda point: point["score"],
                steps=setup.steps(trial),
            )
        yield trial, state


def restore(setup: TrialSetup, trial: Trial, folder: RunFolder) -> None:
    """Load the best weights of a finished trial of the run in `folder`."""
    reset_model(setup, trial.seed)
    trained = {name: p for name, p in setup.model.model.named_parameters() if p.requires_grad}
    load_best(setup.folder(trial, folder).checkpoints, trained)
    setup.model.model.eval()
