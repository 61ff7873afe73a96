"""Near copies: which documents nearly repeat another, which belong to one family, and which stand within another.

A document is taken as the set of its shingles: every run of 24 bytes of its normalised text, which is about five
English words or eight Chinese characters, so that no rule of any language is needed. Sets are compared by MinHash
(Broder 1997) with `datasketch`; candidates are found by locality-sensitive hashing of bands of the signatures
(Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3). The banding is done here on one array, not with
datasketch's MinHashLSH, for memory: 512 bytes a document instead of some 7,000, and no bucket quadratic in its size.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

Signatures = npt.NDArray[np.uint32]
Shingles = npt.NDArray[np.uint32]

SHINGLE_BYTES = 24
PERMUTATIONS = 128
BAND_ROWS = 4  # 32 bands of 4 rows: pairs of similarity 0.5 meet with probability 0.87, of 0.6 with 0.99
NEAR = 0.85  # at this similarity or above, the later document is a near copy and is left out
FAMILY = 0.5  # at this similarity or above, both documents belong to one group, which goes to one split
CONTAINED = 0.5  # a text of which this share or more stands in another is not held out while the other is trained on
_PROBES = 256  # shingles by which containment of a document is estimated: standard error 0.03 at most
_NEIGHBOURS = 8  # members of a bucket that each member is compared with
_SEGMENT = 1 << 20  # bytes of a long document that are hashed at a time
_BATCH = 2048  # shingles a call of datasketch: its working array is this times PERMUTATIONS

_BASE = np.uint64(0x9E3779B97F4A7C15)


def shingles(normalised: str) -> Shingles:
    """The hashes of all runs of 24 bytes of a text, sorted, each once. A shorter text is one shingle."""
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
        power, length = _wrap(power), 2 * length
    joined = runs[:-16] * _wrap(power) + runs[8:-8] * power + runs[16:]
    joined ^= joined >> np.uint64(32)
    joined *= np.uint64(0xD6E8FEB86659FD93)
    return (joined >> np.uint64(32)).astype(np.uint32)


def _wrap(value: np.uint64) -> np.uint64:
    """The square of a 64-bit number, modulo 2^64."""
    return np.uint64(int(value) ** 2 & 0xFFFFFFFFFFFFFFFF)


class Signer:
    """Makes MinHash signatures: (128,) uint32, whatever the length of the document."""

    def __init__(self) -> None:
        self._permutations = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32").permutations

    def sign(self, hashes: Shingles) -> Signatures:
        """The signature of a set of shingles."""
        sketch = MinHash(permutations=self._permutations, num_perm=PERMUTATIONS, scheme="affine32", hashfunc=int)
        for start in range(0, len(hashes), _BATCH):
            sketch.update_batch(hashes[start : start + _BATCH].tolist())
        signature: Signatures = sketch.hashvalues
        return signature


def similar_pairs(signatures: Signatures, threshold: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Pairs of documents whose estimated Jaccard similarity is `threshold` or more.

    Candidates share a band of their signatures. Within a bucket each member is compared with its 8 neighbours in the
    order of the whole signatures, so that the work stays linear in a bucket's size and copies lie side by side.

    Args:
        signatures: (documents, 128).

    Returns:
        pairs: (pairs, 2), the smaller index first, sorted, each once.
        similarity: (pairs,) the share of signature places in which the two agree.
    """
    count = len(signatures)
    codes = np.zeros(0, np.int64)  # a pair as one number, smaller * count + larger
    for start in range(0, PERMUTATIONS, BAND_ROWS):
        rolled = np.roll(signatures, -start, axis=1)[:, : 4 * BAND_ROWS]  # the band, then what orders its buckets
        order = np.lexsort(rolled.T[::-1])
        band = rolled[order, :BAND_ROWS]
        found = [codes]
        for distance in range(1, min(_NEIGHBOURS, count - 1) + 1):
            same = np.flatnonzero((band[distance:] == band[:-distance]).all(axis=1))
            one, other = order[same], order[same + distance]
            found.append(np.minimum(one, other) * count + np.maximum(one, other))
        codes = np.unique(np.concatenate(found))
    pairs = np.stack([codes // max(count, 1), codes % max(count, 1)], axis=1)
    similarity = _agreement(signatures, pairs)
    enough = similarity >= threshold
    return pairs[enough], similarity[enough]


def _agreement(signatures: Signatures, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(pairs,) the share of places in which the two signatures agree: the estimate of Jaccard similarity."""
    similarity = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), 65536):
        part = pairs[start : start + 65536]
        agree = signatures[part[:, 0]] == signatures[part[:, 1]]
        similarity[start : start + 65536] = agree.mean(axis=1, dtype=np.float32)
    return similarity


def near_copies(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(documents,) True for near copies of an earlier document that is kept. In each pair the earlier stands first."""
    copies = np.zeros(count, dtype=bool)
    for first, second in pairs[np.argsort(pairs[:, 1], kind="stable")].tolist():
        if not copies[first]:
            copies[second] = True
    return copies


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """(documents,) the group of each document, groups counted from 0: documents joined by pairs share one."""
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


class Containment:
    """How much of each held-out document stands within one single other document.

    Each held-out document is represented by up to 256 of its shingles, those of the smallest hashes; other documents
    are then passed by whole, one at a time, at a cost that does not depend on how many are held out.
    """

    def __init__(self, held_out: Iterable[Shingles]) -> None:
        probes = [hashes[:_PROBES] for hashes in held_out]  # shingles are sorted
        self._sizes = np.array([len(part) for part in probes], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, np.uint32), *probes])
        order = np.argsort(flat, kind="stable")
        self._owners = np.repeat(np.arange(len(probes)), self._sizes)[order]
        self._hashes, self._starts, self._counts = np.unique(flat[order], return_index=True, return_counts=True)

    def of(self, hashes: Shingles) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Which held-out documents share anything with the document of these shingles, and what share of each it is."""
        if not len(self._hashes):
            return np.zeros(0, np.int64), np.zeros(0)
        places = np.searchsorted(self._hashes, hashes)
        places = places[places < len(self._hashes)]
        hits = places[self._hashes[places] == hashes[: len(places)]]
        counts = self._counts[hits]
        before = np.cumsum(counts) - counts
        rows = np.repeat(self._starts[hits] - before, counts) + np.arange(counts.sum())
        owners, shared = np.unique(self._owners[rows], return_counts=True)
        return owners, shared / self._sizes[owners]
