"""Intervals of scores that are functions of counts: the bootstrap over test examples, and the variance over seeds.

F1, accuracy, Matthews correlation and similar scores are functions of sums over examples, such as TP, FP and FN by
class. So a resample is a row of weights, and its sums are a sparse matrix product. Examples of the same source form one
*unit* and are drawn together (Efron & Tibshirani 1993, chapter 8).

Two runs are compared on the same resamples, since an example that is hard for one is often hard for the other (the
paired bootstrap; Koehn 2004, Berg-Kirkpatrick et al. 2012). Seeds are not resampled: there are usually only three or
five, and a bootstrap over so few values makes intervals far too narrow. Instead, noise from Student's t is added to
each resample, scaled by the part of the mean's standard error that is due to seeds. The two runs count as independent
(Welch 1947), since seed 1 of one run is unrelated to seed 1 of the other. If every run has a single seed, no noise is
added: the interval then describes these models, not the way they were trained.

In simulations with 200 test examples, 2 to 6 of 100 comparisons of two equally good runs wrongly found a difference,
with one seed or several, and with small or large differences between seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.evaluation.bootstrap import FEW_DOCUMENTS, LEVEL, RESAMPLES, drawn_weights, interval
from domain_ft.randomness import generator

Array = npt.NDArray[np.float64]
Counts = Any
"""(units, k) counts of one seed of a run: a scipy sparse matrix or an array."""

Score = Callable[[Array], Mapping[str, Array]]
"""Computes scores by name, (draws,) each, from (draws, k) sums."""

RANGES = {"mcc": (-1.0, 1.0)}
"""The lowest and the highest value of scores, by name; other scores range from 0 to 1."""


def scores(
    seeds: Sequence[Counts], score: Score, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, dict[str, Any]]:
    """Summaries of a run's scores over its seeds, by score.

    Every verb that reports scores of counts uses this function, so that the same run has the same intervals everywhere.

    Args:
        seeds: the counts of each seed, over the same units.
        score: computes the scores from sums.
        seed: of the random draws.

    Returns:
        For each score `mean`, `sd` (with n - 1; None for one seed), `values` (of the seeds) and `interval` (of the
        mean; None for fewer than `FEWEST_UNITS` units).

    Raises:
        ValueError: there are no units, or seeds have different numbers of them.
    """
    drawn = _resampled([seeds], score, seed, resamples)
    summaries = {}
    for name, (values,) in _measured([seeds], score).items():
        low, high = RANGES.get(name, (0.0, 1.0))
        replicates = drawn[name][0].mean(axis=0) + _seed_noise([values], drawn[name], generator(seed, "seeds"))
        bounds = interval(replicates, _units(seeds), level)
        summaries[name] = {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "values": values.tolist(),
            "interval": bounds and _not_certain([max(bounds[0], low), min(bounds[1], high)], _units(seeds), level),
        }
    return summaries


def wilson(share: float, trials: int, level: float) -> tuple[float, float]:
    """Wilson's interval (1927) of the proportion `share` of successes among `trials`."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def _not_certain(bounds: list[float], units: int, level: float) -> list[float]:
    """`bounds`, or Wilson's interval if they are [1, 1]: n correct units of n do not prove a score of 1."""
    return bounds if bounds[0] < 1 else [wilson(1.0, units, level)[0], 1.0]


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
        base: the counts of each seed of the reference run.
        other: the counts of each seed of the other run, over the same units. The numbers of seeds may differ; for a
            run of a single seed, the variance over seeds of the other run is used.
        score: computes the scores from sums; higher is better.
        seed: of the random draws.

    Returns:
        For each score `difference` (of the means over seeds), `interval` (None for fewer than `FEWEST_UNITS` units),
        `p_value`, `verdict`, `level`, `units`, `resamples`, `seeds` (of base and other) and `few_units`.

        The verdict only depends on the interval: `better` or `worse` if it excludes zero, else `not shown`. The p-value
        is twice the share of resamples on the side of zero that has fewer of them, at most 1. One is added to the
        numerator and the denominator of the share, so that the p-value is at least 2 / (resamples + 1) (Davison &
        Hinkley 1997, section 4.2). For few units it is as rough as the interval.

    Raises:
        ValueError: there are no units, or runs or seeds have different numbers of them.
    """
    drawn = _resampled([base, other], score, seed, resamples)
    differences = {}
    for name, values in _measured([base, other], score).items():
        before, after = drawn[name]
        noise = _seed_noise(values, drawn[name], generator(seed, "seeds"))
        replicates = after.mean(axis=0) - before.mean(axis=0) + noise
        bounds = interval(replicates, _units(base), level)
        differences[name] = {
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
    return differences


def verdict(bounds: Sequence[float] | None) -> str:
    """The verdict for the interval of a difference: `better`, `worse` or `not shown`."""
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "not shown"
    return "better" if bounds[0] > 0 else "worse"


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for multiple comparisons, to bound the family-wise error rate (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.tolist()


def f1(tp: Array, fp: Array, fn: Array) -> Array:
    """F1 of counts of any shape; 0 for 0/0."""
    total = 2 * tp + fp + fn
    return np.divide(2 * tp, total, out=np.zeros_like(total), where=total > 0)


def macro_f1(tp: Array, fp: Array, fn: Array) -> Array:
    """(draws,) mean F1 of (draws, L) counts, over the classes that occur among targets or predictions."""
    occurring = (tp + fp + fn > 0).sum(axis=1)
    return f1(tp, fp, fn).sum(axis=1) / np.maximum(occurring, 1)


def _seed_noise(values: Sequence[Array], drawn: Sequence[Array], rng: np.random.Generator) -> Array:
    """(resamples,) draws, around 0, of the noise that the choice of seeds adds to a mean over seeds, or to a difference
    of two such means.

    Scores of seeds differ because some models are better, and because models err on different examples. The resamples
    of examples already contain the second part, so its variance is subtracted.

    Args:
        values: for each run the measured scores (seeds,).
        drawn: for each run the resampled scores (seeds, resamples).
        rng: of the noise.
    """
    freedoms = [len(scores) - 1 for scores in values]
    variances = [_seed_variance(*one) if len(one[0]) > 1 else None for one in zip(values, drawn, strict=True)]
    known = [(variance, freedom) for variance, freedom in zip(variances, freedoms, strict=True) if variance is not None]
    if not any(variance for variance, _ in known):
        return np.zeros(drawn[0].shape[1])
    of_runs = [
        known[0] if variance is None else (variance, free) for variance, free in zip(variances, freedoms, strict=True)
    ]
    squares = [variance / len(scores) for (variance, _), scores in zip(of_runs, values, strict=True)]
    freedom = sum(squares) ** 2 / sum(square**2 / free for square, (_, free) in zip(squares, of_runs, strict=True))
    return np.sqrt(sum(squares)) * rng.standard_t(freedom, drawn[0].shape[1])


def _seed_variance(values: Array, drawn: Array) -> float:
    """The variance of `values` (seeds,) between seeds, without the part that is due to the choice of examples."""
    seeds = len(values)
    by_examples = float((drawn - drawn.mean(axis=0)).var(axis=1).mean()) * seeds / (seeds - 1)
    return max(0.0, float(values.var(ddof=1)) - by_examples)


def _units(seeds: Sequence[Counts]) -> int:
    return int(seeds[0].shape[0])


def _measured(runs: Sequence[Sequence[Counts]], score: Score) -> dict[str, list[Array]]:
    """The measured values (seeds,) of each run, by score."""
    of_runs = [score(np.stack([np.asarray(counts.sum(axis=0)).reshape(-1) for counts in seeds])) for seeds in runs]
    return {name: [values[name] for values in of_runs] for name in of_runs[0]}


def _resampled(
    runs: Sequence[Sequence[Counts]], score: Score, seed: int, resamples: int
) -> dict[str, list[npt.NDArray[np.float64]]]:
    """Resampled values (seeds, resamples) of each run, by score: all runs and seeds on the same resamples."""
    from scipy import sparse

    units = _units(runs[0])
    if not units or any(counts.shape[0] != units for seeds in runs for counts in seeds):
        raise ValueError("runs must have the same units, at least one")
    transposed = [[sparse.csr_array(counts, dtype=np.float64).T.tocsr() for counts in seeds] for seeds in runs]
    widest = max(counts.shape[0] for seeds in transposed for counts in seeds)
    blocks: list[list[dict[str, Array]]] = []  # for each block of draws and each run, (seeds, draws) by score
    for weights in drawn_weights(units, resamples, generator(seed, "bootstrap"), widest):
        columns = np.ascontiguousarray(weights.T, dtype=np.float64)  # (units, draws)
        of_runs = [[score((counts @ columns).T) for counts in seeds] for seeds in transposed]
        blocks.append([{name: np.stack([one[name] for one in seeds]) for name in seeds[0]} for seeds in of_runs])
    return {
        name: [np.concatenate([block[place][name] for block in blocks], axis=1) for place in range(len(runs))]
        for name in blocks[0][0]
    }


def _sign_p_value(replicates: Array) -> float:
    beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(replicates) + 1))
