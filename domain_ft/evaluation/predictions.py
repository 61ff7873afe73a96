"""A model's predictions for a task's examples: logits and targets, without any text.

A run stores those of each seed in a small .npz file. Metrics, calibration, reports and comparisons read this file
without torch.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.examples import Example, Labels
from domain_ft.errors import CheckpointError
from domain_ft.storage import write_atomic

Array = npt.NDArray[Any]

DAMAGED = (
    OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, AttributeError, zipfile.BadZipFile
)  # fmt: skip
"""What reading with numpy and json raises for a file that is missing, truncated, edited, or of another kind."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The logits of n examples over L classes, and their targets.

    Attributes:
        ids: (n,) the examples' ids.
        groups: (n,) int64; examples of one source share a number, and are resampled together.
        targets: (n,) int64, the classes; multi-label (n, L) uint8 of 0 and 1.
        logits: (n, L) float32.
        labels: the classes, in the order of the logits.
        temperature: divides the logits before the softmax or sigmoid; fitted on validation examples.
        threshold: the lowest probability at which a class is predicted in a multi-label task; fitted on validation
            examples.
    """

    ids: tuple[str, ...]
    groups: Array
    targets: Array
    logits: Array
    labels: Labels
    temperature: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        expected = {
            "groups": (len(self.ids),),
            "targets": (len(self.ids), len(self.labels)) if self.labels.multi_label else (len(self.ids),),
            "logits": (len(self.ids), len(self.labels)),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"predictions with {name} of shape {getattr(self, name).shape}, not {shape}")

    @classmethod
    def of(cls, examples: Iterable[Example], labels: Labels, logits: npt.ArrayLike) -> Predictions:
        """The predictions for n `examples` with (n, L) `logits`. The examples are read once, in order."""
        ids, sources, names = [], [], []
        for example in examples:
            ids.append(example.id)
            sources.append(example.group or example.id)
            names.append(example.labels)
        targets = labels.targets(names)
        return cls(
            ids=tuple(ids),
            groups=np.unique(sources, return_inverse=True)[1].astype(np.int64).reshape(-1),
            targets=targets.astype(np.uint8) if labels.multi_label else targets,
            logits=np.asarray(logits, dtype=np.float32).reshape(len(ids), len(labels)),
            labels=labels,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def key(self) -> str:
        """Identifies the test set: equal keys mean the same ids with the same targets in the same order.

        It uses the classes' names, not their numbers, since two runs may order the same classes differently.
        """
        names = self.labels.names
        digest = hashlib.blake2b(digest_size=16)
        for example, target in zip(self.ids, self.targets, strict=True):
            classes = (
                sorted(names[place] for place in np.flatnonzero(target)) if self.labels.multi_label else [names[target]]
            )
            digest.update("\x1f".join([example, *classes]).encode("utf-8", "surrogatepass") + b"\x1e")
        return digest.hexdigest()

    def probabilities(self, temperature: float | None = None) -> npt.NDArray[np.float64]:
        """(n, L): the softmax of the logits, or for a multi-label task the sigmoid.

        Args:
            temperature: divides the logits; by default `self.temperature`.
        """
        return probabilities(
            self.logits, self.labels.multi_label, self.temperature if temperature is None else temperature
        )

    def predicted(self, threshold: float | None = None) -> Array:
        """(n,) int64, the likeliest class; multi-label (n, L) uint8, 1 where the probability reaches the threshold.

        Args:
            threshold: of the probabilities; by default `self.threshold`.
        """
        if not self.labels.multi_label:
            return self.logits.argmax(axis=1)
        return (self.probabilities() >= (self.threshold if threshold is None else threshold)).astype(np.uint8)

    def save(self, path: Path) -> None:
        """Write an .npz file atomically; the folder is created if missing."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            ids=_packed(self.ids),
            groups=self.groups,
            targets=self.targets,
            logits=self.logits,
            labels=_packed(self.labels.names),
            multi_label=np.array(self.labels.multi_label),
            temperature=np.array(self.temperature),
            threshold=np.array(self.threshold),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or another kind of file.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                return cls(
                    ids=_unpacked(stored["ids"]),
                    groups=stored["groups"],
                    targets=stored["targets"],
                    logits=stored["logits"],
                    labels=Labels(
                        _unpacked(stored["labels"]),
                        multi_label=bool(stored["multi_label" if "multi_label" in stored else "several"]),
                    ),
                    temperature=float(stored["temperature"]),
                    threshold=float(stored["threshold"]),
                )
        except DAMAGED as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else "is damaged, or of another kind"
            raise CheckpointError(
                f"the predictions of a run cannot be read: the file {reason}",
                where=str(path),
                fix="run the task again with another --output",
            ) from error


def probabilities(logits: Array, multi_label: bool, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """(n, L) probabilities of (n, L) `logits`: softmax, or sigmoid if `multi_label`."""
    values = np.asarray(logits, dtype=np.float64) / (-temperature if multi_label else temperature)
    if multi_label:
        np.logaddexp(0, values, out=values)
        np.negative(values, out=values)
        return np.exp(values, out=values)
    values -= values.max(axis=1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


def _packed(names: Sequence[str]) -> Array:
    """Strings as bytes of JSON; numpy's string arrays would pad each string to the longest."""
    return np.frombuffer(json.dumps(list(names)).encode(), dtype=np.uint8)


def _unpacked(stored: Array) -> tuple[str, ...]:
    return tuple(json.loads(stored.tobytes()))
