"""How sure a score is that is made of counts: the bootstrap over test examples, and over seeds.

F1, accuracy, Matthews correlation and their like are functions of sums over examples: right ones, false alarms, misses
by class. So a draw of examples is a row of weights, and all its sums are one sparse product. Examples that share a
source are one *unit* and are drawn together (Efron & Tibshirani 1993, chapter 8).

Two runs are compared on the same draws: what makes an example hard, it does to both (the paired bootstrap; Koehn 2004,
Berg-Kirkpatrick et al. 2012). Seeds are another matter. A run's seeds are a sample of three or five from all that might
have been, and a bootstrap of three values knows only those three: its intervals are far too narrow. What seeds add is
therefore drawn from Student's t with the standard error of their mean, those of the two runs apart from each other
(Welch 1947): seed 1 of one run has nothing to do with seed 1 of another. With a single seed nothing is known of what
another would give, and nothing is added: the interval is then one of this model, not of its recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.evaluation.bootstrap import FEW_DOCUMENTS, LEVEL, RESAMPLES, drawn_weights, interval
from domain_ft.randomness import generator

Array = npt.NDArray[np.float64]
Counts = Any
"""(units, k) counts of one seed of a run, a row for each unit that is drawn: a scipy sparse matrix or an array."""

Score = Callable[[Array], Mapping[str, Array]]
"""From (draws, k) sums to scores by name, (draws,) each."""

RANGES = {"mcc": (-1.0, 1.0)}
"""Where a score can lie, where that is not 0 to 1."""


def scores(
    seeds: Sequence[Counts], score: Score, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, dict[str, Any]]:
    """Each score of a run over its seeds: `mean`, `sd` (n - 1; None of one seed), `values` and `interval` of the mean.

    Args:
        seeds: the counts of each seed, over the same units.
        score: what is computed of their sums.
        seed: of the draws.
    """
    drawn, noise = _resampled([seeds], score, seed, resamples), _SeedNoise(seed, resamples)
    found = {}
    for name, (values,) in _measured([seeds], score).items():
        low, high = RANGES.get(name, (0.0, 1.0))
        bounds = interval(drawn[name][0] + noise.of(values), _units(seeds), level)
        found[name] = {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "values": values.tolist(),
            "interval": bounds and [max(bounds[0], low), min(bounds[1], high)],
        }
    return found


def counts_difference(
    base: Sequence[Counts],
    other: Sequence[Counts],
    score: Score,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, dict[str, Any]]:
    """How much higher each score of `other` is than that of `base` on the same units.

    Args:
        base: the counts of each seed of the run that is compared with; its rows are the same units as `other`'s.
        other: the counts of each seed of the other run. The two may have different numbers of seeds; where one has a
            single seed, its seeds are taken to spread as the other's do.
        score: what is computed of sums; of higher scores is said that they are better.
        seed: of the draws.

    Returns:
        For each score `difference` (of the means over seeds), `interval` (None of a single unit), `p_value`,
        `verdict`, `level`, `units`, `resamples`, `seeds` (how many of base and other) and `few_units`. The verdict
        goes by the interval alone: `better` or `worse` where it excludes zero, else `not shown`. The p-value is twice
        the share of draws on the other side of zero, with one draw added to it so that it is never 0 (Davison & Hinkley
        1997, section 4.2): it reads off the same draws what the interval does, is no smaller than 2 / (resamples + 1),
        and is as rough as the interval where units are few.
    """
    drawn, noise = _resampled([base, other], score, seed, resamples), _SeedNoise(seed, resamples)
    found = {}
    for name, values in _measured([base, other], score).items():
        replicates = drawn[name][1] - drawn[name][0] + noise.of(*values)
        bounds = interval(replicates, _units(base), level)
        found[name] = {
            "difference": float(values[1].mean() - values[0].mean()),
            "interval": bounds,
            "p_value": _sign_p_value(replicates),
            "verdict": verdict(bounds),
            "level": level,
            "units": _units(base),
            "resamples": resamples,
            "seeds": [len(base), len(other)],
            "few_units": _units(base) < FEW_DOCUMENTS,
        }
    return found


def verdict(bounds: Sequence[float] | None) -> str:
    """What an interval of a difference allows to say: `better`, `worse` or `not shown`."""
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "not shown"
    return "better" if bounds[0] > 0 else "worse"


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, so that the chance of any false finding stays at the level (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.tolist()


def f1(tp: Array, fp: Array, fn: Array) -> Array:
    """F1 of counts of any shape; 0 where there is nothing to find and nothing found."""
    whole = 2 * tp + fp + fn
    return np.divide(2 * tp, whole, out=np.zeros_like(whole), where=whole > 0)


def macro_f1(tp: Array, fp: Array, fn: Array) -> Array:
    """(draws,) mean F1 of (draws, classes) counts, over the classes that occur: in the truth or in what was said."""
    occurring = (tp + fp + fn > 0).sum(axis=1)
    return f1(tp, fp, fn).sum(axis=1) / np.maximum(occurring, 1)


class _SeedNoise:
    """What the choice of seeds adds to a mean over seeds, or to the difference of two: (resamples,) draws around 0."""

    def __init__(self, seed: int, resamples: int) -> None:
        self._seed, self._resamples = seed, resamples

    def of(self, *runs: Array) -> Array:
        """For the scores of each run's seeds, (seeds,) each."""
        known = [(values.var(ddof=1), len(values) - 1) for values in runs if len(values) > 1]
        squares = np.array(
            [(values.var(ddof=1) if len(values) > 1 else known[0][0]) / len(values) for values in runs if known]
        )
        if not squares.sum():
            return np.zeros(self._resamples)
        freedoms = [len(values) - 1 if len(values) > 1 else known[0][1] for values in runs]
        freedom = squares.sum() ** 2 / sum(square**2 / free for square, free in zip(squares, freedoms, strict=True))
        rng = generator(self._seed, "bootstrap", "seeds")
        return np.sqrt(squares.sum()) * rng.standard_t(freedom, self._resamples)


