"""The loop on a downstream task: it learns, however a step is cut, and a resumed run is the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from loop_jobs import cpu_accelerator, settings
from safetensors.torch import load_file
from task_jobs import ARCHITECTURES, learn_all
from tiny_examples import WORDS, toy_examples
from tiny_models import save_tiny
from torch import Tensor

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.tasks.rows import ExampleRows, encode
from domain_ft.evaluation.logits import predict_logits
from domain_ft.models.activation_checkpointing import ActivationCheckpointing
from domain_ft.models.lora import LoraConfig, apply_lora
from domain_ft.models.task_model import TaskModel, load_task_model
from domain_ft.objectives.base import Objective
from domain_ft.objectives.classification import ClassificationObjective, class_weights
from domain_ft.objectives.supervised_contrastive import SupervisedContrastive
from domain_ft.training.loop import train
from domain_ft.training.memory import measure_micro_batch
from domain_ft.training.progress import ProgressDisplay

LABELS = Labels(tuple(WORDS))


def job(
    folder: Path, architecture: str = "bert", *, lora: bool = True, dropout: float = 0.0
) -> tuple[TaskModel, ExampleRows]:
    """A tiny model that trains a new head and LoRA, or all weights; and examples, some of them read in windows."""
    folder = folder / architecture
    model = load_task_model(str(folder if folder.is_dir() else save_tiny(architecture, folder)), LABELS)
    if lora:
        apply_lora(model.model, LoraConfig(rank=4, alpha=8.0, dropout=dropout, train_modules=model.new_modules), seed=1)
    else:
        model.model.requires_grad_(True)
    rows = encode(toy_examples(60), LABELS, model.tokenizer, max_length=32, long_text="windows")
    assert (np.bincount(rows.pack(range(60)).owners) > 1).any()
    return model, rows


def run(
    model: TaskModel,
    rows: ExampleRows,
    folder: Path,
    *,
    resume: bool = False,
    log: Any = lambda line: None,
    objective: Objective | None = None,
    **loop: Any,
) -> dict[str, Tensor]:
    """Train; return the trained weights by name."""
    weights = class_weights(rows.targets, LABELS)
    train(
        model,
        objective or ClassificationObjective(LABELS, class_weights=weights),
        rows,
        settings(**{"rows_per_step": 8, "tokens_per_micro_batch": 400, **loop}),
        accelerator=cpu_accelerator(),
        checkpoints=folder / "checkpoints",
        display=ProgressDisplay(quiet=True),
        log=log,
        resume=resume,
    )
    return {name: p.detach().clone() for name, p in model.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("architecture", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_task_is_learned(architecture: str, tmp_path: Path) -> None:
    model, rows = job(tmp_path, architecture, lora=False)
    test = encode(toy_examples(60, seed=9), LABELS, model.tokenizer, max_length=32, long_text="windows")
    run(model, rows, tmp_path, total_steps=100, learning_rate=5e-3)
    predicted = predict_logits(model, test, tokens_per_micro_batch=400).argmax(1)
    assert (predicted == test.targets).mean() > 0.9


def test_micro_batches_of_any_size_train_the_same_model(tmp_path: Path) -> None:
    losses: list[list[float]] = []
    weights = []
    for tokens_per_micro_batch in (10_000, 100, 1):
        lines: list[Mapping[str, Any]] = []
        model, rows = job(tmp_path)
        weights.append(
            run(
                model,
                rows,
                tmp_path / str(tokens_per_micro_batch),
                tokens_per_micro_batch=tokens_per_micro_batch,
                log=lines.append,
            )
        )
        losses.append([line["loss"] for line in lines])
    for other, found in zip(losses[1:], weights[1:], strict=True):
        assert other == pytest.approx(losses[0], rel=1e-5)
        assert max(float((found[name] - weights[0][name]).abs().max()) for name in found) < 2e-4


@pytest.mark.parametrize("dropout", [{"dropout": 0.3}, {"base_dropout": True}])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(dropout: dict[str, Any], tmp_path: Path) -> None:
    loop = {"total_steps": 7, "base_dropout": "base_dropout" in dropout}

    def at(folder: str, resume: bool = False, stop: int | None = None) -> dict[str, Tensor]:
        def log(line: Mapping[str, Any]) -> None:
            if line["step"] == stop:
                raise InterruptedError

        model, rows = job(tmp_path, dropout=dropout.get("dropout", 0.0))
        return run(model, rows, tmp_path / folder, resume=resume, log=log, **loop)

    whole = at("whole")
    with pytest.raises(InterruptedError):
        at("parted", stop=5)
    parted = at("parted", resume=True)
    assert all(torch.equal(whole[name], parted[name]) for name in whole)


def test_activation_checkpointing_gives_the_same_weights(tmp_path: Path) -> None:
    runs = []
    for again in (False, True):
        model, rows = job(tmp_path)
        assert ActivationCheckpointing(model.model).possible
        runs.append(run(model, rows, tmp_path / str(again), activation_checkpointing=again))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_the_memory_of_a_micro_batch_is_counted(architecture: str, tmp_path: Path) -> None:
    model, rows = job(tmp_path, architecture)
    model.model.train()
    memory = measure_micro_batch(
        model,
        ClassificationObjective(LABELS),
        rows.pack([int(rows.lengths.argmax())]),
        kernels="torch",
        autocast=cpu_accelerator().autocast,
        keeps_scores=not model.packed,
    )
    assert memory.of(2000) - memory.of(1000) > 1000 * 32 * 4  # at least a hidden state of each token


@pytest.mark.slow
def test_processes_together_learn_what_one_learns(tmp_path: Path) -> None:
    for ranks in (1, 2):
        finished = forked.run(learn_all, tmp_path, ranks=ranks, said=tmp_path / f"said-{ranks}", OMP_NUM_THREADS="1")
        assert not any(finished.codes), finished.stderr[-4000:]
    for architecture in ARCHITECTURES:
        alone = load_file(tmp_path / f"1 whole {architecture}" / "done.safetensors")
        for kind in ("whole", "sharded"):
            found = load_file(tmp_path / f"2 {kind} {architecture}" / "done.safetensors")
            assert found.keys() == alone.keys()
            torch.testing.assert_close(found.pop("logits"), alone["logits"], rtol=1e-5, atol=1e-6)
            for name in found:
                torch.testing.assert_close(found[name], alone[name], rtol=0, atol=1e-11)


def test_a_step_whose_examples_are_compared_may_be_cut(tmp_path: Path) -> None:
    """Each micro-batch gets its part of the gradient of the loss over all pairs of the step."""
    found = []
    for size in (400, 50):
        model, rows = job(tmp_path)
        objective = SupervisedContrastive()
        found.append(run(model, rows, tmp_path / str(size), objective=objective, tokens_per_micro_batch=size))
    whole, parts = found
    # Adam divides by the root of the squared gradient, so rounding errors of tiny gradients show in the weights.
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 2e-4
