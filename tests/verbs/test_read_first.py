"""`classify --read-first` and `tag --read-first`: what is read, what the run reports of it, and that the run can be
resumed and moved."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_tag
from classify_jobs import records, settings, write_csv, write_jsonl
from rich.console import Console
from safetensors.torch import load_file
from verb_jobs import power_cut

from domain_ft.errors import CorpusError, ModelError, SettingsError
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.identity import model_digest
from domain_ft.models.task_model import load_task_run
from domain_ft.report import drawing
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.classify.run import ClassifyRun, classify, run
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.compare.run import compare
from domain_ft.verbs.compare.settings import CompareSettings
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.evaluate.tasks import evaluate_task
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings
from domain_ft.verbs.predict.run import predict
from domain_ft.verbs.predict.settings import PredictSettings
from domain_ft.verbs.shared.lineage import training_corpora
from domain_ft.verbs.tag.run import tag

UNLABELLED = 60


def write_pool(tmp_path: Path) -> Path:
    """Write unlabelled texts, and all labelled ones in capitals: copies of texts read anyway, and of test texts."""
    rows = [*records(UNLABELLED, seed=5), *({**row, "text": row["text"].upper()} for row in records(150))]
    return write_jsonl(tmp_path / "pool.jsonl", [{"id": row["id"], "text": row["text"]} for row in rows])


def reading(tmp_path: Path, architecture: str = "bert", **changes: Any) -> ClassifySettings:
    """The settings of a run of seconds that reads first, in about four steps."""
    chosen = {"read_first": True, "read_first_tokens": 12_000, "method": "lora", "max_steps": 6, "checkpoint_every": 1}
    return settings(tmp_path, architecture, **{**chosen, **changes})


def texts_in(folder: Path) -> list[str]:
    lines = (folder / "read-first-texts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def result_of(folder: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def predictions(folder: Path, split: str = "test") -> Predictions:
    return Predictions.load(folder / "predictions" / f"{split}-seed-0.npz")


@contextmanager
def moved(folder: Path, to: Path) -> Iterator[Path]:
    """Inside the block, the run `folder` is at `to` instead."""
    folder.rename(to)
    try:
        yield to
    finally:
        to.rename(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ClassifyRun:
    tmp_path = tmp_path_factory.mktemp("read-first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing.Figure, "savefig", lambda self, file, **how: file.write("<svg ></svg>"))
        pool = write_pool(tmp_path)
        return classify(reading(tmp_path, read_first=False, unlabelled=str(pool), baselines=True))


def test_a_whole_run_of_adapt_is_in_the_folder(finished: ClassifyRun) -> None:
    inside = finished.folder / "read-first"
    held = {path.name for path in inside.iterdir()}
    assert held >= {"config.toml", "result.json", "adapter", "checkpoints", "README.md", "report.html"}
    adapted, found = result_of(inside), finished.result["read_first"]
    assert (adapted["command"], adapted["objective"]) == ("adapt", "mlm")
    assert adapted["before"]["control"] is None
    assert (found["run"], found["tokens"]) == ("read-first", adapted["tokens_seen"])
    assert (found["before"], found["after"]) == (adapted["before"]["domain"], adapted["after"]["domain"])
    assert AdaptSettings.from_toml(inside / "config.toml").corpus == str(finished.folder / "read-first-texts.jsonl")


def test_no_test_text_is_read_and_every_other_text_once(finished: ClassifyRun) -> None:
    tested = {row["text"] for row in records(150) if row["id"] in set(predictions(finished.folder).ids)}
    texts, found = texts_in(finished.folder), finished.result["read_first"]
    assert {text.lower() for text in texts}.isdisjoint(tested)
    expected = {row["text"] for row in (*records(150), *records(UNLABELLED, seed=5))} - tested
    assert sorted(texts) == sorted(expected)
    assert found["left_out"] == len(tested)
    assert found["unlabelled_texts"] == UNLABELLED
    assert found["texts"] == len(texts)
    assert found["copies"] == 150 - len(tested)
    assert finished.result["leaks"]["corpus_test"] == 0


def test_the_run_names_the_model_that_was_asked_for(finished: ClassifyRun) -> None:
    model = str(finished.folder.parent / "bert")
    assert finished.result["model"] == model
    again = ClassifySettings.from_toml(finished.folder / "config.toml")
    assert (again.model, again.unlabelled) == (model, str(finished.folder.parent / "pool.jsonl"))
    kept = json.loads((finished.folder / "adapter" / "adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == str(finished.folder / "read-first")


def test_page_card_and_terminal_say_what_was_read(finished: ClassifyRun) -> None:
    from domain_ft.verbs.classify.terminal import print_classify

    screen = io.StringIO()
    print_classify(finished.report, Console(file=screen, width=1000))
    said = (
        f"from {150 - len(predictions(finished.folder).ids)} texts of the examples, without their labels, and from 60"
    )
    card, page = ((finished.folder / name).read_text(encoding="utf-8") for name in ("README.md", "report.html"))
    for shown in (screen.getvalue(), page, card):
        assert said in shown
        assert "text of a test example were left out" in shown
        assert "its base model, bert" in shown


def test_whether_it_helped_is_measured(finished: ClassifyRun) -> None:
    effect = finished.result["adaptation"]
    assert effect["base"] == str(finished.folder.parent / "bert")
    assert effect["left_out_test_examples"] == 0
    assert effect["difference"]["difference"] == pytest.approx(effect["adapted_macro_f1"] - effect["base_macro_f1"])


def test_a_run_that_was_moved_still_works(finished: ClassifyRun, tmp_path: Path) -> None:
    kept, digest = predictions(finished.folder), model_digest(str(finished.folder))
    texts = {row["id"]: row["text"] for row in records(150)}
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"id": name, "text": texts[name]} for name in kept.ids])
    test = write_csv(tmp_path / "test.csv", [row for row in records(150) if row["id"] in set(kept.ids)])
    with moved(finished.folder, tmp_path / "elsewhere") as folder:
        predict(PredictSettings(model=str(folder), input=str(asked), output=tmp_path / "out.jsonl", dtype="float32"))
        answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        for answer, probabilities in zip(answers, kept.probabilities(), strict=True):
            found = [answer["probabilities"][name] for name in kept.labels.names]
            np.testing.assert_allclose(found, probabilities, atol=1e-3)
        assert model_digest(str(folder)) == digest
        assert load_task_run(folder).notes == ()
        asked_again = EvaluateSettings(model=(str(folder),), test=str(test), dtype="float32", quiet=True)
        scored = evaluate_task(asked_again)[0].runs[0].scores
        assert scored["macro_f1"]["mean"] == pytest.approx(finished.result["test"]["macro_f1"], abs=1e-6)
        export(ExportSettings(model=str(folder), output=tmp_path / "merged"))
        assert (tmp_path / "merged" / "config.json").is_file()
        report = compare(CompareSettings(runs=(str(folder), str(folder))))
        assert report.runs[1].differences["macro_f1"]["difference"] == 0
        corpora, lost = training_corpora(str(folder / "read-first"), ProgressDisplay(quiet=True))
        assert (len(corpora), lost) == (1, [])


def test_a_probe_after_the_reading_can_be_moved(tmp_path: Path) -> None:
    probe = {"method": "head", "features": "adapted", "learning_rate": None, "max_steps": None}
    found = classify(reading(tmp_path, "gpt2", **probe))
    assert result_of(found.folder / "read-first")["objective"] == "clm"
    texts = {row["id"]: row["text"] for row in records(150)}
    name = predictions(found.folder).ids[0]
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"text": texts[name]}])
    answers = []
    found.folder.rename(tmp_path / "moved")
    for number in (1, 2):
        out = tmp_path / f"out-{number}.jsonl"
        predict(PredictSettings(model=str(tmp_path / "moved"), input=str(asked), output=out, dtype="float32"))
        answers.append(json.loads(out.read_text())["probabilities"])
    assert answers[0] == answers[1]
    head = json.loads((tmp_path / "moved" / "head" / "head.json").read_text())
    assert not Path(head["base"]).exists()


@pytest.mark.slow
def test_the_adapter_of_the_reading_can_be_trained_further(tmp_path: Path) -> None:
    folder = classify(reading(tmp_path, adapter="continue")).folder
    kept = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == str((tmp_path / "bert").resolve())


def weights(folder: Path) -> dict[str, Any]:
    return {
        name: tensor.numpy() for name, tensor in load_file(folder / "adapter" / "adapter_model.safetensors").items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 7])
def test_an_interrupted_run_is_resumed_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Interrupted in the third step of the reading, or in the task after it."""
    whole = classify(reading(tmp_path, output=tmp_path / "whole")).folder
    assert result_of(whole / "read-first")["steps"] in (4, 5, 6)
    with power_cut(monkeypatch, step):
        classify(reading(tmp_path, output=tmp_path / "cut"))
    inside = tmp_path / "cut" / "read-first"
    assert (inside / "result.json").is_file() is (step == 7)
    before = (inside / "config.toml").stat().st_mtime_ns
    cut = classify(reading(tmp_path, output=tmp_path / "cut", resume=True)).folder
    assert (inside / "config.toml").stat().st_mtime_ns == before
    for one, other in ((whole / "read-first", inside), (whole, cut)):
        left, right = weights(one), weights(other)
        assert left.keys() == right.keys()
        for name, value in left.items():
            np.testing.assert_array_equal(value, right[name])
    np.testing.assert_array_equal(predictions(whole).logits, predictions(cut).logits)
    assert result_of(cut)["read_first"] == result_of(whole)["read_first"]


