"""Near copies (near-duplicates): which documents nearly repeat another, form a family, or are contained in another.

A document is represented by the set of its shingles: all runs of 24 bytes of its normalised text. A run is about five
English words or eight Chinese characters, so no language needs special rules. Sets are compared by the MinHash
signatures of `datasketch` (Broder 1997). Candidate pairs are found by locality-sensitive hashing of bands of the
signatures (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3). The banding works on one array instead
of datasketch's MinHashLSH: the array takes 512 bytes a document instead of about 7,000, and the work is linear in the
size of a bucket, not quadratic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

Signatures = npt.NDArray[np.uint32]
Shingles = npt.NDArray[np.uint32]

SHINGLE_BYTES = 24
PERMUTATIONS = 128
BAND_ROWS = 4  # 32 bands of 4 rows: pairs of similarity 0.5 share a band with probability 0.87; of 0.6, with 0.99
NEAR = 0.85  # from this similarity, the later document is a near copy and is left out
FAMILY = 0.5  # from this similarity, both documents belong to one group, which goes to one split
CONTAINED = 0.5  # a text is not held out if at least this share of it is in a training text
_PROBES = 256  # shingles by which containment of a document is estimated: standard error 0.032 at most
_NEIGHBOURS = 8  # each member of a bucket is compared with this many of the members after it
_SEGMENT = 1 << 20  # bytes of a long document that are hashed at a time
_BATCH = 1024  # shingles that are permuted at a time: half a megabyte, which fits in a core's cache

_BASE = np.uint64(0x9E3779B97F4A7C15)


def shingles(normalised: str) -> Shingles:
    """The sorted, distinct hashes of all runs of 24 bytes of a text. A shorter text has one; an empty text, none."""
    data = np.frombuffer(normalised.encode("utf-8"), dtype=np.uint8)
    if len(data) == 0:
        return np.zeros(0, np.uint32)
    if len(data) < SHINGLE_BYTES:
        data = np.pad(data, (0, SHINGLE_BYTES - len(data)))
    step = _SEGMENT - SHINGLE_BYTES + 1
    parts = [_hash_runs(data[start : start + _SEGMENT]) for start in range(0, len(data) - SHINGLE_BYTES + 1, step)]
    hashes = np.concatenate(parts)
    hashes.sort()
    return hashes[np.append(True, hashes[1:] != hashes[:-1])]  # numpy 2.3's unique is far slower


def _hash_runs(data: npt.NDArray[np.uint8]) -> Shingles:
    """A 32-bit hash of every run of 24 bytes: runs of 8 are built by doubling, then three of them are joined."""
    runs, length = data.astype(np.uint64) + np.uint64(1), 1
    power = _BASE
    while length < 8:
        runs = runs[:-length] * power + runs[length:]
        power, length = _squared(power), 2 * length
    joined = runs[:-16] * _squared(power) + runs[8:-8] * power + runs[16:]
    joined ^= joined >> np.uint64(32)
    joined *= np.uint64(0xD6E8FEB86659FD93)
    return (joined >> np.uint64(32)).astype(np.uint32)


def _squared(value: np.uint64) -> np.uint64:
    """The square of a 64-bit number, modulo 2^64."""
    return np.uint64(int(value) ** 2 & 0xFFFFFFFFFFFFFFFF)


class Signer:
    """Makes MinHash signatures: (128,) uint32, whatever the length of the document.

    They equal datasketch's signatures, because the permutations are the same. But datasketch's `update_batch` takes a
    list of Python numbers and allocates an array for each step. This class works in place, in a sixth of the time.
    """

    def __init__(self) -> None:
        self._factors, self._terms = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32").permutations
        self._buffer = np.empty((_BATCH, PERMUTATIONS), dtype=np.uint32)

    def sign(self, hashes: Shingles) -> Signatures:
        """The signature of a set of shingles: the smallest value of each permutation."""
        signature = np.full(PERMUTATIONS, 0xFFFFFFFF, dtype=np.uint32)
        mixed = _mixed(hashes)
        for start in range(0, len(mixed), _BATCH):
            part = mixed[start : start + _BATCH, None]
            permuted = self._buffer[: len(part)]
            np.multiply(part, self._factors, out=permuted)
            np.add(permuted, self._terms, out=permuted)
            np.minimum(signature, permuted.min(axis=0), out=signature)
        return signature


def _mixed(hashes: Shingles) -> Shingles:
    """MurmurHash3's finaliser for 32 bits (Appleby), the first step of datasketch's permutations."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def similar_pairs(signatures: Signatures, threshold: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Pairs of documents whose estimated Jaccard similarity is `threshold` or more.

    Documents that share a band of their signatures form a bucket. The bucket is sorted by the 12 entries after the
    band, so that copies are adjacent. Each member is compared only with the next 8 members. This keeps the work
    linear in the size of the bucket, but some pairs may be missed.

    Args:
        signatures: (documents, 128).

    Returns:
        pairs: (pairs, 2), the smaller index first, sorted, each once.
        similarity: (pairs,) the share of equal entries in the two signatures.
    """
    count = len(signatures)
    codes = np.zeros(0, np.int64)  # a pair as a single number, smaller * count + larger
    for start in range(0, PERMUTATIONS, BAND_ROWS):
        sorters = (start + np.arange(4 * BAND_ROWS)) % PERMUTATIONS  # the band, then what orders its buckets
        meeting = _meeting(signatures[:, sorters[:BAND_ROWS]])
        order = meeting[np.lexsort(signatures[np.ix_(meeting, sorters)].T[::-1])]
        band = signatures[np.ix_(order, sorters[:BAND_ROWS])]
        found = [codes]
        for distance in range(1, min(_NEIGHBOURS, count - 1) + 1):
            same = np.flatnonzero((band[distance:] == band[:-distance]).all(axis=1))
            one, other = order[same], order[same + distance]
            found.append(np.minimum(one, other) * count + np.maximum(one, other))
        codes = np.unique(np.concatenate(found))
    pairs = np.stack([codes // max(count, 1), codes % max(count, 1)], axis=1)
    similarity = agreement(signatures, pairs)
    enough = similarity >= threshold
    return pairs[enough], similarity[enough]


def _meeting(band: Signatures) -> npt.NDArray[np.int64]:
    """(n,) the documents whose `band` (documents, 4) equals another document's, in ascending order; usually few."""
    keys = np.ascontiguousarray(band).view(np.uint64)
    order = np.lexsort(keys.T)
    same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return np.sort(order[np.append(same, False) | np.append(False, same)]) if len(order) else order


