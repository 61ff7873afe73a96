"""Retrieval on held-out pairs: the anchors are the queries, and the positives are the documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.pairs import PairRows
from domain_ft.evaluation.retrieval import Ranking
from domain_ft.models.base import BaseModel, Tokens
from domain_ft.models.modes import evaluating
from domain_ft.models.pooling import Pooling
from domain_ft.progress import Progress

MOST_QUERIES = 2_000
"""The maximum number of pairs, evenly spaced: enough for a narrow interval."""

_PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class PairTask:
    """Queries, each with one relevant document.

    Attributes:
        pairs: the rows that the pairs are taken from.
        chosen: (n,) the indices in `pairs` of the pairs used. No two of these have a text in common.
    """

    pairs: PairRows
    chosen: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pairs: PairRows, most: int = MOST_QUERIES) -> PairTask:
        """At most `most` evenly spaced pairs, without those that repeat a text of a pair chosen before."""
        spaced = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs)), dtype=np.int64))
        texts = [ids.tobytes() for ids in _texts(pairs, spaced)]
        seen: set[bytes] = set()
        chosen = []
        for pair, own in zip(spaced.tolist(), zip(texts[0::2], texts[1::2], strict=True), strict=True):
            if seen.isdisjoint(own):
                chosen.append(pair)
                seen.update(own)
        return cls(pairs, np.array(chosen, dtype=np.int64))

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """(n,) the document of each pair."""
        return self.pairs.documents[self.chosen]

    def rank(self, base: BaseModel, pooling: Pooling, progress: Progress | None = None, label: str = "") -> Ranking:
        """The ranking by the cosine similarity of `base`'s vectors. The caller sets autocast."""
        parts = []
        with evaluating(base.model):
            for first in range(0, len(self.chosen), _PAIRS_AT_ONCE):
                batch = self.pairs.pack(self.chosen[first : first + _PAIRS_AT_ONCE])
                inputs = Tokens.from_batch(batch).to(base.device)
                parts.append(pooling.vectors(base.states(inputs), inputs.cu_seqlens).float().cpu().numpy())
                if progress:
                    progress(label, min(first + _PAIRS_AT_ONCE, len(self.chosen)), len(self.chosen))
        vectors = np.concatenate(parts).reshape(len(self.chosen), 2, -1)  # (n, 2, D)
        return Ranking.of(vectors[:, 0], vectors[:, 1], self.groups)

    def rank_by_bm25(self) -> Ranking:
        """The ranking by BM25 over the model's tokens."""
        texts = _texts(self.pairs, self.chosen)
        return Ranking.bm25(texts[0::2], texts[1::2], self.groups)


def _texts(pairs: PairRows, chosen: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The token ids of anchor, positive, anchor, and so on, without special tokens."""
    batch = pairs.pack(chosen)
    bounds = batch.cu_seqlens[1:-1]
    ids, words = np.split(batch.input_ids, bounds), np.split(batch.word_ids, bounds)
    return [one[word >= 0] for one, word in zip(ids, words, strict=True)]
