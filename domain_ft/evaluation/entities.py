"""How well entities are found: precision, recall and F1 of whole entities, as conlleval and seqeval count them.

An entity is right where its beginning, its end and its type are. What is kept of a run is, for each text, how many
entities of each type were right, false and missed: enough for every score, for intervals over texts (over documents,
where they are known) and for paired comparisons, without any text.
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
"""The last axis of counts."""


@dataclass(frozen=True, eq=False)
class EntityCounts:
    """The entities of n texts that one model, or one seed of a run, found.

    Attributes:
        types: T types: those of the texts and those that the model gave.
        counts: (n, T, 3) int64, entities of each type that are right, false and missed.
        ids: (n,) the texts' ids.
        groups: (n,) texts of one document share a name.
    """

    types: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[TaggedText], predicted: Iterable[Collection[Span]]) -> EntityCounts:
        """The counts of `predicted`, the spans of each of `texts`."""
        found = [set(spans) for spans in predicted]
        true = [set(text.spans) for text in texts]
        types = tuple(sorted({span.label for spans in (*found, *true) for span in spans}))
        place = {name: index for index, name in enumerate(types)}
        counts = np.zeros((len(texts), len(types), 3), dtype=np.int64)
        for row, said, own in zip(counts, found, true, strict=True):
            for kind, spans in ((RIGHT, said & own), (FALSE, said - own), (MISSED, own - said)):
                for span in spans:
                    row[place[span.label], kind] += 1
        return cls(types, counts, tuple(text.id for text in texts), tuple(text.group or text.id for text in texts))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def units(self) -> int:
        """How many documents the texts are of, or how many texts there are."""
        return len(set(self.groups))

    @property
    def entities(self) -> int:
        """How many entities the texts have."""
        return int(self.counts[..., RIGHT].sum() + self.counts[..., MISSED].sum())

    @functools.cached_property
    def key(self) -> str:
        """Names the test set: equal keys, the same ids in the same order with as many entities of each type."""
        digest = hashlib.blake2b(digest_size=16)
        asked = self.counts[..., RIGHT] + self.counts[..., MISSED]
        for name, row in zip(self.ids, asked, strict=True):
            own = {kind: count for kind, count in zip(self.types, row.tolist(), strict=True) if count}
            digest.update(json.dumps([name, own]).encode() + b"\n")
        return digest.hexdigest()

    def point_scores(self) -> dict[str, float]:
        """The scores of `METRICS` on all texts, without intervals."""
        sums = self.counts.sum(axis=0, dtype=np.float64).T.reshape(1, -1)
        found = _scores(self.types, sums)
        return {name: float(found[name][0]) for name in METRICS}

    def over_units(self, types: Sequence[str]) -> Array:
        """(units, 3 T) sums over each group, which are drawn together: right, then false, then missed, of `types`."""
        place = {name: index for index, name in enumerate(types)}
        units = np.unique(self.groups, return_inverse=True)[1].reshape(-1)
        sums = np.zeros((int(units.max()) + 1, len(types), 3))
        columns = np.array([place[name] for name in self.types], dtype=np.int64)
        np.add.at(sums, (units[:, None], columns), self.counts)
        return sums.transpose(0, 2, 1).reshape(len(sums), -1)

    def save(self, path: Path) -> None:
        """Write them as an .npz file, whole or not at all; the folder is made where it is not there."""
        names = {"types": self.types, "ids": self.ids, "groups": self.groups}
        stored = {name: np.frombuffer(json.dumps(list(own)).encode(), dtype=np.uint8) for name, own in names.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, counts=self.counts, **stored)  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> EntityCounts:
        """What `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or another kind of file.
        """
        try:
            # From memory: numpy leaves a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                names = {name: tuple(json.loads(stored[name].tobytes())) for name in ("types", "ids", "groups")}
                return cls(counts=stored["counts"], **names)
        except DAMAGED as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else "is damaged, or not such a file"
            raise CheckpointError(
                f"the entities that a run found cannot be read: the file {reason}",
                where=str(path),
                fix="run the task again with another --output",
            ) from error


def entity_metrics(seeds: Sequence[EntityCounts], *, seed: int = 0) -> dict[str, Any]:
    """The scores of a run over its seeds, on the same texts.

    `precision`, `recall` and `f1` are over all entities (micro), `macro_f1` is the mean over types, those of the texts
    and those that were given (seqeval's definitions). Where several seeds are given, each is the mean over them.

    Returns:
        {"precision", "recall", "f1", "macro_f1", "examples", "units" (what is drawn: documents, or texts), "few_units",
        "level", "resamples", "entities", "per_type": {name: {"precision", "recall",
        "f1", "support", "interval"}}, "interval": {metric: [low, high] or None}, "seeds": {metric: {"mean", "sd",
        "values"}}}; intervals of types are of their F1.
    """
    types = _types(seeds)
    found = scores([counts.over_units(types) for counts in seeds], functools.partial(_scores, types), seed=seed)
    mean = {name: score["mean"] for name, score in found.items()}
    asked = np.mean([counts.over_units(types).sum(axis=0) for counts in seeds], axis=0).reshape(3, -1)
    support = dict(zip(types, (asked[RIGHT] + asked[MISSED]).round().astype(int).tolist(), strict=True))
    return {
        **{name: mean[name] for name in METRICS},
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
                "interval": _type_interval(seeds, name, found[f"f1 {name}"]),
            }
            for name in types
        },
        "interval": {name: found[name]["interval"] for name in METRICS},
        "seeds": {name: {part: found[name][part] for part in ("mean", "sd", "values")} for name in METRICS},
    }


def _type_interval(seeds: Sequence[EntityCounts], name: str, found: Mapping[str, Any]) -> list[float] | None:
    """[low, high] of the F1 of a type. Where all was right, the units that say so are those that have the type."""
    if found["interval"] is None or found["mean"] < 1:
        return found["interval"]
    types = seeds[0].types
    sums = seeds[0].over_units(types)
    of_type = sums.reshape(len(sums), 3, len(types))[:, :, types.index(name)]
    units = int((of_type.sum(axis=1) > 0).sum())
    return [wilson(1.0, units, LEVEL)[0], 1.0]


def entity_difference(
    base: Sequence[EntityCounts], other: Sequence[EntityCounts], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How much better `other` is than `base`, by metric: see `counts_difference`.

    Raises:
        ValueError: they were tested on different texts.
    """
    if len({counts.key for counts in (*base, *other)}) > 1:
        raise ValueError("a paired difference needs the same texts in the same order on both sides")
    types = _types([*base, *other])
    before, after = ([counts.over_units(types) for counts in own] for own in (base, other))
    found = counts_difference(before, after, functools.partial(_scores, types), seed=seed)
    return {name: found[name] for name in METRICS}


METRICS = ("precision", "recall", "f1", "macro_f1")


def _types(seeds: Iterable[EntityCounts]) -> tuple[str, ...]:
    return tuple(sorted({name for counts in seeds for name in counts.types}))


def _scores(types: Sequence[str], sums: Array) -> Mapping[str, Array]:
    """Scores by name, (draws,) each, of (draws, 3 T) sums as `over_units` lays them."""
    right, false, missed = sums.reshape(len(sums), 3, len(types)).transpose(1, 0, 2)
    found = {
        "precision": _share(right.sum(axis=1), false.sum(axis=1)),
        "recall": _share(right.sum(axis=1), missed.sum(axis=1)),
        "f1": f1(right.sum(axis=1), false.sum(axis=1), missed.sum(axis=1)),
        "macro_f1": macro_f1(right, false, missed),
    }
    for place, name in enumerate(types):
        own = right[:, place], false[:, place], missed[:, place]
        found[f"precision {name}"] = _share(own[RIGHT], own[FALSE])
        found[f"recall {name}"] = _share(own[RIGHT], own[MISSED])
        found[f"f1 {name}"] = f1(*own)
    return found


def _share(right: Array, wrong: Array) -> Array:
    """right / (right + wrong), 0 where there are neither."""
    whole = right + wrong
    return np.divide(right, whole, out=np.zeros_like(whole), where=whole > 0)


class Gazetteer:
    """The baseline: the entities of the training texts, looked up.

    A run of words that was an entity in training is one wherever it stands, of the type that it most often had; of two
    that overlap the one that begins first is taken, then the longer. A model that does not beat it has learned nothing
    of the context.
    """

    def __init__(self, texts: Iterable[TaggedText]) -> None:
        kinds: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for text in texts:
            words = _words(text)
            for span in text.spans:
                inside = tuple(text.text[a:b] for a, b in words if a >= span.start and b <= span.end)
                if inside:
                    kinds[inside][span.label] += 1
        self._entries = {words: min(own, key=lambda name: (-own[name], name)) for words, own in kinds.items()}
        lengths: dict[str, set[int]] = defaultdict(set)
        for entry in self._entries:
            lengths[entry[0]].add(len(entry))
        self._lengths = {word: sorted(own, reverse=True) for word, own in lengths.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def spans(self, text: TaggedText) -> Iterator[Span]:
        """The entities that it finds in a text; its own spans are not looked at."""
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
