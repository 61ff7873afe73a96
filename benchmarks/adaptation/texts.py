"""The texts that models are adapted to: of a field, or general.

Documents that begin with at least half of a test text of a development task are left out.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.duplicates import CONTAINED, Containment, shingles
from domain_ft.corpus.prepared import prepare

FIELDS = ("legal", "medical")
GENERAL = "general"

FILES = {
    "legal": ("legal_dc_code.jsonl.gz",),
    "medical": ("medical_craft.jsonl.gz", "medical_medquad.jsonl.gz"),
    GENERAL: ("general_wikitext2/valid.txt", "general_wikitext2/test.txt"),
}
"""Files in the data folder, read in addition to the field's bundled corpus."""

LONGER = 3
"""The beginning of a document is this many times as long as the test text that it is searched for."""


def write_text(field: str, data: Path | None, test_texts: Iterable[str], path: Path) -> dict[str, int]:
    """Write a field's documents to `path`, one JSON object per line. Returns how many were kept and left out.

    A document that has a test text only further below is kept. Otherwise no licence would be left, since each contains
    a notice, and notices are test texts.
    """
    tests = [normalise(text) for text in test_texts]
    index = Containment.of_documents(shingles(text) for text in tests)
    counts = {"documents": 0, "left_out": 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for text in _documents(field, data):
            normalised = normalise(text)
            found, shares = index.of(shingles(normalised))
            copied = any(_begins_with(normalised, tests[place]) for place in found[shares >= CONTAINED].tolist())
            counts["left_out" if copied else "documents"] += 1
            if not copied:
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return counts


def _begins_with(document: str, test: str) -> bool:
    """Whether the beginning of a document contains half of a test text (of its shingles); both are normalised."""
    wanted = shingles(test)
    found = np.intersect1d(wanted, shingles(document[: len(test) * LONGER]), assume_unique=True)
    return len(found) >= CONTAINED * len(wanted)


def _documents(field: str, data: Path | None) -> Iterator[str]:
    """One document of each source in turn, so that the first documents are not all from one source."""
    sources: list[Iterator[str]] = []
    if field != GENERAL:
        sources.append(document.text for document in prepare(open_corpus(field)).split("train").documents())
    if data:
        sources += [_texts(data / name) for name in FILES[field]]
    for row in itertools.zip_longest(*sources):
        yield from filter(None, row)


def _texts(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":  # WikiText: articles begin with a line "= Title ="
        yield from re.split(r"\n(?= = [^=])", path.read_text(encoding="utf-8"))
        return
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for record in map(json.loads, file):
            yield record["text"] if "text" in record else f"{record['question']}\n\n{record['answer']}"
