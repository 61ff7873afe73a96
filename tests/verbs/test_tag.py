"""`tag` from files to the run folder, with tiny models: what it learns, what the folder holds, what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from tiny_models import MAX_LENGTH, save_tiny
from transformers import AutoModelForTokenClassification, pipeline

from domain_ft.corpus.cleaning import clean
from domain_ft.corpus.examples import Example
from domain_ft.errors import CorpusError, RecordError, SettingsError
from domain_ft.evaluation import tagging
from domain_ft.evaluation.entities import EntityCounts
from domain_ft.evaluation.tagging import tag_texts
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import load_task_run
from domain_ft.randomness import generator
from domain_ft.verbs.predict.run import predict
from domain_ft.verbs.predict.settings import PredictSettings
from domain_ft.verbs.tag import run as verb
from domain_ft.verbs.tag.run import TagRun, run, tag
from domain_ft.verbs.tag.settings import TagSettings

PLAIN = (
    "the",
    "work",
    "nor",
    "remove",
    "any",
    "notice",
    "of",
    "copyright",
    "it",
    "an",
    "abnormality",
    "system",
    "bones",
)
ENTITIES = {"PARTY": ["licensee", "licensor"], "FINDING": ["short stature", "delayed growth"]}


def sentences(count: int, name: str) -> list[list[tuple[str, str]]]:
    """Sentences of words with IOB2 tags; a word alone determines its tag, so a tiny model can learn them."""
    made = []
    for index in range(count):
        draw = generator(0, name, index)
        words = [(str(word), "O") for word in draw.choice(PLAIN, 5)]
        for label in draw.choice(list(ENTITIES), int(draw.integers(1, 3))):
            first, *rest = str(draw.choice(ENTITIES[str(label)])).split()
            place = int(draw.integers(len(words) + 1))
            if place < len(words) and words[place][1].startswith("I"):
                continue
            words[place:place] = [(first, f"B-{label}"), *((word, f"I-{label}") for word in rest)]
        made.append(words)
    return made


def write_conll(path: Path, count: int) -> str:
    blocks = ["".join(f"{word}\tNN\t{tag}\n" for word, tag in sentence) for sentence in sentences(count, path.stem)]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return str(path)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def settings(tmp_path: Path, architecture: str = "bert", **changes: Any) -> TagSettings:
    """The settings of a run of seconds."""
    model = tmp_path / architecture
    if not model.is_dir():
        save_tiny(architecture, model)
    values: dict[str, Any] = {
        "train": write_conll(tmp_path / "train.txt", 96),
        "validation": write_conll(tmp_path / "dev.txt", 24),
        "test": write_conll(tmp_path / "test.txt", 30),
        "model": str(model),
        "output": tmp_path / "run",
        "max_steps": 40,
        "max_length": 64,
        "learning_rate": 2e-2,
        "rank": 4,
        "dtype": "float32",
        "device": "cpu",
        "quiet": True,
    }
    return TagSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TagRun:
    return tag(settings(tmp_path_factory.mktemp("tag")))


def test_a_run_learns_and_reports_how_well(finished: TagRun) -> None:
    result = finished.result
    assert result["command"] == "tag"
    assert result["labels"] == ["FINDING", "PARTY"]
    assert result["scheme"] == "IOB2"
    assert result["steps"] <= 40
    test = result["test"]
    assert test["f1"] > 0.8
    assert set(test["per_type"]) == {"FINDING", "PARTY"}
    assert test["examples"] == 30
    low, high = test["interval"]["f1"]
    assert low <= test["f1"] <= high
    assert result["examples"] == {"train": 96, "validation": 24, "test": 30}
    gazetteer = result["baselines"]["gazetteer"]
    assert gazetteer["entries"] == 4
    assert gazetteer["f1"] == 1  # each word determines its tag
    assert gazetteer["difference"]["f1"]["difference"] == pytest.approx(test["f1"] - 1)
    assert json.loads((finished.folder / "result.json").read_text()) == result


def test_the_folder_holds_facts_predictions_card_page_and_metrics(finished: TagRun) -> None:
    facts = TaskFacts.load(finished.folder)
    assert facts.kind == "token"
    assert facts.labels == ("O", "B-FINDING", "I-FINDING", "B-PARTY", "I-PARTY")
    counts = EntityCounts.load(finished.folder / "predictions" / "test-seed-0.npz")
    assert counts.point_scores()["f1"] == finished.result["test"]["f1"]
    card = (finished.folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
    assert "domain-ft predict --model RUN" in card
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "FINDING" in page
    assert "The texts with the most mistakes" in page or finished.result["test"]["f1"] == 1
    assert "<script" not in page
    lines = json_lines(finished.folder / "metrics.jsonl")
    points = [line["evaluation"] for line in lines if "evaluation" in line]
    assert points
    assert {"f1", "macro_f1", "loss", "score"} <= set(points[0])


def test_a_loaded_run_finds_the_same_entities(finished: TagRun) -> None:
    texts = [Example("1", "the licensee, with short stature of bones", ()), Example("2", "the licensor", ())]
    there = list(tag_texts(finished.model, texts))
    again = list(tag_texts(load_task_run(finished.folder), texts))
    assert [[(e["start"], e["end"], e["label"]) for e in line["entities"]] for line in again] == [
        [(e["start"], e["end"], e["label"]) for e in line["entities"]] for line in there
    ]
    for one, other in zip(again, there, strict=True):
        for mine, theirs in zip(one["entities"], other["entities"], strict=True):
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-4)  # the adapter is merged here
    assert {"start": 18 + 1, "end": 32, "label": "FINDING", "text": "short stature"}.items() <= there[0]["entities"][
        -1
    ].items()


def test_predict_gives_entities_in_the_order_of_the_input(finished: TagRun, tmp_path: Path) -> None:
    texts = ["the licensee of bones", "bones", "short stature with the licensor"]
    lines = [json.dumps({"id": f"t{number}", "text": text}) for number, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    asked = PredictSettings(
        model=str(finished.folder),
        input=str(tmp_path / "in.jsonl"),
        output=tmp_path / "out.jsonl",
        id_field="id",
        device="cpu",
        dtype="float32",
        quiet=True,
    )
    predict(asked)
    found = json_lines(tmp_path / "out.jsonl")
    assert [line["id"] for line in found] == ["t0", "t1", "t2"]
    expected = tag_texts(finished.model, [Example(f"t{n}", text, ()) for n, text in enumerate(texts)])
    for line, other in zip(found, expected, strict=True):
        assert [(e["start"], e["end"], e["label"]) for e in line["entities"]] == [
            (e["start"], e["end"], e["label"]) for e in other["entities"]
        ]


MESSY = st.text(" \t\r\n\u00a0\u3000\u0007\u200b\ufeff\u0301", max_size=4)
PIECES = (
    "the licensee",
    "short  stature",
    "d\u0301elayed",
    "bones",
    "\ufb01nding",
    "licensor",
    "e\u0301tude",
    "한",
    "👩\u200d⚕️",
)


@settings_of_hypothesis(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(MESSY, st.sampled_from(PIECES)), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "  "])
)
def test_predicted_positions_are_those_of_the_text_that_was_given(
    finished: TagRun, parts: list[tuple[str, str]], between: str
) -> None:
    """Whatever cleaning changes, text[start:end] is the entity that is found in the cleaned text."""
    text = between.join(gap + sequence for gap, sequence in parts) + between
    (line,) = predicted(finished, [{"text": text}])
    (cleaned,) = tag_texts(finished.model, [Example("x", clean(text), ())])
    assert [entity["label"] for entity in line["entities"]] == [entity["label"] for entity in cleaned["entities"]]
    for entity, other in zip(line["entities"], cleaned["entities"], strict=True):
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert clean(entity["text"]) == clean(other["text"])


def test_positions_in_texts_that_cleaning_changes(finished: TagRun) -> None:
    for text, entity in (
        ("  the  licensee of bones", "licensee"),
        ("\ufeffbones\r\n\r\n\r\n\r\nof the licensor", "licensor"),
        ("bones\x07 of short \t stature", "short \t stature"),
        ("e\u0301 e\u0301 of the li\x00censee", "li\x00censee"),
        ("the licensee", "licensee"),
    ):
        (line,) = predicted(finished, [{"text": text}])
        found = [(e["start"], e["end"], e["text"]) for e in line["entities"]]
        assert (text.index(entity), text.index(entity) + len(entity), entity) in found
        assert all(text[start:end] == said for start, end, said in found)


def predicted(finished: TagRun, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that `predict` writes of records on standard input."""
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    asked = PredictSettings(model=str(finished.folder), input="-", device="cpu", dtype="float32", quiet=True)
    out = io.StringIO()
    predict(asked, stdin=io.BufferedReader(io.BytesIO(lines)), stdout=out)  # type: ignore[arg-type]
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = settings(tmp_path, max_steps=8, evaluate_every=2, checkpoint_every=2)
    whole = tag(dataclasses.replace(short, output=tmp_path / "whole"))
    calls = 0

    def stopped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return tagging.predict_tags(*arguments, **options)

    monkeypatch.setattr(verb, "predict_tags", stopped)
    with pytest.raises(KeyboardInterrupt):
        tag(short)
    monkeypatch.undo()
    resumed = tag(dataclasses.replace(short, resume=True))
    for part in ("test", "validation", "steps", "tokens_seen"):
        assert resumed.result[part] == whole.result[part]


