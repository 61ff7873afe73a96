"""Scores of classifiers: scikit-learn's values, and intervals and verdicts with nearly the stated error rates."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics as sklearn
from task_predictions import any_predictions, drawn

from domain_ft.corpus.examples import Labels
from domain_ft.errors import SettingsError
from domain_ft.evaluation.bootstrap import FEWEST_UNITS
from domain_ft.evaluation.classification import (
    METRICS,
    auroc,
    classification_metrics,
    confusion_matrix,
    confusions,
    paired_difference,
    point_scores,
    seed_metrics,
    worst_errors,
)
from domain_ft.evaluation.predictions import Predictions

QUICK: dict[str, Any] = {"resamples": 300}


def expected(predictions: Predictions) -> dict[str, float]:
    """scikit-learn's scores, macro F1 over the classes that occur."""
    truth, answers = predictions.targets, predictions.predicted()
    occurring = np.flatnonzero((truth | answers).any(axis=0)) if predictions.labels.multi_label else None
    flat = [one.ravel() if predictions.labels.multi_label else one for one in (truth, answers)]
    none = occurring is not None and not len(occurring)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about a single class
        return {
            "macro_f1": 0.0
            if none
            else sklearn.f1_score(truth, answers, average="macro", labels=occurring, zero_division=0),
            "accuracy": sklearn.accuracy_score(truth, answers),
            "micro_f1": sklearn.f1_score(truth, answers, average="micro", zero_division=0),
            "mcc": sklearn.matthews_corrcoef(*flat),
        }


@given(predictions=any_predictions())
def test_scores_are_scikit_learns(predictions: Predictions) -> None:
    assert point_scores(predictions) == pytest.approx(expected(predictions), abs=1e-12)


@given(predictions=any_predictions())
def test_scores_of_classes_are_scikit_learns(predictions: Predictions) -> None:
    found = classification_metrics(predictions, resamples=20)["per_class"]
    labels = np.arange(len(predictions.labels))
    columns = sklearn.precision_recall_fscore_support(
        predictions.targets, predictions.predicted(), labels=labels, zero_division=0
    )
    for place, (name, *values) in enumerate(zip(predictions.labels.names, *columns, strict=True)):
        scores = found[name]
        assert [scores[kind] for kind in ("precision", "recall", "f1", "support")] == pytest.approx(values)
        touched = scores["support"] or scores["predicted"]
        assert (scores["interval"] is not None) == bool(touched), place
        if touched:
            low, high = scores["interval"]
            assert 0 <= low <= scores["f1"] + 1e-12
            assert scores["f1"] - 1e-12 <= high <= 1


@given(predictions=any_predictions())
def test_the_area_under_the_curve_is_scikit_learns(predictions: Predictions) -> None:
    chances = predictions.probabilities()
    areas = []
    for place in range(len(predictions.labels)):
        truth = predictions.targets[:, place] if predictions.labels.multi_label else predictions.targets == place
        if len(set(truth.tolist())) == 2:
            areas.append(sklearn.roc_auc_score(truth, chances[:, place]))
    assert auroc(predictions) == (pytest.approx(np.mean(areas)) if areas else None)


@given(predictions=any_predictions())
def test_the_matrix_and_the_list_of_confusions_are_scikit_learns(predictions: Predictions) -> None:
    if predictions.labels.multi_label:
        return
    labels = np.arange(len(predictions.labels))
    matrix = sklearn.confusion_matrix(predictions.targets, predictions.predicted(), labels=labels)
    np.testing.assert_array_equal(confusion_matrix(predictions), matrix)
    listed = confusions(predictions)
    names = predictions.labels.names
    assert {(truth, answers): often for truth, answers, often in listed} == {
        (names[row], names[column]): matrix[row, column]
        for row in labels
        for column in labels
        if row != column and matrix[row, column]
    }
    assert [often for *_, often in listed] == sorted((often for *_, often in listed), reverse=True)
    assert confusions(predictions, 1) == listed[:1]


@given(predictions=any_predictions())
def test_the_worst_errors_are_all_errors_the_most_confident_first(predictions: Predictions) -> None:
    wrong = predictions.predicted() != predictions.targets
    wrong = wrong.any(axis=1) if predictions.labels.multi_label else wrong
    found = worst_errors(predictions, 100)
    assert sorted(index for index, _ in found) == np.flatnonzero(wrong).tolist()
    confidences = [confidence for _, confidence in found]
    assert confidences == sorted(confidences, reverse=True)
    assert all(0 <= confidence <= 1 for confidence in confidences)


