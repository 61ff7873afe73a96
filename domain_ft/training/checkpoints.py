"""Checkpoints, which are either complete or absent.

    checkpoints/best.safetensors                  trained parameters at the best point of the held-out curve
    checkpoints/step-120/  model.safetensors      trained parameters by name
                           optimizer.safetensors  `<parameter>.<exp_avg|exp_avg_sq|step>`
                           state.json             `TrainingState`
                           manifest.json          size and SHA-256 of the three

A folder is filled under a temporary name, flushed and renamed. Nothing else has to be saved: random numbers are derived
from the seed (`domain_ft.randomness`), and the schedule is a function of the step.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from domain_ft.errors import CheckpointError
from domain_ft.storage import new_folder, sha256, storage_error, write_atomic, write_json
from domain_ft.training.sharding import shard_like, unsharded

BEST_NAME = "best.safetensors"
_NAME = re.compile(r"step-(\d+)")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")

_FORMER = {"tokens_per_pass": "tokens_per_micro_batch"}
"""Keys of state.json in the previous version, whose runs can be resumed, and their current names."""


@dataclass(frozen=True)
class TrainingState:
    """The progress of a run after `step` optimiser steps.

    Attributes:
        step: optimiser steps taken.
        tokens: tokens trained on, special tokens included; those of each epoch count.
        seconds: time spent training, including the parts before the run was resumed.
        tokens_per_micro_batch: the current limit, smaller than the setting once memory has run out.
        activation_checkpointing: whether layers are recomputed in the backward pass, because of the setting or because
            memory ran out.
        best_score: the best score on the held-out curve, a list of numbers; None before the first point, or if points
            have no score.
        best_step: the step of that point, whose weights are in best.safetensors.
        points_since_best: the number of points after the best one.
    """

    step: int
    tokens: int
    seconds: float
    tokens_per_micro_batch: int
    activation_checkpointing: bool = False
    best_score: list[float] | None = None
    best_step: int | None = None
    points_since_best: int = 0

    def after_point(self, score: Sequence[float]) -> TrainingState:
        """The state after a point of the held-out curve with this score."""
        if self.best_score is None or list(score) > self.best_score:
            return dataclasses.replace(self, best_score=list(score), best_step=self.step, points_since_best=0)
        return dataclasses.replace(self, points_since_best=self.points_since_best + 1)


def save_best(folder: Path, parameters: Mapping[str, nn.Parameter], *, write: bool = True) -> None:
    """Write the trained parameters to `folder`/best.safetensors, replacing an earlier one.

    One process writes. With sharded weights all processes must call this, the others with `write` off.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    weights = _gathered(parameters, keep=write)
    if not write:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / BEST_NAME, save(weights, metadata={"format": "pt"}))
    except OSError as error:
        explained = storage_error(
            error, "the best model so far", where=folder, then="continue with --resume", kind=CheckpointError
        )
        if explained is None:
            raise
        raise explained from error


def load_best(folder: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Copy what `save_best` wrote into `parameters`."""
    weights = load_file(folder / BEST_NAME)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(shard_like(weights[name], parameter))


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    *,
    keep: int,
    write: bool = True,
) -> Path:
    """Write `folder`/step-N and remove all but the newest `keep`.

    One process writes. With sharded weights all processes must call this, the others with `write` off.

    Raises:
        CheckpointError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    target = folder / f"step-{state.step}"
    weights = _gathered(parameters, keep=write)
    moments = _gathered(_optimizer_tensors(parameters, optimizer), keep=write)
    if not write:
        return target
    try:
        if target.exists():  # a damaged one of the same step, from before the run was resumed
            shutil.rmtree(target)
        with new_folder(target) as temporary:
            save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
            save_file(moments, temporary / "optimizer.safetensors")
            write_json(temporary / "state.json", asdict(state))
            manifest = {
                name: {"bytes": (temporary / name).stat().st_size, "sha256": sha256(temporary / name)}
                for name in _FILES
            }
            write_json(temporary / "manifest.json", manifest)
    except Exception as error:
        explained = storage_error(
            error,
            f"the checkpoint of step {state.step}",
            where=folder,
            then="continue from the checkpoint before it with --resume; nothing older was touched",
            kind=CheckpointError,
        )
        if explained is None:
            raise
        raise explained from error
    for _, old in _steps(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_latest(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    warn: Callable[[str], None],
) -> TrainingState | None:
    """Load the newest complete checkpoint of `folder` into `parameters` and `optimizer`; None if there is none.

    Damage to a checkpoint is reported to `warn`, and the checkpoint before it, if any, is used.

    Raises:
        CheckpointError: the checkpoint has other parameters than this run trains.
    """
    found = _steps(folder)
    while found:
        step, path = found.pop()
        damage = _damage(path)
        if damage:
            then = "using the one before it" if found else "there is no older one, so training starts at step 0"
            warn(f"checkpoint step-{step} is damaged ({damage}); {then}")
            continue
        _restore(path, parameters, optimizer)
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return TrainingState(**{_FORMER.get(name, name): value for name, value in state.items()})
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def _damage(path: Path) -> str | None:
    """How a checkpoint's files differ from its manifest, in words; None if they do not."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name in _FILES:
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != manifest[name]["bytes"] or sha256(file) != manifest[name]["sha256"]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json cannot be read"
    return None


def _optimizer_tensors(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by `<parameter>.<key>`."""
    return {
        f"{name}.{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """`tensors` unsharded and on the CPU, gathered one at a time; empty unless `keep`."""
    gathered = {}
    for name, tensor in tensors.items():
        full = unsharded(tensor.detach())
        if keep:
            gathered[name] = full.cpu().contiguous()
    return gathered


def _restore(path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    weights = load_file(path / "model.safetensors")
    if weights.keys() != parameters.keys():
        differing = min(weights.keys() ^ parameters.keys())
        raise CheckpointError(
            f"checkpoint {path.name} has other parameters than this run trains; the first that differs: {differing}",
            where=str(path),
            fix="resume with the run's original settings (its config.toml), or choose another --output",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(shard_like(weights[name], parameter))
    moments = load_file(path / "optimizer.safetensors")
    for key, value in moments.items():
        name, _, moment = key.rpartition(".")
        parameter = parameters[name]
        # The step count is a single number, never sharded.
        state = value.to(parameter.device) if moment == "step" else shard_like(value, parameter)
        optimizer.state[parameter][moment] = state
