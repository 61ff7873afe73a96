"""Tokenises examples: adds special tokens, and shortens or splits long texts.

Special tokens are those of the tokenizer's post-processor, for a single text or a pair. If it adds none between the
texts of a pair, as with most decoders, a newline separates the texts. Text that spells a special token is tokenised as
plain text. Long texts are handled in one of three ways:

    truncate    keep the first tokens; in a pair, the longer text is cut until both fit (longest first)
    head-tail   keep the same number of tokens, half from the beginning and half from the end
    windows     split into windows of about equal length without overlap, at most MOST_WINDOWS; in a pair, the longer
                text is split, and each window also has the shorter one, which is cut if it is too long

Windows do not overlap, because each gets its own prediction, and shared tokens would count twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from domain_ft.corpus.examples import Example, Examples, Labels
from domain_ft.corpus.tokens import SpecialTokens, plain_backend
from domain_ft.errors import CorpusError, SettingsError, nearest
from domain_ft.quoting import shown
from domain_ft.wording import counted

if TYPE_CHECKING:  # workers do not need this slow import
    from transformers import PreTrainedTokenizerFast

LongText = Literal["truncate", "head-tail", "windows"]

VERSION = 2  # of the output: increase it whenever the same examples would give other rows or files

MOST_WINDOWS = 8  # per example

TOKEN = np.dtype([("id", "<u4"), ("type", "u1")])


# --------------------------------------------------------------------------------------------------- special tokens


@dataclass(frozen=True)
class Segment:
    """Adjacent special tokens: their ids and types."""

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Template:
    """The layout of a sequence: start, text, end; or start, first text, middle, second text, end.

    Attributes:
        start, middle, end: the special tokens.
        types: the token type of each text.
    """

    start: Segment
    middle: Segment
    end: Segment
    types: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.start) + len(self.middle) + len(self.end)

    def lay_out(self, *texts: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ids and types of a sequence. Each text is a list of ids."""
        ids, types = list(self.start.ids), list(self.start.types)
        for place, text in enumerate(texts):
            if place:
                ids += self.middle.ids
                types += self.middle.types
            ids += text
            types += [self.types[place]] * len(text)
        return ids + list(self.end.ids), types + list(self.end.types)


@dataclass(frozen=True)
class Templates:
    """The layouts of a tokenizer.

    Attributes:
        single, pair: for one text, and for two.
        empty: the tokens for an empty text if the layout adds none (a decoder's start token, or else the token 0).
    """

    single: Template
    pair: Template
    empty: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Templates:
        """The layouts that the tokenizer's post-processor gives short texts.

        Raises:
            CorpusError: the tokenizer gives no tokens for any text.
        """
        backend = plain_backend(tokenizer)
        usual = (text for text in ("a", "。") if _is_text(backend.encode(text)))
        probe = next(usual, None) or next(
            filter(lambda t: _is_text(backend.encode(t)), sorted(backend.get_vocab())), None
        )
        if probe is None:
            raise CorpusError(
                "the tokenizer gives no tokens for any text", fix="copy its files next to the model again"
            )
        single, pair = _template(backend.encode(probe), 1), _template(backend.encode(probe, probe), 2)
        if not len(pair.middle):
            newline = tuple(backend.encode("\n", add_special_tokens=False).ids)
            pair = dataclasses.replace(pair, middle=Segment(newline, (0,) * len(newline)), types=(0, 0))
        return cls(single, pair, SpecialTokens.of(tokenizer).start or (0,))


def _is_text(encoding: Encoding) -> bool:
    return any(sequence is not None for sequence in encoding.sequence_ids)


def _template(encoding: Encoding, texts: int) -> Template:
    """The special tokens around the texts of an encoding."""
    places = [[i for i, sequence in enumerate(encoding.sequence_ids) if sequence == text] for text in range(texts)]

    def between(first: int, last: int) -> Segment:
        return Segment(tuple(encoding.ids[first:last]), tuple(encoding.type_ids[first:last]))

    first, last = places[0], places[-1]
    return Template(
        start=between(0, first[0]),
        middle=between(first[-1] + 1, last[0]) if texts > 1 else Segment(),
        end=between(last[-1] + 1, len(encoding.ids)),
        types=tuple(encoding.type_ids[of_text[0]] for of_text in places),
    )


# ------------------------------------------------------------------------------------------------ tokens of an example


