"""Paired differences of macro F1: of a task over draws of labels and test examples, and pooled over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.evaluation import counts
from domain_ft.evaluation.bootstrap import drawn_weights
from domain_ft.evaluation.classification import count_columns
from domain_ft.evaluation.predictions import Predictions
from domain_ft.randomness import generator

RESAMPLES = 1_000

LEAST_ERROR = 0.1
"""No difference is known better than to this many points. Two models with equal predictions would have error 0."""


@dataclass(frozen=True)
class Difference:
    """A mean difference in points of macro F1 (0 to 100), and its standard error."""

    mean: float
    error: float

    def interval(self, freedom: int | None = None) -> tuple[float, float]:
        """Of 95 %, normal or Student's t."""
        from scipy import stats

        width = (stats.norm.ppf(0.975) if freedom is None else stats.t.ppf(0.975, freedom)) * self.error
        return self.mean - width, self.mean + width


def macro_f1(predictions: Predictions) -> float:
    """In points, over the classes that occur."""
    return float(_scores(_columns(predictions).sum(axis=0)[None])[0])


def paired_difference(first: Sequence[Predictions], other: Sequence[Predictions]) -> Difference:
    """Other minus first, the mean over draws; first[d] and other[d] learned from the same labels.

    The variance is the sum of two: over test examples, by the bootstrap on the mean over draws; and over draws, that of
    the mean of the paired differences. It is that of these two models, not of other seeds of their adaptation.
    """
    pairs = [(_columns(a), _columns(b)) for a, b in zip(first, other, strict=True)]
    values = np.array([_scores(b.sum(0)[None])[0] - _scores(a.sum(0)[None])[0] for a, b in pairs])  # (draws,)
    replicates = [  # (resamples of a block,) each
        np.mean([_scores(weights @ b) - _scores(weights @ a) for a, b in pairs], axis=0)
        for weights in drawn_weights(pairs[0][0].shape[0], RESAMPLES, generator(0, "adaptation"))
    ]
    over_examples = float(np.concatenate(replicates).var(ddof=1))
    over_draws = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    return Difference(float(values.mean()), math.sqrt(over_examples + over_draws))


def pooled(differences: Sequence[Difference]) -> dict[str, Any]:
    """The random-effects mean over tasks, with its interval.

    The variance between tasks is DerSimonian and Laird's (1986). The interval is Hartung and Knapp's (2001), with
    Student's t of k - 1 degrees of freedom, never narrower than without their factor (Jackson et al. 2017).
    """
    d = np.array([one.mean for one in differences])
    v = np.array([max(one.error, LEAST_ERROR) ** 2 for one in differences])
    w = 1 / v
    fixed = (w * d).sum() / w.sum()
    q = (w * (d - fixed) ** 2).sum()
    k = len(d)
    between = max(0.0, (q - (k - 1)) / (w.sum() - (w**2).sum() / w.sum())) if k > 1 else 0.0
    w = 1 / (v + between)
    mean = float((w * d).sum() / w.sum())
    factor = max(1.0, float((w * (d - mean) ** 2).sum() / (k - 1))) if k > 1 else 1.0
    error = math.sqrt(factor / w.sum())
    low, high = Difference(mean, error).interval(k - 1 if k > 1 else None)
    return {"mean": mean, "interval": [low, high], "sd_between_tasks": math.sqrt(between), "tasks": k}


def _columns(predictions: Predictions) -> npt.NDArray[np.float64]:
    return np.asarray(count_columns(predictions).toarray())


def _scores(sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(draws,) macro F1 in points from (draws, 3 L + 2) sums."""
    sums = np.asarray(sums)
    classes = (sums.shape[1] - 2) // 3
    tp, fp, fn = (sums[:, part * classes : (part + 1) * classes] for part in range(3))
    return 100 * counts.macro_f1(tp, fp, fn)
