"""The texts of a labelled task without their labels, and more texts of its kind, for pretraining before the task.

labelled examples, unlabelled corpus -> texts, each once, without those that hold a test text -> JSON lines
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from domain_ft.corpus.cleaning import clean, normalise
from domain_ft.corpus.corpus import Corpus, open_corpus
from domain_ft.corpus.duplicates import CONTAINED, Containment, shingles
from domain_ft.corpus.examples import Example, Examples
from domain_ft.corpus.left_out import LeftOut, fields_read
from domain_ft.corpus.prepared import overlaps_of_texts
from domain_ft.corpus.readers.base import OnBadRecord, Reject, Seen, join_names
from domain_ft.corpus.workers import in_order
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder

LEARNED = ("train", "validation")
"""The splits whose texts are read."""

_BATCH = 1_000_000  # characters compared with the test texts at a time


@dataclass(frozen=True)
class Unlabelled:
    """A corpus of unlabelled texts of the same kind as those of a task.

    Attributes:
        corpus: found, but not read yet.
        given: how the user named it, for messages.
    """

    corpus: Corpus
    given: str


@dataclass
class Gathered:
    """What was gathered: numbers of texts, and what was read of the unlabelled corpus.

    Attributes:
        labelled: the number of texts of training and validation examples.
        unlabelled: the number of texts from the unlabelled corpus.
        copies: the number of texts that were left out as exact copies of an earlier text.
        left_out: the number of texts of the unlabelled corpus that were left out because they hold half or more of a
            text of a test example.
        digest: the SHA-256 of the file, in hexadecimal.
        unread: what was not read of the unlabelled corpus.
        rejects: records of the unlabelled corpus that could not be read or were empty.
        notes: how the unlabelled corpus was read, in sentences.
    """

    labelled: int = 0
    unlabelled: int = 0
    copies: int = 0
    left_out: int = 0
    digest: str = ""
    unread: LeftOut = field(default_factory=LeftOut)
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def texts(self) -> int:
        """The number of all texts that were gathered."""
        return self.labelled + self.unlabelled


def open_unlabelled(
    spec: str, fields: Sequence[str], *, on_bad_record: OnBadRecord = "stop", encoding: str | None = None
) -> Unlabelled:
    """Find a corpus of unlabelled texts.

    If the first record has all `fields`, their texts are joined. If it has only the first of them, that field is read.
    Otherwise, the field is detected as in any corpus.

    Args:
        spec: as for `open_corpus`.
        fields: the examples' fields of the text and, for pairs, of the second text; empty if examples have no fields.
        on_bad_record, encoding: as for `open_corpus`.

    Raises:
        CorpusError, SettingsError: as for `open_corpus`.
    """
    corpus = open_corpus(spec, on_bad_record=on_bad_record, encoding=encoding)
    if any(source.kind != "asset" for source in corpus.recipe.sources):
        for names in dict.fromkeys((tuple(fields), tuple(fields[:1]))):
            if names and _has_fields(spec, join_names(names), encoding):
                corpus = open_corpus(spec, text_field=join_names(names), on_bad_record=on_bad_record, encoding=encoding)
                break
    return Unlabelled(corpus, spec)


def _has_fields(spec: str, text_field: str, encoding: str | None) -> bool:
    """Whether the first record of a corpus can be read from these fields, separated by commas."""
    try:
        return next(open_corpus(spec, text_field=text_field, encoding=encoding).documents(), None) is not None
    except CorpusError:
        return False


def gather_texts(
    splits: Mapping[str, Examples],
    unlabelled: Unlabelled | None = None,
    *,
    into: Path | None,
    progress: Progress | None = None,
) -> Gathered:
    """Write the texts of training and validation examples and of the unlabelled corpus, each text once, as JSON lines.

    Both texts of a pair are written, each on its own. As everywhere, texts that differ only in case, white space and
    Unicode form are exact copies. A text of the unlabelled corpus is left out if it holds half or more of a text of a
    test example (`CONTAINED`). So copies and near copies of test texts are left out too.

    Args:
        splits: the examples by split; nothing of `test` is written.
        unlabelled: more texts.
        into: the file to write; None to write nothing, for processes that only need the counts.
        progress: called with (label, done, total or None).

    Raises:
        CorpusError: a record of the unlabelled corpus cannot be read, none of its texts may be read, or fewer than two
            texts are left in all.
    """
    gathering = _Gathering(progress)
    if into is None:
        gathering.run(splits, unlabelled, None)
    else:
        with into.open("wb") as file:
            gathering.run(splits, unlabelled, file)
            file.flush()
            os.fsync(file.fileno())
    return gathering.found


class _Gathering:
    """One call of `gather_texts`."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress: Progress = progress or (lambda _label, _done, _total: None)
        self.found = Gathered()
        self.seen: set[bytes] = set()  # 16 bytes for each text
        self.hash = hashlib.sha256()

    def run(self, splits: Mapping[str, Examples], unlabelled: Unlabelled | None, file: IO[bytes] | None) -> None:
        """Write all texts to `file`, and count them."""
        for name, text in _labelled(splits):
            self.found.labelled += self._write(name, text, _digest(text), file)
        if unlabelled is not None:
            self._add(unlabelled, splits["test"], file)
        self.found.digest = self.hash.hexdigest()
        if self.found.texts < 2:
            raise CorpusError(
                "there is only one text to read before the task: the others are copies of it or empty",
                fix="add more texts with --unlabelled F, or leave --read-first out",
            )

    def _add(self, unlabelled: Unlabelled, test: Examples, file: IO[bytes] | None) -> None:
        """Add the texts of the unlabelled corpus."""
        found, seen, empty, copies = self.found, Seen(), 0, self.found.copies
        with tempfile.TemporaryDirectory(prefix="test-texts-", dir=cache_folder("tasks")) as place:
            probes = (shingles(normalise(text)) for example in test for text in _texts_of(example))
            Containment.of_documents(probes).save(Path(place))
            examined = in_order(
                functools.partial(_examine, Path(place)),
                self._batches(unlabelled.corpus, seen),
                work="reads the unlabelled texts",
            )
            for batch in examined:
                for one in batch:
                    if not one.digest:
                        empty += 1
                        found.rejects.append(Reject(one.source, None, None, f"{one.name}: {_EMPTY}"))
                    elif one.holds_test_text:
                        found.left_out += 1
                    else:
                        found.unlabelled += self._write(f"unlabelled:{one.name}", one.text, one.digest, file)
        found.notes = [f"unlabelled texts: {sentence}" for sentence in fields_read(seen.text_fields())]
        files = [*seen.left_out.files, *unlabelled.corpus.unread_files()]
        found.unread = LeftOut(len(found.rejects), Counter(seen.left_out.fields), files)
        if not found.unlabelled and found.copies == copies:
            raise self._nothing_read(unlabelled.given, empty)

    def _nothing_read(self, given: str, empty: int) -> CorpusError:
        """The error about an unlabelled corpus from which no text is read."""
        reasons = {
            "could not be read": len(self.found.rejects) - empty,
            "were empty": empty,
            "hold the text of a test example": self.found.left_out,
        }
        counts = "; ".join(f"{count:,} {what}" for what, count in reasons.items() if count)
        return CorpusError(
            f"--unlabelled {given} has no text that can be read" + (f" ({counts})" if counts else ""),
            where=given,
            fix="give a file or folder with other texts of the same kind, or leave the option out",
        )

    def _batches(self, corpus: Corpus, seen: Seen) -> Iterator[list[_Given]]:
        """The documents of the corpus in batches of about `_BATCH` characters."""
        label = f"reading {corpus.name}"
        batch: list[_Given] = []
        number = waiting = 0
        for number, document in enumerate(corpus.documents(self.found.rejects.append, self.progress, seen), 1):
            batch.append(_Given(document.id, document.source, document.text))
            waiting += len(document.text)
            if number % 100 == 0:
                self.progress(label, number, None)
            if waiting >= _BATCH:
                yield batch
                batch, waiting = [], 0
        if batch:
            yield batch
        self.progress(label, number, number)

    def _write(self, name: str, text: str, digest: bytes, file: IO[bytes] | None) -> bool:
        """Write a text unless it is empty or was written before, and return whether it was written."""
        if not digest:
            return False
        if digest in self.seen:
            self.found.copies += 1
            return False
        self.seen.add(digest)
        line = json.dumps({"id": name, "text": text}, ensure_ascii=False).encode("utf-8") + b"\n"
        self.hash.update(line)
        if file is not None:
            file.write(line)
        return True


