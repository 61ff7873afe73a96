"""How well sentence vectors find the text that belongs to a query, compared with BM25.

For each query all documents are ranked, by the cosine similarity of the vectors or by BM25. One document is relevant,
and its rank r determines the query's scores. nDCG@10 is 1 / log₂(1 + r) if r ≤ 10, else 0 (Järvelin & Kekäläinen 2002,
with a single relevant document). The reciprocal rank is 1 / r if r ≤ 10, else 0, and recall@10 is 1 if r ≤ 10, else 0.
Reported scores are means over queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from domain_ft.evaluation.bootstrap import FEW_DOCUMENTS, LEVEL, RESAMPLES, interval, resampled_sums
from domain_ft.randomness import generator

CUT = 10
"""A relevant document beyond this rank scores 0."""

METRICS = ("ndcg@10", "mrr@10", "recall@10")

NAMES = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@10": "recall@10"}
"""The metrics' names in reports."""

_AT_ONCE = 1024  # queries whose scores for all documents are in memory at a time

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The rank of each query's relevant document.

    Attributes:
        ranks: (queries,) int64, counted from 1. Documents with equal scores share the mean of their ranks, rounded up.
        groups: (queries,) int64, the source of each query. Queries of one source are resampled together.
    """

    ranks: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]

    @classmethod
    def of(cls, queries: Vectors, documents: Vectors, groups: npt.ArrayLike) -> Ranking:
        """Rank by cosine similarity.

        Args:
            queries: (n, D).
            documents: (n, D); document i is the relevant one for query i.
            groups: (n,) the source of each query.
        """
        unit = [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in (queries, documents)]
        parts = [
            _ranks(unit[0][first : first + _AT_ONCE] @ unit[1].T, first) for first in range(0, len(queries), _AT_ONCE)
        ]
        return cls(np.concatenate(parts), np.asarray(groups, dtype=np.int64))

    @classmethod
    def bm25(
        cls, queries: Sequence[npt.ArrayLike], documents: Sequence[npt.ArrayLike], groups: npt.ArrayLike
    ) -> Ranking:
        """Rank by BM25 over tokens. Unlike BM25 over words, this needs no rules for finding words in each language.

        Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", section 3.4, with k₁ = 1.2
        and b = 0.75, and with Lucene's inverse document frequency, which is never negative. A token that a query
        repeats counts once.

        Args:
            queries: the token ids of each query.
            documents: the token ids of each document; document i is the relevant one for query i.
            groups: (n,) the source of each query.
        """
        weights = _bm25_weights(documents)
        asked = _counts(queries, weights.shape[1])
        asked.data[:] = 1.0
        parts = [
            _ranks((asked[first : first + _AT_ONCE] @ weights.T).toarray(), first)
            for first in range(0, len(queries), _AT_ONCE)
        ]
        return cls(np.concatenate(parts), np.asarray(groups, dtype=np.int64))

    def scores(self) -> npt.NDArray[np.float64]:
        """(queries, 3), the `METRICS` of each query."""
        found = self.ranks <= CUT
        columns = (1 / np.log2(1 + self.ranks), 1 / self.ranks, np.ones(len(self.ranks)))
        return np.stack([np.where(found, column, 0.0) for column in columns], axis=1)

    def summary(self) -> dict[str, float | int]:
        """The means of `METRICS` over queries, and the number of queries, which is also the number of documents."""
        means = self.scores().mean(axis=0).tolist()
        return dict(zip(METRICS, means, strict=True)) | {"queries": len(self.ranks)}


def difference(before: Ranking, after: Ranking, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """How much higher the scores of `after` are, with intervals of the paired bootstrap over groups.

    Returns:
        For each metric `difference` and `interval` (None for too few groups); and `level`, `groups`, `resamples` and
        `few` (whether there are so few groups that the intervals are weak).

    Raises:
        ValueError: the groups of the two rankings differ, so they are not of the same queries.
    """
    if not np.array_equal(before.groups, after.groups):
        raise ValueError("a paired difference needs the same queries in the same order on both sides")
    groups = np.unique(before.groups, return_inverse=True)[1]
    count = int(groups.max()) + 1
    gained = np.concatenate([after.scores() - before.scores(), np.ones((len(groups), 1))], axis=1)  # (queries, 4)
    sums = np.zeros((count, gained.shape[1]))
    np.add.at(sums, groups, gained)
    drawn = resampled_sums(sums, resamples, generator(seed, "retrieval"))  # (resamples, 4)
    replicates = drawn[:, :-1] / drawn[:, -1:]
    means = gained[:, :-1].mean(axis=0)
    return {
        metric: {"difference": float(means[place]), "interval": interval(replicates[:, place], count)}
        for place, metric in enumerate(METRICS)
    } | {"level": LEVEL, "groups": count, "resamples": resamples, "few": count < FEW_DOCUMENTS}


def _ranks(scores: npt.NDArray[Any], first: int) -> npt.NDArray[np.int64]:
    """(queries,) the rank of document `first` + i for row i of `scores` (queries, documents)."""
    own = scores[np.arange(len(scores)), first + np.arange(len(scores))][:, None]
    better, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return better + 1 + equal // 2


def _counts(texts: Sequence[npt.ArrayLike], width: int | None = None) -> sparse.csr_matrix:
    """(texts, vocabulary) how often each token occurs. Token ids of `width` or more are left out."""
    tokens = [np.asarray(text, dtype=np.int64) for text in texts]
    joined = np.concatenate([*tokens, np.empty(0, dtype=np.int64)])
    width = width or (int(joined.max(initial=0)) + 1)
    known = joined < width
    rows = np.repeat(np.arange(len(tokens)), [len(text) for text in tokens])[known]
    made = sparse.csr_matrix((np.ones(len(rows)), (rows, joined[known])), shape=(len(tokens), width))
    made.sum_duplicates()
    return made


def _bm25_weights(documents: Sequence[npt.ArrayLike], k1: float = 1.2, b: float = 0.75) -> sparse.csr_matrix:
    """(documents, vocabulary) the score that a token of a query adds to each document."""
    counts = _counts(documents)
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    containing = np.asarray((counts > 0).sum(axis=0)).ravel()
    inverse = np.log1p((len(documents) - containing + 0.5) / (containing + 0.5))
    norm = k1 * (1 - b + b * lengths / max(lengths.mean(), 1.0))
    weights = counts.tocoo()
    values = weights.data * (k1 + 1) / (weights.data + norm[weights.row]) * inverse[weights.col]
    return sparse.csr_matrix((values, (weights.row, weights.col)), shape=weights.shape)
