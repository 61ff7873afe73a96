"""Pairs of texts that belong together, made from any corpus: the beginning of a sequence, and what follows it.

The beginning is the first line or sentence: a title, a heading, a term before its definition, a question before its
answer, or the first sentence of a paragraph. Learning to find what follows among other texts is a kind of inverse cloze
task (Lee et al. 2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering", arXiv:1906.00300,
section 4).

A pair is stored as the place at which a sequence of `TokenRows` is cut in two. So it takes 12 bytes, and no tokens are
stored twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import Indices, PackedBatch
from domain_ft.corpus.sentences import sentence_bounds
from domain_ft.corpus.stored_rows import cached_rows
from domain_ft.corpus.tokens import TextDocuments, TokenRows
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.storage import new_folder
from domain_ft.wording import counted

if TYPE_CHECKING:
    from typing_extensions import Self

VERSION = 1  # of the cuts: increase it with every change that cuts the same rows at other places

LONGEST_ANCHOR = 64
"""In tokens. A longer beginning is probably not a heading, a question or a single sentence."""

SHORTEST_POSITIVE = 8
"""In tokens. A shorter text says too little to be retrieved."""

_LINE_END = re.compile(r"[\n\r\u2028\u2029]")  # ends the anchor even before a lower-case letter


@dataclass(frozen=True)
class PairBatch(PackedBatch):
    """One micro-batch of pairs: the sequences are an anchor, its positive, the next anchor, and so on."""

    def repeated(self, lengths: Sequence[int]) -> Self:
        """A micro-batch for measuring memory: pairs of these lengths, cut in the middle."""
        halves = [half for length in lengths for half in (length - length // 2, max(1, length // 2))]
        return super().repeated(halves)


class PairRows:
    """The sequences of a split that can be cut into an anchor and a positive.

    Args:
        text: the sequences.
        folder: the cuts that `pair_rows` wrote.

    Attributes:
        text: the sequences.
        lengths: (pairs,) int32, tokens of each pair, the special tokens of both sequences included.
        documents: (pairs,) int64, the index of each pair's document.
    """

    def __init__(self, text: TokenRows, folder: Path) -> None:
        self.text = text
        self._rows: Indices = np.load(folder / "rows.npy")
        self._cuts: npt.NDArray[np.int32] = np.load(folder / "cuts.npy")
        special = text.special
        # The special tokens that a pair has in addition to those of its sequence.
        extra = len(special) if special.end_every_sequence else 2 * len(special) - len(special.start)
        ends_here = 0 if special.end_every_sequence else self._final()
        self.lengths = (np.asarray(text.lengths[self._rows]) + extra - ends_here * len(special.end)).astype(np.int32)
        self.documents = np.asarray(text.documents[self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens(self) -> int:
        """Tokens of all pairs together, special tokens included."""
        return int(self.lengths.sum(dtype=np.int64))

    def row_id(self, row: int) -> str:
        """The id of the pair's document."""
        return self.text.row_id(int(self._rows[row]))

    def pack(self, rows: npt.ArrayLike) -> PairBatch:
        """Pack the pairs `rows` (pairs,) end to end: anchor, positive, anchor, positive, and so on.

        Both sequences of a pair have all special tokens around them.
        """
        rows = np.asarray(rows, dtype=np.int64)
        whole = self.text.pack(self._rows[rows])
        starts = np.array(list(self._places(whole, self._cuts[rows])), dtype=np.int64).reshape(-1, 3)
        special = self.text.special
        ids: list[npt.NDArray[np.int64]] = []
        words: list[npt.NDArray[np.int32]] = []
        sizes: list[npt.NDArray[np.int32]] = []
        around = [np.array(one, dtype=np.int64) for one in (special.start, special.end)]
        for first, middle, last in starts.tolist():
            for begin, end in ((first, middle), (middle, last)):
                ids += [around[0], whole.input_ids[begin:end], around[1]]
                words += [_filled(around[0], -1), whole.word_ids[begin:end], _filled(around[1], -1)]
                sizes += [_filled(around[0], 0), whole.token_bytes[begin:end], _filled(around[1], 0)]
        lengths = starts[:, 1:] - starts[:, :-1] + len(special)  # (pairs, 2)
        return PairBatch.of(
            np.concatenate(ids),
            lengths=lengths.reshape(-1),
            rows=np.repeat(rows, 2),
            documents=np.repeat(whole.documents, 2),
            sequences=2 * np.repeat(whole.sequences, 2) + np.tile([0, 1], len(rows)),  # so their masks differ
            word_ids=np.concatenate(words),
            token_bytes=np.concatenate(sizes),
        )

    def _places(self, whole: PackedBatch, cuts: npt.NDArray[np.int32]) -> Iterator[tuple[int, int, int]]:
        """For each pair, the packed positions where its anchor begins, its positive begins, and its positive ends."""
        is_text = whole.word_ids >= 0
        for begin, end, cut in zip(whole.cu_seqlens[:-1], whole.cu_seqlens[1:], cuts, strict=True):
            text = begin + np.flatnonzero(is_text[begin:end])
            yield int(text[0]), int(text[0]) + int(cut), int(text[-1]) + 1

    def _final(self) -> npt.NDArray[np.bool_]:
        """(pairs,) whether the pair's sequence is the last of its document, and so has the end token already."""
        after = np.minimum(self._rows + 1, len(self.text) - 1)
        return (self._rows + 1 == len(self.text)) | (self.text.documents[after] != self.text.documents[self._rows])


