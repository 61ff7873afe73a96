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
from domain_ft.report import plots, words
from domain_ft.report.data import AdaptReport, EvaluationReport


def render_adapt(report: AdaptReport) -> str:
    """The page of an `adapt` run."""
    return _page(
        "adapt.html.j2",
        title=f"{report.base.short_name} adapted to {report.corpus.name}",
        report=report,
        figures=[(caption, _markup(figure)) for caption, figure in _adapt_figures(report)],
        lengths=_markup(plots.length_histogram(report.corpus.lengths)) if any(report.corpus.lengths) else None,
    )


def render_evaluation(report: EvaluationReport) -> str:
    """The page of an `evaluate` call: several models side by side."""
    compared = any(d["loss"] is not None for model in report.models for d in model.differences.values())
    return _page(
        "evaluate.html.j2",
        title="Models on the same held-out text",
        report=report,
        figure=_markup(plots.comparison(report)) if compared else None,
    )


def _adapt_figures(report: AdaptReport) -> list[tuple[str, str]]:
    figures = [
        (
            "Before and after, on the same held-out documents. A change is sure where its line stays clear of zero.",
            plots.before_after(report),
        )
    ]
    if report.metrics:
        figures.append((_curve_caption(report), plots.loss_curve(report)))
    return figures


def _curve_caption(report: AdaptReport) -> str:
    said = "Loss over the run: each step pale, their running mean dark."
    scored = [line["evaluation"]["domain"] for line in report.metrics if "domain" in line.get("evaluation", {})]
    if scored and scored[0].get("tokens", 0) < report.result["after"]["domain"]["tokens"]:
        said += (
            f" The held-out points are over {scored[0]['tokens']:,} tokens each; before and after above are over all "
            f"{report.result['after']['domain']['tokens']:,}."
        )
    return said


def _markup(svg: str) -> Markup:
    """A figure that goes into the page as it is: matplotlib has escaped the names in it."""
    return Markup(svg)


def _page(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(words=words, version=__version__, **values) + "\n"


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
