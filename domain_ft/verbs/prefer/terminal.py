"""The output of `prefer` on the screen."""

from __future__ import annotations

from rich.console import Console

from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import STYLES, new_table
from domain_ft.verbs.prefer import words
from domain_ft.verbs.prefer.report import PreferReport
from domain_ft.verbs.shared.loss_tables import add_losses
from domain_ft.wording import counted


def print_prefer(report: PreferReport, console: Console | None = None) -> None:
    """Print the table of scores before and after, and the findings.

    Args:
        report: the results.
        console: where to print; standard output by default.
    """
    console = console or Console()
    table = new_table("held out", "measure", "before", "after", "change", numbers.level(report.result["after"]["test"]))
    for place, (name, before, after, change, interval, verdict) in enumerate(words.measure_rows(report)):
        table.add_row(
            "" if place else plain(report.data.name, style="bold"),
            name,
            before,
            after,
            plain(change, style=STYLES[verdict]),
            plain(interval, style="dim"),
        )
    table.add_section()
    add_losses(table, report)
    if report.answered:
        count = counted(report.result["after"]["answers"]["examples"], "answer")
        for place, row in enumerate(words.answer_rows(report)):
            table.add_row("" if place else plain(count, style="bold"), *row)
    console.print(table)
    console.print(plain(words.headline(report), style="bold"))
    for sentence in (*words.findings(report), *words.not_read(report)):
        console.print(plain(sentence))