def pair_rows(
    split: TextDocuments, text: TokenRows, progress: Progress | None = None, *, name: str = "the text"
) -> PairRows:
    """Cut the sequences of `split`, or find the cuts in the cache.

    Args:
        split: the documents of `text`.
        text: the sequences, as `tokenize` returned them.
        name: of the split, in messages.
        progress: called with ("finding pairs", documents done, documents in total).

    Raises:
        CorpusError: fewer than two sequences can be cut, or the cuts cannot be written.
    """
    words = (str(VERSION), str(LONGEST_ANCHOR), str(SHORTEST_POSITIVE), text.key)
    key = hashlib.blake2b("\0".join(words).encode(), digest_size=16).hexdigest()

    def write(folder: Path) -> None:
        found = np.array(list(_all_cuts(split, text, progress)), dtype=np.int64).reshape(-1, 2)
        with new_folder(folder) as unfinished:
            np.save(unfinished / "rows.npy", found[:, 0])
            np.save(unfinished / "cuts.npy", found[:, 1].astype(np.int32))

    rows = PairRows(text, cached_rows("pairs", key, write, progress, "text"))
    if len(rows) < 2:
        raise CorpusError(
            f"{name} has {counted(len(rows), 'pair')} for contrastive training, which needs at least two: a pair is "
            f"a first sentence or line of at most {LONGEST_ANCHOR} tokens, and at least {SHORTEST_POSITIVE} tokens "
            "after it",
            fix="use more text, or a larger --max-length",
        )
    return rows


def _all_cuts(split: TextDocuments, text: TokenRows, progress: Progress | None) -> Iterator[tuple[int, int]]:
    """(row, tokens of the anchor) of each sequence that can be cut."""
    row, total = 0, len(split)
    for index, document in enumerate(split.documents()):
        if progress and index % 256 == 0:
            progress("finding pairs", index, total)
        content, offset = document.text.encode("utf-8"), 0
        while row < len(text) and int(text.documents[row]) == index:
            size = int(text.bytes[row])
            cut = _cut(content[offset : offset + size].decode("utf-8"), text.pack([row]))
            if cut is not None:
                yield row, cut
            row, offset = row + 1, offset + size
    if progress:
        progress("finding pairs", total, total)


def _cut(text: str, sequence: PackedBatch) -> int | None:
    """The number of tokens in the first sentence or line of a sequence; None if the sequence gives no pair."""
    bounds = sentence_bounds(text, breaks=(line.end() for line in _LINE_END.finditer(text)))
    next(bounds, None)
    second = next(bounds, None)
    if second is None:
        return None
    ends = np.cumsum(sequence.token_bytes[sequence.word_ids >= 0])
    cut = int(np.searchsorted(ends, len(text[: second[0]].encode("utf-8")), side="right"))
    return cut if 0 < cut <= LONGEST_ANCHOR and len(ends) - cut >= SHORTEST_POSITIVE else None


def _filled(like: npt.NDArray[Any], value: int) -> npt.NDArray[np.int32]:
    return np.full(len(like), value, dtype=np.int32)
