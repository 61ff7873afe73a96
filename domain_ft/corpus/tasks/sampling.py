"""Samples training examples: subsets for learning curves, and draws with balanced classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.examples import Examples
from domain_ft.corpus.packing import Step
from domain_ft.randomness import generator

Indices = npt.NDArray[np.int64]


def strata(targets: npt.NDArray[Any]) -> Indices:
    """(examples,) the class of each example; in a multi-label task, its rarest class.

    An example without labels gets the number of classes.
    """
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


def source_numbers(*splits: Examples) -> Indices:
    """(examples of all splits,) the number of each example's source: its group, or its id if it has none."""
    sources = [example.group or example.id for examples in splits for example in examples]
    return np.unique(sources, return_inverse=True)[1].reshape(-1)


def balanced(targets: npt.NDArray[Any], seed: int) -> Indices:
    """(draws,) indices of examples, with every class as often as the largest one. Examples of smaller classes repeat.

    Within a class, the counts of any two examples differ by at most one.
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


class BalancedSteps:
    """Steps for contrastive training, with about equally many examples of each class and no example twice.

    Each class in a step has at least two examples in it, so that every example has another of its class; the exception
    is a class with a single example in all. If there are more than `size // 2` classes, each step draws `size // 2` of
    them. If a class has fewer examples than its share, all of them are in the step, and the other classes get more. The
    draws of a step do not depend on earlier steps.

    In a multi-label task, the class of an example is the rarest of its labels, as in `strata`; examples without labels
    are a class too.

    Args:
        targets: (examples,) classes, or (examples, classes) of 0 and 1.
        size: the most examples of a step, at least 4: two of each of two classes.
        seed: of the draws.
    """

    def __init__(self, targets: npt.NDArray[Any], size: int, seed: int) -> None:
        if size < 4:
            raise ValueError(f"a step of {size} examples cannot have two of each of two classes")
        classes = strata(targets)
        self._members = [np.flatnonzero(classes == name) for name in np.unique(classes)]
        self._size = size
        self._seed = seed
        self._steps_per_epoch = -(-len(classes) // size)

    def step(self, index: int) -> Step:
        """The step with this number, counted from 0."""
        draw = generator(self._seed, "balanced step", index)
        members = self._members
        if len(members) > self._size // 2:
            members = [members[place] for place in draw.choice(len(members), self._size // 2, replace=False)]
        rows = [
            draw.choice(of_class, share, replace=False)
            for of_class, share in zip(members, _shares([len(part) for part in members], self._size), strict=True)
        ]
        return Step(index // self._steps_per_epoch, np.sort(np.concatenate(rows)))


def _shares(counts: list[int], size: int) -> list[int]:
    """How many of each class's examples a step of at most `size` examples has: as equal as the counts allow."""
    shares = [0] * len(counts)
    left = size
    for place, smallest in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        shares[smallest] = min(counts[smallest], left // (len(counts) - place))
        left -= shares[smallest]
    return shares