def test_a_missed_class_counts_with_the_confidence_of_the_miss() -> None:
    logits = np.array([[3.0, -4.0], [1.0, 1.0]], dtype=np.float32)
    targets = np.array([[1, 1], [1, 0]], dtype=np.uint8)
    one = Predictions(("a", "b"), np.arange(2), targets, logits, Labels(("x", "y"), multi_label=True))
    found = worst_errors(one, 5)
    assert [index for index, _ in found] == [0, 1]
    assert [confidence for _, confidence in found] == pytest.approx(1 / (1 + np.exp([-4, -1])))


@given(predictions=any_predictions())
@settings(max_examples=40)
def test_intervals_are_in_range_and_reproducible(predictions: Predictions) -> None:
    found = classification_metrics(predictions, resamples=50)
    assert found == classification_metrics(predictions, resamples=50)
    for name in METRICS:
        bounds = found["interval"][name]
        if found["units"] < FEWEST_UNITS:
            assert bounds is None
        else:
            assert (-1 if name == "mcc" else 0) <= bounds[0] <= bounds[1] <= 1


def test_the_draws_are_those_of_a_plain_bootstrap() -> None:
    """The same draws, scored one after the other by scikit-learn, give the same interval."""
    from domain_ft.evaluation.bootstrap import drawn_weights, interval
    from domain_ft.randomness import generator

    one = drawn(60, 4, group=3)
    found = classification_metrics(one, resamples=80)
    replicates = []
    for weights in drawn_weights(20, 80, generator(0, "bootstrap"), 3 * 4 + 2):
        for row in weights:
            picked = np.repeat(np.arange(60), row[one.groups])
            replicates.append(
                sklearn.f1_score(one.targets[picked], one.predicted()[picked], average="macro", zero_division=0)
            )
    assert found["interval"]["macro_f1"] == pytest.approx(interval(np.array(replicates), 20))


def test_shared_sources_widen_the_interval() -> None:
    apart, shared = drawn(400, 3, group=1), drawn(400, 3, group=1)
    copies = np.repeat(np.arange(0, 400, 8), 8)
    shared = dataclasses.replace(
        shared, targets=shared.targets[copies], logits=shared.logits[copies], groups=np.arange(400) // 8
    )
    width = {}
    for name, one in (("apart", apart), ("shared", shared)):
        low, high = classification_metrics(one)["interval"]["accuracy"]
        width[name] = high - low
    assert width["shared"] > 2 * width["apart"]


def test_a_perfect_score_is_not_certain() -> None:
    certain = classification_metrics(drawn(50, 3, skill=50), **QUICK)
    assert certain["macro_f1"] == 1
    low, high = certain["interval"]["macro_f1"]
    assert (0.9 < low < 0.95, high) == (True, 1)
    for scores in certain["per_class"].values():
        assert scores["interval"][0] < 1 - 1 / (scores["support"] + 4)


@pytest.mark.parametrize(("support", "at_least"), [(8, 0.9), (40, 0.92)])
def test_class_intervals_cover_the_truth(support: int, at_least: float) -> None:
    """In 400 test sets, most intervals of a class's F1 contain the true value, even with 8 examples of the class."""
    rng = np.random.default_rng(support)
    recall, alarm = 0.7, 0.1
    size, share = 4 * support, 0.25
    tp, fp, fn = share * recall, (1 - share) * alarm, share * (1 - recall)
    truth = 2 * tp / (2 * tp + fp + fn)
    covered = 0
    for _ in range(400):
        targets = (rng.random(size) < share).astype(np.int64)
        answers = np.where(targets == 1, rng.random(size) < recall, rng.random(size) < alarm).astype(int)
        one = Predictions(
            tuple(map(str, range(size))),
            np.arange(size),
            targets,
            np.eye(2, dtype=np.float32)[answers],
            Labels(("rest", "class")),
        )
        bounds = classification_metrics(one, resamples=2)["per_class"]["class"]["interval"]
        covered += bounds is not None and bounds[0] <= truth <= bounds[1]
    assert covered / 400 >= at_least


def test_several_seeds_give_mean_and_deviation() -> None:
    runs = [drawn(model=model) for model in range(4)]
    found = seed_metrics(runs, **QUICK)
    values = [point_scores(one)["macro_f1"] for one in runs]
    assert found["n"] == 4
    assert found["macro_f1"]["values"] == pytest.approx(values)
    assert found["macro_f1"]["mean"] == pytest.approx(np.mean(values))
    assert found["macro_f1"]["sd"] == pytest.approx(np.std(values, ddof=1))
    single = seed_metrics(runs[:1], **QUICK)["macro_f1"]
    assert (single["sd"], single["mean"]) == (None, pytest.approx(values[0]))


def test_seeds_that_differ_widen_the_interval() -> None:
    alike = [drawn(model=model) for model in range(3)]
    unlike = [drawn(model=model, skill=skill) for model, skill in enumerate((0.8, 1.5, 2.2))]
    width = [np.diff(seed_metrics(runs)["accuracy"]["interval"])[0] for runs in (alike, unlike)]
    assert width[1] > 2 * width[0]


