"""Training jobs that several processes do together, one after another, with their results in files.

They compute in float64, so a difference from one process is a fault and not rounding.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from loop_jobs import cpu_accelerator, run, settings
from safetensors.torch import save_file

from domain_ft.training.loop import Interrupted

JOBS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora on a decoder, in many micro-batches": {"architecture": "llama", "loop": {"tokens_per_micro_batch": 40}},
    "lora on Conv1D": {"architecture": "gpt2"},
    "padded batches": {"architecture": "mpnet"},
    "fewer sequences than processes": {"loop": {"tokens_per_step": 1}},
    "every weight": {"architecture": "gpt2", "lora": False},
    "pairs": {"pairs": True, "loop": {"tokens_per_micro_batch": 120}},
    "fewer pairs than processes": {"pairs": True, "loop": {"tokens_per_step": 1}},
}
"""What is trained, by name, in four steps with a point of the curve after the second."""

SHARDED = [name for name, asked in JOBS.items() if asked.get("architecture") != "mpnet" and "pairs" not in asked]
"""The jobs that can be sharded: not those with padded batches or pairs."""

BY_FOUR = ["lora", "fewer sequences than processes"]
"""The jobs that four processes do too. The others test what does not depend on the number of processes."""

RELAY_STEPS = 6


def train_job(folder: Path, name: str, *, sharded: bool = False) -> None:
    """Do the job `name`; write the lines of its log and its trained weights."""
    asked = JOBS[name]
    lines: list[Mapping[str, Any]] = []
    loop = settings(total_steps=4, evaluate_every=2, **asked.get("loop", {}))
    _, weights = run(
        folder,
        asked.get("architecture", "bert"),
        lora=asked.get("lora", True),
        pairs=asked.get("pairs", False),
        loop=loop,
        sharded=sharded,
        exact=True,
        log=lines.append,
    )
    write(folder, lines, weights)


def relay(folder: Path, *, sharded: bool, stop_after: int | None) -> None:
    """Continue the run in `folder`, to its end or until the last process gets SIGTERM after step `stop_after`."""
    accelerator = cpu_accelerator()
    lines: list[Mapping[str, Any]] = []

    def log(line: Mapping[str, Any]) -> None:
        lines.append(line)
        if line["step"] == stop_after and accelerator.is_last_process:
            signal.raise_signal(signal.SIGTERM)

    try:
        loop = settings(total_steps=RELAY_STEPS, checkpoint_every=100)
        _, weights = run(folder, loop=loop, sharded=sharded, resume=True, exact=True, log=log)
    except Interrupted:
        assert lines[-1]["step"] == stop_after
        return
    write(folder, lines, weights)


def write(folder: Path, lines: list[Mapping[str, Any]], weights: Mapping[str, torch.Tensor]) -> None:
    """Write the files that the test reads; only in the main process."""
    if cpu_accelerator().is_main_process:
        kept = ("step", "tokens", "loss", "grad_norm", "evaluation")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lines.json").write_text(json.dumps([{k: line[k] for k in kept if k in line} for line in lines]))
        save_file(dict(weights), folder / "weights.safetensors")


def do_all(folder: Path, stop_after: int | None) -> None:
    """Do every job for this number of processes, and its part of the relay."""
    torch.set_num_threads(1)
    ranks = cpu_accelerator().num_processes
    for sharded in (False, True) if ranks > 1 else (False,):
        kind = "sharded" if sharded else "whole"
        for name in BY_FOUR if ranks == 4 else SHARDED if sharded else JOBS:
            train_job(folder / f"{ranks} {kind}" / name, name, sharded=sharded)
    for sharded in (False, True):
        relay(
            folder / ("relay sharded" if sharded else "relay whole"),
            sharded=sharded and ranks > 1,
            stop_after=stop_after,
        )
