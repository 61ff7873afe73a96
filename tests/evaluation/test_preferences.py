"""Scores of preferences: accuracies, margins and their intervals equal plain computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.evaluation.preferences import PreferenceScores, both_fell, preference_differences

Array = np.ndarray


def answers(policy: list[float], reference: list[float], lengths: list[float]) -> Array:
    return np.stack([policy, reference, lengths], axis=1).astype(np.float64)


def pairs(count: int, shift: float = 0.0, seed: int = 0, per_prompt: int = 1) -> PreferenceScores:
    """Random pairs; `shift` is added to the log-ratio of each better answer."""
    draw = np.random.default_rng(seed)
    reference, lengths = -draw.uniform(5, 50, (2, count)), draw.integers(3, 30, (2, count))
    policy = reference + draw.normal(0, 1, (2, count))
    policy[0] += shift
    prompts = np.arange(count) // per_prompt
    better, worse = (np.stack([policy[k], reference[k], lengths[k]], axis=1) for k in (0, 1))
    return PreferenceScores(better, worse, prompts, prompts, paired=True)


def test_pairs_are_right_where_the_better_answer_gained_more() -> None:
    found = PreferenceScores(
        better=answers([-3.0, -9.0, -4.0, -5.0], [-4.0, -9.0, -4.0, -5.0], [2, 3, 10, 5]),
        worse=answers([-6.0, -8.0, -4.0, -2.0], [-6.0, -9.0, -4.0, -1.0], [2, 9, 11, 10]),
        better_prompts=np.arange(4),
        worse_prompts=np.arange(4),
        paired=True,
    )
    summary = found.summary()
    assert summary["accuracy"] == (1 + 0 + 0.5 + 1) / 4  # a tie counts one half
    assert summary["margin"] == (1 - 1 + 0 + 1) / 4
    assert summary["ranking_accuracy"] == (1 + 0 + 0 + 0) / 4  # -1.5 > -3; -3 < -0.9; -0.4 < -0.36; -1 < -0.2
    assert summary["matched_accuracy"] == (1 + 0.5) / 2  # lengths 2 and 2, 10 and 11
    assert (summary["chosen_log_prob"], summary["rejected_log_prob"]) == (-21 / 4, -20 / 4)
    assert (summary["pairs"], summary["prompts"], found.longer_wins) == (4, 4, (0.5 + 0 + 0 + 0) / 4)
    assert set(summary["interval"].values()) == {None}  # four prompts are too few


def test_rated_answers_are_compared_across_prompts() -> None:
    draw = np.random.default_rng(3)
    good, bad = (answers(draw.normal(-10, 2, n).tolist(), [-10.0] * n, draw.integers(2, 9, n).tolist()) for n in (7, 5))
    good[0, 0] = bad[0, 0]  # a tie
    found = PreferenceScores(good, bad, np.arange(7), np.arange(7, 12), paired=False).summary()
    wins = [(one > other) + (one == other) / 2 for one, other in itertools.product(good[:, 0], bad[:, 0])]
    assert found["accuracy"] == pytest.approx(np.mean(wins))
    assert found["margin"] == pytest.approx(good[:, 0].mean() - bad[:, 0].mean())
    assert (found["answers"], found["prompts"]) == (12, 12)
    assert "matched_accuracy" not in found
    low, high = found["interval"]["accuracy"]
    assert low <= found["accuracy"] <= high


def test_an_auc_on_a_resample_counts_each_answer_as_often_as_it_is_drawn() -> None:
    draw = np.random.default_rng(4)
    good, bad = (answers(draw.normal(-10, 2, n).tolist(), [-10.0] * n, [5] * n) for n in (6, 4))
    scores = PreferenceScores(good, bad, np.arange(6), np.arange(6, 10), paired=False)
    weights = draw.integers(0, 4, (3, 10))
    found = scores.measures(weights)["accuracy"]
    for row, value in zip(weights, found, strict=True):
        ones, others = np.repeat(good[:, 0], row[:6]), np.repeat(bad[:, 0], row[6:])
        assert value == pytest.approx(np.mean(ones[:, None] > others[None]))


def test_the_reference_has_an_accuracy_of_one_half_and_a_trained_model_is_compared_with_it() -> None:
    after = pairs(40, shift=3.0)
    still = [np.concatenate([one[:, [1, 1]], one[:, 2:]], axis=1) for one in (after.better, after.worse)]
    before = PreferenceScores(*still, after.better_prompts, after.worse_prompts, paired=True)
    summary = before.summary()
    assert (summary["accuracy"], summary["margin"]) == (0.5, 0.0)
    differences = preference_differences(before, after)
    assert differences["accuracy"]["verdict"] == differences["margin"]["verdict"] == "better"
    assert differences["margin"]["difference"] == pytest.approx(after.summary()["margin"])
    assert not both_fell(differences)


def test_a_fall_of_both_kinds_of_answers_is_an_alarm() -> None:
    after = pairs(40)
    higher = [one + np.array([2.0, 0.0, 0.0]) for one in (after.better, after.worse)]
    before = PreferenceScores(*higher, after.better_prompts, after.worse_prompts, paired=True)
    assert both_fell(preference_differences(before, after))
    assert not both_fell(preference_differences(after, before))


def test_pairs_of_a_prompt_are_drawn_together() -> None:
    """Four copies of each pair must not make the interval narrower."""
    one = pairs(25, shift=0.5)
    copies = PreferenceScores(
        np.repeat(one.better, 4, axis=0),
        np.repeat(one.worse, 4, axis=0),
        np.repeat(one.better_prompts, 4),
        np.repeat(one.worse_prompts, 4),
        paired=True,
    )
    assert copies.summary()["interval"]["margin"] == pytest.approx(one.summary()["interval"]["margin"])


def test_few_prompts_prove_no_certainty() -> None:
    low, high = pairs(8, shift=100.0).summary()["interval"]["accuracy"]
    assert 0.5 < low < 0.9
    assert high == 1


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 9))
def test_measures_are_shares_and_finite(count: int, per_prompt: int, seed: int) -> None:
    found = pairs(count, seed=seed, per_prompt=per_prompt).summary(resamples=50)
    assert 0 <= found["accuracy"] <= 1
    assert found["matched_accuracy"] is None or 0 <= found["matched_accuracy"] <= 1
    assert found["prompts"] == -(-count // per_prompt)