_EMPTY = "cleaning leaves nothing of the text"


class _Given(NamedTuple):
    """A text of the unlabelled corpus before it is cleaned."""

    name: str
    source: str
    text: str


class _Examined(NamedTuple):
    """A text of the unlabelled corpus, cleaned; the digest is empty if nothing is left of it."""

    name: str
    source: str
    text: str
    digest: bytes
    holds_test_text: bool


def _examine(index: Path, batch: list[_Given]) -> list[_Examined]:
    """Clean texts, and compare them with the test texts, whose index is in the folder `index`. Runs in a worker."""
    texts = [clean(one.text) for one in batch]
    return [
        _Examined(one.name, one.source, text, _digest(text), bool((shares >= CONTAINED).any()))
        for one, text, (_, shares) in zip(batch, texts, overlaps_of_texts(index, texts), strict=True)
    ]


def _labelled(splits: Mapping[str, Examples]) -> Iterator[tuple[str, str]]:
    """(unique name, text) for each text of the training and validation examples."""
    for split in LEARNED:
        for number, example in enumerate(splits[split]):
            for part, text in enumerate(_texts_of(example)):
                yield f"{split}:{number}{':second' if part else ''}", text


def _texts_of(example: Example) -> tuple[str, ...]:
    """The cleaned text of an example, or both texts of a pair."""
    texts = (example.text,) if example.pair is None else (example.text, example.pair)
    return tuple(map(clean, texts))


def _digest(text: str) -> bytes:
    """A hash that is equal for copies; empty for a text that is empty after normalising."""
    normalised = normalise(text)
    return hashlib.blake2b(normalised.encode("utf-8"), digest_size=16).digest() if normalised else b""
