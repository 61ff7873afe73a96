"""Computed orders: each is a permutation, any part can be computed alone, and they look random."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.shuffling import DRAWN, beginning, shuffled
from domain_ft.randomness import generator


@given(count=st.integers(1, 3_000), seed=st.integers(0, 9), data=st.data())
def test_an_order_is_a_permutation_and_any_part_can_be_computed_alone(
    count: int, seed: int, data: st.DataObject
) -> None:
    order = shuffled(0, count, count, seed, "order", 1)
    assert sorted(order) == list(range(count))
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    assert np.array_equal(shuffled(first, last, count, seed, "order", 1), order[first:last])


def test_orders_look_random() -> None:
    count = 10_000
    orders = np.array([shuffled(0, count, count, seed) for seed in range(50)])
    for place in np.array_split(
        orders, 10, axis=1
    ):  # each tenth of an order has equally many numbers from each tenth of the range
        shares = np.bincount(place.ravel() * 10 // count, minlength=10) / place.size
        assert abs(shares - 0.1).max() < 0.01
    assert (np.diff(orders, axis=1) == 1).mean() < 3 / count
    assert (orders[:-1] == orders[1:]).mean() < 3 / count


def test_the_beginning_of_an_order_is_computed_without_the_rest() -> None:
    for count in (1, 9, DRAWN, DRAWN + 1, 10**12):
        longer, shorter = beginning(500, count, 3, "sample"), beginning(70, count, 3, "sample")
        assert len(longer) == min(500, count) == len(set(longer.tolist()))
        assert longer.min() >= 0 and longer.max() < count
        assert np.array_equal(longer[:70], shorter)
    assert np.array_equal(beginning(5, 20, 3, "sample"), generator(3, "sample").permutation(20)[:5])
