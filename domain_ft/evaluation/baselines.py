"""Baselines: the majority class, and TF-IDF with a linear support vector machine.

The SVM usually takes seconds without a GPU, and is hard to beat on many tasks. Its features are words and word pairs;
for texts in scripts without spaces between words (Japanese, Chinese, Thai), also n-grams of one to three characters.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.examples import Example, Examples, Labels
from domain_ft.evaluation.classification import classification_metrics, paired_difference, point_scores
from domain_ft.evaluation.predictions import Predictions
from domain_ft.randomness import generator

STRENGTHS = (0.1, 1.0, 10.0)
"""Inverse regularisation strengths (C) that are tried on the validation examples."""

MOST_EXAMPLES = 100_000
MOST_CHARACTERS = 200_000_000
"""Larger training sets are sampled, since all features are held in memory."""

MOST_CLASSES = 1_000
"""One SVM is fitted per class, so more classes would take longer than fine-tuning."""

_LOOKED_AT = 1_000  # examples from which pairs and the use of spaces are detected
_ABSENT = -30.0  # the logit of a class that no training example has

_LETTERS = re.compile(r"\w")
_UNSPACED = re.compile(  # Thai, Lao, Tibetan; Burmese; Khmer; kana; Chinese characters
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Baseline:
    """A baseline's predictions for the test examples, and notes for the user.

    Attributes:
        predictions: their logits rank classes, but need not be log-probabilities; None if the baseline was not run.
        notes: sentences.
    """

    predictions: Predictions | None
    notes: tuple[str, ...] = ()


def majority(train: Examples, test: Examples, labels: Labels) -> Baseline:
    """Predict the most frequent class of the training examples.

    For a multi-label task, predict every class that more than half of the examples have, and always the most frequent
    class, since predicting no class would score 0.
    """
    share = np.zeros(len(labels))
    place = {name: index for index, name in enumerate(labels.names)}
    for example in train:
        for name in example.labels:
            share[place[name]] += 1
    share /= max(len(train), 1)
    if labels.multi_label:
        positive = share > 0.5
        positive[share.argmax()] = True
        logits = np.where(positive, 1.0, -1.0)
    else:
        logits = np.log(np.maximum(share, 1e-12))
    return Baseline(Predictions.of(test, labels, np.tile(logits, (len(test), 1))))


def tfidf_svm(
    train: Examples,
    validation: Examples,
    test: Examples,
    labels: Labels,
    *,
    balanced: bool = False,
    refit: bool = False,
    seed: int = 0,
) -> Baseline:
    """TF-IDF and one-vs-rest linear SVMs, with the C that gives the best macro F1 on `validation`.

    Args:
        train: if it has more than `MOST_EXAMPLES` examples or `MOST_CHARACTERS` characters, a sample is used, and a
            note says so.
        validation: if empty, C is 1.
        test: the examples to predict.
        labels: the classes.
        balanced: give the examples with a class and those without it the same total weight in the class's SVM.
        refit: once C is chosen, fit the SVMs again, on the training and validation examples together.
        seed: of the sample and of the solver.
    """
    from scipy import sparse

    if len(labels) > MOST_CLASSES:
        note = f"TF-IDF with a linear SVM was not run: {len(labels):,} classes exceed the limit of {MOST_CLASSES:,}."
        return Baseline(None, (note,))
    seen, notes = _sample(train, seed)
    features = _Features(seen)
    inputs = features.fit(seen)
    targets = _targets(seen, labels)
    held_out = features.of(validation) if len(validation) else None
    best: tuple[float, float, list[Any]] = (-1.0, 0.0, [])
    unconverged = False
    for strength in STRENGTHS if held_out is not None else (1.0,):
        svms, failed = _fit(inputs, targets, labels, strength, balanced, seed)
        unconverged |= failed
        score = 0.0
        if held_out is not None:
            score = point_scores(Predictions.of(validation, labels, _decide(svms, held_out)))["macro_f1"]
        if score > best[0]:
            best = (score, strength, svms)
    _, strength, svms = best
    if refit and held_out is not None:
        both = sparse.vstack([inputs, held_out], format="csr")
        all_targets = np.concatenate([targets, _targets(validation, labels)])
        svms, failed = _fit(both, all_targets, labels, strength, balanced, seed)
        unconverged |= failed
    if unconverged:
        notes.append("The linear SVM did not converge in time for at least one C; its scores may be a bit low.")
    kind = "words, pairs of words" + (", n-grams of one to three characters" if features.characters else "")
    notes.append(f"TF-IDF of {kind}; linear SVM with C = {strength:g}.")
    return Baseline(Predictions.of(test, labels, _decide(svms, features.of(test))), tuple(notes))


def baseline_facts(baseline: Baseline, model: Predictions, *, seed: int = 0) -> dict[str, Any]:
    """A baseline's scores on the test set, and how much higher the `model`'s are, for reports.

    Returns:
        `classification_metrics` without `per_class`, `difference` (`paired_difference`, by metric) and `notes`; only
        `notes` if the baseline was not run.
    """
    notes = list(baseline.notes)
    if baseline.predictions is None:
        return {"notes": notes}
    metrics = classification_metrics(baseline.predictions, seed=seed)
    del metrics["per_class"]
    return {**metrics, "difference": paired_difference([baseline.predictions], [model], seed=seed), "notes": notes}


class _Features:
    """TF-IDF features of a text and, separately, of the second text of a pair, in one sparse row."""

    def __init__(self, examples: Examples) -> None:
        first = [example for example, _ in zip(examples, range(_LOOKED_AT), strict=False)]
        self._parts = ("text", "pair") if any(example.pair is not None for example in first) else ("text",)
        self.characters = few_spaces([getattr(one, part) or "" for one in first for part in self._parts])
        self._vectorizers: list[tuple[str, Any]] = []

    def fit(self, examples: Examples) -> Any:
        """Fit the vocabulary to `examples`, and return their features (examples, features)."""
        from scipy import sparse
        from sklearn.feature_extraction.text import TfidfVectorizer

        kinds: list[dict[str, Any]] = [{"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}]
        if self.characters:
            kinds.append({"analyzer": "char", "ngram_range": (1, 3)})
        blocks = []
        for part in self._parts:
            for kind in kinds:
                vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **kind)
                try:
                    blocks.append(vectorizer.fit_transform(_texts(examples, part)))
                except ValueError:  # no text has a word
                    continue
                self._vectorizers.append((part, vectorizer))
        if not blocks:
            return sparse.csr_matrix((len(examples), 1), dtype=np.float32)
        return sparse.hstack(blocks, format="csr")

    def of(self, examples: Examples) -> Any:
        """The features of other examples, (examples, features)."""
        from scipy import sparse

        blocks = [vectorizer.transform(_texts(examples, part)) for part, vectorizer in self._vectorizers]
        if not blocks:
            return sparse.csr_matrix((len(examples), 1), dtype=np.float32)
        return sparse.hstack(blocks, format="csr")


def few_spaces(texts: Sequence[str]) -> bool:
    """Whether at least a tenth of the letters and digits belong to scripts without spaces between words.

    >>> few_spaces(["The patient was afebrile."]), few_spaces(["患者は平熱であった (BT 36.5)"])
    (False, True)
    """
    letters = sum(len(_LETTERS.findall(text)) for text in texts)
    return 10 * sum(len(_UNSPACED.findall(text)) for text in texts) >= max(letters, 1)


def _texts(examples: Examples, part: str) -> Iterator[str]:
    return (getattr(example, part) or "" for example in examples)


def _targets(examples: Examples, labels: Labels) -> Array:
    return labels.targets([example.labels for example in examples])


def _sample(train: Examples, seed: int) -> tuple[Examples, list[str]]:
    """The training examples and no note; if there are too many, a sample in their order and a note."""
    characters = np.fromiter((_size(example) for example in train), dtype=np.int64, count=len(train))
    if len(train) <= MOST_EXAMPLES and characters.sum() <= MOST_CHARACTERS:
        return train, []
    order = generator(seed, "baseline").permutation(len(train))[:MOST_EXAMPLES]
    kept = max(1, int(np.searchsorted(np.cumsum(characters[order]), MOST_CHARACTERS, side="right")))
    note = f"TF-IDF with a linear SVM was fitted on a sample of {kept:,} of the {len(train):,} training examples."
    return train.take(np.sort(order[:kept])), [note]


def _size(example: Example) -> int:
    return len(example.text) + len(example.pair or "")


def _fit(
    inputs: Any, targets: Array, labels: Labels, strength: float, balanced: bool, seed: int
) -> tuple[list[Any], bool]:
    """For each class an SVM, or a constant logit if all or no examples have it; and whether any did not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    svms: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        for place in range(len(labels)):
            column = targets[:, place] > 0 if labels.multi_label else targets == place
            if column.all() or not column.any():
                svms.append(-_ABSENT if column.all() else _ABSENT)
                continue
            weights = "balanced" if balanced else None
            svms.append(LinearSVC(C=strength, class_weight=weights, random_state=seed, dual="auto"))
            svms[-1].fit(inputs, column)
    return svms, any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def _decide(svms: Sequence[Any], inputs: Any) -> Array:
    """(examples, L) float32 decision values."""
    values = [
        np.full(inputs.shape[0], svm) if isinstance(svm, float) else svm.decision_function(inputs) for svm in svms
    ]
    return np.stack(values, axis=1).astype(np.float32)
