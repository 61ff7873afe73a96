"""task.json of a run: what prediction needs besides the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from domain_ft.errors import ModelError
from domain_ft.json_files import Kinds, read_object
from domain_ft.storage import write_json

TASK_NAME = "task.json"
"""The file of a run folder with its `TaskFacts`."""

_FIX = "use another run, or run the task again"
_NEEDED: Kinds = {"kind": str, "labels": list, "multi_label": bool, "method": str, "base": str, "max_length": int}
_KINDS: Kinds = {**_NEEDED, "long_text": str, "temperature": float, "threshold": float, "fields": dict}

_FORMER = {"several": "multi_label"}
"""Keys of the previous version, which are still read, and their current names."""


@dataclass(frozen=True)
class TaskFacts:
    """The task of a run of `classify` or `tag`.

    Attributes:
        kind: `sequence` for texts, `token` for entities.
        labels: names of the classes, in the order of the model's outputs.
        multi_label: whether an example may have any number of classes.
        method: lora, dora, full, head or contrastive.
        base: the model that was trained.
        max_length: the most tokens in a sequence.
        long_text: how texts longer than `max_length` are read.
        temperature: divides the logits before the softmax or sigmoid.
        threshold: in a multi-label task, the least probability at which a class is predicted.
        fields: the names of the fields in the data, such as {"text": "body"}.
    """

    kind: Literal["sequence", "token"]
    labels: tuple[str, ...]
    multi_label: bool
    method: Literal["lora", "dora", "full", "head", "contrastive"]
    base: str
    max_length: int
    long_text: Literal["truncate", "head-tail", "windows"] = "truncate"
    temperature: float = 1.0
    threshold: float = 0.5
    fields: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write task.json into a run folder."""
        write_json(folder / TASK_NAME, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> TaskFacts:
        """The task of a finished run.

        Raises:
            ModelError: the folder is not a finished run of a task, or its task.json is damaged.
        """
        path = folder / TASK_NAME
        if not path.is_file() or not (folder / "result.json").is_file():
            raise ModelError(
                f"'{folder}' is not the folder of a finished run of `classify` or `tag`: it has no "
                f"{TASK_NAME if not path.is_file() else 'result.json'}",
                fix="give the folder that such a run wrote; --resume continues a stopped run",
            )
        values = read_facts(folder)
        try:
            return cls(**{**values, "labels": tuple(values["labels"])})
        except TypeError as error:  # an unknown key
            raise ModelError(f"{TASK_NAME} is damaged: {error}", where=str(path), fix=_FIX) from error


TO_LOAD = ("kind", "labels", "multi_label")
"""The keys of task.json that loading the model needs; prediction needs the others too."""


def read_facts(folder: Path, needed: tuple[str, ...] = tuple(_NEEDED)) -> dict[str, Any]:
    """The values of a run's task.json, with checked types.

    Raises:
        ModelError: the file is missing or damaged, or lacks a `needed` key.
    """
    path = folder / TASK_NAME
    values = read_object(path, ModelError, kinds=_KINDS, needed=needed, fix=_FIX, former=_FORMER)
    problem = None
    if values["kind"] not in ("sequence", "token"):
        problem = f"the kind {values['kind']!r} is neither sequence nor token"
    elif not values["labels"] or not all(isinstance(label, str) for label in values["labels"]):
        problem = "the labels are not a list of names"
    elif values.get("max_length", 1) < 1:
        problem = f"max_length is {values['max_length']}"
    elif not 0 < values.get("temperature", 1.0) < math.inf:
        problem = f"the temperature is {values['temperature']}"
    if problem:
        raise ModelError(f"{TASK_NAME} is damaged: {problem}", where=str(path), fix=_FIX)
    return values
