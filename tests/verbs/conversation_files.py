"""Files of conversations for the tests of the data verbs, and a tiny decoder that reads them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tiny_chats import CHATML, chat_tokenizer
from tiny_models import VOCABULARY, tiny_model

ASKED = "What is the {} of {}, 何ですか 🙂?"


def words(index: int, count: int = 20) -> str:
    """Words that no other index has."""
    draw = random.Random(index)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=7)) for _ in range(count))


def chats(count: int, begin: int = 0, system: str | None = None) -> list[dict[str, Any]]:
    """Records in OpenAI's chat form."""
    first = [{"role": "system", "content": system}] if system else []
    return [
        {
            "messages": [
                *first,
                {"role": "user", "content": ASKED.format(words(i, 8), i)},
                {"role": "assistant", "content": f"It is {words(i + 10_000, 12)}, 番号{i}。"},
            ]
        }
        for i in range(begin, begin + count)
    ]


def alpacas(count: int, begin: int = 0) -> list[dict[str, Any]]:
    """Records in Alpaca's form."""
    return [
        {"instruction": f"Say {words(i, 5)}", "input": words(i + 1, 5), "output": words(i + 20_000, 6)}
        for i in range(begin, begin + count)
    ]


def write(path: Path, records: Iterable[Any]) -> Path:
    """Write records, or finished lines, as JSON lines; compressed if the name ends in .gz."""
    text = "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in records)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(path: Path) -> list[str]:
    """The lines of a file; not `splitlines`, since a text may hold other line separators."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def left_in(folder: Path) -> list[str]:
    """The names of all files in a folder, also of hidden and unfinished ones."""
    return sorted(path.name for path in folder.iterdir())


def save_decoder(folder: Path, template: str | None = CHATML) -> Path:
    """A tiny llama of 512 positions whose tokenizer has a chat template, and pad == eos."""
    tiny_model("llama", vocab_size=VOCABULARY + 16, max_position_embeddings=512).save_pretrained(folder)
    tokenizer = chat_tokenizer(template)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    return folder
