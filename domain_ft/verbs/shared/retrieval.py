"""Retrieval on held-out text, for `evaluate`: several models and BM25 rank the same pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domain_ft.corpus.pairs import pair_rows
from domain_ft.corpus.prepared import PreparedCorpus
from domain_ft.corpus.tokens import TokenRows
from domain_ft.errors import SettingsError
from domain_ft.evaluation import retrieval
from domain_ft.evaluation.pair_retrieval import PairTask
from domain_ft.evaluation.retrieval import Ranking
from domain_ft.models.base import BaseModel
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.shared.language_model import HeldOut
from domain_ft.verbs.shared.machine import Machine


class Retrieval:
    """Collects the rankings of each model, which must read the same pairs."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._rankings: dict[str, list[Ranking]] = {}
        self._bm25: dict[str, Ranking] = {}

    def add(
        self,
        base: BaseModel,
        corpora: Mapping[str, PreparedCorpus],
        held_out: Mapping[str, HeldOut],
        machine: Machine,
        display: ProgressDisplay,
    ) -> None:
        """Rank the held-out pairs of each role by a model's vectors.

        Raises:
            SettingsError: the model's tokenizer or maximum length differs from the first model's, so it reads other
                tokens.
            CorpusError: the held-out text of a corpus has no pairs.
        """
        for role, corpus in corpora.items():
            rows = held_out[role].rows
            assert isinstance(rows, TokenRows)
            if self._keys.setdefault(role, rows.key) != rows.key:
                raise SettingsError(
                    f"--retrieval cannot compare {base.name} with the models before it: its tokenizer or its longest "
                    "sequence differs, so it would get other queries",
                    fix="evaluate it in a separate call, or give a --max-length that all models can read",
                )
            pairs = pair_rows(corpus.split("evaluation"), rows, display.job, name=f"the held-out text of {corpus.name}")
            task = PairTask.of(pairs)
            with machine.accelerator.autocast():
                ranking = task.rank(
                    base,
                    base.pooling,
                    display.job,
                    f"{base.name}: retrieval on {corpus.name}",
                )
            self._rankings.setdefault(role, []).append(ranking)
            if role not in self._bm25:
                self._bm25[role] = task.rank_by_bm25()

    def of_model(self, place: int, seed: int) -> dict[str, dict[str, Any]]:
        """By role, a model's scores, and how much higher they are than those of the first model (`difference`)."""
        found = {}
        for role, rankings in self._rankings.items():
            scores: dict[str, Any] = dict(rankings[place].summary())
            if place:
                scores["difference"] = retrieval.difference(rankings[0], rankings[place], seed=seed)
            found[role] = scores
        return found

    def bm25(self) -> dict[str, dict[str, Any]]:
        """By role, the scores of BM25."""
        return {role: dict(ranking.summary()) for role, ranking in self._bm25.items()}
