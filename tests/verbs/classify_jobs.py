"""A small classification for the verbs: texts of a few classes that a tiny model learns in seconds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from tiny_models import save_tiny

from domain_ft.randomness import generator
from domain_ft.verbs.classify.settings import ClassifySettings

TELLING = {
    "notice": ["licence", "copyright", "notice", "granted"],
    "findings": ["patient", "lesion", "heart", "liver"],
    "ruling": ["court", "decide", "parties", "contract"],
}
"""The words that tell a class."""

COMMON = ["the", "of", "a", "in", "is", "and", "with", "shall", "not", "has"]


def records(count: int, seed: int = 0, classes: tuple[str, ...] = tuple(TELLING)) -> list[dict[str, str]]:
    """`count` records with the classes in turn; no two texts are equal."""
    made = []
    for index in range(count):
        draw = generator(seed, "record", index)
        label = classes[index % len(classes)]
        words = [*draw.choice(TELLING[label], 8), draw.choice(COMMON), str(index)]
        made.append({"id": f"r{seed}-{index}", "text": " ".join(draw.permutation(words)), "label": label})
    return made


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write `rows` as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write `rows` as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(tmp_path: Path, architecture: str = "bert", **changes: Any) -> ClassifySettings:
    """A run of seconds that trains all weights of a tiny model on 150 texts of three classes."""
    model, train = tmp_path / architecture, tmp_path / "letters.csv"
    if not model.is_dir():
        save_tiny(architecture, model)
    if not train.is_file():
        write_csv(train, records(150))
    values: dict[str, Any] = {
        "train": str(train),
        "id_field": "id",
        "model": str(model),
        "output": tmp_path / "run",
        "method": "full",
        "max_steps": 100,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "evaluate_every": 25,
        "max_length": 32,
        "dtype": "float32",
        "baselines": False,
        "quiet": True,
    }
    if changes.keys() & {"max_tokens", "epochs"}:
        del values["max_steps"]
    return ClassifySettings(**{**values, **changes})
