"""Small tables and words that the verbs under `data` print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table

from domain_ft.report.plain import plain

if TYPE_CHECKING:
    pass


def new_console() -> Console:
    return Console(highlight=False)


def facts_table(facts: Mapping[str, str]) -> RenderableType:
    """Names and what is said of them, in two columns; what is empty is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, plain(value))
    return table


def spell_counts(counts: Mapping[str, int]) -> str:
    """Such as `12 exact copies, 3 empty`; what is 0 is left out."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def megabytes(count: int | None) -> str:
    """A size as a person says it; nothing where it is not known."""
    return "" if count is None else f"{count / 1e6:,.0f} MB"
