"""Randomness without state: every draw is a function of a seed and of what it is for.

The mask of a sequence, the order of an epoch, the dropout of a micro-batch are each drawn from a generator that is made
on the spot from (seed, purpose, indices). So a resumed run equals an uninterrupted one, evaluation masks are the same
before and after training, and no order of calls matters.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed from `seed` and `keys` (a purpose and indices), equal on every machine and Python version."""
    text = "\x1f".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """A numpy generator of its own for (`seed`, `keys`). Philox: cheap to make, the same stream on every platform."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *keys)))
