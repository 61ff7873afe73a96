"""`classify --method contrastive`: what it learns from few labels, what its run holds, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classify_jobs import TELLING, records, settings, write_csv, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from domain_ft.corpus.examples import Example, Labels
from domain_ft.corpus.tasks.encoding import Encoder
from domain_ft.corpus.tasks.rows import ExampleRows
from domain_ft.errors import CorpusError, ModelError, SettingsError
from domain_ft.evaluation.logits import predict_logits
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.identity import model_digest
from domain_ft.models.task_model import TaskModel, load_task_run
from domain_ft.training.loop import Interrupted
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.probes import check_class_sizes
from domain_ft.verbs.classify.run import ClassifyRun, classify
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.evaluate.tasks import evaluate_task
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings
from domain_ft.verbs.shared.trials import Trial

NAMES = sorted(TELLING)
LABELS_A_CLASS = 8
TEST = records(60, seed=2)


def few(folder: Path, **changes: Any) -> ClassifySettings:
    """The settings of a run with eight training and two validation examples of each of three classes."""
    files = {
        "train": write_csv(folder / "train.csv", records(3 * LABELS_A_CLASS)),
        "validation": write_csv(folder / "validation.csv", records(6, seed=1)),
        "test": write_csv(folder / "test.csv", TEST),
    }
    values: dict[str, Any] = {
        **{name: str(path) for name, path in files.items()},
        "method": "contrastive",
        "learning_rate": 1e-2,
        "max_steps": 30,
        "evaluate_every": 10,
        "batch_size": None,
    }
    return settings(folder, **{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ClassifyRun:
    """A run; its input files are beside its folder."""
    return classify(few(tmp_path_factory.mktemp("contrastive")))


def predictions(folder: Path, split: str = "test", seed: int = 0) -> Predictions:
    return Predictions.load(folder / "predictions" / f"{split}-seed-{seed}.npz")


def logits_of(model: TaskModel, kept: Predictions) -> np.ndarray:
    """The logits of `model` for the test texts."""
    texts = {row["id"]: row["text"] for row in TEST}
    encoder = Encoder.of(model.tokenizer, model.labels, max_length=32, long_text="truncate")
    rows = ExampleRows.of(encoder, [Example(name, texts[name], (NAMES[0],)) for name in kept.ids])
    return predict_logits(model, rows, tokens_per_micro_batch=500)


def test_it_learns_from_eight_labels_a_class(finished: ClassifyRun) -> None:
    result = finished.result
    assert result["method"] == "contrastive"
    assert result["test"]["macro_f1"] > 0.9
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0]["loss"], lines[-1]["loss"]
    assert last < first - 0.5  # nats
    assert last > np.log(7) - 1e-3  # the minimum, since each example has seven others of its class
    assert [line["step"] for line in lines if "evaluation" in line] == [10, 20, 30]
    kept = json.loads((finished.folder / "task.json").read_text())
    assert kept["method"] == "contrastive"


def test_the_adapter_and_the_probe_are_all_that_a_prediction_needs(finished: ClassifyRun) -> None:
    """PEFT and transformers load the encoder, and the logits are the probe of its mean hidden state."""
    kept = predictions(finished.folder)
    texts = {row["id"]: row["text"] for row in TEST}
    source = finished.folder.parent / "bert"
    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=3)
    encoder = PeftModel.from_pretrained(base, finished.folder / "adapter").eval().base_model.model.bert
    tokenizer, head = AutoTokenizer.from_pretrained(source), load_file(finished.folder / "head" / "head.safetensors")
    for index in range(5):
        encoded = tokenizer(texts[kept.ids[index]], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            mean = encoder(**encoded).last_hidden_state[0].mean(0)
        logits = head["weight"] @ mean + head["bias"]
        np.testing.assert_allclose(logits.numpy(), kept.logits[index], rtol=1e-3, atol=1e-3)
    adapted = json.loads((finished.folder / "adapter" / "adapter_config.json").read_text())
    assert adapted["modules_to_save"] is None  # neither the head nor the pooler, which no feature depends on
    assert not any("pooler" in name or "classifier" in name for name in adapted["target_modules"])


def test_loaded_again_it_predicts_the_same(finished: ClassifyRun) -> None:
    kept = predictions(finished.folder)
    loaded = load_task_run(finished.folder)
    assert loaded.notes == ()
    for model in (loaded, finished.model):
        np.testing.assert_allclose(logits_of(model, kept), kept.logits, rtol=1e-3, atol=1e-3)
    test = str(finished.folder.parent / "test.csv")
    report, predicted = evaluate_task(
        EvaluateSettings(model=(str(finished.folder),), test=test, dtype="float32", quiet=True)
    )
    np.testing.assert_allclose(predicted[0].logits, kept.logits, rtol=1e-3, atol=1e-3)
    assert report.runs[0].scores["macro_f1"]["mean"] == pytest.approx(finished.result["test"]["macro_f1"])


def test_validation_predictions_are_held_out(finished: ClassifyRun) -> None:
    """The probe is fitted to the validation examples too, so its own logits for them would be too good."""
    kept = predictions(finished.folder, "validation")
    texts = {row["id"]: row["text"] for row in records(6, seed=1)}
    model = finished.model
    encoder = Encoder.of(model.tokenizer, model.labels, max_length=32, long_text="truncate")
    rows = ExampleRows.of(encoder, [Example(name, texts[name], (NAMES[0],)) for name in kept.ids])
    assert not np.allclose(predict_logits(model, rows, tokens_per_micro_batch=500), kept.logits, atol=1e-3)


def test_the_digest_of_a_run_includes_its_adapter(finished: ClassifyRun) -> None:
    config = finished.folder / "adapter" / "adapter_config.json"
    before, text = model_digest(str(finished.folder)), config.read_text()
    config.write_text(text.replace('"lora_dropout": 0.0', '"lora_dropout": 0.5'))
    try:
        assert model_digest(str(finished.folder)) != before
    finally:
        config.write_text(text)
    assert model_digest(str(finished.folder)) == before


def test_a_probe_is_not_exported(finished: ClassifyRun, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="linear probe"):
        export(ExportSettings(model=str(finished.folder), output=tmp_path / "merged", quiet=True))


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"seeds": 2, "max_steps": 12, "evaluate_every": 4, "checkpoint_every": 2, "batch_size": 9}
    whole = classify(few(tmp_path, output=tmp_path / "whole", **options)).result
    real, steps = ProgressDisplay.step, 0

    def stop(self: ProgressDisplay, metrics: Mapping[str, Any], total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 17:  # in the second seed
            os.kill(os.getpid(), signal.SIGINT)
        real(self, metrics, total)

    monkeypatch.setattr(ProgressDisplay, "step", stop)
    with pytest.raises(Interrupted):
        classify(few(tmp_path, output=tmp_path / "cut", **options))
    monkeypatch.setattr(ProgressDisplay, "step", real)
    resumed = classify(few(tmp_path, output=tmp_path / "cut", resume=True, **options)).result
    assert resumed["test"] == whole["test"]
    assert resumed["seeds"] == whole["seeds"]
    for seed in (0, 1):
        one, other = (predictions(tmp_path / name, seed=seed) for name in ("whole", "cut"))
        np.testing.assert_array_equal(one.logits, other.logits)
    assert not np.array_equal(predictions(tmp_path / "whole").logits, one.logits)  # the seeds train different models


@pytest.mark.slow
def test_a_learning_curve_has_a_point_for_each_size(tmp_path: Path) -> None:
    run = classify(few(tmp_path, train_sizes="9,all", max_steps=8, evaluate_every=4, balance="sampling"))
    assert [point["examples"] for point in run.result["learning_curve"]] == [9, 24]
    kept = predictions(run.folder)
    np.testing.assert_allclose(logits_of(load_task_run(run.folder), kept), kept.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_examples_with_several_labels_are_learned(tmp_path: Path) -> None:
    """Each text joins two and has the labels of both. Two examples that share a label are positives."""
    rows = []
    for one, other in zip(records(120), records(120, seed=1, classes=("findings", "ruling")), strict=True):
        rows.append({"text": f"{one['text']} {other['text']}", "labels": sorted({one["label"], other["label"]})})
    options = {"id_field": None, "label_field": "labels", "max_length": 64, "validation": None, "test": None}
    train = str(write_jsonl(tmp_path / "several.jsonl", rows))
    run = classify(few(tmp_path, **options, train=train))
    assert run.result["test"]["micro_f1"] > 0.75
    assert load_task_run(run.folder).labels.multi_label


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "--batch-size 3"),
        ({"batch_size": None, "tokens_per_step": 500}, "--batch-size"),
        ({"adapter": "continue"}, "lora or dora"),
    ],
)
def test_options_that_contrastive_training_cannot_use_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        classify(few(tmp_path, **changes))
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_step_in_micro_batches_trains_the_same_model(tmp_path: Path) -> None:
    whole = classify(few(tmp_path, output=tmp_path / "whole", tokens_per_micro_batch=10_000, max_steps=5)).folder
    parts = classify(few(tmp_path, output=tmp_path / "parts", tokens_per_micro_batch=60, max_steps=5)).folder
    one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (whole, parts))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=2e-4)


def test_too_few_labels_are_refused_or_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, trials, warned = Labels(("a", "b", "c")), [Trial(None, 0)], []
    monkeypatch.setattr(ProgressDisplay, "warn", lambda self, text: warned.append(text))
    display = ProgressDisplay(quiet=True)
    with pytest.raises(CorpusError, match="3 training examples all have the same class"):
        check_class_sizes(np.array([1, 1, 1]), labels, trials, display)
    with pytest.raises(CorpusError, match="each have a class of their own"):
        check_class_sizes(np.array([0, 1, 2]), labels, trials, display)
    with pytest.raises(CorpusError, match="3 examples, seed 0"):
        check_class_sizes(np.array([0, 1, 2, 0, 1]), labels, [Trial(3, 0)], display)
    assert not warned
    check_class_sizes(np.array([0, 1, 0, 1, 2]), labels, trials, display)
    assert len(warned) == 1
    assert warned[0].startswith("1 class has only one training example")
    assert warned[0].endswith(": c")
    several = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
    check_class_sizes(several, Labels(labels.names, multi_label=True), trials, display)
    assert len(warned) == 1
    with pytest.raises(CorpusError, match="all have the same class"):
        check_class_sizes(several[1:2].repeat(3, 0), Labels(labels.names, multi_label=True), trials, display)
