"""A prepared corpus: read, cleaned, deduplicated and split, and cached as Arrow files.

The text is read once, cleaned and signed (MinHash) on all cores, and written to a spool file. About two hundred bytes
a document stay in memory; the signatures, of 512 bytes each, are in a file. Then the documents are grouped and split,
and copied from the spool to `train.arrow` and `evaluation.arrow`. If a run is stopped while it reads, the next call
resumes after the last committed documents. A second call for the same content finds the finished folder. The input is a
`corpus.Corpus`; `tokens` reads the output.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from domain_ft.corpus.cleaning import clean, normalise
from domain_ft.corpus.corpus import Corpus, content_key
from domain_ft.corpus.disk import disk_errors
from domain_ft.corpus.documents import Document
from domain_ft.corpus.duplicates import (
    FAMILY,
    NEAR,
    PERMUTATIONS,
    Containment,
    Shingles,
    Signer,
    connected,
    near_copies,
    shingles,
    similar_pairs,
)
from domain_ft.corpus.growing import GrowingFiles, unfinished_folder
from domain_ft.corpus.left_out import LeftOut, UnreadFile
from domain_ft.corpus.readers.base import Reject, Seen, SourceDocument
from domain_ft.corpus.recipes import Recipe
from domain_ft.corpus.splits import (
    SHORTEST_CUT,
    Bools,
    Integers,
    Overlap,
    cut,
    fitting_groups,
    move_contained,
    sequences,
)
from domain_ft.corpus.splitting import draw_parts, lowest_hashes
from domain_ft.corpus.workers import in_order
from domain_ft.errors import CorpusError, RecordError
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, creation_lock, new_folder, sync_folder, write_json

# Increase this with every change to reading, cleaning, duplicates or splits, so that older cached corpora are not used.
VERSION = 3

Shares = npt.NDArray[np.float64]
# A cleaned document with its digest and signature, both empty if no text is left; or a record that could not be read.
Examined = tuple[SourceDocument | Reject, bytes, bytes]
SplitName = Literal["train", "evaluation"]

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("language", pa.string()),
    ]
)
_ARROW_END = b"ARROW1"
_SPOOLED = ("spool.arrows", "signatures.bin", "digests.bin", "characters.bin", "rejects.jsonl")
_DIGEST = np.dtype([("hash", ">u8"), ("rest", ">u8")])  # of a document's content; the first half is used as its hash
_EXAMINED = 1_000_000  # characters that are cleaned and signed at a time; a batch of an Arrow file has about as many
_COMMIT_BATCHES = 16  # batches between commits, which survive a power cut or a kill
_OPTIMISTIC = "Much of the evaluation text is also in training, so the scores are optimistic."
_SAMPLES, _SAMPLE_CHARACTERS = 3, 200


@dataclass(frozen=True)
class CorpusStatistics:
    """Counts of what was read and kept, as in `statistics.json`.

    Attributes:
        read: documents from the sources.
        kept: documents in training and evaluation together.
        empty: documents without text after cleaning.
        exact_duplicates: documents left out because they equal an earlier one, apart from case, white space and Unicode
            form.
        near_duplicates: documents left out for a similarity of 0.85 or more with an earlier one that is kept.
        groups: groups of similar documents among those kept; each is in one split.
        largest_group: documents in the largest group.
        moved_to_training: documents drawn for evaluation that were moved, because half or more of a document of their
            group is in one training document.
        greatest_overlap: the greatest share of any evaluation document that is in one training document (estimated);
            None if the corpus was too small to keep this share low.
        characters, bytes: of the text kept; bytes as UTF-8.
        train_documents, train_characters, evaluation_documents, evaluation_characters: of each split.
        rejects: records that could not be read and were left out.
        unread_files: files that are not read: `count`, and the first `files` with the reason, as in
            `LeftOut.to_result`.
        text_fields: the fields that texts were read from, as in `Seen.text_fields`; empty for files without fields.
        unread_fields: by field that is not read, the number of records with it.
        languages: documents by language, if the source names it.
        histogram: (from, below, documents) by length in characters; the bounds are the powers of the square root of
            ten, rounded.
        samples: the beginnings of up to three training documents.
        notes: how the split differs from the usual one, in sentences.
    """

    read: int
    kept: int
    empty: int
    exact_duplicates: int
    near_duplicates: int
    groups: int
    largest_group: int
    moved_to_training: int
    greatest_overlap: float | None
    characters: int
    bytes: int
    train_documents: int
    train_characters: int
    evaluation_documents: int
    evaluation_characters: int
    rejects: int
    unread_files: dict[str, Any]
    text_fields: list[dict[str, Any]]
    unread_fields: dict[str, int]
    languages: dict[str, int]
    histogram: list[tuple[int, int, int]]
    samples: list[str]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All statistics, for JSON."""
        return dataclasses.asdict(self)

    @property
    def left_out(self) -> dict[str, Any]:
        """What was not read, with the keys of `LeftOut.to_result`."""
        return {
            "rejected": self.rejects + self.empty,
            "unread_fields": self.unread_fields,
            "unread_files": self.unread_files,
        }


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file, which is not memory-mapped: mapped pages would count as the process's memory."""
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


