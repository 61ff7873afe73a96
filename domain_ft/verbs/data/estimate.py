"""`domain-ft data estimate`: the cost of `adapt` or `instruct` on this machine, measured by training a few steps.

estimate(EstimateSettings(corpus="legal")).minutes
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from rich.console import Console
from rich.table import Table

from domain_ft.checking import Settings, options
from domain_ft.corpus.left_out import fields_read, sentences
from domain_ft.models.activation_checkpointing import ActivationCheckpointing
from domain_ft.report.plain import plain
from domain_ft.training.loop import memory_bytes, release_free_memory, train
from domain_ft.training.memory import MicroBatchLimits, gib
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt import prepare as adapt_prepare
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.data.estimate_conversations import (
    Examples,
    answering_minutes,
    examples_of,
    holds_conversations,
    warnings_of,
)
from domain_ft.verbs.data.settings import EstimateSettings
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.shared.language_model import score_held_out
from domain_ft.verbs.shared.machine import Machine, choose_machine
from domain_ft.verbs.shared.text_runs import curve_tokens, step_tokens
from domain_ft.verbs.shared.training import make_trainable, micro_batch_limits, micro_batch_memory
from domain_ft.wording import counted

if TYPE_CHECKING:
    from domain_ft.verbs.instruct import prepare as instruct_prepare


TextJob: TypeAlias = "adapt_prepare.AdaptJob | instruct_prepare.InstructJob"
"""A run that is set up."""


PROBE_STEPS = 4
"""Optimiser steps that measure the `Way` that the verb would choose. The first is a warm-up and is not counted."""

COMPARED_STEPS = 2
"""Optimiser steps that measure the other `Way`, likewise with a warm-up."""

OPTIMIZER_COPIES = 3
"""A checkpoint holds each trained parameter and AdamW's two moments."""


