"""A digest of a model's files, to tell whether earlier answers are from the same model.

The digest depends on the names and contents of the files, and on the commit of a model from the hub. It stays the same
if the model's folder is moved, and changes if the model is trained again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from domain_ft.models.probe import HEAD_FOLDER, on_frozen_model
from domain_ft.models.sources import READ_FILES, ModelSource, base_in_run, find, hash_of_file
from domain_ft.models.task_facts import TASK_NAME
from domain_ft.progress import Progress
from domain_ft.storage import user_path


def model_digest(name: str, progress: Progress | None = None) -> str:
    """`sha256:` and a hash of the files of the model `name`: weights, adapters, configuration and tokenizer.

    For a run of `classify` or `tag` the hash also covers the probe and task.json.

    Raises:
        ModelError: there is no such model.
    """
    folder, contents = user_path(name), []
    if (folder / TASK_NAME).is_file():
        contents.append(hash_of_file(folder / TASK_NAME))
    if (folder / HEAD_FOLDER).is_dir():
        contents += _hashes(folder / HEAD_FOLDER, "*")
    if on_frozen_model(folder):
        base = json.loads((folder / HEAD_FOLDER / "head.json").read_text(encoding="utf-8"))["base"]
        contents += _parts(find(base_in_run(folder, base), progress))
    else:
        contents += _parts(find(name, progress))
    return f"sha256:{hashlib.sha256(json.dumps(contents).encode()).hexdigest()}"


def _parts(source: ModelSource) -> Iterator[str]:
    yield source.revision
    for folder in (source.folder, *source.adapters):
        for ending in READ_FILES:
            yield from _hashes(folder, f"*{ending}")
    for adapter in source.adapters:
        yield from _hashes(adapter, "*.safetensors")


def _hashes(folder: Path, pattern: str) -> Iterator[str]:
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            yield f"{path.name} {hash_of_file(path)}"
