"""Means and exact percentiles of lengths."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTILES = (5, 50, 95, 99)


class Lengths:
    """Collects numbers, eight bytes each."""

    def __init__(self) -> None:
        self.values = array("q")

    def add(self, value: int) -> None:
        """Add a number."""
        self.values.append(value)

    def summary(self) -> dict[str, Any]:
        """The `distribution` of the numbers."""
        return distribution(self.values)


def distribution(values: Sequence[int]) -> dict[str, Any]:
    """Count, sum, mean, minimum, maximum, and `PERCENTILES` (linear interpolation); only the count if it is 0."""
    if not len(values):
        return {"count": 0}
    numbers = np.asarray(values)
    percentiles = np.percentile(numbers, PERCENTILES).tolist()
    return {
        "count": len(numbers),
        "sum": int(numbers.sum()),
        "mean": round(float(numbers.mean()), 2),
        "min": int(numbers.min()),
        **{f"p{percent}": round(value, 2) for percent, value in zip(PERCENTILES, percentiles, strict=True)},
        "max": int(numbers.max()),
    }
