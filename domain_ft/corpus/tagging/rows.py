"""Texts with entities as rows of tokens: which token is asked for which tag, and what its answer says of the text.

A text is tokenised as it stands, so that a model reads in training what it will read afterwards. What gets a tag is a
*unit*: a word of `find_words`, joined with its neighbours where the tokenizer laid a token across their border (the
characters of Chinese, Japanese or Thai that share a token; the parts of an emoji). The first token of a unit is
labelled, the others are not. So units are the same for a file of words and for plain text, and "U.S." in a CoNLL file
teaches what a text with "U.S." will ask.

Where a file gives words, its predictions are read off word by word: a word's tag is that of its first token.

A text that is longer than the model reads is cut before a unit into windows of about equal length. Nothing is dropped.
A row is a window; a short text has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import IGNORED, TaskBatch
from domain_ft.corpus.stored_rows import RecordsInMemory, SequenceRows, sequence_records
from domain_ft.corpus.tagging.entities import OUTSIDE, Span, TaggedText, lenient_chunks
from domain_ft.corpus.tokens import SpecialTokens, plain_backend
from domain_ft.corpus.words import Bounds, find_words
from domain_ft.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_BATCH = 1_000  # texts tokenised at once

_TOKEN = np.dtype([("id", "<i4"), ("target", "<i4")])


@dataclass(frozen=True)
class Unit:
    """Characters `start` up to `end` of a text, whose tag is asked for at `token` of the text's tokens."""

    start: int
    end: int
    token: int


@dataclass(frozen=True)
class EncodedText:
    """A text as tokens.

    Attributes:
        ids: (tokens,) int32, without special tokens.
        units: what is labelled in training.
        words: what predictions are read off: the words of the file where it gives them, else the units.
        cuts: (windows + 1,) where each window begins in `ids`, and the end of the last; none of a text of no tokens.
    """

    ids: npt.NDArray[np.int32]
    units: tuple[Unit, ...]
    words: tuple[Unit, ...]
    cuts: tuple[int, ...]

    def tags(self, spans: Sequence[Span]) -> list[str]:
        """The tag of each unit: B- where a span begins in it, I- where one goes on."""
        tags = [OUTSIDE] * len(self.units)
        place = 0
        for span in spans:
            while place < len(tags) and self.units[place].end <= span.start:
                place += 1
            prefix = "B"
            while place < len(tags) and self.units[place].start < span.end:
                tags[place] = f"{prefix}-{span.label}"
                prefix = "I"
                place += 1
        return tags


