"""The facts of a task that its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain_ft.corpus.examples import TaskData


WORST = 20  # test examples with mistakes that a report shows


@dataclass(frozen=True)
class TaskSummary:
    """A task, for the report.

    Attributes:
        name: the task's name, such as `legal/license-category`.
        labels: the names of the classes.
        multi_label: whether an example can have several classes.
        examples: the number of examples by split.
        facts: `TaskData.facts`: description, licence, citation, language, how the task was split, known weaknesses.
        notes: sentences on how the task was read.
    """

    name: str
    labels: Sequence[str]
    multi_label: bool = False
    examples: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, task: TaskData) -> TaskSummary:
        """The facts of a task that was read."""
        return cls(
            name=task.name,
            labels=task.labels.names,
            multi_label=task.labels.multi_label,
            examples={split: len(examples) for split, examples in task.splits.items()},
            facts=task.facts,
            notes=tuple(task.notes),
        )
