"""The training loop of all objectives.

A step reads a limited number of document tokens, or of rows. Its rows are distributed over the ranks, each rank packs
its share into micro-batches of at most `tokens_per_micro_batch` tokens (or one longer row), and the sum of all losses
is divided once, by the number of labelled items over all micro-batches and ranks. So without dropout, splitting a step
in another way changes the gradient only by rounding. A loss that couples rows of different micro-batches (in-batch
negatives) needs a first pass over the step for its gradient: see `_Trainer.with_gradients`.

    step -> rows -> share of this rank -> micro-batches -> (sum of losses / items).backward() -> clip -> AdamW

No random state is carried from step to step: order and masks are functions of (seed, epoch, index), and dropout of
(seed, step, rank, micro-batch). A run that was killed and resumed takes the same steps as an uninterrupted one, to the
last bit on a CPU. With another number of processes, rounding and dropout masks differ.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from domain_ft.corpus.packing import Step, StepPlan, micro_batches, share
from domain_ft.corpus.rows import Rows
from domain_ft.errors import TrainingError
from domain_ft.models.activation_checkpointing import ActivationCheckpointing
from domain_ft.models.lora import has_lora, set_dropout_seed
from domain_ft.models.modes import without_base_dropout
from domain_ft.objectives.base import CoupledObjective, MicroBatch, Objective, TrainedModel
from domain_ft.randomness import derive
from domain_ft.training.checkpoints import TrainingState, load_best, load_latest, save_best, save_checkpoint
from domain_ft.training.optimizer import build_optimizer, set_learning_rate
from domain_ft.training.progress import ProgressDisplay
from domain_ft.training.schedule import learning_rate_factor
from domain_ft.training.sharding import Shards, gathered, unsharded

METRIC_LINES = 2000
"""A run of more steps logs only every k-th step, so that metrics.jsonl gets between this many and twice as many lines.
Steps with an evaluation, and the last step, are always logged.
"""


class Steps(Protocol):
    """Where the rows of each step come from: a `StepPlan`, or a source that makes rows during training (rollouts)."""

    def step(self, index: int) -> Step:
        """The step with this number, counted from 0; the same on all ranks.

        The method may add rows to the loop's `Rows`, whose `lengths` are read again for each step. A run can be resumed
        if the step is a function of `index` and of the weights.
        """


@dataclass(frozen=True)
class LoopSettings:
    """The loop's settings. The verbs' settings of the same names have help texts.

    Attributes:
        total_steps: optimiser steps in the whole run.
        tokens_per_step: the most document tokens in a step, on average (see `StepPlan`); unused with `rows_per_step`.
        rows_per_step: the most rows in a step, whatever their lengths; None to limit tokens instead.
        tokens_per_micro_batch: the most tokens in a forward pass; a longer sequence is alone in its micro-batch.
        activation_checkpointing: recompute layers in the backward pass. If it is off, it may be switched on when memory
            runs out.
        learning_rate: peak learning rate.
        schedule: name of the learning-rate schedule.
        warmup: share of the steps that warm up.
        weight_decay: AdamW's decay of matrices.
        max_grad_norm: larger gradients are scaled down to this norm; 0 for no limit.
        lora_plus_ratio: learning rate of LoRA's B (and its bias) divided by that of the rest.
        base_dropout: keep the base model's dropout; otherwise it is off.
        seed: determines the order of the rows and all dropout.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest checkpoints are kept.
        evaluate_every: steps between points of the held-out curve; 0 for none before the last step (see `train`).
        patience: stop after this many points without a better one; 0 for no early stopping.
    """

    total_steps: int
    tokens_per_step: int | None
    tokens_per_micro_batch: int
    activation_checkpointing: bool
    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    lora_plus_ratio: float
    base_dropout: bool
    seed: int
    checkpoint_every: int
    keep_checkpoints: int
    evaluate_every: int
    rows_per_step: int | None = None
    patience: int = 0

    def plan(self, lengths: npt.NDArray[Any]) -> StepPlan:
        """Which rows each step reads, for rows of these lengths (rows,)."""
        if self.rows_per_step is not None:
            return StepPlan(np.ones(len(lengths), dtype=np.int64), self.rows_per_step, self.seed)
        assert self.tokens_per_step is not None
        return StepPlan(lengths, self.tokens_per_step, self.seed)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the checkpoint of the last step was written."""


