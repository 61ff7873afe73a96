"""Which training examples are learned from: parts of them for a learning curve, rare classes as often as others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.randomness import generator

Indices = npt.NDArray[np.int64]


def strata(targets: npt.NDArray[Any]) -> Indices:
    """(examples,) a class for each example: its own; where several may hold, the rarest of those that do, or none."""
    if targets.ndim == 1:
        return targets.astype(np.int64)
    counts = targets.sum(axis=0)
    rarity = np.where(targets > 0, counts, np.inf)
    return np.where(targets.any(axis=1), rarity.argmin(axis=1), targets.shape[1]).astype(np.int64)


def subset(targets: npt.NDArray[Any], size: int, seed: int) -> Indices:
    """(size,) indices of examples drawn without replacement, each class in its share, and one of each where it fits.

    A smaller subset of the same seed stands within a larger one.

    Args:
        targets: (examples,) classes, or (examples, classes) of 0 and 1.
        size: how many; at most all.
        seed: of the draw.
    """
    classes = strata(targets)
    order = generator(seed, "subset").permutation(len(classes))
    # The place of each example within its class, as a share of the class: the first of every class come first.
    shares = np.empty(len(classes))
    for one in np.unique(classes):
        members = order[classes[order] == one]
        shares[members] = np.arange(len(members)) / len(members)
    chosen = order[np.argsort(shares[order], kind="stable")][:size]
    return np.sort(chosen)


def balanced(targets: npt.NDArray[Any], seed: int) -> Indices:
    """(draws,) indices with which every class comes as often as the largest: examples of rarer ones come again.

    An example comes at most once more than another of its class.
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
