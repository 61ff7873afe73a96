"""Near copies: estimates compared with exact values, families, and containment."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus import duplicates
from domain_ft.corpus.duplicates import (
    PERMUTATIONS,
    SHINGLE_BYTES,
    Containment,
    Signer,
    connected,
    near_copies,
    shingles,
    similar_pairs,
)


def words(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(count)]


def edited(tokens: list[str], share: float, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [f"x{draw.random()}" if draw.random() < share else token for token in tokens]


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    return len(np.intersect1d(first, second)) / len(np.union1d(first, second))


def runs(text: str) -> set[bytes]:
    data = text.encode()
    return {data[i : i + SHINGLE_BYTES] for i in range(max(1, len(data) - SHINGLE_BYTES + 1))} if data else set()


@given(st.text(max_size=200))
def test_there_is_one_hash_for_each_distinct_run(text: str) -> None:
    hashes = shingles(text)
    assert len(hashes) == len(runs(text))
    assert (np.diff(hashes.astype(np.int64)) > 0).all()


@given(st.text("ab", min_size=30, max_size=120), st.text("ab", min_size=30, max_size=120))
def test_shared_runs_have_shared_hashes(first: str, second: str) -> None:
    assert len(np.intersect1d(shingles(first), shingles(second))) == len(runs(first) & runs(second))


def test_hashing_a_long_text_in_segments_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(words(0, 500))
    whole = shingles(text)
    for segment in (SHINGLE_BYTES, SHINGLE_BYTES + 1, 100, 1000):
        monkeypatch.setattr(duplicates, "_SEGMENT", segment)
        assert np.array_equal(shingles(text), whole)


@pytest.mark.parametrize("share", [0.0, 0.005, 0.02, 0.05, 0.2])
def test_signatures_estimate_the_jaccard_similarity(share: float) -> None:
    tokens = words(1, 3000)
    first, second = shingles("".join(tokens)), shingles("".join(edited(tokens, share, 2)))
    signer = Signer()
    estimate = float((signer.sign(first) == signer.sign(second)).mean())
    exact = jaccard(first, second)
    assert abs(estimate - exact) < 4 * max((exact * (1 - exact) / 128) ** 0.5, 1e-9) + 1e-6


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 5000])
def test_signatures_equal_those_of_datasketch(count: int) -> None:
    hashes = np.random.default_rng(count).integers(0, 2**32, count, dtype=np.uint32)
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32", hashfunc=int)
    sketch.update_batch(hashes.tolist())
    assert np.array_equal(Signer().sign(hashes), sketch.hashvalues)


def test_pairs_are_found_and_unrelated_texts_are_not() -> None:
    signer, originals = Signer(), [words(seed, 400) for seed in range(60)]
    copies = [edited(tokens, 0.02, seed) for seed, tokens in enumerate(originals)]
    signatures = np.stack([signer.sign(shingles("".join(tokens))) for tokens in originals + copies])
    pairs, similarity = similar_pairs(signatures, 0.5)
    assert {tuple(pair) for pair in pairs.tolist()} == {(i, i + 60) for i in range(60)}
    assert (similarity >= 0.5).all()


def test_a_big_family_is_found_whole_without_comparing_all_pairs() -> None:
    signer, tokens, count = Signer(), words(3, 200), 1500
    signatures = np.stack([signer.sign(shingles("".join(edited(tokens, 0.01, seed)))) for seed in range(count)])
    pairs, _ = similar_pairs(signatures, 0.5)
    assert len(pairs) < count * (count - 1) / 4
    assert connected(count, pairs.tolist()).max() == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_two_or_fewer_different_texts_make_no_pair(count: int) -> None:
    signatures = np.arange(count * 128, dtype=np.uint32).reshape(count, 128)
    pairs, similarity = similar_pairs(signatures, 0.5)
    assert pairs.shape == (0, 2) and similarity.shape == (0,)


def test_the_first_of_near_copies_is_kept() -> None:
    # 1 is near 0 and is dropped. 2 is near 1 only, which is gone, so 2 is kept.
    assert near_copies(4, np.array([[0, 1], [1, 2]])).tolist() == [False, True, False, False]
    assert near_copies(3, np.array([[0, 1], [0, 2], [1, 2]])).tolist() == [False, True, True]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_groups_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    groups = connected(20, pairs)
    reach = np.eye(20, dtype=bool)
    for first, second in pairs:
        reach[first, second] = reach[second, first] = True
    for _ in range(5):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    assert np.array_equal(reach, groups[:, None] == groups[None, :])
    assert set(groups) == set(range(groups.max() + 1))


def test_containment_is_the_share_of_a_text_that_is_in_another() -> None:
    clause, other, rest = ("".join(words(seed, 40)) for seed in (1, 2, 3))
    long = "".join(words(4, 3000)) + clause + "".join(words(5, 3000))
    index = Containment.of_documents([shingles(clause), shingles(other), shingles(clause + rest)])
    owners, shares = index.of(shingles(long))
    found = dict(zip(owners.tolist(), shares.tolist(), strict=True))
    assert found[0] == 1.0
    assert 1 not in found
    expected = len(shingles(clause)) / len(shingles(clause + rest))
    assert found[2] == pytest.approx(expected, abs=0.1)


def test_an_index_of_held_out_documents_is_saved_and_loaded(tmp_path: Path) -> None:
    texts = ["".join(words(seed, 40)) for seed in range(3)]
    index = Containment.of_documents(map(shingles, texts))
    index.save(tmp_path)
    for text in texts:
        found, again = index.of(shingles(text)), Containment.load(tmp_path).of(shingles(text))
        assert np.array_equal(found[0], again[0]) and np.array_equal(found[1], again[1])


def test_an_index_of_no_documents_finds_nothing() -> None:
    owners, shares = Containment.of_documents([]).of(shingles("a text"))
    assert len(owners) == len(shares) == 0


def test_shared_runs_count_for_every_text_that_has_them() -> None:
    text = "".join(words(1, 30))
    owners, shares = Containment.of_documents([shingles(text), shingles(text)]).of(shingles(text))
    assert owners.tolist() == [0, 1] and shares.tolist() == [1.0, 1.0]
