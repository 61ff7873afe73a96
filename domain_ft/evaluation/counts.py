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

Where two runs are alike, 2 to 6 in a hundred comparisons of 200 test examples say otherwise (see the tests), with one
seed and with several, whether seeds differ much or little.
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
"""(units, k) counts of one seed of a run, a row for each unit that is drawn: a scipy sparse matrix or an array."""

Score = Callable[[Array], Mapping[str, Array]]
"""From (draws, k) sums to scores by name, (draws,) each."""

RANGES = {"mcc": (-1.0, 1.0)}
"""Where a score can lie, where that is not 0 to 1."""


def scores(
    seeds: Sequence[Counts], score: Score, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, dict[str, Any]]:
    """Each score of a run over its seeds: `mean`, `sd` (n - 1; None of one seed), `values` and `interval` of the mean.

    All verbs take the intervals of scores from here, so that they say the same of the same run.

    Args:
        seeds: the counts of each seed, over the same units.
        score: what is computed of their sums.
        seed: of the draws.
    """
    drawn = _resampled([seeds], score, seed, resamples)
    found = {}
    for name, (values,) in _measured([seeds], score).items():
        low, high = RANGES.get(name, (0.0, 1.0))
        replicates = drawn[name][0].mean(axis=0) + _seed_noise([values], drawn[name], generator(seed, "seeds"))
        bounds = interval(replicates, _units(seeds), level)
        found[name] = {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "values": values.tolist(),
            "interval": bounds and _beyond_certainty([max(bounds[0], low), min(bounds[1], high)], _units(seeds), level),
        }
    return found


def wilson(share: float, trials: int, level: float) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of `trials`."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def _beyond_certainty(bounds: list[float], units: int, level: float) -> list[float]:
    """An interval, and where all was right, and so in every draw, that of a share: n of n right is no certainty."""
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
        base: the counts of each seed of the run that is compared with; its rows are the same units as `other`'s.
        other: the counts of each seed of the other run. The two may have different numbers of seeds; where one has a
            single seed, its seeds are taken to spread as the other's do.
        score: what is computed of sums; of higher scores is said that they are better.
        seed: of the draws.

    Returns:
        For each score `difference` (of the means over seeds), `interval` (None of fewer than `FEWEST_UNITS` units),
        `p_value`, `verdict`, `level`, `units`, `resamples`, `seeds` (how many of base and other) and `few_units`.

        The verdict goes by the interval alone: `better` or `worse` where it excludes zero, else `not shown`. The
        p-value is twice the share of draws on the other side of zero, with one draw added to it so that it is never 0
        (Davison & Hinkley 1997, section 4.2): it reads off the same draws what the interval does, is no smaller than
        2 / (resamples + 1), and is as rough as the interval where units are few.
    """
    drawn = _resampled([base, other], score, seed, resamples)
    found = {}
    for name, values in _measured([base, other], score).items():
        before, after = drawn[name]
        noise = _seed_noise(values, drawn[name], generator(seed, "seeds"))
        replicates = after.mean(axis=0) - before.mean(axis=0) + noise
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


def _seed_noise(values: Sequence[Array], drawn: Sequence[Array], rng: np.random.Generator) -> Array:
    """What the choice of seeds adds to a mean over seeds, or to the difference of two: (resamples,) draws around 0.

    Seeds differ on a test set for two reasons: one model is better than the other, and each errs on other examples.
    What the second makes of their differences is in the draws of examples already, and is taken off.

    Args:
        values: for each run the (seeds,) scores that were measured.
        drawn: for each run the (seeds, resamples) scores of the draws.
        rng: of the noise.
    """
    freedoms = [len(own) - 1 for own in values]
    variances = [_seed_variance(*one) if len(one[0]) > 1 else None for one in zip(values, drawn, strict=True)]
    known = [(variance, freedom) for variance, freedom in zip(variances, freedoms, strict=True) if variance is not None]
    if not any(variance for variance, _ in known):
        return np.zeros(drawn[0].shape[1])
    of_runs = [
        known[0] if variance is None else (variance, free) for variance, free in zip(variances, freedoms, strict=True)
    ]
    squares = [variance / len(own) for (variance, _), own in zip(of_runs, values, strict=True)]
    freedom = sum(squares) ** 2 / sum(square**2 / free for square, (_, free) in zip(squares, of_runs, strict=True))
    return np.sqrt(sum(squares)) * rng.standard_t(freedom, drawn[0].shape[1])


def _seed_variance(values: Array, drawn: Array) -> float:
    """How much better seeds differ from each other, beyond what the choice of examples does to (seeds,) `values`."""
    seeds = len(values)
    by_examples = float((drawn - drawn.mean(axis=0)).var(axis=1).mean()) * seeds / (seeds - 1)
    return max(0.0, float(values.var(ddof=1)) - by_examples)


def _units(seeds: Sequence[Counts]) -> int:
    return int(seeds[0].shape[0])


def _measured(runs: Sequence[Sequence[Counts]], score: Score) -> dict[str, list[Array]]:
    """By score, for each run the (seeds,) values that were measured."""
    of_runs = [score(np.stack([np.asarray(own.sum(axis=0)).reshape(-1) for own in seeds])) for seeds in runs]
    return {name: [values[name] for values in of_runs] for name in of_runs[0]}


def _resampled(
    runs: Sequence[Sequence[Counts]], score: Score, seed: int, resamples: int
) -> dict[str, list[npt.NDArray[np.float64]]]:
    """By score, for each run (seeds, resamples) values: all runs and seeds on the same draws of units."""
    from scipy import sparse

    units = _units(runs[0])
    if not units or any(own.shape[0] != units for seeds in runs for own in seeds):
        raise ValueError("runs are compared over the same units, at least one")
    transposed = [[sparse.csr_array(own, dtype=np.float64).T.tocsr() for own in seeds] for seeds in runs]
    widest = max(own.shape[0] for seeds in transposed for own in seeds)
    blocks: list[list[dict[str, Array]]] = []  # for each block of draws and each run, (seeds, draws) by score
    for weights in drawn_weights(units, resamples, generator(seed, "bootstrap"), widest):
        columns = np.ascontiguousarray(weights.T, dtype=np.float64)
        of_runs = [[score((own @ columns).T) for own in seeds] for seeds in transposed]
        blocks.append([{name: np.stack([one[name] for one in seeds]) for name in seeds[0]} for seeds in of_runs])
    return {
        name: [np.concatenate([block[place][name] for block in blocks], axis=1) for place in range(len(runs))]
        for name in blocks[0][0]
    }


def _sign_p_value(replicates: Array) -> float:
    beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(replicates) + 1))
