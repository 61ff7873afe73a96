"""Random orders that are computed in parts, so that none is drawn or kept for a whole corpus."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain_ft.randomness import derive, generator

GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: the stride of SplitMix64
DRAWN = 1 << 16  # up to so many numbers, the whole order is drawn even for a part of it
_ROUNDS = 4  # enough to make a permutation of many numbers pseudorandom (Luby and Rackoff 1988)


def scramble(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit numbers, one to one: the output function of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shuffled(first: int, last: int, count: int, seed: int, *keys: str | int) -> npt.NDArray[np.int64]:
    """Positions `first` up to `last` of a random order of `range(count)`.

    The order is a Feistel network, a permutation of the numbers of an even count of bits; what falls outside the range
    goes through it again until it is inside (Black and Rogaway 2002). Time and memory grow with the part, not with
    `count`.

    Args:
        first, last: positions in the order, `0 <= first <= last <= count`.
        count: of the numbers; for a few dozen, draw a permutation instead.
        seed, keys: name the order, as for `randomness.generator`.

    Returns:
        (last - first,) int64.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    round_keys = [np.uint64(derive(seed, *keys, number)) for number in range(_ROUNDS)]
    values = np.arange(first, last, dtype=np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        left, right = values[outside] >> half, values[outside] & low
        for key in round_keys:
            left, right = right, left ^ (scramble(right * np.uint64(GAMMA) + key) & low)
        values[outside] = (left << half) | right
        outside = outside[values[outside] >= count]
    return values.astype(np.int64)


def beginning(wanted: int, count: int, seed: int, *keys: str | int) -> npt.NDArray[np.int64]:
    """The first `wanted` numbers of a random order of `range(count)`, or all of them: a sample of a large corpus.

    The order of few numbers is drawn, that of many computed, so that time and memory do not grow with `count`.
    """
    if count <= DRAWN:
        return generator(seed, *keys).permutation(count)[:wanted]
    return shuffled(0, min(wanted, count), count, seed, *keys)
