"""Small but real inputs for the verbs: a tiny model, a corpus of a few dozen documents, and a control corpus."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny

from domain_ft.randomness import generator
from domain_ft.training import loop
from domain_ft.verbs.adapt.settings import AdaptSettings

LEGAL = (
    "The licensee may copy and distribute the work under the terms of this agreement.",
    "No warranty is given, and the licensor is not liable for damages of any kind.",
    "This licence ends when its conditions are not met by the holder of the licence.",
    "Redistribution in source form must keep the notice of the copyright holder.",
    "The court shall decide where the parties to the contract do not agree.",
)
MEDICAL = (
    "The patient has a lesion of the liver with increased size of the spleen.",
    "An abnormal rhythm of the heart was seen on examination of the chest.",
    "Hearing loss is present in both ears since the first year of life.",
    "The skin shows patches of reduced pigment on the trunk and the limbs.",
)


def texts(sentences: tuple[str, ...], count: int, name: str) -> list[str]:
    """`count` documents of a few sentences each, with random words in each so that none is a copy of another."""
    documents = []
    for index in range(count):
        draw = generator(0, name, index)
        chosen = [sentences[i] for i in draw.integers(len(sentences), size=int(draw.integers(2, 5)))]
        own = " ".join("".join(draw.choice(list("abcdefgh"), 6)) for _ in range(60))
        documents.append(f"{' '.join(chosen)} Annex {index}: {own}.")
    return documents


def write_corpus(path: Path, sentences: tuple[str, ...] = LEGAL, count: int = 60) -> Path:
    """Write a JSONL file of documents."""
    lines = (json.dumps({"id": i, "text": text}) for i, text in enumerate(texts(sentences, count, path.stem)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def settings(tmp_path: Path, architecture: str = "bert", **changes: Any) -> AdaptSettings:
    """The settings of a run that takes seconds: a tiny model, a few steps, a control corpus."""
    model, corpus, control = tmp_path / architecture, tmp_path / "contracts.jsonl", tmp_path / "findings.jsonl"
    if not model.is_dir():
        save_tiny(architecture, model)
    if not corpus.is_file():
        write_corpus(corpus)
        write_corpus(control, MEDICAL)
    values: dict[str, Any] = {
        "corpus": str(corpus),
        "control": str(control),
        "model": str(model),
        "output": tmp_path / "run",
        "max_steps": 6,
        "tokens_per_step": 400,
        "tokens_per_micro_batch": 400,
        "max_length": 64,
        "evaluation_fraction": 0.2,
        "evaluation_tokens": 1000,
        "learning_rate": 5e-3,
        "rank": 4,
        "checkpoint_every": 2,
        "dtype": "float32",  # tests compare to its rounding
        "quiet": True,
    }
    return AdaptSettings(**{**values, **changes})


@contextlib.contextmanager
def power_cut(monkeypatch: pytest.MonkeyPatch, step: int = 4) -> Iterator[None]:
    """A run inside the block fails at the start of its `step`-th step, counted from 1."""
    take, taken = loop._Trainer.take, 0

    def breaking(self: Any, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == step:
            raise ConnectionError("the power went")
        return take(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(ConnectionError, match="the power went"):
        patch.setattr(loop._Trainer, "take", breaking)
        yield
