"""Logits of many examples: in the order of the examples, however they are packed, and the model is not changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_examples import WORDS, toy_examples
from tiny_models import save_tiny
from torch import Tensor

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.tasks.rows import ExampleRows, encode
from domain_ft.evaluation.logits import compute_features, predict_logits
from domain_ft.models.lora import LoraConfig, apply_lora
from domain_ft.models.task_model import TaskModel, load_task_model

LABELS = Labels(tuple(WORDS))


@pytest.fixture(params=["bert", "opt", "mpnet"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[TaskModel, ExampleRows]:
    model = load_task_model(str(save_tiny(request.param, tmp_path)), LABELS, dtype=torch.float64)
    for path in model.new_modules:
        torch.nn.init.normal_(next(model.model.get_submodule(path).parameters()))
    rows = encode(toy_examples(13, pairs=True), LABELS, model.tokenizer, max_length=40, long_text="windows")
    return model, rows


@pytest.mark.parametrize("tokens_per_micro_batch", [1, 200, 10_000])
def test_logits_are_in_the_order_of_the_examples(
    job: tuple[TaskModel, ExampleRows], tokens_per_micro_batch: int
) -> None:
    model, rows = job
    seen: list[tuple[str, int, int | None]] = []
    found = predict_logits(
        model,
        rows,
        tokens_per_micro_batch=tokens_per_micro_batch,
        progress=lambda *step: seen.append(step),
        label="test",
    )
    alone = [predict_logits(model, rows.take([row]), tokens_per_micro_batch=1)[0] for row in range(len(rows))]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(alone), rtol=1e-6, atol=1e-6)
    assert np.ptp(found, axis=0).min() > 1e-3
    assert seen[-1] == ("test", 13, 13)
    features = compute_features(model, rows, tokens_per_micro_batch=tokens_per_micro_batch)
    assert features.shape == (13, 16 if model.model.config.model_type == "opt" else 32)


def test_the_model_and_its_modes_are_not_changed(tmp_path: Path) -> None:
    model = load_task_model(str(save_tiny("bert", tmp_path)), LABELS)
    rows = encode(toy_examples(5), LABELS, model.tokenizer, max_length=40, long_text="truncate")
    apply_lora(model.model, LoraConfig(rank=2, dropout=0.5, train_modules=model.new_modules))
    model.model.train()
    model.model.bert.encoder.eval()
    modes = {name: module.training for name, module in model.model.named_modules()}
    first, second = (predict_logits(model, rows, tokens_per_micro_batch=50) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert {name: module.training for name, module in model.model.named_modules()} == modes
    assert torch.is_grad_enabled()


class Ranks:
    """Replaces the accelerator of one of several processes, which run in turn: `reduce` sums their tensors so far."""

    def __init__(self, rank: int, ranks: int, parts: list[Tensor]) -> None:
        self.process_index, self.num_processes, self.parts = rank, ranks, parts
        self.device = torch.device("cpu")

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        assert how == "sum"
        self.parts.append(tensor)
        return torch.stack(self.parts).sum(0)


@pytest.mark.parametrize("ranks", [2, 5])
def test_processes_share_the_micro_batches(job: tuple[TaskModel, ExampleRows], ranks: int) -> None:
    model, rows = job
    calls: list[int] = []

    def logits(inputs: Any) -> Tensor:
        calls.append(len(inputs.targets))
        return model.logits(inputs)

    counted: Any = SimpleNamespace(model=model.model, device=model.device, labels=LABELS, logits=logits)
    alone = predict_logits(counted, rows, tokens_per_micro_batch=120)
    micro_batches = len(calls)
    parts: list[Tensor] = []
    for rank in range(ranks):
        calls.clear()
        accelerator: Any = Ranks(rank, ranks, parts)
        found = predict_logits(counted, rows, tokens_per_micro_batch=120, accelerator=accelerator)
        assert len(calls) == -(-micro_batches // ranks)  # as many in each process, as a sharded model needs
    np.testing.assert_array_equal(found, alone)
