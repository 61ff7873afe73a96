"""Parts of the Triton kernels: the order of tiles, tanh, and the dropout mask in registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of(index, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Row and column of the tile `index`, in an order that goes column by column through GROUP_M rows at a time.

    Programs that run at the same time then share the tiles of both operands in the L2 cache.
    """
    group = index // (GROUP_M * tiles_n)
    first = group * GROUP_M
    height = min(tiles_m - first, GROUP_M)
    within = index - group * GROUP_M * tiles_n
    return first + within % height, within // height


@triton.jit
def tanh(y):
    """tanh of float32 y, within a few ulps. Triton has no tanh that all targets and its interpreter support."""
    t = tl.exp(-2 * tl.abs(y))
    far = (1 - t) / (1 + t)
    square = y * y
    near = 1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835))))
    return tl.where(square < 1 / 16, y * near, tl.where(y < 0, -far, far))


@triton.jit
def _mixed(z):
    """splitmix64's finaliser on uint64, as in `domain_ft_kernels.dropout`."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def row_keys(seed, rows):
    """The odd int32 keys of the rows numbered `rows`, for the int64 seed."""
    key = _mixed(seed.to(tl.uint64))
    z = _mixed(key + (2 * rows.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15)
    return (z >> 32).to(tl.uint32).to(tl.int32, bitcast=True) | 1


@triton.jit
def column_keys(seed, columns):
    """The odd int32 keys of the columns numbered `columns`, for the int64 seed."""
    key = _mixed(seed.to(tl.uint64))
    z = _mixed(key + (2 * columns.to(tl.uint64) + 2) * 0x9E3779B97F4A7C15)
    return (z >> 32).to(tl.uint32).to(tl.int32, bitcast=True) | 1


@triton.jit
def hashed_once(keys, SIZE: tl.constexpr):
    """`keys` (SIZE,), unchanged. The gather makes the threads share the work of hashing them.

    Without the gather, every thread would hash the dozens of keys that its part of a tile needs.
    """
    return tl.gather(keys, tl.arange(0, SIZE), 0)


@triton.jit
def kept(row_key, column_key, threshold):
    """The mask of `dropout.keep_mask`, (rows, columns) bool, from the keys of rows and columns."""
    return row_key[:, None] * column_key[None, :] >= threshold
