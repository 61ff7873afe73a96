"""Retrieval: ranks, their scores, BM25 against its formula, and paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.evaluation.retrieval import Ranking, difference


def test_ndcg_mrr_and_recall_follow_from_ranks() -> None:
    scores = Ranking(np.array([1, 3, 10, 11]), np.arange(4)).scores()
    assert scores[:, 0] == pytest.approx([1, 0.5, 1 / math.log2(11), 0])
    assert scores[:, 1] == pytest.approx([1, 1 / 3, 0.1, 0])
    assert scores[:, 2].tolist() == [1, 1, 1, 0]


@given(seed=st.integers(0, 999), count=st.integers(1, 30))
def test_the_rank_is_the_place_among_all_documents(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    queries, documents = draw.normal(size=(2, count, 4)).astype(np.float32)
    found = Ranking.of(queries, documents, np.arange(count)).ranks
    for place in range(count):
        cosines = [
            float(queries[place] @ one / np.linalg.norm(queries[place]) / np.linalg.norm(one)) for one in documents
        ]
        order = sorted(range(count), key=lambda other: -cosines[other])
        assert found[place] == order.index(place) + 1


def test_equal_documents_all_have_the_middle_rank() -> None:
    same = np.ones((9, 2), dtype=np.float32)
    assert Ranking.of(same, same, np.arange(9)).ranks.tolist() == [5] * 9


def test_bm25_is_its_formula() -> None:
    documents = [[1, 1, 2], [2, 3], [4, 5, 6, 1]]
    queries = [[1], [3, 9, 3], [6, 2]]
    ranking = Ranking.bm25(queries, documents, np.arange(3))
    mean = 3.0

    def score(query: list[int], document: list[int]) -> float:
        total = 0.0
        for token in set(query):
            count, has = document.count(token), sum(token in other for other in documents)
            if count:
                inverse = math.log(1 + (3 - has + 0.5) / (has + 0.5))
                total += inverse * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(document) / mean))
        return total

    for place, query in enumerate(queries):
        scores = [score(query, document) for document in documents]
        assert ranking.ranks[place] == sum(one > scores[place] for one in scores) + 1


def test_a_difference_is_paired_over_groups() -> None:
    draw = np.random.default_rng(0)
    ranks = draw.integers(1, 20, 60)
    groups = np.repeat(np.arange(20), 3)
    before, after = Ranking(ranks, groups), Ranking(np.maximum(1, ranks - 1), groups)
    found = difference(before, after)
    gain = (after.scores() - before.scores())[:, 0].mean()
    assert found["ndcg@10"]["difference"] == pytest.approx(gain)
    low, high = found["ndcg@10"]["interval"]
    assert 0 < low < gain < high
    assert found["groups"] == 20
    assert difference(before, before)["mrr@10"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    assert difference(Ranking(ranks[:4], groups[:4]), Ranking(ranks[:4], groups[:4]))["ndcg@10"]["interval"] is None
    with pytest.raises(ValueError, match="same queries"):
        difference(before, Ranking(ranks[:3], groups[:3]))