def test_a_run_does_not_differ_from_itself() -> None:
    one = drawn()
    for found in paired_difference([one], [one], **QUICK).values():
        assert (found["difference"], found["interval"], found["p_value"]) == (0, [0, 0], 1)
        assert found["verdict"] == "not shown"


def test_a_difference_is_that_of_the_scores_and_changes_sign_with_the_sides() -> None:
    base, other = [drawn(model=0), drawn(model=1)], [drawn(model=2, skill=3)]
    there, back = paired_difference(base, other), paired_difference(other, base)
    for name in METRICS:
        mean = np.mean([point_scores(one)[name] for one in base])
        assert there[name]["difference"] == pytest.approx(point_scores(other[0])[name] - mean)
        assert back[name]["difference"] == pytest.approx(-there[name]["difference"])
        assert (there[name]["verdict"], back[name]["verdict"]) == ("better", "worse")
        assert there[name]["p_value"] < 0.05
        assert there[name]["seeds"] == [2, 1]


def test_a_paired_difference_has_a_narrower_interval_than_a_score() -> None:
    """The same examples are hard for both models, so the interval of their difference is narrower than that of one."""
    base, other = drawn(500, skill=2), drawn(500, skill=2, model=1)
    other = dataclasses.replace(other, logits=(base.logits + 0.2 * other.logits).astype(np.float32))
    found = paired_difference([base], [other])["accuracy"]["interval"]
    alone = classification_metrics(base)["interval"]["accuracy"]
    assert np.diff(found)[0] < 0.7 * np.diff(alone)[0]


@pytest.mark.parametrize("multi_label", [False, True])
def test_classes_in_another_order_make_no_difference(multi_label: bool) -> None:
    one = drawn(multi_label=multi_label)
    order = np.array([3, 1, 4, 0, 2])
    turned = dataclasses.replace(
        one,
        labels=Labels(tuple(one.labels.names[place] for place in order), multi_label),
        logits=one.logits[:, order],
        targets=one.targets[:, order] if multi_label else np.argsort(order)[one.targets],
    )
    assert turned.key == one.key
    for found in paired_difference([one], [turned], **QUICK).values():
        assert found["difference"] == pytest.approx(0)


def test_other_examples_and_other_labels_are_refused() -> None:
    one = drawn()
    other_ids = dataclasses.replace(one, ids=tuple(f"other-{name}" for name in one.ids))
    other_truth = dataclasses.replace(one, targets=(one.targets + (np.arange(200) == 7)) % 5)
    for other in (other_ids, other_truth):
        with pytest.raises(SettingsError, match="different examples"):
            paired_difference([one], [other])
        with pytest.raises(SettingsError, match="different examples"):
            seed_metrics([one, other])


def test_many_classes_take_little_memory() -> None:
    """10,000 classes: neither scores nor intervals need a matrix of classes by classes."""
    import tracemalloc

    rng = np.random.default_rng(0)
    targets = rng.integers(0, 10_000, 500)
    logits = rng.normal(size=(500, 10_000)).astype(np.float32)
    logits[np.arange(500), targets] += 4
    labels = Labels(tuple(f"code {index}" for index in range(10_000)))
    one = Predictions(tuple(map(str, range(500))), np.arange(500), targets, logits, labels)
    tracemalloc.start()
    found = classification_metrics(one, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(targets, one.predicted()))
    assert peak < 400e6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "spread", "group"), [((1, 1), 0, 1), ((1, 1), 0, 4), ((3, 3), 0, 1), ((3, 3), 0.4, 1), ((5, 3), 0.2, 1)]
)
def test_runs_that_are_alike_are_seldom_called_different(seeds: tuple[int, int], spread: float, group: int) -> None:
    """Seeds of one recipe, whose skill varies by `spread`. At the 95% level, 1 in 20 of 500 verdicts should err."""
    rng = np.random.default_rng(group)
    different = dict.fromkeys(METRICS, 0)
    for world in range(500):
        models = [
            drawn(seed=world, model=model, group=group, skill=1.5 + spread * rng.normal())
            for model in range(sum(seeds))
        ]
        found = paired_difference(models[: seeds[0]], models[seeds[0] :], seed=world, resamples=600)
        for name in METRICS:
            different[name] += found[name]["verdict"] != "not shown"
    assert all(count / 500 <= 0.08 for count in different.values()), different


@pytest.mark.slow
def test_a_real_difference_is_shown() -> None:
    shown = 0
    for world in range(100):
        base = [drawn(seed=world, model=model) for model in range(3)]
        other = [drawn(seed=world, model=10 + model, skill=2.3) for model in range(3)]
        shown += paired_difference(base, other, seed=world, resamples=600)["macro_f1"]["verdict"] == "better"
    assert shown >= 90
