"""report.html of an `instruct` run."""

from __future__ import annotations

from domain_ft.report.page import markup, page
from domain_ft.verbs.instruct import plots, words
from domain_ft.verbs.instruct.report import InstructReport
from domain_ft.verbs.shared import loss_words, task_words
from domain_ft.verbs.shared.answering import clipped
from domain_ft.verbs.shared.loss_plots import loss_figures


def render_instruct(report: InstructReport) -> str:
    """The page of an `instruct` run."""
    return page(
        "instruct/page.html.j2",
        title=f"{report.base.short_name} instruction-tuned on {report.data.name}",
        report=report,
        figures=[(caption, markup(figure)) for caption, figure in _instruct_figures(report)],
        words=words,
        clipped=clipped,
        losses=loss_words,
        tasks=task_words,
    )


def _instruct_figures(report: InstructReport) -> list[tuple[str, str]]:
    figures = loss_figures(report, "examples")
    if report.answered:
        caption = "Change in similarity of the answers to the references, on the same prompts."
        figures.append((caption, plots.answer_changes(report)))
    return figures
