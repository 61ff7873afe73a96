"""The numbers on the screen: before and after at the end of `adapt` and `instruct`, side by side in `evaluate`.

rich draws them, in colour on a terminal and as plain text where the output is a file or a pipe. They fit 80 columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain_ft.corpus.left_out import sentences
from domain_ft.report import instruct_words, task_words, words
from domain_ft.report.data import AdaptReport, EvaluationReport
from domain_ft.report.instruct_data import InstructReport
from domain_ft.report.plain import plain
from domain_ft.report.task_data import ClassifyReport, CompareReport

STYLES = {"better": "green", "worse": "red", "unclear": "dim", "not shown": "dim"}


def print_adapt(report: AdaptReport, console: Console | None = None) -> None:
    """The before/after table and what it says in words; on standard output where no `console` is given."""
    console = console or Console()
    table = _table("held-out text", "measure", "before", "after", "change", words.level(report.differences["domain"]))
    _add_losses(table, report)
    console.print(table)
    console.print(plain(words.headline(report), style="bold"))
    for sentence in words.findings(report):
        console.print(plain(sentence))
    _print_text(report.result, console)


def _print_text(result: Mapping[str, Any], console: Console) -> None:
    """What is odd about the text, and what of it was not read."""
    for warning in result.get("warnings") or ():
        console.print(plain(f"warning: {warning}", style="yellow"))
    for sentence in sentences(result):
        console.print(plain(f"note: {sentence}", style="yellow"))


def print_instruct(report: InstructReport, console: Console | None = None) -> None:
    """The table of losses and of answers before and after, and what it says in words; on standard output by itself."""
    console = console or Console()
    table = _table("held out", "measure", "before", "after", "change", words.level(report.differences["test"]))
    _add_losses(table, report)
    if report.answered:
        _add_answers(table, report)
    console.print(table)
    console.print(plain(instruct_words.headline(report), style="bold"))
    for sentence in (*instruct_words.findings(report), *instruct_words.not_read(report)):
        console.print(plain(sentence))


def _add_losses(table: Table, report: words.LossReport) -> None:
    """The rows of each role's losses before and after."""
    for role, corpus in report.roles:
        difference = report.differences[role]
        before, after = (report.result[when][role] for when in ("before", "after"))
        style = STYLES[words.verdict(difference)]
        name = plain(corpus.name, style="bold") + plain(" (control)" if role == "control" else "", style="dim")
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
                plain(change, style=style),
                plain(interval, style="dim"),
                end_section=place == len(rows) - 1,
            )


def _add_answers(table: Table, report: InstructReport) -> None:
    """The rows of the answers' scores before and after."""
    before, after = (report.result[when]["answers"] for when in ("before", "after"))
    name = plain(task_words.count(after["examples"], "answer"), style="bold")
    for place, metric in enumerate((*instruct_words.likeness_metrics(report), "end_of_turn_rate")):
        difference = report.differences["answers"][metric]
        table.add_row(
            "" if place else name,
            instruct_words.METRICS[metric],
            task_words.points(before[metric]),
            task_words.points(after[metric]),
            plain(task_words.signed_points(difference["difference"]), style=STYLES[difference["verdict"]]),
            plain(task_words.difference_span(difference["interval"]), style="dim"),
        )
    for row in instruct_words.answer_rows(report):
        table.add_row("", *row)


def print_evaluation(report: EvaluationReport, console: Console | None = None) -> None:
    """A table for each corpus, a row for each model; changes are against the first."""
    console = console or Console()
    for role, corpus in report.corpora.items():
        title = corpus + (" (control)" if role == "control" else "")
        table = _table("model", "loss", "perplexity", "bits/byte", "change", "interval")
        for model in report.models:
            scores = model.scores[role]
            table.add_row(
                plain(model.name, style="bold"),
                *(words.measure(measure, scores[measure]) for measure in words.MEASURES),
                *_against_first(model.differences.get(role)),
            )
        console.print(plain(title, style="bold"))
        console.print(table)
    _print_text(report.text, console)
    if any(difference["loss"] is None for model in report.models for difference in model.differences.values()):
        console.print(plain("* bits per byte: another tokenizer, so the losses do not compare", style="dim"))


def print_classify(report: ClassifyReport, console: Console | None = None) -> None:
    """The scores on the test examples beside the baselines', and what they say in words."""
    console = console or Console()
    table = _table(report.task.name, "macro F1", task_words.level(report.test), "accuracy", "MCC", "AUROC")
    baselines = report.result.get("baselines") or {}
    rows = [(report.base.short_name, report.test)]
    rows += [(label, baselines.get(name) or {}) for name, label in task_words.BASELINES.items()]
    for place, (name, scores) in enumerate(rows):
        if "macro_f1" in scores:
            table.add_row(
                plain(name, style="" if place else "bold"),
                plain(task_words.points(scores["macro_f1"]), style="" if place else "bold"),
                plain(task_words.span((scores.get("interval") or {}).get("macro_f1")), style="dim"),
                *(task_words.points(scores.get(metric)) for metric in ("accuracy", "mcc", "auroc")),
            )
    console.print(table)
    console.print(plain(task_words.headline(report), style="bold"))
    for sentence in (*task_words.findings(report), *sentences(report.result)):
        console.print(plain(sentence))


def print_compare(report: CompareReport, console: Console | None = None) -> None:
    """A table for each score, a row for each run; differences are from the first. Then the first score's in words."""
    console = console or Console()
    for metric in report.metrics:
        if report.of_losses:
            table = _table("run", "loss", "perplexity", "bits/byte", "change", "interval")
        else:
            table = _table("run", task_words.METRICS[metric], "interval", "change", "interval", "p")
        for run in report.runs:
            scores, found = run.scores[metric], run.differences.get(metric)
            if report.of_losses:
                cells = [plain(words.measure(name, scores[name])) for name in words.MEASURES]
                cells += _against_first(found)
            else:
                cells = [
                    plain(task_words.points(scores["mean"])),
                    plain(task_words.span(scores["interval"]), style="dim"),
                ]
                cells += _score_against_first(found)
            table.add_row(plain(run.name, style="bold"), *cells)
        if report.of_losses:
            console.print(plain(metric, style="bold"))
        console.print(table)
    for run in report.runs[1:]:
        console.print(plain(task_words.compared(run, report), style="bold"))
    for note in report.notes:
        console.print(plain(note))


def _score_against_first(difference: task_words.Difference | None) -> tuple[Text, ...]:
    if difference is None:
        return Text(), Text(), Text()
    return (
        plain(task_words.signed_points(difference["difference"]), style=STYLES[difference["verdict"]]),
        plain(task_words.difference_span(difference["interval"]), style="dim"),
        plain(task_words.p_value(difference).removeprefix("adjusted ").removeprefix("p ").removeprefix("= ")),
    )


def _against_first(difference: words.Difference | None) -> tuple[Text, Text]:
    if difference is None:
        return Text(), Text()
    if difference["loss"] is None:
        return (
            plain(words.signed(difference["bits_per_byte"], 3) + "*"),
            plain(words.bounds(difference["bits_per_byte_interval"], 3), style="dim"),
        )
    return (
        plain(words.signed(difference["loss"], 3), style=STYLES[words.verdict(difference)]),
        plain(words.bounds(difference["interval"], 3), style="dim"),
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column(plain(first), overflow="fold")
    for name in others:
        right = name != "measure"
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    return table
