"""Masks: pure functions of (seed, epoch, document, sequence), at the given rate, of whole words, 80/10/10."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import SENTENCES, Split, sequence_slices, tokenizer

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.masking import IGNORED, LONGEST_WORD, MaskVocabulary, mask_tokens, mostly_without_words
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.errors import ModelError

VOCABULARY = MaskVocabulary.of(tokenizer("wordpiece"))


@pytest.fixture(scope="module")
def rows() -> TokenRows:
    texts = [" ".join(SENTENCES[i % 2] for i in range(n)) for n in (1, 9, 3, 30, 2, 14)] * 3 + ["a", "of"]
    return tokenize(Split(texts), tokenizer("wordpiece"), max_length=48)


def synthetic(word_sizes: list[list[int]], specials: bool = True) -> PackedBatch:
    """A batch with words of the given sizes in each sequence; every sequence is a document."""
    ids: list[int] = []
    positions: list[int] = []
    words: list[int] = []
    ends = [0]
    word = 0
    for sizes in word_sizes:
        sequence = [-1] if specials else []
        for size in sizes:
            sequence += [word] * size
            word += 1
        sequence += [-1] if specials else []
        ids += [10 + (len(ids) + i) % 90 for i in range(len(sequence))]
        words += sequence
        positions += range(len(sequence))
        ends.append(len(words))
    count = len(word_sizes)
    return PackedBatch(
        input_ids=np.array(ids, dtype=np.int64),
        position_ids=np.array(positions, dtype=np.int64),
        cu_seqlens=np.array(ends, dtype=np.int32),
        rows=np.arange(count),
        documents=np.arange(count),
        sequences=np.zeros(count, dtype=np.int32),
        word_ids=np.array(words, dtype=np.int32),
        token_bytes=np.zeros(len(words), dtype=np.int32),
    )


def mask(batch: PackedBatch, **changes: object) -> tuple[np.ndarray, np.ndarray]:
    options = {"epoch": 0, "seed": 1, "rate": 0.15, "whole_word": True, "vocabulary": VOCABULARY}
    return mask_tokens(batch, **{**options, **changes})  # type: ignore[arg-type]


@settings(deadline=None)
@given(data=st.data(), whole_word=st.booleans(), epoch=st.integers(0, 3), seed=st.integers(0, 2**40))
def test_a_mask_does_not_depend_on_the_rest_of_the_micro_batch(
    rows: TokenRows, data: st.DataObject, whole_word: bool, epoch: int, seed: int
) -> None:
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12, unique=True))
    batch = rows.pack(asked)
    input_ids, labels = mask(batch, whole_word=whole_word, epoch=epoch, seed=seed)
    for row, where in zip(asked, sequence_slices(batch), strict=True):
        alone_ids, alone_labels = mask(rows.pack([row]), whole_word=whole_word, epoch=epoch, seed=seed)
        assert np.array_equal(input_ids[where], alone_ids)
        assert np.array_equal(labels[where], alone_labels)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}])
def test_masks_differ_between_epochs_and_seeds(rows: TokenRows, change: dict[str, int]) -> None:
    batch = rows.pack(np.arange(len(rows)))
    assert not np.array_equal(mask(batch)[1], mask(batch, **change)[1])


def test_masks_differ_between_sequences_and_documents() -> None:
    batch = synthetic([[1] * 200] * 2)
    _, labels = mask(batch)
    first, second = (labels[where] != IGNORED for where in sequence_slices(batch))
    assert not np.array_equal(first, second)
    again = PackedBatch(**{**vars(batch), "sequences": np.array([1, 0], dtype=np.int32)})
    assert not np.array_equal(mask(again)[1][sequence_slices(batch)[0]] != IGNORED, first)


@settings(deadline=None)
@given(
    words=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=80), min_size=1, max_size=8),
    rate=st.floats(0.01, 1),
    whole_word=st.booleans(),
    seed=st.integers(0, 99),
)
def test_masked_tokens_are_the_labels_and_their_number_follows_the_rate(
    words: list[list[int]], rate: float, whole_word: bool, seed: int
) -> None:
    batch = synthetic(words)
    input_ids, labels = mask(batch, rate=rate, whole_word=whole_word, seed=seed)
    hidden = labels != IGNORED
    assert np.array_equal(labels[hidden], batch.input_ids[hidden])
    assert np.array_equal(input_ids[~hidden], batch.input_ids[~hidden])
    assert not hidden[batch.word_ids == -1].any()  # special tokens stay
    for sizes, where in zip(words, sequence_slices(batch), strict=True):
        count = int(hidden[where].sum())
        unit = min(max(sizes), LONGEST_WORD) if whole_word else 1
        assert 1 <= count <= sum(sizes)
        assert count < rate * sum(sizes) + unit
        assert count > rate * sum(sizes) - unit


def test_words_are_masked_whole_and_long_ones_by_token() -> None:
    batch = synthetic([[1, 2, 3, LONGEST_WORD, LONGEST_WORD + 30] * 8] * 20)
    hidden = mask(batch, rate=0.3)[1] != IGNORED
    shares: dict[int, list[float]] = {size: [] for size in (1, 2, 3, LONGEST_WORD, LONGEST_WORD + 30)}
    for word in range(batch.word_ids.max() + 1):
        where = batch.word_ids == word
        shares[int(where.sum())].append(hidden[where].mean())
    for size in (2, 3, LONGEST_WORD):
        assert set(shares[size]) == {0.0, 1.0}
    assert 0 < min(shares[LONGEST_WORD + 30]) < max(shares[LONGEST_WORD + 30]) < 1
    for size, masked in shares.items():  # no size of words is preferred
        assert np.mean(masked) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / len(masked))), size


def test_single_tokens_are_masked_without_whole_word() -> None:
    batch = synthetic([[4] * 50] * 5)
    hidden = mask(batch, whole_word=False)[1] != IGNORED
    by_word = np.bincount(batch.word_ids[batch.word_ids >= 0], weights=hidden[batch.word_ids >= 0])
    assert set(by_word) - {0, 4}


def test_the_expected_number_of_masked_tokens_is_exact() -> None:
    """15% of 10 tokens are one or two tokens, each in half of the sequences."""
    batch = synthetic([[1] * 10] * 4_000)
    hidden = mask(batch)[1] != IGNORED
    counts = np.array([hidden[where].sum() for where in sequence_slices(batch)])
    assert set(counts) == {1, 2}
    assert counts.mean() == pytest.approx(1.5, abs=4 * 0.5 / np.sqrt(4_000))


def test_eight_in_ten_become_the_mask_and_one_in_ten_another_token() -> None:
    batch = synthetic([[1] * 500] * 100)
    input_ids, labels = mask(batch, rate=0.5)
    hidden = labels != IGNORED
    masked = (input_ids == VOCABULARY.mask_token_id)[hidden].mean()
    kept = (input_ids == batch.input_ids)[hidden].mean()
    error = 4 * np.sqrt(0.16 / hidden.sum())
    assert masked == pytest.approx(0.8, abs=error)
    assert kept == pytest.approx(0.1 + 0.1 / len(VOCABULARY.replacement_ids), abs=error)
    others = input_ids[hidden & (input_ids != VOCABULARY.mask_token_id) & (input_ids != batch.input_ids)]
    assert set(others.tolist()) <= set(VOCABULARY.replacement_ids.tolist())
    assert len(set(others.tolist())) > 0.9 * len(VOCABULARY.replacement_ids)


def test_every_position_is_masked_equally_often() -> None:
    batch = synthetic([[1] * 40] * 3_000)
    hidden = (mask(batch, rate=0.25)[1] != IGNORED).reshape(3_000, 42)[:, 1:-1]
    assert hidden.mean(axis=0) == pytest.approx(0.25, abs=5 * np.sqrt(0.1875 / 3_000))


def test_the_batch_is_not_changed() -> None:
    batch = synthetic([[1] * 50])
    before = batch.input_ids.copy()
    mask(batch)
    assert np.array_equal(batch.input_ids, before)


def test_replacements_are_never_special() -> None:
    tok = tokenizer("wordpiece")
    assert not set(VOCABULARY.replacement_ids.tolist()) & set(tok.all_special_ids)
    assert len(VOCABULARY.replacement_ids) == len(tok) - 5
    assert tok.mask_token_id == VOCABULARY.mask_token_id


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(ModelError, match="no mask token"):
        MaskVocabulary.of(tokenizer("gpt2"))


@pytest.mark.parametrize("rate", [0, -0.1, 1.1])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="mask rate"):
        mask(synthetic([[1]]), rate=rate)


def test_languages_without_spaces_are_recognised() -> None:
    japanese = "この法律は公布の日から起算して一年を超えない範囲内において政令で定める日から施行する。"
    english = tokenize(Split(SENTENCES[:2]), tokenizer("wordpiece"), max_length=64)
    assert not mostly_without_words(english)
    assert mostly_without_words(tokenize(Split([japanese] * 9), tokenizer("unigram"), max_length=64))
    mixed = tokenize(Split([japanese] + SENTENCES[:2] * 20), tokenizer("unigram"), max_length=64)
    assert not mostly_without_words(mixed)
