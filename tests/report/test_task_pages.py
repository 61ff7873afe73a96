"""The reports on tasks: they claim only what the scores show, and foreign text stays text."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from fake_task import classify_report, task
from huggingface_hub import ModelCard
from rich.console import Console
from test_pages import EVIL, Elements

from domain_ft.report import numbers
from domain_ft.verbs.classify import card as classify_card
from domain_ft.verbs.classify import page as classify_page
from domain_ft.verbs.classify import plots as classify_plots
from domain_ft.verbs.classify import terminal as classify_terminal
from domain_ft.verbs.classify import words as classify_words
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.shared import comparison_page, comparison_terminal, task_plots, task_words
from domain_ft.verbs.shared.comparison import ComparedRun, CompareReport, Disagreement
from domain_ft.verbs.shared.facts import BaseFacts


def difference(value: float, spread: float) -> dict[str, Any]:
    low, high = value - spread, value + spread
    verdict = "better" if low > 0 else "worse" if high < 0 else "not shown"
    return {"difference": value, "interval": [low, high], "p_value": 0.031, "verdict": verdict, "units": 300}


def compare_report(name: str = "runs/adapted") -> CompareReport:
    def scores(mean: float) -> dict[str, Any]:
        return {"mean": mean, "sd": 0.01, "values": [mean], "interval": [mean - 0.03, mean + 0.03]}

    def curve(mean: float) -> list[dict[str, Any]]:
        return [{"examples": size, "macro_f1": scores(mean - 3 / size)} for size in (50, 200, 1000)]

    metrics = ("macro_f1", "accuracy")
    return CompareReport(
        kind="classify",
        subject=name,
        runs=[
            ComparedRun("runs/base", "minilm", 3, {metric: scores(0.7) for metric in metrics}, {}, curve(0.7)),
            ComparedRun(
                name,
                "minilm",
                3,
                {metric: scores(0.72) for metric in metrics},
                {"macro_f1": difference(0.021, 0.017), "accuracy": difference(0.01, 0.02)},
                curve(0.72),
                {"both_right": 200, "first_only": 10, "other_only": 20, "both_wrong": 70},
                [Disagreement(name, [name], [name], ["b"])],
            ),
        ],
        metrics=metrics,
        notes=[name],
    )


def evil_report() -> ClassifyReport:
    data = task(60, names=[EVIL, f"{EVIL} 2", "a\nb"], pair=True, text=EVIL)
    data = dataclasses.replace(data, name=EVIL, facts={"description": EVIL, "licence": EVIL}, notes=(EVIL,))
    return classify_report(data, base=BaseFacts(EVIL, EVIL, EVIL, licence=EVIL), notes=[EVIL], settings={"a": EVIL})


def bare_report() -> ClassifyReport:
    """A linear probe without baselines, seeds, curves, calibration and leaks."""
    report = classify_report(task(40, names=("no", "yes")), seeds=1, settings={"method": "head"}, metrics=[], leaks={})
    test = {name: value for name, value in report.test.items() if name != "calibration"}
    return dataclasses.replace(report, result={"test": test, "device": "cpu"}, reliability={})


REPORTS = {
    "twenty classes": classify_report(),
    "several": classify_report(task(80, multi_label=True, names=("a", "b", "c")), seeds=1),
    "many classes": classify_report(task(300, names=[f"code {index}" for index in range(250)]), seeds=1),
    "evil": evil_report(),
    "bare": bare_report(),
    "full": classify_report(task(40, names=("no", "yes")), settings={"method": "full"}),
}
COMPARED = {"plain": compare_report(), "evil": compare_report(EVIL)}
PAGES = {name: classify_page.render_classify(report) for name, report in REPORTS.items()} | {
    f"compare, {name}": comparison_page.render_compare(report) for name, report in COMPARED.items()
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_whole_and_loads_nothing(name: str) -> None:
    page = PAGES[name]
    elements = Elements(page)
    assert elements.open == []
    assert not {tag for tag, _ in elements.found} & {"script", "link", "iframe", "img", "object", "form", "a"}
    for _, attributes in elements.found:
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert key not in ("src", "href", "xlink:href") or (value or "").startswith("#")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert not re.search(r"url\((?!#)", page)


def test_foreign_text_is_shown_as_it_is() -> None:
    for page in (PAGES["evil"], PAGES["compare, evil"]):
        assert "<script" not in page
        assert any(EVIL in text for text in Elements(page).text)


def test_the_columns_of_a_small_matrix_have_names() -> None:
    """Numbers replace the names of classes only in a matrix that is too large for names."""
    small, large = (
        re.findall(r'<th scope="col" title="[^"]*">([^<]*)<', PAGES[name]) for name in ("full", "twenty classes")
    )
    assert small == ["no", "yes"]
    assert large == [str(place) for place in range(1, 21)]


def test_labels_and_texts_of_any_script_are_shown_as_text() -> None:
    page = PAGES["twenty classes"]
    assert page.count("家族歴・社会歴") >= 3
    assert "胸痛なし" in page
    figure = task_plots.class_bars(REPORTS["twenty classes"])
    assert "家族歴・社会歴" in "".join(ElementTree.fromstring(figure).itertext())


def test_no_text_of_an_example_is_shown_with_no_examples() -> None:
    secret = "SECRET-4711 "
    data = task(60, names=("no", "yes"), text=secret)
    assert secret.strip() in classify_page.render_classify(classify_report(data))
    silent = classify_report(data, examples=False)
    shown = classify_page.render_classify(silent) + classify_card.render_classify(silent) + json.dumps(silent.result)
    assert secret.strip() not in shown


def test_the_twenty_surest_mistakes_are_shown_clipped() -> None:
    report = classify_report(task(300, text="x" * 40 + " "))
    assert len(report.errors) == 20
    assert [error["confidence"] for error in report.errors] == sorted(
        (error["confidence"] for error in report.errors), reverse=True
    )
    assert max(len(error["text"]) for error in report.errors) < 700
    assert all(error["truth"] != error["predicted"] for error in report.errors)


def test_macro_f1_comes_first_with_its_interval_beside_the_baselines() -> None:
    text = " ".join(Elements(PAGES["twenty classes"]).text)
    report = REPORTS["twenty classes"]
    first = text.index(numbers.points(report.test["macro_f1"]))
    assert first < text.index(numbers.points(report.test["accuracy"]))
    assert numbers.span(report.test["interval"]["macro_f1"]) in text
    for name in ("majority class", "TF-IDF + linear SVM"):
        assert name in text


def test_rare_and_never_predicted_classes_are_named() -> None:
    report = classify_report(task(60))
    classes = report.test["per_class"]
    said = " ".join(classify_words.doubts(report))
    few = [name for name, scores in classes.items() if 0 < scores["support"] < 10]
    assert few
    assert few[0] in said
    never = dataclasses.replace(
        report, result={**report.result, "test": {**report.test, "per_class": {**classes, few[0]: {
            **classes[few[0]], "predicted": 0}}}}
    )  # fmt: skip
    assert f"Never predicted: {few[0]}." in classify_words.doubts(never)


@pytest.mark.parametrize("name", REPORTS)
def test_the_card_is_read_by_hugging_face(name: str) -> None:
    read = ModelCard(classify_card.render_classify(REPORTS[name]))
    data: Any = read.data
    assert data.pipeline_tag == "text-classification"
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results["macro F1"] == pytest.approx(REPORTS[name].test["macro_f1"], abs=1e-6)
    assert "domain-ft predict --model RUN" in read.content


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", REPORTS)
def test_the_table_fits_the_terminal(name: str, width: int) -> None:
    file = io.StringIO()
    classify_terminal.print_classify(REPORTS[name], Console(file=file, width=width))
    said = file.getvalue()
    assert max(len(line) for line in said.splitlines()) <= width
    assert numbers.points(REPORTS[name].test["macro_f1"]) in said


def test_the_code_in_the_report_is_python() -> None:
    for report in REPORTS.values():
        compile(classify_words.loading_code(report), "loading", "exec")
    assert classify_words.loading_code(REPORTS["bare"]) == ""


@pytest.mark.parametrize(
    ("value", "spread", "said"),
    [
        (0.021, 0.017, "better by 2.1 points of macro F1 (0.4 to 3.8)"),
        (-0.021, 0.017, "worse by 2.1 points of macro F1 (0.4 to 3.8)"),
        (0.012, 0.017, "not shown: −0.5 to +2.9 points of macro F1"),
    ],
)
def test_a_verdict_claims_only_what_its_interval_allows(value: float, spread: float, said: str) -> None:
    assert task_words.verdict(difference(value, spread), "macro_f1") == said


def test_figures_are_the_same_each_time() -> None:
    report = REPORTS["twenty classes"]
    for draw in (task_plots.class_bars, task_plots.training, classify_plots.calibration, task_plots.learning_curve):
        assert draw(report) == draw(report)


def test_a_comparison_has_a_title_and_a_verdict() -> None:
    assert "Comparison of runs on" in PAGES["compare, plain"]
    assert "better by 2.1 points of macro F1 (0.4 to 3.8); p = 0.031" in PAGES["compare, plain"]


def test_a_name_is_neither_markup_nor_a_command_to_the_terminal() -> None:
    """The name of a task or a run may hold any characters, since it comes from a file's name."""
    name = "[red]notes[/] \x1b[2J\x9b31m"
    file = io.StringIO()
    report = dataclasses.replace(REPORTS["full"], task=dataclasses.replace(REPORTS["full"].task, name=name))
    console = Console(file=file, width=200)
    classify_terminal.print_classify(report, console)
    comparison_terminal.print_compare(compare_report(name), console)
    assert "[red]notes[/]" in file.getvalue()
    assert r"\x1b[2J\x9b31m" in file.getvalue()
    assert not set(file.getvalue()) & {"\x1b", "\x9b"}


def test_the_ring_marks_the_kept_model_if_scores_are_equal() -> None:
    lines = [
        {"tokens": tokens, "loss": 1.0, "evaluation": {"macro_f1": 0.5, "score": [0.5, -loss]}}
        for tokens, loss in ((1_000, 0.9), (2_000, 0.7), (3_000, 0.8))
    ]
    figure = task_plots.training(dataclasses.replace(REPORTS["full"], metrics=lines))
    assert "was best after 2,000 tokens" in figure


def test_an_axis_of_scores_ends_at_100() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.plot([1, 2], [97.0, 100.0])
    task_plots.within_points(axes)
    assert axes.get_ylim()[1] <= 102
    assert max(axes.get_yticks()) <= 100
