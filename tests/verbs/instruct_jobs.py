"""Small real inputs for `instruct`: a tiny decoder with and without a chat template, and a file of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import save_tiny, tiny_tokenizer
from verb_jobs import MEDICAL, write_corpus

from domain_ft.randomness import generator
from domain_ft.verbs.instruct.settings import InstructSettings

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""A chat template whose turns end with the tiny tokenizer's only special token, its end of text."""

ANSWERS = ("It is a licence.", "It is a notice.", "It is a warranty.")


def word(index: int) -> str:
    """A made-up word, so that no two questions are near copies."""
    return "".join(generator(0, "word", index).choice(list("abcdefghijklmnop"), 14))


def write_conversations(path: Path, count: int = 40) -> Path:
    """Write a chat file: questions about made-up words, each with one of three answers."""
    lines = []
    for index in range(count):
        question, answer = f"What is {word(index)} {word(1000 + index)}?", ANSWERS[index % len(ANSWERS)]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def save_chatty(architecture: str, folder: Path, template: str | None = TEMPLATE) -> Path:
    """A tiny decoder whose tokenizer has a chat template, or none."""
    save_tiny(architecture, folder)
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def settings(tmp_path: Path, architecture: str = "llama", *, template: bool = True, **changes: Any) -> InstructSettings:
    """The settings of a run of seconds."""
    model, data, control = tmp_path / architecture, tmp_path / "questions.jsonl", tmp_path / "findings.jsonl"
    if not model.is_dir():
        save_chatty(architecture, model, TEMPLATE if template else None)
    if not data.is_file():
        write_conversations(data)
        write_corpus(control, MEDICAL)
    values: dict[str, Any] = {
        "data": str(data),
        "control": str(control),
        "model": str(model),
        "output": tmp_path / "run",
        "max_steps": 6,
        "tokens_per_step": 400,
        "tokens_per_micro_batch": 400,
        "max_length": 120,
        "test_fraction": 0.2,
        "evaluation_tokens": 1000,
        "generate_examples": 4,
        "max_new_tokens": 12,
        "learning_rate": 5e-3,
        "rank": 4,
        "checkpoint_every": 2,
        "dtype": "float32",  # tests compare to its rounding
        "quiet": True,
    }
    return InstructSettings(**{**values, **changes})