class LossModule(nn.Module):
    """The model and its loss as one module, so that DDP and FSDP wrap the whole computation of a micro-batch."""

    def __init__(self, base: TrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model = base.model
        self._base = base
        self._objective = objective

    def forward(self, inputs: MicroBatch) -> Tensor:
        """0-d float32, the sum of the losses of a micro-batch."""
        return self._objective.loss(self._base, inputs)


def count_steps(
    plan: StepPlan,
    corpus_tokens: int,
    *,
    max_tokens: int | None,
    max_steps: int | None,
    epochs: float | None,
) -> int:
    """Optimiser steps for a budget in tokens, steps or epochs. Exactly one budget is not None."""
    if max_steps is not None:
        return max_steps
    if epochs is None:
        assert max_tokens is not None
        epochs = max_tokens / corpus_tokens
    return max(1, math.ceil(epochs * plan.steps_per_epoch - 1e-9))


def train(
    base: TrainedModel,
    objective: Objective,
    rows: Rows,
    settings: LoopSettings,
    *,
    accelerator: Accelerator,
    checkpoints: Path,
    display: ProgressDisplay,
    log: Callable[[Mapping[str, Any]], None],
    sharded: bool = False,
    resume: bool = False,
    on_resume: Callable[[int], None] | None = None,
    evaluate: Callable[[], Mapping[str, Any]] | None = None,
    score: Callable[[Mapping[str, Any]], Sequence[float]] | None = None,
    steps: Steps | None = None,
) -> TrainingState:
    """Train on `rows` those parameters of `base.model` that require a gradient.

    Args:
        base: the model with its head.
        objective: the loss.
        rows: the training sequences.
        settings: see LoopSettings.
        accelerator: device, precision and processes.
        checkpoints: the folder of the checkpoints.
        display: the terminal.
        log: called with each line of metrics.jsonl.
        sharded: shard the weights over the processes (FSDP2) instead of replicating them (DDP). After training,
            `base.model` is then a new, unsharded model.
        resume: continue from the newest complete checkpoint; start from step 0 if there is none.
        on_resume: called with the step of that checkpoint, before the first new line is logged.
        evaluate: returns a point of the held-out curve, logged with the step that was just taken. All processes call
            it, and it must call the model equally often on each.
        score: returns the score of a point, as a sequence of numbers. A larger score is better, and all processes must
            get the same. With `score`, the last step is a point too, training ends early after `patience` points
            without a better one, and the parameters are left as at the best point (the first of equals). Without
            `score`, the last step is no point, and the parameters are left as after it.
        steps: where the rows of each step come from; by default `settings.plan` for the rows that exist at the start.

    Raises:
        TrainingError: a loss or gradient is not finite, memory runs out (see `_Trainer.smaller_micro_batch`), or
            `sharded` is set for a model with padded batches or for a coupled objective.
        CheckpointError: a checkpoint cannot be written, or has other parameters.
        Interrupted: after ctrl-C or SIGTERM, once the last step is checkpointed.
    """
    if sharded and isinstance(objective, CoupledObjective):
        raise TrainingError(
            f"{objective.name} training computes each step twice, which is not supported with sharded weights",
            where=base.name,
            fix="use --sharding none, which keeps the whole model in each process",
        )
    if sharded and not base.packed:
        raise TrainingError(
            f"'{base.name}' cannot be sharded: its batches are padded, and processes differ in their number of batches",
            fix="use --sharding none, which keeps the whole model in each process",
        )
    base.model.train()
    module: nn.Module = LossModule(base, objective)
    shards = Shards.of(module, base.model, accelerator) if sharded else None
    if shards is None:
        module = accelerator.prepare(module)
    parameters = {name: p for name, p in base.model.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(
        parameters.items(),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lora_plus_ratio=settings.lora_plus_ratio,
    )
    state = TrainingState(step=0, tokens=0, seconds=0.0, tokens_per_micro_batch=settings.tokens_per_micro_batch)
    if resume:
        state = load_latest(checkpoints, parameters, optimizer, display.warn) or state
        if on_resume:
            on_resume(state.step)
        display.say(f"resuming after step {state.step} of {settings.total_steps}")
    checkpointing = ActivationCheckpointing(base.model)
    checkpointing.switch(settings.activation_checkpointing or state.activation_checkpointing)
    steps = steps or settings.plan(rows.lengths)
    trainer = _Trainer(
        base, objective, rows, settings, accelerator, module, shards, parameters, optimizer, display, checkpointing
    )
    log_every = max(1, settings.total_steps // METRIC_LINES)

    def save() -> None:
        writes = accelerator.is_main_process
        if writes or shards:
            save_checkpoint(checkpoints, parameters, optimizer, state, keep=settings.keep_checkpoints, write=writes)
        accelerator.wait_for_everyone()

    saved_step = state.step
    dropout = contextlib.nullcontext() if settings.base_dropout else without_base_dropout(base.model)
    with dropout, stop_requests(display) as stop:
        while state.step < settings.total_steps and not _out_of_patience(state, settings):
            began = time.perf_counter()
            step = steps.step(state.step)
            loss, rate, norm, tokens_per_micro_batch, padding = trainer.take(step, state)
            seconds = time.perf_counter() - began
            tokens = int(rows.lengths[step.rows].sum())
            state = dataclasses.replace(
                state,
                step=state.step + 1,
                tokens=state.tokens + tokens,
                seconds=state.seconds + seconds,
                tokens_per_micro_batch=tokens_per_micro_batch,
                activation_checkpointing=checkpointing.on,
            )
            last = state.step == settings.total_steps
            metrics: dict[str, Any] = {
                "step": state.step,
                "tokens": state.tokens,
                "loss": loss,
                "learning_rate": rate,
                "tokens_per_second": tokens / seconds,
                "padding_fraction": padding,
                "grad_norm": norm,
                "memory_bytes": max(over_ranks(accelerator, memory_bytes()))[0],
            }
            display.step(metrics, settings.total_steps)
            due = bool(settings.evaluate_every) and state.step % settings.evaluate_every == 0
            if evaluate and (due or last if score else due and not last):
                with gathered(shards):
                    metrics["evaluation"] = dict(evaluate())
                release_free_memory()
                if score:
                    state = state.after_point(score(metrics["evaluation"]))
                    if state.best_step == state.step:
                        save_best(checkpoints, parameters, write=accelerator.is_main_process)
                    last = last or _out_of_patience(state, settings)
            if state.step % log_every == 0 or last or "evaluation" in metrics:
                log(metrics)
            stopping = max(over_ranks(accelerator, int(stop.is_set())))[0] > 0  # all ranks stop after the same step
            if last or stopping or state.step % settings.checkpoint_every == 0:
                save()
                saved_step = state.step
            if stopping:
                raise Interrupted(f"stopped after step {saved_step}; its checkpoint is written")
    if state.best_step is not None:
        accelerator.wait_for_everyone()
        load_best(checkpoints, parameters)
    if shards:
        optimizer.zero_grad(set_to_none=True)
        base.model = shards.unsharded_model()
    accelerator.free_memory()  # drops its references to DDP, whose buckets are as large as the gradients
    return state


def _out_of_patience(state: TrainingState, settings: LoopSettings) -> bool:
    return 0 < settings.patience <= state.points_since_best


@dataclass(frozen=True)
class _Trainer:
    """Takes optimiser steps. `take` is the step, and the other methods are its parts."""

    base: TrainedModel
    objective: Objective
    rows: Rows
    settings: LoopSettings
    accelerator: Accelerator
    module: nn.Module
    shards: Shards | None
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    display: ProgressDisplay
    checkpointing: ActivationCheckpointing

    def take(self, step: Step, state: TrainingState) -> tuple[float, float, float, int, float]:
        """Take a step: (mean loss in nats, learning rate, gradient norm, tokens per micro-batch, share of padding)."""
        tokens_per_micro_batch = state.tokens_per_micro_batch
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            prepared = self.prepare(step, tokens_per_micro_batch)
            try:
                loss = self.accumulate(prepared, state.step)
                break
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                tokens_per_micro_batch = self.smaller_micro_batch(prepared, tokens_per_micro_batch, state.step, error)
        rate = set_learning_rate(
            self.optimizer,
            learning_rate_factor(self.settings.schedule, state.step, self.settings.total_steps, self.settings.warmup),
        )
        limit = self.settings.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), limit)
        norm = math.nan if norm is None else float(unsharded(norm))
        if not math.isfinite(norm):
            raise self.not_finite("the gradient norm", norm, state.step, step.rows)
        self.optimizer.step()
        padding = float(np.mean([self.base.padding_fraction(inputs) for _, inputs in prepared]))
        return loss, rate, norm, tokens_per_micro_batch, padding

    def prepare(self, step: Step, tokens_per_micro_batch: int) -> list[tuple[npt.NDArray[np.int64], MicroBatch]]:
        """This rank's micro-batches of the step; at least one, so that every rank takes part in the reduction.

        With sharded weights all ranks run as many micro-batches as the rank with the most, since they gather weights
        together. The added micro-batches have no labels.
        """
        lengths = self.rows.lengths
        mine = share(step.rows, lengths, self.accelerator.process_index, self.accelerator.num_processes)
        prepared = [
            (chosen, self.objective.prepare(self.rows.pack(chosen), step.epoch))
            for chosen in micro_batches(mine, lengths, tokens_per_micro_batch)
        ]
        needed = max(over_ranks(self.accelerator, len(prepared)))[0] if self.shards else 1
        if len(prepared) < needed:
            spare = step.rows[:1]
            idle = self.objective.prepare(self.rows.pack(spare), step.epoch).without_labels()
            prepared += [(spare, idle)] * (needed - len(prepared))
        return prepared

    def accumulate(self, prepared: list[tuple[npt.NDArray[np.int64], MicroBatch]], index: int) -> float:
        """Add the gradient of the step's mean loss to the parameters, and return that loss."""
        accelerator = self.accelerator
        items = max(1, sum(count for (count,) in over_ranks(accelerator, sum(inputs.items for _, inputs in prepared))))
        total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        if isinstance(self.objective, CoupledObjective) and (len(prepared) > 1 or accelerator.num_processes > 1):
            prepared, coupled = self.with_gradients(self.objective, prepared, index)
            total += coupled / accelerator.num_processes
        for number, (_, inputs) in enumerate(prepared):
            self.seed_dropout(index, number)
            final = number == len(prepared) - 1
            with contextlib.nullcontext() if final else accelerator.no_sync(self.module):
                with accelerator.autocast():
                    loss = self.module(inputs.to(accelerator.device))
                # DDP and FSDP average over ranks, but the step needs the sum.
                accelerator.backward(loss * (accelerator.num_processes / items))
            total += loss.detach()
        mean = float(accelerator.reduce(total, "sum").item()) / items
        if not math.isfinite(mean):  # on all ranks alike
            raise self.not_finite("the loss", mean, index, self.bad_rows(prepared))
        return mean

    def with_gradients(
        self, objective: CoupledObjective, prepared: list[tuple[npt.NDArray[np.int64], Any]], index: int
    ) -> tuple[list[tuple[npt.NDArray[np.int64], MicroBatch]], Tensor]:
        """Compute the coupled loss of the whole step, and give each micro-batch its part of the gradient.

        Gradient caching: Gao et al. 2021, arXiv:2101.06983, algorithm of section 3. The embeddings are computed twice
        with the same dropout: here without a graph, and in `accumulate` with one.

        Returns:
            The micro-batches, and the loss: 0-d, the sum over all items of all ranks.
        """
        accelerator = self.accelerator
        parts, keys = [], []
        with torch.no_grad(), accelerator.autocast():
            for number, (_, inputs) in enumerate(prepared):
                self.seed_dropout(index, number)
                moved = inputs.to(accelerator.device)
                parts.append(objective.embeddings(self.base, moved))
                keys.append(moved.keys)
        counts = [len(part) for part in parts]
        ranks = over_ranks(accelerator, sum(counts))
        embeddings = _gathered(accelerator, torch.cat(parts), ranks).requires_grad_()  # (N, ...)
        loss = objective.step_loss(embeddings, _gathered(accelerator, torch.cat(keys), ranks))
        (gradients,) = torch.autograd.grad(loss, embeddings)
        first = sum(count for (count,) in ranks[: accelerator.process_index])
        own = gradients[first : first + sum(counts)].split(counts)
        found = [(chosen, inputs.with_gradients(part)) for (chosen, inputs), part in zip(prepared, own, strict=True)]
        return found, loss.detach().double()

    def seed_dropout(self, index: int, number: int) -> None:
        """Seed the dropout of a micro-batch: a function of the step, the process and the micro-batch's number."""
        seed = derive(self.settings.seed, "dropout", index, self.accelerator.process_index, number)
        if has_lora(self.base.model):
            set_dropout_seed(self.base.model, seed)
        if self.settings.base_dropout:
            torch.manual_seed(seed)

    def smaller_micro_batch(
        self,
        prepared: list[tuple[npt.NDArray[np.int64], MicroBatch]],
        tokens_per_micro_batch: int,
        index: int,
        error: BaseException,
    ) -> int:
        """After memory ran out: halve the micro-batch or, for a single sequence, switch on activation checkpointing.

        Neither changes the gradient, except for rounding and dropout masks.

        Returns:
            The new number of tokens per micro-batch.

        Raises:
            TrainingError: neither is possible, or there are several processes, which do not know of each other's
                lack of memory.
        """
        longest = max(int(self.rows.lengths[chosen].max()) for chosen, _ in prepared)
        largest = max(inputs.input_ids.numel() for _, inputs in prepared)
        single = self.accelerator.num_processes == 1
        if single and largest > longest:
            smaller = max(longest, min(tokens_per_micro_batch, largest) // 2)
            change = f"micro-batches of {smaller} tokens instead of {tokens_per_micro_batch}"
        elif single and self.checkpointing.possible and not self.checkpointing.on:
            self.checkpointing.switch(on=True)
            smaller, change = tokens_per_micro_batch, "activation checkpointing, which is slower"
        else:
            raise TrainingError(
                f"memory ran out in step {index + 1}, with micro-batches of at most {tokens_per_micro_batch} tokens",
                where=f"longest sequence: {longest} tokens",
                fix="lower --tokens-per-micro-batch or --max-length, or add --activation-checkpointing on; "
                "--resume continues from the last checkpoint",
            ) from error
        self.display.warn(
            f"memory ran out in step {index + 1}: from here on {change}; results change only by rounding and dropout"
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return smaller

    def bad_rows(self, prepared: list[tuple[npt.NDArray[np.int64], MicroBatch]]) -> npt.NDArray[np.int64]:
        """The rows of all ranks whose losses are not finite; all rows of the step if each loss on its own is finite."""
        bad: list[int] = []
        with torch.no_grad(), self.accelerator.autocast(), gathered(self.shards):
            for chosen, inputs in prepared:
                losses = self.objective.row_losses(self.base, inputs.to(self.accelerator.device))
                bad += chosen[~torch.isfinite(losses).cpu().numpy()].tolist()
        bad = gather_object(bad)
        return np.array(bad or gather_object(np.concatenate([chosen for chosen, _ in prepared]).tolist()))

    def not_finite(self, what: str, value: float, index: int, chosen: npt.NDArray[np.int64]) -> TrainingError:
        """The error for a loss or gradient that is NaN or infinite, with the documents of the rows `chosen`."""
        documents = list(dict.fromkeys(self.rows.row_id(int(row)) for row in chosen))
        shown = ", ".join(documents[:5]) + (f" and {len(documents) - 5} more" if len(documents) > 5 else "")
        return TrainingError(
            f"{what} is {value} in step {index + 1}; this step was not applied",
            where=f"documents {shown}",
            fix="lower --learning-rate (by 3 to 10 times), or look at these documents; older checkpoints are intact",
        )


def release_free_memory() -> None:
    """Return the heap's free pages to the system (glibc only).

    Micro-batches differ in size, so the heap fragments, and a process ends up with twice the memory it needs. Trimming
    after every step costs 5 % of the speed; trimming now and then costs nothing measurable.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def memory_bytes() -> int:
    """Peak bytes of the GPU's allocator if there is one, else the resident bytes of this process now."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


def peak_memory_bytes() -> int:
    """Peak bytes of the GPU's allocator if there is one, else the peak resident bytes of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def stop_requests(display: ProgressDisplay) -> Iterator[threading.Event]:
    """An event that ctrl-C and SIGTERM set; a second ctrl-C stops at once.

    Signals are handled in the main thread only; elsewhere the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set() and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        event.set()
        display.say("stopping after this step, with a checkpoint; ctrl-C again stops at once")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def over_ranks(accelerator: Accelerator, *numbers: int) -> list[tuple[int, ...]]:
    """The `numbers` of each rank. A single process needs no transfer to the GPU."""
    if accelerator.num_processes == 1:
        return [numbers]
    local = torch.tensor([numbers], dtype=torch.int64, device=accelerator.device)  # (1, numbers)
    return [tuple(row) for row in accelerator.gather(local).tolist()]


def _gathered(accelerator: Accelerator, values: Tensor, counts: list[tuple[int, ...]]) -> Tensor:
    """(N, ...), the `values` of all ranks in rank order; `counts` has the number of values on each rank."""
    if accelerator.num_processes == 1:
        return values
    most = max(count for (count,) in counts)
    padded = values.new_zeros(most, *values.shape[1:])
    padded[: len(values)] = values
    parts = accelerator.gather(padded).split(most)
    return torch.cat([part[:count] for part, (count,) in zip(parts, counts, strict=True)])


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error)