@dataclass(frozen=True)
class Encoder:
    """Tokenises examples into sequences. It can be pickled for worker processes.

    Attributes:
        backend: of the tokenizer, without truncation and padding.
        templates: the layouts with special tokens.
        labels: the classes of the task.
        max_length: the maximum number of tokens in a sequence, special tokens included.
        long_text: how longer texts are handled.
    """

    backend: Tokenizer
    templates: Templates
    labels: Labels
    max_length: int
    long_text: LongText

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, labels: Labels, *, max_length: int, long_text: LongText) -> Encoder:
        """The encoder for a fast tokenizer. The tokenizer is copied; its truncation and padding are ignored.

        Raises:
            SettingsError: `max_length` leaves no room for a pair of texts.
            CorpusError: the tokenizer gives no tokens for any text.
        """
        templates = Templates.of(tokenizer)
        least = len(templates.pair) + 2
        if max_length < least:
            raise SettingsError(
                f"max-length {max_length} leaves no room for text: a pair has "
                f"{counted(least - 2, 'token')} before, between and after its texts",
                fix=f"give at least {least}; 128 to 512 are usual",
            )
        return cls(plain_backend(tokenizer), templates, labels, max_length, long_text)

    def key(self, examples: Examples) -> str:
        """A hash of everything that determines the rows of `examples`."""
        parts = [
            VERSION,
            examples.key,
            self.backend.to_str(),
            dataclasses.astuple(self.templates),
            dataclasses.astuple(self.labels),
            self.max_length,
            self.long_text,
        ]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Tokenise a batch.

        Raises:
            CorpusError: a label is not a class, or an example of a single-label task has several labels.
        """
        firsts = self.backend.encode_batch([example.text for example in examples], add_special_tokens=False)
        pairs = [example.pair for example in examples if example.pair is not None]
        seconds = iter(self.backend.encode_batch(pairs, add_special_tokens=False))
        index_of = {name: index for index, name in enumerate(self.labels.names)}
        ids: list[int] = []
        types: list[int] = []
        lengths: list[int] = []
        numbers, cut, labels, label_counts = [], [], [], []
        for example, first in zip(examples, firsts, strict=True):
            texts = [first.ids] if example.pair is None else [first.ids, next(seconds).ids]
            sequences, is_cut = self.sequences(*texts)
            for sequence, sequence_types in sequences:
                ids += sequence
                types += sequence_types
                lengths.append(len(sequence))
            numbers.append(len(sequences))
            cut.append(is_cut)
            labels += self._labels(example, index_of)
            label_counts.append(len(example.labels))
        tokens = np.empty(len(ids), dtype=TOKEN)
        tokens["id"], tokens["type"] = ids, types
        return Encoded(
            tokens,
            np.array(lengths, dtype=np.int64),
            np.array(numbers, dtype=np.int64),
            np.array(cut, dtype=np.bool_),
            np.array(labels, dtype=np.int32),
            np.array(label_counts, dtype=np.int64),
            [example.id.encode("utf-8") for example in examples],
        )

    def sequences(self, *texts: list[int]) -> tuple[list[tuple[list[int], list[int]]], bool]:
        """(ids, types) of each sequence of a text or pair, and whether tokens were dropped."""
        template = self.templates.single if len(texts) == 1 else self.templates.pair
        room = self.max_length - len(template)
        if sum(map(len, texts)) <= room:
            ids, types = template.lay_out(*texts)
            return ([(ids, types)] if ids else [(list(self.templates.empty), [0] * len(self.templates.empty))]), False
        rooms = _longest_first([len(text) for text in texts], room)
        if self.long_text == "windows":
            longer = max(range(len(texts)), key=lambda place: len(texts[place]))
            cut = [_head(text, size) for text, size in zip(texts, rooms, strict=True)]
            read = texts[longer][: MOST_WINDOWS * rooms[longer]]
            parts = [(*cut[:longer], window, *cut[longer + 1 :]) for window in _windows(read, rooms[longer])]
            is_cut = len(read) < len(texts[longer]) or any(
                len(cut[place]) < len(text) for place, text in enumerate(texts) if place != longer
            )
            return [template.lay_out(*part) for part in parts], is_cut
        take = _head_and_tail if self.long_text == "head-tail" else _head
        return [template.lay_out(*(take(text, size) for text, size in zip(texts, rooms, strict=True)))], True

    def _labels(self, example: Example, index_of: dict[str, int]) -> list[int]:
        unknown = [name for name in example.labels if name not in index_of]
        if unknown:
            raise CorpusError(
                f"'{shown(unknown[0])}' is not one of the {len(index_of)} classes",
                where=f"example {example.id}",
                fix=nearest(unknown[0], index_of) if len(index_of) <= 50 else "see the labels of the training examples",
            )
        if not self.labels.multi_label and len(example.labels) > 1:
            raise CorpusError(
                f"an example of a single-label task has {len(example.labels)} labels", where=f"example {example.id}"
            )
        return [index_of[name] for name in example.labels]


def _longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths of one or two texts after the longer one is cut, token by token, until they fit into `room`."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    if min(first, second) <= room // 2:
        return [first, room - first] if first <= second else [room - second, second]
    return [room // 2, room - room // 2] if first <= second else [room - room // 2, room // 2]


def _head(text: list[int], room: int) -> list[int]:
    return text[:room]


def _head_and_tail(text: list[int], room: int) -> list[int]:
    if len(text) <= room:
        return text
    tail = room // 2
    return text[: room - tail] + text[len(text) - tail :]


def _windows(text: list[int], room: int) -> list[list[int]]:
    """`text` in as few parts of at most `room` tokens as possible. Their lengths differ by one at most."""
    number = math.ceil(len(text) / room)
    ends = [len(text) * place // number for place in range(number + 1)]
    return [text[first:last] for first, last in itertools.pairwise(ends)]


@dataclass(frozen=True)
class Encoded:
    """A batch of tokenised examples.

    Attributes:
        tokens: (tokens,) records TOKEN of all sequences, end to end.
        lengths: (sequences,) tokens of each sequence.
        numbers: (examples,) sequences of each example.
        cut: (examples,) whether tokens of an example were dropped.
        labels: (labels,) int32, the class numbers of all examples, end to end.
        label_counts: (examples,) labels of each example.
        names: the examples' ids in UTF-8.
    """

    tokens: npt.NDArray[np.void]
    lengths: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int32]
    label_counts: npt.NDArray[np.int64]
    names: list[bytes]
