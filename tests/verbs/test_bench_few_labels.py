"""`domain-ft bench few-labels`: its draws, and that all methods learn from the same examples."""

from __future__ import annotations

import argparse
from pathlib import Path

import few_labels
import pytest
from adaptation.features import Examples
from adaptation.tasks import Task
from tiny_models import save_tiny
from verb_jobs import LEGAL, MEDICAL, texts

from domain_ft.corpus.examples import Example, Labels
from domain_ft.evaluation.predictions import Predictions

CLASSES = {"licence": LEGAL, "finding": MEDICAL}


def task() -> Task:
    examples = [
        Example(f"{name}-{place}", text, (name,), group=f"{name}-{place}")
        for name, sentences in CLASSES.items()
        for place, text in enumerate(texts(sentences, 60, name))
    ]
    return Task("tiny", "legal", Labels(tuple(CLASSES)), tuple(examples[::2]), tuple(examples[1::2]))


def test_a_draw_has_as_many_examples_of_each_class_and_contains_the_smaller_draw() -> None:
    small, large, other = (few_labels.draw(task(), size, seed) for size, seed in ((4, 1), (16, 1), (16, 2)))
    for found, size in ((small, 4), (large, 16)):
        assert [sum(one.labels == (name,) for one in found) for name in CLASSES] == [size, size]
    assert {one.id for one in small} < {one.id for one in large}
    assert large.key != other.key


def test_methods_learn_from_the_draw_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Examples] = []

    def baseline(of: Task, examples: Examples) -> Predictions:
        read.append(examples)
        return few_labels.learned(of, "head", examples, str(model), tmp_path)

    monkeypatch.setattr(few_labels, "baseline", baseline)
    model = save_tiny("bert", tmp_path / "model")
    args = argparse.Namespace(
        base=str(model), methods=["head", "tfidf"], per_class=[4, 8], draws=2, work=tmp_path, data=None
    )
    found = few_labels.scored([task()], args)
    assert [len(examples) for examples in read] == [8, 8, 16, 16]
    summary = few_labels.summary(found)
    assert [(row["per_class"], row["method"]) for row in summary["rows"]] == [
        (4, "head"),
        (4, "tfidf"),
        (8, "head"),
        (8, "tfidf"),
    ]
    for comparison in summary["comparisons"]:  # the stand-in for the baseline is the probe itself
        assert comparison["tasks"]["tiny"]["mean"] == 0
