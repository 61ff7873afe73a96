"""Pairs of texts that belong together, made from any corpus: the beginning of a passage, and the rest of the passage.

document -> paragraphs (a short one, such as a heading, is joined to the next) -> passages -> pairs

A passage begins where a paragraph begins, so that its beginning is a title, a heading, a term before its definition, a
question before its answer, or the sentence that says what the paragraph is about. A paragraph that is longer than a
sequence is cut into several passages, each of which begins with a sentence. Learning to find the rest of a passage
among other texts is a kind of inverse cloze task (Lee et al. 2019, "Latent Retrieval for Weakly Supervised Open Domain
Question Answering", arXiv:1906.00300, section 4).

A pair is stored as a place in the tokens of `TokenRows`. So it takes 24 bytes, and no token is stored twice.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.sentences import sentence_bounds
from domain_ft.corpus.stored_rows import cached_rows
from domain_ft.corpus.tokens import TextDocuments, TokenRows, byte_offsets, sections
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.storage import new_folder
from domain_ft.wording import counted

if TYPE_CHECKING:
    from typing_extensions import Self

VERSION = 2  # of the pairs: increase it whenever the same text would give other pairs

LONGEST_ANCHOR = 64
"""In tokens. A longer beginning is probably not a heading, a question or a single sentence."""

SHORTEST_POSITIVE = 8
"""In tokens. A shorter text says too little to be retrieved."""

SHORTEST_PARAGRAPH = 24
"""In tokens. A shorter paragraph is probably a heading or an item of a list, and is joined to the next one."""

_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n){2,}")
_LINE_END = re.compile(r"[\n\r\u2028\u2029]")  # ends the anchor even before a lower-case letter

_PAIR = np.dtype([("row", "<i8"), ("rows", "<i4"), ("start", "<i4"), ("anchor", "<i4"), ("positive", "<i4")])
"""A pair: the first row that has tokens of it, the number of such rows, how many tokens of text the first row has
before the pair, and the tokens of anchor and positive."""


@dataclass(frozen=True)
class PairBatch(PackedBatch):
    """One micro-batch of pairs: the sequences are an anchor, its positive, the next anchor, and so on."""

    def repeated(self, lengths: Sequence[int]) -> Self:
        """A micro-batch for measuring memory: pairs of these lengths, cut in the middle."""
        halves = [half for length in lengths for half in (length - length // 2, max(1, length // 2))]
        return super().repeated(halves)


class PairRows:
    """The pairs of a split.

    Args:
        text: the sequences that have the pairs' tokens.
        folder: the pairs that `pair_rows` wrote.

    Attributes:
        text: the sequences that have the pairs' tokens.
        lengths: (pairs,) int32, tokens of each pair, the special tokens of both texts included.
        documents: (pairs,) int64, the index of each pair's document, in ascending order.
    """

    def __init__(self, text: TokenRows, folder: Path) -> None:
        self.text = text
        self._pairs: npt.NDArray[np.void] = np.load(folder / "pairs.npy")
        self.lengths = (self._pairs["anchor"] + self._pairs["positive"] + 2 * len(text.special)).astype(np.int32)
        self.documents = np.asarray(text.documents[self._pairs["row"]])

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def tokens(self) -> int:
        """Tokens of all pairs together, special tokens included."""
        return int(self.lengths.sum(dtype=np.int64))

    def row_id(self, row: int) -> str:
        """The id of the pair's document."""
        return self.text.row_id(int(self._pairs["row"][row]))

    def pack(self, rows: npt.ArrayLike) -> PairBatch:
        """Pack the pairs `rows` (pairs,) end to end: anchor, positive, anchor, positive, and so on.

        Both texts of a pair have all special tokens around them.
        """
        rows = np.asarray(rows, dtype=np.int64)
        special, chosen = self.text.special, self._pairs[rows]
        whole = self.text.pack(
            np.concatenate([row + np.arange(count) for row, count in chosen[["row", "rows"]].tolist()])
        )
        around = [np.array(one, dtype=np.int64) for one in (special.start, special.end)]
        ids: list[npt.NDArray[np.int64]] = []
        words: list[npt.NDArray[np.int32]] = []
        sizes: list[npt.NDArray[np.int32]] = []
        ends = np.cumsum(chosen["rows"])
        for pair, first, last in zip(
            chosen, whole.cu_seqlens[ends - chosen["rows"]], whole.cu_seqlens[ends], strict=True
        ):
            text = first + np.flatnonzero(whole.word_ids[first:last] >= 0)[pair["start"] :]
            for tokens in (text[: pair["anchor"]], text[pair["anchor"] :][: pair["positive"]]):
                ids += [around[0], whole.input_ids[tokens], around[1]]
                words += [_filled(around[0], -1), whole.word_ids[tokens], _filled(around[1], -1)]
                sizes += [_filled(around[0], 0), whole.token_bytes[tokens], _filled(around[1], 0)]
        numbers = rows - np.searchsorted(self.documents, self.documents[rows])  # within the document
        return PairBatch.of(
            np.concatenate(ids),
            lengths=np.stack([chosen["anchor"], chosen["positive"]], axis=1).reshape(-1) + len(special),
            rows=np.repeat(rows, 2),
            documents=np.repeat(self.documents[rows], 2),
            sequences=2 * np.repeat(numbers, 2) + np.tile([0, 1], len(rows)),  # so their masks differ
            word_ids=np.concatenate(words),
            token_bytes=np.concatenate(sizes),
        )


