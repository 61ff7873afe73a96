"""Examples as rows of tokens, the input of a classifier, tokenised once and kept in files.

A row is an example. It has one sequence of tokens, or several if a long text is split into windows (see `encoding`).

Scale: examples are tokenised in batches, on all cores if there are many, and appended to files, from which rows are
read. So texts and tokens are never all in memory. An interrupted run is resumed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.batches import IGNORED, Indices, TaskBatch
from domain_ft.corpus.examples import Example, Examples, Labels
from domain_ft.corpus.growing import GrowingFiles, unfinished_folder
from domain_ft.corpus.stored_rows import RecordFile, Records, RecordsInMemory, StoredRows, cached_rows
from domain_ft.corpus.tasks.encoding import TOKEN, Encoded, Encoder, LongText
from domain_ft.corpus.workers import in_order
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH_CHARACTERS = 1_000_000  # tokenised at once
BATCH_EXAMPLES = 10_000
COMMIT_BATCHES = 64

UNLABELLED = IGNORED
"""The target of an example without a label, such as an input of `predict`."""

# A sequence: where it begins in tokens.bin, and its length. An example: where its sequences end in sequences.bin, its
# labels in labels.bin, and its id in names.txt.
SEQUENCE = np.dtype([("start", "<i8"), ("length", "<i4")])
EXAMPLE = np.dtype([("sequence_end", "<i8"), ("label_end", "<i8"), ("name_end", "<i8")])
_FILES = ("tokens.bin", "sequences.bin", "lengths.bin", "cut.bin", "examples.bin", "labels.bin", "names.txt")
_NOTHING = {"examples": 0, "tokens": 0, "sequences": 0, "labels": 0, "names": 0}


@dataclass(frozen=True)
class _Stored:
    """All encoded examples, in files or in memory."""

    key: str
    lengths: npt.NDArray[np.int32]
    cut: npt.NDArray[np.bool_]
    examples: npt.NDArray[np.void]
    tokens: Records
    sequences: Records
    labels: Records
    names: Records

    @classmethod
    def in_folder(cls, folder: Path, key: str) -> _Stored:
        """The files written by `encode`. Those with a record per example are memory-mapped, others read in parts."""

        def mapped(name: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
            return np.memmap(folder / name, dtype=kind, mode="r")

        return cls(
            key,
            mapped("lengths.bin", "<i4"),
            mapped("cut.bin", np.bool_),
            mapped("examples.bin", EXAMPLE),
            RecordFile(folder / "tokens.bin", TOKEN),
            RecordFile(folder / "sequences.bin", SEQUENCE),
            RecordFile(folder / "labels.bin", np.dtype("<i4")),
            RecordFile(folder / "names.txt", np.dtype(np.uint8)),
        )

    @classmethod
    def in_memory(cls, encoded: Encoded) -> _Stored:
        """One batch, which is not written to files."""
        data, _ = _file_parts(encoded, _NOTHING)
        records = {name: RecordsInMemory(data[f"{name}.bin"]) for name in ("tokens", "sequences", "labels")}
        names = RecordsInMemory(data["names.txt"])
        return cls("", data["lengths.bin"], data["cut.bin"], data["examples.bin"], names=names, **records)

    def read(self, file: Records, field: str, places: Indices) -> tuple[npt.NDArray[Any], Indices]:
        """The records in `file` of the examples with the indices `places`, end to end, and how many each example has.

        `field` is the field of EXAMPLE that says where the records of each example end in this file.
        """
        ends = self.examples[field][places]
        starts = np.where(places > 0, self.examples[field][np.maximum(places - 1, 0)], 0)
        if len(places) and (np.diff(places) == 1).all():  # consecutive, usually a whole split: a single read
            return file.read(starts[:1], ends[-1:] - starts[:1]), ends - starts
        return file.read(starts, ends - starts), ends - starts


class ExampleRows(StoredRows):
    """The examples of a split as rows of tokens. A row is an example, with all its sequences.

    Attributes:
        key: a hash of the content; empty for rows made by `of`.
        labels: the classes of the task.
        lengths: (examples,) int32, tokens of each example in all its sequences, with special tokens.
        cut: (examples,) bool, whether tokens of an example were dropped.
    """

    PER_ROW: ClassVar[tuple[str, ...]] = ("lengths", "cut", "targets")

    def __init__(self, stored: _Stored, labels: Labels) -> None:
        super().__init__(stored.lengths)
        self.key, self.cut, self.labels = stored.key, stored.cut, labels
        self._stored = stored

    @classmethod
    def of(cls, encoder: Encoder, examples: Sequence[Example]) -> ExampleRows:
        """The rows of a few examples, in memory and without a key: for a stream of texts to predict."""
        return cls(_Stored.in_memory(encoder.encode(examples)), encoder.labels)

    @functools.cached_property
    def targets(self) -> npt.NDArray[Any]:
        """(examples,) int64, UNLABELLED if missing; or (examples, classes) float32 for multi-label tasks."""
        return self._targets(np.arange(len(self)))

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
        """A view of the examples with these indices, in that order. Indices may repeat."""
        view = self._view(indices)
        digest = hashlib.blake2b(view._at(np.arange(len(view))).tobytes(), digest_size=16).hexdigest()
        view.key = f"{self._stored.key}-{digest}"
        return view

    def pack(self, rows: npt.ArrayLike) -> TaskBatch:
        """Pack the sequences of these examples end to end, in that order. Equal indices must not be adjacent."""
        rows = np.asarray(rows, dtype=np.int64)
        sequences, numbers = self._stored.read(self._stored.sequences, "sequence_end", self._at(rows))
        lengths = sequences["length"].astype(np.int64)
        tokens = self._stored.tokens.read(sequences["start"], lengths)
        owners = np.repeat(rows, numbers)
        return TaskBatch.of(
            tokens["id"],
            lengths=lengths,
            rows=owners,
            documents=owners,
            sequences=np.arange(len(owners)) - np.repeat(np.cumsum(numbers) - numbers, numbers),
            type_ids=tokens["type"].astype(np.int64),
            targets=self._targets(rows),
        )

    def _targets(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        labels, counts = self._stored.read(self._stored.labels, "label_end", self._at(rows))
        if self.labels.multi_label:
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
    """Tokenise `examples`, or find their rows in the cache.

    Args:
        examples: a split, whose key identifies its content.
        labels: the classes of the task.
        tokenizer: any fast tokenizer.
        max_length: the maximum number of tokens in a sequence, special tokens included.
        long_text: how longer texts are handled.
        progress: called with ("tokenising", examples done, examples in total), and while this process waits.

    Raises:
        SettingsError: `max_length` leaves no room for text.
        CorpusError: there are no examples, a label is not a class, or the rows cannot be written.
    """
    if not len(examples):
        raise CorpusError("there are no examples to read")
    encoder = Encoder.of(tokenizer, labels, max_length=max_length, long_text=long_text)
    key = encoder.key(examples)
    folder = cached_rows(
        "examples", key, lambda folder: _write(folder, encoder, examples, progress), progress, "examples"
    )
    return ExampleRows(_Stored.in_folder(folder, key), labels)


def _write(folder: Path, encoder: Encoder, examples: Examples, progress: Progress | None) -> None:
    """Tokenise `examples` into `folder`, or resume an interrupted run."""
    unfinished = unfinished_folder(folder)
    with contextlib.closing(GrowingFiles(unfinished, _FILES, commit_every=COMMIT_BATCHES)) as files:
        done = _NOTHING | files.facts
        batches = _batches(itertools.islice(examples, done["examples"], None))
        encoded = in_order(encoder.encode, batches, work="tokenises examples", saved=True)
        with contextlib.closing(encoded):
            for batch in encoded:
                data, done = _file_parts(batch, done)
                files.append(data, done)
                if progress:
                    progress("tokenising", done["examples"], len(examples))
        files.keep(folder)


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in batches of about BATCH_CHARACTERS, and at most BATCH_EXAMPLES."""
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


