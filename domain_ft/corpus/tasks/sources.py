"""The sources of a classification task: files given as options, or a task of a recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain_ft.corpus import assets
from domain_ft.corpus.assets import ASSETS
from domain_ft.corpus.corpus import content_key
from domain_ft.corpus.examples import SPLITS
from domain_ft.corpus.knowledge_bases import RelationReader
from domain_ft.corpus.readers.base import OnBadRecord, field_names
from domain_ft.corpus.recipes import Recipe, Task, load_recipe, recipe_names, recipes_folder
from domain_ft.corpus.tasks.labels import LabelKind, LabelRules
from domain_ft.corpus.tasks.reading import (
    Place,
    RowReader,
    file_place,
    flat_record,
    hub_places,
    places,
    single_label,
)
from domain_ft.errors import CorpusError, nearest
from domain_ft.progress import Progress
from domain_ft.storage import user_path

_FIELDS = ("text_field", "pair_field", "label_field", "id_field", "group_field", "label_names", "label_separator")


@dataclass(frozen=True)
class TaskSource:
    """A task of a recipe, or files. The attributes are the options of the same names."""

    task: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    test_ids: Path | None = None
    text_field: str | None = None
    pair_field: str | None = None
    label_field: str | None = None
    id_field: str | None = None
    group_field: str | None = None
    label_names: str | None = None
    label_separator: str | None = None
    label_kind: LabelKind = "auto"
    on_bad_record: OnBadRecord = "stop"
    encoding: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.2

    @classmethod
    def of(cls, settings: Any) -> TaskSource:
        """The source that the settings of a verb such as `classify` describe."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(settings, name) for name in names if hasattr(settings, name)})

    @property
    def label_rules(self) -> LabelRules:
        """The options on how labels are written."""
        return LabelRules(self.label_separator, field_names(self.label_names), self.label_kind)


def find_task(name: str) -> tuple[Recipe, Task]:
    """The task `RECIPE/TASK` of a recipe in this package, or `FILE.toml/TASK`.

    Raises:
        CorpusError: the recipe or task does not exist. The message lists the names that exist.
    """
    corpus, _, wanted = name.rpartition("/")
    path = user_path(corpus)
    if corpus in recipe_names():
        recipe = load_recipe(recipes_folder() / f"{corpus}.toml")
    elif path.suffix.lower() == ".toml" and path.is_file():
        recipe = load_recipe(path)
    else:
        known = [
            f"{recipe_name}/{task.name}"
            for recipe_name in recipe_names()
            for task in load_recipe(recipes_folder() / f"{recipe_name}.toml").tasks
        ]
        raise CorpusError(f"there is no task '{name}'", fix=f"{nearest(name, known)}; or give your own FILE.toml/TASK")
    for task in recipe.tasks:
        if task.name == wanted:
            return recipe, task
    raise CorpusError(
        f"corpus '{recipe.name}' has no task '{wanted}'",
        where=str(path) if path.suffix else None,
        fix=nearest(wanted, [task.name for task in recipe.tasks]) if recipe.tasks else "add [[tasks]] to the recipe",
    )


def find_places(source: TaskSource, progress: Progress | None) -> tuple[TaskSource, dict[str, Place], dict[str, Any]]:
    """The locations of the examples of each split.

    Args:
        source: a task or files.
        progress: called while an asset is fetched.

    Returns:
        source: completed with the fields that the recipe names.
        places: by split; `train`, and the others that the source has.
        facts: the recipe's description of the task; empty for files.

    Raises:
        CorpusError: a task and files are both given, neither a task nor a training file is, they do not exist, or an
            option contradicts the task.
        AssetError: an asset cannot be fetched.
    """
    if source.task and (source.train or source.validation or source.test):
        reason = f"both --task {source.task} and files of examples are given"
        raise CorpusError(reason, fix="give a task or files, not both")
    if source.task:
        return _places_of_task(source, source.task, progress)
    if not source.train:
        fix = "name a task (--task legal/license-category) or a file (--train FILE)"
        raise CorpusError("no training examples are given", fix=fix)
    return source, _file_places(source, Path()), {}


def _file_places(files: TaskSource | Task, folder: Path) -> dict[str, Place]:
    """The splits in the training source, and those with a separate source. Relative paths start at `folder`."""
    by_split: dict[str, Place] = {}
    for split in SPLITS:
        spec = getattr(files, split)
        if spec:
            of_spec = places(spec if spec.startswith("hf:") else str(folder / user_path(spec)))
            by_split.update(of_spec if split == "train" else {split: of_spec.get(split, of_spec["train"])})
    return by_split


def _places_of_task(
    source: TaskSource, name: str, progress: Progress | None
) -> tuple[TaskSource, dict[str, Place], dict[str, Any]]:
    recipe, task = find_task(name)
    wrong = [field for field in _FIELDS if getattr(source, field)]
    if wrong:
        option = f"--{wrong[0].replace('_', '-')}"
        raise CorpusError(f"{option} has no effect: the task '{name}' defines its fields", fix="leave it out")
    if source.test_ids and task.test_ids:
        raise CorpusError(f"--test-ids has no effect: the task '{name}' has its own test ids", fix="leave it out")
    source = dataclasses.replace(source, **{field: getattr(task, field) for field in _FIELDS})
    facts = {
        "description": task.description,
        "licence": task.licence or recipe.licence,
        "citation": task.citation or recipe.citation,
        "language": recipe.known_language,
        "weaknesses": task.weaknesses,
        "recipe": content_key(dataclasses.asdict(task)),
    }
    if task.split:
        facts["split"] = task.split
    if task.kind == "hub":
        return source, hub_places(str(task.id), task.config, task.revision, _row_reader(task)), facts
    if task.kind == "files":
        if task.test_ids:
            source = dataclasses.replace(source, test_ids=recipe.folder / user_path(task.test_ids))
        return source, _file_places(task, recipe.folder), facts
    folder = assets.ensure(str(task.asset), progress)
    files = [(path, path.name) for path in sorted(folder.glob(str(task.path)))]
    if not files:
        raise CorpusError(f"asset {task.asset} has no '{task.path}'", where=recipe.name)
    content = [ASSETS[str(task.asset)].sha256, task.path, task.reader]
    return source, {"train": file_place(files, task.reader, content)}, facts


def _row_reader(task: Task) -> RowReader:
    """The reader for the rows of a task on the hub."""
    if task.reader == "single-label":
        return single_label(str(task.label_field))
    if task.reader == "relations":
        marks = {mark: field_names(types) for mark, types in (task.marks or {}).items()}
        relations = field_names(task.relations)
        return RowReader(RelationReader(marks, relations), ("relations", list(marks.items()), relations))
    return RowReader(flat_record)
