"""The baselines: what they learn in any script and from unusual data, and the notes on what they did."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from domain_ft.corpus.examples import Example, Labels
from domain_ft.evaluation import baselines
from domain_ft.evaluation.baselines import baseline_facts, few_spaces, majority, tfidf_svm
from domain_ft.evaluation.classification import point_scores
from domain_ft.evaluation.predictions import Predictions

WORDS = {
    "law": ["tenant", "lease", "court", "clause"],
    "medicine": ["fever", "cough", "dose", "renal"],
    "sea": ["boat", "tide", "harbour", "sail"],
}
JAPANESE = {
    "law": ["契約書", "裁判所", "賃借人"],
    "medicine": ["発熱", "咳嗽", "投与量"],
    "sea": ["漁船", "潮汐", "港湾"],
}


class Held(Sequence[Example]):
    """Examples in memory."""

    key = "held"

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = list(examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        return self._examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def take(self, indices: npt.ArrayLike) -> Held:
        return Held([self._examples[index] for index in np.asarray(indices)])


def examples(
    number: int, seed: int, words: dict[str, list[str]] = WORDS, *, gap: str = " ", pair: bool = False
) -> Held:
    """Texts of two words of a class and three words of no class."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(number):
        name = list(words)[int(rng.choice(3, p=(0.5, 0.3, 0.2)))]
        chosen = [
            *rng.choice(words[name], 2),
            *rng.choice(["の", "は"] if words is JAPANESE else ["the", "of", "and"], 3),
        ]
        text = gap.join(rng.permutation(chosen))
        made.append(Example(str(index), "same for all" if pair else text, (name,), pair=text if pair else None))
    return Held(made)


LABELS = Labels(("law", "medicine", "sea", "never seen"))


def learnt(train: Held, test: Held, labels: Labels = LABELS, **options: Any) -> baselines.Baseline:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tfidf_svm(train, examples(30, 7), test, labels, **options)


def test_words_are_learnt() -> None:
    found = learnt(examples(120, 0), examples(60, 1))
    assert found.predictions is not None
    assert point_scores(found.predictions)["macro_f1"] == 1
    assert found.predictions.logits[:, 3].max() < found.predictions.logits[:, :3].max(axis=1).min()
    assert "words, pairs of words; linear SVM with C =" in found.notes[-1]


def test_characters_are_learnt_if_no_spaces_separate_words() -> None:
    train, test = (examples(200, seed, JAPANESE, gap="") for seed in (0, 1))
    found = learnt(train, test)
    assert found.predictions is not None
    assert point_scores(found.predictions)["accuracy"] > 0.9
    assert "characters" in found.notes[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Patient denies pain. 既往なし", True),
        ("ผู้ป่วยมีไข้", True),
        ("患者は平熱であった。", True),
        ("환자는 정상 체온이었다", False),
        ("Пациент без жалоб", False),
        ("رفضت المحكمة الدعوى", False),
        ("Donaudampfschifffahrtsgesellschaft", False),
        ("12345 -- !!", False),
        ("", False),
    ],
)
def test_the_text_decides_whether_characters_are_used(text: str, expected: bool) -> None:
    assert few_spaces([text]) is expected


def test_both_texts_of_a_pair_are_read() -> None:
    found = learnt(examples(120, 0, pair=True), examples(60, 1, pair=True))
    assert found.predictions is not None
    assert point_scores(found.predictions)["macro_f1"] == 1


def test_each_of_several_labels_has_its_own_classifier() -> None:
    labels = Labels(("law", "medicine", "sea", "always", "never"), multi_label=True)

    def both(seed: int) -> Held:
        one, other = examples(150, seed), examples(150, seed + 50)
        return Held(
            [
                Example(a.id, f"{a.text} {b.text}", tuple({*a.labels, *b.labels, "always"}))
                for a, b in zip(one, other, strict=True)
            ]
        )

    found = tfidf_svm(both(0), both(2), both(1), labels).predictions
    assert found is not None
    assert point_scores(found)["macro_f1"] > 0.97
    assert found.predicted()[:, 3].all()
    assert not found.predicted()[:, 4].any()


def test_balance_helps_a_rare_class() -> None:
    rng = np.random.default_rng(0)
    made = [Example(str(i), f"w{rng.integers(4)}", ("rare" if rng.random() < 0.15 else "many",)) for i in range(400)]
    train, labels = Held(made), Labels(("many", "rare"))
    found = [tfidf_svm(train, Held([]), train, labels, balanced=balanced).predictions for balanced in (False, True)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].predicted().sum() == 0 < found[1].predicted().sum()


def test_the_majority_class_is_predicted() -> None:
    train, test = examples(100, 0), examples(40, 1)
    found = majority(train, test, LABELS).predictions
    assert found is not None
    assert set(found.predicted().tolist()) == {0}
    multi_label = Labels(("law", "medicine", "sea"), multi_label=True)
    found = majority(examples(100, 3), test, multi_label).predictions
    assert found is not None
    assert found.predicted().sum(axis=0).tolist() == [40, 0, 0]


@pytest.mark.parametrize("texts", [["", "  "], ["!!!", "???"]])
def test_texts_without_a_word_are_no_error(texts: list[str]) -> None:
    train = Held([Example(str(i), texts[i % 2], (("law", "sea")[i % 2],)) for i in range(8)])
    found = learnt(train, train).predictions
    assert found is not None
    assert len(found) == 8


def test_one_class_is_no_error() -> None:
    train = Held([Example(str(i), "the lease", ("law",)) for i in range(4)])
    found = learnt(train, examples(20, 1)).predictions
    assert found is not None
    assert set(found.predicted().tolist()) == {0}


def test_a_large_set_is_sampled_which_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_EXAMPLES", 60)
    found = learnt(examples(200, 0), examples(60, 1))
    assert "a sample of 60 of the 200 training examples" in found.notes[0]
    monkeypatch.setattr(baselines, "MOST_CHARACTERS", 500)
    found = learnt(examples(200, 0), examples(60, 1))
    assert "sample of 1" in found.notes[0] or "sample of 2" in found.notes[0]


def test_with_too_many_classes_there_is_only_a_note() -> None:
    labels = Labels(tuple(f"code {index}" for index in range(1001)))
    train = Held([Example(str(i), f"word{i}", (labels.names[i],)) for i in range(20)])
    found = tfidf_svm(train, train, train, labels)
    assert found.predictions is None
    assert baseline_facts(found, Predictions.of(train, labels, np.zeros((20, 1001)))) == {"notes": list(found.notes)}


def test_classifiers_that_do_not_converge_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.svm

    class Hasty(sklearn.svm.LinearSVC):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "max_iter": 1})

    monkeypatch.setattr(sklearn.svm, "LinearSVC", Hasty)
    found = learnt(examples(120, 0), examples(60, 1))
    assert any("did not converge" in note for note in found.notes)


def test_a_baseline_is_compared_with_the_model() -> None:
    train, test = examples(100, 0), examples(80, 1)
    baseline, model = majority(train, test, LABELS), learnt(train, test).predictions
    assert model is not None
    found = baseline_facts(baseline, model)
    assert found["difference"]["macro_f1"]["verdict"] == "better"
    assert "per_class" not in found
