"""Calibration: the best temperature, the expected calibration error, and a threshold that improves the score."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from task_predictions import any_predictions, drawn

from domain_ft.corpus.examples import Labels
from domain_ft.evaluation.calibration import (
    TEMPERATURES,
    calibrate,
    calibration_facts,
    choose_temperature,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
    negative_log_likelihood,
    reliability,
)
from domain_ft.evaluation.classification import point_scores
from domain_ft.evaluation.predictions import Predictions


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_known_temperature_is_found(multi_label: bool) -> None:
    """Labels are drawn from the softmax (sigmoid) of logits. The model's logits are three times as large."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40_000, 4)) * 1.5
    if multi_label:
        targets = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    else:
        targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(3 * logits, targets, multi_label) == pytest.approx(3, rel=0.03)


@given(predictions=any_predictions())
@settings(max_examples=50)
def test_no_other_temperature_is_better(predictions: Predictions) -> None:
    multi_label = predictions.labels.multi_label
    found = fit_temperature(predictions.logits, predictions.targets, multi_label)
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    scale, smoothing = predictions.logits.astype(np.float64), 1 / (len(predictions) + 2)
    losses = [
        negative_log_likelihood(scale / temperature, predictions.targets, multi_label, smoothing)
        for temperature in (found, *np.geomspace(*TEMPERATURES, 60))
    ]
    assert losses[0] <= min(losses) + 1e-6


def test_the_loss_equals_scikit_learns_and_torchs() -> None:
    one, many = drawn(), drawn(multi_label=True)
    found = negative_log_likelihood(one.logits, one.targets, multi_label=False)
    assert found == pytest.approx(log_loss(one.targets, one.probabilities(), labels=range(5)))
    binary = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(many.logits).double(), torch.from_numpy(many.targets).double()
    )
    assert negative_log_likelihood(many.logits, many.targets, multi_label=True) == pytest.approx(float(binary))


def test_right_answers_alone_are_not_taken_for_certainty() -> None:
    """If all n examples are right, the fitted probability of a right answer is 1 - 0.5 / (n + 2)."""
    for size in (10, 1000):
        targets = np.arange(size) % 2
        temperature = fit_temperature(np.eye(2)[targets] * 20, targets, multi_label=False)
        sure = 1 / (1 + np.exp(-20 / temperature))
        assert sure == pytest.approx(1 - 0.5 / (size + 2), rel=1e-3)
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0), multi_label=False) == 1


@given(predictions=any_predictions(), bins=st.integers(1, 20))
def test_the_error_is_that_of_a_plain_loop(predictions: Predictions, bins: int) -> None:
    chances = predictions.probabilities()
    if predictions.labels.multi_label:
        cases = list(zip(chances.ravel(), predictions.targets.ravel(), strict=True))
    else:
        right = chances.argmax(axis=1) == predictions.targets
        cases = list(zip(chances.max(axis=1), right, strict=True))
    gap = 0.0
    for index in range(bins):
        inside = [(sure, right) for sure, right in cases if index / bins < sure <= (index + 1) / bins]
        if inside:
            sure, right = np.mean(np.array(inside, dtype=np.float64), axis=0)
            gap += len(inside) / len(cases) * abs(sure - right)
    assert expected_calibration_error(predictions, bins=bins) == pytest.approx(gap, abs=1e-9)
    assert sum(one["count"] for one in reliability(predictions, bins=bins)) == len(cases)


def test_calibrating_on_validation_improves_the_test() -> None:
    validation, test = (
        dataclasses.replace(one, logits=4 * one.logits) for one in (drawn(2000, seed=1), drawn(2000, seed=2))
    )
    temperature, threshold = calibrate(validation)
    found = calibration_facts(dataclasses.replace(test, temperature=temperature, threshold=threshold))
    assert threshold == 0.5
    assert found["temperature"] > 2
    assert found["ece_after"] < 0.05 < found["ece_before"]


def test_a_temperature_that_helps_only_where_it_was_fitted_is_not_used() -> None:
    """Thirty right answers: the fitted temperature lowers the confidence, but makes held-out examples worse."""
    targets = np.arange(30) % 3
    sure = dataclasses.replace(
        drawn(30, 3), logits=(np.eye(3)[targets] * 6).astype(np.float32), targets=targets, temperature=1.0
    )
    chosen = choose_temperature(sure)
    assert chosen.fitted > 1
    assert (chosen.used, calibrate(sure)[0]) == (False, 1.0)
    assert chosen.ece_after is not None
    assert chosen.ece_before is not None
    assert chosen.ece_after > chosen.ece_before


def test_most_temperatures_fitted_to_calibrated_probabilities_are_not_used() -> None:
    """Labels drawn from the probabilities themselves: there is nothing to fix."""
    used = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        logits = (rng.normal(size=(60, 3)) * 2).astype(np.float32)
        targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        chosen = choose_temperature(dataclasses.replace(drawn(60, 3), logits=logits, targets=targets))
        used += chosen.used
    assert used <= 8


def test_one_source_is_too_little_to_fit_a_temperature() -> None:
    assert not choose_temperature(drawn(20, group=20)).used


def test_a_threshold_is_the_best_of_the_grid() -> None:
    one = drawn(600, multi_label=True, skill=2)
    one = dataclasses.replace(one, logits=one.logits - 1.5)  # too low: the model predicts too few labels
    threshold = fit_threshold(one)
    assert threshold < 0.5

    def reached(value: float) -> float:
        return point_scores(dataclasses.replace(one, threshold=value))["macro_f1"]

    assert reached(threshold) >= max(reached(value) for value in np.arange(5, 100, 5) / 100) - 0.005
    assert reached(threshold) > reached(0.5) + 0.05


def test_with_nothing_to_fit_the_threshold_is_a_half() -> None:
    empty = Predictions(
        ("a",),
        np.zeros(1),
        np.zeros((1, 2), dtype=np.uint8),
        np.zeros((1, 2), dtype=np.float32),
        Labels(("x", "y"), True),
    )
    assert fit_threshold(empty) == 0.5
    assert fit_threshold(drawn()) == 0.5
