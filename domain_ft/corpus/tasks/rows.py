"""Examples to rows of tokens: what a classifier reads, tokenised once and kept in files.

A row is an example. It has one piece of tokens, or, where a long text is read in windows, several side by side. Special
tokens are those of the tokenizer's own post-processor, for a text and for a pair; where that adds nothing, as with most
decoders, a newline parts the texts of a pair. Text that happens to spell a special token is encoded as plain text.

What is read of a text that is too long:

    truncate    its first tokens; of a pair the longer text is cut until both fit (longest first)
    head-tail   as many tokens, half of them from its beginning and half from its end
    windows     all of it, in windows of equal length that do not overlap, MOST_WINDOWS of them at most; the shorter
                text of a pair stands in each

Windows do not overlap, since each is answered by itself: a token that two of them see would only count twice.

Scale. Examples pass through in batches, on all cores where there are many, and are appended to files as they come; the
rows are read from the files. So memory stays flat however many examples there are. What was stopped goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from domain_ft.corpus.batches import TaskBatch
from domain_ft.corpus.disk import disk_errors
from domain_ft.corpus.growing import GrowingFiles, unfinished_folder
from domain_ft.corpus.tasks.examples import Example, Examples, Labels
from domain_ft.corpus.tokens import RecordFile, SpecialTokens, plain_backend
from domain_ft.corpus.workers import in_order
from domain_ft.errors import CorpusError, SettingsError, nearest
from domain_ft.storage import alone, cache_folder

if TYPE_CHECKING:  # a worker does not wait for it
    from transformers import PreTrainedTokenizerFast

Progress = Callable[[str, int, "int | None"], None]
LongText = Literal["truncate", "head-tail", "windows"]
Indices = npt.NDArray[np.int64]

VERSION = 1  # of what the files hold: raise it whenever the same examples would give other rows or files

MOST_WINDOWS = 8  # of an example
BATCH_CHARACTERS = 1_000_000  # tokenised at once
BATCH_EXAMPLES = 10_000
COMMIT_BATCHES = 64

UNLABELLED = -100
"""The target of an example that has no label, as those have that are to be predicted."""

TOKEN = np.dtype([("id", "<u4"), ("type", "u1")])
PIECE = np.dtype([("start", "<i8"), ("length", "<i4")])
# Where an example's pieces, its labels in labels.bin and its id in names.txt end.
EXAMPLE = np.dtype([("piece_end", "<i8"), ("label_end", "<i8"), ("name_end", "<i8")])
_FILES = ("tokens.bin", "pieces.bin", "lengths.bin", "cut.bin", "examples.bin", "labels.bin", "names.txt")


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
    """How a piece is laid out: start, text, end; or start, text, middle, second text, end.

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
        """The ids and the types of a piece with these texts, a list of ids each."""
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
    """Makes pieces of examples. It goes to the workers; and who predicts a stream of texts makes one, once.

    Attributes:
        backend: the tokenizer's, plain.
        templates: its special tokens.
        labels: the classes of the task.
        max_length: tokens of a piece at most, special tokens included.
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

    def rows(self, examples: Sequence[Example]) -> ExampleRows:
        """The rows of a few examples, in memory and with no key: of a stream of texts that are to be predicted."""
        return ExampleRows(_Stored.in_memory(self.encode(examples)), self.labels)

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
            pieces, is_cut = self.pieces(*texts)
            for own_ids, own_types in pieces:
                ids += own_ids
                types += own_types
                lengths.append(len(own_ids))
            numbers.append(len(pieces))
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

    def pieces(self, *texts: list[int]) -> tuple[list[tuple[list[int], list[int]]], bool]:
        """The ids and types of each piece of a text, or of a pair, and whether something of it is not read."""
        template = self.templates.single if len(texts) == 1 else self.templates.pair
        room = self.max_length - len(template)
        if sum(map(len, texts)) <= room:
            ids, types = template.lay_out(*texts)
            return ([(ids, types)] if ids else [(list(self.templates.empty), [0] * len(self.templates.empty))]), False
        rooms = _longest_first([len(text) for text in texts], room)
        if self.long_text == "windows":
            longer = max(range(len(texts)), key=lambda place: len(texts[place]))
            shown = [_head(text, own) for text, own in zip(texts, rooms, strict=True)]
            read = texts[longer][: MOST_WINDOWS * rooms[longer]]
            parts = [(*shown[:longer], window, *shown[longer + 1 :]) for window in _windows(read, rooms[longer])]
            is_cut = len(read) < len(texts[longer]) or any(
                len(shown[place]) < len(text) for place, text in enumerate(texts) if place != longer
            )
            return [template.lay_out(*part) for part in parts], is_cut
        take = _head_and_tail if self.long_text == "head-tail" else _head
        return [template.lay_out(*(take(text, own) for text, own in zip(texts, rooms, strict=True)))], True

    def _labels(self, example: Example, place: dict[str, int]) -> list[int]:
        unknown = [name for name in example.labels if name not in place]
        if unknown:
            raise CorpusError(
                f"'{unknown[0]}' is none of the {len(place)} classes",
                where=f"example {example.id}",
                fix=nearest(unknown[0], place) if len(place) <= 50 else "see the labels of the training examples",
            )
        if not self.labels.several and len(example.labels) > 1:
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
        tokens: (tokens,) records TOKEN, pieces end to end.
        lengths: (pieces,) tokens of each piece.
        numbers: (examples,) pieces of each example.
        cut: (examples,) whether something of an example is not read.
        labels: (labels,) int32, classes, those of each example in turn.
        label_counts: (examples,) how many of them each example has.
        names: the examples' ids in UTF-8.
    """

    tokens: npt.NDArray[np.void]
    lengths: Indices
    numbers: Indices
    cut: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int32]
    label_counts: Indices
    names: list[bytes]

    def parts(self, before: dict[str, int]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, int]]:
        """What is added to each file after all that is counted in `before`; what is counted then."""
        pieces = np.empty(len(self.lengths), dtype=PIECE)
        pieces["start"] = before["tokens"] + np.cumsum(self.lengths) - self.lengths
        pieces["length"] = self.lengths
        examples = np.empty(len(self.numbers), dtype=EXAMPLE)
        examples["piece_end"] = before["pieces"] + np.cumsum(self.numbers)
        examples["label_end"] = before["labels"] + np.cumsum(self.label_counts)
        examples["name_end"] = before["names"] + np.cumsum([len(name) for name in self.names])
        first = np.cumsum(self.numbers) - self.numbers
        after = {
            "examples": before["examples"] + len(self.numbers),
            "tokens": before["tokens"] + len(self.tokens),
            "pieces": before["pieces"] + len(self.lengths),
            "labels": before["labels"] + len(self.labels),
            "names": before["names"] + sum(map(len, self.names)),
        }
        data: dict[str, npt.NDArray[Any]] = {
            "tokens.bin": self.tokens,
            "pieces.bin": pieces,
            "lengths.bin": np.add.reduceat(self.lengths, first).astype("<i4"),
            "cut.bin": self.cut,
            "examples.bin": examples,
            "labels.bin": self.labels.astype("<i4"),
            "names.txt": np.frombuffer(b"".join(self.names), dtype=np.uint8),
        }
        return data, after


