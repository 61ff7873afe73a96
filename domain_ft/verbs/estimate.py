"""`domain-ft data estimate`: what `adapt` with the same options would take on this machine, from a short probe.

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
from typing import Any

from rich.console import Console
from rich.table import Table

from domain_ft.settings import AdaptSettings, EstimateSettings
from domain_ft.training.loop import peak_memory_bytes, train
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt import Job, add_trainable, curve_tokens, set_up
from domain_ft.verbs.language_model import choose_machine, score_held_out

PROBE_STEPS = 4
"""Optimiser steps that are run: the first, which warms caches up, is not counted."""

OPTIMIZER_COPIES = 3
"""A checkpoint holds each trained number and AdamW's two moments of it."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        corpus_tokens: tokens of the training split, special tokens included.
        epochs: how many times the run reads it.
        tokens: that the run trains on.
        steps: optimiser steps.
        tokens_per_second: measured, in training.
        training_minutes: at that speed.
        evaluation_minutes: for scoring before, after and along the way.
        peak_memory_bytes: of the probe; on a CPU all that the process has had resident.
        disk_bytes: of the adapter and the checkpoints.
        trainable_parameters: numbers that train.
    """

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

    @property
    def minutes(self) -> float:
        """Minutes in all, without reading and tokenising, which the probe has done and cached."""
        return self.training_minutes + self.evaluation_minutes


def estimate(settings: EstimateSettings) -> Estimate:
    """Prepare text and model as `adapt` would, train a few steps that are thrown away, and extrapolate."""
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet) as display:
        job = set_up(AdaptSettings(**settings.to_dict()), machine, display)
        add_trainable(job)
        scoring_rate = _scoring_rate(job)
        training_rate = _training_rate(job, display)
    plan_tokens = job.train_rows.tokens / job.steps_per_epoch
    tokens = round(plan_tokens * job.loop.total_steps)
    points = max(0, job.loop.total_steps // job.loop.evaluate_every - 1)
    scored = 2 * sum(int(held.rows.lengths[held.selected].sum()) for held in job.held_out.values())
    trainable = sum(p.numel() for p in job.base.model.parameters() if p.requires_grad)
    return Estimate(
        corpus_tokens=job.train_rows.tokens,
        epochs=job.loop.total_steps / job.steps_per_epoch,
        tokens=tokens,
        steps=job.loop.total_steps,
        tokens_per_second=training_rate,
        training_minutes=tokens / training_rate / 60,
        evaluation_minutes=(scored + points * curve_tokens(job.settings)) / scoring_rate / 60,
        peak_memory_bytes=peak_memory_bytes(),
        disk_bytes=4 * trainable * (1 + OPTIMIZER_COPIES * job.loop.keep_checkpoints),
        trainable_parameters=trainable,
    )


def run(settings: EstimateSettings) -> dict[str, Any]:
    """The verb: estimate and print."""
    found = estimate(settings)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for label, value in _lines(found):
        table.add_row(label, value)
    Console(quiet=settings.json).print(table)
    return {"command": "data estimate"} | dataclasses.asdict(found) | {"minutes": found.minutes}


def _lines(found: Estimate) -> list[tuple[str, str]]:
    return [
        ("corpus", f"{found.corpus_tokens:,} tokens to train on"),
        ("run", f"{found.tokens:,} tokens in {found.steps:,} steps, {found.epochs:.2g} times through the corpus"),
        ("trains", f"{found.trainable_parameters:,} parameters"),
        ("speed", f"{found.tokens_per_second:,.0f} tokens a second, measured in training on this machine"),
        ("time", f"{found.training_minutes:.1f} min training and {found.evaluation_minutes:.1f} min measuring"),
        ("memory", f"{found.peak_memory_bytes / 2**30:.1f} GiB at the peak of the probe"),
        ("disk", f"{found.disk_bytes / 2**20:.0f} MiB for adapter and checkpoints"),
    ]


def _training_rate(job: Job, display: ProgressDisplay) -> float:
    """Tokens a second in training: the median over the probe's steps but the first."""
    lines: list[Mapping[str, Any]] = []
    loop = dataclasses.replace(job.loop, total_steps=min(PROBE_STEPS, job.loop.total_steps), evaluate_every=0)
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
    return statistics.median(line["tokens_per_second"] for line in lines[1:] or lines)


def _scoring_rate(job: Job) -> float:
    """Tokens a second in scoring, over one pass."""
    domain = job.held_out["domain"]
    probe = dataclasses.replace(domain, selected=domain.rows.select_documents(job.settings.tokens_per_pass))
    began = time.perf_counter()
    score_held_out(job.base, job.objective, probe, job.machine, tokens_per_pass=job.settings.tokens_per_pass)
    return int(probe.rows.lengths[probe.selected].sum()) / (time.perf_counter() - began)
