"""Triton kernels of `domain_ft_kernels.linear_cross_entropy`, which has the maths.

The m labelled rows are numbered by slots 0..m and processed in chunks whose logits fit the stash. Kernels marked * read
or write the stash:

    _compact        target -> rows[slot], slots[row], labels[slot], and m, which only the device knows
    for each chunk of rows:
      _logits*      gathered rows of x -> z (u = x Wᵀ + b, capped): z_t; for each row and panel (PANEL columns) the
                    maximum, the sum of exponentials and Σ w z; into the stash, z minus the panel's maximum
      _losses       the panels' maxima and sums, in order -> each row's maximum, sum of exponentials and loss
      _gradient*    stash -> G = g · ∂loss/∂u (g = 1 if _finish applies it), in place unless forward kept it; db
      _grad_hidden* dx = G W, in slots; with few tiles, V is split into slices, which _add_slices adds in order
      _grad_weight* dW = Gᵀ x, or adds to it
    _finish         dx of all rows (0 where ignored) and dW, times the loss's gradient, in the types of x and W

The host never waits for the device: it launches for all n rows, and programs beyond m return at once. Each number is
written by one program and each sum has a fixed order, so two runs with the same configs are bit-identical.

Numerics. Products are accumulated in float32, and so are all sums, dx, dW and db, for any operand type. With two-byte
operands, the stash has two bytes per logit. A logit of 10 in bfloat16 is off by up to 0.03, which is 3 % of its
probability. So the stash holds the distance to the panel's maximum in float16. The relative error of a distance is at
most 2^-11, so its error is small near 0, where probabilities are large; at distances beyond float16's range, the
probability is 0. The same bytes then hold G in the operands' type.
Probabilities are exp(z - panel_max) · exp(panel_max - row_max) / S: no large numbers cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from domain_ft_kernels.stash import PANEL, cdiv, chunk_rows, stash_dtype, stash_shape
from domain_ft_kernels.triton_backend.class_weights import lse_slope, row_loss, row_weight, wide_weights
from domain_ft_kernels.triton_backend.launch import INTERPRETER, Config, dot_precision, launch, processors
from domain_ft_kernels.triton_backend.tiles import tile_of

# Kernels. Rows of a chunk have places 0..chunk; their slots are first + place.

LEAST = tl.constexpr(torch.finfo(torch.float32).min)
"""Lower bound of a maximum, so that it can be subtracted: -inf - (-inf) would be NaN."""


@triton.jit
def _rows_of(count_ptr, first, chunk):
    """The number of labelled rows in the chunk that begins at slot `first`. count_ptr: what `_compact` wrote."""
    return tl.maximum(tl.minimum(tl.load(count_ptr) - first, chunk), 0)


@triton.jit(do_not_specialize=["n"])
def _compact(
    target_ptr, rows_ptr, labels_ptr, slots_ptr, count_ptr, losses_ptr, n, classes, ignore_index, BLOCK: tl.constexpr
):
    """Number the labelled rows in order, in a single program.

    Pointers:
        target_ptr: (n,), int64.
        rows_ptr, labels_ptr: (n,), int32, written by slot: its row, and its label, or -1 if outside the classes.
        slots_ptr: (n,), int32, written: each row's slot, -1 where ignored.
        count_ptr: (1,), int32, written: the number of labelled rows.
        losses_ptr: (n,), float32, written where the target is ignored: 0.
    """
    found = 0
    for start in range(0, n, BLOCK):
        row = start + tl.arange(0, BLOCK)
        label = tl.load(target_ptr + row, mask=row < n, other=ignore_index)
        labelled = label != ignore_index
        slot = found + tl.cumsum(labelled.to(tl.int32), 0) - 1
        known = (label >= 0) & (label < classes)
        tl.store(rows_ptr + slot, row, mask=labelled)
        tl.store(labels_ptr + slot, tl.where(known, label, -1).to(tl.int32), mask=labelled)
        tl.store(slots_ptr + row, tl.where(labelled, slot, -1), mask=row < n)
        tl.store(losses_ptr + row, 0.0, mask=(row < n) & (label == ignore_index))
        found += tl.sum(labelled.to(tl.int32), 0)
    tl.store(count_ptr, found)


@triton.jit
def _logits(
    x_ptr,
    weight_ptr,
    bias_ptr,
    rows_ptr,
    labels_ptr,
    count_ptr,
    panel_max_ptr,
    panel_sum_ptr,
    panel_total_ptr,
    picked_ptr,
    stash_ptr,
    class_weight_ptr,
    first,
    chunk,
    classes,
    size,
    x_stride,
    weight_stride,
    stash_stride,
    softcap,
    PANEL: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PANELS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """Logits z of a chunk's rows, a tile of BLOCK_M rows and one or two panels at a time, and their sums by panel.

    Pointers:
        x_ptr: (n, size), rows x_stride elements apart.
        weight_ptr: (classes, size), rows weight_stride elements apart.
        bias_ptr: (classes,), float32, or None.
        rows_ptr, labels_ptr, count_ptr: what `_compact` wrote.
        panel_max_ptr, panel_sum_ptr: (panels, chunk), float32, written: max_j z_j and Σ_j exp(z_j - max) of each panel.
        panel_total_ptr: likewise Σ_j w_j z_j, or None without label smoothing.
        picked_ptr: (chunk,), float32, written: z_t.
        stash_ptr: (chunk, stash_stride), written: z minus its panel's maximum, and -inf in the columns of the last
            panel beyond the classes; or None.
        class_weight_ptr: (classes,), float32, or None for w = 1.
    """
    mine = _rows_of(count_ptr, first, chunk)
    tiles_m = tl.cdiv(mine, BLOCK_M)
    tiles_n = tl.cdiv(classes, PANEL * PANELS)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0)):
        tile_m, tile_n = tile_of(tile, tiles_m, tiles_n, GROUP_M)
        place = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        slot = first + tl.minimum(place, mine - 1)  # beyond the end, the last row or class repeats: no mask
        class_ = tl.minimum(tile_n * PANEL * PANELS + tl.arange(0, PANEL * PANELS), classes - 1)
        k = tl.arange(0, BLOCK_K)
        x_tile = x_ptr + tl.load(rows_ptr + slot).to(tl.int64)[:, None] * x_stride + k[None, :]
        weight_tile = weight_ptr + class_.to(tl.int64)[None, :] * weight_stride + k[:, None]
        z = tl.zeros([BLOCK_M, PANEL * PANELS], tl.float32)
        for start in range(0, size, BLOCK_K):
            if EVEN:
                a = tl.load(x_tile + start)
                b = tl.load(weight_tile + start)
            else:
                a = tl.load(x_tile + start, mask=(start + k)[None, :] < size, other=0.0)
                b = tl.load(weight_tile + start, mask=(start + k)[:, None] < size, other=0.0)
            z = tl.dot(a, b, z, input_precision=PRECISION)

        label = tl.load(labels_ptr + slot)
        parts = (z,)
        if PANELS == 2:
            parts = tl.split(tl.permute(tl.reshape(z, [BLOCK_M, 2, PANEL]), (0, 2, 1)))
        for part in tl.static_range(PANELS):  # one at a time: both would not fit the registers
            panel = tile_n * PANELS + part
            column = panel * PANEL + tl.arange(0, PANEL)
            inside = column < classes
            real = place < tl.where(panel * PANEL < classes, mine, 0)  # the last tile may have only one panel
            z = parts[part]
            if bias_ptr is not None:
                z += tl.load(bias_ptr + column, mask=inside, other=0.0)[None, :]
            if softcap is not None:
                z = softcap - 2 * softcap / (1 + tl.exp(2 / softcap * z))  # softcap · tanh(z / softcap)
            target = label - panel * PANEL
            hit = tl.arange(0, PANEL)[None, :] == target[:, None]
            here = real & (target >= 0) & (target < PANEL)
            tl.store(picked_ptr + place, tl.sum(tl.where(hit, z, 0.0), 1), mask=here)
            at = panel * chunk + place
            if panel_total_ptr is not None:
                weighted = z
                if class_weight_ptr is not None:
                    weighted *= tl.load(class_weight_ptr + column, mask=inside, other=0.0)[None, :]
                tl.store(panel_total_ptr + at, tl.sum(tl.where(inside[None, :], weighted, 0.0), 1), mask=real)
            z = tl.where(inside[None, :], z, float("-inf"))
            panel_max = tl.maximum(tl.max(z, 1), LEAST)
            z -= panel_max[:, None]
            tl.store(panel_max_ptr + at, panel_max, mask=real)
            tl.store(panel_sum_ptr + at, tl.sum(tl.exp(z), 1), mask=real)
            if stash_ptr is not None:
                out = stash_ptr + place.to(tl.int64)[:, None] * stash_stride + column[None, :]
                tl.store(out, z.to(stash_ptr.dtype.element_ty), mask=real[:, None])


@triton.jit
def _losses(
    panel_max_ptr,
    panel_sum_ptr,
    panel_total_ptr,
    picked_ptr,
    rows_ptr,
    labels_ptr,
    count_ptr,
    row_max_ptr,
    sum_exp_ptr,
    losses_ptr,
    lse_ptr,
    class_weight_ptr,
    mean_weight_ptr,
    first,
    chunk,
    classes,
    panels,
    label_smoothing,
    z_loss,
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Each row's maximum, sum of exponentials and loss, from the maxima and sums of its panels.

    Pointers:
        panel_max_ptr, panel_sum_ptr, panel_total_ptr, picked_ptr: what `_logits` wrote.
        rows_ptr, labels_ptr, count_ptr: what `_compact` wrote.
        row_max_ptr, sum_exp_ptr: (n,), float32, written by slot: m and S.
        losses_ptr: (n,), float32, written by row.
        lse_ptr: (n,), float32, written by row: the log-sum-exp; or None.
        class_weight_ptr: (classes,), float32, or None; mean_weight_ptr: (1,), their mean, or None.
    """
    mine = _rows_of(count_ptr, first, chunk)
    place = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = place < mine
    row_max = tl.full([BLOCK_M], LEAST, tl.float32)
    sum_exp = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, panels, BLOCK_P):
        panel = start + tl.arange(0, BLOCK_P)[:, None]
        mask = (panel < panels) & real[None, :]
        at = panel * chunk + place[None, :]
        panel_max = tl.load(panel_max_ptr + at, mask=mask, other=LEAST)
        panel_sum = tl.load(panel_sum_ptr + at, mask=mask, other=0.0)
        higher = tl.maximum(row_max, tl.max(panel_max, 0))
        sum_exp = sum_exp * tl.exp(row_max - higher) + tl.sum(panel_sum * tl.exp(panel_max - higher[None, :]), 0)
        row_max = higher
        if panel_total_ptr is not None:
            total += tl.sum(tl.load(panel_total_ptr + at, mask=mask, other=0.0), 0)
    label = tl.load(labels_ptr + first + place, mask=real, other=-1)
    target_logit = tl.load(picked_ptr + place, mask=label >= 0, other=0.0)
    log_sum = tl.log(tl.where(real, sum_exp, 1.0))
    row_max = tl.where(real, row_max, 0.0)
    loss = row_loss(
        log_sum,
        row_max,
        target_logit,
        total,
        label,
        label >= 0,
        class_weight_ptr,
        mean_weight_ptr,
        classes,
        label_smoothing,
    )
    if z_loss is not None:
        loss += z_loss * (row_max + log_sum) * (row_max + log_sum)
    loss = tl.where(label >= 0, loss, float("nan"))
    tl.store(row_max_ptr + first + place, row_max, mask=real)
    tl.store(sum_exp_ptr + first + place, sum_exp, mask=real)
    row = tl.load(rows_ptr + first + place, mask=real, other=0)
    tl.store(losses_ptr + row, loss, mask=real)
    if lse_ptr is not None:
        tl.store(lse_ptr + row, row_max + log_sum, mask=real)


