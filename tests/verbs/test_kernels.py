"""`adapt --kernels ...`: every backend takes the steps of the reference, and the run folder names the backend."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from verb_jobs import settings

from domain_ft.checking import PROVENANCE, tomllib
from domain_ft.models.lora import lora_of
from domain_ft.verbs.adapt.run import AdaptRun, adapt

NO_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run(tmp_path: Path, architecture: str, kernels: str) -> AdaptRun:
    """A run of two steps with dropout on every linear layer, and with little to evaluate."""
    return adapt(
        settings(
            tmp_path,
            architecture,
            kernels=kernels,
            output=tmp_path / kernels,
            dropout=0.1,
            max_steps=2,
            tokens_per_step=128,
            tokens_per_micro_batch=100,
            evaluation_tokens=64,
            evaluate_every=2,
            control="none",
            examples=False,
        )
    )


def losses(finished: AdaptRun) -> list[float]:
    return [json.loads(line)["loss"] for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]


def adapter(finished: AdaptRun) -> dict[str, Tensor]:
    return load_file(finished.folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from the interpreter, about padding that nothing reads
@pytest.mark.parametrize("kernels", ["torch", pytest.param("triton", marks=[NO_TRITON, pytest.mark.slow])])
@pytest.mark.parametrize(
    ("architecture", "objective"), [("bert", "mlm"), pytest.param("llama", "clm", marks=pytest.mark.slow)]
)
def test_every_backend_takes_the_same_steps(architecture: str, objective: str, kernels: str, tmp_path: Path) -> None:
    """In float32 the backends differ only in the order of their sums, so losses differ by a few roundings.

    Adam divides a gradient by its own size, so a weight whose gradient is only rounding may move by the learning rate
    in another direction. So the difference of all weights is bounded by its norm, relative to how far B has moved.
    """
    expected, found = (run(tmp_path, architecture, backend) for backend in ("reference", kernels))
    assert found.result["objective"] == objective
    assert losses(found) == pytest.approx(losses(expected), rel=1e-6)
    assert found.result["after"]["domain"]["loss"] == pytest.approx(
        expected.result["after"]["domain"]["loss"], rel=1e-6
    )
    ours, theirs = adapter(found), adapter(expected)
    assert ours.keys() == theirs.keys()
    moved = torch.cat([t.flatten() for name, t in theirs.items() if "lora_B" in name])  # B starts at zero
    apart = torch.cat([(ours[name] - theirs[name]).flatten() for name in ours])
    assert 0 < apart.norm() <= 1e-4 * moved.norm()  # 0 would be the reference itself


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_the_run_folder_says_which_kernels_ran(kernels: str, tmp_path: Path) -> None:
    finished = run(tmp_path, "bert", kernels)
    ran = "torch" if kernels == "auto" else kernels
    assert finished.result["kernels"] == ran
    config = tomllib.loads((finished.folder / "config.toml").read_text())
    assert config["kernels"] == config[PROVENANCE]["kernels"] == ran
    assert {layer.backend for layer in lora_of(finished.model).layers.values()} == {ran}
