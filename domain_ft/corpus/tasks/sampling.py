"""Samples training examples: subsets for learning curves, and draws with balanced classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.randomness import generator

Indices = npt.NDArray[np.int64]


def strata(targets: npt.NDArray[Any]) -> Indices:
    """(examples,) the class of each example; in a multi-label task its rarest, or the number of classes if none."""
    if targets.ndim == 1:
        return targets.astype(np.int64)
    counts = targets.sum(axis=0)
    rarity = np.where(targets > 0, counts, np.inf)
    return np.where(targets.any(axis=1), rarity.argmin(axis=1), targets.shape[1]).astype(np.int64)


def subset(targets: npt.NDArray[Any], size: int, seed: int) -> Indices:
    """(size,) the indices of a stratified sample of examples, without replacement. It has every class if `size` allows.

    With the same seed, a smaller subset is part of a larger one.

    Args:
        targets: (examples,) classes, or (examples, classes) of 0 and 1.
        size: the number of examples; all if there are fewer.
        seed: of the draw.
    """
    classes = strata(targets)
    order = generator(seed, "subset").permutation(len(classes))
    # The rank of each example within its class, as a share of the class: the first examples of all classes have 0.
    shares = np.empty(len(classes))
    for name in np.unique(classes):
        members = order[classes[order] == name]
        shares[members] = np.arange(len(members)) / len(members)
    chosen = order[np.argsort(shares[order], kind="stable")][:size]
    return np.sort(chosen)


def balanced(targets: npt.NDArray[Any], seed: int) -> Indices:
    """(draws,) indices of examples, with every class as often as the largest one. Examples of smaller classes repeat.

    Within a class, the numbers of repeats of two examples differ by at most one.
    """
    classes = strata(targets)
    names, counts = np.unique(classes, return_counts=True)
    parts = []
    for name in names:
        members = np.flatnonzero(classes == name)
        whole, rest = divmod(int(counts.max()), len(members))
        extra = generator(seed, "balanced", int(name)).permutation(members)[:rest]
        parts.append(np.concatenate([np.tile(members, whole), extra]))
    return np.sort(np.concatenate(parts))
