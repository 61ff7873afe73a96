"""Groups of LoRA layers that read the same input: what the op and its Triton kernels both need to know of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

V = TypeVar("V")

RANK_STEP = 16
"""In the triton backend a layer's columns of t and dt are a multiple of this."""


def down_columns(ranks: Sequence[int]) -> int:
    """How many columns t and dt have in the triton backend, for layers of these ranks."""
    return sum(rounded_up(rank, RANK_STEP) for rank in ranks)


def rounded_up(size: int, step: int) -> int:
    """The least multiple of `step` that is at least `size`."""
    return -(-size // step) * step


def split_scale(scale: float) -> tuple[float, float]:
    """Two factors of a scale, the first at most 1 in size and the second at least 1.

    In float16 a scale above 1 would take t or dt = g B out of range where their products with the small B and A are
    not; it goes to B and A, in their own type, before they are rounded.
    """
    up = max(abs(scale), 1.0)
    return scale / up, up


def by_kind(values: Sequence[V], kinds: Sequence[Sequence[Any]]) -> list[Sequence[V]]:
    """`values` cut into as many runs as there are `kinds`, each as long as its kind."""
    ends = itertools.accumulate(len(kind) for kind in kinds)
    return [values[end - len(kind) : end] for kind, end in zip(kinds, ends, strict=True)]
