"""Texts that belong together, and which of them are held out: for labelled examples and for conversations.

The unit is the group: texts that are copies or near copies of each other, or that share a source. Groups are drawn in
the order of a hash of their content, class by class where there are classes, until the share is reached: no seed and no
order of the file has a part in it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.duplicates import (
    FAMILY,
    PERMUTATIONS,
    Signatures,
    Signer,
    agreement,
    connected,
    shingles,
    similar_pairs,
)
from domain_ft.corpus.workers import in_order
from domain_ft.quoting import shown

Integers = npt.NDArray[np.int64]
DIGEST = np.dtype([("hash", ">u8"), ("rest", ">u8")])

Digests = npt.NDArray[np.void]
Bools = npt.NDArray[np.bool_]

_BATCH = 1_000_000  # characters that are signed at a time
_FAMILY = 1_000  # similar texts that are all compared with each other


@dataclass(frozen=True)
class Fingerprints:
    """What copies of an example have in common.

    Attributes:
        digests: (examples,) of the normalised texts: equal for exact copies.
        signatures: (examples, 128) by which near copies are found; None where there are too many examples.
    """

    digests: Digests
    signatures: Signatures | None

    def take(self, rows: Integers) -> Fingerprints:
        """Those of some examples."""
        return Fingerprints(self.digests[rows], None if self.signatures is None else self.signatures[rows])


def text_fingerprints(texts: Iterable[str]) -> Fingerprints:
    """The fingerprints of a few texts, made on all cores."""
    parts = list(in_order(sign_texts, text_batches(texts)))
    return Fingerprints(
        np.frombuffer(b"".join(digest for digest, _ in parts), DIGEST),
        np.frombuffer(b"".join(signature for _, signature in parts), np.uint32).reshape(-1, PERMUTATIONS),
    )


def text_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of about a million characters."""
    batch: list[str] = []
    waiting = 0
    for text in texts:
        batch.append(text)
        waiting += len(text)
        if waiting >= _BATCH:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def sign_texts(texts: list[str]) -> tuple[bytes, bytes]:
    """The digests of texts, and the signatures by which near copies are found, as bytes."""
    signer = Signer()
    essences = list(map(normalise, texts))
    return _digest(essences), b"".join(signer.sign(shingles(essence)).tobytes() for essence in essences)


def digest_texts(texts: list[str]) -> tuple[bytes, bytes]:
    """The digests of texts as bytes, and no signatures."""
    return _digest(map(normalise, texts)), b""


def _digest(essences: Sequence[str] | Iterator[str]) -> bytes:
    return b"".join(hashlib.blake2b(essence.encode("utf-8"), digest_size=16).digest() for essence in essences)


def duplicate_groups(prints: Fingerprints, *names: Sequence[str], similarity: float | None = FAMILY) -> Integers:
    """(examples,) the group of each, from 0: copies, near copies and examples of one name are joined.

    Args:
        prints: of the examples.
        names: each (examples,), such as the values of a group field; empty where an example has none, or all of it.
        similarity: from which on texts are near copies; None for copies alone.
    """
    count = len(prints.digests)
    _, first, copy_of = np.unique(prints.digests, return_index=True, return_inverse=True)
    pairs: list[Integers] = [np.stack([first[copy_of], np.arange(count)], axis=1)]
    if prints.signatures is not None and similarity is not None:
        similar, _ = similar_pairs(np.asarray(prints.signatures[first]), similarity)
        pairs.append(first[similar])
    same: list[tuple[int, int]] = []
    for own in names:
        seen: dict[str, int] = {}
        same += [(seen.setdefault(name, row), row) for row, name in enumerate(own) if name]
    return connected(count, itertools.chain(map(tuple, np.concatenate(pairs).tolist()), same))