@dataclass(frozen=True)
class Way:
    """The cost of training with or without activation checkpointing.

    Attributes:
        activation_checkpointing: whether it is on.
        tokens_per_micro_batch: the given size, or the one that the verb would choose with this setting.
        tokens_per_second: measured; None if this setting was not tried because it would probably run out of memory.
        training_minutes: at that speed; None if this setting was not tried.
        peak_memory_bytes: on a GPU, the measured peak of allocated memory. On a CPU, or if this setting was not tried,
            an estimate: the memory in use before training, plus the gradients, the optimiser's moments and the tensors
            of a micro-batch. A CPU's peak is not measured, because a process has only one for both settings.
    """

    activation_checkpointing: bool
    tokens_per_micro_batch: int
    tokens_per_second: float | None
    training_minutes: float | None
    peak_memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        verb: `adapt` or `instruct`.
        corpus_tokens: tokens of the training split, including special tokens.
        epochs: the number of epochs.
        tokens: training tokens of the run, over all epochs.
        steps: optimiser steps.
        tokens_per_second: measured in training, with the settings of the run.
        training_minutes: at that speed.
        evaluation_minutes: for scoring before, during and after training, and for the answers before and after.
        peak_memory_bytes: in training; see `Way`.
        disk_bytes: of the trained weights and the checkpoints.
        trainable_parameters: the number of trained parameters.
        tokens_per_micro_batch: the size that the verb would choose.
        activation_checkpointing: whether the verb would use it.
        reason: why the verb would use this size and setting.
        ways: the costs without and with activation checkpointing; only those without it if the model does not
            support it.
        examples: the conversations, for `instruct`.
        machine_cost: of the whole run at --price-per-hour; None if that is not given.
        service_cost: of the training tokens at --price-per-token; None if that is not given.
        warnings: what the user should fix or know before the run, in sentences.
        text: how the text was read, as in the result.json file of `adapt`; None for conversations.
    """

    verb: str
    corpus_tokens: int
    epochs: float
    tokens: int
    steps: int
    tokens_per_second: float
    training_minutes: float
    evaluation_minutes: float
    peak_memory_bytes: int
    disk_bytes: int
    trainable_parameters: int
    tokens_per_micro_batch: int
    activation_checkpointing: bool
    reason: str
    ways: tuple[Way, ...]
    examples: Examples | None
    machine_cost: float | None
    service_cost: float | None
    warnings: tuple[str, ...]
    text: Mapping[str, Any] | None

    @property
    def minutes(self) -> float:
        """Minutes of training and evaluation. Reading and tokenising are left out; for `adapt`, both are now cached."""
        return self.training_minutes + self.evaluation_minutes


def estimate(settings: EstimateSettings) -> Estimate:
    """Prepare data and model as the verb would, train a few steps that are discarded, and extrapolate."""
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet) as display:
        job = _set_up(settings, machine, display)
        answering = 0.0 if isinstance(job, adapt_prepare.AdaptJob) else answering_minutes(job)
        make_trainable(job.base.model, job.settings, machine.kernels, seed=job.settings.seed)
        scoring_rate = _scoring_rate(job)
        tokens = round(job.train_rows.tokens / job.steps_per_epoch * job.loop.total_steps)
        kinds = (False, True) if ActivationCheckpointing(job.base.model).possible else (False,)
        limits = micro_batch_limits(job.base, job.train_rows, machine, step_tokens=step_tokens(job.settings))
        release_free_memory()
        resident = memory_bytes()
        ways = tuple(_way(job, on, limits, resident, tokens, display) for on in kinds)
    chosen = next(way for way in ways if way.activation_checkpointing == job.micro_batches.activation_checkpointing)
    assert chosen.tokens_per_second is not None
    assert chosen.training_minutes is not None
    points = (job.loop.total_steps - 1) // job.loop.evaluate_every  # the last step is no point
    scored = 2 * sum(int(held.rows.lengths[held.selected].sum()) for held in job.held_out.values())
    evaluation_minutes = (scored + points * curve_tokens(job.settings)) / scoring_rate / 60 + answering
    trainable = sum(p.numel() for p in job.base.model.parameters() if p.requires_grad)
    hours = (chosen.training_minutes + evaluation_minutes) / 60
    return Estimate(
        verb="adapt" if isinstance(job, adapt_prepare.AdaptJob) else "instruct",
        corpus_tokens=(job.text_rows if isinstance(job, adapt_prepare.AdaptJob) else job.train_rows).tokens,
        epochs=job.loop.total_steps / job.steps_per_epoch,
        tokens=tokens,
        steps=job.loop.total_steps,
        tokens_per_second=chosen.tokens_per_second,
        training_minutes=chosen.training_minutes,
        evaluation_minutes=evaluation_minutes,
        peak_memory_bytes=chosen.peak_memory_bytes,
        disk_bytes=4 * trainable * (1 + OPTIMIZER_COPIES * job.loop.keep_checkpoints),
        trainable_parameters=trainable,
        tokens_per_micro_batch=job.micro_batches.tokens_per_micro_batch,
        activation_checkpointing=job.micro_batches.activation_checkpointing,
        reason=job.micro_batches.reason,
        ways=ways,
        examples=None if isinstance(job, adapt_prepare.AdaptJob) else examples_of(job),
        machine_cost=settings.price_per_hour and settings.price_per_hour * hours,
        service_cost=settings.price_per_token and settings.price_per_token * tokens,
        warnings=tuple(job.warnings if isinstance(job, adapt_prepare.AdaptJob) else warnings_of(job)),
        text=adapt_prepare.text_facts(job) if isinstance(job, adapt_prepare.AdaptJob) else None,
    )


def run(settings: EstimateSettings) -> dict[str, Any]:
    """The verb: estimate, and print the result."""
    found = estimate(settings)
    console = Console(quiet=settings.json)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for label, value in _lines(found):
        table.add_row(label, value)
    console.print(table)
    console.print()
    console.print(_comparison(found))
    if found.warnings:
        console.print()
    for warning in found.warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    for sentence in (*fields_read(text["text_fields"]), *sentences(text)) if (text := found.text) else ():
        console.print(plain(f"note: {sentence}", style="yellow"))
    former = {"tokens_per_pass": found.tokens_per_micro_batch}  # the key's name in 0.1, kept for one more version
    return {"command": "data estimate"} | dataclasses.asdict(found) | {"minutes": found.minutes} | former


def _lines(found: Estimate) -> list[tuple[str, str]]:
    checkpointing = "with" if found.activation_checkpointing else "without"
    examples, costs = found.examples, _costs(found)
    learned = [("corpus", f"{found.corpus_tokens:,} tokens to train on")]
    if examples is not None:
        learned = [
            ("examples", f"{examples.train:,} to train on, {examples.test:,} held out ({examples.format} format)"),
            ("tokens", f"{found.corpus_tokens:,}, of which {examples.trained_tokens:,} in answers"),
        ]
    return [
        *learned,
        *([("tokenizer", _fit(found.text["tokenizer"]))] if found.text else []),
        (
            "run",
            f"{counted(found.tokens, 'token')} in {counted(found.steps, 'step')}, {found.epochs:.2g} epochs",
        ),
        ("trained", f"{found.trainable_parameters:,} parameters"),
        ("speed", f"{found.tokens_per_second:,.0f} tokens per second, measured in training on this machine"),
        ("time", f"{found.training_minutes:.1f} min training and {found.evaluation_minutes:.1f} min measuring"),
        ("memory", f"{gib(found.peak_memory_bytes)} at the peak"),
        ("disk", f"{found.disk_bytes / 2**20:.0f} MiB for adapter and checkpoints"),
        *([("cost", costs)] if costs else []),
        ("micro-batch", f"{found.tokens_per_micro_batch:,} tokens, {checkpointing} activation checkpointing"),
        ("why", found.reason),
    ]


def _fit(fit: Mapping[str, Any]) -> str:
    """How well the tokenizer's vocabulary fits the text."""
    unknown = f"{fit['unknown_tokens']:.2%} of the tokens unknown"
    return f"{fit['bytes_per_token']:.1f} bytes of text per token, {unknown}"


