"""Losses in tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain_ft.corpus.left_out import sentences
from domain_ft.report import numbers
from domain_ft.report.plain import plain
from domain_ft.report.tables import STYLES
from domain_ft.verbs.shared import loss_words


def print_text_notes(result: Mapping[str, Any], console: Console) -> None:
    """Print the warnings about the text, and sentences on what was not read."""
    for warning in result.get("warnings") or ():
        console.print(plain(f"warning: {warning}", style="yellow"))
    for sentence in sentences(result):
        console.print(plain(f"note: {sentence}", style="yellow"))


def add_losses(table: Table, report: loss_words.LossReport) -> None:
    """Add rows with the losses before and after, for each role."""
    for role, corpus in report.roles:
        difference = report.differences[role]
        before, after = (report.result[when][role] for when in ("before", "after"))
        style = STYLES[loss_words.verdict(difference)]
        name = plain(corpus.name, style="bold") + plain(" (control)" if role == "control" else "", style="dim")
        rows = (
            ("loss", numbers.signed(difference["loss"], 3), numbers.bounds(difference["interval"], 3)),
            ("perplexity", f"× {numbers.number(after['perplexity'] / before['perplexity'])}", ""),
            (
                "bits_per_byte",
                numbers.signed(difference["bits_per_byte"], 3),
                numbers.bounds(difference["bits_per_byte_interval"], 3),
            ),
        )
        for place, (measure, change, interval) in enumerate(rows):
            table.add_row(
                name if place == 0 else "",
                measure.replace("_", " "),
                loss_words.measure(measure, before[measure]),
                loss_words.measure(measure, after[measure]),
                plain(change, style=style),
                plain(interval, style="dim"),
                end_section=place == len(rows) - 1,
            )


def against_first(difference: loss_words.Difference | None) -> tuple[Text, Text]:
    """The cells of a difference and its interval: of the loss, or with a `*` of bits per byte (`print_unit_note`)."""
    if difference is None:
        return Text(), Text()
    if difference["loss"] is None:
        return (
            plain(numbers.signed(difference["bits_per_byte"], 3) + "*"),
            plain(numbers.bounds(difference["bits_per_byte_interval"], 3), style="dim"),
        )
    return (
        plain(numbers.signed(difference["loss"], 3), style=STYLES[loss_words.verdict(difference)]),
        plain(numbers.bounds(difference["interval"], 3), style="dim"),
    )


def print_unit_note(differences: Iterable[loss_words.Difference], console: Console) -> None:
    """Explain the `*` of `against_first` below a table that has one."""
    if any(difference["loss"] is None for difference in differences):
        console.print(plain("* bits per byte: losses of different tokenizers cannot be compared", style="dim"))
