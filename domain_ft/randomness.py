"""Stateless randomness: every draw is a function of a seed, a purpose and indices.

The mask of a sequence, the order of an epoch and the dropout of a micro-batch each have a seed derived from (seed,
purpose, indices). So a resumed run equals an uninterrupted one, evaluation masks are the same before and after
training, and the order of calls does not matter.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed from `seed` and `keys` (a purpose and indices), equal on every machine and Python version."""
    text = "\x1f".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """A numpy generator for (`seed`, `keys`). Philox is cheap to create and gives the same stream on every platform."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *keys)))
