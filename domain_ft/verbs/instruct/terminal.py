"""The output of `instruct` on the screen."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import STYLES, new_table
from domain_ft.verbs.instruct import words
from domain_ft.verbs.instruct.report import InstructReport
from domain_ft.verbs.shared.loss_tables import add_losses
from domain_ft.wording import counted


def print_instruct(report: InstructReport, console: Console | None = None) -> None:
    """Print the table of losses and answer scores before and after, and the findings.

    Args:
        report: the results.
        console: where to print; standard output by default.
    """
    console = console or Console()
    table = new_table("held out", "measure", "before", "after", "change", numbers.level(report.differences["test"]))
    add_losses(table, report)
    if report.answered:
        _add_answers(table, report)
    console.print(table)
    console.print(plain(words.headline(report), style="bold"))
    for sentence in (*words.findings(report), *words.not_read(report)):
        console.print(plain(sentence))


def _add_answers(table: Table, report: InstructReport) -> None:
    """Add rows with the answers' scores before and after."""
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    name = plain(counted(after["examples"], "answer"), style="bold")
    for place, metric in enumerate((*words.similarity_metrics(report), "end_of_turn_rate")):
        difference = report.differences["answers"][metric]
        table.add_row(
            "" if place else name,
            words.METRIC_WORDS[metric],
            numbers.points(before[metric]),
            numbers.points(after[metric]),
            plain(numbers.signed_points(difference["difference"]), style=STYLES[difference["verdict"]]),
            plain(numbers.difference_span(difference["interval"]), style="dim"),
        )
    for row in words.answer_rows(report):
        table.add_row("", *row)