@dataclass(frozen=True)
class TextSplit:
    """The documents of one split, in an Arrow file of any size.

    Attributes:
        name: `train` or `evaluation`.
        path: the Arrow file.
        key: a hash: equal keys mean equal documents.
    """

    name: str
    path: Path
    key: str

    @cached_property
    def _table(self) -> pa.Table:
        with pa.memory_map(str(self.path)) as source:
            return pa.ipc.open_file(source).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def documents(self) -> Iterator[Document]:
        """The documents in order, streamed from the file."""
        for batch in _batches(self.path):
            columns = [batch.column(name).to_pylist() for name in ("id", "text", "source")]
            yield from itertools.starmap(Document, zip(*columns, strict=True))

    def document(self, index: int) -> Document:
        """Document `index`, counted from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)} in split '{self.name}'")
        return Document(*(self._table.column(name)[index].as_py() for name in ("id", "text", "source")))

    def sizes(self) -> tuple[Integers, Integers]:
        """(documents,) the length of each text in characters, and in bytes of UTF-8."""
        characters, in_bytes = array.array("q"), array.array("q")
        for batch in _batches(self.path):
            texts = batch.column("text")
            characters.extend(pc.utf8_length(texts).to_pylist())
            in_bytes.extend(pc.binary_length(texts).to_pylist())
        return np.array(characters), np.array(in_bytes)

    @property
    def ids(self) -> list[str]:
        """The ids of all documents, in order."""
        names: list[str] = self._table.column("id").to_pylist()
        return names


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus that is ready to be tokenised.

    Attributes:
        name, recipe: of the corpus.
        key: a hash of the content of its sources, how they are read and split, and the version of this code.
        folder: in the cache, with the Arrow files.
        statistics: counts of what was read and kept.
    """

    name: str
    recipe: Recipe
    key: str
    folder: Path
    statistics: CorpusStatistics

    def split(self, name: SplitName) -> TextSplit:
        """The documents of one split."""
        return TextSplit(name, self.folder / f"{name}.arrow", content_key(self.key, name))

    @property
    def rejects_path(self) -> Path | None:
        """The file of the records that were left out, as JSON lines; None if there are none."""
        path = self.folder / "rejects.jsonl"
        return path if path.exists() else None

    def samples(self, n: int = _SAMPLES) -> list[Document]:
        """Up to `n` documents of the training split, evenly spaced."""
        split = self.split("train")
        return [split.document(index) for index in spaced(len(split), n)]


