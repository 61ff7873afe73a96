"""The language-model objectives: their labels, and that the fused head gives the losses of full logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_tiny, tiny_tokenizer

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.masking import MaskVocabulary
from domain_ft.models.base import load
from domain_ft.objectives.base import EVALUATION_EPOCH, IGNORED, LanguageModelObjective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.masked_lm import MaskedLM

LENGTHS = (5, 1, 7)


def batch() -> PackedBatch:
    """Three sequences; the first and last tokens of the two longer ones are special."""
    draw = np.random.Generator(np.random.Philox(0))
    ids = draw.integers(10, 100, sum(LENGTHS))
    ends = np.cumsum(LENGTHS)
    special = np.zeros(len(ids), dtype=bool)
    special[[0, 4, 6, 12]] = True
    return PackedBatch(
        input_ids=ids,
        position_ids=np.concatenate([np.arange(length) for length in LENGTHS]),
        cu_seqlens=np.concatenate(([0], ends)).astype(np.int32),
        rows=np.arange(3),
        documents=np.arange(3),
        sequences=np.zeros(3, dtype=np.int32),
        word_ids=np.where(special, -1, np.arange(len(ids))).astype(np.int32),
        token_bytes=np.where(special, 0, 4).astype(np.int32),
    )


def masked() -> MaskedLM:
    return MaskedLM(vocabulary=MaskVocabulary.of(tiny_tokenizer("wordpiece")), rate=0.4, seed=1)


def test_labels_of_a_causal_lm_are_the_next_tokens_and_never_cross_sequences() -> None:
    made = batch()
    inputs = CausalLM().prepare(made, 0)
    labels = inputs.labels.numpy()
    assert labels[:4].tolist() == made.input_ids[1:5].tolist()
    assert labels[[4, 5, 12]].tolist() == [IGNORED] * 3
    assert labels[6:12].tolist() == made.input_ids[7:13].tolist()
    assert inputs.items == sum(length - 1 for length in LENGTHS)
    assert inputs.scored_bytes[:4].tolist() == made.token_bytes[1:5].tolist()
    assert inputs.scored_bytes[5] == 0


def test_labels_of_a_masked_lm_are_the_chosen_tokens() -> None:
    made = batch()
    inputs = masked().prepare(made, 0)
    labels = inputs.labels.numpy()
    asked = np.flatnonzero(labels != IGNORED)
    assert inputs.labelled.tolist() == asked.tolist()
    assert labels[asked].tolist() == made.input_ids[asked].tolist()
    assert inputs.scored_bytes.sum() == 4 * len(asked)
    untouched = np.setdiff1d(np.arange(made.tokens), asked)
    assert (inputs.input_ids.numpy()[untouched] == made.input_ids[untouched]).all()


def test_evaluation_masks_are_the_same_each_time_and_differ_from_an_epochs() -> None:
    one, other = (masked().prepare(batch(), EVALUATION_EPOCH) for _ in range(2))
    assert torch.equal(one.labels, other.labels)
    assert any(not torch.equal(one.labels, masked().prepare(batch(), epoch).labels) for epoch in range(3))


def test_without_labels_nothing_is_scored() -> None:
    inputs = CausalLM().prepare(batch(), 0).without_labels()
    assert inputs.items == 0
    assert set(inputs.labels.tolist()) == {IGNORED}
    assert inputs.scored_bytes.sum() == 0


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "llama"])
@pytest.mark.parametrize("kernels", ["reference", "torch"])
def test_the_fused_head_gives_the_losses_of_full_logits(architecture: str, kernels: str, tmp_path: Path) -> None:
    base = load(str(save_tiny(architecture, tmp_path)))
    objective: LanguageModelObjective = (
        CausalLM(kernels=kernels)
        if base.objective == "clm"
        else MaskedLM(kernels=kernels, vocabulary=MaskVocabulary.of(base.tokenizer), rate=0.4)
    )
    inputs = objective.prepare(batch(), 0)
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            base.forward_logits(inputs), inputs.labels, ignore_index=IGNORED, reduction="none"
        )
        torch.testing.assert_close(objective.losses(base, inputs), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(objective.loss(base, inputs), expected.sum(), rtol=1e-5, atol=1e-5)
        assert objective.loss(base, inputs.without_labels()) == 0