def test_a_run_is_resumed_with_the_same_options_and_texts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = write_pool(tmp_path)
    chosen = {"unlabelled": str(pool), "read_first_tokens": 30_000}
    with power_cut(monkeypatch, 2):
        classify(reading(tmp_path, **chosen))
    with pytest.raises(SettingsError, match="read_first_tokens was 30000, now 40000"):
        classify(reading(tmp_path, **{**chosen, "read_first_tokens": 40_000}, resume=True))
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    write_jsonl(pool, [*rows, {"id": "new", "text": "one more text that was not there before"}])
    with pytest.raises(SettingsError, match="the texts that are read first have changed"):
        classify(reading(tmp_path, **chosen, resume=True))
    with pytest.raises(SettingsError, match="holds an unfinished run"):
        classify(reading(tmp_path, **chosen))


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"text": ""}, {"text": " "}])
    with pytest.raises(CorpusError, match=r"empty\.jsonl has no text that can be read \(2 were empty\)"):
        classify(reading(tmp_path, unlabelled=str(empty)))
    with pytest.raises(CorpusError, match="no such file"):
        classify(reading(tmp_path, unlabelled=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(SettingsError, match="--read-first-tokens 12000 has no effect"):
        classify(reading(tmp_path, read_first=False))
    reading(tmp_path, "bert")  # makes the model
    without_mask = tmp_path / "without-mask"
    shutil.copytree(tmp_path / "bert", without_mask)
    path = without_mask / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mask_token": None}))
    with pytest.raises(ModelError, match="mask"):
        classify(reading(tmp_path, model=str(without_mask)))
    assert not list((tmp_path / "run").iterdir())


def test_a_run_of_a_task_is_refused_before_anything_is_read(finished: ClassifyRun, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="whose head is for another task"):
        classify(reading(tmp_path, model=str(finished.folder)))
    assert not list((tmp_path / "run").iterdir())


def test_a_dry_run_says_how_much_would_be_read(tmp_path: Path) -> None:
    """By default each text is read ten times at most; with any training size, all training texts are read."""
    pool = write_pool(tmp_path)
    planned = run(reading(tmp_path, dry_run=True, read_first_tokens=None, train_sizes="10", unlabelled=str(pool)))
    found = planned["read_first"]
    assert found["texts"] == 180
    assert 10 <= found["epochs"] < 10.5
    assert found["tokens"] > 50_000
    assert found["steps"] > 10
    assert planned["model"] == str(tmp_path / "bert")
    assert not (tmp_path / "run").exists()
    more = run(reading(tmp_path, dry_run=True, read_first_tokens=2 * found["tokens"], unlabelled=str(pool)))
    assert more["read_first"]["epochs"] >= 19


def test_many_epochs_of_a_small_text_give_no_warning(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "few.csv", records(60))
    folder = classify(reading(tmp_path, train=str(train), read_first_tokens=16_000, max_steps=1)).folder
    adapted = result_of(folder / "read-first")
    assert adapted["epochs"] > 5
    assert not [warning for warning in adapted["warnings"] if "times" in warning]


@pytest.mark.slow
def test_all_seeds_share_one_reading(tmp_path: Path) -> None:
    found = classify(reading(tmp_path, seeds=2, train_sizes="20,all", max_steps=2))
    assert len(list(found.folder.rglob("read-first"))) == 1
    assert len(texts_in(found.folder)) == sum(found.result["examples"][split] for split in ("train", "validation"))


def test_pairs_are_read_as_two_texts(tmp_path: Path) -> None:
    others = records(150, seed=1)
    rows = [
        {"one": a["text"], "two": b["text"], "label": a["label"]} for a, b in zip(records(150), others, strict=True)
    ]
    train = write_csv(tmp_path / "pairs.csv", rows)
    chosen = {"train": str(train), "id_field": None, "text_field": "one", "pair_field": "two"}
    planned = run(reading(tmp_path, dry_run=True, **chosen))
    examples = planned["examples"]
    assert planned["read_first"]["texts"] == 2 * (examples["train"] + examples["validation"])


@pytest.mark.slow
def test_a_tagger_reads_first_too(tmp_path: Path) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [{"text": row["text"]} for row in records(40)])
    asked = test_tag.settings(tmp_path, unlabelled=str(pool), read_first_tokens=3_000, max_steps=10)
    found = tag(asked)
    result = found.result["read_first"]
    assert result["unlabelled_texts"] == 40
    assert result["texts"] <= 96 + 24 + 40
    assert result["after"]["loss"] > 0
    for name in ("README.md", "report.html"):
        assert "Before the task, the model read" in (found.folder / name).read_text(encoding="utf-8")
    tested = {" ".join(word for word, _ in sentence) for sentence in test_tag.sentences(30, "test")}
    learned = {
        " ".join(word for word, _ in sentence) for name in ("train", "dev") for sentence in test_tag.sentences(96, name)
    }
    assert not (set(texts_in(found.folder)) & (tested - learned))
    kept = found.result["test"]["f1"]
    found.folder.rename(tmp_path / "moved")
    assert load_task_run(tmp_path / "moved").labels.names
    report = compare(CompareSettings(runs=(str(tmp_path / "moved"), str(tmp_path / "moved"))))
    assert report.runs[0].scores["f1"]["mean"] == pytest.approx(kept)


def test_a_display_does_not_repeat_itself() -> None:
    shown = io.StringIO()
    display = ProgressDisplay(Console(file=shown, width=100))
    display.say("one")
    with display.without_repeats():
        display.say("one")
        display.warn("two")
    display.say("one")
    assert shown.getvalue().split("\n")[:-1] == ["one", "warning: two", "one"]
