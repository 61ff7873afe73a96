"""Which sequences go where: into the steps of an epoch, to the ranks, and into micro-batches of at most so many tokens.

It stands between the rows of tokens and the loop, and knows nothing of them but their lengths. All of it is a function
of the lengths and the seed: a resumed run finds its place by the number of the step alone. A large corpus is put in
order a chapter at a time, so that neither the first step nor the memory waits for its size.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.shuffling import shuffled
from domain_ft.randomness import generator

Rows = npt.NDArray[np.int64]

CHAPTER = 1 << 20  # sequences that are put in order at a time: some 50 MB for as long as it takes, 8 MB afterwards
_CHAPTER_STEPS = 64  # steps of a chapter at least, so that its steps hold as much as another's within a hundredth or so


@dataclass(frozen=True)
class Step:
    """What one optimiser step learns from.

    Attributes:
        epoch: how many times the corpus has been read before.
        rows: (sequences,) int64 row indices.
    """

    epoch: int
    rows: Rows


class StepPlan:
    """The sequences of every optimiser step of a run, however long it is.

    Each epoch is a permutation of all sequences, cut into `steps_per_epoch` steps that hold, as nearly as whole
    sequences allow, the same number of tokens. That number is `tokens_per_step` or a little less: an epoch is cut
    evenly, since a short last step would weigh its few sequences more than the others. No step crosses from one epoch
    into the next.

    An epoch of more than `CHAPTER` sequences is read in chapters. Each holds sequences from all over the corpus, as a
    random order of the whole has them, and is cut into its share of the steps.

    Args:
        lengths: (sequences,) tokens of each sequence.
        tokens_per_step: tokens that a step should hold.
        seed: of the order.
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
        # Where each chapter begins, in sequences and in steps of the epoch, and the end of the last.
        self._pieces = [chapter * sequences // chapters for chapter in range(chapters + 1)]
        self._steps = [place * self.steps_per_epoch // sequences for place in self._pieces]
        self._arranged = (-1, -1)  # epoch and chapter
        self._order = np.empty(0, dtype=np.int64)
        self._bounds = np.empty(0, dtype=np.int64)

    def step(self, index: int) -> Step:
        """The step with number `index`, counted from 0 over all epochs. Seeking costs the arranging of one chapter."""
        epoch, place = divmod(index, self.steps_per_epoch)
        chapter = bisect.bisect_right(self._steps, place) - 1
        if (epoch, chapter) != self._arranged:
            self._arrange(epoch, chapter)
        place -= self._steps[chapter]
        return Step(epoch, self._order[self._bounds[place] : self._bounds[place + 1]])

    def _arrange(self, epoch: int, chapter: int) -> None:
        """Find the order of a chapter of `epoch`, and where its steps begin."""
        (first, last), total = self._pieces[chapter : chapter + 2], len(self._lengths)
        sequences, steps = last - first, self._steps[chapter + 1] - self._steps[chapter]
        if sequences == total:
            order = generator(self._seed, "order", epoch).permutation(sequences)
        else:
            order = shuffled(first, last, total, self._seed, "order", epoch)
        lengths = self._lengths[order]
        ends = np.cumsum(lengths, dtype=np.int64)
        middles = ends - lengths / 2
        bounds = np.searchsorted(middles, np.arange(1, steps) * (ends[-1] / steps))
        # At least one sequence a step, which matters where a step asks for fewer tokens than a sequence has.
        least = np.arange(1, steps)
        bounds = np.minimum(np.maximum.accumulate(bounds - least) + least, sequences - steps + least)
        bounds = np.maximum(bounds, least)
        self._order, self._bounds, self._arranged = order, np.concatenate(([0], bounds, [sequences])), (epoch, chapter)


def share(rows: npt.ArrayLike, lengths: npt.ArrayLike, rank: int, world: int) -> Rows:
    """The sequences of a step that rank `rank` of `world` works on: about as many tokens for each.

    The sequences are dealt by falling length, forward and then backward as in a school-yard pick; so no two ranks
    differ by more than the longest sequence. Where there are fewer sequences than ranks, the last ranks get none.

    Args:
        rows: (sequences,) row indices of the step.
        lengths: tokens of every sequence of the corpus, indexed by row.

    Returns:
        (share,) row indices, in the order of `rows`. The shares of all ranks together are `rows`.
    """
    rows = np.asarray(rows, dtype=np.int64)
    by_length = np.argsort(-np.asarray(lengths)[rows].astype(np.int64), kind="stable")
    turn, seat = np.divmod(np.arange(len(rows)), world)
    player = np.where(turn % 2 == 0, seat, world - 1 - seat)
    return rows[np.sort(by_length[player == rank])]


def micro_batches(rows: npt.ArrayLike, lengths: npt.ArrayLike, tokens_per_micro_batch: int) -> list[Rows]:
    """Cut the sequences of a step into passes that the memory holds.

    The sequences are sorted by length, longest first, so that equal ones stand together (attention runs over a bucket
    of equal lengths at once) and a micro-batch that does not fit the memory shows in the first of them.

    Args:
        rows: (sequences,) row indices.
        lengths: tokens of every sequence of the corpus, indexed by row.
        tokens_per_micro_batch: at most; a sequence that is longer is a micro-batch by itself.

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
