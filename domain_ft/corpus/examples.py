"""The data of a downstream task: labelled examples in splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.left_out import LeftOut

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """An example of a classification task.

    Attributes:
        id: the record's id, or `file:line`.
        text: the text to classify, or the first text of a pair.
        pair: the second text of a pair.
        labels: the names of its classes: one, or any number in a multi-label task.
        group: examples of one group go to one split. If unknown, it is empty, or equal to `id` for tagged texts.
        file: the file's name.
        line: counted from 1; None if the file has no lines.
    """

    id: str
    text: str
    labels: tuple[str, ...]
    pair: str | None = None
    group: str = ""
    file: str = ""
    line: int | None = None


@dataclass(frozen=True)
class Input(Example):
    """An unlabelled example to predict, with its text before cleaning.

    Attributes:
        given: the text before cleaning; several fields are joined by blank lines. Reported offsets refer to it.
        key: the record's id with its original type (a number stays a number), or `file:line`.
    """

    given: str = ""
    key: str | int | float = ""

    @property
    def read(self) -> tuple[str, ...]:
        """The texts that the prediction depends on."""
        return self.text, self.pair or "", self.given


@dataclass(frozen=True)
class Labels:
    """The classes of a task.

    Attributes:
        names: in the order of the model's outputs.
        multi_label: whether an example may have any number of them.
    """

    names: tuple[str, ...]
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def targets(self, labels: Sequence[Sequence[str]]) -> npt.NDArray[Any]:
        """(examples,) int64 class indices, or (examples, classes) float32 of 0 and 1 for a multi-label task.

        Raises:
            KeyError: a label is not a class.
        """
        index_of = {name: index for index, name in enumerate(self.names)}
        if not self.multi_label:
            return np.array([index_of[names[0]] for names in labels], dtype=np.int64)
        targets = np.zeros((len(labels), len(self.names)), dtype=np.float32)
        for row, names in zip(targets, labels, strict=True):
            row[[index_of[name] for name in names]] = 1
        return targets


class Examples(Protocol):
    """The examples of a split, in a fixed order. They need not fit into memory."""

    @property
    def key(self) -> str:
        """A hash of the content: equal keys mean equal examples in equal order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...

    def take(self, indices: npt.ArrayLike) -> Examples:
        """The examples with these indices, in that order. Indices may repeat."""


@dataclass(frozen=True)
class TaskData:
    """A task, read and split.

    Attributes:
        name: for reports.
        labels: its classes.
        splits: the three splits, by the names in `SPLITS`.
        key: a hash of the content.
        facts: for reports: the description, licence, citation, language, method of splitting and known weaknesses.
        notes: sentences for the user, for example about classes with one example.
        left_out: the records, fields and files that were not read.
    """

    name: str
    labels: Labels
    splits: Mapping[str, Examples]
    key: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
