"""The loss of tagging: that of each text alone, the class weights, and micro-batches without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import save_tiny

from domain_ft.corpus.batches import TaskBatch
from domain_ft.corpus.examples import Labels
from domain_ft.corpus.masking import IGNORED
from domain_ft.corpus.tagging.entities import Span, TaggedText
from domain_ft.corpus.tagging.rows import TaggingRows, encode_tags
from domain_ft.models.task_model import TaskModel, load_task_model
from domain_ft.objectives.tagging import TaggingObjective

TAGS = ("O", "B-A", "I-A")
TEXTS = [
    TaggedText("a", "The licensee shall not sublicense the work", None, (Span(4, 12, "A"),)),
    TaggedText("b", "short stature and delayed growth", None, (Span(0, 13, "A"), Span(18, 32, "A"))),
    TaggedText("c", "bones", None, ()),
]


@pytest.fixture(scope="module", params=["bert", "roberta", "modernbert", "gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TaskModel:
    folder = save_tiny(request.param, tmp_path_factory.mktemp("models") / request.param)
    return load_task_model(str(folder), Labels(TAGS), kind="token")


def rows_of(model: TaskModel) -> TaggingRows:
    return encode_tags(TEXTS, TAGS, model.tokenizer, max_length=16)


def separate_losses(model: TaskModel, batch: TaskBatch) -> list[float]:
    """The summed loss of each sequence, from a forward pass of that sequence alone, without our attention."""
    before = model.model.config._attn_implementation
    model.model.set_attn_implementation("sdpa")
    losses = []
    for start, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
        with torch.no_grad():
            logits = model.model(input_ids=torch.from_numpy(batch.input_ids[None, start:end])).logits[0]
        targets = torch.from_numpy(batch.targets[start:end])
        losses.append(float(F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")))
    model.model.set_attn_implementation(before)
    return losses


def test_the_loss_of_a_packed_row_is_that_of_its_texts_alone(model: TaskModel) -> None:
    rows, objective = rows_of(model), TaggingObjective()
    batch = rows.pack(np.arange(len(rows)))
    inputs = objective.prepare(batch, epoch=0)
    assert inputs.items == len(rows.token_targets) == int((batch.targets != IGNORED).sum())
    with torch.no_grad():
        losses = objective.row_losses(model, inputs)
        total = objective.loss(model, inputs)
    assert losses.tolist() == pytest.approx(separate_losses(model, batch), rel=2e-4)
    assert float(total) == pytest.approx(float(losses.sum()), rel=1e-6)
    assert losses.dtype == torch.float32


def test_weights_multiply_the_losses_of_their_classes(model: TaskModel) -> None:
    rows = rows_of(model)
    batch = rows.pack(np.arange(len(rows)))
    with torch.no_grad():
        by_class = []
        for number in range(len(TAGS)):
            only = TaggingObjective(tag_weights=np.eye(len(TAGS), dtype=np.float32)[number])
            by_class.append(float(only.loss(model, only.prepare(batch, 0))))
        weighted = TaggingObjective(tag_weights=np.array([1, 2, 4], dtype=np.float32))
        total = float(weighted.loss(model, weighted.prepare(batch, 0)))
    assert total == pytest.approx(by_class[0] + 2 * by_class[1] + 4 * by_class[2], rel=1e-5)


def test_without_labels_the_loss_is_zero_and_backward_runs(model: TaskModel) -> None:
    rows, objective = rows_of(model), TaggingObjective()
    inputs = objective.prepare(rows.pack([0]), 0).without_labels()
    loss = objective.loss(model, inputs)
    loss.backward()
    assert float(loss.detach()) == 0
    assert inputs.items == 0
    model.model.zero_grad()
