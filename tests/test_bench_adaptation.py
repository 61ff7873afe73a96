"""`domain-ft bench adaptation`: its tasks, its texts, and its pooled differences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from adaptation import __main__ as bench
from adaptation import pooled, tasks, texts

from domain_ft.corpus.examples import Example, Labels
from domain_ft.evaluation.predictions import Predictions
from domain_ft.randomness import generator

LABELS = Labels(("a", "b"))


def predictions(right: np.ndarray) -> Predictions:
    """Predictions for examples of two alternating classes; those where `right` is true are correct."""
    targets = np.arange(len(right)) % 2
    examples = [Example(str(place), "text", (LABELS.names[target],)) for place, target in enumerate(targets)]
    return Predictions.of(examples, LABELS, np.eye(2)[np.where(right, targets, 1 - targets)])


def test_equal_models_do_not_differ() -> None:
    draws = [predictions(generator(seed, "right").random(100) < 0.8) for seed in range(3)]
    found = pooled.paired_difference(draws, draws)
    assert (found.mean, found.error) == (0.0, 0.0)


def test_the_interval_of_a_difference_covers_it() -> None:
    """Two models whose accuracies differ by 4 points, on balanced classes, where macro F1 is about the accuracy."""
    covered, better = 0, 0
    for trial in range(100):
        draw = generator(trial, "trial")
        first, other = [], []
        for _ in range(5):
            at = 0.7 + draw.normal() * 0.02
            difficulty = draw.random(300)
            first.append(predictions(difficulty < at))
            other.append(predictions(np.where(draw.random(300) < 0.7, difficulty, draw.random(300)) < at + 0.04))
        low, high = pooled.paired_difference(first, other).interval()
        covered += low <= 4 <= high
        better += low > 0
    assert 85 <= covered <= 100
    assert better > 50


def test_the_pooled_mean_follows_the_papers_formulas() -> None:
    """By hand: weights 1 and 1/4, Q = 7.2, variance between tasks (7.2 - 1) / (1.25 - 1.0625 / 1.25) = 15.5."""
    found = pooled.pooled([pooled.Difference(0.0, 1.0), pooled.Difference(6.0, 2.0)])
    between = 6.2 / (1.25 - 1.0625 / 1.25)
    weights = 1 / np.array([1 + between, 4 + between])
    mean = 6 * weights[1] / weights.sum()
    factor = max(1.0, float((weights * (np.array([0, 6]) - mean) ** 2).sum()))
    width = 12.7062 * np.sqrt(factor / weights.sum())  # Student's t of one degree of freedom
    assert found["mean"] == pytest.approx(mean)
    assert found["sd_between_tasks"] == pytest.approx(np.sqrt(between))
    np.testing.assert_allclose(found["interval"], [mean - width, mean + width], rtol=1e-4)


def test_equal_weights_count_each_task_once() -> None:
    """By hand: the mean of 0, 0 and 6 is 2, its standard error 2, and Student's t of two degrees of freedom 4.303."""
    differences = [pooled.Difference(0.0, 0.0), pooled.Difference(0.0, 0.0), pooled.Difference(6.0, 1.0)]
    found = pooled.pooled(differences)
    assert found["mean"] < 1
    assert found["equal_weights"]["mean"] == pytest.approx(2)
    np.testing.assert_allclose(found["equal_weights"]["interval"], [2 - 8.6053, 2 + 8.6053], rtol=1e-4)


def test_tasks_that_agree_give_the_weighted_mean() -> None:
    found = pooled.pooled([pooled.Difference(1.0, 1.0)] * 4)
    assert found["sd_between_tasks"] == 0
    np.testing.assert_allclose(found["interval"], 1 + np.array([-1, 1]) * 3.18245 / 2, rtol=1e-4)


def test_equal_predictions_on_a_task_do_not_decide_alone() -> None:
    found = pooled.pooled([pooled.Difference(0.0, 0.0), pooled.Difference(2.0, 0.1)])
    assert found["mean"] == pytest.approx(1.0)


def test_the_json_has_the_documented_fields() -> None:
    accuracy = {bench.BASE: 0.7, bench.OWN: 0.9, bench.WRONG: 0.7, bench.GENERAL: 0.7, bench.TFIDF: 0.6}
    scores = [
        bench.Score(task, size, column, [predictions(generator(0, task).random(200) < share) for _ in range(2)])
        for task in ("one", "other")
        for size in (100, 300)
        for column, share in accuracy.items()
    ]
    found = bench.summary(scores, "head")
    assert len(found["tasks"]) == 4
    names = {"task", "size", "method", "base", "adapted", "wrong_field", "general", "tfidf_svm"}
    assert all(set(row) == names for row in found["tasks"])
    assert found["pooled_size"] == 300
    for name in ("adapted_minus_base", "adapted_minus_wrong_field"):
        low, high = found["pooled"][name]["interval"]
        assert low < found["pooled"][name]["mean"] < high
        assert found["pooled"][name]["mean"] > 10


def rows() -> Iterator[tuple[str, str | None, str, str]]:
    """Pairs of near copies: a text, and the same with one more word. And one text of a class with too few examples."""
    draw = generator(0, "words")
    for place in range(300):
        words = " ".join(f"word{number}" for number in draw.integers(1000, size=30))
        yield words, None, "ab"[place % 2], ""
        yield f"{words} again", None, "ab"[place % 2], ""
    yield "a text of a rare class", None, "rare", ""


def test_a_task_is_cut_without_separating_near_copies() -> None:
    task = tasks._cut("task", "legal", rows())
    assert task.labels.names == ("a", "b")
    assert len(task.pool) + len(task.test) == 600
    stems = [{example.text.removesuffix(" again") for example in split} for split in (task.pool, task.test)]
    assert not stems[0] & stems[1]
    assert set(task.test_texts) == {example.text for example in task.test}


def test_test_texts_are_left_out_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Sources:
        documents: tuple[str, ...]

        def __call__(self, *_: object) -> Iterator[str]:
            return iter(self.documents)

    copied = "The licensee shall return every copy of the work to the licensor upon termination."
    other = " Other clauses of this agreement say nothing of the kind at all." * 10
    longer = other + copied
    monkeypatch.setattr(texts, "_documents", Sources((copied.upper(), copied + other, longer, "Another text.")))
    counts = texts.write_text("legal", None, [copied], tmp_path / "legal.jsonl")
    assert counts == {"documents": 2, "left_out": 2}
    kept = [json.loads(line)["text"] for line in (tmp_path / "legal.jsonl").read_text().splitlines()]
    assert kept == [longer, "Another text."]
