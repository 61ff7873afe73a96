"""Linear probes: scikit-learn's own regression on standardised features, folded into one weight, kept and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_examples import WORDS, toy_examples
from tiny_models import save_tiny

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.tasks.rows import encode
from domain_ft.errors import ModelError
from domain_ft.evaluation.logits import compute_features, predict_logits
from domain_ft.models.probe import STRENGTHS, Probe, fit_probe
from domain_ft.models.task_facts import TASK_NAME
from domain_ft.models.task_model import load_task_model, load_task_run
from domain_ft.randomness import generator
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings

LABELS = Labels(("law", "medicine", "animals"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)


def data(count: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features around a point for each class, some of them of another scale, one constant; and the classes."""
    points = generator(0, "points").normal(size=(classes, 8))
    draw = generator(seed, "features")
    targets = draw.integers(classes, size=count)
    features = (points[targets] + draw.normal(size=(count, 8))) * np.geomspace(0.01, 100, 8) + 5
    features[:, 3] = 7.0
    return features.astype(np.float32), targets.astype(np.int64)


def multi_label(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    features, classes = data(count, seed)
    _, others = data(count, seed + 100)
    targets = np.zeros((count, 3), dtype=np.float32)
    targets[np.arange(count), classes] = 1
    targets[: count // 2, 0] = others[: count // 2] % 2
    return features, targets


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_scikit_learns_regression(classes: int, balanced: bool) -> None:
    """With the standardisation folded in, and the strength that is best on the validation examples."""
    labels = Labels(LABELS.names[:classes])
    features, targets = data(200, 1, classes)
    validation, test = data(120, 2, classes), data(50, 3, classes)
    weight = "balanced" if balanced else None
    pipelines = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight=weight, max_iter=500))
        for strength in STRENGTHS
    ]
    scores = [
        f1_score(validation[1], one.fit(features.astype(float), targets).predict(validation[0]), average="macro")
        for one in pipelines
    ]
    best = int(np.argmax(scores))
    probe = fit_probe(features, targets, labels, validation=validation, balanced=balanced)
    assert probe.strength == STRENGTHS[best]
    probabilities = probe.logits(torch.from_numpy(test[0])).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, pipelines[best].predict_proba(test[0].astype(float)), atol=2e-4)


def test_several_labels_are_a_regression_each() -> None:
    features, targets = multi_label(200, 1)
    probe = fit_probe(features, targets, SEVERAL, validation=multi_label(120, 2))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=500))
    for index in range(3):
        expected = pipeline.fit(features.astype(float), targets[:, index]).predict_proba(features.astype(float))[:, 1]
        found = probe.logits(torch.from_numpy(features)).sigmoid().numpy()[:, index]
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_class_that_no_training_example_has_is_never_likely() -> None:
    labels = Labels(("unseen", *LABELS.names))
    features, targets = data(200, 1)
    probe = fit_probe(features, targets + 1, labels, validation=(features, targets + 1))
    probabilities = probe.logits(torch.from_numpy(features)).softmax(1)
    assert probabilities[:, 0].mean() < 0.05
    assert (probabilities.argmax(1).numpy() == targets + 1).mean() > 0.8

    features, targets = multi_label(100, 1)
    targets[:, 1], targets[:, 2] = 0, 1
    logits = fit_probe(features, targets, SEVERAL, validation=(features, targets)).logits(torch.from_numpy(features))
    assert logits[:, 1].max() < -5
    assert logits[:, 2].min() > 5


def test_what_cannot_be_fitted_is_said() -> None:
    features, targets = data(20, 1)
    with pytest.raises(ModelError, match="one class"):
        fit_probe(features, np.zeros_like(targets), LABELS, validation=(features, targets))
    features[3, 2] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        fit_probe(features, targets, LABELS, validation=(features, targets))


def test_a_probe_survives_its_files(tmp_path: Path) -> None:
    features, targets = data(50, 1)
    probe = fit_probe(features, targets, LABELS, validation=(features, targets))
    probe.save(tmp_path / "head", base="minilm", revision="sha256:1")
    again, settings = Probe.load(tmp_path / "head")
    assert torch.equal(again.weight, probe.weight)
    assert torch.equal(again.bias, probe.bias)
    assert (again.labels, again.strength) == (LABELS, probe.strength)
    assert (settings["base"], settings["revision"], settings["pooling"]) == ("minilm", "sha256:1", "mean")
    (tmp_path / "head" / "head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="damaged"):
        Probe.load(tmp_path / "head")
    (tmp_path / "head" / "head.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no head\.safetensors"):
        Probe.load(tmp_path / "head")


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_run_with_a_probe_is_loaded_like_any_other(architecture: str, tmp_path: Path) -> None:
    labels = Labels(tuple(WORDS))
    base = load_task_model(str(save_tiny(architecture, tmp_path / "model")), labels)
    train, test = (
        encode(toy_examples(60, seed=seed), labels, base.tokenizer, max_length=24, long_text="windows")
        for seed in (0, 1)
    )
    features, others = (compute_features(base, rows, tokens_per_micro_batch=300) for rows in (train, test))
    assert features.shape == (60, 32)
    base.probe = fit_probe(features, train.targets, labels, validation=(others, test.targets))
    expected = predict_logits(base, test, tokens_per_micro_batch=300)
    assert (expected.argmax(1) == test.targets).mean() > 0.8

    run = tmp_path / "run"
    base.probe.save(run / "head", base=base.source, revision=base.revision)
    (run / TASK_NAME).write_text(json.dumps({"kind": "sequence", "labels": list(labels.names), "several": False}))
    loaded = load_task_run(run)
    np.testing.assert_array_equal(predict_logits(loaded, test, tokens_per_micro_batch=300), expected)
    assert loaded.notes == ()
    base.probe.save(run / "head", base=base.source, revision="sha256:another")
    assert "fitted on sha256:another" in load_task_run(run).notes[0]

    (run / "result.json").write_text("{}")
    with pytest.raises(ModelError, match="linear probe"):
        export(ExportSettings(model=str(run), output=tmp_path / "merged", quiet=True))
