"""The bootstrap of scores that are functions of sums of counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from domain_ft.evaluation.counts import Array, counts_difference, f1, holm, scores, verdict


def share(sums: Array) -> Mapping[str, Array]:
    return {"share": sums[:, 0] / sums[:, 1]}


def counts(units: int, chance: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return np.stack([rng.random(units) < chance, np.ones(units)], axis=1).astype(np.float64)


def test_the_interval_of_a_share_is_that_of_textbooks() -> None:
    found = scores([counts(1000, 0.3, 0)], share)["share"]
    error = np.sqrt(found["mean"] * (1 - found["mean"]) / 1000)
    assert found["interval"] == pytest.approx([found["mean"] - 1.96 * error, found["mean"] + 1.96 * error], abs=0.003)


def test_sparse_and_dense_counts_are_the_same() -> None:
    dense = counts(50, 0.5, 0)
    assert scores([dense], share) == scores([sparse.csr_array(dense)], share)


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    base, other = counts(40, 0.5, 0), counts(40, 0.6, 1)
    whole = counts_difference([base], [other], share, resamples=300)
    monkeypatch.setattr("domain_ft.evaluation.bootstrap._BLOCK", 100)
    assert counts_difference([base], [other], share, resamples=300) == whole


def test_a_run_with_one_seed_borrows_the_spread_of_the_other() -> None:
    wide = [counts(2000, chance, place) for place, chance in enumerate((0.3, 0.5, 0.7))]
    single = [counts(2000, 0.5, 9)]
    unknown = counts_difference(single, single, share)["share"]["interval"]
    borrowed = counts_difference(single, wide, share)["share"]
    assert unknown == [0, 0]
    low, high = borrowed["interval"]
    assert high - low > 2 * 4.3 * 0.2 / np.sqrt(
        3
    )  # Student's t with 2 degrees of freedom; the single one's spread adds to it
    assert borrowed["seeds"] == [1, 3]


def test_other_units_are_refused() -> None:
    with pytest.raises(ValueError, match="same units"):
        counts_difference([counts(3, 0.5, 0)], [counts(4, 0.5, 0)], share)
    with pytest.raises(ValueError, match="at least one"):
        scores([counts(0, 0.5, 0)], share)


def test_p_values_are_never_zero_and_few_units_are_flagged() -> None:
    sure = counts_difference([counts(9, 0.0, 0)], [counts(9, 1.0, 0)], share, resamples=99)["share"]
    assert sure["p_value"] == pytest.approx(0.02)
    assert sure["few_units"]
    assert counts_difference([counts(1, 0, 0)], [counts(1, 1, 0)], share)["share"]["verdict"] == "not shown"


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([0.1, 0.2], "better"),
        ([-0.2, -0.1], "worse"),
        ([-0.1, 0.2], "not shown"),
        ([0.0, 0.2], "not shown"),
        ([-0.2, 0.0], "not shown"),
        (None, "not shown"),
    ],
)
def test_the_verdict_follows_from_the_interval(bounds: list[float] | None, expected: str) -> None:
    assert verdict(bounds) == expected


def test_holm_is_that_of_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(value <= after <= 1 for value, after in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_f1_of_nothing_is_zero() -> None:
    assert f1(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([0.0, 0.0])) == pytest.approx([0, 2 / 3])