def agreement(signatures: Signatures, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(pairs,) the share of equal entries in the two signatures, which estimates the Jaccard similarity."""
    similarity = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), 65536):
        part = pairs[start : start + 65536]
        agree = signatures[part[:, 0]] == signatures[part[:, 1]]
        similarity[start : start + 65536] = agree.mean(axis=1, dtype=np.float32)
    return similarity


def near_copies(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(documents,) True for near copies of an earlier document that is kept. Pairs have the smaller index first."""
    copies = np.zeros(count, dtype=bool)
    for first, second in pairs[np.argsort(pairs[:, 1], kind="stable")].tolist():
        if not copies[first]:
            copies[second] = True
    return copies


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """(documents,) the group of each document, from 0: the connected components of the pairs."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return np.unique([root(node) for node in range(count)], return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Containment:
    """How much of each held-out document is contained in a single other document.

    Each held-out document is represented by up to 256 of its shingles, those with the smallest hashes. `of` then takes
    all shingles of one other document, and its cost hardly depends on the number of held-out documents.

    Attributes:
        sizes: (held out,) int32, shingles that represent each document.
        hashes: (hashes,) uint32, the distinct hashes of all these shingles, sorted.
        starts: (hashes + 1,) int64, where the owners of each hash begin in `owners`; the last entry is its length.
        owners: (shingles,) int32, the held-out document of each shingle, in the order of the hashes.
    """

    sizes: npt.NDArray[np.int32]
    hashes: Shingles
    starts: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int32]

    @classmethod
    def of_documents(cls, held_out: Iterable[Shingles]) -> Containment:
        """The index of held-out documents."""
        probes = [hashes[:_PROBES].copy() for hashes in held_out]  # shingles are sorted; a copy frees the rest
        sizes = np.array([len(part) for part in probes], dtype=np.int32)
        flat = np.concatenate([np.zeros(0, np.uint32), *probes])
        order = np.argsort(flat, kind="stable")
        owners = np.repeat(np.arange(len(probes), dtype=np.int32), sizes)[order]
        hashes, starts = np.unique(flat[order], return_index=True)
        return cls(sizes, hashes, np.append(starts, len(owners)), owners)

    def save(self, folder: Path) -> None:
        """Write the index to `folder`, for other processes."""
        for field in dataclasses.fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> Containment:
        """The index in `folder`, memory-mapped, so that all processes share it."""
        return cls(*(np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in dataclasses.fields(cls)))

    def of(self, hashes: Shingles) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The held-out documents that share shingles with another document, and how much of each it contains.

        Args:
            hashes: all shingles of the other document.

        Returns:
            (found,) int64, the indices of the held-out documents; (found,) float64, the estimated shares.
        """
        if not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0)
        places = np.searchsorted(self.hashes, hashes)
        places = places[places < len(self.hashes)]
        hits = places[self.hashes[places] == hashes[: len(places)]]
        counts = self.starts[hits + 1] - self.starts[hits]
        before = np.cumsum(counts) - counts
        rows = np.repeat(self.starts[hits] - before, counts) + np.arange(counts.sum())
        owners, shared = np.unique(self.owners[rows], return_counts=True)
        return owners.astype(np.int64), shared / self.sizes[owners]
