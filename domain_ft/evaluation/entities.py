"""Entity-level precision, recall and F1, as in conlleval and seqeval.

A predicted entity is correct if its start, end and type are correct. For each text a run stores the numbers of
correct, false and missed entities of each type. These counts suffice for all scores, for intervals over documents (over
texts, if the documents are unknown), and for paired comparisons. They contain no text.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.tagging.entities import Span, TaggedText
from domain_ft.corpus.words import Bounds, find_words
from domain_ft.errors import CheckpointError
from domain_ft.evaluation.bootstrap import FEW_DOCUMENTS, LEVEL, RESAMPLES
from domain_ft.evaluation.counts import Array, counts_difference, f1, macro_f1, scores, wilson
from domain_ft.evaluation.predictions import DAMAGED
from domain_ft.storage import write_atomic

RIGHT, FALSE, MISSED = range(3)
"""Indices of the last axis of counts: TP, FP, FN."""


@dataclass(frozen=True, eq=False)
class EntityCounts:
    """Counts of the entities that one model, or one seed of a run, predicted in n texts.

    Attributes:
        types: the K types of true and predicted entities, sorted.
        counts: (n, K, 3) int64, the correct, false and missed entities of each type in each text.
        ids: (n,) the texts' ids.
        groups: (n,) the document of each text, or the text's id if the document is unknown.
    """

    types: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[TaggedText], predicted: Iterable[Collection[Span]]) -> EntityCounts:
        """The counts for the `predicted` spans of each of `texts`."""
        guesses = [set(spans) for spans in predicted]
        truths = [set(text.spans) for text in texts]
        types = tuple(sorted({span.label for spans in (*guesses, *truths) for span in spans}))
        place = {name: index for index, name in enumerate(types)}
        counts = np.zeros((len(texts), len(types), 3), dtype=np.int64)
        for row, guess, truth in zip(counts, guesses, truths, strict=True):
            for kind, spans in ((RIGHT, guess & truth), (FALSE, guess - truth), (MISSED, truth - guess)):
                for span in spans:
                    row[place[span.label], kind] += 1
        return cls(types, counts, tuple(text.id for text in texts), tuple(text.group or text.id for text in texts))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def units(self) -> int:
        """The number of documents, or of texts if documents are unknown."""
        return len(set(self.groups))

    @property
    def entities(self) -> int:
        """The number of true entities."""
        return int(self.counts[..., RIGHT].sum() + self.counts[..., MISSED].sum())

    @functools.cached_property
    def key(self) -> str:
        """Identifies the test set: equal keys mean equal ids in order, with equal numbers of true entities by type."""
        digest = hashlib.blake2b(digest_size=16)
        support = self.counts[..., RIGHT] + self.counts[..., MISSED]  # (n, K)
        for name, row in zip(self.ids, support, strict=True):
            by_type = {kind: count for kind, count in zip(self.types, row.tolist(), strict=True) if count}
            digest.update(json.dumps([name, by_type]).encode() + b"\n")
        return digest.hexdigest()

    def point_scores(self) -> dict[str, float]:
        """The scores of `ENTITY_METRICS` on all texts, without intervals."""
        sums = self.counts.sum(axis=0, dtype=np.float64).T.reshape(1, -1)
        values = _scores(self.types, sums)
        return {name: float(values[name][0]) for name in ENTITY_METRICS}

    def over_units(self, types: Sequence[str]) -> Array:
        """(units, 3 K) sums over each group: TP of each of the K `types`, then FP, then FN.

        Args:
            types: all types of these counts, and any others.
        """
        place = {name: index for index, name in enumerate(types)}
        units = np.unique(self.groups, return_inverse=True)[1].reshape(-1)
        sums = np.zeros((int(units.max()) + 1, len(types), 3))
        columns = np.array([place[name] for name in self.types], dtype=np.int64)
        np.add.at(sums, (units[:, None], columns), self.counts)
        return sums.transpose(0, 2, 1).reshape(len(sums), -1)

    def save(self, path: Path) -> None:
        """Write an .npz file atomically; the folder is created if missing."""
        lists = {"types": self.types, "ids": self.ids, "groups": self.groups}
        stored = {name: np.frombuffer(json.dumps(list(one)).encode(), dtype=np.uint8) for name, one in lists.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, counts=self.counts, **stored)  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> EntityCounts:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or another kind of file.
        """
        try:
            # From memory, since numpy does not close a damaged file.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                names = {name: tuple(json.loads(stored[name].tobytes())) for name in ("types", "ids", "groups")}
                return cls(counts=stored["counts"], **names)
        except DAMAGED as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else "is damaged, or of another kind"
            raise CheckpointError(
                f"the counts of a run's entities cannot be read: the file {reason}",
                where=str(path),
                fix="run the task again with another --output",
            ) from error