@pytest.mark.slow
def test_texts_with_spans_and_without_spaces_are_learned(tmp_path: Path) -> None:
    def write(name: str, count: int) -> str:
        lines = []
        for index in range(count):
            draw = generator(0, "japanese", name, index)
            before, entity = (str(draw.choice(own)) for own in (["この", "その患者の", ""], ["乳がん", "肺炎"]))
            before = "".join(draw.choice(list("昨日今朝夕方病院内科外来受診時検査後"), 12)) + before  # no near copies
            text = f"{before}{entity}が見られた。{index}"
            lines.append({"text": text, "entities": [[len(before), len(before) + len(entity), "病名"]]})
        (tmp_path / name).write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )
        return str(tmp_path / name)

    files = {"train": write("notes.jsonl", 96), "validation": None, "test": None}
    done = tag(settings(tmp_path, "gpt2", **files, examples=False, method="full", learning_rate=5e-3, max_steps=60))
    assert done.result["scheme"] is None
    assert done.result["labels"] == ["病名"]
    assert done.result["task"] == "notes"
    assert done.result["test"]["f1"] > 0.5
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    assert "見られた" not in page
    (line,) = tag_texts(done.model, [Example("x", "この乳がんが見られた。", ())])
    assert all(
        entity["text"] == "この乳がんが見られた。"[entity["start"] : entity["end"]] for entity in line["entities"]
    )


