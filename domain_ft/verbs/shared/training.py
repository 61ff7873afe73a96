"""What the verbs that train share: trainable parameters, the size of a micro-batch, and the training loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from accelerate.utils import gather_object
from transformers import PreTrainedModel

from domain_ft.corpus.rows import Rows
from domain_ft.errors import SettingsError
from domain_ft.models import targets as targeting
from domain_ft.models.activation_checkpointing import ActivationCheckpointing
from domain_ft.models.lora import LoraConfig, apply_lora, has_lora, lora_of, set_backend
from domain_ft.models.modes import without_base_dropout
from domain_ft.objectives.base import Objective, TrainedModel
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings, Steps, train
from domain_ft.training.memory import (
    MicroBatchLimits,
    MicroBatchMemory,
    MicroBatchPlan,
    free_memory,
    measure_micro_batch,
    plan_micro_batches,
    training_state_bytes,
)
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.prefer.settings import PreferSettings
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.tag.settings import TagSettings

TrainSettings: TypeAlias = AdaptSettings | InstructSettings | PreferSettings | ClassifySettings | TagSettings
"""The settings of a verb that trains."""

S = TypeVar("S", AdaptSettings, InstructSettings, PreferSettings, ClassifySettings, TagSettings)

LEARNING_RATES = {"lora": 2e-3, "dora": 2e-3, "full": 5e-5}
"""The default of --learning-rate in `adapt`, by --method."""


def alpha_of(settings: TrainSettings) -> float:
    """--alpha, or twice the rank."""
    return settings.alpha or 2.0 * settings.rank


def make_trainable(
    model: PreTrainedModel,
    settings: TrainSettings,
    kernels: str,
    *,
    seed: int,
    heads: Sequence[str] = (),
    without: Sequence[str] = (),
) -> None:
    """Add LoRA or DoRA to `model`, or with --method full let every weight train.

    Args:
        kernels: the backend of the adapters' op.
        seed: seeds the adapters' initial values.
        heads: new modules that are trained in full, besides --train-modules.
        without: modules that get no adapters, because the loss does not depend on them.
    """
    if settings.method == "full":
        model.requires_grad_(True)
        return
    targets: str | tuple[str, ...] = settings.targets
    if without:
        targets = tuple(
            path for path in targeting.resolve_targets(model, targets) if not targeting.inside(path, without)
        )
    config = LoraConfig(
        rank=settings.rank,
        alpha=alpha_of(settings),
        dropout=settings.dropout,
        targets=targets,
        use_rslora=settings.rslora,
        use_dora=settings.method == "dora",
        train_modules=(*settings.train_modules, *heads),
    )
    apply_lora(model, config, seed=seed)
    set_backend(model, kernels)


def refuse_unusable_rank(model: PreTrainedModel, settings: TrainSettings) -> None:
    """Refuse a --rank that is too high for every target layer. Called before text is tokenised, to fail early.

    Raises:
        ModelError: the rank is too high; the message gives the highest possible rank.
    """
    if settings.method == "lora" or settings.method == "dora":
        trained = targeting.resolve_modules(model, settings.train_modules)
        paths = targeting.resolve_targets(model, settings.targets, trained)
        targeting.check_ranks(model, dict.fromkeys(paths, settings.rank))


@contextlib.contextmanager
def trainable_for_now(
    model: PreTrainedModel,
    settings: TrainSettings,
    kernels: str,
    heads: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Iterator[None]:
    """Make the model trainable inside the block, as `make_trainable` does, and restore it afterwards."""
    parameters = list(model.parameters())
    original = [parameter.requires_grad for parameter in parameters]
    make_trainable(model, settings, kernels, seed=settings.seed, heads=heads, without=without)
    try:
        yield
    finally:
        if has_lora(model):
            lora_of(model).discard()
        for parameter, requires_grad in zip(parameters, original, strict=True):
            parameter.requires_grad_(requires_grad)


def choose_micro_batches(
    base: TrainedModel,
    objective: Objective,
    rows: Rows,
    settings: TrainSettings,
    machine: Machine,
    display: ProgressDisplay,
    *,
    step_tokens: int,
) -> MicroBatchPlan:
    """Choose a micro-batch size that fits into free memory; all processes get the same.

    Args:
        base: the model, already trainable.
        step_tokens: tokens of an optimiser step over all processes.

    Raises:
        SettingsError: --activation-checkpointing on, for a model without a list of layers.
    """
    for note in lora_of(base.model).notes if has_lora(base.model) else ():
        display.say(f"note: {note}")
    can_checkpoint = ActivationCheckpointing(base.model).possible
    if settings.activation_checkpointing == "on" and not can_checkpoint:
        raise SettingsError(
            f"--activation-checkpointing on: '{base.name}' does not keep its layers in a list, so they cannot be "
            "checkpointed",
            fix="leave the option out; a smaller --tokens-per-micro-batch or --max-length needs less memory",
        )
    plan = plan_micro_batches(
        micro_batch_limits(base, rows, machine, step_tokens=step_tokens),
        lambda on: micro_batch_memory(base, objective, rows, settings, machine, activation_checkpointing=on),
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        activation_checkpointing=settings.activation_checkpointing,
        can_checkpoint=can_checkpoint,
    )
    plans: list[MicroBatchPlan] = gather_object([plan])
    chosen = max(plans, key=lambda plan: (plan.activation_checkpointing, -plan.tokens_per_micro_batch))
    if not chosen.fits:
        display.warn(f"memory may run out: {chosen.reason}")
    elif chosen.activation_checkpointing and settings.activation_checkpointing == "auto":
        display.say(f"note: activation checkpointing is on, because memory is short: {chosen.reason}")
    return chosen


def micro_batch_limits(base: TrainedModel, rows: Rows, machine: Machine, *, step_tokens: int) -> MicroBatchLimits:
    """The limits on a micro-batch: step size, longest sequence and free memory. The model must already be trainable."""
    # On a CPU, the processes of a machine share its memory; on GPUs, each process has its own memory.
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if machine.device.type == "cpu" else 1
    return MicroBatchLimits(
        step_tokens=-(-step_tokens // machine.processes),
        longest=int(rows.lengths.max()),
        device=machine.device.type,
        free_bytes=free_memory(machine.device) // sharing,
        state_bytes=training_state_bytes(base.model.parameters()),
    )


def micro_batch_memory(
    base: TrainedModel,
    objective: Objective,
    rows: Rows,
    settings: TrainSettings,
    machine: Machine,
    *,
    activation_checkpointing: bool,
) -> MicroBatchMemory:
    """Measure the memory of a micro-batch in training. The model must already be trainable."""
    checkpointing = ActivationCheckpointing(base.model)
    base.model.train()
    checkpointing.switch(activation_checkpointing)
    try:
        longest = rows.pack([int(rows.lengths.argmax())])
        with contextlib.nullcontext() if settings.base_dropout else without_base_dropout(base.model):
            return measure_micro_batch(
                base,
                objective,
                longest,
                kernels=machine.kernels,
                autocast=machine.accelerator.autocast,
                keeps_scores=settings.base_dropout or not base.packed,
            )
    finally:
        checkpointing.switch(on=False)
        base.model.eval()


def loop_settings(
    settings: TrainSettings,
    micro_batches: MicroBatchPlan,
    *,
    total_steps: int,
    evaluate_every: int,
    learning_rate: float,
    **others: Any,
) -> LoopSettings:
    """The training loop's settings from those of a verb; `others` override them."""
    values = {
        "total_steps": total_steps,
        "tokens_per_step": settings.tokens_per_step,
        "tokens_per_micro_batch": micro_batches.tokens_per_micro_batch,
        "activation_checkpointing": micro_batches.activation_checkpointing,
        "learning_rate": learning_rate,
        "schedule": settings.schedule,
        "warmup": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "lora_plus_ratio": settings.lora_plus_ratio,
        "base_dropout": settings.base_dropout,
        "seed": settings.seed,
        "checkpoint_every": settings.checkpoint_every,
        "keep_checkpoints": settings.keep_checkpoints,
        "evaluate_every": evaluate_every,
    }
    return LoopSettings(**{**values, **others})


