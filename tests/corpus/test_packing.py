"""Steps, shares and micro-batches: each sequence once per epoch, even steps, determined by lengths and seed alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain_ft.corpus import packing
from domain_ft.corpus.packing import StepPlan, micro_batches, share

LENGTHS = st.lists(st.integers(1, 256), min_size=1, max_size=200).map(lambda lengths: np.array(lengths, dtype=np.int32))


@settings(deadline=None)
@given(lengths=LENGTHS, tokens_per_step=st.integers(1, 5_000), seed=st.integers(0, 9))
def test_an_epoch_holds_every_sequence_once(lengths: np.ndarray, tokens_per_step: int, seed: int) -> None:
    plan = StepPlan(lengths, tokens_per_step, seed)
    for epoch in range(3):
        steps = [plan.step(epoch * plan.steps_per_epoch + place) for place in range(plan.steps_per_epoch)]
        assert {step.epoch for step in steps} == {epoch}
        assert min(len(step.rows) for step in steps) > 0
        assert sorted(np.concatenate([step.rows for step in steps])) == list(range(len(lengths)))


@settings(deadline=None)
@given(lengths=LENGTHS, tokens_per_step=st.integers(256, 5_000))
def test_steps_are_even(lengths: np.ndarray, tokens_per_step: int) -> None:
    """A step differs from the mean by at most the longest sequence, and the mean is at most `tokens_per_step`."""
    plan = StepPlan(lengths, tokens_per_step, 0)
    sizes = [lengths[plan.step(place).rows].sum() for place in range(plan.steps_per_epoch)]
    mean = lengths.sum() / plan.steps_per_epoch
    assert mean <= tokens_per_step
    if mean > lengths.max():
        assert max(abs(size - mean) for size in sizes) <= lengths.max()


def test_a_step_depends_only_on_its_number() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 500)
    forward, jumping = StepPlan(lengths, 2_000, 7), StepPlan(lengths, 2_000, 7)
    in_order = [forward.step(index) for index in range(3 * forward.steps_per_epoch)]
    for index in np.random.default_rng(1).permutation(len(in_order)):
        assert jumping.step(int(index)).epoch == in_order[index].epoch
        assert np.array_equal(jumping.step(int(index)).rows, in_order[index].rows)


def test_epochs_and_seeds_differ_in_order() -> None:
    lengths = np.full(100, 10)
    plan = StepPlan(lengths, 1_000, 0)
    orders = [plan.step(0).rows, plan.step(1).rows, StepPlan(lengths, 1_000, 1).step(0).rows]
    assert len({tuple(order) for order in orders}) == 3


@settings(deadline=None)
@given(lengths=LENGTHS, tokens_per_step=st.integers(1, 600), chapter=st.integers(1, 100), seed=st.integers(0, 9))
def test_an_epoch_in_chapters_holds_every_sequence_once(
    lengths: np.ndarray, tokens_per_step: int, chapter: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHAPTER", chapter)
        patch.setattr(packing, "_CHAPTER_STEPS", 2)
        plan = StepPlan(lengths, tokens_per_step, seed)
        steps = [plan.step(place) for place in range(2 * plan.steps_per_epoch)]
        jumping = plan.step(len(steps) // 3)
    for epoch in (steps[: len(steps) // 2], steps[len(steps) // 2 :]):
        assert min(len(step.rows) for step in epoch) > 0
        assert sorted(np.concatenate([step.rows for step in epoch])) == list(range(len(lengths)))
    assert np.array_equal(jumping.rows, steps[len(steps) // 3].rows)


def test_steps_of_chapters_are_even_and_from_all_over_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHAPTER", 5_000)
    lengths = np.random.default_rng(0).integers(20, 257, 40_000)
    plan = StepPlan(lengths, 4_096, 0)
    steps = [plan.step(place).rows for place in range(plan.steps_per_epoch)]
    sizes = np.array([lengths[rows].sum() for rows in steps])
    assert len(plan._starts) == 9
    assert abs(sizes / (lengths.sum() / len(steps)) - 1).max() < 0.1
    order = np.concatenate(steps)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
    assert plan.step(plan.steps_per_epoch).rows.tolist() != steps[0].tolist()  # the next epoch has another order


def test_a_plan_without_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="0 sequences"):
        StepPlan([], 100, 0)


@given(lengths=LENGTHS, world=st.integers(1, 9), data=st.data())
def test_shares_are_a_partition_and_balanced(lengths: np.ndarray, world: int, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.permutations(range(len(lengths)))), dtype=np.int64)[: len(lengths) // 2 + 1]
    shares = [share(rows, lengths, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(shares)) == sorted(rows)
    sizes = [lengths[mine].sum() for mine in shares]
    assert max(sizes) - min(sizes) <= lengths[rows].max()
    place = {row: number for number, row in enumerate(rows)}
    assert all(list(mine) == sorted(mine, key=place.__getitem__) for mine in shares)


@given(lengths=LENGTHS, tokens_per_micro_batch=st.integers(1, 2_000))
def test_micro_batches_hold_whole_sequences_up_to_their_limit(lengths: np.ndarray, tokens_per_micro_batch: int) -> None:
    rows = np.arange(len(lengths))
    cut = micro_batches(rows, lengths, tokens_per_micro_batch)
    assert sorted(np.concatenate(cut)) == rows.tolist()
    for one in cut:
        assert len(one) == 1 or lengths[one].sum() <= tokens_per_micro_batch
    assert (np.diff(lengths[np.concatenate(cut)].astype(np.int64)) <= 0).all()
    for one, following in itertools.pairwise(cut):  # the next sequence would not fit
        assert lengths[one].sum() + lengths[following[0]] > tokens_per_micro_batch


def test_no_rows_make_no_micro_batch() -> None:
    assert micro_batches([], [5, 6], 10) == []
