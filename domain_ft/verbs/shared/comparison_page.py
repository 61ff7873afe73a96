"""report.html of a comparison of runs."""

from __future__ import annotations

from domain_ft.report.page import markup, page
from domain_ft.verbs.shared import comparison_plots, comparison_words, loss_words, task_words
from domain_ft.verbs.shared.comparison import CompareReport


def render_compare(report: CompareReport) -> str:
    """The page of a comparison of runs."""
    figures = []
    if comparison_plots.has_differences(report):
        figures.append(
            ("The data show a difference if its line does not cross zero.", comparison_plots.differences(report))
        )
    if any(run.learning_curve for run in report.runs):
        figures.append(
            (
                "Scores on the same test examples, by number of training examples.",
                comparison_plots.learning_curves(report),
            )
        )
    return page(
        "shared/comparison.html.j2",
        title=f"Comparison of runs on {report.subject}",
        report=report,
        figures=[(caption, markup(figure)) for caption, figure in figures],
        words=comparison_words,
        losses=loss_words,
        tasks=task_words,
    )