class TextEncoder:
    """Turns texts into tokens and units under one tokenizer.

    Special tokens stand around each window as `adapt` lays them around the sequences of a document: a decoder's window
    opens with the token that opens a document. Text that happens to spell a special token is read as plain text.

    Args:
        tokenizer: any fast tokenizer; it is copied, and neither its truncation nor its padding matters.
        max_length: tokens of a window at most, special tokens included.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        special = SpecialTokens.of(tokenizer)
        self.start = special.start
        self.end = special.end if special.end_every_sequence else ()
        self.room = max_length - len(self.start) - len(self.end)
        if self.room < 1:
            raise ValueError(f"windows of {max_length} tokens hold nothing beside the special ones")
        self._backend = plain_backend(tokenizer)

    def encode(self, texts: Iterable[tuple[str, Sequence[Bounds] | None]]) -> Iterator[EncodedText]:
        """Each (text, words) as tokens, in order, a thousand at a time."""
        texts = iter(texts)
        while batch := list(itertools.islice(texts, _BATCH)):
            encodings = self._backend.encode_batch([text for text, _ in batch], add_special_tokens=False)
            for (text, words), encoding in zip(batch, encodings, strict=True):
                offsets = [_trimmed(text, *bounds) for bounds in encoding.offsets]
                units = _units(find_words(text), offsets)
                yield EncodedText(
                    ids=np.array(encoding.ids, dtype=np.int32),
                    units=units,
                    words=units if words is None else _units(words, offsets),
                    cuts=_cuts(len(encoding.ids), [unit.token for unit in units], self.room),
                )

    def window(self, encoded: EncodedText, number: int) -> list[int]:
        """The ids of a window, special tokens included."""
        first, last = encoded.cuts[number : number + 2]
        return [*self.start, *encoded.ids[first:last].tolist(), *self.end]


class TaggingRows(SequenceRows):
    """The windows of texts, labelled.

    Attributes:
        texts: what they are made of.
        tags: the classes, in the order of the model's outputs.
        lengths: (rows,) int32, tokens of each window, special tokens included.
        documents: (rows,) int64, the index in `texts` of the text that each is a window of; never falls.
        targets: (rows,) int64, 1 where an entity begins in the window, else 0: what a part of the rows, or a balanced
            draw of them, keeps in its share.
        cut: (texts,) bool, which texts have more than one window.
        inexact: how many spans begin or end within a unit, so that no tags can say them exactly.
    """

    PER_ROW: ClassVar[tuple[str, ...]] = ("lengths", "documents", "targets")

    def __init__(
        self, texts: Sequence[TaggedText], tags: Sequence[str], encoder: TextEncoder, progress: Progress | None = None
    ) -> None:
        self.texts, self.tags = texts, tuple(tags)
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        unknown = numbers[OUTSIDE]  # a type that was never seen in training cannot be asked for
        windows: list[npt.NDArray[np.void]] = []
        words: list[tuple[Unit, ...]] = []
        owners: list[int] = []
        places: list[int] = []  # of each word's token among the tokens of all rows
        cut: list[bool] = []
        self.inexact = total = 0
        for index, encoded in enumerate(encoder.encode((text.text, text.words) for text in texts)):
            spans = texts[index].spans
            tags_of_units = encoded.tags(spans)
            said = {_characters(encoded.units, chunk) for chunk in lenient_chunks(tags_of_units)}
            self.inexact += len(set(spans) - said)
            asked = np.full(len(encoded.ids), IGNORED, dtype=np.int64)
            for unit, tag in zip(encoded.units, tags_of_units, strict=True):
                asked[unit.token] = numbers.get(tag, unknown)
            where = np.zeros(len(encoded.ids), dtype=np.int64)
            for number, (first, last) in enumerate(itertools.pairwise(encoded.cuts)):
                ids = encoder.window(encoded, number)
                window = np.empty(len(ids), dtype=_TOKEN)
                window["id"], window["target"] = ids, IGNORED
                window["target"][len(encoder.start) : len(encoder.start) + last - first] = asked[first:last]
                where[first:last] = np.arange(last - first) + total + len(encoder.start)
                total += len(window)
                windows.append(window)
                owners.append(index)
            cut.append(len(encoded.cuts) > 2)
            words.append(encoded.words)
            places += where[[word.token for word in encoded.words]].tolist() if encoded.words else []
            if progress and (index + 1) % _BATCH == 0:
                progress("tokenising", index + 1, len(texts))
        lengths = np.array([len(window) for window in windows], dtype=np.int32)
        documents = np.array(owners, dtype=np.int64)
        numbers_of_windows = np.arange(len(documents)) - np.searchsorted(documents, documents)
        sequences = sequence_records(lengths, documents, numbers_of_windows)
        self._all = RecordsInMemory(np.concatenate([np.empty(0, dtype=_TOKEN), *windows]))
        super().__init__(self._all, RecordsInMemory(sequences), lengths, documents)
        self.cut = np.array(cut, dtype=np.bool_)
        begins = [number for number, tag in enumerate(self.tags) if tag.startswith("B-")]
        self.targets = np.array([np.isin(window["target"], begins).any() for window in windows], dtype=np.int64)
        self._words = words
        self._places = np.array(places, dtype=np.int64)

    @property
    def asked(self) -> npt.NDArray[np.int64]:
        """(labelled tokens,) the class that is asked for at each, of the rows that are here."""
        tokens, _ = self._read(np.arange(len(self)))
        return tokens["target"][tokens["target"] != IGNORED].astype(np.int64)

    def take(self, indices: npt.ArrayLike) -> TaggingRows:
        """The windows with these indices, in that order; one may come twice. To train on: texts stay as they are."""
        return self._view(indices)

    def document_id(self, document: int) -> str:
        """The id of the text with index `document`."""
        return self.texts[document].id

    def pack(self, rows: npt.ArrayLike) -> TaskBatch:
        """Lay these windows end to end, in that order."""
        tokens, layout = self._read(rows)
        targets = tokens["target"].astype(np.int64)
        labelled = targets != IGNORED
        return TaskBatch.of(
            tokens["id"],
            word_ids=np.where(labelled, np.cumsum(labelled) - 1, -1).astype(np.int32),
            type_ids=np.zeros(len(tokens), dtype=np.int64),
            targets=targets,
            by_token=True,
            **layout,
        )

    def places(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """(tokens,) where the tokens of a micro-batch of `rows` stand among the tokens of all rows."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows].astype(np.int64)
        starts = self._sequences.read(self._at(rows), np.ones_like(rows))["start"]
        return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)

    @property
    def tokens(self) -> int:
        """Of all windows of the texts together, special tokens included; of a view as well."""
        return len(self._all)

    def entities(
        self, answers: npt.NDArray[np.int64], chances: npt.NDArray[np.float32]
    ) -> list[list[tuple[Span, float]]]:
        """The entities of each text, with how sure the model is of each: the mean chance of the tags of its words.

        Args:
            answers: (tokens,) the class that the model gives each token of all rows.
            chances: (tokens,) with what probability.
        """
        tags, sure = answers[self._places], chances[self._places]
        found, place = [], 0
        for words in self._words:
            named = [self.tags[number] for number in tags[place : place + len(words)].tolist()]
            own = sure[place : place + len(words)]
            found.append(
                [
                    (_characters(words, chunk), float(own[chunk.start : chunk.end].mean()))
                    for chunk in lenient_chunks(named)
                ]
            )
            place += len(words)
        return found

    def spans(self, answers: npt.NDArray[np.int64]) -> list[tuple[Span, ...]]:
        """The entities of each text, of the classes (tokens,) that the model gives the tokens of all rows."""
        unsure = np.zeros(len(answers), dtype=np.float32)
        return [tuple(span for span, _ in own) for own in self.entities(answers, unsure)]


