"""The figure that only `adapt` has: the lengths of documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from domain_ft.report.drawing import INK, drawing


def length_histogram(lengths: Sequence[int]) -> str:
    """A histogram of the training documents' lengths in tokens, on a logarithmic scale."""
    values = np.asarray(lengths, dtype=np.float64)
    values = values[values > 0]
    median = int(np.median(values))
    longest = int(values.max())
    description = f"Lengths of {len(values):,} documents: median {median:,} tokens, longest {longest:,} tokens."
    with drawing("lengths", 2.6, description) as (figure, rendered):
        axes = figure.subplots()
        low, high = np.floor(2 * np.log2(values.min())), np.ceil(2 * np.log2(values.max() + 1))
        edges = 2.0 ** (np.arange(low, high + 1) / 2)
        axes.hist(values, bins=edges.tolist(), color="#6db3dd", edgecolor="white", linewidth=0.6)
        axes.axvline(median, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("tokens in a document")
        axes.set_ylabel("documents")
        axes.set_title(f"median {median:,} tokens", fontweight="normal", fontsize=10)
    return rendered[0]
