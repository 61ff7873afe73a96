"""The style of tables on the terminal, which are made to fit into 80 columns."""

from __future__ import annotations

from rich import box
from rich.table import Table

from domain_ft.report.plain import plain

STYLES = {"better": "green", "worse": "red", "unclear": "dim", "not shown": "dim"}


def new_table(first: str, *others: str) -> Table:
    """A table whose first column and the one named `measure` wrap; the others are numbers, aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column(plain(first), overflow="fold")
    for name in others:
        right = name != "measure"
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    return table
