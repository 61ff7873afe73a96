"""The available corpora, tasks and embedded models, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from domain_ft.corpus import assets
from domain_ft.corpus.assets import ASSETS
from domain_ft.corpus.recipes import Recipe, Source, Task, list_recipes
from domain_ft.models.catalogue import EMBEDDED
from domain_ft.storage import user_path


@dataclass(frozen=True)
class SourceEntry:
    """Where text or a model comes from.

    Attributes:
        kind: `asset`, `files` or `hub`.
        name: the asset and its version, the path, or `hf:ID[:config]` on the Hub.
        bytes: the size of the download; None if unknown.
        cached: whether it is on this machine; None if unknown.
    """

    kind: str
    name: str
    bytes: int | None
    cached: bool | None


@dataclass(frozen=True)
class TaskEntry:
    """A task that belongs to a corpus.

    Attributes:
        name: the value for --task.
        description, licence, citation, split, weaknesses, scores: from the recipe; licence and citation are those of
            the corpus if the task has none.
        classes: the number of classes; None if the recipe does not say.
        source: where the examples come from.
    """

    name: str
    description: str
    classes: int | None
    licence: str
    citation: str
    split: str
    weaknesses: str
    scores: str
    source: SourceEntry


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus with a recipe."""

    name: str
    description: str
    licence: str
    language: str
    sources: tuple[SourceEntry, ...]
    tasks: tuple[TaskEntry, ...]


@dataclass(frozen=True)
class ModelEntry:
    """An embedded model."""

    name: str
    description: str
    licence: str
    source: SourceEntry


@dataclass(frozen=True)
class Inventory:
    """All corpora and models with a built-in name."""

    corpora: tuple[CorpusEntry, ...]
    models: tuple[ModelEntry, ...]


def list_corpora() -> Inventory:
    """The corpora and models that come with domain-ft."""
    return Inventory(
        tuple(corpus_entry(recipe) for recipe in list_recipes()),
        tuple(
            ModelEntry(name, ASSETS[model.asset].about, ASSETS[model.asset].licence, _asset_entry(model.asset))
            for name, model in EMBEDDED.items()
        ),
    )


def corpus_entry(recipe: Recipe) -> CorpusEntry:
    return CorpusEntry(
        recipe.name,
        recipe.description,
        recipe.licence,
        recipe.language,
        tuple(_source_entry(source, recipe.folder) for source in recipe.sources),
        tuple(_task_entry(recipe, task) for task in recipe.tasks),
    )


def _task_entry(recipe: Recipe, task: Task) -> TaskEntry:
    source = Source(kind=task.kind, asset=task.asset, path=task.train or task.path, id=task.id, config=task.config)
    return TaskEntry(
        f"{recipe.name}/{task.name}",
        task.description,
        task.classes,
        task.licence or recipe.licence,
        task.citation or recipe.citation,
        task.split or "as given",
        task.weaknesses,
        task.scores,
        _source_entry(source, recipe.folder),
    )


def _source_entry(source: Source, folder: Path) -> SourceEntry:
    if source.kind == "asset":
        return _asset_entry(str(source.asset))
    if source.kind == "files":
        return SourceEntry("files", str(source.path), None, (folder / user_path(str(source.path))).exists())
    return SourceEntry("hub", ":".join(part for part in ("hf", source.id, source.config) if part), None, None)


def _asset_entry(name: str) -> SourceEntry:
    asset = ASSETS[name]
    return SourceEntry("asset", f"{asset.name} {asset.version}", asset.bytes, assets.is_cached(name))