def entity_metrics(seeds: Sequence[EntityCounts], *, seed: int = 0) -> dict[str, Any]:
    """The scores of a run whose seeds were all tested on the same texts.

    `precision`, `recall` and `f1` are over all entities (micro); `macro_f1` is the mean F1 over the types of true and
    predicted entities (seqeval's definitions). With several seeds each score is the mean over the seeds.

    Returns:
        {"precision", "recall", "f1", "macro_f1", "examples", "units" (the number of documents or texts, which are
        resampled), "few_units", "level", "resamples", "entities", "per_type": {name: {"precision", "recall", "f1",
        "support", "interval" (of F1)}}, "interval": {metric: [low, high]}, "seeds": {metric: {"mean", "sd",
        "values"}}}. Intervals are None for too few units.
    """
    types = _types(seeds)
    summaries = scores([counts.over_units(types) for counts in seeds], functools.partial(_scores, types), seed=seed)
    mean = {name: score["mean"] for name, score in summaries.items()}
    sums = np.mean([counts.over_units(types).sum(axis=0) for counts in seeds], axis=0).reshape(3, -1)  # (3, K)
    support = dict(zip(types, (sums[RIGHT] + sums[MISSED]).round().astype(int).tolist(), strict=True))
    return {
        **{name: mean[name] for name in ENTITY_METRICS},
        "examples": len(seeds[0]),
        "units": seeds[0].units,
        "few_units": seeds[0].units < FEW_DOCUMENTS,
        "level": LEVEL,
        "resamples": RESAMPLES,
        "entities": seeds[0].entities,
        "per_type": {
            name: {
                **{metric: mean[f"{metric} {name}"] for metric in ("precision", "recall", "f1")},
                "support": support[name],
                "interval": _type_interval(seeds, name, summaries[f"f1 {name}"]),
            }
            for name in types
        },
        "interval": {name: summaries[name]["interval"] for name in ENTITY_METRICS},
        "seeds": {name: {part: summaries[name][part] for part in ("mean", "sd", "values")} for name in ENTITY_METRICS},
    }


def _type_interval(seeds: Sequence[EntityCounts], name: str, summary: Mapping[str, Any]) -> list[float] | None:
    """[low, high] of a type's F1; None for too few units.

    If F1 is 1, this is Wilson's interval over the units that have the type.
    """
    if summary["interval"] is None or summary["mean"] < 1:
        return summary["interval"]
    types = seeds[0].types
    sums = seeds[0].over_units(types)
    of_type = sums.reshape(len(sums), 3, len(types))[:, :, types.index(name)]
    units = int((of_type.sum(axis=1) > 0).sum())
    return [wilson(1.0, units, LEVEL)[0], 1.0]


def entity_difference(
    base: Sequence[EntityCounts], other: Sequence[EntityCounts], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How much higher each of `ENTITY_METRICS` is for `other` than for `base`: see `counts_difference`.

    Raises:
        ValueError: the runs were tested on different texts, or on the same texts with other true entities.
    """
    if len({counts.key for counts in (*base, *other)}) > 1:
        raise ValueError("a paired difference needs the same texts in the same order on both sides")
    types = _types([*base, *other])
    before, after = ([counts.over_units(types) for counts in seeds] for seeds in (base, other))
    differences = counts_difference(before, after, functools.partial(_scores, types), seed=seed)
    return {name: differences[name] for name in ENTITY_METRICS}


ENTITY_METRICS = ("precision", "recall", "f1", "macro_f1")


def _types(seeds: Iterable[EntityCounts]) -> tuple[str, ...]:
    return tuple(sorted({name for counts in seeds for name in counts.types}))


def _scores(types: Sequence[str], sums: Array) -> Mapping[str, Array]:
    """Scores by name, (draws,) each, from (draws, 3 K) sums in the order of `over_units`."""
    right, false, missed = sums.reshape(len(sums), 3, len(types)).transpose(1, 0, 2)  # (draws, K) each
    values = {
        "precision": _share(right.sum(axis=1), false.sum(axis=1)),
        "recall": _share(right.sum(axis=1), missed.sum(axis=1)),
        "f1": f1(right.sum(axis=1), false.sum(axis=1), missed.sum(axis=1)),
        "macro_f1": macro_f1(right, false, missed),
    }
    for place, name in enumerate(types):
        of_type = right[:, place], false[:, place], missed[:, place]
        values[f"precision {name}"] = _share(of_type[RIGHT], of_type[FALSE])
        values[f"recall {name}"] = _share(of_type[RIGHT], of_type[MISSED])
        values[f"f1 {name}"] = f1(*of_type)
    return values


def _share(right: Array, wrong: Array) -> Array:
    """right / (right + wrong); 0 for 0/0."""
    total = right + wrong
    return np.divide(right, total, out=np.zeros_like(total), where=total > 0)


class Gazetteer:
    """A baseline that looks up the entities of the training texts.

    A sequence of words that was an entity in training is predicted wherever it occurs, with its most frequent type. If
    matches overlap, the first one is kept; if they begin at the same word, the longest one. The baseline uses no
    context, so a model has to beat it to show that context helps.
    """

    def __init__(self, texts: Iterable[TaggedText]) -> None:
        kinds: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for text in texts:
            words = _words(text)
            for span in text.spans:
                inside = tuple(text.text[a:b] for a, b in words if a >= span.start and b <= span.end)
                if inside:
                    kinds[inside][span.label] += 1
        self._entries = {words: min(labels, key=lambda name: (-labels[name], name)) for words, labels in kinds.items()}
        lengths: dict[str, set[int]] = defaultdict(set)
        for entry in self._entries:
            lengths[entry[0]].add(len(entry))
        self._lengths = {word: sorted(sizes, reverse=True) for word, sizes in lengths.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def spans(self, text: TaggedText) -> Iterator[Span]:
        """The predicted entities of a text; its true spans are not read."""
        bounds = _words(text)
        words = [text.text[start:end] for start, end in bounds]
        place = 0
        while place < len(words):
            for length in self._lengths.get(words[place], ()):
                label = self._entries.get(tuple(words[place : place + length]))
                if label and place + length <= len(words):
                    yield Span(bounds[place][0], bounds[place + length - 1][1], label)
                    place += length
                    break
            else:
                place += 1


def _words(text: TaggedText) -> Sequence[Bounds]:
    return find_words(text.text) if text.words is None else text.words
