"""Scoring of real rows with tiny real models: it equals a plain computation, however the text is packed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import MAX_LENGTH, save_tiny

from domain_ft.corpus.documents import Document
from domain_ft.corpus.masking import MaskVocabulary
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.errors import CorpusError, ModelError
from domain_ft.evaluation.language_model import score
from domain_ft.evaluation.samples import answer, choose_sentences
from domain_ft.models.base import BaseModel, load
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.masked_lm import MaskedLM

TEXTS = [
    "The licensee shall not sublicense the work, nor remove any notice of copyright from it. " * 6,
    "An abnormality of the skeletal system, with short stature and delayed growth of the bones.",
    "Nothing in this agreement limits the liability of the licensor to the licensee. " * 2,
    "The quick brown fox jumps over the lazy dog; 0123456789 (section 4.2)!",
]


class Texts:
    key = "evaluation-test"

    def __len__(self) -> int:
        return len(TEXTS)

    def document(self, index: int) -> Document:
        return Document(f"doc-{index}", TEXTS[index], "test")

    def documents(self) -> Iterator[Document]:
        return map(self.document, range(len(TEXTS)))


@pytest.fixture(params=["bert", "llama"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[BaseModel, LanguageModelObjective, TokenRows]:
    base = load(str(save_tiny(request.param, tmp_path / "model")))
    rows = tokenize(Texts(), base.tokenizer, max_length=min(64, MAX_LENGTH))
    if base.objective == "clm":
        return base, CausalLM(), rows
    return base, MaskedLM(vocabulary=MaskVocabulary.of(base.tokenizer), seed=1), rows


def all_rows(rows: TokenRows) -> np.ndarray:
    return np.arange(len(rows), dtype=np.int64)


def test_losses_do_not_depend_on_the_packing(job: tuple[BaseModel, LanguageModelObjective, TokenRows]) -> None:
    base, objective, rows = job
    whole = score(base, objective, rows, all_rows(rows), tokens_per_micro_batch=10_000)
    single = score(base, objective, rows, all_rows(rows)[::-1], tokens_per_micro_batch=1)
    assert whole.documents == single.documents == tuple(f"doc-{i}" for i in range(len(TEXTS)))
    np.testing.assert_array_equal(whole.tokens, single.tokens)
    np.testing.assert_array_equal(whole.bytes, single.bytes)
    np.testing.assert_allclose(whole.nats, single.nats, rtol=1e-5)


def test_sums_equal_a_plain_computation(job: tuple[BaseModel, LanguageModelObjective, TokenRows]) -> None:
    base, objective, rows = job
    scores = score(base, objective, rows, all_rows(rows), tokens_per_micro_batch=200)
    nats, tokens = np.zeros(len(TEXTS)), np.zeros(len(TEXTS), dtype=int)
    for row in all_rows(rows):
        inputs = objective.prepare(rows.pack([row]), epoch=-1)
        with torch.no_grad():
            logits = base.model(input_ids=inputs.input_ids[None]).logits[0].double()
        losses = F.cross_entropy(logits, inputs.labels, reduction="none", ignore_index=-100)
        nats[rows.documents[row]] += losses.sum().item()
        tokens[rows.documents[row]] += inputs.items
    np.testing.assert_allclose(scores.nats, nats, rtol=1e-5)
    np.testing.assert_array_equal(scores.tokens, tokens)


def test_bytes_are_at_most_those_of_the_text_and_most_of_them_for_a_decoder(
    job: tuple[BaseModel, LanguageModelObjective, TokenRows],
) -> None:
    base, objective, rows = job
    scores = score(base, objective, rows, all_rows(rows), tokens_per_micro_batch=200)
    sizes = np.array([len(text.encode()) for text in TEXTS])
    assert (scores.bytes <= sizes).all()
    if base.objective == "clm":
        assert (scores.bytes >= 0.8 * sizes).all()


def test_progress_counts_tokens_and_the_mode_is_kept(job: tuple[BaseModel, LanguageModelObjective, TokenRows]) -> None:
    base, objective, rows = job
    seen: list[tuple[str, int, int | None]] = []
    base.model.train()
    frozen = next(base.model.children())
    frozen.eval()
    score(
        base,
        objective,
        rows,
        all_rows(rows),
        tokens_per_micro_batch=64,
        progress=lambda *step: seen.append(step),
        label="before",
    )
    assert seen[-1] == ("before", rows.tokens, rows.tokens)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert base.model.training
    assert not frozen.training
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_nothing_to_score_is_refused(job: tuple[BaseModel, LanguageModelObjective, TokenRows]) -> None:
    base, objective, rows = job
    with pytest.raises(CorpusError, match="no token to score"):
        score(base, objective, rows, np.empty(0, dtype=np.int64), tokens_per_micro_batch=64)


@dataclasses.dataclass(frozen=True)
class Broken:
    """An objective whose losses are NaN in micro-batches with a sequence of more than 40 tokens."""

    inner: Any
    name: str = "broken"

    def prepare(self, batch: Any, epoch: int) -> Any:
        return self.inner.prepare(batch, epoch)

    def losses(self, base: BaseModel, inputs: Any) -> torch.Tensor:
        losses = self.inner.losses(base, inputs)
        return losses * math.nan if inputs.max_seqlen > 40 else losses

    def loss(self, base: BaseModel, inputs: Any) -> torch.Tensor:
        return self.losses(base, inputs).sum()


def test_the_error_for_nan_losses_names_the_documents(job: tuple[BaseModel, LanguageModelObjective, TokenRows]) -> None:
    base, objective, rows = job
    with pytest.raises(ModelError, match=r"of 4 documents(.|\n)*doc-0"):
        score(base, Broken(objective), rows, all_rows(rows), tokens_per_micro_batch=1)


def test_only_encoders_have_guesses_for_sample_sentences(
    job: tuple[BaseModel, LanguageModelObjective, TokenRows],
) -> None:
    base, _, _ = job
    probes = choose_sentences(Texts(), base.tokenizer, base.objective)
    assert probes
    for answered in answer(base, probes):
        assert (len(answered.guesses) == 5) == (base.objective == "mlm")
