"""The loop: its arithmetic does not depend on how a step is cut or shared, and a resumed run is the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

import forked
import numpy as np
import numpy.typing as npt
import pytest
import torch
from accelerate import Accelerator
from loop_jobs import cpu_accelerator, job, run, settings, train_in_a_process
from safetensors.torch import load_file
from torch import nn

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.packing import Step, StepPlan
from domain_ft.corpus.tokens import TokenRows
from domain_ft.errors import CheckpointError, TrainingError
from domain_ft.models.activation_checkpointing import ActivationCheckpointing
from domain_ft.models.lora_layers import LoraLinear
from domain_ft.models.modes import without_base_dropout
from domain_ft.objectives.base import IGNORED, Inputs
from domain_ft.training import loop as loop_module
from domain_ft.training.loop import Interrupted, count_steps, stop_requests, train
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.shared.machine import forget_earlier_accelerators


def start(folder: Path, *, said: str = "said", **asked: Any) -> tuple[BaseProcess, Connection]:
    """Start a job in its own process; return the process and the connection that receives the number of each step."""
    ours, theirs = forked.SERVER.Pipe(duplex=False)
    folder.mkdir(exist_ok=True)
    process = forked.start(train_in_a_process, folder, theirs, asked, said=folder / said, OMP_NUM_THREADS="1")
    theirs.close()  # only the process holds this end now, so reading fails once the process has ended
    return process, ours


def finish(folder: Path, **asked: Any) -> None:
    process, steps = start(folder, **asked)
    process.join(300)
    steps.close()
    assert process.exitcode == 0, (folder / "said.err").read_text()


def largest_difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# --- The arithmetic of a step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_loss_and_gradient_norm_are_those_of_the_mean_over_all_labelled_tokens(
    architecture: str, tmp_path: Path
) -> None:
    """The definition: each sequence alone, cross-entropy of full logits, one division by the number of labels."""
    base, objective, rows = job(architecture, lora=False)
    plan = StepPlan(rows.lengths, 240, 3)
    step = plan.step(0)
    total, items = torch.zeros(()), 0
    for row in step.rows:
        inputs = objective.prepare(rows.pack(row[None]), step.epoch)
        logits = base.model(input_ids=inputs.input_ids[None]).logits[0]
        total = total + nn.functional.cross_entropy(logits, inputs.labels, ignore_index=IGNORED, reduction="sum")
        items += int((inputs.labels != IGNORED).sum())
    (total / items).backward()
    expected = {n: p.grad.clone() for n, p in base.model.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in expected.values()))

    lines: list[Mapping[str, Any]] = []
    run(tmp_path, architecture, lora=False, loop=settings(total_steps=1, max_grad_norm=0.0), log=lines.append)
    assert lines[0]["loss"] == pytest.approx(total.item() / items, rel=1e-5)
    assert lines[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("architecture", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_micro_batches_of_any_size_train_the_same_model(architecture: str, tmp_path: Path) -> None:
    """The same steps in one micro-batch, in about two, and in one for each sequence."""
    losses: dict[int, list[float]] = {}
    weights = {}
    for tokens_per_micro_batch in (240, 120, 1):
        lines: list[Mapping[str, Any]] = []
        _, weights[tokens_per_micro_batch] = run(
            tmp_path / str(tokens_per_micro_batch),
            architecture,
            loop=settings(tokens_per_micro_batch=tokens_per_micro_batch),
            log=lines.append,
        )
        losses[tokens_per_micro_batch] = [line["loss"] for line in lines]
    for smaller in (120, 1):
        assert losses[smaller] == pytest.approx(losses[240], rel=1e-5)
        # Adam divides by the root of the squared gradient, so rounding errors of tiny gradients show in the weights.
        assert largest_difference(weights[240], weights[smaller]) < 2e-4


def test_the_precision_of_an_earlier_run_in_the_same_process_is_forgotten() -> None:
    forget_earlier_accelerators()
    assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    assert cpu_accelerator().mixed_precision == "no"


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    lines: list[Mapping[str, Any]] = []
    run(tmp_path, "gpt2", lora=False, loop=settings(total_steps=40, learning_rate=1e-2), log=lines.append)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


def test_a_line_of_the_log_has_the_documented_fields(tmp_path: Path) -> None:
    lines: list[Mapping[str, Any]] = []
    state, _ = run(tmp_path, loop=settings(total_steps=2), log=lines.append)
    assert set(lines[0]) == {
        "step",
        "tokens",
        "loss",
        "learning_rate",
        "tokens_per_second",
        "padding_fraction",
        "grad_norm",
        "memory_bytes",
    }
    assert [line["step"] for line in lines] == [1, 2]
    assert state.tokens == lines[-1]["tokens"]


@pytest.mark.parametrize(("architecture", "padded"), [("bert", False), ("mpnet", True)])
def test_padding_is_measured_where_a_model_needs_it(architecture: str, padded: bool, tmp_path: Path) -> None:
    lines: list[Mapping[str, Any]] = []
    run(tmp_path, architecture, loop=settings(total_steps=1), log=lines.append)
    assert 0 <= lines[0]["padding_fraction"] < 0.5
    assert (lines[0]["padding_fraction"] > 0) == padded


# --- Resume ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [{"dropout": 0.3}, {"base": True}])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(dropout: dict[str, Any], tmp_path: Path) -> None:
    def at(folder: str, resume: bool, stop: int | None = None) -> dict[str, torch.Tensor]:
        lines = 0

        def log(line: Mapping[str, Any]) -> None:
            nonlocal lines
            lines += 1
            if lines == stop:
                raise InterruptedError

        loop = settings(total_steps=7, base_dropout="base" in dropout)
        return run(tmp_path / folder, loop=loop, dropout=dropout.get("dropout", 0.0), resume=resume, log=log)[1]

    whole = at("whole", resume=False)
    with pytest.raises(InterruptedError):
        at("cut", resume=False, stop=5)
    resumed = at("cut", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_the_same(tmp_path: Path) -> None:
    asked = {"steps": 12, "slow": 0.1, "dropout": 0.2}
    finish(tmp_path / "whole", **asked)
    draw = random.Random(0)
    for attempt in range(3):
        process, steps = start(tmp_path / "killed", resume=attempt > 0, **asked)
        for _ in range(draw.randint(1, 4)):
            steps.recv()
        time.sleep(draw.random() * 0.12)
        process.kill()
        process.join()
        steps.close()
    finish(tmp_path / "killed", resume=True, **asked)
    whole, killed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_resuming_with_other_parameters_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "bert")
    with pytest.raises(CheckpointError, match="other parameters"):
        run(tmp_path, "bert", lora=False, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_the_last_step(number: signal.Signals, tmp_path: Path) -> None:
    process, steps = start(tmp_path, steps=500, slow=0.05)
    for _ in range(3):
        last = steps.recv()
    os.kill(process.pid, number)
    with contextlib.suppress(EOFError):
        while True:
            last = steps.recv()
    process.join(60)
    steps.close()
    assert process.exitcode != 0
    newest = max(int(path.name.split("-")[1]) for path in (tmp_path / "checkpoints").iterdir())
    assert newest == last


def test_a_stop_request_raises_after_the_checkpoint(tmp_path: Path) -> None:
    def log(line: Mapping[str, Any]) -> None:
        if line["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 3"):
        run(tmp_path, loop=settings(total_steps=50, checkpoint_every=50), log=log)
    assert (tmp_path / "checkpoints" / "step-3" / "manifest.json").is_file()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_no_signal_is_caught_outside_the_main_thread() -> None:
    caught: list[bool] = []

    def body() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with stop_requests(ProgressDisplay(quiet=True)):
            caught.append(signal.getsignal(signal.SIGTERM) != before)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert caught == [False]


# --- What goes wrong ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_and_documents(tmp_path: Path) -> None:
    base, objective, rows = job("bert")
    poisoned = int(StepPlan(rows.lengths, 240, 3).step(1).rows[0])

    class Poisoned:
        name = "mlm"
        poison: ClassVar[dict[int, torch.Tensor]] = {}

        def prepare(self, batch: Any, epoch: int) -> Inputs:
            inputs = objective.prepare(batch, epoch)
            self.poison[id(inputs)] = torch.from_numpy(batch.rows == poisoned)
            return inputs

        def row_losses(self, base: Any, inputs: Inputs) -> torch.Tensor:
            return torch.where(self.poison[id(inputs)], math.nan, objective.row_losses(base, inputs))

        def loss(self, base: Any, inputs: Inputs) -> torch.Tensor:
            return self.row_losses(base, inputs).sum()

    with pytest.raises(TrainingError) as caught:
        train(
            base,
            Poisoned(),
            rows,
            settings(),
            accelerator=cpu_accelerator(),
            checkpoints=tmp_path / "checkpoints",
            display=ProgressDisplay(quiet=True),
            log=lambda line: None,
        )
    assert "nan in step 2" in str(caught.value)
    assert caught.value.where == f"documents {rows.document_id(int(rows.documents[poisoned]))}"
    assert "--learning-rate" in str(caught.value)
    assert all(bool(torch.isfinite(p).all()) for p in base.model.parameters())


def test_a_micro_batch_that_runs_out_of_memory_is_halved_and_the_step_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = run(tmp_path / "plenty", loop=settings(total_steps=3))
    largest: list[int] = []
    real = loop_module.LossModule.forward

    def limited(self: nn.Module, inputs: Inputs) -> torch.Tensor:
        if inputs.input_ids.numel() > 130:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8")
        largest.append(inputs.input_ids.numel())
        return real(self, inputs)

    monkeypatch.setattr(loop_module.LossModule, "forward", limited)
    state, found = run(tmp_path / "short", loop=settings(total_steps=3))
    assert state.tokens_per_micro_batch <= 130
    assert max(largest) <= 130
    assert largest_difference(expected, found) < 2e-4


def test_activation_checkpointing_trains_a_bit_identical_model(tmp_path: Path) -> None:
    (_, plain), (state, found) = (
        run(tmp_path / str(on), dropout=0.3, loop=settings(total_steps=3, activation_checkpointing=on))
        for on in (False, True)
    )
    assert state.activation_checkpointing
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_activation_checkpointing_is_the_last_resort_if_no_sequence_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run keeps it on."""
    loop = settings(total_steps=4, schedule="constant", warmup=0.0)
    _, expected = run(tmp_path / "plenty", loop=loop)
    real = loop_module.LossModule.forward

    def limited(self: loop_module.LossModule, inputs: Inputs) -> torch.Tensor:
        if not ActivationCheckpointing(self.model).on:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, inputs)

    monkeypatch.setattr(loop_module.LossModule, "forward", limited)
    state, _ = run(tmp_path / "short", loop=dataclasses.replace(loop, total_steps=2))
    assert state.activation_checkpointing
    monkeypatch.setattr(loop_module.LossModule, "forward", real)
    state, found = run(tmp_path / "short", loop=loop, resume=True)
    assert state.activation_checkpointing
    assert state.tokens_per_micro_batch <= 32
    assert largest_difference(expected, found) < 2e-4


