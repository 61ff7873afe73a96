"""The output of `adapt` on the screen."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import new_table
from domain_ft.verbs.adapt import words
from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.shared.loss_tables import add_losses, print_text_notes


def print_adapt(report: AdaptReport, console: Console | None = None) -> None:
    """Print the tables of scores before and after, and the findings; to standard output if `console` is None."""
    console = console or Console()
    table = new_table(
        "held-out text", "measure", "before", "after", "change", numbers.level(report.differences["domain"])
    )
    add_losses(table, report)
    console.print(table)
    if report.result.get("probe"):
        console.print(_task_table(report))
    if report.retrieval:
        table = new_table("retrieval", "before", "after", "change", numbers.level(report.retrieval), "BM25")
        for row in words.retrieval_rows(report):
            table.add_row(*(plain(cell) for cell in row))
        console.print(table)
    console.print(plain(words.headline(report), style="bold"))
    for sentence in words.findings(report):
        console.print(plain(sentence))
    print_text_notes(report.result, console)


def _task_table(report: AdaptReport) -> Table:
    """The task's scores before and after, and those of the TF-IDF baseline if it could be fitted."""
    probe = report.result["probe"]
    table = new_table(probe["task"], "macro F1", numbers.level(report.result["after"]["probe"]), "accuracy")
    rows = [("before", report.result["before"]["probe"]), ("after", report.result["after"]["probe"])]
    if probe["wrong_field"]:
        rows.append((f"after training on {probe['wrong_field']['corpus']} instead", probe["wrong_field"]))
    for name, scores in (*rows, ("TF-IDF + linear SVM", probe["tfidf_svm"])):
        if "macro_f1" in scores:
            interval = numbers.span((scores["interval"] or {}).get("macro_f1"))
            cells = (numbers.points(scores["macro_f1"]), interval, numbers.points(scores["accuracy"]))
            table.add_row(name, *(plain(cell) for cell in cells))
    return table
