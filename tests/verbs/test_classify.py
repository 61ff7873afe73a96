"""`classify` on tiny models: what it learns, what its run folder holds, what it refuses, and how it resumes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import verb_jobs
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from classify_jobs import TELLING, records, settings, write_csv, write_jsonl
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from domain_ft.corpus.examples import Example
from domain_ft.corpus.tasks.encoding import Encoder
from domain_ft.corpus.tasks.rows import ExampleRows
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.evaluation.logits import predict_logits
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.task_model import load_task_run
from domain_ft.training.loop import Interrupted
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.run import adapt
from domain_ft.verbs.classify.run import classify, macro_f1_and_likelihood, output_folder, run, set_up
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.shared import machine as machines
from domain_ft.verbs.shared.machine import choose_machine
from domain_ft.verbs.shared.training import tracked

NAMES = sorted(TELLING)


def predictions(folder: Path, split: str = "test", seed: int = 0) -> Predictions:
    return Predictions.load(folder / "predictions" / f"{split}-seed-{seed}.npz")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder; its input files are beside it."""
    return classify(settings(tmp_path_factory.mktemp("classify"), baselines=True)).folder


def result_of(folder: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def test_it_learns_and_reports_how_well(finished: Path) -> None:
    result = result_of(finished)
    assert result["command"] == "classify"
    assert result["labels"] == NAMES
    assert result["test"]["macro_f1"] > 0.9
    low, high = result["test"]["interval"]["macro_f1"]
    assert low <= result["test"]["macro_f1"] <= high
    assert result["baselines"]["majority"]["macro_f1"] < 0.2
    assert result["baselines"]["tfidf_svm"]["macro_f1"] > 0.9
    assert sum(result["examples"].values()) == 150
    assert set(result["test"]["per_class"]) == set(NAMES)


def test_the_folder_holds_the_documented_files(finished: Path) -> None:
    held = {path.name for path in finished.iterdir()}
    assert held >= {"config.toml", "result.json", "metrics.jsonl", "README.md", "report.html", "model", "task.json"}
    again = ClassifySettings.from_toml(finished / "config.toml")
    assert (again.batch_size, again.max_steps, again.seed) == (16, 100, 0)
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in NAMES)


def test_test_and_validation_examples_are_disjoint(finished: Path) -> None:
    test, validation = predictions(finished), predictions(finished, "validation")
    assert not set(test.ids) & set(validation.ids)
    assert len(test) + len(validation) < 150


