"""Triton kernels of the LoRA linear. A group of layers usually needs as many launches as one layer:

    forward   `_down`       t                          reads x; its mask is computed in registers
              `_linear`     y = x Wᵀ + t Bᵀ + b        every layer's tiles in one grid
    backward  `_linear_dx`  dx = Σ (g W + (dt A) ∘ M)  and dt, in the same loop
              `_outer`      dA = dtᵀ (x ∘ M)           one read of x for all layers; partial sums by chunk
              `_outer`      dB = gᵀ t, db = Σ g        one read of each g (and one more for dW = gᵀ x)
              `_add_up`     dA, dB, db, dW             the partial sums in order, rounded once

`domain_ft_kernels.lora_linear` has the maths and the notation. The scale s = scaling / (1 - p) is split, s = s₁ s₂ with
|s₁| <= 1 <= s₂. s₁ is part of t and dt here, t = s₁ (x ∘ M) Aᵀ and dt = s₁ g B. s₂ is multiplied in float32 into B
and A as they are loaded, and into the sums dA and dB: in float16 a large s could take t or dt beyond 65,504. t and dt
hold the layers side by side, each layer's R columns padded with zeros to a multiple of 16, a tensor core's minimum.

Without dropout, `_linear` computes t itself, in the loop that multiplies x by W; each layer's first column of tiles
stores t. `_linear_dx` computes dt likewise, with or without dropout. Above FUSED_RANK (or, for dt, with too many
layers) this would need too many registers. Then, and for t with dropout, `_down` computes t or dt first. `_down` also
computes dt if dx is not required. Sums are float32; A and B are rounded to the type of x as they are loaded. Each
element of an output is written by one program and each sum has a fixed order, so two runs with the same configs are
bit-identical.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from domain_ft_kernels import dropout
from domain_ft_kernels.layers import RANK_STEP, by_kind, down_columns, rounded_up, split_scale
from domain_ft_kernels.triton_backend.launch import INTERPRETER, Config, dot_precision, launch
from domain_ft_kernels.triton_backend.tiles import column_keys, hashed_once, kept, row_keys, tile_of

FUSED_RANK = {2: 64, 4: 32}
"""The largest rank for which t or dt is computed in the main loop, by bytes per element; registers limit it."""

FUSED_LAYERS = 2
"""The number of layers of rank FUSED_RANK whose t or dt fits a tile's registers; more layers if ranks are smaller."""

PROGRAMS = 96
"""The number of programs, tiles times chunks of rows, that saturates a chip's memory in `_outer`. More chunks need more
partial sums."""

CHUNK_ROWS = 512
"""The least number of rows in a chunk of `_outer`, roughly."""

LARGEST_BLOCK = 128
"""A multiple of every BLOCK_K, and of every BLOCK_M of `_outer`."""

# The kernels. A tuple has one entry for each layer.


@triton.jit
def _pick(which, values):
    """values[which], for an index known only at run time."""
    picked = values[0]
    for index in tl.static_range(1, len(values)):
        picked = tl.where(which == index, values[index], picked)
    return picked


@triton.jit
def _locate(tile, sizes, BLOCK: tl.constexpr):
    """The layer of `tile`, with tiles numbered layer by layer, and the tile's number within the layer."""
    which = 0
    first = 0
    end = 0
    for index in tl.static_range(len(sizes) - 1):
        end += tl.cdiv(sizes[index], BLOCK)
        which = tl.where(tile >= end, index + 1, which)
        first = tl.where(tile >= end, end, first)
    return which, tile - first


