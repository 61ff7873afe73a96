"""The stash of the triton backend's linear cross-entropy: the logits that it keeps, a chunk of rows at a time.

The op plans with these sizes, and its Triton kernels are launched with them; neither imports the other for them.
"""

from __future__ import annotations

import torch

STASH_BYTES = 640 * 2**20
"""Bound on the logits that exist at once: a chunk large enough to fill a GPU and to read W only a few times."""

PANEL = 128
"""The vocabulary comes in panels of so many columns, and chunks in squares of a panel."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def stash_dtype(compute: torch.dtype) -> torch.dtype:
    """The type that logits are kept in, less their panel's maximum: as wide as `compute`, so that gradients fit."""
    return torch.float16 if compute.itemsize == 2 else torch.float32


def stash_shape(rows: int, classes: int) -> tuple[int, int]:
    """Rows, and columns in whole panels."""
    return rows, cdiv(classes, PANEL) * PANEL


def chunk_rows(rows: int, classes: int, itemsize: int) -> int:
    """Rows of a chunk: squares of a panel, as few chunks of one size as STASH_BYTES allow, or one square each."""
    row_bytes = stash_shape(1, classes)[1] * itemsize
    most = max(1, STASH_BYTES // (row_bytes * PANEL)) * PANEL
    chunks = max(1, cdiv(rows, most))
    return max(1, cdiv(rows, chunks * PANEL)) * PANEL