def test_transformers_loads_a_fully_trained_model(tmp_path: Path) -> None:
    done = tag(settings(tmp_path, method="full", learning_rate=5e-3, max_steps=30))
    model = AutoModelForTokenClassification.from_pretrained(done.folder / "model")
    assert model.config.id2label[1] == "B-FINDING"
    tagger = pipeline("token-classification", model=str(done.folder / "model"), aggregation_strategy="first")
    text = "the licensee with short stature"
    (line,) = tag_texts(done.model, [Example("1", text, ())])
    assert [(e["start"], e["end"], e["entity_group"]) for e in tagger(text)] == [
        (e["start"], e["end"], e["label"]) for e in line["entities"]
    ]


@pytest.mark.slow
def test_seeds_and_training_sizes_are_in_the_result(tmp_path: Path) -> None:
    done = tag(settings(tmp_path, seeds=2, train_sizes="20,all", max_steps=6, balance="weights", baselines=False))
    assert done.result["seeds"]["n"] == 2
    assert len(done.result["seeds"]["f1"]["values"]) == 2
    assert [point["examples"] for point in done.result["learning_curve"]] == [20, 96]
    assert done.result["baselines"] == {}
    assert (done.folder / "predictions" / "validation-seed-1.npz").is_file()


def test_a_dry_run_says_what_would_be_done(tmp_path: Path) -> None:
    planned = run(settings(tmp_path, dry_run=True, json=True))
    assert planned["steps"] == 40
    assert planned["labels"] == ["FINDING", "PARTY"]
    assert not (tmp_path / "run").exists()


