"""Calibration of a model's probabilities.

A temperature divides the logits (Guo et al. 2017, "On Calibration of Modern Neural Networks"). It is fitted on
validation examples and removes most of the overconfidence of fine-tuned models. It does not change the order of an
example's classes, so single-label predictions stay the same. With few validation examples it can make calibration
worse, so it is used only if it also helps on validation examples that it was not fitted to (`choose_temperature`). For
multi-label tasks the threshold is fitted on the validation examples too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.evaluation.counts import macro_f1
from domain_ft.evaluation.predictions import Predictions
from domain_ft.randomness import generator

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""The lowest and the highest temperature that can be fitted."""

FOLDS = 5


@dataclass(frozen=True)
class TemperatureChoice:
    """A temperature fitted to validation examples, and whether it is used.

    Attributes:
        fitted: the temperature fitted to all validation examples.
        used: whether it is used; see `choose_temperature`.
        loss_before, loss_after: mean negative log-likelihood in nats, without a temperature and with the temperature
            fitted to the other folds; None if there are no folds.
        ece_before, ece_after: the expected calibration error, likewise.
    """

    fitted: float
    used: bool
    loss_before: float | None = None
    loss_after: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None

    @property
    def temperature(self) -> float:
        """The divisor of the logits."""
        return self.fitted if self.used else 1.0


def choose_temperature(validation: Predictions) -> TemperatureChoice:
    """Fit a temperature, and decide by cross-validation on the validation examples whether it is used.

    Each fold consists of complete sources, and its logits are divided by the temperature fitted to the other folds. The
    temperature is used if this lowers the loss by more than the standard error of the gain and does not raise the
    expected calibration error. With fewer than two sources there are no folds, and the temperature is not used.
    """
    multi_label = validation.labels.multi_label
    fitted = fit_temperature(validation.logits, validation.targets, multi_label)
    _, units = np.unique(validation.groups, return_inverse=True)
    units = units.reshape(-1)
    count = int(units.max(initial=-1)) + 1
    if count < 2:
        return TemperatureChoice(fitted, used=False)
    folds = (generator(0, "calibration").permutation(count) % min(FOLDS, count))[units]
    logits = validation.logits.astype(np.float64)
    scaled = np.empty_like(logits)
    for fold in np.unique(folds):
        held = folds == fold
        scaled[held] = logits[held] / fit_temperature(logits[~held], validation.targets[~held], multi_label)
    before, after = (_losses(one, validation.targets, multi_label, 0.0) for one in (logits, scaled))
    gains = np.bincount(units, weights=before - after)  # by source, whose examples are not independent
    error = float(np.sqrt(count * gains.var(ddof=1)))
    ece_before = expected_calibration_error(validation, 1.0)
    ece_after = expected_calibration_error(replace(validation, logits=scaled), 1.0)
    return TemperatureChoice(
        fitted,
        used=bool(gains.sum() > error) and ece_after <= ece_before,
        loss_before=float(before.mean()),
        loss_after=float(after.mean()),
        ece_before=ece_before,
        ece_after=ece_after,
    )


def fit_temperature(logits: npt.ArrayLike, targets: npt.ArrayLike, multi_label: bool) -> float:
    """The temperature with the lowest negative log-likelihood on (n, L) `logits`; 1 if there are no examples.

    The targets are smoothed by 1 / (n + 2), after Platt 1999, "Probabilistic Outputs for Support Vector Machines",
    section 2.2: thirty correct validation examples do not justify certainty.

    Args:
        logits: of validation examples.
        targets: (n,) classes; multi-label (n, L) of 0 and 1.
        multi_label: whether the task is multi-label.
    """
    from scipy.optimize import minimize_scalar

    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if not len(values):
        return 1.0
    low, high = np.log(TEMPERATURES)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(
            values / np.exp(log_temperature), truth, multi_label, smoothing=1 / (len(values) + 2)
        )

    # The loss is convex in 1 / temperature, so it has a single minimum over log temperature too.
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def negative_log_likelihood(
    logits: npt.ArrayLike, targets: npt.ArrayLike, multi_label: bool, smoothing: float = 0.0
) -> float:
    """The mean over examples (multi-label: over examples and classes) of -log p(target), in nats.

    Args:
        logits: (n, L).
        targets: (n,) classes; multi-label (n, L) of 0 and 1.
        multi_label: whether the task is multi-label.
        smoothing: the share of the target probability that is spread evenly over all classes; multi-label: over both
            outcomes of a class.
    """
    return float(_losses(np.asarray(logits, dtype=np.float64), np.asarray(targets), multi_label, smoothing).mean())


