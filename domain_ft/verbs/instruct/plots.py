"""The figure that only `instruct` has: how the answers changed."""

from __future__ import annotations

from domain_ft.report.drawing import DOMAIN, Change, draw_changes, drawing
from domain_ft.report.numbers import signed_points
from domain_ft.verbs.instruct import words
from domain_ft.verbs.instruct.report import InstructReport


def answer_changes(report: InstructReport) -> str:
    """Changes in the similarity of answers to references, in points, with their intervals."""
    rows = []
    for name in words.similarity_metrics(report):
        difference = report.differences["answers"][name]
        interval = difference["interval"] and [100 * bound for bound in difference["interval"]]
        value = difference["difference"]
        rows.append(Change(words.METRIC_WORDS[name], DOMAIN, "o", 100 * value, interval, signed_points(value)))
    description = "; ".join(f"{row.name}: {row.label}" for row in rows)
    with drawing(
        "answers", 1.0 + 0.5 * len(rows), f"Change in similarity to the references, in points. {description}"
    ) as (
        figure,
        rendered,
    ):
        draw_changes(figure.subplots(), rows, "Change in points, with its interval")
    return rendered[0]
