"""Texts with entities as rows of tokens: assigns tags to tokens, and converts predicted tags back to entities.

A text is tokenised unchanged, so that training and prediction have the same input. Tags belong to *units*: a unit is a
word of `find_words`, or several words that share a token (such as characters of Chinese, Japanese or Thai, or the parts
of an emoji). Only the first token of a unit has a label. Units do not depend on the words that a file gives, so what
the model learns from "U.S." in a CoNLL file applies to "U.S." in plain text.

If a file gives words, predictions are read word by word: the tag of a word is that of its first token.

A text that is too long for the model is cut into windows of about equal length, without loss, and if possible between
units. Each row is a window; a short text has one.
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
    """The characters [start, end) of a text. Their tag belongs to the text's token with index `token`."""

    start: int
    end: int
    token: int


@dataclass(frozen=True)
class EncodedText:
    """A tokenised text.

    Attributes:
        ids: (tokens,) int32, without special tokens.
        units: the units to label in training.
        words: the units of predictions: the file's words if it gives them, otherwise `units`.
        cuts: (windows + 1,) where each window begins in `ids`, and the end of the last. A text without tokens has no
            window.
    """

    ids: npt.NDArray[np.int32]
    units: tuple[Unit, ...]
    words: tuple[Unit, ...]
    cuts: tuple[int, ...]

    def tags(self, spans: Sequence[Span]) -> list[str]:
        """The IOB2 tag of each unit."""
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
    """Splits texts into tokens and units.

    Each window has the special tokens that `adapt` puts around a sequence, but for a decoder only the start token. Text
    that spells a special token is tokenised as plain text.

    Args:
        tokenizer: any fast tokenizer. It is copied; its truncation and padding are ignored.
        max_length: the maximum number of tokens in a window, special tokens included.

    Raises:
        ValueError: `max_length` leaves no room for text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        special = SpecialTokens.of(tokenizer)
        self.start = special.start
        self.end = special.end if special.end_every_sequence else ()
        self.room = max_length - len(self.start) - len(self.end)
        if self.room < 1:
            raise ValueError(f"windows of {max_length} tokens have no room besides the special tokens")
        self._backend = plain_backend(tokenizer)

    def encode(self, texts: Iterable[tuple[str, Sequence[Bounds] | None]]) -> Iterator[EncodedText]:
        """Encode each (text, words) in order, in batches of a thousand. `words` is None for plain text."""
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
        """The ids of a window, with special tokens."""
        first, last = encoded.cuts[number : number + 2]
        return [*self.start, *encoded.ids[first:last].tolist(), *self.end]


class TaggingRows(SequenceRows):
    """The windows of texts, labelled.

    Attributes:
        texts: the texts.
        tags: the classes, in the order of the model's outputs.
        lengths: (rows,) int32, tokens of each window, special tokens included.
        documents: (rows,) int64, the index in `texts` of each window's text; sorted, except in a view.
        targets: (rows,) int64, 1 where an entity begins in the window, else 0. Subsets for --train-sizes keep the share
            of each value; `--balance sampling` draws both values equally often.
        cut: (texts,) bool, which texts have more than one window.
        inexact: the number of spans that tags cannot represent exactly, because they begin or end within a unit.
    """

    PER_ROW: ClassVar[tuple[str, ...]] = ("lengths", "documents", "targets")

    def __init__(
        self, texts: Sequence[TaggedText], tags: Sequence[str], encoder: TextEncoder, progress: Progress | None = None
    ) -> None:
        self.texts, self.tags = texts, tuple(tags)
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        unknown = numbers[OUTSIDE]  # the class of tags whose type does not occur in training
        windows: list[npt.NDArray[np.void]] = []
        words: list[tuple[Unit, ...]] = []
        owners: list[int] = []
        places: list[int] = []  # the index of each word's token among the tokens of all rows
        cut: list[bool] = []
        self.inexact = total = 0
        for index, encoded in enumerate(encoder.encode((text.text, text.words) for text in texts)):
            spans = texts[index].spans
            tags_of_units = encoded.tags(spans)
            decoded = {_characters(encoded.units, chunk) for chunk in lenient_chunks(tags_of_units)}
            self.inexact += len(set(spans) - decoded)
            labels = np.full(len(encoded.ids), IGNORED, dtype=np.int64)  # (tokens of the text,)
            for unit, tag in zip(encoded.units, tags_of_units, strict=True):
                labels[unit.token] = numbers.get(tag, unknown)
            where = np.zeros(len(encoded.ids), dtype=np.int64)  # (tokens of the text,) indices among tokens of all rows
            for number, (first, last) in enumerate(itertools.pairwise(encoded.cuts)):
                ids = encoder.window(encoded, number)
                window = np.empty(len(ids), dtype=_TOKEN)
                window["id"], window["target"] = ids, IGNORED
                window["target"][len(encoder.start) : len(encoder.start) + last - first] = labels[first:last]
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
    def token_targets(self) -> npt.NDArray[np.int64]:
        """(labelled tokens,) the class of each labelled token in these rows."""
        tokens, _ = self._read(np.arange(len(self)))
        return tokens["target"][tokens["target"] != IGNORED].astype(np.int64)

    def take(self, indices: npt.ArrayLike) -> TaggingRows:
        """A view of the windows with these indices, in that order, for training. Indices may repeat.

        `texts` and the tokens that `entities` and `spans` expect remain those of all windows.
        """
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
        """(tokens,) the indices of the tokens of `rows` among the tokens of all rows."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows].astype(np.int64)
        starts = self._sequences.read(self._at(rows), np.ones_like(rows))["start"]
        return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)

    @property
    def tokens(self) -> int:
        """The number of tokens in all windows, including special tokens. A view has the same number."""
        return len(self._all)

    def entities(
        self, predicted: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
    ) -> list[list[tuple[Span, float]]]:
        """The predicted entities of each text, each with its confidence: the mean probability of its words' tags.

        Args:
            predicted: (tokens,) the predicted class of each token of all rows.
            probabilities: (tokens,) the probability of that class.
        """
        tags, confidences = predicted[self._places], probabilities[self._places]  # (words of all texts,)
        entities, place = [], 0
        for words in self._words:
            names = [self.tags[number] for number in tags[place : place + len(words)].tolist()]
            of_words = confidences[place : place + len(words)]
            entities.append(
                [
                    (_characters(words, chunk), float(of_words[chunk.start : chunk.end].mean()))
                    for chunk in lenient_chunks(names)
                ]
            )
            place += len(words)
        return entities

    def spans(self, predicted: npt.NDArray[np.int64]) -> list[tuple[Span, ...]]:
        """The predicted entities of each text. `predicted` (tokens,) has the class of each token of all rows."""
        unused = np.zeros(len(predicted), dtype=np.float32)
        return [tuple(span for span, _ in entities) for entities in self.entities(predicted, unused)]