def test_reloaded_it_gives_the_same_logits(finished: Path) -> None:
    kept = predictions(finished)
    texts = {row["id"]: row["text"] for row in records(150)}
    model = load_task_run(finished)
    tokenizer = AutoTokenizer.from_pretrained(finished.parent / "bert")
    for index in range(5):
        with torch.no_grad():
            logits = model.model(
                **tokenizer(texts[kept.ids[index]], truncation=True, max_length=32, return_tensors="pt")
            ).logits[0]
        np.testing.assert_allclose(logits.numpy(), kept.logits[index], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_peft_loads_the_adapter_with_equal_logits(tmp_path: Path) -> None:
    folder = classify(settings(tmp_path, "gpt2", method="lora", learning_rate=1e-2)).folder
    assert result_of(folder)["test"]["macro_f1"] > 0.85
    kept = predictions(folder)
    texts = {row["id"]: row["text"] for row in records(150)}
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "gpt2", num_labels=3)
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    ours = load_task_run(folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    for index in range(3):
        encoded = tokenizer(texts[kept.ids[index]], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            for one in (model, ours.model):
                np.testing.assert_allclose(one(**encoded).logits[0].numpy(), kept.logits[index], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "least"), [("dora", 0.85), ("head", 0.45)])
def test_every_method_learns_and_can_be_loaded(tmp_path: Path, method: str, least: float) -> None:
    """A probe on the features of a random model is still better than chance, one in three."""
    folder = classify(settings(tmp_path, "gpt2", method=method, learning_rate=1e-2)).folder
    assert result_of(folder)["test"]["macro_f1"] > least
    assert load_task_run(folder).labels.names == tuple(NAMES)


def test_a_probe_learns_from_the_validation_examples_too(tmp_path: Path) -> None:
    """Its predictions for them come from folds that leave them out. With --train-sizes it does not learn from them."""
    probe = {"method": "head", "learning_rate": None, "max_steps": None}
    whole = classify(settings(tmp_path, "gpt2", output=tmp_path / "whole", **probe)).folder
    some = classify(settings(tmp_path, "gpt2", output=tmp_path / "some", train_sizes="50", **probe)).folder
    for folder, held_out in ((whole, True), (some, False)):
        kept = predictions(folder, "validation")
        texts = {row["id"]: row["text"] for row in records(150)}
        model = load_task_run(folder)
        examples = [Example(name, texts[name], (NAMES[0],)) for name in kept.ids]
        rows = ExampleRows.of(Encoder.of(model.tokenizer, model.labels, max_length=32, long_text="truncate"), examples)
        logits = predict_logits(model, rows, tokens_per_micro_batch=4096)
        assert np.allclose(logits, kept.logits, atol=1e-4) is not held_out


def test_the_seeds_of_a_probe_differ_in_what_they_learn_from(tmp_path: Path) -> None:
    probe = {"method": "head", "learning_rate": None, "max_steps": None}
    folder = classify(settings(tmp_path, "gpt2", seeds=2, **probe)).folder
    first, second = (predictions(folder, "test", seed) for seed in (0, 1))
    assert not np.allclose(first.logits, second.logits, atol=1e-3)


@pytest.mark.slow
def test_a_task_can_start_from_a_run_of_adapt(tmp_path: Path) -> None:
    adapted = adapt(verb_jobs.settings(tmp_path, "gpt2", output=tmp_path / "adapted")).folder
    for adapter, base in (("merge", str(adapted.resolve())), ("continue", str((tmp_path / "gpt2").resolve()))):
        chosen = {"model": str(adapted), "adapter": adapter, "method": "lora", "max_steps": 10, "baselines": True}
        folder = classify(settings(tmp_path, "gpt2", output=tmp_path / adapter, **chosen)).folder
        kept = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        assert kept["base_model_name_or_path"] == base
        assert load_task_run(folder).labels.names == tuple(NAMES)
        assert "corpus_test" in result_of(folder)["leaks"]
        effect = result_of(folder)["adaptation"]
        assert Path(effect["base"]) == tmp_path / "gpt2"
        assert effect["difference"]["difference"] == pytest.approx(effect["adapted_macro_f1"] - effect["base_macro_f1"])
        assert "its base model, gpt2" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_probe_reads_the_features_that_serve_the_task_better(tmp_path: Path) -> None:
    """Training at a learning rate of 1 ruins the model, so its base is chosen, and the run equals one from the base."""
    ruined = adapt(verb_jobs.settings(tmp_path, "gpt2", output=tmp_path / "ruined", learning_rate=1.0)).folder
    probe = {"method": "head", "learning_rate": None, "max_steps": None}
    folders = {
        name: classify(settings(tmp_path, "gpt2", output=tmp_path / name, **probe, **options)).folder
        for name, options in (
            ("auto", {"model": str(ruined)}),
            ("kept", {"model": str(ruined), "features": "adapted"}),
            ("base", {}),
        )
    }
    choice = result_of(folders["auto"])["features"]
    assert choice["chosen"] == "base" and choice["base_loss"] < choice["adapted_loss"]
    assert result_of(folders["kept"])["features"] is None and result_of(folders["base"])["features"] is None
    logits = {name: predictions(folder, "test").logits for name, folder in folders.items()}
    assert np.array_equal(logits["auto"], logits["base"]) and not np.array_equal(logits["auto"], logits["kept"])
    assert load_task_run(folders["auto"]).source == load_task_run(folders["base"]).source
    assert "reads the features of the base model, gpt2" in (folders["auto"] / "README.md").read_text()


def test_features_are_chosen_for_a_probe_only(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--features adapted is an option of --method head, not of --method lora"):
        classify(settings(tmp_path, method="lora", features="adapted"))


@pytest.mark.slow
def test_pairs_with_several_labels_are_learned(tmp_path: Path) -> None:
    rows = []
    for one, other in zip(records(200), records(200, seed=1, classes=("findings", "ruling")), strict=True):
        labels = sorted({one["label"], other["label"]})
        rows.append({"first": one["text"], "second": other["text"], "labels": labels})
    train = write_jsonl(tmp_path / "pairs.jsonl", rows)
    run_settings = settings(
        tmp_path,
        train=str(train),
        id_field=None,
        text_field="first",
        pair_field="second",
        label_field="labels",
        max_steps=150,
        evaluate_every=50,
        max_length=64,
    )
    result = classify(run_settings).result
    assert result["test"]["micro_f1"] > 0.75
    assert json.loads((tmp_path / "run" / "task.json").read_text())["multi_label"] is True


def test_seeds_are_reported_and_one_model_is_kept(tmp_path: Path) -> None:
    result = classify(settings(tmp_path, seeds=2, max_steps=20)).result
    seeds = result["seeds"]
    assert seeds["n"] == 2
    of_seeds = [predictions(tmp_path / "run", "validation", seed) for seed in (0, 1)]
    assert not np.array_equal(of_seeds[0].logits, of_seeds[1].logits)
    assert seeds["kept"] == max((0, 1), key=lambda seed: macro_f1_and_likelihood(of_seeds[seed]))
    kept = predictions(tmp_path / "run", seed=seeds["kept"])
    texts = {row["id"]: row["text"] for row in records(150)}
    model = load_task_run(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    with torch.no_grad():
        logits = model.model(
            **tokenizer(texts[kept.ids[0]], truncation=True, max_length=32, return_tensors="pt")
        ).logits[0]
    np.testing.assert_allclose(logits.numpy(), kept.logits[0], rtol=1e-4, atol=1e-4)


def test_a_tracker_gets_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through accelerate's own registry, in which a fake tracker takes the place of an installed one."""
    told: list[Any] = []

    class Tracker(GeneralTracker):
        name, requires_logging_directory = "tensorboard", False

        def __init__(self, project: str) -> None:
            super().__init__()
            told.append(project)

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            told.append(values["max_steps"])

        def log(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
            told.append((step, "loss" in values))

        def finish(self) -> None:
            told.append("finished")

    monkeypatch.setattr(machines, "_check_trackers", lambda _names: None)
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda names, *_: names)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    classify(settings(tmp_path, max_steps=2, seeds=2, baselines=False, track=("tensorboard",)))
    assert told == 2 * ["domain-ft", "2", (1, True), (2, True), "finished"]


def test_tracking_is_finished_and_the_process_group_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    tracker = SimpleNamespace(finish=lambda: told.append("finished"))
    machine = choose_machine(ClassifySettings(model="x", device="cpu"))
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, *_, **__: self.trackers.append(tracker))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with tracked(ClassifySettings(model="x", track=("tensorboard",)), machine):
            assert not told
        assert told == ["finished"]
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_learning_curve_has_a_point_for_each_size(tmp_path: Path) -> None:
    result = classify(settings(tmp_path, train_sizes="10,40,all", max_steps=30)).result
    assert [point["examples"] for point in result["learning_curve"]] == [10, 40, result["examples"]["train"]]
    assert predictions(tmp_path / "run").key  # those of the model of all examples


@pytest.mark.slow
def test_a_curve_without_all_has_only_the_given_sizes(tmp_path: Path) -> None:
    result = classify(settings(tmp_path, train_sizes="10,40", max_steps=10)).result
    assert [point["examples"] for point in result["learning_curve"]] == [10, 40]


@pytest.mark.slow
def test_baselines_learn_from_as_many_examples_as_the_model(tmp_path: Path) -> None:
    few = classify(settings(tmp_path, output=tmp_path / "few", train_sizes="4", max_steps=1, baselines=True)).result
    many = classify(settings(tmp_path, output=tmp_path / "many", max_steps=1, baselines=True)).result
    scores = [run["baselines"]["tfidf_svm"]["macro_f1"] for run in (few, many)]
    assert scores[0] < scores[1]


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balancing_finds_rare_classes(tmp_path: Path, balance: str) -> None:
    rows = records(120, classes=("ruling",)) + records(24, seed=1, classes=("findings",))
    train = write_csv(tmp_path / "unequal.csv", rows)
    result = classify(settings(tmp_path, train=str(train), balance=balance, max_steps=80)).result
    assert result["test"]["per_class"]["findings"]["recall"] > 0.5


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classify(settings(tmp_path, output=tmp_path / "whole", checkpoint_every=20, seeds=2)).result
    real, steps = ProgressDisplay.step, 0

    def stop(self: ProgressDisplay, metrics: Mapping[str, Any], total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 130:  # in the second seed
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        real(self, metrics, total)

    cut = settings(tmp_path, output=tmp_path / "cut", checkpoint_every=20, seeds=2)
    monkeypatch.setattr(ProgressDisplay, "step", stop)
    with pytest.raises(Interrupted):
        classify(cut)
    monkeypatch.setattr(ProgressDisplay, "step", real)
    resumed = classify(settings(tmp_path, output=tmp_path / "cut", checkpoint_every=20, seeds=2, resume=True)).result
    assert resumed["test"] == whole["test"]
    assert resumed["seeds"] == whole["seeds"]
    for seed in (0, 1):
        one, other = predictions(tmp_path / "whole", seed=seed), predictions(tmp_path / "cut", seed=seed)
        np.testing.assert_array_equal(one.logits, other.logits)


@pytest.mark.slow
def test_leaks_are_counted_listed_and_removed(tmp_path: Path) -> None:
    rows = records(90)
    train, test = write_csv(tmp_path / "train.csv", rows), write_csv(tmp_path / "test.csv", records(30, 1) + rows[:6])
    kept = classify(settings(tmp_path, train=str(train), test=str(test), max_steps=2, output=tmp_path / "kept")).result
    assert kept["leaks"]["exact_train_test"] == 6
    listed = [json.loads(line) for line in (tmp_path / "kept" / "leaks.jsonl").read_text().splitlines()]
    assert len([leak for leak in listed if leak["kind"] == "exact_train_test"]) >= 6
    assert not any("text" in leak for leak in listed)
    cleaned = classify(
        settings(tmp_path, train=str(train), test=str(test), max_steps=2, output=tmp_path / "clean", remove_leaks=True)
    ).result
    assert cleaned["examples"]["train"] == kept["examples"]["train"] - 6


def test_no_examples_means_no_text_anywhere(tmp_path: Path) -> None:
    classify(settings(tmp_path, max_steps=1, examples=False))
    texts = {row["text"] for row in records(150)}
    for path in (tmp_path / "run").rglob("*"):
        if path.suffix in (".html", ".json", ".md", ".jsonl", ".toml"):
            written = path.read_text(encoding="utf-8")
            assert not any(text in written for text in texts), path


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = run(settings(tmp_path, dry_run=True, epochs=2))
    assert planned["steps"] == 2 * -(-planned["examples"]["train"] // 16)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="neither --task nor --train"):
        classify(ClassifySettings(quiet=True))
    with pytest.raises(SettingsError, match="both given"):
        classify(ClassifySettings(task="legal/license-category", train="x.csv"))
    with pytest.raises(SettingsError, match="'some' is neither a number"):
        classify(settings(tmp_path, train_sizes="10,some"))
    one_class = write_csv(tmp_path / "one.csv", records(30, classes=("ruling",)))
    with pytest.raises(CorpusError, match="there is nothing to learn"):
        classify(settings(tmp_path, train=str(one_class), output=tmp_path / "other"))


def test_what_cannot_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs --method lora or dora"):
        classify(settings(tmp_path, adapter="continue", method="full"))
    with pytest.raises(SettingsError, match="cannot be sharded yet"):
        classify(settings(tmp_path, sharding="full"))
    launched = dataclasses.replace(choose_machine(settings(tmp_path, device="cpu")), sharded=True)
    with pytest.raises(SettingsError, match="launched for FSDP"):
        set_up(settings(tmp_path), launched, ProgressDisplay(quiet=True))


@pytest.mark.slow
def test_every_seed_begins_with_the_same_base(tmp_path: Path) -> None:
    """A module that is trained in full, beside the adapters, is restored before the next seed."""
    chosen = {"method": "lora", "train_modules": ("ln_f",), "learning_rate": 1e-2, "max_steps": 8}
    classify(settings(tmp_path, "gpt2", output=tmp_path / "both", seeds=2, **chosen))
    classify(settings(tmp_path, "gpt2", output=tmp_path / "second", seed=1, **chosen))
    after_another, alone = (predictions(tmp_path / name, seed=1) for name in ("both", "second"))
    np.testing.assert_array_equal(after_another.logits, alone.logits)


def test_the_default_folder_names_task_and_model() -> None:
    assert output_folder(ClassifySettings(task="legal/license-category")) == Path("runs/legal-license-category-minilm")
    assert output_folder(ClassifySettings(train="data/mails.csv", model="runs/legal")) == Path("runs/mails-legal")
