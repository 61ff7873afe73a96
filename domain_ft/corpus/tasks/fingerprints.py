"""Fingerprints of labelled examples, by which copies are found: see `near_copies`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from domain_ft.corpus.corpus import content_key
from domain_ft.corpus.duplicates import PERMUTATIONS
from domain_ft.corpus.examples import Example, Examples
from domain_ft.corpus.near_copies import DIGEST, MOST_COMPARED, Fingerprints, signed_batches, text_fingerprints
from domain_ft.corpus.tasks.table import ExampleTable
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, creation_lock, new_folder


def fingerprints(examples: Examples, progress: Progress | None = None) -> Fingerprints:
    """The fingerprints of examples. Those of a table are kept in the cache."""
    if not isinstance(examples, ExampleTable):
        return text_fingerprints(map(content, examples))
    whole = ExampleTable(examples.folder)
    signed = len(whole) <= MOST_COMPARED
    folder = cache_folder("tasks") / content_key("fingerprints", whole.key, signed)
    if not folder.is_dir():
        with creation_lock(folder):
            if not folder.is_dir():
                with new_folder(folder) as fresh:
                    _fingerprint(whole, fresh, signed, progress)
    found = Fingerprints(
        np.fromfile(folder / "digests.bin", DIGEST),
        np.memmap(folder / "signatures.bin", np.uint32, mode="r").reshape(-1, PERMUTATIONS) if signed else None,
    )
    return found if examples.rows is None else found.take(examples.rows)


def labels_of(examples: Examples) -> Iterator[tuple[str, ...]]:
    """The labels of each example. For a table, this reads no texts."""
    return examples.labels() if isinstance(examples, ExampleTable) else (example.labels for example in examples)


def content(example: Example) -> str:
    """All text of an example that a model reads."""
    return example.text if example.pair is None else f"{example.text}\n{example.pair}"


def _fingerprint(table: ExampleTable, folder: Path, signed: bool, progress: Progress | None) -> None:
    done = 0
    with (folder / "digests.bin").open("wb") as digests, (folder / "signatures.bin").open("wb") as signatures:
        for digest, signature in signed_batches(map(content, table), signed=signed):
            digests.write(digest)
            signatures.write(signature)
            done += len(digest) // DIGEST.itemsize
            if progress:
                progress("looking for copies", done, len(table))
