"""Fitting a random MLM head to its body: the head learns, and everything else stays as it was."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
import torch
from tiny_models import ENCODERS, save_tiny
from torch import Tensor

from domain_ft.embedded.mlm_head import HELD_OUT, IGNORED, HeadReport, fit_mlm_head
from domain_ft.errors import ModelError
from domain_ft.models.base import BaseModel, Tokens, load

TOPICS, TOPIC_TOKENS, FIRST = (
    4,
    8,
    10,
)  # each sequence has tokens of one topic only, which the mean of the body's output shows
MASK, LENGTH, PIECES, PASSES = 4, 16, 64, 31


@pytest.fixture(scope="module")
def micro_batches() -> list[tuple[Tokens, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(PASSES):
        topics = torch.randint(TOPICS, (PIECES, 1), generator=generator)
        within = torch.randint(TOPIC_TOKENS, (PIECES, LENGTH), generator=generator)
        true = FIRST + topics * TOPIC_TOKENS + within
        masked = torch.rand(PIECES, LENGTH, generator=generator) < 0.3
        labels = true.masked_fill(~masked, IGNORED).flatten()
        made.append((Tokens.of(true.masked_fill(masked, MASK).tolist()), labels))
    return made


def frequencies(base: BaseModel, micro_batches: list[tuple[Tokens, Tensor]]) -> Tensor:
    labels = torch.cat([labels[labels != IGNORED] for _, labels in micro_batches])
    return labels.bincount(minlength=base.model.get_output_embeddings().weight.shape[0])


def fitted(folder: Path, micro_batches: list[tuple[Tokens, Tensor]], seed: int = 0) -> tuple[BaseModel, HeadReport]:
    base = load(str(folder))
    return base, fit_mlm_head(base, micro_batches, frequencies(base, micro_batches), seed=seed, epochs=10)


def digest(base: BaseModel, *, body: bool) -> str:
    state = base.model.base_model.state_dict() if body else base.model.state_dict()
    content = b"".join(name.encode() + weight.numpy().tobytes() for name, weight in state.items())
    return hashlib.sha256(content).hexdigest()


@torch.no_grad()
def held_out_loss(base: BaseModel, micro_batches: list[tuple[Tokens, Tensor]]) -> float:
    logits, targets = [], []
    for batch, labels in micro_batches[::HELD_OUT]:
        rows = (labels != IGNORED).nonzero().squeeze(1)
        logits.append(base.forward_logits(batch, rows))
        targets.append(labels[rows])
    return float(torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets)))


@pytest.mark.parametrize("architecture", ENCODERS)
def test_the_head_learns_and_the_body_stays(
    architecture: str, micro_batches: list[tuple[Tokens, Tensor]], tmp_path: Path
) -> None:
    folder = save_tiny(architecture, tmp_path)
    before = load(str(folder))
    base, report = fitted(folder, micro_batches)
    assert report.loss < report.loss_unigram - 0.05  # a random body shows little of the topic, ELECTRA's least
    assert report.loss < report.loss_closed_form
    assert report.loss_closed_form < report.loss_random
    assert digest(base, body=True) == digest(before, body=True)
    assert torch.equal(base.model.get_output_embeddings().weight, before.model.get_output_embeddings().weight)
    assert digest(base, body=False) != digest(before, body=False)
    # The reported losses are those of the model itself, before and after.
    assert held_out_loss(before, micro_batches) == pytest.approx(report.loss_random, abs=1e-4)
    assert held_out_loss(base, micro_batches) == pytest.approx(report.loss, abs=1e-4)
    assert report.positions + report.held_out_positions == sum(int((y != IGNORED).sum()) for _, y in micro_batches)


def test_the_closed_form_alone_beats_frequencies(micro_batches: list[tuple[Tokens, Tensor]], tmp_path: Path) -> None:
    base = load(str(save_tiny("bert", tmp_path)))
    report = fit_mlm_head(base, micro_batches, frequencies(base, micro_batches), epochs=0)
    assert report.loss == report.loss_closed_form < report.loss_unigram - 0.1


def test_equal_inputs_give_equal_heads(micro_batches: list[tuple[Tokens, Tensor]], tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    first, again, other = (fitted(folder, micro_batches, seed)[0] for seed in (0, 0, 1))
    assert digest(first, body=False) == digest(again, body=False) != digest(other, body=False)


def test_fitting_leaves_no_gradients_or_hooks(micro_batches: list[tuple[Tokens, Tensor]], tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    before = [parameter.requires_grad for parameter in load(str(folder)).model.parameters()]
    base, _ = fitted(folder, micro_batches)
    assert [parameter.requires_grad for parameter in base.model.parameters()] == before
    assert all(parameter.grad is None and parameter.is_leaf for parameter in base.model.parameters())
    assert not base.model.cls.predictions.transform.dense._forward_pre_hooks


def test_progress_is_reported(micro_batches: list[tuple[Tokens, Tensor]], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    base = load(str(save_tiny("bert", tmp_path)))
    fit_mlm_head(
        base, micro_batches, frequencies(base, micro_batches), epochs=2, progress=lambda *step: seen.append(step)
    )
    assert list(dict.fromkeys(label for label, _, _ in seen)) == [
        "fitting a masked-LM head (once, then cached): reading",
        "fitting a masked-LM head (once, then cached): training",
    ]
    assert all(done == total for (label, done, total), after in itertools.pairwise(seen) if label != after[0])
    assert seen[-1][1] == seen[-1][2]


@pytest.mark.parametrize(
    ("architecture", "message"), [("gpt2", "cannot be fitted"), ("deberta-v2", "fitted on packed rows")]
)
def test_a_model_that_is_no_packed_encoder_is_refused(
    architecture: str, message: str, micro_batches: list[tuple[Tokens, Tensor]], tmp_path: Path
) -> None:
    base = load(str(save_tiny(architecture, tmp_path)))
    before = digest(base, body=False)
    with pytest.raises(ModelError, match=message):
        fit_mlm_head(base, micro_batches, frequencies(base, micro_batches))
    assert digest(base, body=False) == before


def test_a_single_micro_batch_is_refused(micro_batches: list[tuple[Tokens, Tensor]], tmp_path: Path) -> None:
    base = load(str(save_tiny("bert", tmp_path)))
    with pytest.raises(ModelError, match="single micro-batch"):
        fit_mlm_head(base, micro_batches[:1], frequencies(base, micro_batches))
