"""The output of `tag` on the screen. The table fits into 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain_ft.corpus.left_out import sentences
from domain_ft.report.numbers import level, points, span
from domain_ft.report.plain import plain
from domain_ft.verbs.tag import words
from domain_ft.verbs.tag.report import TagReport

MOST_TYPES = 30


def print_tag(report: TagReport, console: Console | None = None) -> None:
    """Print scores by type and overall, the baseline and the findings; without `console`, to standard output."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("entities", overflow="fold")
    for name in ("number", "precision", "recall", "F1", level(report.test)):
        table.add_column(name, justify="right", no_wrap=True)
    types = sorted(report.test["per_type"].items(), key=lambda item: -item[1]["support"])
    if len(types) > 1:
        for place, (name, scores) in enumerate(types[:MOST_TYPES], 1):
            last = place == min(len(types), MOST_TYPES)
            table.add_row(plain(name), *_numbers(scores, scores["support"], scores["interval"]), end_section=last)
    test = report.test
    table.add_row(plain("all", style="bold"), *_numbers(test, test["entities"], test["interval"]["f1"]))
    if len(types) > 1:
        macro = points(test["macro_f1"]), span(test["interval"]["macro_f1"])
        table.add_row(plain("mean over types"), "", "", "", macro[0], plain(macro[1], style="dim"))
    gazetteer = (report.result.get("baselines") or {}).get("gazetteer")
    if gazetteer:
        table.add_row(
            plain("lookup baseline"), *_numbers(gazetteer, gazetteer["entities"], gazetteer["interval"]["f1"])
        )
    console.print(table)
    if len(types) > MOST_TYPES:
        console.print(plain(f"{len(types) - MOST_TYPES} more types are in result.json", style="dim"))
    console.print(plain(words.headline(report), style="bold"))
    for sentence in (*words.findings(report), *sentences(report.result)):
        console.print(plain(sentence))


def _numbers(scores: Mapping[str, Any], amount: int, interval: Any) -> tuple[str | Text, ...]:
    shown = (points(scores[name]) for name in ("precision", "recall", "f1"))
    return (f"{amount:,}", *shown, plain(span(interval), style="dim"))