@contextlib.contextmanager
def tracked(settings: TrainSettings, machine: Machine) -> Iterator[None]:
    """Log to the trackers of --track inside the block."""
    accelerator = machine.accelerator
    if settings.track:
        accelerator.init_trackers("domain-ft", config={k: str(v) for k, v in settings.to_dict().items()})
    yield
    # accelerate's end_training would destroy the process group, which scoring still needs, and would keep the trackers,
    # so that the next trial logged to them too.
    while accelerator.trackers:
        accelerator.trackers.pop().finish()


def train_into(
    folder: RunFolder,
    base: TrainedModel,
    objective: Objective,
    rows: Rows,
    loop: LoopSettings,
    machine: Machine,
    display: ProgressDisplay,
    *,
    resume: bool,
    evaluate: Callable[[], Mapping[str, Any]],
    score: Callable[[Mapping[str, Any]], Sequence[float]] | None = None,
    steps: Steps | None = None,
) -> TrainingState:
    """Train `base`, with metrics and checkpoints in `folder`. The model is in eval mode afterwards.

    Args:
        resume: continue from the newest checkpoint in `folder`.
        evaluate: evaluates the model during training.
        score: computes the score of an evaluation; the model with the highest score is kept. If None, the final model
            is kept.
        steps: where the rows of each step come from; by default all rows in random order.
    """

    def log(line: Mapping[str, Any]) -> None:
        if machine.is_main:
            folder.append_metrics(line)
        numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
        machine.accelerator.log(numbers, step=line["step"])

    def drop_later_lines(step: int) -> None:
        if machine.is_main:
            folder.truncate_metrics(step)

    state = train(
        base,
        objective,
        rows,
        loop,
        accelerator=machine.accelerator,
        checkpoints=folder.checkpoints,
        display=display,
        log=log,
        sharded=machine.sharded,
        resume=resume,
        on_resume=drop_later_lines,
        evaluate=evaluate,
        score=score,
        steps=steps,
    )
    base.model.eval()
    return state