def test_memory_that_does_not_suffice_for_one_sequence_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: nn.Module, inputs: Inputs) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop_module.LossModule, "forward", never)
    with pytest.raises(TrainingError, match="memory ran out in step 1"):
        run(tmp_path)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: nn.Module, inputs: Inputs) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop_module.LossModule, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(tmp_path)


# --- Parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "opt", "modernbert", "llama"])
def test_base_dropout_is_off_and_lora_dropout_stays(architecture: str) -> None:
    base, objective, rows = job(architecture, dropout=0.5)
    base.model.train()
    before = [module.p for module in base.model.modules() if isinstance(module, torch.nn.Dropout)]
    with without_base_dropout(base.model):
        layers = [layer for layer in base.model.modules() if isinstance(layer, LoraLinear)]
        assert layers
        assert {layer.dropout for layer in layers} == {0.5}
        for layer in layers:
            layer.dropout = 0.0
        inputs = objective.prepare(rows.pack([0, 1, 2]), 0)
        training = objective.loss(base, inputs)
        base.model.eval()
        assert torch.equal(training, objective.loss(base, inputs))
    assert [module.p for module in base.model.modules() if isinstance(module, torch.nn.Dropout)] == before


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"epochs": 1.0}, 10),
        ({"epochs": 2.5}, 25),
        ({"max_tokens": 1000}, 10),
        ({"max_tokens": 1}, 1),
        ({"max_tokens": 1001}, 11),
    ],
)
def test_budgets_become_steps(budget: dict[str, Any], steps: int) -> None:
    plan = StepPlan([20] * 50, 100, 0)
    given = {"max_tokens": None, "max_steps": None, "epochs": None} | budget
    assert count_steps(plan, 1000, **given) == steps


class Rollouts:
    """Rows and steps in one: each step adds a row, and reads the newest and the oldest."""

    def __init__(self, rows: TokenRows) -> None:
        self._rows = rows
        self._count = 1

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        return self._rows.lengths[: self._count]

    def pack(self, rows: npt.ArrayLike) -> PackedBatch:
        assert np.max(rows) < self._count
        return self._rows.pack(rows)

    def row_id(self, row: int) -> str:
        return self._rows.row_id(row)

    def step(self, index: int) -> Step:
        self._count = index + 2
        return Step(epoch=0, rows=np.array([0, index + 1]))


def test_rows_may_be_made_during_training(tmp_path: Path) -> None:
    base, objective, rows = job("gpt2")
    source = Rollouts(rows)
    lines: list[Any] = []
    state = train(
        base,
        objective,
        source,
        settings(total_steps=5),
        accelerator=cpu_accelerator(),
        checkpoints=tmp_path,
        display=ProgressDisplay(quiet=True),
        log=lines.append,
        steps=source,
    )
    assert state.step == 5
    assert state.tokens == int(5 * rows.lengths[0] + rows.lengths[1:6].sum())
    assert all(math.isfinite(line["loss"]) for line in lines)
