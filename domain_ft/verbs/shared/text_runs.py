"""What `adapt` and `instruct` share: a language model that learns from text, scored before, on the way, and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain_ft.corpus.packing import StepPlan
from domain_ft.corpus.rows import DocumentRows
from domain_ft.evaluation.scores import Scores
from domain_ft.models.base import BaseModel
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings
from domain_ft.training.memory import MicroBatchPlan
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.shared.language_model import HeldOut, score_held_out
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.runs import costs, resolved
from domain_ft.verbs.shared.training import make_trainable, tracked, train_into

CURVE_POINTS = 8


CURVE_SHARE = 4  # a point of the curve is measured on so small a part of --evaluation-tokens


@dataclass(frozen=True)
class TextJob:
    """Everything that a run needs before its first step.

    Attributes:
        settings: with nothing left to a default that depends on the machine, the model or the text.
        machine: where it is computed.
        base: the model; LoRA is not in it yet.
        objective: what is asked of it.
        train_rows: what is learned from.
        held_out: by role, what is scored before and after; what is like the training rows comes first.
        loop: the loop's settings.
        passes: how large a micro-batch is, and why.
    """

    settings: AdaptSettings | InstructSettings
    machine: Machine
    base: BaseModel
    objective: LanguageModelObjective
    train_rows: DocumentRows
    held_out: Mapping[str, HeldOut]
    loop: LoopSettings
    micro_batches: MicroBatchPlan

    @property
    def plan(self) -> StepPlan:
        """Which rows go into which step."""
        return StepPlan(self.train_rows.lengths, self.settings.tokens_per_step, self.settings.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which all rows are read once."""
        return self.plan.steps_per_epoch

    @property
    def planned_tokens(self) -> int:
        """About how many tokens the whole run reads."""
        return round(self.loop.total_steps * self.train_rows.tokens / self.steps_per_epoch)

    @property
    def trainable_parameters(self) -> int:
        """Numbers that training changes, once `add_trainable` was called."""
        return sum(p.numel() for p in self.base.model.parameters() if p.requires_grad)

    @property
    def own_held_out(self) -> HeldOut:
        """The held-out text that is like what is learned from."""
        return next(iter(self.held_out.values()))

    def objective_of(self, role: str) -> LanguageModelObjective:
        """What the model is asked on the held-out text of a role."""
        del role
        return self.objective


def resolve_settings(
    settings: AdaptSettings | InstructSettings, machine: Machine, max_length: int, loop: LoopSettings
) -> dict[str, Any]:
    """The settings that depend on the machine, the model or the text, the budget among them: in steps."""
    return resolved(settings, machine, max_length, loop) | {
        "max_tokens": None,
        "epochs": None,
        "max_steps": loop.total_steps,
        "evaluate_every": loop.evaluate_every,
    }


def curve_tokens(settings: AdaptSettings | InstructSettings) -> int:
    """Held-out tokens of a point of the curve."""
    assert settings.evaluation_tokens is not None
    return settings.evaluation_tokens // CURVE_SHARE


def add_trainable(job: TextJob) -> None:
    """Make of the base model one that trains: LoRA goes into it, or every weight is opened."""
    make_trainable(job.base.model, job.settings, job.machine.kernels, seed=job.settings.seed)


def measure(
    job: TextJob,
    folder: RunFolder,
    when: str,
    display: ProgressDisplay,
    known: Callable[[HeldOut], Path | None] = lambda _: None,
) -> dict[str, Scores]:
    """The scores of the model as it is now, by role; those of a resumed run's base are read, not made again.

    Args:
        when: `before` or `after`.
        known: where the scores on a held-out text are kept for other runs too, if they are.
    """
    found = {}
    for role, held_out in job.held_out.items():
        path, shared = folder.scores(when, role), known(held_out)
        if when == "before" and job.settings.resume and path.is_file():
            found[role] = Scores.load(path)
            continue
        if shared and shared.is_file():
            found[role] = Scores.load(shared)
        else:
            found[role] = score_held_out(
                job.base,
                job.objective_of(role),
                held_out,
                job.machine,
                tokens_per_micro_batch=job.loop.tokens_per_micro_batch,
                progress=display.job,
                label=f"{when}: {held_out.name}",
            )
        if job.machine.is_main:
            folder.write_scores(path, found[role])
            if shared and not shared.is_file():
                found[role].save(shared)
    return found


def train_with_curve(job: TextJob, folder: RunFolder, display: ProgressDisplay) -> TrainingState:
    """Train the model, and score it on a part of the held-out text now and then."""
    own = job.own_held_out
    curve = dataclasses.replace(own, selected=own.rows.select_documents(curve_tokens(job.settings)))

    def point() -> dict[str, Any]:
        scores = score_held_out(
            job.base, job.objective, curve, job.machine, tokens_per_micro_batch=job.loop.tokens_per_micro_batch
        )
        return {own.role: scores.summary()}

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
    """What result.json says of the training and what it cost."""
    trained = [p for p in job.base.model.parameters() if p.requires_grad]
    return costs(job.machine, job.base, [state], trained, wall_seconds) | {
        "tokens_per_micro_batch": state.tokens_per_micro_batch,
        "activation_checkpointing": state.activation_checkpointing,
    }


def summaries(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The scores by role as result.json has them, with a null for the control where there is none."""
    return {role: own.summary() for role, own in scores.items()} | ({} if "control" in scores else {"control": None})
