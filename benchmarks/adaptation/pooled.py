"""Paired differences of macro F1 between two models: on one task, and pooled over tasks."""

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
"""The smallest standard error, in points, that pooling assumes. If all predictions are equal, the computed one is 0."""


@dataclass(frozen=True)
class Difference:
    """A mean difference in points of macro F1 (0 to 100), and its standard error."""

    mean: float
    error: float

    def interval(self, freedom: int | None = None) -> tuple[float, float]:
        """The 95 % interval: normal, or with Student's t if its degrees of freedom are given."""
        from scipy import stats

        width = (stats.norm.ppf(0.975) if freedom is None else stats.t.ppf(0.975, freedom)) * self.error
        return self.mean - width, self.mean + width


def macro_f1(predictions: Predictions) -> float:
    """Macro F1 in points, over the classes that occur."""
    return float(_scores(_columns(predictions).sum(axis=0)[None])[0])


def paired_difference(first: Sequence[Predictions], other: Sequence[Predictions]) -> Difference:
    """Macro F1 of `other` minus that of `first`, the mean over draws. first[d] and other[d] learned from the same draw.

    The variance is the sum of two variances of this mean: over test examples, by the bootstrap; and over draws. The
    variance over seeds of the adaptation is not included: both models are taken as they are.
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

    The variance between tasks is estimated as by DerSimonian and Laird (1986). For k tasks, the interval is that of
    Hartung and Knapp (2001) with Student's t of k - 1 degrees of freedom. Their factor is at least 1, so that it does
    not narrow the interval (Jackson et al. 2017). For a single task, the interval is normal.

    `equal_weights` is the plain mean over tasks, with Student's t (normal for a single task). Prefer it if probes fall
    back to the base model's features: a task's difference and error may then be 0, and such tasks would get most of the
    weight.
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
    found = {"mean": mean, "interval": [low, high], "sd_between_tasks": math.sqrt(between), "tasks": k}
    spread = max(float(d.std(ddof=1)) / math.sqrt(k), LEAST_ERROR) if k > 1 else math.sqrt(v[0])
    plain = Difference(float(d.mean()), spread)
    return found | {"equal_weights": {"mean": plain.mean, "interval": plain.interval(k - 1 if k > 1 else None)}}


def _columns(predictions: Predictions) -> npt.NDArray[np.float64]:
    return np.asarray(count_columns(predictions).toarray())


def _scores(sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(n,) macro F1 in points from (n, 3 L + 2) sums of `count_columns`, for L classes."""
    sums = np.asarray(sums)
    classes = (sums.shape[1] - 2) // 3
    tp, fp, fn = (sums[:, part * classes : (part + 1) * classes] for part in range(3))
    return 100 * counts.macro_f1(tp, fp, fn)
