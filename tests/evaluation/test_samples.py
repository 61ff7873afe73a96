"""Sample sentences: chosen by the seed, readable, with a whole word or half a sentence to guess."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import MAX_LENGTH, tiny_model, tiny_tokenizer, tokenizer_kind

from domain_ft.corpus.documents import Document
from domain_ft.evaluation.samples import answer, choose_sentences, side_by_side

SENTENCES = [
    "The licensee shall not sublicense the work, nor remove any notice of copyright from it.",
    "An abnormality of the skeletal system, with short stature and delayed growth of the bones.",
    "The quick brown fox jumps over the lazy dog, and the dog does not like the fox at all.",
    "Nothing in this agreement limits the liability of the licensor to the licensee.",
]
JAPANESE = "契約の当事者は、法令の規定に従い、その内容を自由に決定することができる。"


@dataclass
class Texts:
    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def document(self, index: int) -> Document:
        return Document(id=f"doc-{index}", text=self.texts[index], source="test")


def base_of(architecture: str) -> Any:
    return SimpleNamespace(
        model=tiny_model(architecture),
        tokenizer=tiny_tokenizer(tokenizer_kind(architecture)),
        objective="clm" if architecture in ("gpt2", "llama") else "mlm",
        max_length=MAX_LENGTH,
    )


@pytest.fixture
def texts() -> Texts:
    heading = "ARTICLE 4 -- 17.3 // 2019\n\n"
    return Texts([heading + SENTENCES[i % 4] + " " + SENTENCES[(i + 1) % 4] for i in range(12)])


@pytest.mark.parametrize("kind", ["wordpiece", "roberta"])
def test_masked_words_are_whole_and_of_letters(texts: Texts, kind: str) -> None:
    sentences = choose_sentences(texts, tiny_tokenizer(kind), "mlm", seed=3)
    assert sentences
    assert len({sentence.answer.casefold() for sentence in sentences}) == len(sentences)
    for sentence in sentences:
        assert sentence.answer.isalpha()
        assert not sentence.left[-1:].isalpha()
        assert not sentence.right[:1].isalpha()
        assert sentence.left + sentence.answer + sentence.right in SENTENCES


def test_the_choice_depends_on_the_seed_alone(texts: Texts) -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    assert choose_sentences(texts, tokenizer, "mlm", seed=3) == choose_sentences(texts, tokenizer, "mlm", seed=3)
    assert choose_sentences(texts, tokenizer, "clm", seed=3) != choose_sentences(texts, tokenizer, "clm", seed=4)


def test_languages_without_spaces_have_samples_too() -> None:
    sentences = choose_sentences(Texts([JAPANESE] * 3), tiny_tokenizer("roberta"), "clm")
    assert sentences[0].left + sentences[0].answer == JAPANESE


def test_a_decoder_gets_the_first_half_of_a_sentence(texts: Texts) -> None:
    for sentence in choose_sentences(texts, tiny_tokenizer("gpt2"), "clm", count=5):
        assert f"{sentence.left} {sentence.answer}" in SENTENCES
        assert sentence.right == ""


@pytest.mark.parametrize("text", ["", "one two", "X" * 5000, "1 2 3. 4 5 6. " * 50, "\u200b\n\n\n"])
def test_unreadable_text_has_no_samples(text: str) -> None:
    assert choose_sentences(Texts([text]), tiny_tokenizer("wordpiece"), "mlm") == []
    assert choose_sentences(Texts([text]), tiny_tokenizer("gpt2"), "clm") == []


def test_an_encoder_ranks_its_guesses(texts: Texts) -> None:
    base = base_of("bert")
    sentences = choose_sentences(texts, base.tokenizer, "mlm", count=3)
    base.model.train()
    for answered in answer(base, sentences):
        probabilities = [guess.probability for guess in answered.guesses]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        assert answered.answer_rank is not None
        assert answered.answer_probability is not None
        assert (answered.answer_rank <= 5) == (answered.answer_probability >= probabilities[-1])
    assert base.model.training


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_decoder_continues_greedily(texts: Texts, architecture: str) -> None:
    base = base_of(architecture)
    base.model.generation_config.temperature = 0.2
    base.model.generation_config.top_p = 0.9
    sentences = choose_sentences(texts, base.tokenizer, "clm", count=2)
    first = answer(base, sentences)
    assert first == answer(base, sentences)
    assert all(answered.guesses == () and "\n" not in answered.continuation for answered in first)


def test_side_by_side_gives_plain_values(texts: Texts) -> None:
    base = base_of("roberta")
    sentences = choose_sentences(texts, base.tokenizer, "mlm", count=2)
    answered = answer(base, sentences)
    rows = side_by_side(sentences, answered, answered)
    assert [row["answer"] for row in rows] == [sentence.answer for sentence in sentences]
    assert rows[0]["before"] == rows[0]["after"]
    assert set(rows[0]["before"]) == {"guesses", "answer_probability", "answer_rank", "continuation"}
