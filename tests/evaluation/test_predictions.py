"""Predictions: saved bit for bit, whole or not at all, and identified by what was tested."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from task_predictions import any_predictions, drawn

from domain_ft.corpus.examples import Example, Labels
from domain_ft.errors import CheckpointError
from domain_ft.evaluation.predictions import Predictions, probabilities


@given(predictions=any_predictions())
@settings(max_examples=40, deadline=None)
def test_saved_predictions_are_loaded_bit_for_bit(
    predictions: Predictions, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = dataclasses.replace(predictions, temperature=1.7, threshold=0.31)
    path = tmp_path_factory.mktemp("run") / "predictions" / "test-seed-0.npz"
    kept.save(path)
    read = Predictions.load(path)
    assert (read.ids, read.labels, read.key) == (kept.ids, kept.labels, kept.key)
    assert (read.temperature, read.threshold) == (1.7, 0.31)
    for name in ("groups", "targets", "logits"):
        np.testing.assert_array_equal(getattr(read, name), getattr(kept, name))
        assert getattr(read, name).dtype == getattr(kept, name).dtype
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive", b"\x80\x04K\x01.", None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "test-seed-0.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"test-seed-0\.npz"):
        Predictions.load(path)


def test_a_truncated_file_or_another_archive_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    drawn().save(path)
    whole = path.read_bytes()
    for cut in (40, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="damaged"):
            Predictions.load(path)
    np.savez(path, ids=np.zeros(3))
    with pytest.raises(CheckpointError, match="damaged"):
        Predictions.load(path)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    one = drawn()
    np.savez(path, **{name: np.array([one], dtype=object) for name in ("ids", "groups", "targets", "logits")})
    with pytest.raises(CheckpointError):
        Predictions.load(path)


def test_examples_that_share_a_source_share_a_group() -> None:
    examples = [
        Example("a", "x", ("no",), group="one"),
        Example("b", "y", ("yes",)),
        Example("c", "z", ("yes",), group="one"),
    ]
    made = Predictions.of(examples, Labels(("no", "yes")), np.zeros((3, 2)))
    assert made.targets.tolist() == [0, 1, 1]
    assert made.groups[0] == made.groups[2] != made.groups[1]
    assert len(Predictions.of([], Labels(("no", "yes")), [])) == 0
    multi_label = Predictions.of(examples, Labels(("no", "yes"), multi_label=True), np.zeros((3, 2)))
    assert multi_label.targets.dtype == np.uint8


def test_arrays_that_do_not_fit_are_refused() -> None:
    for changes in ({"ids": ("a",)}, {"labels": Labels(("a", "b"))}, {"targets": np.zeros((200, 5))}):
        with pytest.raises(ValueError, match="shape"):
            dataclasses.replace(drawn(), **changes)


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_are_finite_for_large_logits(multi_label: bool) -> None:
    with np.errstate(all="raise", under="ignore"):
        found = probabilities(np.array([[800.0, -800.0], [0.0, 0.0]]), multi_label)
    assert found.tolist() == [[1, 0], [0.5, 0.5]]


@given(predictions=any_predictions())
def test_a_temperature_does_not_change_decisions(predictions: Predictions) -> None:
    hot = predictions.probabilities(3.0)
    if predictions.labels.multi_label:
        np.testing.assert_array_equal(hot >= 0.5, predictions.predicted(0.5) == 1)
    else:
        np.testing.assert_allclose(hot.sum(axis=1), 1)
        np.testing.assert_array_equal(hot.argmax(axis=1), predictions.predicted())


def test_the_threshold_is_on_the_calibrated_probability() -> None:
    one: Any = drawn(multi_label=True)
    one = dataclasses.replace(one, temperature=2.5, threshold=0.7)
    np.testing.assert_array_equal(one.predicted() == 1, 1 / (1 + np.exp(-one.logits.astype(float) / 2.5)) >= 0.7)
