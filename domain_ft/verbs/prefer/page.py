"""report.html of a `prefer` run."""

from __future__ import annotations

from domain_ft.report.page import page
from domain_ft.verbs.prefer import words
from domain_ft.verbs.prefer.report import PreferReport
from domain_ft.verbs.shared import loss_words
from domain_ft.verbs.shared.answering import clipped


def render_prefer(report: PreferReport) -> str:
    """The page of a `prefer` run."""
    return page(
        "prefer/page.html.j2",
        title=f"{report.base.short_name} preference-tuned on {report.data.name}",
        report=report,
        words=words,
        clipped=clipped,
        losses=loss_words,
    )
