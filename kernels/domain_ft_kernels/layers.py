"""Helpers for groups of LoRA layers with the same input, shared by the op and its Triton kernels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

V = TypeVar("V")

RANK_STEP = 16
"""The triton backend pads each layer's columns of t and dt to a multiple of this."""


def down_columns(ranks: Sequence[int]) -> int:
    """The number of columns of t and dt in the triton backend, for layers of these ranks."""
    return sum(rounded_up(rank, RANK_STEP) for rank in ranks)


def rounded_up(size: int, step: int) -> int:
    """The least multiple of `step` that is at least `size`."""
    return -(-size // step) * step


def split_scale(scale: float) -> tuple[float, float]:
    """Two factors of a scale: the first at most 1 in absolute value, the second at least 1.

    In float16 a scale above 1 could push t or dt = g B out of range, although their products with the small B and A are
    in range. So only the first factor may multiply t and dt. The second multiplies B and A, in their own type, before
    they are rounded.
    """
    up = max(abs(scale), 1.0)
    return scale / up, up


def by_kind(values: Sequence[V], kinds: Sequence[Sequence[Any]]) -> list[Sequence[V]]:
    """`values` split into consecutive parts of the lengths of the lists in `kinds`."""
    ends = itertools.accumulate(len(kind) for kind in kinds)
    return [values[end - len(kind) : end] for kind, end in zip(kinds, ends, strict=True)]
