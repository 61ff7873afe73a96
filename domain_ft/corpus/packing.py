"""Distributes sequences over optimiser steps, ranks, and micro-batches of limited size.

Everything is a function of the lengths, the limits and the seed; `share` also depends on the rank and the number of
ranks. So a resumed run needs only the number of its step. A large corpus is shuffled in parts (chapters), so that the
memory and the time for shuffling do not grow with its size.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.shuffling import shuffled
from domain_ft.randomness import generator

Rows = npt.NDArray[np.int64]

CHAPTER = 1 << 20  # sequences shuffled at a time: 50 MB at the peak, 8 MB afterwards
_CHAPTER_STEPS = 64  # the fewest steps of a chapter, on average; one step more or less changes step sizes by under 2 %


@dataclass(frozen=True)
class Step:
    """The sequences of an optimiser step.

    Attributes:
        epoch: counted from 0.
        rows: (sequences,) int64 row indices.
    """

    epoch: int
    rows: Rows


class StepPlan:
    """The sequences of every optimiser step, for runs of any number of steps.

    Each epoch is a permutation of all sequences, cut into `steps_per_epoch` steps of whole sequences, with about the
    same number of tokens each. (Steps are even because the few sequences of a short last step would each weigh more
    than those of other steps.) No step spans two epochs.

    An epoch of more than `CHAPTER` sequences is read in chapters, if there are enough steps for several. Chapters are
    consecutive parts of a random order of all sequences, and each is cut into its share of the steps.

    Args:
        lengths: (sequences,) tokens of each sequence.
        tokens_per_step: the most tokens per step on average; exceeded only if the average sequence is longer than this.
        seed: of the order.

    Raises:
        ValueError: there are no sequences, or `tokens_per_step` is below 1.
    """

    def __init__(self, lengths: npt.ArrayLike, tokens_per_step: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._seed = seed
        sequences = len(self._lengths)
        if sequences == 0 or tokens_per_step < 1:
            raise ValueError(f"cannot plan steps of {tokens_per_step} tokens over {sequences} sequences")
        total = int(self._lengths.sum(dtype=np.int64))
        self.steps_per_epoch = min(-(-total // tokens_per_step), sequences)
        chapters = min(-(-sequences // CHAPTER), max(1, self.steps_per_epoch // _CHAPTER_STEPS))
        # Where each chapter begins, and where the last one ends: in sequences, and in steps of the epoch.
        self._starts = [chapter * sequences // chapters for chapter in range(chapters + 1)]
        self._steps = [place * self.steps_per_epoch // sequences for place in self._starts]
        self._arranged = (-1, -1)  # epoch and chapter
        self._order = np.empty(0, dtype=np.int64)
        self._bounds = np.empty(0, dtype=np.int64)

    def step(self, index: int) -> Step:
        """The step with number `index`, counted from 0 over all epochs. At most one chapter is shuffled for it."""
        epoch, place = divmod(index, self.steps_per_epoch)
        chapter = bisect.bisect_right(self._steps, place) - 1
        if (epoch, chapter) != self._arranged:
            self._arrange(epoch, chapter)
        place -= self._steps[chapter]
        return Step(epoch, self._order[self._bounds[place] : self._bounds[place + 1]])

    def _arrange(self, epoch: int, chapter: int) -> None:
        """Determine the order of a chapter of `epoch`, and where its steps begin."""
        (first, last), total = self._starts[chapter : chapter + 2], len(self._lengths)
        sequences, steps = last - first, self._steps[chapter + 1] - self._steps[chapter]
        if sequences == total:
            order = generator(self._seed, "order", epoch).permutation(sequences)
        else:
            order = shuffled(first, last, total, self._seed, "order", epoch)
        lengths = self._lengths[order]
        ends = np.cumsum(lengths, dtype=np.int64)
        middles = ends - lengths / 2
        bounds = np.searchsorted(middles, np.arange(1, steps) * (ends[-1] / steps))
        # Each step has at least one sequence, even if some sequences are longer than a step.
        least = np.arange(1, steps)
        bounds = np.minimum(np.maximum.accumulate(bounds - least) + least, sequences - steps + least)
        bounds = np.maximum(bounds, least)
        self._order, self._bounds, self._arranged = order, np.concatenate(([0], bounds, [sequences])), (epoch, chapter)


def share(rows: npt.ArrayLike, lengths: npt.ArrayLike, rank: int, world: int) -> Rows:
    """The sequences of a step for rank `rank` of `world`. All ranks get about the same number of tokens.

    Sequences are assigned longest first: one to each rank in ascending order, then one to each in descending order, and
    so on. So the token counts of two ranks differ by at most the length of the longest sequence. With fewer sequences
    than ranks, the last ranks get none.

    Args:
        rows: (sequences,) row indices of the step.
        lengths: tokens of every sequence of the corpus, indexed by row.

    Returns:
        (share,) row indices, in the order of `rows`. The shares of all ranks together are `rows`.
    """
    rows = np.asarray(rows, dtype=np.int64)
    by_length = np.argsort(-np.asarray(lengths)[rows].astype(np.int64), kind="stable")
    turn, position = np.divmod(np.arange(len(rows)), world)
    assigned = np.where(turn % 2 == 0, position, world - 1 - position)
    return rows[np.sort(by_length[assigned == rank])]


def micro_batches(rows: npt.ArrayLike, lengths: npt.ArrayLike, tokens_per_micro_batch: int) -> list[Rows]:
    """Divide the sequences of a step into micro-batches.

    Sequences are sorted longest first. So sequences of equal length are adjacent, which lets attention without a
    variable-length kernel compute them together. And if a sequence is too long for the memory, the step fails at its
    first micro-batch.

    Args:
        rows: (sequences,) row indices.
        lengths: tokens of every sequence of the corpus, indexed by row.
        tokens_per_micro_batch: the maximum. A longer sequence is alone in its micro-batch.

    Returns:
        the micro-batches, each (sequences,) row indices; none is empty.
    """
    rows = np.asarray(rows, dtype=np.int64)
    row_lengths = np.asarray(lengths)[rows].astype(np.int64)
    order = np.argsort(-row_lengths, kind="stable")
    rows, ends = rows[order], np.cumsum(row_lengths[order])
    result = []
    first = used = 0
    while first < len(rows):
        end = max(int(np.searchsorted(ends, used + tokens_per_micro_batch, side="right")), first + 1)
        result.append(rows[first:end])
        first, used = end, int(ends[end - 1])
    return result