def why_none_held_out(groups: Integers, labels: Sequence[tuple[str, ...]], fraction: float) -> str:
    """Why `draw` of the same values held out nothing, in a sentence.

    >>> why_none_held_out(np.zeros(29, np.int64), [("a",)] * 29, 0.1)
    'all 29 are copies or near copies of each other, or share a source: one group, which is not parted'
    """
    sizes = np.bincount(np.unique(groups, return_inverse=True)[1]) if len(groups) else np.zeros(0, np.int64)
    if len(sizes) == 1:
        alike = "there is one alone" if len(groups) == 1 else f"all {len(groups):,} are copies or near copies of each "
        return alike if len(groups) == 1 else f"{alike}other, or share a source: one group, which is not parted"
    limit = max(fraction * len(groups), 1)
    parted = f"they are {len(sizes):,} groups of copies, near copies and texts of one source, which are not parted"
    if sizes.min() > limit:
        return f"{parted}, and each is larger than the share of {fraction:.0%}: the smallest has {sizes.min():,}"
    holders: dict[str, set[int]] = defaultdict(set)
    for group, own in zip(groups.tolist(), labels, strict=True):
        for label in own:
            holders[label].add(group)
    single = sorted(label for label, its_groups in holders.items() if len(its_groups) == 1)
    if single:
        few = f"{len(single):,} of the {len(holders):,} classes have one group alone"
        return f"{parted}; {few}, such as '{shown(single[0])}', and every class keeps one to learn from"
    return f"{parted}, and every class would lose its last group"


def draw(groups: Integers, hashes: npt.ArrayLike, labels: Sequence[tuple[str, ...]], fraction: float) -> Bools:
    """(examples,) True for those that are held out: whole groups, the same share of every class.

    A class of which all examples are in one group is not held out; nor is a group larger than the share asked for of
    all examples, nor the last group of any label.

    Args:
        groups: (examples,) the number of the group of each.
        hashes: (examples,) a 64-bit hash of each one's content.
        labels: (examples,) of each.
        fraction: the share to hold out.
    """
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    count = int(groups.max()) + 1 if len(groups) else 0
    sizes = np.bincount(groups, minlength=count)
    keys = np.full(count, 2**64 - 1, dtype=np.uint64)
    np.minimum.at(keys, groups, np.asarray(hashes, dtype=np.uint64))
    frequency = Counter(itertools.chain.from_iterable(labels))
    holders: dict[str, set[int]] = defaultdict(set)  # the groups in which a label occurs
    stratum_of: list[Counter[str]] = [Counter() for _ in range(count)]
    for group, own in zip(groups.tolist(), labels, strict=True):
        for label in own:
            holders[label].add(group)
        # Of several labels the rarest, since the common ones are in every part anyway.
        stratum_of[group][min(own, key=lambda label: (frequency[label], label)) if own else ""] += 1
    strata: dict[str, list[int]] = defaultdict(list)
    for group, counter in enumerate(stratum_of):
        strata[min(counter, key=lambda label: (-counter[label], label))].append(group)
    left = {label: len(its_groups) for label, its_groups in holders.items()}
    of_group: list[set[str]] = [set() for _ in range(count)]
    for label, its_groups in holders.items():
        for group in its_groups:
            of_group[group].add(label)
    limit = max(fraction * len(labels), 1)
    held = np.zeros(count, dtype=bool)
    owed = 0.0
    for stratum in sorted(strata, key=lambda name: (len(strata[name]), name)):
        members = sorted(strata[stratum], key=lambda group: (int(keys[group]), group))
        # What a class is short of, or has too many, the next one makes up for: by one group's worth at most, so that
        # many tiny classes together get their share and none is taken from much more than its own.
        owed = min(max(owed, -1.0), 1.0) + fraction * int(sizes[members].sum())
        for group in members:
            size = int(sizes[group])
            if owed - size / 2 < 0 or size > limit or any(left[label] < 2 for label in of_group[group]):
                continue
            held[group] = True
            owed -= size
            for label in of_group[group]:
                left[label] -= 1
    return held[groups]


def all_similar_pairs(signatures: Signatures, threshold: float) -> tuple[Integers, npt.NDArray[np.float32]]:
    """`similar_pairs`, with every pair of a family of up to `_FAMILY` texts: there only neighbours are compared."""
    pairs, similarity = similar_pairs(signatures, threshold)
    families = connected(len(signatures), map(tuple, pairs.tolist()))
    sizes = np.bincount(families)
    more_pairs, more = [pairs], [similarity]
    for family in np.flatnonzero((sizes > 2) & (sizes <= _FAMILY)):
        own = np.flatnonzero(families == family)
        first, second = np.triu_indices(len(own), 1)
        inside = np.stack([own[first], own[second]], axis=1)
        shares = agreement(signatures, inside)
        more_pairs.append(inside[shares >= threshold])
        more.append(shares[shares >= threshold])
    every, places = np.unique(np.concatenate(more_pairs), axis=0, return_index=True)
    return every, np.concatenate(more)[places]
