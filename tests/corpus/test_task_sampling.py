"""Which training examples are used: subsets of a given size, and balanced samples and steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.tasks.sampling import BalancedSteps, balanced, strata, subset

classes = st.lists(st.integers(0, 5), min_size=2, max_size=60).map(np.array)


@given(classes, st.integers(0, 3), st.data())
def test_a_smaller_subset_is_part_of_a_larger_one(targets: np.ndarray, seed: int, data: st.DataObject) -> None:
    large = data.draw(st.integers(2, len(targets)))
    small = data.draw(st.integers(1, large))
    chosen = subset(targets, large, seed)
    assert len(chosen) == len(set(chosen.tolist())) == large
    assert set(subset(targets, small, seed).tolist()) <= set(chosen.tolist())


@given(classes, st.integers(0, 3))
def test_every_class_is_in_a_subset_with_room_for_all(targets: np.ndarray, seed: int) -> None:
    names = np.unique(targets)
    assert set(targets[subset(targets, len(names), seed)].tolist()) == set(names.tolist())


def test_classes_keep_their_shares() -> None:
    targets = np.repeat([0, 1, 2], [600, 300, 100])
    assert np.bincount(targets[subset(targets, 100, 7)]).tolist() == pytest.approx([60, 30, 10], abs=1)


def test_another_seed_draws_another_subset() -> None:
    targets = np.zeros(100, dtype=int)
    assert not np.array_equal(subset(targets, 50, 0), subset(targets, 50, 1))


@given(classes, st.integers(0, 3))
def test_balanced_classes_occur_equally_often(targets: np.ndarray, seed: int) -> None:
    drawn = balanced(targets, seed)
    counts = np.unique(targets[drawn], return_counts=True)[1]
    assert (counts == np.bincount(targets).max()).all()
    for name in np.unique(targets):
        times = np.bincount(drawn, minlength=len(targets))[targets == name]
        assert times.max() - times.min() <= 1


def test_an_example_with_several_labels_counts_for_its_rarest() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=np.float32)
    assert strata(targets).tolist() == [0, 1, 0, 3]


@given(classes, st.integers(4, 40), st.integers(0, 3), st.integers(0, 10**6))
def test_a_balanced_step_has_companions_for_every_example(
    targets: np.ndarray, size: int, seed: int, index: int
) -> None:
    """Unless its class has no other. No example occurs twice; class sizes differ by at most 1 if all have enough."""
    rows = BalancedSteps(targets, size, seed).step(index).rows
    assert len(set(rows.tolist())) == len(rows) <= size
    names, counts = np.unique(targets[rows], return_counts=True)
    available = np.bincount(targets)[names]
    assert (counts >= np.minimum(available, 2)).all()
    assert len(names) == min(len(np.unique(targets)), size // 2)
    for count in counts:
        assert (counts[counts < count - 1] == available[counts < count - 1]).all()
    if len(names) == len(np.unique(targets)):
        assert len(rows) == min(size, len(targets))


def test_balanced_steps_depend_only_on_seed_and_number() -> None:
    targets = np.repeat([0, 1, 2], [30, 20, 10])
    one, other = BalancedSteps(targets, 12, 0), BalancedSteps(targets, 12, 0)
    later = [other.step(index).rows.tolist() for index in (7, 3)]
    assert later == [one.step(index).rows.tolist() for index in (7, 3)]
    assert later[0] != later[1]
    assert later[0] != BalancedSteps(targets, 12, 1).step(7).rows.tolist()
    assert [one.step(index).epoch for index in (0, 4, 5, 10)] == [0, 0, 1, 2]
    drawn = np.bincount(np.concatenate([one.step(index).rows for index in range(100)]), minlength=60)
    assert drawn.min() > 0


def test_a_balanced_step_of_too_few_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="two of each"):
        BalancedSteps(np.array([0, 1]), 3, 0)
