"""How much text two prepared corpora share, whatever their names and file formats."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import numpy as np

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.corpus import content_key
from domain_ft.corpus.documents import Document
from domain_ft.corpus.duplicates import CONTAINED, Containment, shingles
from domain_ft.corpus.prepared import PreparedCorpus
from domain_ft.storage import cache_folder, write_json

LOOKED_THROUGH = 5_000_000  # characters of a corpus that are compared: enough to detect shared text


def shared_text(control: PreparedCorpus, corpus: PreparedCorpus) -> float:
    """The share of the control's held-out documents that have half or more of their text in one document of `corpus`.

    About the first `LOOKED_THROUGH` characters of the corpus are compared, its held-out documents first. The result is
    cached.
    """
    if control.key == corpus.key:
        return 1.0
    cached = cache_folder("corpora") / f"overlap-{content_key(control.key, corpus.key, LOOKED_THROUGH)}.json"
    if cached.is_file():
        return float(json.loads(cached.read_text(encoding="utf-8")))
    held_out = [shingles(normalise(document.text)) for document in control.split("evaluation").documents()]
    index = Containment.of_documents(held_out)
    found = np.zeros(len(held_out), dtype=bool)
    for document in _first(corpus):
        owners, shares = index.of(shingles(normalise(document.text)))
        found[owners[shares >= CONTAINED]] = True
    share = float(found.mean())
    write_json(cached, share)
    return share


def _first(corpus: PreparedCorpus) -> Iterator[Document]:
    """Documents of both splits, held-out ones first, until they have `LOOKED_THROUGH` characters."""
    seen = 0
    for document in itertools.chain(corpus.split("evaluation").documents(), corpus.split("train").documents()):
        if seen >= LOOKED_THROUGH:
            return
        seen += len(document.text)
        yield document
