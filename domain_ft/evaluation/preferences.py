"""How well a model's log-probabilities agree with people's preferences, with intervals.

A pair is right if the log-ratio to the reference is larger for its better answer; a tie counts one half. So the
reference itself has an accuracy of exactly one half. Rated answers without pairs are compared across prompts: the
accuracy is the share of pairs of a desirable and an undesirable answer that are right (the area under the ROC curve).

Intervals come from the bootstrap over prompts (`bootstrap`): all pairs of a prompt are drawn together. Before and after
are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.evaluation.bootstrap import FEW_DOCUMENTS, LEVEL, RESAMPLES, drawn_weights, interval
from domain_ft.evaluation.counts import verdict, wilson
from domain_ft.randomness import generator

LENGTH_MATCHED = 0.1
"""The answers of a pair are of matched length if the longer has at most this share more tokens."""

SHARES = ("accuracy", "ranking_accuracy", "matched_accuracy")
"""The measures from 0 to 1."""

MEASURES = (*SHARES, "margin", "chosen_log_prob", "rejected_log_prob")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PreferenceScores:
    """Log-probabilities of answers under one model and under the reference; n answers of each kind.

    Attributes:
        better, worse: (n, 3) float64 of the better and the worse (or desirable and undesirable) answers: log π(y|x),
            log π_ref(y|x), and the number of tokens. The two have equal n if they are pairs.
        better_prompts, worse_prompts: (n,) int64, the prompt of each answer.
        paired: whether the i-th better answer belongs to the i-th worse one.
    """

    better: Array
    worse: Array
    better_prompts: npt.NDArray[np.int64]
    worse_prompts: npt.NDArray[np.int64]
    paired: bool

    @property
    def prompts(self) -> int:
        """The number of prompts."""
        return len(np.union1d(self.better_prompts, self.worse_prompts))

    @property
    def longer_wins(self) -> float | None:
        """The share of pairs whose better answer is the longer; a tie counts one half. None without pairs."""
        return float(_wins(self.better[:, 2], self.worse[:, 2]).mean()) if self.paired else None

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """(n,) the pairs whose answers have about equal lengths."""
        lengths = np.stack([self.better[:, 2], self.worse[:, 2]])
        return np.asarray(lengths.max(axis=0) <= (1 + LENGTH_MATCHED) * lengths.min(axis=0))

    def measures(self, drawn: npt.NDArray[np.int64]) -> dict[str, Array]:
        """The measures by name, (draws,) each; NaN for a measure without any pair in a draw.

        Args:
            drawn: (draws, prompts) how often each prompt counts.
        """
        names = np.union1d(self.better_prompts, self.worse_prompts)
        weights = drawn.astype(np.float64)
        better = weights[:, np.searchsorted(names, self.better_prompts)]  # (draws, n)
        worse = weights[:, np.searchsorted(names, self.worse_prompts)]
        ratios = [answers[:, 0] - answers[:, 1] for answers in (self.better, self.worse)]
        means = [answers[:, 0] / answers[:, 2] for answers in (self.better, self.worse)]
        found = {
            "accuracy": self._agreement(ratios, better, worse),
            "ranking_accuracy": self._agreement(means, better, worse),
            "margin": _mean(ratios[0], better) - _mean(ratios[1], worse),
            "chosen_log_prob": _mean(self.better[:, 0], better),
            "rejected_log_prob": _mean(self.worse[:, 0], worse),
        }
        if self.paired:
            found["matched_accuracy"] = _mean(_wins(*ratios), better * self.matched)
        return found

    def _agreement(self, values: list[Array], better: Array, worse: Array) -> Array:
        """(draws,) the share of pairs in which the better answer has the higher of `values`."""
        if self.paired:
            return _mean(_wins(*values), better)
        wins = _wins(values[0][:, None], values[1][None])  # (better, worse)
        with np.errstate(invalid="ignore", divide="ignore"):
            agreed: Array = ((better @ wins) * worse).sum(axis=1) / (better.sum(axis=1) * worse.sum(axis=1))
        return agreed

    def summary(self, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> dict[str, Any]:
        """The measures for result.json: each value (None if no pair has it), and under `interval` its interval."""
        values = _only(self.measures(np.ones((1, self.prompts), dtype=np.int64)))
        drawn = _resampled(self, seed, resamples)
        return {
            "pairs" if self.paired else "answers": len(self.better) + (0 if self.paired else len(self.worse)),
            "prompts": self.prompts,
            **values,
            "interval": {name: self._interval(name, values[name], drawn[name], level) for name in values},
            "level": level,
            "resamples": resamples,
        }

    def _interval(self, name: str, value: float | None, drawn: Array, level: float) -> list[float] | None:
        if value is None:
            return None
        bounds = _bounds(drawn, self.prompts, level)
        if bounds and name in SHARES and bounds[0] == bounds[1] and value in (0.0, 1.0):  # few pairs prove no certainty
            low, high = wilson(1.0, self.prompts, level)
            return [low, high] if value else [1 - high, 1 - low]
        return bounds


def preference_differences(
    before: PreferenceScores,
    after: PreferenceScores,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, dict[str, Any]]:
    """How much higher each measure is for `after` than for `before`, on the same answers.

    Returns:
        For each measure `difference`, `interval` (None for few prompts), `verdict`, `level`, `units` (prompts),
        `resamples` and `few_units`. Measures that no pair has are left out.
    """
    ones = np.ones((1, before.prompts), dtype=np.int64)
    first, second = _only(before.measures(ones)), _only(after.measures(ones))
    drawn = [_resampled(scores, seed, resamples) for scores in (before, after)]
    differences = {}
    for name in MEASURES:
        old, new = first.get(name), second.get(name)
        if old is None or new is None:
            continue
        bounds = _bounds(drawn[1][name] - drawn[0][name], before.prompts, level)
        differences[name] = {
            "difference": new - old,
            "interval": bounds,
            "verdict": verdict(bounds),
            "level": level,
            "units": before.prompts,
            "resamples": resamples,
            "few_units": before.prompts < FEW_DOCUMENTS,
        }
    return differences


def both_fell(differences: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether chosen and rejected answers both became less likely, by intervals: a sign of degeneration.

    A preference loss is satisfied if the worse answers fall more than the better ones. Where both fall, the probability
    goes to answers that nobody compared.
    """
    return all(differences[name]["verdict"] == "worse" for name in ("chosen_log_prob", "rejected_log_prob"))


def _resampled(scores: PreferenceScores, seed: int, resamples: int) -> dict[str, Array]:
    width = max(len(scores.better), len(scores.worse))
    blocks = [
        scores.measures(weights)
        for weights in drawn_weights(scores.prompts, resamples, generator(seed, "bootstrap"), width)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _wins(one: Array, other: Array) -> Array:
    """1 where `one` is larger, 1/2 where both are equal, else 0."""
    return (one > other) + 0.5 * (one == other)


def _mean(values: Array, weights: Array) -> Array:
    """(draws,) weighted means of (n,) values."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Array = (weights @ values) / weights.sum(axis=1)
    return mean


def _only(measures: Mapping[str, Array]) -> dict[str, float | None]:
    """The values of a single draw; None for NaN."""
    return {name: None if np.isnan(values[0]) else float(values[0]) for name, values in measures.items()}


def _bounds(drawn: Array, units: int, level: float) -> list[float] | None:
    """The interval of the draws that have a value."""
    found = drawn[~np.isnan(drawn)]
    return interval(found, units, level) if len(found) else None
