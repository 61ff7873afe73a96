"""`domain-ft data list`: the available corpora and embedded models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table

from domain_ft.report.plain import plain
from domain_ft.verbs.data.inventory import Inventory, SourceEntry, TaskEntry, list_corpora
from domain_ft.verbs.data.printing import facts_table, megabytes, new_console
from domain_ft.verbs.data.settings import DataListSettings


def print_inventory(inventory: Inventory, console: Console) -> None:
    """Print a paragraph for each corpus and model."""
    console.print(plain("Corpora", style="bold"))
    for corpus in inventory.corpora:
        _print_entry(console, corpus.name, corpus.description, corpus.licence, corpus.sources, corpus.tasks)
    console.print(plain("Models", style="bold"))
    for model in inventory.models:
        _print_entry(console, model.name, model.description, model.licence, [model.source])
    console.print("--task takes a task of a corpus, such as legal/license-category.")
    console.print("--corpus also takes a file, a folder, a recipe (.toml) or hf:ID.")
    console.print("--model also takes a folder, a run or a Hub id.")
    console.print("domain-ft data show CORPUS shows what a corpus contains.")


def _print_entry(
    console: Console,
    name: str,
    description: str,
    licence: str,
    sources: Sequence[SourceEntry],
    tasks: Sequence[TaskEntry] = (),
) -> None:
    facts = {
        "licence": licence,
        "from": "\n".join(map(source_line, sources)),
        "tasks": "\n".join(map(task_line, tasks)),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", min_width=7, no_wrap=True)
    table.add_column()
    table.add_row(name, Group(plain(description), facts_table(facts)))
    console.print(Padding(table, (0, 0, 1, 2)))


def task_line(task: TaskEntry) -> str:
    """A task on one line, such as `legal/license-category (3 classes)`."""
    remarks = [f"{task.classes} classes"] if task.classes else []
    remarks += ["from the Hub"] if task.source.kind == "hub" else []
    return f"{task.name} ({', '.join(remarks)})" if remarks else task.name


def source_line(source: SourceEntry) -> str:
    """A source on one line, with its size and whether it is on this machine."""
    state = {True: "on this machine", False: "not downloaded yet" if source.kind == "asset" else "missing", None: ""}
    remarks = ", ".join(part for part in (megabytes(source.bytes), state[source.cached]) if part)
    return f"{source.name} ({remarks})" if remarks else source.name


def run(settings: DataListSettings) -> dict[str, Any]:
    """The verb: list corpora, tasks and models."""
    inventory = list_corpora()
    if not settings.json:
        print_inventory(inventory, new_console())
    return dataclasses.asdict(inventory)
