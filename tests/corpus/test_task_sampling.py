"""Which training examples are learned from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.tasks.sampling import balanced, strata, subset

classes = st.lists(st.integers(0, 5), min_size=2, max_size=60).map(np.array)


@given(classes, st.integers(0, 3), st.data())
def test_a_smaller_subset_stands_within_a_larger_one(targets: np.ndarray, seed: int, data: st.DataObject) -> None:
    large = data.draw(st.integers(2, len(targets)))
    small = data.draw(st.integers(1, large))
    chosen = subset(targets, large, seed)
    assert len(chosen) == len(set(chosen.tolist())) == large
    assert set(subset(targets, small, seed).tolist()) <= set(chosen.tolist())


@given(classes, st.integers(0, 3))
def test_every_class_is_there_where_there_is_room(targets: np.ndarray, seed: int) -> None:
    names = np.unique(targets)
    assert set(targets[subset(targets, len(names), seed)].tolist()) == set(names.tolist())


def test_classes_keep_their_shares() -> None:
    targets = np.repeat([0, 1, 2], [600, 300, 100])
    assert np.bincount(targets[subset(targets, 100, 7)]).tolist() == pytest.approx([60, 30, 10], abs=1)


def test_another_seed_draws_others() -> None:
    targets = np.zeros(100, dtype=int)
    assert not np.array_equal(subset(targets, 50, 0), subset(targets, 50, 1))


@given(classes, st.integers(0, 3))
def test_balanced_classes_come_equally_often(targets: np.ndarray, seed: int) -> None:
    drawn = balanced(targets, seed)
    counts = np.unique(targets[drawn], return_counts=True)[1]
    assert (counts == np.bincount(targets).max()).all()
    for name in np.unique(targets):
        times = np.bincount(drawn, minlength=len(targets))[targets == name]
        assert times.max() - times.min() <= 1


def test_where_several_hold_an_example_stands_for_its_rarest() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=np.float32)
    assert strata(targets).tolist() == [0, 1, 0, 3]
