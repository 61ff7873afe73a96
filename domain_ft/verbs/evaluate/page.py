"""report.html of an `evaluate` call."""

from __future__ import annotations

from domain_ft.corpus.left_out import sentences
from domain_ft.evaluation.retrieval import NAMES
from domain_ft.report.page import markup, page
from domain_ft.verbs.evaluate import plots
from domain_ft.verbs.evaluate.report import EvaluationReport
from domain_ft.verbs.evaluate.terminal import retrieval_cells
from domain_ft.verbs.shared import loss_words


def render_evaluation(report: EvaluationReport) -> str:
    """The page of an `evaluate` call: several models side by side."""
    compared = any(d["loss"] is not None for model in report.models for d in model.differences.values())
    return page(
        "evaluate/page.html.j2",
        title="Models on the same held-out text",
        report=report,
        losses=loss_words,
        not_read=sentences(report.text),
        retrieval_metrics=NAMES.values(),
        retrieval_cells=retrieval_cells,
        figure=markup(plots.comparison(report)) if compared else None,
    )
