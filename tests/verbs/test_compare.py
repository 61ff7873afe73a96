"""compare: it claims of finished runs only what the intervals show, and refuses runs that cannot be compared."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from domain_ft import cli
from domain_ft.corpus.examples import Labels
from domain_ft.errors import CheckpointError, SettingsError
from domain_ft.evaluation.classification import classification_metrics
from domain_ft.evaluation.entities import EntityCounts, entity_metrics
from domain_ft.evaluation.predictions import Predictions
from domain_ft.evaluation.scores import Scores
from domain_ft.storage import write_json
from domain_ft.verbs.compare.run import compare
from domain_ft.verbs.compare.settings import CompareSettings
from domain_ft.verbs.shared.comparison_page import render_compare
from domain_ft.verbs.shared.comparison_terminal import print_compare

LABELS = Labels(("fair", "unfair", "不公正"))


def predictions(skill: float, seed: int = 0, *, examples: int = 120, labels: Labels = LABELS) -> Predictions:
    """Random predictions. The truth depends only on the number of examples and labels, not on `skill` and `seed`."""
    shape = (examples, len(labels))
    truth = np.random.default_rng(examples).random(shape)
    targets = (truth < 0.4).astype(np.uint8) if labels.multi_label else truth.argmax(axis=1)
    holds = targets if labels.multi_label else np.eye(len(labels))[targets]
    logits = np.random.default_rng([seed, 1]).normal(size=shape) + skill * (holds - 0.5 * labels.multi_label)
    ids = tuple(f"test.csv:{index + 2}" for index in range(examples))
    return Predictions(ids, np.arange(examples), targets, logits.astype(np.float32), labels)


def classify_run(folder: Path, *seeds: Predictions, **result: Any) -> str:
    folder.mkdir()
    for number, one in enumerate(seeds):
        one.save(folder / "predictions" / f"test-seed-{number}.npz")
    curve = [{"examples": 50, "macro_f1": {"mean": 0.5, "sd": None, "values": [0.5], "interval": [0.4, 0.6]}}]
    write_json(
        folder / "result.json",
        {"command": "classify", "model": "minilm", "task": "clauses", "learning_curve": curve, **result},
    )
    return str(folder)


def adapt_run(
    folder: Path, loss: float, *, objective: str = "mlm", first: int = 0, vocabulary: int = 1, command: str = "adapt"
) -> str:
    rng = np.random.default_rng(3)
    tokens = rng.integers(50, 200, 30) * vocabulary
    names = tuple(f"licence-{first + index}" for index in range(30))
    (folder / "scores").mkdir(parents=True)
    for role in ("domain" if command == "adapt" else "test", "control"):
        scores = Scores(names, tokens * (loss + rng.normal(0, 0.1, 30)), tokens, tokens * 4)
        scores.save(folder / "scores" / f"after-{role}.json")
    write_json(folder / "result.json", {"command": command, "model": "minilm", "objective": objective})
    return str(folder)


def tag_run(folder: Path, *chances: float, texts: int = 200) -> str:
    """A run whose texts each hold one entity of each type. A seed finds each with its chance, and false ones of both
    types in every fifth text.
    """
    folder.mkdir()
    for number, chance in enumerate(chances):
        found = np.random.default_rng(number).binomial(1, chance, (texts, 2))
        false = np.tile((np.arange(texts) % 5 == 0)[:, None], (1, 2)).astype(np.int64)
        ids = tuple(f"note-{index}" for index in range(texts))
        counts = EntityCounts(("drug", "薬"), np.stack([found, false, 1 - found], axis=2), ids, ids)
        counts.save(folder / "predictions" / f"test-seed-{number}.npz")
    write_json(folder / "result.json", {"command": "tag", "model": "minilm", "task": "notes"})
    return str(folder)


def compared(*runs: str, **settings: Any) -> Any:
    return compare(CompareSettings(runs=runs, **settings))


def printed(report: Any) -> str:
    file = io.StringIO()
    print_compare(report, Console(file=file, width=80))
    return file.getvalue()


def test_a_better_run_is_reported_with_its_difference_and_interval(tmp_path: Path) -> None:
    base = classify_run(tmp_path / "base", *(predictions(0.5, seed) for seed in range(3)))
    other = classify_run(tmp_path / "other", *(predictions(3.0, 10 + seed) for seed in range(3)))
    report = compared(base, other)
    found = report.runs[1].differences["macro_f1"]
    assert found["verdict"] == "better"
    assert 0 < found["interval"][0] < found["difference"] < found["interval"][1]
    assert [run.seeds for run in report.runs] == [3, 3]
    said = printed(report)
    assert "better by" in said
    assert all(len(line) <= 80 for line in said.splitlines())
    backwards = compared(other, base)
    assert backwards.runs[1].differences["macro_f1"]["verdict"] == "worse"


@pytest.mark.parametrize("multi_label", [False, True])
def test_equal_skill_is_not_shown_to_differ(tmp_path: Path, multi_label: bool) -> None:
    labels = dataclasses.replace(LABELS, multi_label=multi_label)
    runs = [classify_run(tmp_path / str(seed), predictions(1.5, seed, labels=labels)) for seed in range(2)]
    report = compared(*runs)
    assert report.runs[1].differences["macro_f1"]["verdict"] == "not shown"
    assert ": not shown: " in " ".join(printed(report).split())
    assert any("One seed" in note for note in report.notes)


def test_single_answers_are_counted_and_named(tmp_path: Path) -> None:
    first, other = predictions(0.8, 0), predictions(1.2, 1)
    report = compared(classify_run(tmp_path / "a", first), classify_run(tmp_path / "b", other))
    right = [one.predicted() == one.targets for one in (first, other)]
    answers = report.runs[1].answers
    assert answers["other_only"] == (~right[0] & right[1]).sum()
    assert sum(answers.values()) == len(first)
    for one in report.runs[1].disagreements:
        assert (one.first == one.truth) != (one.other == one.truth)
    silent = compared(str(tmp_path / "a"), str(tmp_path / "b"), examples=False)
    assert not silent.runs[1].disagreements


def test_answers_are_those_of_the_kept_model(tmp_path: Path) -> None:
    first, kept = predictions(0.8, 0), predictions(6.0, 2)
    a = classify_run(tmp_path / "a", first)
    b = classify_run(tmp_path / "b", predictions(0.0, 1), kept, seeds={"n": 2, "kept": 1})
    answers = compared(a, b).runs[1].answers
    assert answers["both_right"] + answers["other_only"] == (kept.predicted() == kept.targets).sum()


def test_seeds_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    skills = np.linspace(0, 2, 11)
    run = classify_run(tmp_path / "a", *(predictions(skill) for skill in skills))
    values = compared(run, run).runs[0].scores["accuracy"]["values"]
    truth = [float((one.predicted() == one.targets).mean()) for one in map(predictions, skills)]
    assert values == pytest.approx(truth)


def test_several_runs_have_adjusted_p_values(tmp_path: Path) -> None:
    runs = [classify_run(tmp_path / str(place), predictions(0.5 + place / 3, place)) for place in range(4)]
    report = compared(*runs)
    for run in report.runs[1:]:
        for found in run.differences.values():
            assert found["p_value"] <= found["p_holm"] <= min(1, 3 * found["p_value"])
    assert any("Holm" in note for note in report.notes)
    assert "p_holm" not in compared(*runs[:2]).runs[1].differences["macro_f1"]


def test_losses_of_adapted_models_are_compared_on_documents_that_both_held_out(tmp_path: Path) -> None:
    runs = [adapt_run(tmp_path / "a", 5.0), adapt_run(tmp_path / "b", 4.0, first=10)]
    report = compared(*runs)
    assert report.metrics == ["domain", "control"]
    assert report.runs[1].differences["domain"]["documents"] == 20
    assert any("20 held-out documents" in note for note in report.notes)
    assert "against" in printed(report)
    other = compared(runs[0], adapt_run(tmp_path / "c", 4.0)).runs[1].differences["domain"]
    assert other["loss"] == pytest.approx(-1, abs=0.1)
    assert other["interval"][1] < 0


def test_losses_of_instructed_models_are_compared_on_held_out_conversations(tmp_path: Path) -> None:
    instructed = {"command": "instruct", "objective": "instructions"}
    runs = [adapt_run(tmp_path / name, 5.0 - place, **instructed) for place, name in enumerate("ab")]
    report = compared(*runs)
    assert report.metrics == ["test", "control"]
    assert not report.notes
    assert report.runs[1].differences["test"]["interval"][1] < 0
    assert "better" in printed(report)
    with pytest.raises(SettingsError, match="share no held-out document") as refused:
        compared(runs[0], adapt_run(tmp_path / "c", 4.0, first=100, **instructed))
    assert "--data" in str(refused.value)


def test_another_tokenizer_is_compared_by_bits_per_byte(tmp_path: Path) -> None:
    report = compared(adapt_run(tmp_path / "a", 5.0), adapt_run(tmp_path / "b", 2.0, vocabulary=2))
    assert report.runs[1].differences["domain"]["loss"] is None
    assert "* bits per byte: losses of different tokenizers" in printed(report)
    assert "<figure>" not in render_compare(report)


def test_too_few_documents_show_no_difference(tmp_path: Path) -> None:
    runs = [adapt_run(tmp_path / "a", 5.0), adapt_run(tmp_path / "b", 4.0, first=27)]
    assert "not shown: too few documents for an interval." in " ".join(printed(compared(*runs)).split())


def test_runs_of_tag_are_compared_by_f1_first(tmp_path: Path) -> None:
    base, other = tag_run(tmp_path / "base", 0.5, 0.5, 0.5), tag_run(tmp_path / "other", 0.8, 0.8)
    report = compared(base, other)
    assert report.metrics[0] == "f1"
    assert report.runs[1].differences["f1"]["verdict"] == "better"
    assert [run.seeds for run in report.runs] == [3, 2]
    assert "points of F1" in " ".join(printed(report).split())
    with pytest.raises(SettingsError, match="different texts"):
        compared(base, tag_run(tmp_path / "longer", 0.5, texts=201))


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    classify = classify_run(tmp_path / "classify", predictions(1.0))
    adapt = adapt_run(tmp_path / "adapt", 4.0)
    with pytest.raises(SettingsError, match="two runs"):
        compared(classify)
    with pytest.raises(SettingsError, match=r"different verbs: .*by `classify`.*by `adapt`"):
        compared(classify, adapt)
    with pytest.raises(SettingsError, match="no finished run"):
        compared(classify, str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="different examples") as caught:
        compared(classify, classify_run(tmp_path / "longer", predictions(1.0, examples=121)))
    assert "longer" in str(caught.value)
    with pytest.raises(SettingsError, match="encoders and decoders"):
        compared(adapt, adapt_run(tmp_path / "decoder", 4.0, objective="clm"))
    contrastive = Path(adapt_run(tmp_path / "vectors", 3.0))
    write_json(
        contrastive / "result.json",
        {"command": "adapt", "model": "minilm", "objective": "contrastive", "language_model": "mlm"},
    )
    assert compared(adapt, str(contrastive)).runs[1].differences
    with pytest.raises(SettingsError, match="share no held-out document"):
        compared(adapt, adapt_run(tmp_path / "elsewhere", 4.0, first=100))
    (tmp_path / "bench").mkdir()
    write_json(tmp_path / "bench" / "result.json", {"command": "bench"})
    with pytest.raises(SettingsError, match="`bench`"):
        compared(classify, str(tmp_path / "bench"))


def test_damaged_and_missing_predictions_are_named(tmp_path: Path) -> None:
    run = classify_run(tmp_path / "a", predictions(1.0))
    with pytest.raises(CheckpointError, match="no saved predictions"):
        compared(run, classify_run(tmp_path / "empty"))
    path = tmp_path / "a" / "predictions" / "test-seed-0.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"test-seed-0\.npz"):
        compared(run, run)


@pytest.mark.parametrize("kind", ["classify", "tag", "adapt", "instruct"])
def test_the_verb_writes_its_folder_and_prints_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "classify":
        runs = [classify_run(tmp_path / name, predictions(1.0, place)) for place, name in enumerate("ab")]
    elif kind == "tag":
        runs = [tag_run(tmp_path / name, 0.5 + place / 9) for place, name in enumerate("ab")]
    else:
        runs = [adapt_run(tmp_path / name, 4.0 + place, command=kind) for place, name in enumerate("ab")]
    assert cli.main(["compare", *runs, "--output", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert (result["kind"], [run["run"] for run in result["runs"]]) == (kind, runs)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert runs[1] in page


def test_the_interval_of_a_run_is_that_of_its_own_report(tmp_path: Path) -> None:
    """Also if all predictions are right: compare must not claim more than classify and tag do."""
    for name, skill in (("right", 50.0), ("mixed", 1.0)):
        one = predictions(skill)
        report = compared(classify_run(tmp_path / name, one), classify_run(tmp_path / f"{name}-2", one))
        own = classification_metrics(one)["interval"]
        for metric in report.metrics:
            assert report.runs[0].scores[metric]["interval"] == own[metric], metric
            assert own[metric][0] < 1
    ids = tuple(f"note-{index}" for index in range(50))
    found = [EntityCounts(("drug",), np.tile([[[1, 0, 0]]], (50, 1, 1)), ids, ids)]
    folder = tmp_path / "tag"
    folder.mkdir()
    found[0].save(folder / "predictions" / "test-seed-0.npz")
    write_json(folder / "result.json", {"command": "tag", "model": "minilm", "task": "notes"})
    report = compared(str(folder), str(folder))
    low, high = report.runs[0].scores["f1"]["interval"]
    assert [low, high] == entity_metrics(found)["interval"]["f1"]
    assert (0.9 < low < 0.95, high) == (True, 1)
