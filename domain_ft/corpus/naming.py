"""Names for corpora, tasks and runs, made from a file, folder or id.

name_of("mails.csv") == "mails"; name_of("conll/train.txt") == "conll-train"; name_of("hf:org/news:en") == "news-en"
"""

from __future__ import annotations

import re
from pathlib import Path

from domain_ft.corpus.readers import ENDINGS
from domain_ft.storage import user_path

_TAGGED = (".conll", ".conllu", ".bio", ".iob", ".iob2")
_PACKED = (".gz", ".zst", ".xz", ".bz2")
# File names that say too little without the name of their folder.
_GENERIC = {
    *("train", "training", "test", "testing", "dev", "valid", "validation", "eval", "all", "data", "dataset", "corpus"),
    *("text", "texts", "input", "output", "examples", "records", "file", "files", "model", "adapter", "checkpoint"),
}
# More such names: digits and signs only, one or two characters, and shards such as train-00000-of-00002.
_UNINFORMATIVE = re.compile(r"[\W\d_]*|\w{1,2}|(train|test|validation)?[-_.]?\d+[-_]of[-_]\d+")


def name_of(given: str) -> str:
    """A non-empty name. The name of the folder precedes a generic file name, if the path has a folder.

    Args:
        given: a file, a folder, a recipe (.toml), `hf:ID[:config]`, or a name.
    """
    if given.startswith("hf:"):
        identifier, _, config = given.removeprefix("hf:").partition(":")
        return "-".join(part for part in (Path(identifier).name, config) if part) or "data"
    path = user_path(given)
    if path.name in ("", ".."):  # `.` and `..` get a name when they are resolved
        path = path.resolve()
    name = _without_endings(path.name)
    folder = path.parent.name
    if folder not in ("", "..") and (name.lower() in _GENERIC or _UNINFORMATIVE.fullmatch(name)):
        return f"{folder}-{name}"
    return name or "data"


def _without_endings(name: str) -> str:
    """A file's name without the endings of its compression and its format, unless nothing would be left."""
    bare = name
    for endings in (_PACKED, (*ENDINGS, *_TAGGED, ".toml")):
        found = next((ending for ending in endings if bare.lower().endswith(ending)), None)
        if found and len(bare) > len(found):
            bare = bare[: -len(found)]
    return bare.lstrip(".") or name
