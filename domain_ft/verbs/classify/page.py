"""report.html of a `classify` run."""

from __future__ import annotations

from domain_ft.report import numbers
from domain_ft.report.page import markup, page
from domain_ft.verbs.classify import plots, words
from domain_ft.verbs.classify.report import ClassifyReport
from domain_ft.verbs.shared import task_plots, task_words


def render_classify(report: ClassifyReport) -> str:
    """The page of a `classify` run."""
    return page(
        "classify/page.html.j2",
        title=f"{report.base.short_name} for {report.task.name}",
        report=report,
        facts=task_words.facts(report.task),
        figures=[(caption, markup(figure)) for caption, figure in _classify_figures(report)],
        words=words,
        tasks=task_words,
    )


def _classify_figures(report: ClassifyReport) -> list[tuple[str, str]]:
    scored = sum(bool(scores["interval"]) for scores in report.test["per_class"].values())
    shown = (
        f"the {task_plots.MOST_CLASSES_DRAWN} weakest of {scored:,} classes"
        if scored > task_plots.MOST_CLASSES_DRAWN
        else "each class"
    )
    figures = [
        (
            f"F1 of {shown}, with its {numbers.level(report.test)}; the number of test examples is in brackets. Grey "
            f"classes have fewer than {task_words.FEW}.",
            task_plots.class_bars(report),
        )
    ]
    if report.result.get("learning_curve"):
        caption = "Scores on the same test examples, by number of training examples."
        figures.append((caption, task_plots.learning_curve(report)))
    if report.metrics:
        caption = "Loss of single steps (pale) and running mean (dark). The ring marks the best macro F1."
        figures.append((caption, task_plots.training(report)))
    if any(report.reliability.values()):
        figures.append((_calibration_caption(report), plots.calibration(report)))
    return figures


def _calibration_caption(report: ClassifyReport) -> str:
    found = report.test.get("calibration")
    caption = "On the dashed line, probabilities are right; larger points stand for more predictions."
    if not found:
        return caption
    before, after = (numbers.points(found[name]) for name in ("ece_before", "ece_after"))
    if found.get("temperature", 1.0) == 1.0:
        return f"{caption} Expected calibration error: {before} points; no temperature is used."
    return f"{caption} Expected calibration error: {before} points without the temperature, {after} with it."
