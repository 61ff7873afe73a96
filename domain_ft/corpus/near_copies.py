"""Copies and near copies among texts: their fingerprints, and the groups that must stay in one split.

`duplicates` has the method (shingles, MinHash, banding), this module applies it to a list of texts, and `splitting`
draws whole groups.
"""

from __future__ import annotations

import hashlib
import itertools
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

MOST_COMPARED = 1_000_000
"""Near copies are searched for among at most this many texts, whose signatures take half a gigabyte."""

DIGEST = np.dtype([("hash", ">u8"), ("rest", ">u8")])
_BATCH = 1_000_000  # characters signed at a time
_LARGEST_FAMILY = 1_000  # texts; all pairs of a larger family would be too many to compare

Digests = npt.NDArray[np.void]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of texts: equal for copies, similar for near copies.

    Attributes:
        digests: (texts,) hashes of the normalised texts, equal for exact copies.
        signatures: (texts, 128) MinHash signatures, similar for near copies; None if they were not computed.
    """

    digests: Digests
    signatures: Signatures | None

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """(texts,) a 64-bit hash of each normalised text."""
        return self.digests["hash"].astype(np.uint64)

    def take(self, rows: Integers) -> Fingerprints:
        """The fingerprints of these texts."""
        return Fingerprints(self.digests[rows], None if self.signatures is None else self.signatures[rows])


def text_fingerprints(texts: Iterable[str], *, signed: bool = True) -> Fingerprints:
    """The fingerprints of texts, in memory. `signed`: whether they include signatures."""
    parts = list(signed_batches(texts, signed=signed))
    digests = np.frombuffer(b"".join(digest for digest, _ in parts), DIGEST)
    if not signed:
        return Fingerprints(digests, None)
    signatures = np.frombuffer(b"".join(signature for _, signature in parts), np.uint32)
    return Fingerprints(digests, signatures.reshape(-1, PERMUTATIONS))


def signed_batches(texts: Iterable[str], *, signed: bool) -> Iterator[tuple[bytes, bytes]]:
    """The digests and signatures of texts as bytes, in batches; the signatures are empty unless `signed`.

    All cores compute them if there are many texts.
    """
    return in_order(_signed if signed else _digested, _batches(texts), work="looks for copies")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
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


def _signed(texts: list[str]) -> tuple[bytes, bytes]:
    signer = Signer()
    normalised = list(map(normalise, texts))
    return _digest(normalised), b"".join(signer.sign(shingles(text)).tobytes() for text in normalised)


def _digested(texts: list[str]) -> tuple[bytes, bytes]:
    return _digest(map(normalise, texts)), b""


def _digest(normalised: Iterable[str]) -> bytes:
    return b"".join(hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest() for text in normalised)


def duplicate_groups(prints: Fingerprints, *names: Sequence[str], similarity: float | None = FAMILY) -> Integers:
    """(texts,) the group of each text, from 0: copies, near copies and texts with a name in common are grouped.

    Args:
        prints: of the texts.
        names: lists (texts,) of names, such as the values of a group field. Empty names are ignored.
        similarity: the minimum similarity of near copies; None for exact copies only.
    """
    count = len(prints.digests)
    _, first, copy_of = np.unique(prints.digests, return_index=True, return_inverse=True)
    pairs: list[Integers] = [np.stack([first[copy_of], np.arange(count)], axis=1)]
    if prints.signatures is not None and similarity is not None:
        similar, _ = similar_pairs(np.asarray(prints.signatures[first]), similarity)
        pairs.append(first[similar])
    same: list[tuple[int, int]] = []
    for column in names:
        first_row: dict[str, int] = {}
        same += [(first_row.setdefault(name, row), row) for row, name in enumerate(column) if name]
    return connected(count, itertools.chain(map(tuple, np.concatenate(pairs).tolist()), same))


def all_similar_pairs(signatures: Signatures, threshold: float) -> tuple[Integers, npt.NDArray[np.float32]]:
    """`similar_pairs`, which compares only neighbours, plus the other similar pairs within each family.

    A family is a set of texts that are connected by pairs. A family of more than `_LARGEST_FAMILY` gets no more pairs.
    """
    pairs, similarity = similar_pairs(signatures, threshold)
    families = connected(len(signatures), map(tuple, pairs.tolist()))
    sizes = np.bincount(families)
    more_pairs, more = [pairs], [similarity]
    for family in np.flatnonzero((sizes > 2) & (sizes <= _LARGEST_FAMILY)):
        members = np.flatnonzero(families == family)
        first, second = np.triu_indices(len(members), 1)
        inside = np.stack([members[first], members[second]], axis=1)
        shares = agreement(signatures, inside)
        more_pairs.append(inside[shares >= threshold])
        more.append(shares[shares >= threshold])
    every, places = np.unique(np.concatenate(more_pairs), axis=0, return_index=True)
    return every, np.concatenate(more)[places]
