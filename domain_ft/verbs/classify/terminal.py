"""The output of `classify` on the screen."""

from __future__ import annotations

from rich.console import Console

from domain_ft.corpus.left_out import sentences
from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import new_table
from domain_ft.verbs.classify import words
from domain_ft.verbs.classify.report import ClassifyReport


def print_classify(report: ClassifyReport, console: Console | None = None) -> None:
    """Print the scores of the model and of the baselines on the test examples, and the findings."""
    console = console or Console()
    table = new_table(report.task.name, "macro F1", numbers.level(report.test), "accuracy", "MCC", "AUROC")
    baselines = report.result.get("baselines") or {}
    rows = [(report.base.short_name, report.test)]
    rows += [(label, baselines.get(name) or {}) for name, label in words.BASELINES.items()]
    for place, (name, scores) in enumerate(rows):
        if "macro_f1" in scores:
            table.add_row(
                plain(name, style="" if place else "bold"),
                plain(numbers.points(scores["macro_f1"]), style="" if place else "bold"),
                plain(numbers.span((scores.get("interval") or {}).get("macro_f1")), style="dim"),
                *(numbers.points(scores.get(metric)) for metric in ("accuracy", "mcc", "auroc")),
            )
    console.print(table)
    console.print(plain(words.headline(report), style="bold"))
    for sentence in (*words.findings(report), *sentences(report.result)):
        console.print(plain(sentence))
