"""Small real inputs for `prefer`: a tiny decoder with a chat template, and files of pairs and of rated answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from instruct_jobs import TEMPLATE, save_chatty, word
from verb_jobs import MEDICAL, write_corpus

from domain_ft.verbs.prefer.settings import PreferSettings

GOOD = ("It is a licence of the work.", "It is a notice to the court.", "It is a warranty of the licensor.")
BAD = ("No, no, no, no, never!", "Go away, go away!", "Who knows, who cares?")


def question(index: int) -> str:
    """A question about made-up words, so that no two are near copies."""
    return f"What is {word(index)} {word(1000 + index)}?"


def write_pairs(path: Path, count: int = 40) -> Path:
    """Write pairs: a good and a bad answer to each question."""
    lines = [
        json.dumps({"prompt": question(n), "chosen": GOOD[n % len(GOOD)], "rejected": BAD[n % len(BAD)]})
        for n in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_rated(path: Path, count: int = 60) -> Path:
    """Write answers with labels: two good ones for each bad one."""
    lines = [
        json.dumps({"prompt": question(n), "completion": (BAD if n % 3 == 0 else GOOD)[n % 2], "label": n % 3 > 0})
        for n in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def settings(tmp_path: Path, architecture: str = "llama", *, template: bool = True, **changes: Any) -> PreferSettings:
    """The settings of a run of seconds."""
    model, control = tmp_path / architecture, tmp_path / "findings.jsonl"
    if not model.is_dir():
        save_chatty(architecture, model, TEMPLATE if template else None)
    if not control.is_file():
        write_corpus(control, MEDICAL)
    rated = changes.get("loss") == "kto"
    data = tmp_path / ("rated.jsonl" if rated else "pairs.jsonl")
    if not data.is_file():
        (write_rated if rated else write_pairs)(data)
    values: dict[str, Any] = {
        "data": str(data),
        "control": str(control),
        "model": str(model),
        "output": tmp_path / "run",
        "max_steps": 6,
        "tokens_per_step": 800,
        "tokens_per_micro_batch": 400,
        "max_length": 120,
        "test_fraction": 0.2,
        "evaluation_tokens": 2000,
        "generate_examples": 4,
        "max_new_tokens": 8,
        "learning_rate": 5e-3,
        "rank": 4,
        "checkpoint_every": 2,
        "dtype": "float32",  # tests compare to its rounding
        "quiet": True,
    }
    return PreferSettings(**{**values, **changes})
