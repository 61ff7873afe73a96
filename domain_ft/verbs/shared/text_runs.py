"""The run of `adapt`, `instruct` and `prefer`: train a language model, and score it before, during and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from domain_ft.corpus.packing import StepPlan
from domain_ft.corpus.rows import CountedRows
from domain_ft.evaluation.scores import Scores
from domain_ft.models.base import BaseModel
from domain_ft.objectives.base import LanguageModelObjective, Objective
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings, count_steps
from domain_ft.training.memory import MicroBatchPlan
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.prefer.settings import PreferSettings
from domain_ft.verbs.shared.language_model import HeldOut, score_held_out
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.runs import costs, resolved
from domain_ft.verbs.shared.training import (
    choose_micro_batches,
    loop_settings,
    make_trainable,
    tracked,
    train_into,
    trainable_for_now,
)

CURVE_POINTS = 8  # evaluations during training, unless --evaluate-every is given
CURVE_SHARE = 4  # each of these evaluations is on 1/4 of --evaluation-tokens

Samples = TypeVar("Samples")

TextSettings: TypeAlias = AdaptSettings | InstructSettings | PreferSettings
"""The settings of a verb that trains a language model."""


@dataclass(frozen=True)
class TextJob:
    """Everything that a run needs before its first step.

    Attributes:
        settings: the settings, with every default resolved.
        machine: device, precision and processes.
        base: the model; LoRA is added by `add_trainable`.
        objective: the training loss.
        train_rows: the training text.
        held_out: by role, the text that is scored before and after; that of the first role is like the training text.
        loop: the training loop's settings.
        micro_batches: the size of a micro-batch, and why.
    """

    settings: TextSettings
    machine: Machine
    base: BaseModel
    objective: Objective
    train_rows: CountedRows
    held_out: Mapping[str, HeldOut]
    loop: LoopSettings
    micro_batches: MicroBatchPlan

    @property
    def plan(self) -> StepPlan:
        """Assigns rows to steps."""
        return StepPlan(self.train_rows.lengths, step_tokens(self.settings), self.settings.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return self.plan.steps_per_epoch

    @property
    def planned_tokens(self) -> int:
        """The approximate number of tokens that the run trains on."""
        return round(self.loop.total_steps * self.train_rows.tokens / self.steps_per_epoch)

    @property
    def trainable_parameters(self) -> int:
        """The number of trainable parameters, after `add_trainable`."""
        return sum(p.numel() for p in self.base.model.parameters() if p.requires_grad)

    @property
    def in_domain(self) -> HeldOut:
        """The held-out text that is like the training text."""
        return next(iter(self.held_out.values()))

    def objective_of(self, role: str) -> LanguageModelObjective:
        """The loss on the held-out text of a role."""
        raise NotImplementedError


@dataclass(frozen=True)
class Measured(Generic[Samples]):
    """The measurements of a run.

    Attributes:
        before: the base model's scores by role.
        after: the trained model's scores by role.
        samples_before: predictions or answers of the base model, for the report.
        samples_after: those of the trained model.
        state: the final training state.
    """

    before: Mapping[str, Scores]
    after: Mapping[str, Scores]
    samples_before: Samples
    samples_after: Samples
    state: TrainingState


def step_tokens(settings: TextSettings) -> int:
    """--tokens-per-step, which `adapt` resolves first."""
    assert settings.tokens_per_step is not None
    return settings.tokens_per_step


def plan_loop(
    settings: TextSettings,
    machine: Machine,
    base: BaseModel,
    objective: Objective,
    rows: CountedRows,
    display: ProgressDisplay,
    *,
    max_tokens: int | None,
    epochs: float | None,
    learning_rate: float,
) -> tuple[MicroBatchPlan, LoopSettings]:
    """Choose the micro-batch size, and compute the number of steps from `max_tokens`, --max-steps or `epochs`."""
    with trainable_for_now(base.model, settings, machine.kernels):
        micro_batches = choose_micro_batches(
            base, objective, rows, settings, machine, display, step_tokens=step_tokens(settings)
        )
    total_steps = count_steps(
        StepPlan(rows.lengths, step_tokens(settings), settings.seed),
        rows.tokens,
        max_tokens=max_tokens,
        max_steps=settings.max_steps,
        epochs=epochs,
    )
    loop = loop_settings(
        settings,
        micro_batches,
        total_steps=total_steps,
        evaluate_every=settings.evaluate_every or max(1, total_steps // CURVE_POINTS),
        learning_rate=learning_rate,
    )
    return micro_batches, loop


def resolve_settings(settings: TextSettings, machine: Machine, max_length: int, loop: LoopSettings) -> dict[str, Any]:
    """The settings that depend on machine, model or text; the length of training becomes a number of steps."""
    return resolved(settings, machine, max_length, loop) | {
        "max_tokens": None,
        "epochs": None,
        "max_steps": loop.total_steps,
        "evaluate_every": loop.evaluate_every,
    }


def measure_and_train(
    job: TextJob,
    folder: RunFolder,
    display: ProgressDisplay,
    sample: Callable[[str], Samples],
    cache_file: Callable[[HeldOut], Path | None] = lambda _: None,
) -> Measured[Samples]:
    """Score the base model, train it, and score it again.

    Args:
        sample: lets the model predict or answer for the report; called with `before` and with `after`.
        cache_file: where the base model's scores on a held-out text are cached for other runs; None for nowhere.
    """
    before, samples_before = measure(job, folder, "before", display, cache_file), sample("before")
    add_trainable(job)
    state = train_with_curve(job, folder, display)
    after, samples_after = measure(job, folder, "after", display), sample("after")
    return Measured(before, after, samples_before, samples_after, state)


def curve_tokens(settings: TextSettings) -> int:
    """The maximum number of held-out tokens in an evaluation during training."""
    assert settings.evaluation_tokens is not None
    return settings.evaluation_tokens // CURVE_SHARE


def add_trainable(job: TextJob) -> None:
    """Make the base model trainable: see `make_trainable`."""
    make_trainable(job.base.model, job.settings, job.machine.kernels, seed=job.settings.seed)


def measure(
    job: TextJob,
    folder: RunFolder,
    when: str,
    display: ProgressDisplay,
    cache_file: Callable[[HeldOut], Path | None] = lambda _: None,
) -> dict[str, Scores]:
    """The model's scores by role. A resumed run reads those of the base model from its folder.

    Args:
        when: `before` or `after`.
        cache_file: where the scores on a held-out text are cached for other runs; None for nowhere.
    """
    scores = {}
    for role, held_out in job.held_out.items():
        path, cached = folder.scores(when, role), cache_file(held_out)
        if when == "before" and job.settings.resume and path.is_file():
            scores[role] = Scores.load(path)
            continue
        if cached and cached.is_file():
            scores[role] = Scores.load(cached)
        else:
            scores[role] = score_held_out(
                job.base,
                job.objective_of(role),
                held_out,
                job.machine,
                tokens_per_micro_batch=job.loop.tokens_per_micro_batch,
                progress=display.job,
                label=f"{when}: {held_out.name}",
            )
        if job.machine.is_main:
            folder.write_scores(path, scores[role])
            if cached and not cached.is_file():
                scores[role].save(cached)
    return scores


def train_with_curve(job: TextJob, folder: RunFolder, display: ProgressDisplay) -> TrainingState:
    """Train the model, and score it on part of `in_domain` every --evaluate-every steps."""
    held_out = job.in_domain
    curve = dataclasses.replace(held_out, selected=held_out.rows.select_documents(curve_tokens(job.settings)))

    def point() -> dict[str, Any]:
        scores = score_held_out(
            job.base,
            job.objective_of(held_out.role),
            curve,
            job.machine,
            tokens_per_micro_batch=job.loop.tokens_per_micro_batch,
        )
        return {held_out.role: scores.summary()}

    with tracked(job.settings, job.machine):
        return train_into(
            folder,
            job.base,
            job.objective,
            job.train_rows,
            job.loop,
            job.machine,
            display,
            resume=job.settings.resume,
            evaluate=point,
        )


def training_facts(job: TextJob, state: TrainingState, wall_seconds: float) -> dict[str, Any]:
    """The keys of result.json about training and its costs."""
    trained = [p for p in job.base.model.parameters() if p.requires_grad]
    return costs(job.machine, job.base, [state], trained, wall_seconds) | {
        "tokens_per_micro_batch": state.tokens_per_micro_batch,
        "activation_checkpointing": state.activation_checkpointing,
    }


def summaries(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The scores by role for result.json; `control` is None if there is no control corpus."""
    return {role: one.summary() for role, one in scores.items()} | ({} if "control" in scores else {"control": None})