def prepare(corpus: Corpus, *, evaluation_fraction: float = 0.05, progress: Progress | None = None) -> PreparedCorpus:
    """Read and clean a corpus, remove copies and near copies, and split it; or find it in the cache.

    A call that was stopped while reading resumes. If another process prepares the same corpus, this one waits for it.

    Args:
        corpus: what to read.
        evaluation_fraction: about the share of the groups (of similar documents) to hold out, above 0 and below 1.
        progress: called with (label, done, total or None), in documents; in bytes while an asset is fetched.

    Raises:
        CorpusError: something cannot be read, the fraction is out of range, or there is too little text to train on
            one part and evaluate on another.
        AssetError: an asset cannot be fetched.
    """
    if not 0 < evaluation_fraction < 1:
        raise CorpusError(
            f"an evaluation fraction of {evaluation_fraction} leaves nothing on one side",
            fix="give a number above 0 and below 1, such as 0.05",
        )
    key = content_key(
        VERSION, unicodedata.unidata_version, corpus.identity(), corpus.on_bad_record, evaluation_fraction
    )
    folder = cache_folder("corpora") / key
    if not _is_whole(folder):

        def waiting() -> None:
            if progress:
                progress("waiting for another run that prepares the same corpus", 0, None)

        with disk_errors("the prepared corpus", folder.parent), creation_lock(folder, waiting):
            if not _is_whole(folder):
                _make(corpus, folder, evaluation_fraction, progress)
    values = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    values["histogram"] = [tuple(row) for row in values["histogram"]]
    # The unread files of a folder may have changed since. The files that are read are part of the key.
    attachments = values.pop("attachments")
    files = [*corpus.unread_files(), *itertools.starmap(UnreadFile, attachments)]
    values["unread_files"] = LeftOut(files=files).to_result()["unread_files"]
    return PreparedCorpus(corpus.name, corpus.recipe, key, folder, CorpusStatistics(**values))


def _make(corpus: Corpus, folder: Path, fraction: float, progress: Progress | None) -> None:
    """Prepare `corpus` into `folder`. After most errors, what was read is kept, and the next call resumes."""
    shutil.rmtree(folder, ignore_errors=True)
    unfinished = unfinished_folder(folder)
    made = unfinished / "made"
    shutil.rmtree(made, ignore_errors=True)
    try:
        with new_folder(made / folder.name) as fresh:
            _Preparation(corpus, fresh, unfinished, fraction, progress).run()
    except (RecordError, _UnusableError):  # a fixed corpus has another key, so nothing could be resumed
        shutil.rmtree(unfinished)
        raise
    (made / folder.name).rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(unfinished)


class _UnusableError(CorpusError):
    """The corpus has too little text."""


def _is_whole(folder: Path) -> bool:
    """Whether the statistics exist, and both Arrow files have the marker with which a complete file ends."""
    try:
        for name in ("train", "evaluation"):
            with (folder / f"{name}.arrow").open("rb") as file:
                file.seek(-len(_ARROW_END), os.SEEK_END)
                if file.read() != _ARROW_END:
                    return False
    except OSError:
        return False
    return (folder / "statistics.json").is_file()


def spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the indices below `count`, evenly spaced."""
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


@dataclass(frozen=True)
class Split:
    """The division of the kept documents.

    Attributes:
        held_out: (documents,) True for evaluation.
        overlap: (documents,) the greatest share of each held-out document that is in one training document; None if
            this share was not kept low.
        cut: the index among the kept documents of the one that is cut in two; None if there is none.
        parts: the training part and the evaluation part of this document.
    """

    held_out: Bools
    overlap: Shares | None = None
    cut: int | None = None
    parts: tuple[str, str] = ("", "")


class _Preparation:
    """One run of `prepare`. Each array has an entry for every document of the spool, or for every kept one.

    The finished files go to `folder`; the spool and the other files for resuming go to `unfinished`.
    """

    def __init__(
        self, corpus: Corpus, folder: Path, unfinished: Path, fraction: float, progress: Progress | None
    ) -> None:
        self.corpus, self.folder, self.unfinished, self.fraction = corpus, folder, unfinished, fraction
        self.progress: Progress = progress or (lambda _label, _done, _total: None)
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.seen = Seen()

    def run(self) -> None:
        """Write the finished files into the folder."""
        self._read()
        if not (self.unfinished / "digests.bin").stat().st_size:
            raise self._nothing_left()
        hashes = np.fromfile(self.unfinished / "digests.bin", _DIGEST)["hash"].astype(np.uint64)
        characters = np.fromfile(self.unfinished / "characters.bin", np.int64)
        signatures = np.memmap(self.unfinished / "signatures.bin", np.uint32, mode="r").reshape(-1, PERMUTATIONS)
        pairs, similarity = similar_pairs(signatures, FAMILY)
        copies = near_copies(len(hashes), pairs[similarity >= NEAR])
        groups = connected(len(hashes), map(tuple, pairs.tolist()))
        del signatures, pairs, similarity
        kept = np.flatnonzero(~copies)
        with _Spool(self.unfinished / "spool.arrows") as spool:
            sizes = np.bincount(groups, weights=np.where(copies, 0, characters))
            drawn = draw_parts(lowest_hashes(groups, hashes), sizes, [self.fraction])[groups][kept] == 1
            split = Split(*self._keep_apart(spool, kept, groups[kept], drawn))
            self.counts["moved_to_training"] = int(drawn.sum() - split.held_out.sum())
            if not split.held_out.any():
                split = self._hold_out_something(spool, kept, groups[kept], characters[kept], hashes[kept])
            self._write(spool, kept, split)
            self._write_statistics(spool, copies, groups[kept], split)
        if self.counts["rejects"] + self.counts["empty"]:
            shutil.copyfile(self.unfinished / "rejects.jsonl", self.folder / "rejects.jsonl")

    def _read(self) -> None:
        """Spool all documents except empty ones and exact copies, with their signatures. Resumes a stopped run."""
        with contextlib.closing(GrowingFiles(self.unfinished, _SPOOLED, commit_every=_COMMIT_BATCHES)) as files:
            self.counts.update(files.facts)
            seen = {digest.tobytes() for digest in np.fromfile(self.unfinished / "digests.bin", _DIGEST)}
            records = self._records(self.counts["records"])
            examined = in_order(_examine, records, work=f"reads {self.corpus.name}", saved=True)
            with contextlib.closing(examined) as batches:
                for batch in batches:
                    files.append(self._spooled(batch, seen), dict(self.counts))
        self.progress(f"reading {self.corpus.name}", self.counts["read"], self.counts["read"])

    def _records(self, done: int) -> Iterator[list[SourceDocument | Reject]]:
        """The records of the sources after the first `done`, in batches of about `_EXAMINED` characters."""
        label = f"reading {self.corpus.name}"
        batch: list[SourceDocument | Reject] = []  # the sources append rejects to it
        waiting = 0
        for number, document in enumerate(self.corpus.documents(batch.append, self.progress, self.seen), 1):
            batch.append(document)
            if number % 100 == 0:
                self.progress(label, number, None)
            passed = min(done, len(batch))
            del batch[:passed]
            done -= passed
            waiting += len(document.text) if batch else 0
            if waiting >= _EXAMINED:
                yield batch.copy()
                batch.clear()
                waiting = 0
        if batch[done:]:
            yield batch[done:]

    def _spooled(self, batch: list[Examined], seen: set[bytes]) -> dict[str, bytes]:
        """The data that a batch of records adds to the files. Also updates the counts."""
        self.counts["records"] += len(batch)
        rows: list[_Row] = []
        signatures, digests, rejects = [], [], []
        for record, digest, signature in batch:
            if isinstance(record, Reject):
                self.counts["rejects"] += 1
                rejects.append(record)
                continue
            self.counts["read"] += 1
            if not digest:
                self.counts["empty"] += 1
                rejects.append(Reject(record.source, None, None, f"{record.id}: cleaning leaves nothing of the text"))
            elif digest in seen:
                self.counts["exact_duplicates"] += 1
            else:
                seen.add(digest)
                digests.append(digest)
                signatures.append(signature)
                rows.append((record.id, record.text, record.source, record.language))
        lines = [json.dumps(dataclasses.asdict(reject), ensure_ascii=False) + "\n" for reject in rejects]
        return {
            "spool.arrows": _record_batch(rows).serialize().to_pybytes() if rows else b"",
            "signatures.bin": b"".join(signatures),
            "digests.bin": b"".join(digests),
            "characters.bin": np.array([len(text) for _, text, _, _ in rows], dtype=np.int64).tobytes(),
            "rejects.jsonl": "".join(lines).encode("utf-8"),
        }

    def _keep_apart(self, spool: _Spool, kept: Integers, groups: Integers, drawn: Bools) -> tuple[Bools, Shares]:
        """Apply `move_contained` to the kept documents. Returns which are still held out, and their overlap."""
        label = f"comparing the splits of {self.corpus.name}"
        work = f"compares the splits of {self.corpus.name}"

        def texts(documents: Integers) -> Iterator[list[str]]:
            done = 0
            for batch in spool.texts(kept[documents]):
                yield batch
                done += len(batch)
                self.progress(label, done, len(documents))

        def shingles_of(documents: Integers) -> Iterator[Shingles]:
            return itertools.chain.from_iterable(in_order(_shingles_of_texts, texts(documents), work=work))

        with tempfile.TemporaryDirectory(prefix="held-out-", dir=self.folder) as place:

            def overlaps(index: Containment, documents: Integers) -> Iterator[Overlap]:
                index.save(Path(place))
                found = in_order(functools.partial(overlaps_of_texts, Path(place)), texts(documents), work=work)
                return itertools.chain.from_iterable(found)

            return move_contained(drawn, groups, shingles_of, overlaps)

    def _hold_out_something(
        self, spool: _Spool, kept: Integers, groups: Integers, characters: Integers, hashes: npt.NDArray[np.uint64]
    ) -> Split:
        """The split of a corpus from which the usual rules hold out nothing, most often because it is small.

        Holds out the first of these that is possible: a group of fitting size; the end of a long document that
        resembles no other; the smallest group; or, if all documents are alike, single documents. A note says which, and
        warns if the scores will be optimistic.
        """
        for group in fitting_groups(groups, characters, self.fraction):
            held_out, overlap = self._keep_apart(spool, kept, groups, groups == group)
            if held_out.any():
                self.notes.append("The corpus is small: a group of documents was chosen for evaluation by its size.")
                return Split(held_out, overlap)
        sizes = np.bincount(groups)
        singles = np.flatnonzero(sizes[groups] == 1)
        if len(singles):
            longest = int(singles[characters[singles].argmax()])
            parts = cut(
                spool.text(int(kept[longest])), min(0.5, self.fraction * characters.sum() / characters[longest])
            )
            if parts is not None:
                self.notes.append(
                    f"The corpus has too few documents to hold one out: the last {len(parts[1]):,} characters of "
                    f"'{spool.id(int(kept[longest]))}' are the evaluation text, and its beginning is for training."
                )
                return Split(np.zeros(len(kept), bool), cut=longest, parts=parts)
        if len(sizes) > 1:
            smallest = groups == np.bincount(groups, weights=characters).argmin()
            held_out, overlap = self._keep_apart(spool, kept, groups, smallest)
            if held_out.any():
                self.notes.append("The corpus is tiny: its smallest group of documents is the evaluation text.")
                return Split(held_out, overlap)
            self.notes.append(f"The smallest group of documents was held out. {_OPTIMISTIC}")
            return Split(smallest)
        if len(kept) > 1:
            self.notes.append(f"All documents resemble each other: single documents were held out. {_OPTIMISTIC}")
            chosen = np.argsort(hashes, kind="stable")[: max(1, round(self.fraction * len(kept)))]
            return Split(np.isin(np.arange(len(kept)), chosen))
        copies = self.counts["read"] - self.counts["empty"] - len(kept)
        raise _UnusableError(
            f"corpus '{self.corpus.name}' has a single text of {int(characters.sum()):,} characters, too little to "
            "train on one part and evaluate on another"
            + (
                f": the other {copies:,} of the {self.counts['read']:,} documents are copies or near copies of it"
                * bool(copies)
            ),
            fix=f"give at least two different documents, or one of {SHORTEST_CUT:,} characters or more",
        )

    def _write(self, spool: _Spool, kept: Integers, split: Split) -> None:
        for name, wanted in (("train", ~split.held_out), ("evaluation", split.held_out)):
            with _Writer(self.folder / f"{name}.arrow") as writer:
                if name == "train" and split.cut is not None:
                    before, after = kept[: split.cut], kept[split.cut + 1 :]
                    identifier, _, source, language = spool.row(int(kept[split.cut]))
                    writer.copy(spool, before)
                    writer.add([(identifier, split.parts[0], source, language)])
                    writer.copy(spool, after)
                else:
                    writer.copy(spool, kept[wanted])
                if name == "evaluation" and split.cut is not None:
                    identifier, _, source, language = spool.row(int(kept[split.cut]))
                    parts = enumerate(sequences(split.parts[1]), 1)
                    writer.add(
                        [(f"{identifier}#end-{number}", sequence, source, language) for number, sequence in parts]
                    )

    def _write_statistics(self, spool: _Spool, copies: Bools, groups: Integers, split: Split) -> None:
        splits = {name: TextSplit(name, self.folder / f"{name}.arrow", "") for name in ("train", "evaluation")}
        sizes = {name: texts.sizes() for name, texts in splits.items()}
        characters = {name: lengths for name, (lengths, _) in sizes.items()}
        every = np.concatenate(list(characters.values()))
        train = splits["train"]
        statistics = CorpusStatistics(
            read=self.counts["read"],
            kept=int((~copies).sum()),
            empty=self.counts["empty"],
            exact_duplicates=self.counts["exact_duplicates"],
            near_duplicates=int(copies.sum()),
            groups=len(np.unique(groups)),
            largest_group=int(np.bincount(groups).max()),
            moved_to_training=self.counts["moved_to_training"],
            greatest_overlap=None if split.overlap is None else round(float(split.overlap.max()), 4),
            characters=int(every.sum()),
            bytes=sum(int(in_bytes.sum()) for _, in_bytes in sizes.values()),
            train_documents=len(characters["train"]),
            train_characters=int(characters["train"].sum()),
            evaluation_documents=len(characters["evaluation"]),
            evaluation_characters=int(characters["evaluation"].sum()),
            rejects=self.counts["rejects"],
            unread_files={},
            text_fields=self.seen.text_fields(),
            unread_fields=dict(self.seen.left_out.fields.most_common()),
            languages=spool.languages(~copies),
            histogram=_histogram(every),
            samples=[train.document(i).text[:_SAMPLE_CHARACTERS] for i in spaced(len(train), _SAMPLES)],
            notes=self.notes,
        )
        attachments = [[one.file, one.reason] for one in self.seen.left_out.files]
        write_json(self.folder / "statistics.json", statistics.as_dict() | {"attachments": attachments})

    def _nothing_left(self) -> _UnusableError:
        left_out = [
            f"{self.counts[name]:,} {words}"
            for name, words in (("rejects", "could not be read"), ("empty", "were empty"))
            if self.counts[name]
        ]
        reasons: list[str] = []
        with contextlib.suppress(OSError):
            lines = (self.unfinished / "rejects.jsonl").read_text(encoding="utf-8").splitlines()[:3]
            reasons = [f"\n  - {reject['file']}: {reject['reason']}" for reject in map(json.loads, lines)]
        return _UnusableError(
            f"corpus '{self.corpus.name}' has no document that can be used"
            + (f" ({'; '.join(left_out)})" if left_out else "")
            + "".join(reasons),
            where=", ".join(str(s.path or s.id) for s in self.corpus.recipe.sources),
            fix="check that the right files and field are named",
        )


@functools.cache
def _signer() -> Signer:
    return Signer()


def _examine(batch: list[SourceDocument | Reject]) -> list[Examined]:
    """Clean the documents of a batch and compute their signatures, in a worker."""
    return [(record, b"", b"") if isinstance(record, Reject) else _examine_one(record) for record in batch]


def _examine_one(document: SourceDocument) -> Examined:
    document = dataclasses.replace(document, text=clean(document.text))
    normalised = normalise(document.text)
    if not normalised:
        return document, b"", b""
    digest = hashlib.blake2b(normalised.encode(), digest_size=16).digest()
    return document, digest, _signer().sign(shingles(normalised)).tobytes()


def _shingles_of_texts(texts: list[str]) -> list[Shingles]:
    return [shingles(normalise(text)) for text in texts]


_held_out = functools.lru_cache(maxsize=1)(Containment.load)  # loaded once in each worker


def overlaps_of_texts(index: Path, texts: list[str]) -> list[Overlap]:
    """For each text, the held-out documents that it shares shingles with, and the share of each that it contains.

    `index` is the folder with the index of the held-out documents.
    """
    return [_held_out(index).of(hashes) for hashes in _shingles_of_texts(texts)]


_Row = tuple[str, str, str, "str | None"]  # a document in the Arrow files: the fields of `_SCHEMA`


def _record_batch(rows: list[_Row]) -> pa.RecordBatch:
    """Documents as a batch for an Arrow file."""
    columns = [pa.array(column, kind.type) for column, kind in zip(zip(*rows, strict=True), _SCHEMA, strict=True)]
    return pa.record_batch(columns, schema=_SCHEMA)


class _Writer:
    """Writes documents to an Arrow file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Writer:
        self.file = pa.ipc.new_file(str(self.path), _SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, rows: list[_Row]) -> None:
        """Add a few documents."""
        self.file.write_batch(_record_batch(rows))

    def copy(self, spool: _Spool, documents: Integers) -> None:
        """Add these documents of the spool; their indices ascend."""
        for batch in spool.batches(documents):
            self.file.write_batch(batch)


