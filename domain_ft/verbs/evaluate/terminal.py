"""The output of `evaluate` on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from domain_ft.evaluation.retrieval import METRICS, NAMES
from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import new_table
from domain_ft.verbs.evaluate.report import EvaluationReport
from domain_ft.verbs.shared import loss_words
from domain_ft.verbs.shared.loss_tables import against_first, print_text_notes, print_unit_note


def retrieval_cells(scores: Mapping[str, Any]) -> list[str]:
    """The metrics, the change of nDCG@10 from the first model, and its interval.

    The last two cells are empty for the first model and for BM25.
    """
    change = scores["difference"][METRICS[0]] if "difference" in scores else None
    return [
        *(numbers.points(scores[name]) for name in METRICS),
        numbers.signed_points(change["difference"]) if change else "",
        numbers.difference_span(change["interval"]) if change else "",
    ]


def print_evaluation(report: EvaluationReport, console: Console | None = None) -> None:
    """Print a table of losses and, if measured, one of retrieval for each corpus, with a row for each model.

    Changes are relative to the first model.
    """
    console = console or Console()
    for role, corpus in report.corpora.items():
        title = corpus + (" (control)" if role == "control" else "")
        table = new_table("model", "loss", "perplexity", "bits/byte", "change", "interval")
        for model in report.models:
            scores = model.scores[role]
            table.add_row(
                plain(model.name, style="bold"),
                *(loss_words.measure(measure, scores[measure]) for measure in loss_words.MEASURES),
                *against_first(model.differences.get(role)),
            )
        console.print(plain(title, style="bold"))
        console.print(table)
    for role, bm25 in report.bm25.items():
        table = new_table("retrieval", *NAMES.values(), "change of nDCG", "interval")
        for model in report.models:
            table.add_row(plain(model.name, style="bold"), *retrieval_cells(model.retrieval[role]))
        table.add_row("BM25", *retrieval_cells(bm25))
        queries = f"{report.corpora[role]}, {bm25['queries']:,} queries"
        console.print(plain(queries, style="bold"))
        console.print(table)
    print_text_notes(report.text, console)
    print_unit_note((difference for model in report.models for difference in model.differences.values()), console)
