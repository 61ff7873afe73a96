"""Sizes of the stash: the logits that the triton backend's linear cross-entropy keeps, a chunk of rows at a time.

Both the op's `plan` and the launches of its Triton kernels need them.
"""

from __future__ import annotations

import torch

STASH_BYTES = 640 * 2**20
"""The maximum number of bytes of a chunk's logits: enough to fill a GPU and to read W only a few times."""

PANEL = 128
"""Columns in a panel of the vocabulary. A chunk divides into squares of PANEL rows and one panel."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def stash_dtype(compute: torch.dtype) -> torch.dtype:
    """The type of the stash (logits minus their panel's maximum): as wide as `compute`, so that G can overwrite it."""
    return torch.float16 if compute.itemsize == 2 else torch.float32


def stash_shape(rows: int, classes: int) -> tuple[int, int]:
    """Rows, and the classes rounded up to whole panels."""
    return rows, cdiv(classes, PANEL) * PANEL


def chunk_rows(rows: int, classes: int, itemsize: int) -> int:
    """Rows per chunk, a multiple of PANEL, for the fewest equal chunks of at most STASH_BYTES; at least PANEL."""
    row_bytes = stash_shape(1, classes)[1] * itemsize
    most = max(1, STASH_BYTES // (row_bytes * PANEL)) * PANEL
    chunks = max(1, cdiv(rows, most))
    return max(1, cdiv(rows, chunks * PANEL)) * PANEL