@triton.jit
def _multiply(
    acc, left_ptr, weight_ptr, small_ptr, rows, columns, m, k, n, rank,
    left_stride, weight_k, weight_n, small_k, small_r,
    SMALL: tl.constexpr, DIVISOR: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """acc + left · weight for the tile of these rows and columns, and left · small, or zeros without SMALL.

    left_ptr: (m, k); weight_ptr: (k, n); small_ptr: (k, rank), with their strides. DIVISOR divides k.
    """
    low = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
    left_rows = left_ptr + rows.to(tl.int64) * left_stride
    ranks = tl.arange(0, BLOCK_R)
    for start in range(0, k, BLOCK_K):
        ks = start + tl.arange(0, BLOCK_K)
        inside = (rows < m)[:, None]
        weight_inside = (columns < n)[None, :]
        small_inside = (ranks < rank)[None, :]
        if DIVISOR % BLOCK_K != 0:
            inside &= (ks < k)[None, :]
            weight_inside &= (ks < k)[:, None]
            small_inside &= (ks < k)[:, None]
        left_tile = tl.load(left_rows[:, None] + ks[None, :], mask=inside, other=0.0)
        weight_at = weight_ptr + ks[:, None] * weight_k + columns[None, :] * weight_n
        acc = tl.dot(left_tile, tl.load(weight_at, mask=weight_inside, other=0.0), acc, input_precision=PRECISION)
        if SMALL:
            small_at = small_ptr + ks[:, None] * small_k + ranks[None, :] * small_r
            small_tile = tl.load(small_at, mask=small_inside, other=0.0).to(left_tile.dtype)
            low = tl.dot(left_tile, small_tile, low, input_precision=PRECISION)
    return acc, low


@triton.jit
def _add_product(
    acc, low, up_ptr, columns, n, rank, first, scale,
    up_r, up_n,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """acc + low · scale · up, for the columns low (BLOCK_M, BLOCK_R) of t or dt from `first` on; up_ptr: (rank, n)."""
    ranks = first + tl.arange(0, BLOCK_R)
    inside = (ranks < rank)[:, None] & (columns < n)[None, :]
    up_tile = tl.load(up_ptr + ranks[:, None] * up_r + columns[None, :] * up_n, mask=inside, other=0.0)
    scaled = (up_tile.to(tl.float32) * scale).to(low.dtype)
    return tl.dot(low, scaled, acc, input_precision=PRECISION)


@triton.jit
def _add_products(
    acc, down_ptr, up_ptr, rows, columns, m, n, rank, down_stride, scale,
    up_r, up_n,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """acc + down · scale · up, with all of a layer's t or dt. down_ptr: (m, R), zero-padded; up_ptr: (rank, n)."""
    down_rows = down_ptr + rows.to(tl.int64) * down_stride
    width = tl.cdiv(rank, 16) * 16
    for first in range(0, rank, BLOCK_R):
        ranks = first + tl.arange(0, BLOCK_R)
        inside = (rows < m)[:, None] & (ranks < width)[None, :]
        low = tl.load(down_rows[:, None] + ranks[None, :], mask=inside, other=0.0)
        acc = _add_product(acc, low, up_ptr, columns, n, rank, first, scale, up_r, up_n, PRECISION, BLOCK_R)
    return acc


@triton.jit
def _store_low(down_ptr, low, rows, columns, m, rank, down_stride):
    """Store these rows and columns of a layer's t or dt, with its zero padding. down_ptr: (m, R)."""
    inside = (rows < m)[:, None] & (columns < tl.cdiv(rank, 16) * 16)[None, :]
    tl.store(down_ptr + rows.to(tl.int64)[:, None] * down_stride + columns[None, :], low, mask=inside)


@triton.jit(do_not_specialize=["m"])
def _linear(
    x_ptr, weight_ptrs, bias_ptrs, lora_a_ptrs, lora_b_ptrs, y_ptrs, down_ptr,
    features, ranks, starts, scales, up_scales, m, k, x_stride, weight_n, weight_k, down_stride,
    MAKE_DOWN: tl.constexpr, HAS_BIAS: tl.constexpr, DIVISOR: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y = x Wᵀ + t Bᵀ + b for a tile of one layer's y.

    With MAKE_DOWN the loop also computes t, else t is read. `starts` are the layers' first columns of t, `scales` are
    s₁, `up_scales` s₂. A tuple of pointers has one for each layer.

    Pointers:
        x_ptr: (m, k), rows x_stride elements apart.
        weight_ptrs: (features, k), with the strides weight_n and weight_k.
        bias_ptrs: (features,); none without HAS_BIAS.
        lora_a_ptrs: (ranks, k); lora_b_ptrs: (features, ranks).
        y_ptrs: (m, features), written.
        down_ptr: t, (m, Σ R), rows down_stride elements apart; written with MAKE_DOWN.
    """
    tiles_n = 0
    for index in tl.static_range(len(features)):
        tiles_n += tl.cdiv(features[index], BLOCK_N)
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(m, BLOCK_M), tiles_n, GROUP_M=8)
    layer, tile_n = _locate(tile_n, features, BLOCK_N)
    n, rank, start = _pick(layer, features), _pick(layer, ranks), _pick(layer, starts)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc, low = _multiply(
        acc, x_ptr, _pick(layer, weight_ptrs), _pick(layer, lora_a_ptrs), rows, columns, m, k, n, rank,
        x_stride, _pick(layer, weight_k), _pick(layer, weight_n), 1, k,
        MAKE_DOWN, DIVISOR, PRECISION, BLOCK_M, BLOCK_K, BLOCK_R,
    )  # fmt: skip
    if MAKE_DOWN:
        low = (low * _pick(layer, scales)).to(down_ptr.dtype.element_ty)
        if tile_n == 0:
            _store_low(down_ptr + start, low, rows, tl.arange(0, BLOCK_R), m, rank, down_stride)
        up_scale = _pick(layer, up_scales)
        lora_b_ptr = _pick(layer, lora_b_ptrs)
        acc = _add_product(acc, low, lora_b_ptr, columns, n, rank, 0, up_scale, 1, rank, PRECISION, BLOCK_R)
    else:
        acc = _add_products(
            acc, down_ptr + start, _pick(layer, lora_b_ptrs), rows, columns, m, n, rank, down_stride,
            _pick(layer, up_scales), 1, rank, PRECISION, BLOCK_R,
        )  # fmt: skip
    if HAS_BIAS:
        bias = tl.load(_pick(layer, bias_ptrs) + columns, mask=columns < n, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    y = _pick(layer, y_ptrs) + rows.to(tl.int64)[:, None] * n + columns[None, :]
    tl.store(y, acc.to(down_ptr.dtype.element_ty), mask=(rows < m)[:, None] & (columns < n)[None, :])


@triton.jit(do_not_specialize=["m", "seed", "threshold"])
def _linear_dx(
    grad_ptrs, weight_ptrs, lora_a_ptrs, lora_b_ptrs, dx_ptr, down_ptr, features, ranks, starts, scales, up_scales,
    m, k, grad_strides, weight_n, weight_k, down_stride, seed: tl.int64, threshold: tl.int32,
    MAKE_DOWN: tl.constexpr, DROPOUT: tl.constexpr, DIVISOR: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dx = Σ (g W + (dt A) ∘ M) over the layers, for a tile of dx.

    BLOCK_N counts columns of dx, BLOCK_K the features summed over. The rest is as in `_linear`.

    Pointers:
        grad_ptrs: g, (m, features), rows grad_strides elements apart.
        weight_ptrs: (features, k), with the strides weight_n and weight_k.
        lora_a_ptrs: (ranks, k); lora_b_ptrs: (features, ranks).
        dx_ptr: (m, k), written.
        down_ptr: dt, (m, Σ R), rows down_stride elements apart; written with MAKE_DOWN.
    """
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(m, BLOCK_M), tl.cdiv(k, BLOCK_N), GROUP_M=8)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    lows = ()
    for layer in tl.static_range(len(features)):
        acc, low = _multiply(
            acc, grad_ptrs[layer], weight_ptrs[layer], lora_b_ptrs[layer], rows, columns,
            m, features[layer], k, ranks[layer], grad_strides[layer], weight_n[layer], weight_k[layer], ranks[layer], 1,
            MAKE_DOWN, DIVISOR, PRECISION, BLOCK_M, BLOCK_K, BLOCK_R,
        )  # fmt: skip
        if MAKE_DOWN:
            low = (low * scales[layer]).to(down_ptr.dtype.element_ty)
            if tile_n == 0:
                _store_low(down_ptr + starts[layer], low, rows, tl.arange(0, BLOCK_R), m, ranks[layer], down_stride)
            lows = lows + (low,)  # type: ignore[assignment]  # noqa: RUF005 (Triton cannot unpack)
    update = tl.zeros([BLOCK_M, BLOCK_N], tl.float32) if DROPOUT else acc
    for layer in tl.static_range(len(features)):
        if MAKE_DOWN:
            update = _add_product(
                update, lows[layer], lora_a_ptrs[layer], columns, k, ranks[layer], 0, up_scales[layer],
                k, 1, PRECISION, BLOCK_R,
            )  # fmt: skip
        else:
            update = _add_products(
                update, down_ptr + starts[layer], lora_a_ptrs[layer], rows, columns, m, k, ranks[layer], down_stride,
                up_scales[layer], k, 1, PRECISION, BLOCK_R,
            )  # fmt: skip
    if DROPOUT:
        column_key = hashed_once(column_keys(seed, columns), BLOCK_N)
        update = acc + tl.where(kept(row_keys(seed, rows), column_key, threshold), update, 0.0)
    dx_at = dx_ptr + rows.to(tl.int64)[:, None] * k + columns[None, :]
    tl.store(dx_at, update.to(down_ptr.dtype.element_ty), mask=(rows < m)[:, None] & (columns < k)[None, :])


@triton.jit(do_not_specialize=["m", "seed", "threshold"])
def _down(
    left_ptr, small_ptrs, down_ptr, ranks, starts, scales,
    m, k, left_stride, small_k, small_r, down_stride, seed: tl.int64, threshold: tl.int32,
    DROPOUT: tl.constexpr, DIVISOR: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """t = s₁ (x ∘ M) Aᵀ, or dt = s₁ g B, for a block of rows.

    A program computes BLOCK_R columns for every layer, so x is read only once if no rank is larger.

    Pointers:
        left_ptr: x or g, (m, k), rows left_stride elements apart.
        small_ptrs: A or B as (k, ranks), with the strides small_k and small_r.
        down_ptr: t or dt, (m, Σ R), rows down_stride elements apart, written.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(1) * BLOCK_R
    columns = first + tl.arange(0, BLOCK_R)
    left_rows = left_ptr + rows.to(tl.int64) * left_stride
    if DROPOUT:
        row_key = row_keys(seed, rows)
    lows = ()
    for _ in tl.static_range(len(small_ptrs)):
        lows = lows + (tl.zeros([BLOCK_M, BLOCK_R], tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    for start in range(0, k, BLOCK_K):
        ks = start + tl.arange(0, BLOCK_K)
        inside = (rows < m)[:, None]
        if DIVISOR % BLOCK_K != 0:
            inside &= (ks < k)[None, :]
        left_tile = tl.load(left_rows[:, None] + ks[None, :], mask=inside, other=0.0)
        if DROPOUT:
            column_key = hashed_once(column_keys(seed, ks), BLOCK_K)
            left_tile = tl.where(kept(row_key, column_key, threshold), left_tile, 0.0)
        sums = ()
        for layer in tl.static_range(len(small_ptrs)):
            small_inside = (columns < ranks[layer])[None, :]
            if DIVISOR % BLOCK_K != 0:
                small_inside &= (ks < k)[:, None]
            small_at = small_ptrs[layer] + ks[:, None] * small_k + columns[None, :] * small_r
            small_tile = tl.load(small_at, mask=small_inside, other=0.0).to(left_tile.dtype)
            low = tl.dot(left_tile, small_tile, lows[layer], input_precision=PRECISION)
            sums = sums + (low,)  # type: ignore[assignment]  # noqa: RUF005
        lows = sums
    for layer in tl.static_range(len(small_ptrs)):
        low = (lows[layer] * scales[layer]).to(down_ptr.dtype.element_ty)
        _store_low(down_ptr + starts[layer], low, rows, columns, m, ranks[layer], down_stride)


@triton.jit(do_not_specialize=["m", "chunk_rows", "seed", "threshold"])
def _outer(
    left_ptrs, right_ptr, partial_ptrs, bias_partial_ptrs, sizes, widths, reads, starts,
    left_strides, right_stride, partial_c, partial_r, m, chunk_rows, seed: tl.int64, threshold: tl.int32,
    DROPOUT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """partial[c, r] = Σ (left ∘ M)[row, c] · right[row, r] over a chunk of rows, for a tile of one layer's partial.

    A layer multiplies `reads` columns of right from `starts` on; those beyond the first `widths` are zeros and give no
    output.

    Pointers:
        left_ptrs: (m, sizes), rows left_strides elements apart.
        right_ptr: (m, ...), rows right_stride elements apart.
        partial_ptrs: (chunks, sizes, widths), float32, with the strides partial_c and partial_r in a chunk; written.
        bias_partial_ptrs: (chunks, sizes), float32, written with BIAS: the sums of left's columns.
    """
    layer, tile = _locate(tl.program_id(0), sizes, BLOCK_C)
    chunk = tl.program_id(2)
    size, width = _pick(layer, sizes), _pick(layer, widths)
    columns = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    ranks = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    left_columns = _pick(layer, left_ptrs) + columns
    right_columns = right_ptr + _pick(layer, starts) + ranks
    left_stride = _pick(layer, left_strides)

    acc = tl.zeros([BLOCK_C, BLOCK_R], tl.float32)
    total = tl.zeros([BLOCK_C], tl.float32)
    if DROPOUT:
        column_key = column_keys(seed, columns)
    first = chunk * chunk_rows
    for start in range(first, min(first + chunk_rows, m), BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        row_offsets = rows.to(tl.int64)[:, None]
        left_inside = (rows < m)[:, None] & (columns < size)[None, :]
        right_inside = (rows < m)[:, None] & (ranks < _pick(layer, reads))[None, :]
        left_tile = tl.load(left_columns[None, :] + row_offsets * left_stride, mask=left_inside, other=0.0)
        right_tile = tl.load(right_columns[None, :] + row_offsets * right_stride, mask=right_inside, other=0.0)
        if DROPOUT:
            row_key = hashed_once(row_keys(seed, rows), BLOCK_M)
            left_tile = tl.where(kept(row_key, column_key, threshold), left_tile, 0.0)
        if BIAS:
            total += tl.sum(left_tile.to(tl.float32), 0)
        acc = tl.dot(tl.trans(left_tile), right_tile, acc, input_precision=PRECISION)
    chunk_start = chunk.to(tl.int64) * size
    at = columns[:, None] * _pick(layer, partial_c) + ranks[None, :] * _pick(layer, partial_r)
    inside = (columns < size)[:, None] & (ranks < width)[None, :]
    tl.store(_pick(layer, partial_ptrs) + chunk_start * width + at, acc, mask=inside)
    if BIAS and tl.program_id(1) == 0:
        tl.store(_pick(layer, bias_partial_ptrs) + chunk_start + columns, total, mask=columns < size)


@triton.jit
def _add_up(partial_ptrs, output_ptrs, sizes, chunks, chunk_strides, scales, BLOCK: tl.constexpr):
    """output = scale · Σ partial over its chunks, in order.

    Pointers:
        partial_ptrs: (chunks, sizes), float32, chunks chunk_strides elements apart.
        output_ptrs: (sizes,), written.
    """
    which, block = _locate(tl.program_id(0), sizes, BLOCK)
    places = block * BLOCK + tl.arange(0, BLOCK)
    inside = places < _pick(which, sizes)
    partial, stride = _pick(which, partial_ptrs), _pick(which, chunk_strides)
    total = tl.zeros([BLOCK], tl.float32)
    for chunk in range(_pick(which, chunks)):
        total += tl.load(partial + chunk * stride + places, mask=inside, other=0.0)
    total *= _pick(which, scales)
    output = _pick(which, output_ptrs)
    tl.store(output + places, total.to(output.dtype.element_ty), mask=inside)


# Tile sizes, the best guess first. The last ones for sm_80 also fit the 99 KiB of shared memory of consumer GPUs.

_NVIDIA = ("sm_80", "sm_90", "sm_100")
_HOPPER = ("sm_90", "sm_100")
_GPUS = (*_NVIDIA, "gfx942")


def _config(targets: tuple[str, ...], itemsize: int, num_warps: int, num_stages: int, **blocks: int) -> Config:
    return Config(blocks, num_warps, num_stages, targets, (itemsize,))


LINEAR_CONFIGS = (
    _config(_HOPPER, 2, 8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64),
    _config(_HOPPER, 2, 8, 3, BLOCK_M=128, BLOCK_N=256, BLOCK_K=64),
    _config(_HOPPER, 2, 4, 4, BLOCK_M=64, BLOCK_N=128, BLOCK_K=64),
    _config(("sm_80",), 2, 8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64),
    _config(("sm_80",), 2, 4, 4, BLOCK_M=64, BLOCK_N=128, BLOCK_K=32),
    _config(("gfx942",), 2, 8, 2, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64),
    _config(("gfx942",), 2, 4, 2, BLOCK_M=64, BLOCK_N=128, BLOCK_K=64),
    _config(_GPUS, 4, 8, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32),
    Config({"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 64}, targets=(INTERPRETER,)),
)
DX_CONFIGS = (
    _config(_HOPPER, 2, 8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64),
    _config(("sm_90",), 2, 8, 4, BLOCK_M=128, BLOCK_N=64, BLOCK_K=64),
    _config(("sm_100",), 2, 4, 4, BLOCK_M=128, BLOCK_N=64, BLOCK_K=64),
    _config(("sm_80",), 2, 8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=32),
    _config(("sm_80",), 2, 8, 3, BLOCK_M=128, BLOCK_N=64, BLOCK_K=64),
    _config(("sm_80",), 2, 4, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32),
    _config(("gfx942",), 2, 8, 2, BLOCK_M=128, BLOCK_N=128, BLOCK_K=32),
    _config(("gfx942",), 2, 4, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32),
    _config(_GPUS, 4, 8, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32),
    Config({"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 64}, targets=(INTERPRETER,)),
)
DOWN_CONFIGS = (
    _config(_NVIDIA, 2, 4, 4, BLOCK_M=64, BLOCK_K=64),
    _config(("sm_90",), 2, 4, 3, BLOCK_M=128, BLOCK_K=64),
    _config(("sm_80",), 2, 4, 2, BLOCK_M=64, BLOCK_K=32),
    _config(("gfx942",), 2, 8, 2, BLOCK_M=128, BLOCK_K=32),
    _config(_GPUS, 4, 8, 2, BLOCK_M=64, BLOCK_K=32),
    Config({"BLOCK_M": 64, "BLOCK_K": 64}, targets=(INTERPRETER,)),
)
OUTER_CONFIGS = (
    _config(_NVIDIA, 2, 4, 4, BLOCK_C=64, BLOCK_M=64),
    _config(_NVIDIA, 2, 4, 3, BLOCK_C=64, BLOCK_M=128),
    _config(("sm_80", "sm_90"), 2, 8, 3, BLOCK_C=128, BLOCK_M=64),
    _config(("gfx942",), 2, 4, 2, BLOCK_C=64, BLOCK_M=64),
    _config(("gfx942",), 2, 4, 2, BLOCK_C=64, BLOCK_M=128),
    _config(_GPUS, 4, 8, 2, BLOCK_C=64, BLOCK_M=64),
    Config({"BLOCK_C": 32, "BLOCK_M": 128}, targets=(INTERPRETER,)),
)
WEIGHT_BLOCK = 128
"""Columns of x in a tile of dW."""

WEIGHT_CONFIGS = (
    _config(_NVIDIA, 2, 8, 3, BLOCK_C=128, BLOCK_M=64),
    _config(("gfx942",), 2, 8, 2, BLOCK_C=128, BLOCK_M=64),
    _config(_GPUS, 4, 8, 2, BLOCK_C=64, BLOCK_M=32),
    Config({"BLOCK_C": 32, "BLOCK_M": 128}, targets=(INTERPRETER,)),
)
ADD_UP_CONFIGS = (Config({"BLOCK": 1024}, num_warps=4, num_stages=1),)


# Host side


@dataclass(frozen=True)
class _Group:
    """Layers that read the same x, in the kernels' layout; each tuple has one entry per layer."""

    weights: tuple[Tensor, ...]
    lora_as: tuple[Tensor, ...]
    lora_bs: tuple[Tensor, ...]
    scales: tuple[float, ...]
    up_scales: tuple[float, ...]
    seed: int
    threshold: int
    dropout: bool

    @classmethod
    def of(
        cls,
        weights: Sequence[Tensor],
        lora_as: Sequence[Tensor],
        lora_bs: Sequence[Tensor],
        scalings: Sequence[float],
        dropout_p: float,
        seed: Tensor | None,
    ) -> _Group:
        """The group of an op's arguments."""
        factors = [split_scale(scaling / (1 - dropout_p)) for scaling in scalings]
        return cls(
            tuple(weights),
            tuple(lora_a.contiguous() for lora_a in lora_as),
            tuple(lora_b.contiguous() for lora_b in lora_bs),
            tuple(down for down, _ in factors),
            tuple(up for _, up in factors),
            0 if seed is None else int(seed),
            dropout.threshold(dropout_p),
            seed is not None,
        )

    @property
    def features(self) -> tuple[int, ...]:
        return tuple(weight.shape[0] for weight in self.weights)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(lora_a.shape[0] for lora_a in self.lora_as)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first column of each layer's t and dt."""
        return tuple(down_columns(self.ranks[:layer]) for layer in range(len(self.ranks)))

    @property
    def rank_block(self) -> int:
        """Columns of t or dt in a tile, for the largest rank."""
        return _rank_block(max(self.ranks), self.weights[0].dtype)

    @property
    def makes_down(self) -> bool:
        """Whether forward computes t in its main loop."""
        return not self.dropout and max(self.ranks) <= self.rank_block

    @property
    def makes_d_down(self) -> bool:
        """Whether the loop for dx computes dt: a tile of dx then holds the dt of all layers."""
        return max(self.ranks) <= self.rank_block and len(self.ranks) * self.rank_block <= self.fused_columns

    @property
    def fused_columns(self) -> int:
        """The maximum number of columns, over all layers, of t or dt that a tile holds in registers."""
        return FUSED_LAYERS * FUSED_RANK[self.weights[0].dtype.itemsize]

    def only(self, layer: int) -> _Group:
        """A group of only this layer."""
        one = slice(layer, layer + 1)
        return replace(
            self,
            weights=self.weights[one],
            lora_as=self.lora_as[one],
            lora_bs=self.lora_bs[one],
            scales=self.scales[one],
            up_scales=self.up_scales[one],
        )

    def strides(self, dimension: int) -> tuple[int, ...]:
        """The stride of each weight in a dimension."""
        return tuple(weight.stride(dimension) for weight in self.weights)


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scalings: Sequence[float],
    dropout_p: float,
    seed: Tensor | None,
) -> list[Tensor]:
    """The y (m, N) of each layer, then t (m, Σ R), for x (m, K) and weights (N, K) of one type."""
    group = _Group.of(weights, lora_as, lora_bs, scalings, dropout_p, seed)
    x = _with_rows(x)
    m, k = x.shape
    ys = [x.new_empty((m, n)) for n in group.features]
    down = x.new_empty((m, down_columns(group.ranks)))
    if not group.makes_down:
        _launch_down(group, x, group.lora_as, (1, k), down, masked=group.dropout)
    launch(
        _linear,
        lambda block: (triton.cdiv(m, block["BLOCK_M"]) * _tiles(group.features, block["BLOCK_N"]),),
        *(x, group.weights, tuple(biases), group.lora_as, group.lora_bs, tuple(ys), down),
        *(group.features, group.ranks, group.starts, group.scales, group.up_scales),
        *(m, k, x.stride(0), group.strides(0), group.strides(1), down.stride(0)),
        MAKE_DOWN=group.makes_down,
        HAS_BIAS=bool(biases),
        DIVISOR=math.gcd(k, LARGEST_BLOCK),
        BLOCK_R=group.rank_block,
        configs=LINEAR_CONFIGS,
        shape=(m, sum(group.features), k),
        **_how(x),
    )
    return [*ys, down]


def backward(
    grads: Sequence[Tensor],
    x: Tensor,
    down: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scalings: Sequence[float],
    dropout_p: float,
    seed: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients with respect to those of (x, *weights, *biases, *lora_as, *lora_bs) that `needs` marks."""
    group = _Group.of(weights, lora_as, lora_bs, scalings, dropout_p, seed)
    x, grads = _with_rows(x), [_with_rows(grad) for grad in grads]
    tensors = (x, *weights, *biases, *lora_as, *lora_bs)
    outputs = [tensor.new_empty(tensor.shape) if need else None for tensor, need in zip(tensors, needs, strict=True)]
    (d_x,), *of_layers = by_kind(outputs, ([x], weights, biases, lora_as, lora_bs))
    d_weights, d_biases, d_as, d_bs = ({i: out for i, out in enumerate(kind) if out is not None} for kind in of_layers)

    d_down = torch.empty_like(down)
    if d_x is not None:
        _launch_dx(group, grads, d_x, d_down)
    elif d_as:
        _launch_d_down(group, grads, d_down)

    sums: list[tuple[Tensor, Tensor, float]] = []  # partial sums, output, factor
    if d_as:
        stacked, _ = _launch_outer(group, [x], d_down, [0], [d_down.shape[1]], transposed=True, masked=group.dropout)
        for layer, d_a in d_as.items():
            first = group.starts[layer]
            sums.append((stacked[0][:, first : first + len(d_a)], d_a, group.up_scales[layer]))
    passes = (  # over the rows of g; the first pass that reads every g whose db is required also computes db
        (d_bs, down, group.starts, group.ranks),
        (d_weights, x, (0,) * len(grads), (x.shape[1],) * len(grads)),
    )
    for outputs_of, right, starts, widths in passes:
        if not outputs_of:
            continue
        with_biases = bool(d_biases) and d_biases.keys() <= outputs_of.keys()
        partials, totals = _launch_outer(
            group,
            [grads[layer] for layer in outputs_of],
            right,
            [starts[layer] for layer in outputs_of],
            [widths[layer] for layer in outputs_of],
            padded=right is down,
            biased=with_biases,
        )
        factors = [group.up_scales[layer] if right is down else 1.0 for layer in outputs_of]
        sums += zip(partials, outputs_of.values(), factors, strict=True)
        if with_biases:
            by_layer = dict(zip(outputs_of, totals, strict=True))
            sums += [(by_layer[layer], d_bias, 1.0) for layer, d_bias in d_biases.items()]
            d_biases = {}
    for layer, d_bias in d_biases.items():
        d_bias.copy_(grads[layer].sum(0, dtype=torch.float32))
    _launch_add_up(sums)
    return [output for output in outputs if output is not None]


def _launch_down(
    group: _Group,
    left: Tensor,
    smalls: tuple[Tensor, ...],
    small_strides: tuple[int, int],
    down: Tensor,
    *,
    masked: bool,
) -> None:
    """Write s₁ (left ∘ M) small to `down` (m, Σ R), for left (m, k) and smalls (k, R); M only if `masked`."""
    m, k = left.shape
    most = group.fused_columns // len(smalls)
    rank_block = max(RANK_STEP, min(group.rank_block, triton.next_power_of_2(most + 1) // 2))
    launch(
        _down,
        lambda block: (triton.cdiv(m, block["BLOCK_M"]), triton.cdiv(max(group.ranks), rank_block)),
        *(left, smalls, down, group.ranks, group.starts, group.scales),
        *(m, k, left.stride(0), *small_strides, down.stride(0), group.seed, group.threshold),
        DROPOUT=masked,
        DIVISOR=math.gcd(k, LARGEST_BLOCK),
        BLOCK_R=rank_block,
        configs=DOWN_CONFIGS,
        shape=(m, k, sum(group.ranks)),
        **_how(left),
    )


def _launch_d_down(group: _Group, grads: Sequence[Tensor], d_down: Tensor) -> None:
    """Write dt, one layer at a time, if the loop for dx does not compute it."""
    for layer, (grad, start) in enumerate(zip(grads, group.starts, strict=True)):
        single = group.only(layer)
        columns = d_down[:, start : start + down_columns(single.ranks)]
        _launch_down(single, grad, single.lora_bs, (single.ranks[0], 1), columns, masked=False)


def _launch_dx(group: _Group, grads: Sequence[Tensor], d_x: Tensor, d_down: Tensor) -> None:
    """Write dx and dt."""
    if not group.makes_d_down:
        _launch_d_down(group, grads, d_down)
    m, k = d_x.shape
    launch(
        _linear_dx,
        lambda block: (triton.cdiv(m, block["BLOCK_M"]) * triton.cdiv(k, block["BLOCK_N"]),),
        *(tuple(grads), group.weights, group.lora_as, group.lora_bs, d_x, d_down),
        *(group.features, group.ranks, group.starts, group.scales, group.up_scales),
        *(m, k, tuple(grad.stride(0) for grad in grads), group.strides(0), group.strides(1), d_down.stride(0)),
        *(group.seed, group.threshold),
        MAKE_DOWN=group.makes_d_down,
        DROPOUT=group.dropout,
        DIVISOR=math.gcd(*group.features, LARGEST_BLOCK),
        BLOCK_R=group.rank_block,
        configs=DX_CONFIGS,
        shape=(m, k, sum(group.features)),
        **_how(d_x),
    )


def _launch_outer(
    group: _Group,
    lefts: Sequence[Tensor],
    right: Tensor,
    starts: Sequence[int],
    widths: Sequence[int],
    *,
    padded: bool = True,
    transposed: bool = False,
    masked: bool = False,
    biased: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Sums of left[row, c] · right[row, start + r] over chunks of rows.

    Args:
        starts, widths: the columns of `right` for each left (m, C): R = width columns from `start` on.
        padded: whether these columns are zero-padded to a multiple of RANK_STEP, as in t and dt.
        transposed: return (chunks, R, C) instead of (chunks, C, R).
        masked: use left ∘ M.
        biased: also sum the columns of the lefts.

    Returns:
        For each left the sums (chunks, C, R); and if `biased`, for each left the sums of its columns (chunks, C).
    """
    m, sizes = len(right), tuple(left.shape[1] for left in lefts)
    rank_block, configs = (
        (_rank_block(max(widths), right.dtype), OUTER_CONFIGS) if padded else (WEIGHT_BLOCK, WEIGHT_CONFIGS)
    )
    tiles_r = triton.cdiv(max(widths), rank_block)
    tiles = tiles_r * _tiles(sizes, configs[0].blocks["BLOCK_C"])
    chunks = max(1, min(triton.cdiv(m, CHUNK_ROWS), PROGRAMS // tiles))
    shapes = [(chunks, r, c) if transposed else (chunks, c, r) for c, r in zip(sizes, widths, strict=True)]
    partials = [right.new_empty(shape, dtype=torch.float32) for shape in shapes]
    totals = [right.new_empty((chunks, size), dtype=torch.float32) for size in sizes] if biased else []
    ones = (1,) * len(sizes)
    launch(
        _outer,
        lambda block: (_tiles(sizes, block["BLOCK_C"]), tiles_r, chunks),
        *(tuple(lefts), right, tuple(partials), tuple(totals), sizes, tuple(widths)),
        *(tuple(rounded_up(width, RANK_STEP) if padded else width for width in widths), tuple(starts)),
        *(tuple(left.stride(0) for left in lefts), right.stride(0)),
        *((ones, sizes) if transposed else (tuple(widths), ones)),
        *(m, rounded_up(triton.cdiv(m, chunks), LARGEST_BLOCK), group.seed, group.threshold),
        DROPOUT=masked,
        BIAS=biased,
        BLOCK_R=rank_block,
        configs=configs,
        shape=(m, sum(sizes), max(widths)),
        **_how(right),
    )
    return partials, totals


def _launch_add_up(sums: Sequence[tuple[Tensor, Tensor, float]]) -> None:
    """Write to each output the scaled sum of its partials (chunks, ...), with one launch for each type of output."""
    for dtype in {output.dtype: None for _, output, _ in sums}:
        of_type = [entry for entry in sums if entry[1].dtype == dtype]
        partials, outputs, scales = zip(*of_type, strict=True)
        sizes = tuple(output.numel() for output in outputs)

        def grid(block: dict[str, int], sizes: tuple[int, ...] = sizes) -> tuple[int, ...]:
            return (_tiles(sizes, block["BLOCK"]),)

        launch(
            _add_up,
            grid,
            *(
                partials,
                outputs,
                sizes,
                tuple(map(len, partials)),
                tuple(partial.stride(0) for partial in partials),
                scales,
            ),
            configs=ADD_UP_CONFIGS,
            device=outputs[0].device,
            dtype=torch.float32,
        )


def _tiles(sizes: Sequence[int], block: int) -> int:
    """The number of tiles, as `_locate` counts them."""
    return sum(triton.cdiv(size, block) for size in sizes)


def _with_rows(tensor: Tensor) -> Tensor:
    """The matrix, copied unless its rows are contiguous."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _how(operand: Tensor) -> dict[str, Any]:
    """The device, type and dot precision of a launch."""
    precision = dot_precision(operand.dtype, operand.device)
    return {"device": operand.device, "dtype": operand.dtype, "PRECISION": precision}


def _rank_block(width: int, dtype: torch.dtype) -> int:
    """Columns of t or dt in a tile, for a layer with `width` of them."""
    return max(RANK_STEP, min(FUSED_RANK[dtype.itemsize], triton.next_power_of_2(width)))