def _costs(found: Estimate) -> str:
    """The costs of the run at the given prices; those below 1 have two significant digits."""
    costs = {"here": found.machine_cost, "for the same tokens at the service": found.service_cost}
    return ", ".join(
        f"{f'{cost:,.2f}' if cost >= 1 else f'{cost:.2g}'} {where}" for where, cost in costs.items() if cost
    )


def _comparison(found: Estimate) -> Table:
    """A table with a row for each setting of activation checkpointing."""
    table = Table(box=None, pad_edge=False)
    table.add_column("activation checkpointing")
    for heading in ("tokens/micro-batch", "tokens/s", "training", "memory"):
        table.add_column(heading, justify="right")
    for way in found.ways:
        chosen = way.activation_checkpointing == found.activation_checkpointing
        speed = ("not tried", "")
        if way.tokens_per_second is not None and way.training_minutes is not None:
            speed = (f"{way.tokens_per_second:,.0f}", f"{way.training_minutes:.1f} min")
        name = "on" if way.activation_checkpointing else "off"
        table.add_row(
            f"{name} (chosen by {found.verb})" if chosen else name,
            f"{way.tokens_per_micro_batch:,}",
            *speed,
            gib(way.peak_memory_bytes),
            style="" if chosen else "dim",
        )
    return table


def _set_up(settings: EstimateSettings, machine: Machine, display: ProgressDisplay) -> TextJob:
    """Set up the run as its verb would."""
    if not holds_conversations(settings):
        return adapt_prepare.set_up(AdaptSettings(**_given(settings, AdaptSettings)), machine, display)
    from domain_ft.verbs.instruct import prepare as instruct_prepare

    given = _given(settings, InstructSettings) | {"data": settings.corpus}
    return instruct_prepare.set_up(InstructSettings(**given), machine, display)


def _given(settings: EstimateSettings, verb: type[Settings]) -> dict[str, Any]:
    """The settings that the verb has too, except those that are None: for these the verb uses its defaults."""
    known = {option.name for option in options(verb)}
    return {name: value for name, value in settings.to_dict().items() if name in known and value is not None}


def _way(job: TextJob, on: bool, limits: MicroBatchLimits, resident: int, tokens: int, display: ProgressDisplay) -> Way:
    """Measure training with activation checkpointing on or off.

    If the verb would not choose this setting, it is not tried where memory would probably run out.
    """
    chosen, device = on == job.micro_batches.activation_checkpointing, job.machine.device
    memory = micro_batch_memory(
        job.base, job.objective, job.train_rows, job.settings, job.machine, activation_checkpointing=on
    )
    size = job.micro_batches.tokens_per_micro_batch
    if not chosen and not job.micro_batches.asked_for:
        size = limits.largest(memory, limits.sizes(memory)) or limits.longest
    peak, rate = resident + limits.needed(memory, size), None
    if chosen or limits.fit(memory, size):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rate = _training_rate(job, on, size, PROBE_STEPS if chosen else COMPARED_STEPS, display)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
    return Way(on, size, rate, None if rate is None else tokens / rate / 60, peak)


def _training_rate(job: TextJob, on: bool, tokens_per_micro_batch: int, steps: int, display: ProgressDisplay) -> float:
    """Tokens per second in training: the median of up to `steps` steps, without the first if there are several."""
    lines: list[Mapping[str, Any]] = []
    loop = dataclasses.replace(
        job.loop,
        total_steps=min(steps, job.loop.total_steps),
        evaluate_every=0,
        tokens_per_micro_batch=tokens_per_micro_batch,
        activation_checkpointing=on,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(
            job.base,
            job.objective,
            job.train_rows,
            loop,
            accelerator=job.machine.accelerator,
            checkpoints=Path(folder),
            display=display,
            log=lines.append,
        )
    return float(statistics.median(line["tokens_per_second"] for line in lines[1:] or lines))


def _scoring_rate(job: TextJob) -> float:
    """Tokens per second in scoring, measured on about one micro-batch."""
    held_out = job.in_domain
    tokens_per_micro_batch = job.loop.tokens_per_micro_batch
    probe = dataclasses.replace(held_out, selected=held_out.rows.select_documents(tokens_per_micro_batch))
    began = time.perf_counter()
    objective = job.objective_of(held_out.role)
    score_held_out(job.base, objective, probe, job.machine, tokens_per_micro_batch=tokens_per_micro_batch)
    return int(probe.rows.lengths[probe.selected].sum()) / (time.perf_counter() - began)
