"""The tables of a comparison of runs on the screen."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import STYLES, new_table
from domain_ft.verbs.shared import comparison_words, loss_words, task_words
from domain_ft.verbs.shared.comparison import CompareReport
from domain_ft.verbs.shared.loss_tables import against_first, print_unit_note


def print_compare(report: CompareReport, console: Console | None = None) -> None:
    """Print a table for each metric, then each run's difference from the first run in the first metric, in words."""
    console = console or Console()
    for metric in report.metrics:
        if report.of_losses:
            table = new_table("run", "loss", "perplexity", "bits/byte", "change", "interval")
        else:
            table = new_table("run", task_words.METRIC_WORDS[metric], "interval", "change", "interval", "p")
        for run in report.runs:
            scores, found = run.scores[metric], run.differences.get(metric)
            if report.of_losses:
                cells = [plain(loss_words.measure(name, scores[name])) for name in loss_words.MEASURES]
                cells += against_first(found)
            else:
                cells = [
                    plain(numbers.points(scores["mean"])),
                    plain(numbers.span(scores["interval"]), style="dim"),
                ]
                cells += _score_against_first(found)
            table.add_row(plain(run.name, style="bold"), *cells)
        if report.of_losses:
            console.print(plain(metric, style="bold"))
        console.print(table)
    for run in report.runs[1:]:
        console.print(plain(comparison_words.compared(run, report), style="bold"))
    for note in report.notes:
        console.print(plain(note))
    if report.of_losses:
        print_unit_note((found for run in report.runs for found in run.differences.values()), console)


def _score_against_first(difference: task_words.Difference | None) -> tuple[Text, ...]:
    if difference is None:
        return Text(), Text(), Text()
    return (
        plain(numbers.signed_points(difference["difference"]), style=STYLES[difference["verdict"]]),
        plain(numbers.difference_span(difference["interval"]), style="dim"),
        plain(task_words.p_value(difference).removeprefix("adjusted ").removeprefix("p ").removeprefix("= ")),
    )