@triton.jit(do_not_specialize=["depth"])
def _gradient(
    stash_ptr,
    gradient_ptr,
    panel_max_ptr,
    row_max_ptr,
    sum_exp_ptr,
    rows_ptr,
    labels_ptr,
    grad_ptr,
    lse_grad_ptr,
    class_weight_ptr,
    mean_weight_ptr,
    count_ptr,
    bias_gradient_ptr,
    largest_ptr,
    first,
    chunk,
    classes,
    stride,
    depth,
    label_smoothing,
    z_loss,
    softcap,
    PANEL: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """G = g · ∂loss/∂u of a chunk from its stash; 0 in the columns beyond the classes.

    A program handles PANEL columns and `depth` rows, in order, a square at a time. If db is required, `depth` is all
    rows, and the program writes its part of db, or with ADD adds to it.

    Pointers:
        stash_ptr: (chunk, stride), what `_logits` wrote.
        gradient_ptr: (chunk, stride), written: G; it may be the stash's memory.
        panel_max_ptr: (panels, chunk), what `_logits` wrote.
        row_max_ptr, sum_exp_ptr: (n,), by slot, what `_losses` wrote.
        rows_ptr, labels_ptr, count_ptr: what `_compact` wrote.
        grad_ptr: (n,), float32, g, the gradient with respect to each row's loss; or None for 1.
        lse_grad_ptr: (n,), float32, likewise with respect to each row's log-sum-exp, if grad_ptr is given; or None.
        class_weight_ptr: (classes,), float32, or None; mean_weight_ptr: (1,), their mean, or None.
        bias_gradient_ptr: (classes,), float32, written or added to: db; or None.
        largest_ptr: (squares of rows, panels), float32, written: the largest |∂loss/∂u| of a square, not multiplied by
            grad; or None.
    """
    mine = _rows_of(count_ptr, first, chunk)
    column = tl.program_id(0) * PANEL + tl.arange(0, PANEL)
    panel = tl.program_id(0)
    inside = column[None, :] < classes
    start = tl.program_id(1) * depth
    total = tl.zeros([PANEL], tl.float32)
    for square in range(start, tl.minimum(start + depth, mine), PANEL):
        most = tl.zeros([PANEL], tl.float32)
        for begin in range(square, tl.minimum(square + PANEL, mine), BLOCK_M):
            place = begin + tl.arange(0, BLOCK_M)
            real = place < mine
            slot = first + place
            panel_max = tl.load(panel_max_ptr + panel * chunk + place, mask=real, other=0.0)
            row_max = tl.load(row_max_ptr + slot, mask=real, other=0.0)
            sum_exp = tl.load(sum_exp_ptr + slot, mask=real, other=1.0)
            label = tl.load(labels_ptr + slot, mask=real, other=-1)
            at = place.to(tl.int64)[:, None] * stride + column[None, :]
            below = tl.load(stash_ptr + at, mask=real[:, None], other=0.0).to(tl.float32)
            at_target = row_weight(label, label >= 0, class_weight_ptr)
            slope = lse_slope(at_target, mean_weight_ptr, label_smoothing)
            share = tl.zeros([BLOCK_M], tl.float32)
            if label_smoothing is not None:
                at_target *= 1 - label_smoothing
                share += label_smoothing / classes
            if z_loss is not None:
                slope += 2 * z_loss * (row_max + tl.log(sum_exp))
            if lse_grad_ptr is not None:  # no common factor: the loss's gradient is applied here
                row = tl.load(rows_ptr + slot, mask=real, other=0)
                scale = tl.load(grad_ptr + row, mask=real, other=0.0)
                slope = slope * scale + tl.load(lse_grad_ptr + row, mask=real, other=0.0)
                at_target *= scale
                share *= scale
            g = tl.exp(below) * (slope * tl.exp(panel_max - row_max) / sum_exp)[:, None]
            g -= tl.where(column[None, :] == label[:, None], at_target[:, None], 0.0)
            if label_smoothing is not None:
                if class_weight_ptr is None:
                    g -= share[:, None]
                else:
                    w = tl.load(class_weight_ptr + column, mask=column < classes, other=0.0)
                    g -= share[:, None] * w[None, :]
            if softcap is not None:
                capped = (below + panel_max[:, None]) / softcap
                g *= 1 - capped * capped
            g = tl.where(inside & real[:, None], g, 0.0)
            if largest_ptr is not None:
                most = tl.maximum(most, tl.max(tl.where(g == g, tl.abs(g), float("inf")), 0))
            if grad_ptr is not None and lse_grad_ptr is None:
                row = tl.load(rows_ptr + slot, mask=real, other=0)
                g *= tl.load(grad_ptr + row, mask=real, other=0.0)[:, None]
            tl.store(gradient_ptr + at, g.to(gradient_ptr.dtype.element_ty), mask=real[:, None])
            total += tl.sum(g, 0)
        if largest_ptr is not None:
            tl.store(largest_ptr + square // PANEL * tl.num_programs(0) + tl.program_id(0), tl.max(most, 0))
    if bias_gradient_ptr is not None:
        if ADD:
            total += tl.load(bias_gradient_ptr + column, mask=column < classes, other=0.0)
        tl.store(bias_gradient_ptr + column, total, mask=column < classes)


@triton.jit
def _grad_hidden(
    gradient_ptr,
    weight_ptr,
    count_ptr,
    out_ptr,
    slices_ptr,
    slice_count_ptr,
    largest_ptr,
    first,
    chunk,
    classes,
    size,
    stride,
    weight_stride,
    filter_eps,
    PANEL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """dx = G W of a chunk, by slot.

    If there are at least two programs per tile, each tile's sum over the classes is split into slices, which
    `_add_slices` adds.

    Pointers:
        gradient_ptr: (chunk, stride), G.
        weight_ptr: (classes, size), rows weight_stride elements apart.
        count_ptr: (1,), what `_compact` wrote.
        out_ptr: (n, size), float32, written by slot if there is one slice.
        slices_ptr: (slices, labelled rows of the chunk, size), float32, written if there are several slices.
        slice_count_ptr: (1,), int32, written: the number of slices.
        largest_ptr: what `_gradient` wrote, or None: squares with a value of at most filter_eps are skipped.
    """
    mine = _rows_of(count_ptr, first, chunk)
    tiles_m = tl.cdiv(mine, BLOCK_M)
    tiles_n = tl.cdiv(size, BLOCK_N)
    tiles = tiles_m * tiles_n
    parts = tl.maximum(tl.num_programs(0) // tl.maximum(tiles, 1), 1)
    if tl.program_id(0) == 0:
        tl.store(slice_count_ptr, parts)
    blocks = tl.cdiv(classes, BLOCK_K)
    depth = tl.cdiv(blocks, parts)
    for item in tl.range(tl.program_id(0), tiles * parts, tl.num_programs(0)):
        part = item // tiles
        tile_m, tile_n = tile_of(item % tiles, tiles_m, tiles_n, GROUP_M)
        place = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        real = (place < mine)[:, None] & (column < size)[None, :]
        g_rows = gradient_ptr + tl.minimum(place, mine - 1).to(tl.int64)[:, None] * stride
        accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for block in range(part * depth, tl.minimum((part + 1) * depth, blocks)):
            k = block * BLOCK_K + tl.arange(0, BLOCK_K)
            needed = True
            if largest_ptr is not None:
                squares = tl.cdiv(classes, PANEL)
                square = tile_m * BLOCK_M // PANEL * squares + block * BLOCK_K // PANEL
                needed = tl.load(largest_ptr + square) > filter_eps
            if needed:
                g = tl.load(g_rows + k[None, :])  # 0 beyond the classes
                w_rows = weight_ptr + tl.minimum(k, classes - 1).to(tl.int64)[:, None] * weight_stride
                w = tl.load(w_rows + column[None, :], mask=(column < size)[None, :], other=0.0)
                accumulator = tl.dot(g, w, accumulator, input_precision=PRECISION)
        at = place.to(tl.int64)[:, None] * size + column[None, :]
        if parts == 1:
            tl.store(out_ptr + first.to(tl.int64) * size + at, accumulator, mask=real)
        else:
            tl.store(slices_ptr + (part * mine).to(tl.int64) * size + at, accumulator, mask=real)


@triton.jit
def _add_slices(slices_ptr, slice_count_ptr, count_ptr, out_ptr, first, chunk, size, BLOCK: tl.constexpr):
    """Add the slices of dx in order; returns at once if there is only one.

    Pointers:
        slices_ptr, slice_count_ptr: what `_grad_hidden` wrote.
        count_ptr: (1,), what `_compact` wrote.
        out_ptr: (n, size), float32, written by slot.
    """
    parts = tl.load(slice_count_ptr)
    if parts == 1:
        return
    elements = _rows_of(count_ptr, first, chunk) * size
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(parts):
        total += tl.load(slices_ptr + part * elements + at, mask=at < elements, other=0.0)
    tl.store(out_ptr + first.to(tl.int64) * size + at, total, mask=at < elements)


@triton.jit
def _grad_weight(
    gradient_ptr,
    x_ptr,
    rows_ptr,
    count_ptr,
    out_ptr,
    largest_ptr,
    first,
    chunk,
    classes,
    size,
    stride,
    x_stride,
    filter_eps,
    PANEL: tl.constexpr,
    PRECISION: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """dW = Gᵀ x over a chunk's rows; with ADD it is added to out.

    Pointers:
        gradient_ptr: (chunk, stride), G.
        x_ptr: (n, size), rows x_stride elements apart.
        rows_ptr, count_ptr: what `_compact` wrote.
        out_ptr: (classes, size), float32, written or added to.
        largest_ptr: what `_gradient` wrote, or None: squares with a value of at most filter_eps are skipped.
    """
    mine = _rows_of(count_ptr, first, chunk)
    if ADD and mine == 0:
        return
    tiles_n = tl.cdiv(size, BLOCK_N)
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(classes, BLOCK_M), tiles_n, GROUP_M)
    class_ = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    at = out_ptr + class_.to(tl.int64)[:, None] * size + column[None, :]
    written = (class_ < classes)[:, None] & (column < size)[None, :]
    accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if ADD:
        accumulator += tl.load(at, mask=written, other=0.0)
    for begin in range(0, mine, BLOCK_K):
        place = begin + tl.arange(0, BLOCK_K)
        needed = True
        if largest_ptr is not None:
            square = begin // PANEL * tl.cdiv(classes, PANEL) + tile_m * BLOCK_M // PANEL
            needed = tl.load(largest_ptr + square) > filter_eps
        if needed:
            real = (place < mine)[:, None]
            g = tl.load(gradient_ptr + place.to(tl.int64)[:, None] * stride + class_[None, :], mask=real, other=0.0)
            row = tl.load(rows_ptr + first + tl.minimum(place, mine - 1)).to(tl.int64)
            x_tile = tl.load(
                x_ptr + row[:, None] * x_stride + column[None, :], mask=(column < size)[None, :], other=0.0
            )
            accumulator = tl.dot(tl.trans(g), x_tile, accumulator, input_precision=PRECISION)
    tl.store(at, accumulator, mask=written)


@triton.jit(do_not_specialize=["n"])
def _finish(
    source_ptr,
    slots_ptr,
    grad_ptr,
    out_ptr,
    n,
    size,
    BY_ROW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A gradient in its tensor's type, times the gradient with respect to the loss.

    Pointers:
        source_ptr: (rows, size), float32, by slot if there are slots.
        slots_ptr: (n,), int32, what `_compact` wrote, or None; where it is -1, 0 is written.
        grad_ptr: (1,), or (n,) with BY_ROW, float32; None for 1.
        out_ptr: (n, size), written.
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    slot = row
    if slots_ptr is not None:
        slot = tl.load(slots_ptr + row, mask=row < n, other=-1)
    real = (row < n)[:, None] & (column < size)[None, :]
    at = slot.to(tl.int64)[:, None] * size + column[None, :]
    value = tl.load(source_ptr + at, mask=real & (slot >= 0)[:, None], other=0.0)
    if BY_ROW:
        value *= tl.load(grad_ptr + row, mask=(row < n) & (slot >= 0), other=0.0)[:, None]
    elif grad_ptr is not None:
        value *= tl.load(grad_ptr)
    tl.store(
        out_ptr + row.to(tl.int64)[:, None] * size + column[None, :], value.to(out_ptr.dtype.element_ty), mask=real
    )


# Tile sizes. BLOCK_K of _logits divides EVEN; tiles of G divide a panel, so that squares can be skipped.

EVEN = 64
"""If the hidden size is a multiple of this, `_logits` loads without a mask along it."""

NVIDIA = ("sm_80", "sm_90", "sm_100")
AMD = ("gfx942",)
TESTS = (INTERPRETER,)

_COMPACT = [Config({"BLOCK": 2048}, num_warps=8, targets=(*NVIDIA, *AMD)), Config({"BLOCK": 64}, targets=TESTS)]
_LOSSES = [Config({"BLOCK_M": 16, "BLOCK_P": 64}, num_warps=4)]
_GRADIENT = [
    Config({"BLOCK_M": 8}, 4, targets=("sm_90",), itemsizes=(2,)),
    Config({"BLOCK_M": 16}, 4, targets=("sm_90",), itemsizes=(4,)),
    Config({"BLOCK_M": 16}, 4, targets=("sm_80", "sm_100", *AMD)),
    Config({"BLOCK_M": 128}, targets=TESTS),
]
_ADD_SLICES = [Config({"BLOCK": 1024}, num_warps=4)]
_FINISH = [Config({"BLOCK_M": 16, "BLOCK_N": 128}, num_warps=4)]
_LOGITS = [
    Config({"BLOCK_M": 128, "PANELS": 2, "BLOCK_K": 64, "GROUP_M": 32}, 8, 3, ("sm_80", "sm_90"), (2,)),
    Config({"BLOCK_M": 128, "PANELS": 1, "BLOCK_K": 64, "GROUP_M": 32}, 8, 3, NVIDIA, (2,)),
    Config({"BLOCK_M": 64, "PANELS": 1, "BLOCK_K": 32, "GROUP_M": 32}, 8, 2, ("sm_80",), (2,)),
    Config({"BLOCK_M": 64, "PANELS": 1, "BLOCK_K": 32, "GROUP_M": 32}, 8, 2, NVIDIA, (4,)),
    Config({"BLOCK_M": 128, "PANELS": 1, "BLOCK_K": 64, "GROUP_M": 32}, 8, 2, AMD, (2,)),
    Config({"BLOCK_M": 128, "PANELS": 1, "BLOCK_K": 32, "GROUP_M": 32}, 8, 2, AMD, (2, 4)),
    Config({"BLOCK_M": 32, "PANELS": 2, "BLOCK_K": 32, "GROUP_M": 2}, targets=TESTS),
]
_WEIGHTED_LOGITS = [replace(_LOGITS[0], targets=("sm_80",)), *_LOGITS[1:]]
"""With label smoothing and class weights: on sm_90 the first of _LOGITS would spill registers."""

_GRAD_HIDDEN = [
    Config({"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 8}, 8, 3, ("sm_80", "sm_90"), (2,)),
    Config({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP_M": 8}, 8, 3, NVIDIA, (2,)),
    Config({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8}, 4, 3, ("sm_80",), (2,)),
    Config({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8}, 8, 3, NVIDIA, (4,)),
    Config({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "GROUP_M": 8}, 8, 2, AMD, (2,)),
    Config({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8}, 4, 2, AMD, (2, 4)),
    Config({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 128, "GROUP_M": 2}, targets=TESTS),
]
_GRAD_WEIGHT = [
    Config({"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 8}, 8, 3, ("sm_90",), (2,)),
    Config({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP_M": 8}, 8, 3, NVIDIA, (2,)),
    Config({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8}, 4, 3, ("sm_80",), (2,)),
    Config({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8}, 8, 3, NVIDIA, (4,)),
    Config({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "GROUP_M": 8}, 8, 2, AMD, (2,)),
    Config({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8}, 4, 2, AMD, (2, 4)),
    Config({"BLOCK_M": 128, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP_M": 2}, targets=TESTS),
]

LARGEST_TILE = 128 * 256
"""Elements of _grad_hidden's largest tile. This bounds the size of its slices."""

GRADIENT_ROWS = 4 * PANEL
"""Rows per program of _gradient if db is not required; otherwise one program handles all rows of its columns."""


# Host side


class _Head:
    """A call's operands in the kernels' layout, its numbered rows, and the buffers of a chunk.

    Methods launch kernels; `first` is the slot of a chunk's first row. Tensors by slot have room for all n rows.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        bias: Tensor | None,
        class_weight: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        softcap: float | None,
        compute: torch.dtype,
        filter_eps: float | None,
    ) -> None:
        self.class_weights, self.mean_weight = wide_weights(class_weight)
        self.x, self.weight = _row_major(hidden.to(compute)), _row_major(weight.to(compute))
        self.bias = None if bias is None else bias.to(compute).float().contiguous()  # float32: no two-byte loads
        self.label_smoothing, self.z_loss, self.softcap = label_smoothing or None, z_loss or None, softcap
        self.compute, self.device, self.filter_eps = compute, hidden.device, filter_eps
        self.n, (self.classes, self.size) = len(hidden), weight.shape
        self.panels = cdiv(self.classes, PANEL)
        step = chunk_rows(self.n, self.classes, compute.itemsize)
        self.chunk = min(step, self.n)
        self.firsts = range(0, max(self.n, 1), step)  # even zero rows are one chunk, so that dW is zeroed

        self.rows, self.labels, self.slots = (self.make_empty(self.n, dtype=torch.int32) for _ in range(3))
        self.count = self.make_empty(1, dtype=torch.int32)
        self.losses, self.row_maxes, self.sum_exps = (self.make_empty(self.n) for _ in range(3))
        self.panel_maxes, self.panel_sums = (self.make_empty(self.panels, self.chunk) for _ in range(2))
        self.panel_totals = None if self.label_smoothing is None else self.make_empty(self.panels, self.chunk)
        self.picked = self.make_empty(self.chunk)
        squares = (cdiv(self.chunk, PANEL), cdiv(self.classes, PANEL))
        self.largest = None if filter_eps is None else self.make_empty(*squares)
        self._launch(
            _compact,
            lambda _: (1,),
            *(target.contiguous(), self.rows, self.labels, self.slots, self.count, self.losses),
            *(self.n, self.classes, ignore_index),
            configs=_COMPACT,
        )

    def make_empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised memory on the operands' device."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _launch(
        self, kernel: Any, grid: Callable[[dict[str, int]], tuple[int, ...]], *arguments: Any, **how: Any
    ) -> None:
        shape = (self.classes, self.size, 0 if self.class_weights is None else self.classes)
        launch(kernel, grid, *arguments, device=self.device, dtype=self.compute, shape=shape, **how)

    def new_stash(self) -> Tensor:
        """A chunk's stash, (chunk, panels · PANEL)."""
        return self.make_empty(*stash_shape(self.chunk, self.classes), dtype=stash_dtype(self.compute))

    def make_logits(self, first: int, stash: Tensor | None) -> None:
        """A chunk's sums by panel, and its stash if one is given."""
        most = 2 * processors(self.device)  # so that one program can multiply while the other exponentiates
        self._launch(
            _logits,
            lambda blocks: (min(most, cdiv(self.chunk, blocks["BLOCK_M"]) * cdiv(self.panels, blocks["PANELS"])),),
            *(self.x, self.weight, self.bias, self.rows, self.labels, self.count),
            *(self.panel_maxes, self.panel_sums, self.panel_totals, self.picked, stash, self.class_weights),
            *(first, self.chunk, self.classes, self.size, self.x.stride(0), self.weight.stride(0)),
            *(self.panels * PANEL, self.softcap),
            configs=_LOGITS if self.class_weights is None or self.panel_totals is None else _WEIGHTED_LOGITS,
            PANEL=PANEL,
            EVEN=self.size % EVEN == 0,
            PRECISION=dot_precision(self.compute, self.device),
        )

    def make_losses(self, first: int, lses: Tensor | None = None) -> None:
        """A chunk's losses, its log-sum-exps if `lses` is given, and the row sums that its gradient needs."""
        self._launch(
            _losses,
            lambda blocks: (cdiv(self.chunk, blocks["BLOCK_M"]),),
            *(self.panel_maxes, self.panel_sums, self.panel_totals, self.picked, self.rows, self.labels, self.count),
            *(self.row_maxes, self.sum_exps, self.losses, lses, self.class_weights, self.mean_weight),
            *(first, self.chunk, self.classes, self.panels, self.label_smoothing, self.z_loss),
            configs=_LOSSES,
        )

    def make_gradient(
        self,
        first: int,
        stash: Tensor,
        gradient: Tensor,
        grads: tuple[Tensor | None, Tensor | None],
        bias_gradient: Tensor | None,
    ) -> None:
        """A chunk's G, (chunk, panels · PANEL), and its part of db."""
        rows = max(self.chunk, PANEL)
        depth = rows if bias_gradient is not None else GRADIENT_ROWS
        self._launch(
            _gradient,
            lambda _: (cdiv(self.classes, PANEL), cdiv(rows, depth)),
            *(stash, gradient, self.panel_maxes, self.row_maxes, self.sum_exps, self.rows, self.labels, *grads),
            *(self.class_weights, self.mean_weight),
            *(self.count, bias_gradient, self.largest, first, self.chunk, self.classes, self.panels * PANEL),
            *(depth, self.label_smoothing, self.z_loss, self.softcap),
            configs=_GRADIENT,
            repeatable=False,
            PANEL=PANEL,
            ADD=first > 0,
        )

    def make_hidden_gradient(self, first: int, gradient: Tensor, out: Tensor, slices: Tensor, parts: Tensor) -> None:
        """dx of a chunk, into its slots of out (n, size)."""
        most = processors(self.device)
        self._launch(
            _grad_hidden,
            lambda _: (most,),
            *(gradient, self.weight, self.count, out, slices, parts, self.largest),
            *(first, self.chunk, self.classes, self.size, self.panels * PANEL, self.weight.stride(0), self.filter_eps),
            configs=_GRAD_HIDDEN,
            PANEL=PANEL,
            PRECISION=dot_precision(self.compute, self.device),
        )
        elements = min(self.chunk * self.size, len(slices) // 2)  # each of several slices has at most half
        self._launch(
            _add_slices,
            lambda blocks: (cdiv(elements, blocks["BLOCK"]),),
            *(slices, parts, self.count, out, first, self.chunk, self.size),
            configs=_ADD_SLICES,
        )

    def make_weight_gradient(self, first: int, gradient: Tensor, out: Tensor) -> None:
        """dW (classes, size) of a chunk, added to those before it."""
        self._launch(
            _grad_weight,
            lambda blocks: (cdiv(self.classes, blocks["BLOCK_M"]) * cdiv(self.size, blocks["BLOCK_N"]),),
            *(gradient, self.x, self.rows, self.count, out, self.largest),
            *(first, self.chunk, self.classes, self.size, self.panels * PANEL, self.x.stride(0), self.filter_eps),
            configs=_GRAD_WEIGHT,
            repeatable=first == 0,
            PANEL=PANEL,
            PRECISION=dot_precision(self.compute, self.device),
            ADD=first > 0,
        )


class _Gradients:
    """The required gradients in float32: dx by slot (n, size), dW and db. The others are empty."""

    def __init__(self, head: _Head, needs: list[bool]) -> None:
        self.head, self.needs = head, needs
        empty = head.make_empty
        self.hidden = empty(*(head.n, head.size) if needs[0] else (0,))
        self.weight = empty(*(head.classes, head.size) if needs[1] else (0,))
        self.bias = empty(head.classes if needs[2] else 0)
        self.slices = empty(processors(head.device) * LARGEST_TILE if needs[0] else 0)
        self.parts = empty(1, dtype=torch.int32)

    def add(
        self, first: int, stash: Tensor, gradient: Tensor, grad: Tensor | None = None, lse_grad: Tensor | None = None
    ) -> None:
        """Add a chunk, from its stash; G is written to `gradient`, which may be the stash's memory."""
        head = self.head
        head.make_gradient(first, stash, gradient, (grad, lse_grad), self.bias if self.needs[2] else None)
        if self.needs[0]:
            head.make_hidden_gradient(first, gradient, self.hidden, self.slices, self.parts)
        if self.needs[1]:
            head.make_weight_gradient(first, gradient, self.weight)


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses and log-sum-exps (if `with_lse`) by row, maxima and sums by slot, and (if `keep`) stash and panel maxima.

    Implements the op linear_cross_entropy_triton, whose schema lists the arguments. With `keep`, all rows must be in
    one chunk.
    """
    *operands, with_lse, keep = arguments
    head = _Head(*operands)
    lses = torch.zeros(head.n, dtype=torch.float32, device=head.device) if with_lse else None
    stash = head.new_stash() if keep else None
    for first in head.firsts:
        head.make_logits(first, stash)
        head.make_losses(first, lses)
    sums = head.losses, head.make_empty(0) if lses is None else lses, head.row_maxes, head.sum_exps
    if stash is None:
        return *sums, head.make_empty(0), head.make_empty(0)
    return *sums, stash, head.panel_maxes


def backward(
    grad: Tensor,
    lse_grad: Tensor | None,
    row_maxes: Tensor,
    sum_exps: Tensor,
    stash: Tensor,
    panel_maxes: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to hidden, weight and bias (empty if not required).

    grad and lse_grad (n,) are the gradients with respect to the losses and the log-sum-exps. G is computed from
    recomputed logits, or from the stash that forward kept, which is not changed.
    """
    hidden, weight, target, bias, *options, _with_lse, keep, needs = arguments
    head = _Head(hidden, weight, target, bias, *options)
    head.row_maxes, head.sum_exps = row_maxes, sum_exps
    gradients, made = _Gradients(head, needs), head.new_stash()
    grads = grad.contiguous(), None if lse_grad is None else lse_grad.contiguous()
    if keep:
        head.panel_maxes = panel_maxes
        gradients.add(0, stash, made.view(head.compute), *grads)
    else:
        for first in head.firsts:
            head.make_logits(first, made)
            gradients.add(first, made, made.view(head.compute), *grads)
    types = hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype
    return finish(None, gradients.hidden, gradients.weight, gradients.bias, head.slots, *types, needs)


def forward_with_gradients(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses (n,), or their sum if `summed`; float32 gradients for `finish`; and each row's slot.

    Implements the op linear_cross_entropy_with_gradients_triton, whose schema lists the arguments.
    """
    *operands, summed, needs = arguments
    head = _Head(*operands)
    gradients, stash = _Gradients(head, needs), head.new_stash()
    for first in head.firsts:
        head.make_logits(first, stash)
        head.make_losses(first)
        gradients.add(first, stash, stash.view(head.compute))
    losses = head.losses.sum() if summed else head.losses
    return losses, gradients.hidden, gradients.weight, gradients.bias, head.slots


def finish(
    grad: Tensor | None,
    d_hidden: Tensor,
    d_weight: Tensor,
    d_bias: Tensor,
    slots: Tensor,
    hidden_type: torch.dtype,
    weight_type: torch.dtype,
    bias_type: torch.dtype,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of hidden, weight and bias in their types, times `grad`: one number, one per row, or None for 1."""
    if grad is not None:
        grad = grad.contiguous()
    hidden = torch.empty(d_hidden.shape, dtype=hidden_type, device=slots.device)
    weight = torch.empty(d_weight.shape, dtype=weight_type, device=slots.device)
    if needs[0]:
        _scale(d_hidden, slots, grad, hidden)
    if needs[1]:
        _scale(d_weight, None, grad, weight)
    bias = (d_bias if grad is None or not needs[2] else d_bias * grad).to(bias_type, copy=True)
    return hidden, weight, bias


def _scale(source: Tensor, slots: Tensor | None, grad: Tensor | None, out: Tensor) -> None:
    """out = grad · source, both (rows, size)."""
    rows, size = source.shape
    launch(
        _finish,
        lambda blocks: (cdiv(rows, blocks["BLOCK_M"]), cdiv(size, blocks["BLOCK_N"])),
        *(source, slots, grad, out, rows, size),
        configs=_FINISH,
        device=source.device,
        dtype=out.dtype,
        BY_ROW=grad is not None and grad.dim() == 1,
    )


def _row_major(matrix: Tensor) -> Tensor:
    """The matrix, copied unless its rows are contiguous; the row stride may be any."""
    return matrix if matrix.stride(-1) == 1 else matrix.contiguous()
