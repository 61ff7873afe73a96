"""How well a tokenizer knows a text: unknown tokens are counted, warned of, and refused if there is little else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_text import Split, tokenizer

from domain_ft.corpus.tokens import CONTINUES, SPECIAL, tokenize
from domain_ft.corpus.vocabulary_fit import VocabularyFit
from domain_ft.errors import CorpusError

KNOWN = "The licensee shall not sublicense the work."


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))


def fit(*texts: str, kind: str = "wordpiece") -> VocabularyFit:
    tok = tokenizer(kind)
    return VocabularyFit.of(tokenize(Split(texts), tok, max_length=32), tok.unk_token_id)


def test_the_shares_are_those_of_the_tokens() -> None:
    tok = tokenizer("wordpiece")
    rows = tokenize(Split([KNOWN * 20, "ǂǂ the ǂǂ"]), tok, max_length=32)
    batch = rows.pack(range(len(rows)))
    text = batch.word_ids >= 0
    unknown = (batch.input_ids == tok.unk_token_id) & text
    found = VocabularyFit.of(rows, tok.unk_token_id)
    assert found.unknown_tokens == round(unknown.sum() / text.sum(), 4) > 0
    assert found.unknown_bytes == round(batch.token_bytes[unknown].sum() / batch.token_bytes[text].sum(), 4)
    assert found.bytes_per_token == round(batch.token_bytes[text].sum() / text.sum(), 2)
    assert found.known_tokens == int(text.sum() - unknown.sum())
    assert (CONTINUES, SPECIAL) == (0, 2)
    json.dumps(found.to_result())


@pytest.mark.parametrize("texts", [["🦉"] * 60, ["x" * 1_000_000], ["🦉🦊 " * 50]], ids=["emoji", "one word", "words"])
def test_a_text_that_the_tokenizer_does_not_know_is_refused(texts: list[str]) -> None:
    with pytest.raises(CorpusError, match="does not know this text: 100% of its tokens") as caught:
        fit(*texts).check("minilm", "mine")
    assert "where: mine" in str(caught.value)


def test_a_known_text_passes_without_a_warning() -> None:
    found = fit(KNOWN * 10)
    found.check("minilm", "mine")
    assert found.unknown_tokens == 0
    assert found.warnings("minilm") == []


def test_a_half_unknown_text_gets_a_warning() -> None:
    found = fit(*["🦉 the work ǂ"] * 30)
    found.check("minilm", "mine")
    (warning,) = found.warnings("minilm")
    assert f"{found.unknown_tokens:.0%} of the tokens are the unknown token" in warning


def test_one_long_word_in_a_sound_text_gets_a_warning() -> None:
    found = fit(KNOWN * 30, "x" * 100_000)
    found.check("minilm", "mine")
    assert found.unknown_bytes > 0.9 > found.unknown_tokens
    assert found.warnings("minilm")


def test_a_text_that_is_spelled_out_gets_a_warning() -> None:
    found = fit("第九ЖЩ" * 200, kind="llama")
    assert found.unknown_tokens == 0
    (warning,) = found.warnings("llama")
    assert "spells this text out" in warning
