"""Schedules: pure functions of the step, positive at every step, with the shapes that their names promise."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.training.schedule import learning_rate_factor

SCHEDULES = ["constant", "linear", "cosine", "wsd"]


@given(
    schedule=st.sampled_from(SCHEDULES),
    total=st.integers(1, 500),
    warmup=st.floats(0, 1),
    data=st.data(),
)
def test_every_factor_is_above_zero_and_at_most_one(
    schedule: str, total: int, warmup: float, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))
    assert 0.0 < learning_rate_factor(schedule, step, total, warmup) <= 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_linearly(schedule: str) -> None:
    factors = [learning_rate_factor(schedule, step, 100, 0.1) for step in range(10)]
    assert factors == pytest.approx([(step + 1) / 11 for step in range(10)])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_decay_falls_at_every_step_after_warm_up(schedule: str) -> None:
    factors = [learning_rate_factor(schedule, step, 100, 0.1) for step in range(10, 100)]
    assert factors[0] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(factors))
    assert factors[-1] < 0.02


def test_wsd_is_stable_then_falls_to_near_zero() -> None:
    factors = [learning_rate_factor("wsd", step, 100, 0.1) for step in range(100)]
    assert set(factors[10:80]) == {1.0}
    assert factors[-1] == pytest.approx(1 / 20)


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="'square'"):
        learning_rate_factor("square", 5, 10, 0.0)