def encode_tags(
    texts: Sequence[TaggedText],
    tags: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> TaggingRows:
    """The rows of labelled texts: see TaggingRows and TextEncoder."""
    return TaggingRows(texts, tags, TextEncoder(tokenizer, max_length), progress)


def _characters(units: Sequence[Unit], chunk: Span) -> Span:
    """A span of units as one of characters."""
    return Span(units[chunk.start].start, units[chunk.end - 1].end, chunk.label)


def _trimmed(text: str, start: int, end: int) -> Bounds:
    """A token's characters without white space: byte-level tokens count the space before a word as theirs."""
    sequence = text[start:end]
    return start + len(sequence) - len(sequence.lstrip()), start + len(sequence.rstrip())


def _units(words: Sequence[Bounds], offsets: Sequence[Bounds]) -> tuple[Unit, ...]:
    """Words with the first token of each; words that share a token are one unit, words without one are none.

    Args:
        offsets: (start, end) of each token; tokens of no characters are passed over (some tokenizers have them).
    """
    units: list[Unit] = []
    word, claimed = 0, -1  # the first word that may have a part in the token; the last one that has a token
    for token, (start, end) in enumerate(offsets):
        if start >= end:
            continue
        while word < len(words) and words[word][1] <= start:
            word += 1
        if word == len(words) or words[word][0] >= end:
            continue
        last = word
        while last + 1 < len(words) and words[last + 1][0] < end:
            last += 1
        if word <= claimed:
            units[-1] = Unit(units[-1].start, max(units[-1].end, words[last][1]), units[-1].token)
        else:
            units.append(Unit(words[word][0], words[last][1], token))
        claimed = max(claimed, last)
    return tuple(units)


def _cuts(tokens: int, borders: Sequence[int], room: int) -> tuple[int, ...]:
    """Where windows of at most `room` tokens begin, and the end of the last: at borders, about equally long.

    A single unit of more than `room` tokens is cut as it comes. A text of no tokens has no window.
    """
    if not tokens:
        return (0,)
    cuts = [0]
    allowed = np.asarray(borders, dtype=np.int64)
    while tokens - cuts[-1] > room:
        left = tokens - cuts[-1]
        even = -(-left // -(-left // room))
        place = cuts[-1] + room
        for reach in (even, room):
            fitting = allowed[(allowed > cuts[-1]) & (allowed <= cuts[-1] + reach)]
            if len(fitting):
                place = int(fitting[-1])
                break
        cuts.append(place)
    return (*cuts, tokens)
