"""An invented classifier with realistic predictions, for the tests of its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.examples import Example, Labels, TaskData
from domain_ft.evaluation.baselines import Baseline, baseline_facts
from domain_ft.evaluation.calibration import calibrate, calibration_facts
from domain_ft.evaluation.classification import classification_metrics, seed_metrics
from domain_ft.evaluation.predictions import Predictions
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.shared.facts import BaseFacts

RESAMPLES = 200
SECTIONS = (
    "Allergies", "Assessment", "Chief complaint", "Diagnosis", "Disposition", "Emergency department course",
    "Examination", "Family and social history", "History of present illness", "Imaging", "Immunisations", "Laboratory",
    "Medications", "Other history", "Past medical history", "Past surgical history", "Plan", "Procedures",
    "Review of systems", "家族歴・社会歴",
)  # fmt: skip


class Held(Sequence[Example]):
    """Examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = list(examples)

    @property
    def key(self) -> str:
        return str([(example.id, example.labels) for example in self._examples])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        return self._examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def take(self, indices: npt.ArrayLike) -> Held:
        return Held([self._examples[index] for index in np.asarray(indices)])


def task(
    examples: int = 300,
    names: Sequence[str] = SECTIONS,
    *,
    multi_label: bool = False,
    pair: bool = False,
    text: str = "The patient denies chest pain, 胸痛なし, and has no <known> allergies to medicines. ",
) -> TaskData:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, len(names) + 1)
    made = []
    for index in range(examples):
        place = int(rng.choice(len(names), p=share / share.sum()))
        own = {place, *np.flatnonzero(rng.random(len(names)) < 0.1).tolist()} if multi_label else {place}
        made.append(
            Example(
                id=f"test.csv:{index + 2}",
                text=text * int(rng.integers(1, 15)),
                labels=tuple(names[one] for one in sorted(own)),
                pair="Does it hold?" if pair else None,
            )
        )
    return TaskData(
        name="mts_dialog",
        labels=Labels(tuple(names), multi_label),
        splits={"train": Held(made), "validation": Held(made[: examples // 3]), "test": Held(made)},
        key="key",
        facts={"description": "Sections of clinical notes.", "licence": "CC-BY-4.0", "language": "en", "fields": {}},
        notes=("Three classes appear once in the training examples.",),
    )


def predictions(data: TaskData, skill: float, seed: int = 0, split: str = "test") -> Predictions:
    """Random predictions in which the logits of true classes are higher by 2 `skill` on average."""
    rng = np.random.default_rng([seed, len(split)])
    examples = data.splits[split]
    bare = Predictions.of(examples, data.labels, np.zeros((len(examples), len(data.labels))))
    truth = bare.targets if data.labels.multi_label else np.eye(len(data.labels))[bare.targets]
    noise = rng.normal(size=truth.shape) - (skill / 2 if data.labels.multi_label else 0)
    return dataclasses.replace(bare, logits=(2 * (noise + skill * truth)).astype(np.float32))


def classify_report(data: TaskData | None = None, *, seeds: int = 3, examples: bool = True, **changes: Any) -> Any:
    data = data or task()
    temperature, threshold = calibrate(predictions(data, 2.4, split="validation"))
    runs = [
        dataclasses.replace(predictions(data, 2.4, seed), temperature=temperature, threshold=threshold)
        for seed in range(seeds)
    ]
    kept = runs[0]
    curve = [
        {"examples": size, **seed_metrics([predictions(data, skill, seed) for seed in range(3)], resamples=RESAMPLES)}
        for size, skill in ((50, 0.6), (200, 1.4), (1000, 2.1), (1201, 2.4))
    ]
    steps = [
        {"step": step, "tokens": 2000 * step, "loss": 3 * float(np.exp(-step / 20))}
        | ({"evaluation": {"macro_f1": 0.7 - 0.5 / step - 1e-4 * max(0, step - 30) ** 1.5}} if step % 6 == 0 else {})
        for step in range(1, 61)
    ]
    result = {
        "command": "classify",
        "model": "minilm",
        "device": "cpu",
        "task": data.name,
        "training_seconds": 78.2,
        "trainable_parameters": 1_327_104,
        "total_parameters": 24_212_154,
        "test": classification_metrics(kept, resamples=RESAMPLES) | {"calibration": calibration_facts(kept)},
        "seeds": seed_metrics(runs, resamples=RESAMPLES) | {"kept": 0},
        "baselines": {
            "majority": baseline_facts(Baseline(predictions(data, 0.0)), kept),
            "tfidf_svm": baseline_facts(Baseline(predictions(data, 1.7, 9), ("TF-IDF of words.",)), kept),
        },
        "learning_curve": curve,
        "leaks": {"exact_train_test": 3, "near_train_test": 7, "exact_label_conflicts": 1},
        "cut_fraction": 0.083,
    }
    report = ClassifyReport.of(
        result,
        BaseFacts("minilm", "/somewhere/minilm", revision="3f1b8c2a9d", embedded=True, licence="Apache-2.0"),
        data,
        kept,
        settings={"model": "minilm", "method": "lora", "rank": 16},
        provenance={"versions": {"torch": "2.13.0"}, "device": "cpu"},
        metrics=steps,
        examples=examples,
    )
    return dataclasses.replace(report, **changes)
