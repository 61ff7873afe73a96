"""The tokens of an example: special tokens as the tokenizer lays them, and what is read of a text that is too long.

Special tokens are those of the tokenizer's own post-processor, for a text and for a pair; where that adds nothing, as
with most decoders, a newline parts the texts of a pair. Text that happens to spell a special token is encoded as plain
text. What is read of a text that is too long:

    truncate    its first tokens; of a pair the longer text is cut until both fit (longest first)
    head-tail   as many tokens, half of them from its beginning and half from its end
    windows     all of it, in windows of equal length that do not overlap, MOST_WINDOWS of them at most; the shorter
                text of a pair stands in each

Windows do not overlap, since each is answered by itself: a token that two of them see would only count twice.
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

if TYPE_CHECKING:  # a worker does not wait for it
    from transformers import PreTrainedTokenizerFast

LongText = Literal["truncate", "head-tail", "windows"]

VERSION = 2  # of what comes out: raise it whenever the same examples would give other rows or files

MOST_WINDOWS = 8  # of an example

TOKEN = np.dtype([("id", "<u4"), ("type", "u1")])


# --------------------------------------------------------------------------------------------------- special tokens


@dataclass(frozen=True)
class Segment:
    """Special tokens between texts: their ids and types."""

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Template:
    """How a sequence is laid out: start, text, end; or start, text, middle, second text, end.

    Attributes:
        start, middle, end: the special tokens.
        types: the type of the tokens of each text.
    """

    start: Segment
    middle: Segment
    end: Segment
    types: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.start) + len(self.middle) + len(self.end)

    def lay_out(self, *texts: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ids and the types of a sequence with these texts, a list of ids each."""
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
        single, pair: of a text, and of two.
        empty: what stands for a text without any token, where the layout has none of its own: a decoder's opening one.
    """

    single: Template
    pair: Template
    empty: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Templates:
        """Found by asking the tokenizer's post-processor what it makes of short texts.

        Raises:
            CorpusError: the tokenizer makes tokens of no text.
        """
        backend = plain_backend(tokenizer)
        usual = (text for text in ("a", "。") if _is_text(backend.encode(text)))
        probe = next(usual, None) or next(
            filter(lambda t: _is_text(backend.encode(t)), sorted(backend.get_vocab())), None
        )
        if probe is None:
            raise CorpusError("the tokenizer makes tokens of no text", fix="copy its files beside the model again")
        single, pair = _template(backend.encode(probe), 1), _template(backend.encode(probe, probe), 2)
        if not len(pair.middle):
            newline = tuple(backend.encode("\n", add_special_tokens=False).ids)
            pair = dataclasses.replace(pair, middle=Segment(newline, (0,) * len(newline)), types=(0, 0))
        return cls(single, pair, SpecialTokens.of(tokenizer).start or (0,))


def _is_text(encoding: Encoding) -> bool:
    return any(sequence is not None for sequence in encoding.sequence_ids)


def _template(encoding: Encoding, texts: int) -> Template:
    """What stands around the texts of an encoding."""
    places = [[i for i, sequence in enumerate(encoding.sequence_ids) if sequence == text] for text in range(texts)]

    def between(first: int, last: int) -> Segment:
        return Segment(tuple(encoding.ids[first:last]), tuple(encoding.type_ids[first:last]))

    first, last = places[0], places[-1]
    return Template(
        start=between(0, first[0]),
        middle=between(first[-1] + 1, last[0]) if texts > 1 else Segment(),
        end=between(last[-1] + 1, len(encoding.ids)),
        types=tuple(encoding.type_ids[own[0]] for own in places),
    )


# ------------------------------------------------------------------------------------------------ tokens of an example


@dataclass(frozen=True)
class Encoder:
    """Makes sequences of examples. It goes to the workers; and who predicts a stream of texts makes one, once.

    Attributes:
        backend: the tokenizer's, plain.
        templates: its special tokens.
        labels: the classes of the task.
        max_length: tokens of a sequence at most, special tokens included.
        long_text: what is read of a longer text.
    """

    backend: Tokenizer
    templates: Templates
    labels: Labels
    max_length: int
    long_text: LongText

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, labels: Labels, *, max_length: int, long_text: LongText) -> Encoder:
        """For a fast tokenizer, which is copied: neither its truncation nor its padding matters.

        Raises:
            SettingsError: `max_length` leaves no room for a pair of texts.
        """
        templates = Templates.of(tokenizer)
        least = len(templates.pair) + 2
        if max_length < least:
            raise SettingsError(
                f"max-length {max_length} leaves no room for text: {least - 2} tokens of a pair are special tokens",
                fix=f"give at least {least}; 128 to 512 are usual",
            )
        return cls(plain_backend(tokenizer), templates, labels, max_length, long_text)

    def key(self, examples: Examples) -> str:
        """A name for the rows of `examples`: what they are made of, and how."""
        made_of = [
            VERSION,
            examples.key,
            self.backend.to_str(),
            dataclasses.astuple(self.templates),
            dataclasses.astuple(self.labels),
            self.max_length,
            self.long_text,
        ]
        return hashlib.blake2b(json.dumps(made_of).encode(), digest_size=16).hexdigest()

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Tokenise a batch."""
        firsts = self.backend.encode_batch([example.text for example in examples], add_special_tokens=False)
        pairs = [example.pair for example in examples if example.pair is not None]
        seconds = iter(self.backend.encode_batch(pairs, add_special_tokens=False))
        place = {name: index for index, name in enumerate(self.labels.names)}
        ids: list[int] = []
        types: list[int] = []
        lengths: list[int] = []
        numbers, cut, labels, label_counts = [], [], [], []
        for example, first in zip(examples, firsts, strict=True):
            texts = [first.ids] if example.pair is None else [first.ids, next(seconds).ids]
            sequences, is_cut = self.sequences(*texts)
            for own_ids, own_types in sequences:
                ids += own_ids
                types += own_types
                lengths.append(len(own_ids))
            numbers.append(len(sequences))
            cut.append(is_cut)
            labels += self._labels(example, place)
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
        """The ids and types of each sequence of a text, or of a pair, and whether something of it is not read."""
        template = self.templates.single if len(texts) == 1 else self.templates.pair
        room = self.max_length - len(template)
        if sum(map(len, texts)) <= room:
            ids, types = template.lay_out(*texts)
            return ([(ids, types)] if ids else [(list(self.templates.empty), [0] * len(self.templates.empty))]), False
        rooms = _longest_first([len(text) for text in texts], room)
        if self.long_text == "windows":
            longer = max(range(len(texts)), key=lambda place: len(texts[place]))
            cut = [_head(text, own) for text, own in zip(texts, rooms, strict=True)]
            read = texts[longer][: MOST_WINDOWS * rooms[longer]]
            parts = [(*cut[:longer], window, *cut[longer + 1 :]) for window in _windows(read, rooms[longer])]
            is_cut = len(read) < len(texts[longer]) or any(
                len(cut[place]) < len(text) for place, text in enumerate(texts) if place != longer
            )
            return [template.lay_out(*part) for part in parts], is_cut
        take = _head_and_tail if self.long_text == "head-tail" else _head
        return [template.lay_out(*(take(text, own) for text, own in zip(texts, rooms, strict=True)))], True

    def _labels(self, example: Example, place: dict[str, int]) -> list[int]:
        unknown = [name for name in example.labels if name not in place]
        if unknown:
            raise CorpusError(
                f"'{shown(unknown[0])}' is none of the {len(place)} classes",
                where=f"example {example.id}",
                fix=nearest(unknown[0], place) if len(place) <= 50 else "see the labels of the training examples",
            )
        if not self.labels.multi_label and len(example.labels) > 1:
            raise CorpusError(
                f"an example of a task with one label each has {len(example.labels)}", where=f"example {example.id}"
            )
        return [place[name] for name in example.labels]


def _longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """What is left of texts of these lengths where the longer one is cut, token by token, until they fit."""
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
    """`text` in as few parts as fit, of equal length but for a token."""
    number = math.ceil(len(text) / room)
    ends = [len(text) * place // number for place in range(number + 1)]
    return [text[first:last] for first, last in itertools.pairwise(ends)]


@dataclass(frozen=True)
class Encoded:
    """Examples after the tokenizer.

    Attributes:
        tokens: (tokens,) records TOKEN, sequences end to end.
        lengths: (sequences,) tokens of each sequence.
        numbers: (examples,) sequences of each example.
        cut: (examples,) whether something of an example is not read.
        labels: (labels,) int32, classes, those of each example in turn.
        label_counts: (examples,) how many of them each example has.
        names: the examples' ids in UTF-8.
    """

    tokens: npt.NDArray[np.void]
    lengths: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int32]
    label_counts: npt.NDArray[np.int64]
    names: list[bytes]
