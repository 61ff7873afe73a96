"""report.html: one self-contained page, for a person with a phone and no network.

Nothing in it is fetched, no script runs, and its own policy forbids both. Every text that comes from a corpus, a model
or a user is escaped by the template; the only markup that passes is the figures', which matplotlib has escaped.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from domain_ft import __version__
from domain_ft.corpus.left_out import sentences
from domain_ft.report import instruct_plots, instruct_words, plots, task_plots, task_words, words
from domain_ft.report.data import AdaptReport, EvaluationReport
from domain_ft.report.instruct_data import InstructReport
from domain_ft.report.task_data import ClassifyReport, CompareReport


def render_adapt(report: AdaptReport) -> str:
    """The page of an `adapt` run."""
    return page(
        "adapt.html.j2",
        title=f"{report.base.short_name} adapted to {report.corpus.name}",
        report=report,
        not_read=sentences(report.result),
        figures=[(caption, _markup(figure)) for caption, figure in _loss_figures(report)],
        lengths=_markup(plots.length_histogram(report.corpus.lengths)) if any(report.corpus.lengths) else None,
    )


def render_evaluation(report: EvaluationReport) -> str:
    """The page of an `evaluate` call: several models side by side."""
    compared = any(d["loss"] is not None for model in report.models for d in model.differences.values())
    return page(
        "evaluate.html.j2",
        title="Models on the same held-out text",
        report=report,
        not_read=sentences(report.text),
        figure=_markup(plots.comparison(report)) if compared else None,
    )


def render_classify(report: ClassifyReport) -> str:
    """The page of a `classify` run."""
    return page(
        "classify.html.j2",
        title=f"{report.base.short_name} for {report.task.name}",
        report=report,
        facts=task_words.facts(report.task),
        figures=[(caption, _markup(figure)) for caption, figure in _classify_figures(report)],
        words=task_words,
    )


def render_instruct(report: InstructReport) -> str:
    """The page of an `instruct` run."""
    return page(
        "instruct.html.j2",
        title=f"{report.base.short_name} instructed with {report.data.name}",
        report=report,
        figures=[(caption, _markup(figure)) for caption, figure in _instruct_figures(report)],
        says=instruct_words,
        task_words=task_words,
    )


def render_compare(report: CompareReport) -> str:
    """The page of a `compare` call: finished runs side by side."""
    figures = []
    if any(run.differences for run in report.runs):
        figures.append(("A difference is shown where its line stays clear of zero.", task_plots.differences(report)))
    if any(run.learning_curve for run in report.runs):
        figures.append(
            ("Scores on the same test examples, by what was trained on.", task_plots.learning_curves(report))
        )
    return page(
        "compare.html.j2",
        title=f"Runs on {report.subject}, compared",
        report=report,
        figures=[(caption, _markup(figure)) for caption, figure in figures],
        words=task_words,
    )


def _classify_figures(report: ClassifyReport) -> list[tuple[str, str]]:
    scored = sum(bool(scores["interval"]) for scores in report.test["per_class"].values())
    shown = (
        f"The {task_plots.MOST_CLASSES} weakest of {scored:,} classes"
        if scored > task_plots.MOST_CLASSES
        else "Classes"
    )
    figures = [
        (
            f"{shown}, each with its {task_words.level(report.test)} and in brackets its test examples; grey where "
            f"they are fewer than {task_words.FEW}.",
            task_plots.class_bars(report),
        )
    ]
    if report.result.get("learning_curve"):
        caption = "What more examples bring, on the same test examples."
        figures.append((caption, task_plots.learning_curve(report)))
    if report.metrics:
        caption = "Each step pale, their running mean dark. The ring is the model that was kept."
        figures.append((caption, task_plots.training(report)))
    if any(report.reliability.values()):
        figures.append((_calibration_caption(report), task_plots.calibration(report)))
    return figures


def _calibration_caption(report: ClassifyReport) -> str:
    found = report.test.get("calibration")
    said = "On the dashed line a probability can be taken at its word; the larger a point, the more cases."
    if not found:
        return said
    before, after = (task_words.points(found[name]) for name in ("ece_before", "ece_after"))
    if found.get("temperature", 1.0) == 1.0:
        return f"{said} Expected calibration error: {before} points as trained; no temperature is used."
    return f"{said} Expected calibration error: {before} points as trained, {after} with the temperature."


def _loss_figures(report: words.LossReport, unit: str = "documents") -> list[tuple[str, str]]:
    caption = f"Before and after, on the same held-out {unit}. A change is sure where its line stays clear of zero."
    figures = [(caption, plots.before_after(report))]
    if report.metrics:
        figures.append((_curve_caption(report), plots.loss_curve(report)))
    return figures


def _instruct_figures(report: InstructReport) -> list[tuple[str, str]]:
    figures = _loss_figures(report, "examples")
    if report.answered:
        caption = "How the answers' likeness to the references changed, over the same prompts."
        figures.append((caption, instruct_plots.answer_changes(report)))
    return figures


def _curve_caption(report: words.LossReport) -> str:
    said = "Loss over the run: each step pale, their running mean dark."
    role = report.roles[0][0]
    scored = [line["evaluation"][role] for line in report.metrics if role in line.get("evaluation", {})]
    if scored and scored[0].get("tokens", 0) < report.result["after"][role]["tokens"]:
        said += (
            f" The held-out points are over {scored[0]['tokens']:,} tokens each; before and after above are over all "
            f"{report.result['after'][role]['tokens']:,}."
        )
    return said


def _markup(svg: str) -> Markup:
    """A figure that goes into the page as it is: matplotlib has escaped the names in it."""
    return Markup(svg)


def page(template: str, **values: Any) -> str:
    """A template of the reports, filled."""
    return (
        _environment()
        .get_template(template)
        .render({"words": words, "numbers": words, "version": __version__} | values)
        + "\n"
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("domain_ft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    return environment


def _setting(value: Any) -> str:
    """A setting's value for people: lists and tables by their items, nothing as a dash."""
    if value is None or value == [] or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    return str(value)
