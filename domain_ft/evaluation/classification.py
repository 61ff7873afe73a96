"""Classification scores, overall and per class, with intervals, and the difference between two runs.

The scores are scikit-learn's: `f1_score`, `accuracy_score`, `matthews_corrcoef`, `roc_auc_score`, with 0 for 0/0. Macro
F1 is the mean over the classes that occur among targets or predictions, as `f1_score` computes it for single-label
tasks. Each resample of the bootstrap (`counts`) is scored like the test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from domain_ft.errors import SettingsError
from domain_ft.evaluation import counts
from domain_ft.evaluation.bootstrap import FEW_DOCUMENTS, LEVEL, RESAMPLES
from domain_ft.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from scipy import sparse

METRICS = ("macro_f1", "accuracy", "micro_f1", "mcc")
"""The scores with intervals and differences, the most important first."""

Array = npt.NDArray[Any]


def classification_metrics(
    predictions: Predictions, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, Any]:
    """The scores of one model on a test set.

    Args:
        predictions: for at least one example.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        level: of the intervals.

    Returns:
        `macro_f1`, `accuracy` (multi-label: all classes of an example correct), `micro_f1`, `mcc` (multi-label: over
        all decisions together), `auroc` (without an interval), `examples`, `units` (the number of sources, which are
        resampled), `per_class` (by class: `precision`, `recall`, `f1`, `support`, `predicted`, which is the number of
        predictions of the class, and the `interval` of F1), `interval` (by name of `METRICS`), `level`, `resamples`,
        `few_units`.
    """
    columns = count_columns(predictions)
    summaries = counts.scores([columns], _score(predictions), seed=seed, resamples=resamples, level=level)
    units = columns.shape[0]
    return {
        **{name: summaries[name]["mean"] for name in METRICS},
        "auroc": auroc(predictions),
        "examples": len(predictions),
        "units": units,
        "per_class": _per_class(predictions, level),
        "interval": {name: summaries[name]["interval"] for name in METRICS},
        "level": level,
        "resamples": resamples,
        "few_units": units < FEW_DOCUMENTS,
    }


def point_scores(predictions: Predictions) -> dict[str, float]:
    """`METRICS` without intervals, to choose a model on validation examples."""
    sums = np.asarray(count_columns(predictions).sum(axis=0)).reshape(1, -1)
    return {name: float(value[0]) for name, value in _score(predictions)(sums).items()}


def seed_metrics(
    runs: Sequence[Predictions], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, Any]:
    """The scores of a run with one or more seeds.

    Args:
        runs: each seed's predictions, on the same test set.

    Returns:
        `n`, the number of seeds, and for each of `METRICS` its `mean`, `sd`, `values`, and the `interval` of the mean
        over examples and seeds.

    Raises:
        SettingsError: the test sets differ.
    """
    _check_same_test(runs)
    score = _score(runs[0])
    summaries = counts.scores(_all_columns(runs)[0], score, seed=seed, resamples=resamples, level=level)
    return {"n": len(runs), **{name: summaries[name] for name in METRICS}}


def paired_difference(
    base: Sequence[Predictions],
    other: Sequence[Predictions],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, dict[str, Any]]:
    """How much higher each of `METRICS` is for `other` than for `base`: see `counts.counts_difference`.

    Args:
        base: the predictions of each seed of the reference run.
        other: the predictions of each seed of the other run, on the same test set; any number of seeds.

    Raises:
        SettingsError: the runs were tested on different examples, or on the same examples with other labels.
    """
    _check_same_test([*base, *other])
    of_base, of_other = _all_columns(base, other)
    score = _score(base[0])
    differences = counts.counts_difference(of_base, of_other, score, seed=seed, resamples=resamples, level=level)
    return {name: differences[name] for name in METRICS}


def confusions(predictions: Predictions, limit: int | None = None) -> list[tuple[str, str, int]]:
    """(true class, predicted class, count) of a single-label task's errors, at most `limit`, most frequent first."""
    predicted = predictions.predicted()
    wrong = predicted != predictions.targets
    pairs, often = np.unique(
        np.stack([predictions.targets[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True
    )
    names = predictions.labels.names
    order = np.argsort(-often, kind="stable")[:limit]
    return [(names[pairs[place, 0]], names[pairs[place, 1]], int(often[place])) for place in order]


def confusion_matrix(predictions: Predictions) -> npt.NDArray[np.int64]:
    """(L, L) counts of a single-label task: a row for each true class, a column for each predicted one."""
    classes = len(predictions.labels)
    cells = predictions.targets * classes + predictions.predicted()
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def worst_errors(predictions: Predictions, limit: int) -> list[tuple[int, float]]:
    """(index of the example, confidence) of the most confident errors, at most `limit`.

    The confidence is the probability of the wrong class. For a multi-label task it is that of the example's most
    confident wrong decision: for a false positive the class's probability, for a false negative one minus it.
    """
    chances, predicted = predictions.probabilities(), predictions.predicted()
    if predictions.labels.multi_label:
        wrong = predicted != predictions.targets
        confidence = np.where(wrong, np.where(predicted == 1, chances, 1 - chances), 0.0).max(axis=1)
        mistakes = np.flatnonzero(wrong.any(axis=1))
    else:
        confidence = chances.max(axis=1)
        mistakes = np.flatnonzero(predicted != predictions.targets)
    order = mistakes[np.argsort(-confidence[mistakes], kind="stable")[:limit]]
    return [(int(index), float(confidence[index])) for index in order]


def auroc(predictions: Predictions) -> float | None:
    """The mean area under the ROC curve (one-vs-rest) over classes with positive and negative examples.

    None if there is no such class.
    """
    chances = predictions.probabilities()
    areas = []
    for place in range(len(predictions.labels)):
        truth = predictions.targets[:, place] if predictions.labels.multi_label else predictions.targets == place
        positives = int(truth.sum())
        if 0 < positives < len(predictions):
            areas.append(_area(chances[:, place], truth.astype(bool), positives))
    return float(np.mean(areas)) if areas else None


def count_columns(predictions: Predictions) -> sparse.csr_array:
    """(units, 3 L + 2) sparse counts: TP, FP and FN by class, then correct examples, then examples."""
    from scipy import sparse

    classes, examples = len(predictions.labels), len(predictions)
    predicted, targets = predictions.predicted(), predictions.targets
    if predictions.labels.multi_label:
        cells = [np.nonzero(kind) for kind in (targets & predicted, predicted & ~targets, targets & ~predicted)]
        right = (predicted == targets).all(axis=1)
    else:
        right = predicted == targets
        hit, missed = np.flatnonzero(right), np.flatnonzero(~right)
        cells = [(hit, targets[hit]), (missed, predicted[missed]), (missed, targets[missed])]
    cells += [(np.flatnonzero(right), np.zeros(int(right.sum()), dtype=np.int64))]
    cells += [(np.arange(examples), np.zeros(examples, dtype=np.int64))]
    firsts = (0, classes, 2 * classes, 3 * classes, 3 * classes + 1)
    rows = np.concatenate([rows for rows, _ in cells])
    columns = np.concatenate([first + columns for first, (_, columns) in zip(firsts, cells, strict=True)])
    _, units = np.unique(predictions.groups, return_inverse=True)
    shape = (int(units.max(initial=-1)) + 1, 3 * classes + 2)
    return sparse.coo_array((np.ones(len(rows)), (units.reshape(-1)[rows], columns)), shape=shape).tocsr()


def _all_columns(*runs: Sequence[Predictions]) -> list[list[sparse.csr_array]]:
    """`count_columns` of every seed of every run, with the examples grouped as in the first run's test set."""
    groups = runs[0][0].groups
    return [[count_columns(_in_groups(one, groups)) for one in seeds] for seeds in runs]


def _in_groups(predictions: Predictions, groups: Array) -> Predictions:
    if np.array_equal(predictions.groups, groups):
        return predictions
    return replace(predictions, groups=groups)


def _score(predictions: Predictions) -> counts.Score:
    """A function that computes `METRICS` from (draws, 3 L + 2) sums of `count_columns`."""
    multi_label = predictions.labels.multi_label

    def score(sums: counts.Array) -> dict[str, counts.Array]:
        classes = (sums.shape[1] - 2) // 3
        tp, fp, fn = (sums[:, part * classes : (part + 1) * classes] for part in range(3))
        right, examples = sums[:, -2], sums[:, -1]
        return {
            "macro_f1": counts.macro_f1(tp, fp, fn),
            "accuracy": right / examples,
            "micro_f1": counts.f1(tp.sum(axis=1), fp.sum(axis=1), fn.sum(axis=1)),
            "mcc": _binary_mcc(tp, fp, fn, examples * classes) if multi_label else _mcc(tp, fp, fn, examples),
        }

    return score


def _mcc(tp: counts.Array, fp: counts.Array, fn: counts.Array, examples: counts.Array) -> counts.Array:
    """Multi-class Matthews correlation (Gorodkin 2004, R_K), from (draws, L) counts; 0 for 0/0."""
    predicted, true = tp + fp, tp + fn  # (draws, L) each
    covariance = tp.sum(axis=1) * examples - (predicted * true).sum(axis=1)
    spread = (examples**2 - (predicted**2).sum(axis=1)) * (examples**2 - (true**2).sum(axis=1))
    return np.divide(covariance, np.sqrt(spread), out=np.zeros_like(covariance), where=spread > 0)


def _binary_mcc(tp: counts.Array, fp: counts.Array, fn: counts.Array, decisions: counts.Array) -> counts.Array:
    """Matthews correlation over all (example, class) decisions; 0 for 0/0."""
    all_tp, all_fp, all_fn = tp.sum(axis=1), fp.sum(axis=1), fn.sum(axis=1)  # (draws,) each
    all_tn = decisions - all_tp - all_fp - all_fn
    two_classes = ((all_tp, all_tn), (all_fp, all_fn), (all_fn, all_fp))
    tp, fp, fn = (np.stack(pair, axis=1) for pair in two_classes)  # (draws, 2) each
    return _mcc(tp, fp, fn, decisions)


def _per_class(predictions: Predictions, level: float) -> dict[str, dict[str, Any]]:
    """The scores of every class, in the order of the labels: see `classification_metrics`."""
    columns = count_columns(predictions)
    classes = len(predictions.labels)
    tp, fp, fn = np.asarray(columns.sum(axis=0)).reshape(-1)[: 3 * classes].reshape(3, classes)
    touched = columns[:, :classes] + columns[:, classes : 2 * classes] + columns[:, 2 * classes : 3 * classes]
    units = np.bincount(touched.nonzero()[1], minlength=classes)
    score = counts.f1(tp, fp, fn)
    return {
        name: {
            "precision": float(tp[place] / max(tp[place] + fp[place], 1)),
            "recall": float(tp[place] / max(tp[place] + fn[place], 1)),
            "f1": float(score[place]),
            "support": int(tp[place] + fn[place]),
            "predicted": int(tp[place] + fp[place]),
            "interval": _f1_interval(float(score[place]), int(units[place]), level),
        }
        for place, name in enumerate(predictions.labels.names)
    }


def _f1_interval(score: float, units: int, level: float) -> list[float] | None:
    """[low, high] of a class's F1; None if no unit has the class as its target or prediction.

    F1 = 2 J / (1 + J), where J = TP / (TP + FP + FN) is a proportion. So Wilson's interval (1927) of J gives that of
    F1. Unlike a bootstrap interval it is meaningful for a class of five examples that are all correct. The trials are
    sources, not examples.
    """
    if not units:
        return None
    low, high = counts.wilson(score / (2 - score), units, level)
    return [2 * low / (1 + low), 2 * high / (1 + high)]


def _area(chances: Array, truth: Array, positives: int) -> float:
    """The area under the ROC curve: the share of (positive, negative) pairs in the right order; ties count half."""
    _, place, often = np.unique(chances, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(often) - (often - 1) / 2)[place]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def _check_same_test(runs: Sequence[Predictions]) -> None:
    for one in runs[1:]:
        if one.key != runs[0].key:
            raise SettingsError(
                f"the runs were tested on different examples ({len(runs[0]):,} and {len(one):,}), or on the same "
                "examples with other labels: their scores cannot be compared",
                fix="train both with the same --test, or with the same --task and its own splits",
            )
