"""task.json of a run: what is needed beside the weights to predict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from domain_ft.errors import ModelError
from domain_ft.storage import write_json

TASK_NAME = "task.json"
"""The file of a run folder that says what its model is for."""


@dataclass(frozen=True)
class TaskFacts:
    """What a run of `classify` or `tag` says of its task.

    Attributes:
        kind: `sequence` where texts are classified, `token` where entities are found.
        labels: names of the classes, in the order of the model's outputs.
        several: whether several of them may hold.
        method: lora, dora, full or head.
        base: the model that was trained.
        max_length: tokens that the model reads at once.
        long_text: what is read of a longer text.
        temperature: divides the logits before they become probabilities.
        threshold: where several may hold, the probability from which on a class is said.
        fields: the names of the fields that were learned from, by what they hold.
    """

    kind: Literal["sequence", "token"]
    labels: tuple[str, ...]
    several: bool
    method: Literal["lora", "dora", "full", "head"]
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
        """Those of a finished run.

        Raises:
            ModelError: the folder holds no finished run of a task, or its task.json is damaged.
        """
        path = folder / TASK_NAME
        if not path.is_file() or not (folder / "result.json").is_file():
            raise ModelError(
                f"'{folder}' is not the folder of a finished run of `classify` or `tag`: it has no "
                f"{TASK_NAME if not path.is_file() else 'result.json'}",
                fix="give the folder that such a run wrote; one that was stopped goes on with --resume",
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**values, "labels": tuple(values["labels"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{TASK_NAME} is damaged: {error}", where=str(path), fix="run the task again") from error