def pair_rows(
    split: TextDocuments, text: TokenRows, progress: Progress | None = None, *, name: str = "the text"
) -> PairRows:
    """Find the pairs of `split`, in the text or in the cache.

    Args:
        split: the documents of `text`.
        text: the sequences, as `tokenize` returned them. A pair has at most as many tokens of text as a sequence.
        name: of the split, in messages.
        progress: called with ("finding pairs", documents done, documents in total).

    Raises:
        CorpusError: there are fewer than two pairs, or they cannot be written.
    """
    words = (str(VERSION), str(LONGEST_ANCHOR), str(SHORTEST_POSITIVE), str(SHORTEST_PARAGRAPH), text.key)
    key = hashlib.blake2b("\0".join(words).encode(), digest_size=16).hexdigest()

    def write(folder: Path) -> None:
        found = np.array(list(_all_pairs(split, text, progress)), dtype=_PAIR)
        with new_folder(folder) as unfinished:
            np.save(unfinished / "pairs.npy", found)

    rows = PairRows(text, cached_rows("pairs", key, write, progress, "text"))
    if len(rows) < 2:
        raise CorpusError(
            f"{name} has {counted(len(rows), 'pair')} for contrastive training, which needs at least two: a pair is "
            f"a first sentence or line of at most {LONGEST_ANCHOR} tokens, and at least {SHORTEST_POSITIVE} tokens "
            "after it",
            fix="use more text, or a larger --max-length",
        )
    return rows


def _all_pairs(
    split: TextDocuments, text: TokenRows, progress: Progress | None
) -> Iterator[tuple[int, int, int, int, int]]:
    """The pairs of all documents, as tuples of the fields of `_PAIR`."""
    row, total = 0, len(split)
    for index, document in enumerate(split.documents()):
        if progress and index % 256 == 0:
            progress("finding pairs", index, total)
        end = int(np.searchsorted(text.documents, index, side="right"))
        row_ends = np.cumsum(text.bytes[row:end])  # (rows,) bytes of the document up to the end of each row
        done = 0  # bytes
        for section in sections(document.text) if row < end else ():
            size = len(section.encode("utf-8"))
            first = int(np.searchsorted(row_ends, done, side="right"))
            last = min(int(np.searchsorted(row_ends, done + size)), end - row - 1)
            skipped = done - (int(row_ends[first - 1]) if first else 0)
            yield from _pairs_of(section, text, np.arange(row + first, row + last + 1), skipped)
            done += size
        row = end
    if progress:
        progress("finding pairs", total, total)


def _pairs_of(
    section: str, text: TokenRows, rows: npt.NDArray[np.int64], skipped: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """The pairs of a section of a document, as tuples of the fields of `_PAIR`.

    Args:
        section: the text.
        text: the sequences of all documents.
        rows: (rows,) the rows with the section's tokens.
        skipped: the bytes of the first row that are before the section.
    """
    packed = text.pack(rows)
    is_text = packed.word_ids >= 0
    row_ends = np.cumsum(is_text)[packed.cu_seqlens[1:] - 1]  # (rows,) tokens of text up to the end of each row
    byte_ends = np.cumsum(packed.token_bytes[is_text], dtype=np.int64) - skipped  # (tokens,)
    offsets = byte_offsets(section, np.arange(len(section) + 1))
    tokens_before = np.searchsorted(byte_ends, offsets, side="right")  # (characters + 1,)
    capacity = text.max_length - len(text.special)
    for begin, end in _paragraphs(section, tokens_before):
        sentences = [begin + start for start, _ in sentence_bounds(section[begin:end])]
        done = 0  # the tokens up to the end of the last pair
        for sentence, following in itertools.zip_longest(sentences, sentences[1:], fillvalue=end):
            start = int(tokens_before[sentence])
            if start < done:
                continue
            line = _LINE_END.search(section, sentence, following)
            anchor = int(tokens_before[line.end() if line else following]) - start
            positive = min(int(tokens_before[end]), start + capacity) - start - anchor
            if 0 < anchor <= LONGEST_ANCHOR and positive >= SHORTEST_POSITIVE:
                done = start + anchor + positive
                first, last = np.searchsorted(row_ends, [start, done - 1], side="right").tolist()
                before = int(row_ends[first - 1]) if first else 0
                yield int(rows[first]), last - first + 1, start - before, anchor, positive


def _paragraphs(text: str, tokens_before: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The paragraphs, as (start, end) in characters: they end at blank lines, or at every line if no line is blank.

    Args:
        text: to cut.
        tokens_before: (characters + 1,) the number of tokens before each character.
    """
    ends = [match.end() for match in _BLANK_LINES.finditer(text)] or [line.end() for line in _LINE_END.finditer(text)]
    start = 0
    for end in [*ends, len(text)]:
        if tokens_before[end] - tokens_before[start] >= SHORTEST_PARAGRAPH or end == len(text):
            yield start, end
            start = end


def _filled(like: npt.NDArray[Any], value: int) -> npt.NDArray[np.int32]:
    return np.full(len(like), value, dtype=np.int32)
