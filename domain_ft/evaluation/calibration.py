"""Whether a model's probabilities can be taken at their word, and what makes them so.

A temperature divides the logits (Guo et al. 2017, "On Calibration of Modern Neural Networks"): it is found on
validation examples, changes no ranking and no single-label answer, and mends most of what fine-tuning makes
overconfident. Few validation examples can mislead it, so it is used only where it also helps on validation examples
that it was not fitted to (`choose_temperature`); else the probabilities stay as trained. Where several classes may
hold, the threshold from which on one is said is found there too.
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
"""Where a temperature may lie."""
FOLDS = 5


@dataclass(frozen=True)
class TemperatureChoice:
    """A temperature fitted to validation examples, and whether it is used.

    Attributes:
        fitted: the best one on all validation examples.
        used: whether it made held-out validation examples likelier, and their calibration error no larger.
        loss_before, loss_after: the mean negative log-likelihood of each example without a temperature, and with the
            one fitted to the other folds; nats.
        ece_before, ece_after: the expected calibration error in the same way.
    """

    fitted: float
    used: bool
    loss_before: float | None = None
    loss_after: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        return self.fitted if self.used else 1.0


def choose_temperature(validation: Predictions) -> TemperatureChoice:
    """Fit a temperature, and decide by cross-validation whether it is used.

    Each fold of the validation examples, whole sources at a time, is read with the temperature fitted to the others.
    The temperature is used where that lowers the loss by more than its standard error, and does not raise the expected
    calibration error. The test examples have no part in it.
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
    gains = np.bincount(units, weights=before - after)  # by source: examples of one are no independent evidence
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
    """The temperature with the lowest negative log-likelihood on (n, L) `logits`; 1 where there is no example.

    The truth is smoothed by 1 / (n + 2), as if one more example had been seen that could be anything (Platt 1999,
    "Probabilistic Outputs for Support Vector Machines", 2.2): thirty validation examples that are all right are no
    ground for certainty.

    Args:
        logits: of validation examples.
        targets: (n,) classes, or where several may hold (n, L) of 0 and 1.
        multi_label: whether several may hold.
    """
    from scipy.optimize import minimize_scalar

    given, truth = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if not len(given):
        return 1.0
    low, high = np.log(TEMPERATURES)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(
            given / np.exp(log_temperature), truth, multi_label, smoothing=1 / (len(given) + 2)
        )

    # The loss is convex in 1 / temperature, so it has one valley over log temperature too.
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def negative_log_likelihood(
    logits: npt.ArrayLike, targets: npt.ArrayLike, multi_label: bool, smoothing: float = 0.0
) -> float:
    """The mean over examples (where several may hold: over examples and classes) of -log p(truth), in nats.

    Args:
        logits: (n, L).
        targets: (n,) classes, or where several may hold (n, L) of 0 and 1.
        multi_label: whether several may hold.
        smoothing: the share of the truth that is spread evenly over what could have been.
    """
    return float(_losses(np.asarray(logits, dtype=np.float64), np.asarray(targets), multi_label, smoothing).mean())


def _losses(
    logits: npt.NDArray[np.float64], truth: npt.NDArray[Any], multi_label: bool, smoothing: float
) -> npt.NDArray[np.float64]:
    """(n,) the loss of each example: where several may hold, the mean over classes."""
    if multi_label:
        smoothed = truth * (1 - smoothing) + smoothing / 2
        return np.asarray((np.logaddexp(0, logits) - logits * smoothed).mean(axis=1))
    said = (1 - smoothing) * logits[np.arange(len(logits)), truth] + smoothing * logits.mean(axis=1)
    return np.asarray(np.logaddexp.reduce(logits, axis=1) - said)


def fit_threshold(predictions: Predictions) -> float:
    """The threshold on the probabilities that gives the highest macro F1 on these (validation) predictions.

    One for all classes: one for each would be fitted to the few examples of rare ones (Lipton et al. 2014). The middle
    of the best stretch of a grid of hundredths is taken. 0.5 where nothing can be learned: a single-label task, or no
    class in the truth.
    """
    if not predictions.labels.multi_label or not predictions.targets.any():
        return 0.5
    chances, truth = predictions.probabilities(), predictions.targets.astype(bool)
    grid = np.arange(1, 100) / 100
    reached = np.empty(len(grid))
    for place, threshold in enumerate(grid):
        said = chances >= threshold
        tp, fp, fn = ((said & truth).sum(axis=0), (said & ~truth).sum(axis=0), (~said & truth).sum(axis=0))
        reached[place] = macro_f1(*(kind[None].astype(np.float64) for kind in (tp, fp, fn)))[0]
    best = np.flatnonzero(reached == reached.max())
    stretches = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(stretches, key=len)
    return float(grid[longest].mean())


def reliability(predictions: Predictions, temperature: float | None = None, bins: int = BINS) -> list[dict[str, Any]]:
    """Confidence against truth in bins of equal width: `low`, `high`, `confidence` and `accuracy` (means), `count`.

    Empty bins are left out.

    Of a single label the confidence is the likeliest class's probability and accuracy the share of right answers.
    Where several may hold, each (example, class) is a case: its probability, and how often the class holds.
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
    """The mean gap of confidence and accuracy over `reliability`'s bins, each by its count (Naeini et al. 2015)."""
    found = reliability(predictions, temperature, bins)
    total = sum(one["count"] for one in found)
    return sum(one["count"] * abs(one["confidence"] - one["accuracy"]) for one in found) / max(total, 1)


def calibrate(validation: Predictions) -> tuple[float, float]:
    """(temperature, threshold) found on validation predictions: what the test's are then to be read with."""
    temperature = choose_temperature(validation).temperature
    return temperature, fit_threshold(replace(validation, temperature=temperature))


def calibration_facts(predictions: Predictions) -> dict[str, Any]:
    """`temperature`, `ece_before` and `ece_after` it: the expected calibration error on these (test) predictions."""
    return {
        "temperature": predictions.temperature,
        "ece_before": expected_calibration_error(predictions, 1.0),
        "ece_after": expected_calibration_error(predictions),
    }