def _file_parts(encoded: Encoded, before: dict[str, int]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, int]]:
    """The data to append to each file, and the counts of all records after that. `before`: the counts before."""
    sequences = np.empty(len(encoded.lengths), dtype=SEQUENCE)
    sequences["start"] = before["tokens"] + np.cumsum(encoded.lengths) - encoded.lengths
    sequences["length"] = encoded.lengths
    examples = np.empty(len(encoded.numbers), dtype=EXAMPLE)
    examples["sequence_end"] = before["sequences"] + np.cumsum(encoded.numbers)
    examples["label_end"] = before["labels"] + np.cumsum(encoded.label_counts)
    examples["name_end"] = before["names"] + np.cumsum([len(name) for name in encoded.names])
    first = np.cumsum(encoded.numbers) - encoded.numbers
    after = {
        "examples": before["examples"] + len(encoded.numbers),
        "tokens": before["tokens"] + len(encoded.tokens),
        "sequences": before["sequences"] + len(encoded.lengths),
        "labels": before["labels"] + len(encoded.labels),
        "names": before["names"] + sum(map(len, encoded.names)),
    }
    data: dict[str, npt.NDArray[Any]] = {
        "tokens.bin": encoded.tokens,
        "sequences.bin": sequences,
        "lengths.bin": np.add.reduceat(encoded.lengths, first).astype("<i4"),
        "cut.bin": encoded.cut,
        "examples.bin": examples,
        "labels.bin": encoded.labels.astype("<i4"),
        "names.txt": np.frombuffer(b"".join(encoded.names), dtype=np.uint8),
    }
    return data, after
