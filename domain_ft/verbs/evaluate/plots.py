"""The figure of `evaluate`: how losses differ from the first model's."""

from __future__ import annotations

from domain_ft.report import numbers
from domain_ft.report.drawing import draw_changes, drawing
from domain_ft.verbs.evaluate.report import EvaluationReport
from domain_ft.verbs.shared.loss_plots import COLOURS, MARKERS, change_row


def comparison(report: EvaluationReport) -> str:
    """For each model after the first: how its loss on each corpus differs from the first's, with intervals."""
    others = [model for model in report.models if model.differences]
    rows = [
        change_row(f"{model.name} · {report.corpora[role]}", COLOURS[role], MARKERS[role], difference)
        for model in others
        for role, difference in model.differences.items()
        if difference["loss"] is not None
    ]
    description = "; ".join(f"{row.name}: {numbers.signed(row.value)}" for row in rows)
    with drawing("comparison", 1.0 + 0.5 * len(rows), f"Loss against {report.models[0].name}: {description}") as (
        figure,
        rendered,
    ):
        axes = figure.subplots()
        draw_changes(axes, rows, f"Loss against {report.models[0].name}", above=True)
    return rendered[0]