def _messages(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The record batches of a spool, in order."""
    while source.tell() < source.size():
        yield pa.ipc.read_record_batch(pa.ipc.read_message(source), _SCHEMA)


class _Spool:
    """Reads the spool, a file of record batches, by index or in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = pa.memory_map(str(path))
        self.table = pa.Table.from_batches(_messages(self.source), _SCHEMA)

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        del self.table
        self.source.close()

    def id(self, index: int) -> str:
        return str(self.table.column("id")[index].as_py())

    def text(self, index: int) -> str:
        return str(self.table.column("text")[index].as_py())

    def row(self, index: int) -> tuple[str, str, str, str | None]:
        identifier, text, source, language = (self.table.column(name)[index].as_py() for name in _SCHEMA.names)
        return identifier, text, source, language

    def batches(self, documents: Integers) -> Iterator[pa.RecordBatch]:
        """The rows of `documents`, whose indices ascend, from one batch of the file at a time."""
        first = 0
        with pa.OSFile(str(self.path)) as source:  # not memory-mapped, as in `_batches`
            for batch in _messages(source):
                last = first + batch.num_rows
                inside = documents[np.searchsorted(documents, first) : np.searchsorted(documents, last)]
                if len(inside):
                    yield batch.take(pa.array(inside - first))
                first = last

    def texts(self, documents: Integers) -> Iterator[list[str]]:
        """The texts of `documents`, whose indices ascend, in batches."""
        for batch in self.batches(documents):
            yield batch.column("text").to_pylist()

    def languages(self, wanted: Bools) -> dict[str, int]:
        """The number of `wanted` documents in each language that the sources name, sorted by language."""
        counts = self.table.column("language").filter(pa.array(wanted)).drop_null().value_counts().to_pylist()
        return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: str(count["values"]))}


def _histogram(lengths: Integers) -> list[tuple[int, int, int]]:
    """A histogram of lengths with the bounds 1, 3, 10, 32 and so on, from the first non-empty bin to the last."""
    bounds = [round(10 ** (power / 2)) for power in range(25)]
    counts = np.histogram(lengths, bins=bounds)[0]
    used = np.flatnonzero(counts)
    return [(bounds[i], bounds[i + 1], int(counts[i])) for i in range(used[0], used[-1] + 1)]
