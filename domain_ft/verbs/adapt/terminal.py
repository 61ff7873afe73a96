"""The output of `adapt` on the screen."""

from __future__ import annotations

from rich.console import Console

from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import new_table
from domain_ft.verbs.adapt import words
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.shared.loss_tables import add_losses, print_text_notes


def print_adapt(report: AdaptReport, console: Console | None = None) -> None:
    """Print the table of losses before and after, and the findings; to standard output without `console`."""
    console = console or Console()
    table = new_table(
        "held-out text", "measure", "before", "after", "change", numbers.level(report.differences["domain"])
    )
    add_losses(table, report)
    console.print(table)
    console.print(plain(words.headline(report), style="bold"))
    for sentence in words.findings(report):
        console.print(plain(sentence))
    print_text_notes(report.result, console)