_NOTHING = {"examples": 0, "tokens": 0, "pieces": 0, "labels": 0, "names": 0}


# ---------------------------------------------------------------------------------------------------------- the rows


class _Records(Protocol):
    def read(self, starts: npt.ArrayLike, counts: npt.ArrayLike) -> npt.NDArray[Any]: ...


class _RecordsInMemory:
    """An array, read as a RecordFile is."""

    def __init__(self, records: npt.NDArray[Any]) -> None:
        self._records = records

    def read(self, starts: npt.ArrayLike, counts: npt.ArrayLike) -> npt.NDArray[Any]:
        spans = zip(np.asarray(starts).tolist(), np.asarray(counts).tolist(), strict=True)
        return np.concatenate([self._records[start : start + count] for start, count in spans] or [self._records[:0]])


@dataclass(frozen=True)
class _Stored:
    """Encoded examples, in files or in memory; the arrays are of all of them."""

    key: str
    lengths: npt.NDArray[np.int32]
    cut: npt.NDArray[np.bool_]
    examples: npt.NDArray[np.void]
    tokens: _Records
    pieces: _Records
    labels: _Records
    names: _Records

    @classmethod
    def in_folder(cls, folder: Path, key: str) -> _Stored:
        """What `encode` has written. The files of each example are mapped, those of tokens are read."""

        def mapped(name: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
            return np.memmap(folder / name, dtype=kind, mode="r")

        return cls(
            key,
            mapped("lengths.bin", "<i4"),
            mapped("cut.bin", np.bool_),
            mapped("examples.bin", EXAMPLE),
            RecordFile(folder / "tokens.bin", TOKEN),
            RecordFile(folder / "pieces.bin", PIECE),
            RecordFile(folder / "labels.bin", np.dtype("<i4")),
            RecordFile(folder / "names.txt", np.dtype(np.uint8)),
        )

    @classmethod
    def in_memory(cls, encoded: Encoded) -> _Stored:
        """A batch that is not kept."""
        data, _ = encoded.parts(_NOTHING)
        records = {name: _RecordsInMemory(data[f"{name}.bin"]) for name in ("tokens", "pieces", "labels")}
        names = _RecordsInMemory(data["names.txt"])
        return cls("", data["lengths.bin"], data["cut.bin"], data["examples.bin"], names=names, **records)

    def read(self, file: _Records, field: str, places: Indices) -> tuple[npt.NDArray[Any], Indices]:
        """The records of the examples at `places`, end to end, and how many there are of each."""
        ends = self.examples[field][places]
        starts = np.where(places > 0, self.examples[field][np.maximum(places - 1, 0)], 0)
        if len(places) and (np.diff(places) == 1).all():  # all of a split, most often
            return file.read(starts[:1], ends[-1:] - starts[:1]), ends - starts
        return file.read(starts, ends - starts), ends - starts


class ExampleRows:
    """The examples of a split as rows of tokens. A row is an example, with all its pieces.

    Attributes:
        key: names the content: equal keys, equal rows.
        labels: the classes of the task.
        lengths: (examples,) int32, tokens of each example over all its pieces, special tokens included.
        cut: (examples,) bool, whether something of an example is not read.
    """

    def __init__(self, stored: _Stored, labels: Labels, places: Indices | None = None) -> None:
        self._stored, self._places, self.labels = stored, places, labels
        self.key = stored.key
        self.lengths, self.cut = stored.lengths, stored.cut
        if places is not None:
            digest = hashlib.blake2b(places.tobytes(), digest_size=16).hexdigest()
            self.key = f"{stored.key}-{digest}"
            self.lengths, self.cut = self.lengths[places], self.cut[places]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Of all examples together, special tokens included."""
        return int(self.lengths.sum(dtype=np.int64))

    @functools.cached_property
    def targets(self) -> npt.NDArray[Any]:
        """(examples,) int64, UNLABELLED where there is none; or where several may hold (examples, classes) float32."""
        return self._targets(np.arange(len(self)))

    @functools.cached_property
    def class_counts(self) -> Indices:
        """(classes,) how many examples have each of them."""
        labels, _ = self._stored.read(self._stored.labels, "label_end", self._at(np.arange(len(self))))
        return np.bincount(labels, minlength=len(self.labels)).astype(np.int64)

    def row_id(self, row: int) -> str:
        """The id of the example with index `row`."""
        return self.ids([row])[0]

    def ids(self, rows: npt.ArrayLike) -> list[str]:
        """The ids of the examples with these indices."""
        names, sizes = self._stored.read(self._stored.names, "name_end", self._at(rows))
        ends = np.cumsum(sizes).tolist()
        text = names.tobytes()
        return [text[first:last].decode("utf-8") for first, last in itertools.pairwise([0, *ends])]

    def take(self, indices: npt.ArrayLike) -> ExampleRows:
        """A view of the examples with these indices, in that order; one may come several times."""
        return ExampleRows(self._stored, self.labels, self._at(indices))

    def pack(self, rows: npt.ArrayLike) -> TaskBatch:
        """Lay the pieces of these examples end to end, in that order. An example is not to come twice in a row."""
        rows = np.asarray(rows, dtype=np.int64)
        pieces, numbers = self._stored.read(self._stored.pieces, "piece_end", self._at(rows))
        lengths = pieces["length"].astype(np.int64)
        tokens = self._stored.tokens.read(pieces["start"], lengths)
        ends = np.cumsum(lengths)
        owners = np.repeat(rows, numbers)
        return TaskBatch(
            input_ids=tokens["id"].astype(np.int64),
            position_ids=np.arange(len(tokens)) - np.repeat(ends - lengths, lengths),
            cu_seqlens=np.concatenate(([0], ends)).astype(np.int32),
            rows=owners,
            documents=owners,
            pieces=(np.arange(len(owners)) - np.repeat(np.cumsum(numbers) - numbers, numbers)).astype(np.int32),
            word_ids=np.zeros(len(tokens), dtype=np.int32),
            token_bytes=np.zeros(len(tokens), dtype=np.int32),
            type_ids=tokens["type"].astype(np.int64),
            targets=self._targets(rows),
        )

    def _at(self, rows: npt.ArrayLike) -> Indices:
        """Where these rows are stored."""
        rows = np.asarray(rows, dtype=np.int64)
        return rows if self._places is None else self._places[rows]

    def _targets(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        labels, counts = self._stored.read(self._stored.labels, "label_end", self._at(rows))
        if self.labels.several:
            targets = np.zeros((len(counts), len(self.labels)), dtype=np.float32)
            targets[np.repeat(np.arange(len(counts)), counts), labels] = 1
            return targets
        single = np.full(len(counts), UNLABELLED, dtype=np.int64)
        single[counts > 0] = labels
        return single


def encode(
    examples: Examples,
    labels: Labels,
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    long_text: LongText,
    progress: Progress | None = None,
) -> ExampleRows:
    """The rows of `examples` under `tokenizer`: from the cache where they are there, else made and cached.

    Args:
        examples: a split, with a key that names its content.
        labels: the classes of the task.
        tokenizer: any fast tokenizer.
        max_length: tokens of a piece at most, special tokens included.
        long_text: what is read of a longer text.
        progress: called with ("tokenising", examples done, examples in all).

    Raises:
        SettingsError: `max_length` leaves no room for text.
        CorpusError: there are no examples, one has a label that is no class, or the rows cannot be written.
    """
    if not len(examples):
        raise CorpusError("there are no examples to read")
    encoder = Encoder.of(tokenizer, labels, max_length=max_length, long_text=long_text)
    key = encoder.key(examples)
    folder = cache_folder("examples") / key
    if not folder.is_dir():

        def waiting() -> None:
            if progress:
                progress("waiting for another run that tokenises the same examples", 0, None)

        with disk_errors("the tokens", folder.parent), alone(folder, waiting):
            if not folder.is_dir():
                _write(folder, encoder, examples, progress)
    return ExampleRows(_Stored.in_folder(folder, key), labels)


def _write(folder: Path, encoder: Encoder, examples: Examples, progress: Progress | None) -> None:
    """Tokenise `examples` into `folder`, or go on where that was stopped."""
    unfinished = unfinished_folder(folder)
    with contextlib.closing(GrowingFiles(unfinished, _FILES)) as files:
        done = _NOTHING | files.facts
        encoded = in_order(encoder.encode, _batches(itertools.islice(examples, done["examples"], None)))
        with contextlib.closing(encoded):
            for number, batch in enumerate(encoded, 1):
                data, done = batch.parts(done)
                files.append(data, done)
                if number % COMMIT_BATCHES == 0:
                    files.commit()
                if progress:
                    progress("tokenising", done["examples"], len(examples))
        files.keep(folder)


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in batches of about BATCH_CHARACTERS."""
    batch: list[Example] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += len(example.text) + len(example.pair or "")
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_EXAMPLES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
