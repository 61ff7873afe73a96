"""Linear probes: the same fit as scikit-learn's logistic regression on standardised features; their files and runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from tiny_examples import WORDS, toy_examples
from tiny_models import save_tiny

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.tasks.rows import encode
from domain_ft.errors import ModelError
from domain_ft.evaluation.logits import compute_features, predict_logits
from domain_ft.models.probe import FOLDS, STRENGTHS, Probe, fit_probe
from domain_ft.models.task_facts import TASK_NAME
from domain_ft.models.task_model import load_task_model, load_task_run
from domain_ft.randomness import generator
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings

LABELS = Labels(("law", "medicine", "animals"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)


def data(count: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, 8) around one point for each class, scaled by 0.01 to 100, one constant; and the classes."""
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
    """The standardisation is folded into the weight; the strength has the least log-loss in cross-validation."""
    labels = Labels(LABELS.names[:classes])
    features, targets = data(100, 1, classes)
    wrong = generator(0, "wrong labels").random(100) < 0.2  # without them the weakest penalty would be best
    targets[wrong] = (targets[wrong] + 1) % classes
    test, _ = data(50, 3, classes)
    weight = "balanced" if balanced else None
    weights = compute_sample_weight("balanced", targets) if balanced else None
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    wide = features.astype(float)

    def pipeline(strength: float) -> Pipeline:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight=weight, max_iter=500))

    held_out = [
        cross_val_predict(pipeline(strength), wide, targets, cv=folds, method="predict_proba") for strength in STRENGTHS
    ]
    losses = [log_loss(targets, chances, sample_weight=weights) for chances in held_out]
    best = int(np.argmin(losses))
    assert 0 < best < len(STRENGTHS) - 1  # an inner one, so the choice is tested
    fitted = fit_probe(features, targets, labels, balanced=balanced)
    assert fitted.probe.strength == STRENGTHS[best]
    probabilities = fitted.probe.logits(torch.from_numpy(test)).softmax(1).numpy()
    whole = pipeline(STRENGTHS[best]).fit(wide, targets)
    np.testing.assert_allclose(probabilities, whole.predict_proba(test.astype(float)), atol=2e-4)
    honest = torch.from_numpy(fitted.held_out).softmax(1).numpy()
    np.testing.assert_allclose(honest, held_out[best], atol=2e-4)


def test_a_group_is_in_one_fold() -> None:
    """Each example has a copy with another label. A probe trained on one of them would be wrong about the other."""
    features, targets = data(60, 1)
    twice, others = np.concatenate([features, features]), np.concatenate([targets, (targets + 1) % 3])
    groups = np.tile(np.arange(60), 2)
    apart = fit_probe(twice, others, LABELS)
    together = fit_probe(twice, others, LABELS, groups=groups)
    np.testing.assert_allclose(together.held_out[:60], together.held_out[60:], atol=1e-5)
    assert not np.allclose(apart.held_out[:60], apart.held_out[60:], atol=1e-2)


def test_noise_gets_the_strongest_penalty_and_signal_a_weaker_one() -> None:
    draw = generator(0, "noise")
    features = draw.normal(size=(100, 30)).astype(np.float32)
    targets = draw.integers(3, size=100)
    assert fit_probe(features, targets, LABELS).probe.strength == STRENGTHS[0]
    features[np.arange(100), targets] += 6
    assert fit_probe(features, targets, LABELS).probe.strength >= 0.1


@pytest.mark.parametrize("counts", [(1, 1), (1, 1, 1), (5, 1), (2, 1, 1)])
@pytest.mark.parametrize("one_group", [False, True])
def test_a_handful_of_examples_is_enough(counts: tuple[int, ...], one_group: bool) -> None:
    """Also where folds lack a class, have a single class, or all examples are of one group."""
    targets = np.repeat(np.arange(len(counts)), counts)
    features = np.eye(8, dtype=np.float32)[targets] + generator(0, "few").normal(size=(len(targets), 8)) / 9
    groups = np.zeros(len(targets), np.int64) if one_group else None
    fitted = fit_probe(features.astype(np.float32), targets, Labels(LABELS.names[: len(counts)]), groups=groups)
    logits = fitted.probe.logits(torch.from_numpy(features.astype(np.float32)))
    assert (logits.argmax(1).numpy()[targets == 0] == 0).all()
    assert np.isfinite(fitted.held_out).all()


def test_each_of_several_labels_is_a_regression_of_its_own() -> None:
    features, targets = multi_label(200, 1)
    probe = fit_probe(features, targets, SEVERAL).probe
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=500))
    for index in range(3):
        expected = pipeline.fit(features.astype(float), targets[:, index]).predict_proba(features.astype(float))[:, 1]
        found = probe.logits(torch.from_numpy(features)).sigmoid().numpy()[:, index]
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_class_that_no_training_example_has_is_never_likely() -> None:
    labels = Labels(("unseen", *LABELS.names))
    features, targets = data(200, 1)
    probe = fit_probe(features, targets + 1, labels).probe
    probabilities = probe.logits(torch.from_numpy(features)).softmax(1)
    assert probabilities[:, 0].mean() < 0.05
    assert (probabilities.argmax(1).numpy() == targets + 1).mean() > 0.8

    features, targets = multi_label(100, 1)
    targets[:, 1], targets[:, 2] = 0, 1
    logits = fit_probe(features, targets, SEVERAL).probe.logits(torch.from_numpy(features))
    assert logits[:, 1].max() < -5
    assert logits[:, 2].min() > 5


def test_what_cannot_be_fitted_is_refused() -> None:
    features, targets = data(20, 1)
    with pytest.raises(ModelError, match="one class"):
        fit_probe(features, np.zeros_like(targets), LABELS)
    features[3, 2] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        fit_probe(features, targets, LABELS)


def test_a_saved_probe_is_loaded_and_damaged_files_are_refused(tmp_path: Path) -> None:
    features, targets = data(50, 1)
    probe = fit_probe(features, targets, LABELS).probe
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
    features = compute_features(base, train, tokens_per_micro_batch=300)
    assert features.shape == (60, 32)
    base.probe = fit_probe(features, train.targets, labels).probe
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