def _losses(
    logits: npt.NDArray[np.float64], truth: npt.NDArray[Any], multi_label: bool, smoothing: float
) -> npt.NDArray[np.float64]:
    """(n,) the loss of each example; multi-label the mean over classes."""
    if multi_label:
        smoothed = truth * (1 - smoothing) + smoothing / 2  # (n, L)
        return np.asarray((np.logaddexp(0, logits) - logits * smoothed).mean(axis=1))
    of_truth = (1 - smoothing) * logits[np.arange(len(logits)), truth] + smoothing * logits.mean(axis=1)  # (n,)
    return np.asarray(np.logaddexp.reduce(logits, axis=1) - of_truth)


def fit_threshold(predictions: Predictions) -> float:
    """The threshold on the probabilities with the highest macro F1 on these (validation) predictions.

    All classes share it, since a threshold per class would overfit rare classes (Lipton et al. 2014). It is the middle
    of the longest run of equally good thresholds on a grid of hundredths; 0.5 for a single-label task, or if no example
    has a class.
    """
    if not predictions.labels.multi_label or not predictions.targets.any():
        return 0.5
    chances, truth = predictions.probabilities(), predictions.targets.astype(bool)  # (n, L) each
    grid = np.arange(1, 100) / 100
    f1 = np.empty(len(grid))
    for place, threshold in enumerate(grid):
        positive = chances >= threshold  # (n, L)
        tp, fp, fn = (one.sum(axis=0) for one in (positive & truth, positive & ~truth, ~positive & truth))  # (L,) each
        f1[place] = macro_f1(*(kind[None].astype(np.float64) for kind in (tp, fp, fn)))[0]
    best = np.flatnonzero(f1 == f1.max())
    stretches = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(stretches, key=len)
    return float(grid[longest].mean())


def reliability(predictions: Predictions, temperature: float | None = None, bins: int = BINS) -> list[dict[str, Any]]:
    """Confidence and accuracy in bins of equal width: `low`, `high`, `confidence` and `accuracy` (means), `count`.

    Empty bins are left out. Single-label: the confidence is the probability of the likeliest class, the accuracy the
    share of correct predictions. Multi-label: pairs of an example and a class are counted; the confidence is the
    probability of the class, the accuracy the share of pairs whose example has the class.
    """
    chances = predictions.probabilities(temperature)
    if predictions.labels.multi_label:
        confidence, right = chances.ravel(), predictions.targets.ravel().astype(np.float64)
    else:
        confidence, right = chances.max(axis=1), (chances.argmax(axis=1) == predictions.targets).astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # a bin is (low, high]
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (confidence, right)]
    return [
        {
            "low": index / bins,
            "high": (index + 1) / bins,
            "confidence": float(sums[0][index] / count[index]),
            "accuracy": float(sums[1][index] / count[index]),
            "count": int(count[index]),
        }
        for index in np.flatnonzero(count)
    ]


def expected_calibration_error(predictions: Predictions, temperature: float | None = None, bins: int = BINS) -> float:
    """The gap between confidence and accuracy, averaged over bins weighted by their counts (Naeini et al. 2015)."""
    filled = reliability(predictions, temperature, bins)
    total = sum(one["count"] for one in filled)
    return sum(one["count"] * abs(one["confidence"] - one["accuracy"]) for one in filled) / max(total, 1)


def calibrate(validation: Predictions) -> tuple[float, float]:
    """(temperature, threshold) fitted on validation predictions, for use on test predictions."""
    temperature = choose_temperature(validation).temperature
    return temperature, fit_threshold(replace(validation, temperature=temperature))


def calibration_facts(predictions: Predictions) -> dict[str, Any]:
    """`temperature`, and the expected calibration error of these test predictions without it (`ece_before`) and with it
    (`ece_after`).
    """
    return {
        "temperature": predictions.temperature,
        "ece_before": expected_calibration_error(predictions, 1.0),
        "ece_after": expected_calibration_error(predictions),
    }
