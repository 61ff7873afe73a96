"""Several processes train what one trains, with whole weights (DDP) or shards (FSDP2), and can take over a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from loop_jobs import run
from rank_jobs import BY_FOUR, JOBS, SHARDED, do_all, relay
from safetensors.torch import load_file
from torch import nn

from domain_ft.errors import TrainingError
from domain_ft.models.activation_checkpointing import repeated_layers

# In another order, sums in float64 differ by a relative 1e-16. Adam divides by the root of the squared gradient, so the
# weights differ more: at most 1.2e-13 was measured, after four steps at a learning rate of 5e-3.
WEIGHTS, LOSS = 1e-11, 1e-12


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the jobs, done by 2, 4 and 1 processes; the relay is a run that they continue in this order."""
    folder = tmp_path_factory.mktemp("ranks")
    for ranks, stop in ((2, 2), (4, 4), (1, None)):
        finished = forked.run(do_all, folder, stop, ranks=ranks, said=folder / f"said-{ranks}", OMP_NUM_THREADS="1")
        assert not any(finished.codes), finished.stderr[-4000:]
    return folder


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads((folder / "lines.json").read_text())
    return lines


def _compare(folder: Path, alone: Path, steps: slice = slice(None)) -> None:
    """Check that two folders have equal results; `steps` are the lines of the second that the first has too."""
    found, expected = _lines(folder), _lines(alone)[steps]
    assert [(line["step"], line["tokens"]) for line in found] == [(line["step"], line["tokens"]) for line in expected]
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in found] == pytest.approx([line[key] for line in expected], rel=LOSS)
    curve, curve_alone = (
        [line["evaluation"]["loss"] for line in lines if "evaluation" in line] for lines in (found, expected)
    )
    assert curve == pytest.approx(curve_alone, rel=LOSS)
    weights, weights_alone = (load_file(path / "weights.safetensors") for path in (folder, alone))
    assert weights.keys() == weights_alone.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], weights_alone[name], rtol=0, atol=WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "job"),
    [
        *(("2 whole", job) for job in JOBS),
        *(("2 sharded", job) for job in SHARDED),
        *((f"4 {kind}", job) for kind in ("whole", "sharded") for job in BY_FOUR),
    ],
)
def test_processes_together_train_what_one_trains(kind: str, job: str, done: Path) -> None:
    _compare(done / kind / job, done / "1 whole" / job)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_a_run_continues_with_another_number_of_processes(kind: str, done: Path, tmp_path: Path) -> None:
    """Two processes stop after step 2, since one gets a signal; four continue to step 4, and one to the end."""
    relay(tmp_path, sharded=False, stop_after=None)
    _compare(done / f"relay {kind}", tmp_path, slice(4, None))


def test_a_model_with_padded_batches_is_not_sharded(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be sharded"):
        run(tmp_path, "mpnet", sharded=True)


def test_layers_that_are_sharded_are_the_stack_of_blocks() -> None:
    block = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]) for _ in range(3)])
    model = nn.Sequential(nn.Embedding(4, 2), block, nn.ModuleList([nn.Linear(2, 2)]))
    assert repeated_layers(model) == list(block)
