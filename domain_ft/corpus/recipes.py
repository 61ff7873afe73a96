"""Recipes: a TOML file for each corpus, with its description, licence, sources of text and tasks.

The recipes of this package are in `corpora/`; users give the path of other recipes. All errors of a recipe are reported
together; for an unknown key, the message suggests a similar valid key if there is one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from domain_ft.corpus.assets import ASSETS
from domain_ft.corpus.readers import READERS, RECORDS
from domain_ft.errors import CorpusError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Kind of source -> key -> (type, required).
_SOURCE_KEYS: dict[str, dict[str, tuple[type, bool]]] = {
    "asset": {"asset": (str, True), "path": (str, True), "reader": (str, True), "text_field": (str, False)},
    "files": {"path": (str, True), "reader": (str, False), "text_field": (str, False)},
    "hub": {
        "id": (str, True),
        "config": (str, False),
        "split": (str, False),
        "revision": (str, False),
        "text_field": (str, False),
        "documents": (int, False),
    },
}
_RECIPE_KEYS: dict[str, tuple[type, bool]] = {
    "name": (str, False),
    "description": (str, False),
    "licence": (str, False),
    "citation": (str, False),
    "language": (str, False),
    "sources": (list, True),
    "tasks": (list, False),
}
# The keys that a task of any kind may have, then those that depend on its kind.
_TASK_KEYS: dict[str, tuple[type, bool]] = {
    "name": (str, True),
    "description": (str, True),
    "licence": (str, False),
    "citation": (str, False),
    "classes": (int, False),
    "split": (str, False),
    "weaknesses": (str, False),
    "scores": (str, False),
    "text_field": (str, False),
    "pair_field": (str, False),
    "label_field": (str, False),
    "id_field": (str, False),
    "group_field": (str, False),
    "label_names": (str, False),
    "label_separator": (str, False),
}
_TASK_SOURCE_KEYS: dict[str, dict[str, tuple[type, bool]]] = {
    "asset": {"asset": (str, True), "path": (str, True), "reader": (str, True)},
    "files": {"train": (str, True), "validation": (str, False), "test": (str, False), "test_ids": (str, False)},
    "hub": {
        "id": (str, True),
        "config": (str, False),
        "revision": (str, False),
        "reader": (str, False),
        "marks": (dict, False),
        "relations": (str, False),
    },
}
# For tasks on the hub: reader of the rows -> the keys that it needs.
_HUB_READERS: dict[str, tuple[str, ...]] = {"single-label": ("label_field",), "relations": ("marks", "relations")}
_TYPE_NAMES = {str: "a text", int: "a whole number", list: "a list of tables", dict: "a table"}


@dataclass(frozen=True)
class Source:
    """A source of text.

    Attributes:
        kind: `asset` (a wheel with text), `files` (a file or folder) or `hub` (a data set on a hub).
        reader: how to read it, a name in `readers.READERS`; `auto` selects the reader by the file's ending.
        asset: the asset's name in `assets.ASSETS`.
        path: for `asset`, a path or pattern (with `*`) within the asset; for `files`, the path of a file or folder,
            absolute or relative to the recipe's folder.
        id: of the data set on the hub, with its `config`, `split` and `revision`; or the path of a local folder.
        text_field: the field of the text; the texts of several fields, separated by commas, are joined by a blank line.
        documents: for `hub`, how many documents are read, from the beginning; None for all.
    """

    kind: str
    reader: str = "auto"
    asset: str | None = None
    path: str | None = None
    id: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    text_field: str | None = None
    documents: int | None = None


@dataclass(frozen=True)
class Task:
    """A downstream task of the corpus: its description, and where its examples are.

    Attributes:
        name: within the recipe; on the command line, RECIPE/NAME.
        description: the question, in a sentence.
        kind: `asset`, `files` or `hub`, as in `Source`.
        asset, path, reader: the files within an asset, and the reader of their records, a name in `readers.RECORDS`.
        train, validation, test: for `files`, the examples: a path, absolute or relative to the recipe's folder, or
            `hf:ID[:config]`.
        test_ids: for `files`, the path of a file with the ids of test examples.
        id, config, revision: of the data set on the hub, whose splits are found by their usual names. `reader` may then
            be `single-label` (the label is the only item of a list) or `relations` (pairs of entities in records of
            BigBIO's knowledge-base schema).
        marks: for each mark, the types of the entities that it replaces, separated by commas. With one mark, its
            entities are paired with each other. With two marks, entities of the first are paired with entities of the
            second.
        relations: the types of relations that are classes, separated by commas.
        text_field, pair_field, label_field, id_field, group_field, label_names, label_separator: as the options of
            these names.
        classes: the number of classes.
        split: how the examples are split; empty if the splits are as given.
        weaknesses: known problems of the task.
        scores: scores of baselines and known models, and where they were measured.
        licence, citation: if empty, those of the corpus apply.
    """

    name: str
    description: str
    kind: str
    asset: str | None = None
    path: str | None = None
    reader: str = "auto"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    test_ids: str | None = None
    id: str | None = None
    config: str | None = None
    revision: str | None = None
    marks: Mapping[str, str] | None = None
    relations: str | None = None
    text_field: str | None = None
    pair_field: str | None = None
    label_field: str | None = None
    id_field: str | None = None
    group_field: str | None = None
    label_names: str | None = None
    label_separator: str | None = None
    classes: int | None = None
    split: str = ""
    weaknesses: str = ""
    scores: str = ""
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True)
class Recipe:
    """The description of a corpus. Relative paths start at `folder`."""

    name: str
    description: str
    licence: str
    citation: str
    language: str
    sources: tuple[Source, ...]
    tasks: tuple[Task, ...] = ()
    folder: Path = field(default=Path(), compare=False)

    @property
    def known_language(self) -> str:
        """The language; empty if it is not known (`und`)."""
        return "" if self.language == "und" else self.language

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe without its tasks and its folder."""
        content = {key: value for key, value in asdict(self).items() if key not in ("tasks", "folder")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def recipes_folder() -> Path:
    """The folder of this package's recipes: inside the package in a wheel, next to it in a checkout."""
    package = Path(str(resources.files("domain_ft")))
    inside = package / "corpora"
    return inside if inside.is_dir() else package.parent / "corpora"


def recipe_names() -> list[str]:
    """The names of the recipes that come with this package, sorted."""
    return sorted(path.stem for path in recipes_folder().glob("*.toml"))


def list_recipes() -> list[Recipe]:
    """The recipes that come with this package, by name."""
    return [load_recipe(recipes_folder() / f"{name}.toml") for name in recipe_names()]


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        CorpusError: the file cannot be read, is not TOML, or is not a valid recipe (see `parse_recipe`).
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError covers TOML and Unicode errors
        raise CorpusError(f"{path.name} is not valid TOML: {error}", where=str(path)) from error
    except OSError as error:
        raise CorpusError(f"{path.name} cannot be read: {error.strerror}", where=str(path)) from error
    return parse_recipe(values, name=path.stem, folder=path.parent, where=str(path))


def parse_recipe(values: Mapping[str, Any], *, name: str, folder: Path, where: str) -> Recipe:
    """The recipe with the `values` of a TOML file. `name` is its name if `values` has none.

    Raises:
        CorpusError: `values` is not a valid recipe. The message lists the problems of all its tables.
    """
    problems = _check_table(values, _RECIPE_KEYS, "the recipe")
    sources = _tables(values.get("sources"), "sources", problems)
    tasks = _tables(values.get("tasks"), "tasks", problems)
    if not sources and "sources" in values and not problems:
        problems.append("the recipe has no [[sources]]: there is nothing to read")
    for index, table in enumerate(sources, 1):
        problems += _check_place(table, f"source {index}", _SOURCE_KEYS, {}, READERS)
    for index, table in enumerate(tasks, 1):
        of_hub = table.get("kind") == "hub"
        readers = _HUB_READERS if of_hub else RECORDS
        problems += _check_place(table, f"task {index}", _TASK_SOURCE_KEYS, _TASK_KEYS, readers)
        problems += _check_hub_reader(table, f"task {index}") if of_hub else []
    names = [task.get("name") for task in tasks]
    repeated = sorted({name for name in names if isinstance(name, str) and names.count(name) > 1})
    problems += [f"{names.count(name)} tasks are named '{name}'" for name in repeated]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise CorpusError(f"the corpus recipe '{name}' has {count}:{listed}", where=where)
    return Recipe(
        name=values.get("name", name),
        description=values.get("description", ""),
        licence=values.get("licence", "unknown"),
        citation=values.get("citation", ""),
        language=values.get("language", "und"),
        sources=tuple(Source(**table) for table in sources),
        tasks=tuple(Task(**table) for table in tasks),
        folder=folder,
    )


def _tables(value: Any, key: str, problems: list[str]) -> list[dict[str, Any]]:
    """The tables of a list such as [[sources]]. The first item that is not a table is reported in `problems`."""
    if not isinstance(value, list):
        return []
    wrong = [item for item in value if not isinstance(item, dict)]
    if wrong:
        problems.append(f"'{key}' holds {wrong[0]!r}, where a table is expected: begin each table with [[{key}]]")
    return [item for item in value if isinstance(item, dict)]


def _check_place(
    table: Mapping[str, Any],
    label: str,
    kinds: Mapping[str, dict[str, tuple[type, bool]]],
    shared: Mapping[str, tuple[type, bool]],
    readers: Collection[str],
) -> list[str]:
    """What is wrong with a source or task.

    Args:
        table: the source or task.
        label: names it in messages.
        kinds: the valid keys of each kind.
        shared: further valid keys, for every kind.
        readers: the valid names of readers.
    """
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        given = "has no 'kind'" if kind is None else f"is of kind {kind!r}"
        every = {key: (wanted, False) for keys in kinds.values() for key, (wanted, _) in keys.items()}
        problems = _check_table(table, {"kind": (str, False), **shared, **every}, label) if shared else []
        return [f"{label} {given}: {nearest(str(kind), kinds)}", *problems]
    problems = _check_table(table, {"kind": (str, True), **shared, **kinds[kind]}, label)
    reader, asset, path = table.get("reader"), table.get("asset"), table.get("path")
    if isinstance(reader, str) and reader not in readers:
        problems.append(f"{label} has no such reader '{reader}': {nearest(reader, readers)}")
    if kind == "asset" and isinstance(asset, str) and asset not in ASSETS:
        problems.append(f"{label} has no such asset '{asset}': {nearest(asset, ASSETS)}")
    if kind == "asset" and isinstance(path, str):
        inner = PurePosixPath(path)
        if inner.is_absolute() or ".." in inner.parts:
            problems.append(f"{label}: the path '{path}' leaves the asset")
    count = table.get("documents")
    if isinstance(count, int) and count < 1:
        problems.append(f"{label}: documents = {count}, where 1 or more is expected")
    return problems


def _check_hub_reader(table: Mapping[str, Any], label: str) -> list[str]:
    """What is wrong with a hub task's keys for its reader."""
    reader = str(table.get("reader"))
    needed = _HUB_READERS.get(reader, ())
    problems = [f"{label} has no '{key}', which the reader '{reader}' needs" for key in needed if key not in table]
    unused = [key for key in _HUB_READERS["relations"] if key in table and key not in needed]
    problems += [f"{label}: '{key}' is only for the reader 'relations'" for key in unused]
    marks = table.get("marks")
    if isinstance(marks, dict):
        if not 1 <= len(marks) <= 2:
            problems.append(f"{label}: 'marks' has {len(marks)} keys, where 1 or 2 are expected")
        wrong = [mark for mark, types in marks.items() if not isinstance(types, str) or not types.strip(", ")]
        problems += [f"{label}: marks.{mark} = {marks[mark]!r}, where types of entities are expected" for mark in wrong]
    return problems


def _check_table(table: Mapping[str, Any], keys: Mapping[str, tuple[type, bool]], label: str) -> list[str]:
    problems = [f"{label} has an unknown key '{key}': {nearest(key, keys)}" for key in table if key not in keys]
    for key, (wanted, required) in keys.items():
        if key not in table:
            if required:
                problems.append(f"{label} has no '{key}'")
        elif not isinstance(table[key], wanted) or isinstance(table[key], bool):
            problems.append(f"{label}: {key} = {table[key]!r}, where {_TYPE_NAMES[wanted]} is expected")
        elif wanted is str and required and not table[key].strip():
            problems.append(f"{label}: '{key}' is empty")
    return problems
