"""Data sets on a hub: the names of their splits, and their rows as flat records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from domain_ft.corpus.corpus import content_key
from domain_ft.storage import cache_folder, write_json

# The usual names of the splits, in folders and on hubs.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with each object replaced by its fields, named like `context.contexts`. Only one level is flattened."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat.update(
            {f"{name}.{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def hub_splits(identifier: str, config: str | None, commit: str | None, content: Any) -> list[str]:
    """The names of a data set's splits. They are cached under a key made of `content`."""
    cached = cache_folder("tasks") / f"{content_key('splits', content)}.json"
    if not cached.is_file():
        from domain_ft.corpus.readers.hub import open_splits  # imports datasets

        write_json(cached, list(open_splits(identifier, config, commit)))
    names: list[str] = json.loads(cached.read_text(encoding="utf-8"))
    return names
