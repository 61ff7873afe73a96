"""Instruction tuning: each trained token is a label once, nothing else is, and packing does not change the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_chats import CHATML, THINKING, chat, chat_tokenizer
from tiny_models import tiny_model

from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import ConversationRows, encode_conversations
from domain_ft.corpus.packing import micro_batches
from domain_ft.evaluation.language_model import score
from domain_ft.models.base import BaseModel, load
from domain_ft.objectives.base import IGNORED
from domain_ft.objectives.instructions import Instructions

TALKS = [
    chat("Why?", "Because the work is copyright.", id="a"),
    chat("The licensee?", "Shall not 🙂.", "Again?", "No.", id="b"),
    chat("日本語で。", "はい。", id="c"),
    chat("Say it.", "Quick brown fox.", "And?", "Lazy dog.", id="d", untrained=(0,)),
]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny decoder in float64 whose vocabulary has the tokens of turns."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param, vocab_size=400).save_pretrained(folder)
    chat_tokenizer(CHATML).save_pretrained(folder)
    return load(str(folder), dtype=torch.float64)


def rows_of(base: BaseModel, template: str = CHATML) -> ConversationRows:
    tokenizer = chat_tokenizer(template)
    return encode_conversations(TALKS, tokenizer, ChatTemplate.of(tokenizer), max_length=96)


def test_each_trained_token_is_the_label_of_the_token_before_it(base: BaseModel) -> None:
    rows = rows_of(base)
    batch = rows.pack([1, 3, 0])
    inputs = Instructions().prepare(batch, epoch=0)
    labels = inputs.labels.numpy()
    asked = np.flatnonzero(labels != IGNORED)
    np.testing.assert_array_equal(asked + 1, np.flatnonzero(batch.trained))
    np.testing.assert_array_equal(labels[asked], batch.input_ids[asked + 1])
    assert inputs.items == rows.trained_lengths[[1, 3, 0]].sum()
    assert inputs.scored_bytes.sum() == batch.token_bytes[batch.trained].sum()


def test_labels_never_cross_sequences(base: BaseModel) -> None:
    """Even if the first token of the next sequence is trained."""
    rows = rows_of(base)
    batch = rows.pack([0, 1])
    batch.trained[batch.cu_seqlens[1]] = True
    labels = Instructions().prepare(batch, epoch=0).labels.numpy()
    assert (labels[batch.cu_seqlens[1:] - 1] == IGNORED).all()


def test_the_loss_of_packed_examples_is_that_of_each_alone(base: BaseModel) -> None:
    """It is also the loss of transformers' logits for the same labels."""
    rows, objective = rows_of(base), Instructions()
    inputs = objective.prepare(rows.pack([0, 1, 2, 3]), epoch=0)
    with torch.no_grad():
        packed = objective.loss(base, inputs) / inputs.items
        alone = [objective.prepare(rows.pack([row]), epoch=0) for row in range(4)]
        total = sum(objective.loss(base, one).item() for one in alone)
        assert packed.item() == pytest.approx(total / sum(one.items for one in alone), rel=1e-6)
        expected = 0.0
        for row in range(4):
            batch = rows.pack([row])
            ids = torch.from_numpy(batch.input_ids)
            wanted = torch.where(torch.from_numpy(batch.trained), ids, IGNORED)
            logits = base.model(input_ids=ids[None]).logits[0].double()
            expected += F.cross_entropy(logits[:-1], wanted[1:], reduction="sum", ignore_index=IGNORED).item()
    assert total == pytest.approx(expected, rel=1e-6)


def test_the_gradient_of_a_step_does_not_depend_on_its_micro_batches(base: BaseModel) -> None:
    rows, objective = rows_of(base), Instructions()
    base.model.requires_grad_(True)
    gradients = []
    for tokens_per_micro_batch in (10_000, 1):
        base.model.zero_grad(set_to_none=True)
        for members in micro_batches(np.arange(4), rows.lengths, tokens_per_micro_batch):
            objective.loss(base, objective.prepare(rows.pack(members), epoch=0)).backward()
        gradients.append([p.grad.clone() for p in base.model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_nothing_is_learned_from_what_is_not_trained(base: BaseModel) -> None:
    """The logits have a gradient only at the positions before trained tokens."""
    rows, objective = rows_of(base), Instructions()
    batch = rows.pack([1, 3])
    inputs = objective.prepare(batch, epoch=0)
    hidden = base.hidden(inputs, torch.arange(batch.tokens)).detach()
    weight, bias, _ = base.projection()
    logits = F.linear(hidden, weight.detach(), None if bias is None else bias.detach()).requires_grad_(True)
    F.cross_entropy(logits, inputs.labels, reduction="sum", ignore_index=IGNORED).backward()
    assert logits.grad is not None
    taught = np.flatnonzero(logits.grad.abs().sum(1).numpy() > 0)
    np.testing.assert_array_equal(taught + 1, np.flatnonzero(batch.trained))


def test_a_micro_batch_without_labels_has_gradients_of_zero(base: BaseModel) -> None:
    rows, objective = rows_of(base), Instructions()
    base.model.requires_grad_(True)
    base.model.zero_grad(set_to_none=True)
    inputs = objective.prepare(rows.pack([0]), epoch=0)
    assert inputs.items
    objective.loss(base, inputs.without_labels()).backward()
    assert all(not p.grad.any() for p in base.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_held_out_answers_are_scored_by_conversation(base: BaseModel, template: str) -> None:
    rows, objective = rows_of(base, template), Instructions()
    whole = score(base, objective, rows, rows.select_documents(None), tokens_per_micro_batch=1000)
    single = score(base, objective, rows, rows.select_documents(None), tokens_per_micro_batch=1)
    assert sorted(whole.documents) == ["a", "b", "c", "d"]
    assert whole.tokens.sum() == rows.trained_tokens
    np.testing.assert_array_equal(whole.tokens, single.tokens)
    np.testing.assert_allclose(whole.nats, single.nats, rtol=1e-6)
    if template == CHATML:
        answers = [sum(len(turn.content.encode()) for turn in talk.turns if turn.trained) for talk in TALKS]
        assert whole.bytes.tolist() == answers
    assert whole.summary()["loss"] == pytest.approx(whole.nats.sum() / whole.tokens.sum())