def encode_tags(
    texts: Sequence[TaggedText],
    tags: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> TaggingRows:
    """The rows of labelled texts: see `TaggingRows` and `TextEncoder`."""
    return TaggingRows(texts, tags, TextEncoder(tokenizer, max_length), progress)


def _characters(units: Sequence[Unit], chunk: Span) -> Span:
    """Convert a span of units to a span of characters."""
    return Span(units[chunk.start].start, units[chunk.end - 1].end, chunk.label)


def _trimmed(text: str, start: int, end: int) -> Bounds:
    """The bounds of a token without white space: byte-level tokens include the space before a word."""
    covered = text[start:end]
    return start + len(covered) - len(covered.lstrip()), start + len(covered.rstrip())


def _units(words: Sequence[Bounds], offsets: Sequence[Bounds]) -> tuple[Unit, ...]:
    """The units of words. Words that share a token are one unit; words without a token are dropped.

    Args:
        offsets: (start, end) of each token. Tokens without characters, which some tokenizers have, are skipped.
    """
    units: list[Unit] = []
    word, covered = 0, -1  # the first word that may overlap the token; the last word that is in a unit
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
        if word <= covered:
            units[-1] = Unit(units[-1].start, max(units[-1].end, words[last][1]), units[-1].token)
        else:
            units.append(Unit(words[word][0], words[last][1], token))
        covered = max(covered, last)
    return tuple(units)


def _cuts(tokens: int, borders: Sequence[int], room: int) -> tuple[int, ...]:
    """The first token of each window of at most `room` tokens, and the end of the last window.

    Windows begin with a unit and are about equally long. A unit of more than `room` tokens is cut anywhere. A text
    without tokens has no window.

    Args:
        tokens: the number of tokens.
        borders: the first token of each unit.
        room: the maximum number of tokens in a window, without special tokens.
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
