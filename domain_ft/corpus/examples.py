"""What a downstream task is made of: examples with labels, in splits."""

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
    """A record of a classification task.

    Attributes:
        id: the record's own id, or `file:line`.
        text: what is classified; of a pair the first text.
        pair: the second text of a pair.
        labels: names; one of a single-label task, any number where several may hold.
        group: examples of one group share a source and go to one split; the id where nothing is known of it.
        file: the name of the file that it stands in.
        line: its line, counted from 1; None where the file has no lines.
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
    """A text that is to be predicted: an example without labels, with what its record has before cleaning.

    Attributes:
        given: the text as the user gave it; several fields are joined by a blank line. What is found in `text` is
            reported in this one.
        key: the record's id as it has it, a number too; or `file:line`.
    """

    given: str = ""
    key: str | int | float = ""

    @property
    def read(self) -> tuple[str, ...]:
        """The texts that its answer depends on."""
        return self.text, self.pair or "", self.given


@dataclass(frozen=True)
class Labels:
    """The classes of a task.

    Attributes:
        names: in the order of the model's outputs.
        multi_label: whether an example may have several of them, or none.
    """

    names: tuple[str, ...]
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def targets(self, labels: Sequence[Sequence[str]]) -> npt.NDArray[Any]:
        """(examples,) int64, or where several may hold (examples, classes) float32 of 0 and 1.

        Raises:
            KeyError: a name that is none of the classes.
        """
        place = {name: index for index, name in enumerate(self.names)}
        if not self.multi_label:
            return np.array([place[own[0]] for own in labels], dtype=np.int64)
        targets = np.zeros((len(labels), len(self.names)), dtype=np.float32)
        for row, own in zip(targets, labels, strict=True):
            row[[place[name] for name in own]] = 1
        return targets


class Examples(Protocol):
    """The examples of a split, in an order that stays. They may be more than the memory holds."""

    @property
    def key(self) -> str:
        """A name for the content: equal keys, equal examples in equal order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...

    def take(self, indices: npt.ArrayLike) -> Examples:
        """The examples with these indices, in that order; one may come twice."""


@dataclass(frozen=True)
class TaskData:
    """A task, read and split.

    Attributes:
        name: what it is called in reports.
        labels: its classes.
        splits: by name of `SPLITS`; `train` and `test` always, `validation` always.
        key: names the content of all of it.
        facts: what reports tell of it: description, licence, citation, language, how it was split, known weaknesses.
        notes: what a person should know, in sentences (a numeric label is a class, classes that appear once).
        left_out: the records, fields and files that were not read.
    """

    name: str
    labels: Labels
    splits: Mapping[str, Examples]
    key: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
