"""report.html of an `adapt` run."""

from __future__ import annotations

from domain_ft.corpus.left_out import sentences
from domain_ft.report.page import markup, page
from domain_ft.verbs.adapt import plots, words
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.shared import loss_words
from domain_ft.verbs.shared.loss_plots import loss_figures


def render_adapt(report: AdaptReport) -> str:
    """The page of an `adapt` run."""
    return page(
        "adapt/page.html.j2",
        title=f"{report.base.short_name} adapted to {report.corpus.name}",
        report=report,
        words=words,
        losses=loss_words,
        not_read=sentences(report.result),
        figures=[(caption, markup(figure)) for caption, figure in loss_figures(report)],
        lengths=markup(plots.length_histogram(report.corpus.lengths)) if any(report.corpus.lengths) else None,
    )
