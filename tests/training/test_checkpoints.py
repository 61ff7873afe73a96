"""Checkpoints: complete or absent, the newest whole one is used, and a full disk leaves the older ones alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from domain_ft.errors import CheckpointError
from domain_ft.training import checkpoints
from domain_ft.training.checkpoints import TrainingState, load_latest, save_checkpoint
from domain_ft.training.optimizer import build_optimizer


def trained(seed: int) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Two parameters after two optimiser steps, and their optimiser."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: nn.Parameter(torch.randn(3, 2, generator=generator)) for name in ("a.weight", "b.weight")}
    optimizer = build_optimizer(parameters.items(), learning_rate=1e-2, weight_decay=0.1)
    for _ in range(2):
        for parameter in parameters.values():
            parameter.grad = torch.randn(3, 2, generator=generator)
        optimizer.step()
    return parameters, optimizer


def state(step: int) -> TrainingState:
    return TrainingState(step=step, tokens=100 * step, seconds=1.5, tokens_per_micro_batch=64)


def refuse_warnings(message: str) -> None:
    raise AssertionError(message)


def test_a_restored_run_takes_a_bit_identical_next_step(tmp_path: Path) -> None:
    parameters, optimizer = trained(0)
    save_checkpoint(tmp_path, parameters, optimizer, state(2), keep=2)
    others, restored = trained(1)
    assert load_latest(tmp_path, others, restored, refuse_warnings) == state(2)
    for values, stepper in ((parameters, optimizer), (others, restored)):
        for parameter in values.values():
            parameter.grad = torch.full_like(parameter, 0.3)
        stepper.step()
    assert all(torch.equal(parameters[name], others[name]) for name in parameters)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    parameters, optimizer = trained(0)
    for step in (9, 10, 11):
        save_checkpoint(tmp_path, parameters, optimizer, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "missing", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    parameters, optimizer = trained(0)
    for step in (1, 2):
        save_checkpoint(tmp_path, parameters, optimizer, state(step), keep=2)
    target = tmp_path / "step-2" / ("manifest.json" if damage == "manifest" else "model.safetensors")
    content = target.read_bytes()
    if damage == "missing":
        target.unlink()
    elif damage == "flip":
        target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        target.write_bytes(content[: len(content) // 2])
    warnings: list[str] = []
    assert load_latest(tmp_path, parameters, optimizer, warnings.append) == state(1)
    assert len(warnings) == 1
    assert "step-2 is damaged" in warnings[0]
    assert warnings[0].endswith("using the one before it")


def test_a_damaged_only_checkpoint_means_a_new_start(tmp_path: Path) -> None:
    parameters, optimizer = trained(0)
    (save_checkpoint(tmp_path, parameters, optimizer, state(2), keep=2) / "state.json").write_text("")
    warnings: list[str] = []
    assert load_latest(tmp_path, parameters, optimizer, warnings.append) is None
    assert len(warnings) == 1
    assert warnings[0].endswith("there is no older one, so training starts at step 0")


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    parameters, optimizer = trained(0)
    (save_checkpoint(tmp_path, parameters, optimizer, state(2), keep=2) / "state.json").write_text("")
    save_checkpoint(tmp_path, parameters, optimizer, state(2), keep=2)
    assert load_latest(tmp_path, parameters, optimizer, refuse_warnings) == state(2)


def test_a_partial_folder_is_never_seen_as_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".step-5.abc").mkdir()
    parameters, optimizer = trained(0)
    assert load_latest(tmp_path, parameters, optimizer, refuse_warnings) is None
    assert load_latest(tmp_path / "absent", parameters, optimizer, refuse_warnings) is None


def test_a_full_disk_is_reported_and_the_older_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, optimizer = trained(0)
    save_checkpoint(tmp_path, parameters, optimizer, state(1), keep=1)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", no_space)
    message = r"step 2 cannot be written: No space left(.|\n)*free on this disk(.|\n)*--resume"
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path, parameters, optimizer, state(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert load_latest(tmp_path, parameters, optimizer, refuse_warnings) == state(1)


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    parameters, optimizer = trained(0)
    save_checkpoint(tmp_path, parameters, optimizer, state(1), keep=1)
    with pytest.raises(CheckpointError, match=r"b\.weight"):
        load_latest(tmp_path, {"a.weight": parameters["a.weight"]}, optimizer, refuse_warnings)


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    parameters, optimizer = trained(0)
    folder = save_checkpoint(tmp_path, parameters, optimizer, state(3), keep=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) | {"manifest.json"} == {path.name for path in folder.iterdir()}
    assert all(entry["bytes"] == (folder / name).stat().st_size for name, entry in manifest.items())
