"""The numbers on the screen: the before/after table at the end of `adapt`, the side-by-side one of `evaluate`.

rich draws them, in colour on a terminal and as plain text where the output is a file or a pipe. They fit 80 columns.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain_ft.report import words
from domain_ft.report.data import AdaptReport, EvaluationReport

STYLES = {"better": "green", "worse": "red", "unclear": "dim"}


def print_adapt(report: AdaptReport, console: Console | None = None) -> None:
    """The before/after table and what it says in words; on standard output where no `console` is given."""
    console = console or Console()
    table = _table("held-out text", "measure", "before", "after", "change", words.level(report.differences["domain"]))
    for role, corpus in report.roles:
        difference = report.differences[role]
        before, after = (report.result[when][role] for when in ("before", "after"))
        style = STYLES[words.verdict(difference)]
        name = Text(corpus.name, style="bold") + Text(" (control)" if role == "control" else "", style="dim")
        rows = (
            ("loss", words.signed(difference["loss"], 3), words.bounds(difference["interval"], 3)),
            ("perplexity", f"× {words.number(after['perplexity'] / before['perplexity'])}", ""),
            (
                "bits_per_byte",
                words.signed(difference["bits_per_byte"], 3),
                words.bounds(difference["bits_per_byte_interval"], 3),
            ),
        )
        for place, (measure, change, interval) in enumerate(rows):
            table.add_row(
                name if place == 0 else "",
                measure.replace("_", " "),
                words.measure(measure, before[measure]),
                words.measure(measure, after[measure]),
                Text(change, style=style),
                Text(interval, style="dim"),
                end_section=place == len(rows) - 1,
            )
    console.print(table)
    console.print(Text(words.headline(report), style="bold"))
    for sentence in words.findings(report):
        console.print(Text(sentence))


def print_evaluation(report: EvaluationReport, console: Console | None = None) -> None:
    """A table for each corpus, a row for each model; changes are against the first."""
    console = console or Console()
    for role, corpus in report.corpora.items():
        title = corpus + (" (control)" if role == "control" else "")
        table = _table("model", "loss", "perplexity", "bits/byte", "change", "interval")
        for model in report.models:
            scores = model.scores[role]
            table.add_row(
                Text(model.name, style="bold"),
                *(words.measure(measure, scores[measure]) for measure in words.MEASURES),
                *_against_first(model.differences.get(role)),
            )
        console.print(Text(title, style="bold"))
        console.print(table)
    if any(difference["loss"] is None for model in report.models for difference in model.differences.values()):
        console.print(Text("* bits per byte: another tokenizer, so the losses do not compare", style="dim"))


def _against_first(difference: words.Difference | None) -> tuple[Text, Text]:
    if difference is None:
        return Text(), Text()
    if difference["loss"] is None:
        return (
            Text(words.signed(difference["bits_per_byte"], 3) + "*"),
            Text(words.bounds(difference["bits_per_byte_interval"], 3), style="dim"),
        )
    return (
        Text(words.signed(difference["loss"], 3), style=STYLES[words.verdict(difference)]),
        Text(words.bounds(difference["interval"], 3), style="dim"),
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for name in others:
        right = name != "measure"
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    return table