def _units(seeds: Sequence[Counts]) -> int:
    return int(seeds[0].shape[0])


def _measured(runs: Sequence[Sequence[Counts]], score: Score) -> dict[str, list[Array]]:
    """By score, for each run the (seeds,) values that were measured."""
    of_runs = [score(np.stack([np.asarray(own.sum(axis=0)).reshape(-1) for own in seeds])) for seeds in runs]
    return {name: [values[name] for values in of_runs] for name in of_runs[0]}


def _resampled(
    runs: Sequence[Sequence[Counts]], score: Score, seed: int, resamples: int
) -> dict[str, npt.NDArray[np.float64]]:
    """By score, (runs, resamples) means over seeds: all runs and seeds on the same draws of units."""
    from scipy import sparse

    units = _units(runs[0])
    if not units or any(own.shape[0] != units for seeds in runs for own in seeds):
        raise ValueError("runs are compared over the same units, at least one")
    transposed = [[sparse.csr_array(own, dtype=np.float64).T.tocsr() for own in seeds] for seeds in runs]
    widest = max(own.shape[0] for seeds in transposed for own in seeds)
    blocks: dict[str, list[Array]] = {}
    for weights in drawn_weights(units, resamples, generator(seed, "bootstrap"), widest):
        columns = np.ascontiguousarray(weights.T, dtype=np.float64)
        of_runs = []
        for seeds in transposed:
            of_seeds = [score((own @ columns).T) for own in seeds]
            of_runs.append({name: np.mean([values[name] for values in of_seeds], axis=0) for name in of_seeds[0]})
        for name in of_runs[0]:
            blocks.setdefault(name, []).append(np.stack([values[name] for values in of_runs]))
    return {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def _sign_p_value(replicates: Array) -> float:
    beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(replicates) + 1))