def test_the_note_on_long_texts_gives_the_length_at_which_they_are_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = settings(tmp_path, dry_run=True, quiet=False, max_length=4096)
    with Path(wanted.train).open("a", encoding="utf-8") as file:
        file.write("\n" + "of\tNN\tO\n" * (2 * MAX_LENGTH))
    run(wanted)
    said = " ".join(capsys.readouterr().err.split())
    assert f"are longer than {MAX_LENGTH} tokens and read in windows" in said


def test_a_bad_tag_stops_or_is_listed(tmp_path: Path) -> None:
    wanted = settings(tmp_path, max_steps=2)
    with Path(wanted.train).open("a", encoding="utf-8") as file:
        file.write("\nof\tNN\tO\nbones\tNN\tI-FINDING\n")
    with pytest.raises(RecordError, match="I-FINDING is not allowed after O") as caught:
        tag(wanted)
    lines = Path(wanted.train).read_text().count("\n")
    assert f"train.txt, line {lines}" in str(caught.value)
    assert "--on-bad-record skip" in str(caught.value)
    done = tag(dataclasses.replace(wanted, on_bad_record="skip", output=tmp_path / "other"))
    (reject,) = json_lines(done.folder / "rejects.jsonl")
    assert reject["line"] == lines
    assert done.result["examples"]["train"] == 96


def test_what_is_not_read_is_in_the_result_the_page_and_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(name: str, count: int) -> str:
        lines = []
        for number in range(count):
            span = {"start": 4, "end": 12, "label": "PARTY", "text": "licensee"}
            spans = [span, {"start": 4, "end": 7, "label": "PART"}] if number == 0 else [span]
            lines.append({"text": f"the licensee {number} {name}", "spans": spans, "answer": "accept", "meta": {}})
        lines[1]["answer"] = "reject"
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return str(tmp_path / name)

    files = {"train": write("a.jsonl", 12), "validation": write("b.jsonl", 6), "test": write("c.jsonl", 6)}
    result = run(settings(tmp_path, **files, max_steps=2, quiet=False))
    shown = " ".join(capsys.readouterr().out.split())
    folder = tmp_path / "run"
    assert result["rejected"] == 3
    assert result["unread_fields"] == {"meta": 21}
    assert result["unread_files"] == {"count": 0, "files": []}
    assert (result["overlapping_entities"], result["joined_entities"]) == (3, 0)
    rejects = json_lines(folder / "rejects.jsonl")
    assert [(reject["file"], reject["line"], reject["field"]) for reject in rejects] == [
        (name, 2, "answer") for name in ("a.jsonl", "b.jsonl", "c.jsonl")
    ]
    told = ("3 records were left out", "meta (21)", "entities that overlap a longer or equally long one")
    for text in ((folder / "report.html").read_text(encoding="utf-8"), (folder / "README.md").read_text()):
        assert all(words in text for words in told)
    assert all(words in shown for words in told[:2])


def test_leaks_are_listed(tmp_path: Path) -> None:
    wanted = settings(tmp_path, max_steps=2)
    with Path(wanted.test or "").open("a", encoding="utf-8") as file:
        file.write("\n" + Path(wanted.train).read_text().split("\n\n")[0] + "\n")
    found = tag(wanted)
    kinds = {leak["kind"] for leak in json_lines(found.folder / "leaks.jsonl")}
    assert kinds == {kind for kind, count in found.result["leaks"].items() if count}
    assert found.result["leaks"]["exact_train_test"] >= 1
    assert "with an exact copy in the training examples" in (found.folder / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--sharding full"):
        tag(settings(tmp_path, sharding="full"))
    empty = tmp_path / "empty.txt"
    empty.write_text("of O\n\nbones O\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="nothing to learn"):
        tag(settings(tmp_path, train=str(empty)))
