"""Tables and number formats that the verbs under `data` share."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.table import Table

from domain_ft.report.plain import plain


def new_console() -> Console:
    return Console(highlight=False)


def facts_table(facts: Mapping[str, str]) -> RenderableType:
    """Names and values in two columns; empty values are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, plain(value))
    return table


def spell_counts(counts: Mapping[str, int]) -> str:
    """Counts on one line without zeros, such as `12 exact copies, 3 empty`."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def megabytes(count: int | None) -> str:
    """A size in MB; empty if unknown."""
    return "" if count is None else f"{count / 1e6:,.0f} MB"
