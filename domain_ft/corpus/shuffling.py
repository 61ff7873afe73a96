"""Computes parts of random orders, so that the order of a whole large corpus is never in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain_ft.randomness import derive, generator

GAMMA = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: the stride of SplitMix64
DRAWN = 1 << 16  # `beginning` draws the whole order of at most this many numbers
_ROUNDS = 4  # enough to make a permutation of many numbers pseudorandom (Luby and Rackoff 1988)


def scramble(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit numbers by a bijection, the output function of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shuffled(first: int, last: int, count: int, seed: int, *keys: str | int) -> npt.NDArray[np.int64]:
    """The numbers at the positions from `first` up to, but not including, `last` of a random order of `range(count)`.

    The order is computed by a Feistel network, which permutes all numbers of an even number of bits. Results outside
    the range go through it again until they are inside (Black and Rogaway 2002). Time and memory grow with the part,
    not with `count`.

    Args:
        first, last: positions in the order, `0 <= first <= last <= count`.
        count: how many numbers are ordered. For a few dozen, draw a permutation: this order is not random enough.
        seed, keys: determine the order, as for `randomness.generator`.

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
    """A random sample of `wanted` numbers below `count`, or all of them: the first ones of a random order.

    Up to `DRAWN` numbers are all put in order. For more numbers, only the beginning of the order is computed, so that
    time and memory do not grow with `count`.
    """
    if count <= DRAWN:
        return generator(seed, *keys).permutation(count)[:wanted]
    return shuffled(0, min(wanted, count), count, seed, *keys)
