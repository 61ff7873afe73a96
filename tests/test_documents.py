"""The commands of README.md and docs/ run as they are printed, on tiny models, tiny files and tiny budgets.

The embedded models and corpora are stand-ins of the same names. Every other command that is not run is named here with
its reason; a command in the documents that is neither run nor named fails the test.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from tiny_models import save_tiny, tiny_tokenizer

from domain_ft.checking import options
from domain_ft.cli import VERBS, Verb, main
from domain_ft.randomness import generator

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/instruct.md", "docs/tasks.md", "docs/scaling.md")
COMMAND = re.compile(r"^ {4}(?:\.venv/bin/)?domain-ft (?P<words>.*)$", re.MULTILINE)

NOT_RUN = {
    "hf:ID": "a hub id of the reader's own, and a model of the hub",
    "$O": "a task of the embedded corpus, of which there is no stand-in",
    "accelerate": "several processes",
}
"""What stands in a command that is not run, and why."""

BUDGET: dict[str, object] = {
    "max_steps": 1,
    "tokens_per_step": 256,
    "tokens_per_pass": 256,
    "max_length": 64,
    "evaluation_tokens": 400,
    "generate_examples": 1,
    "max_new_tokens": 2,
    "resamples": 100,
    "dtype": "float32",
    "control": "none",
}
"""Given to every verb that has such an option, where the command does not give it."""

RUNS = (
    "adapt --corpus legal --output runs/legal-minilm",
    "classify --train mails.csv --output runs/mails-minilm",
)
"""What the documents take for granted: the demo's runs, and the base that a run is compared with."""

NAMES = {"RUN": "runs/medical-smollm2", "my-model": "minilm"}
"""What stands for something of the reader's own; in evaluations of tasks RUN is a run of `classify`."""


def commands() -> list[tuple[str, str]]:
    """(document, words) of every command that a document prints, in order."""
    texts = ((name, (ROOT / name).read_text(encoding="utf-8")) for name in DOCUMENTS)
    return [(name, match["words"]) for name, text in texts for match in COMMAND.finditer(text)]


def verb_of(words: list[str]) -> Verb:
    return next(verb for verb in VERBS if tuple(words[: len(verb.words)]) == verb.words)


def budgeted(words: list[str]) -> list[str]:
    """The words with the budget's options that the verb has and that are not given."""
    verb = verb_of(words)
    known = {option.name: option.flag for option in options(verb.settings)}
    given = {word.partition("=")[0] for word in words}
    more = [f"{known[name]}={value}" for name, value in BUDGET.items() if name in known and known[name] not in given]
    return [*words, *more]


def word(index: int) -> str:
    return "".join(generator(0, "word", index).choice(list("abcdefghijklmnop"), 9))


def lines(path: str, records: list[dict[str, object]]) -> None:
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_files() -> None:
    """The files that the documents name, in the current folder."""
    texts = [" ".join(word(100 * n + i) for i in range(30)) + "." for n in range(60)]
    lines("contracts.jsonl", [{"text": text} for text in texts])
    for folder in ("letters", "texts"):
        Path(folder).mkdir()
        for number, text in enumerate(texts[:30]):
            Path(f"{folder}/{number}.txt").write_text(text, encoding="utf-8")
    rows = "".join(f"{text},{('bill', 'order', 'other')[n % 3]}\n" for n, text in enumerate(texts))
    for name in ("mails.csv", "other.csv"):
        Path(name).write_text(f"text,label\n{rows}", encoding="utf-8")
    for part, first in (("train", 0), ("test", 5000)):
        sentences = (f"{word(first + n)} O\n{word(first + 999 + n)} B-PER\n. O\n" for n in range(40))
        Path(f"{part}.txt").write_text("\n".join(sentences), encoding="utf-8")
    lines("new.jsonl", [{"text": text} for text in texts[:5]])
    chats: list[dict[str, object]] = [
        {
            "messages": [
                {"role": "user", "content": f"What is {word(n)} {word(n + 2000)}?"},
                {"role": "assistant", "content": f"It is {word(n + 4000)}."},
            ]
        }
        for n in range(40)
    ]
    for name in ("questions.jsonl", "mine.jsonl", "general.jsonl"):
        lines(name, chats)
    lines("prompts.jsonl", [{"prompt": f"What is {word(n)}?"} for n in range(3)])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documents name, and stand-ins for the embedded models and corpora."""
    from domain_ft.corpus import corpus, recipes
    from domain_ft.corpus.tasks import sources
    from domain_ft.models import embedded

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    write_files()
    recipe_folder = tmp_path / "recipes"
    recipe_folder.mkdir()
    for number, name in enumerate(("legal", "medical")):
        field = [" ".join(word(20_000 + 9_000 * number + 100 * n + i) for i in range(30)) for n in range(60)]
        lines(str(recipe_folder / f"{name}-text.jsonl"), [{"text": text} for text in field])
        source = f'[[sources]]\nkind = "files"\npath = "{name}-text.jsonl"\n'
        head = f'name = "{name}"\ndescription = "A stand-in."\nlicence = "CC0-1.0"\nlanguage = "en"\n'
        (recipe_folder / f"{name}.toml").write_text(f"{head}\n{source}", encoding="utf-8")
    for room in (corpus, recipes, sources):
        monkeypatch.setattr(room, "recipes_folder", lambda: recipe_folder)
    folders = {"minilm": tmp_path / "models" / "minilm", "smollm2": tmp_path / "models" / "smollm2"}
    save_tiny("bert", folders["minilm"])
    save_tiny("llama", folders["smollm2"])
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.save_pretrained(folders["smollm2"])
    monkeypatch.setattr(embedded, "resolve", lambda name, progress=None: folders[name])
    monkeypatch.setattr(embedded, "provenance", embedded._origin)
    return tmp_path


def as_run(words: str) -> tuple[list[str], str | None]:
    """The words of a command without its comment, and the file of its standard input."""
    parts = shlex.split(words, comments=True)
    stdin = parts[parts.index("<") + 1] if "<" in parts else None
    if "<" in parts:
        parts = parts[: parts.index("<")]
    run = "runs/mails-minilm" if "other.csv" in parts else NAMES["RUN"]
    return [run if part == "RUN" else NAMES.get(part, part) for part in parts], stdin


def test_every_command_names_a_verb_and_options_that_it_has() -> None:
    assert len(commands()) > 25
    for document, words in commands():
        parts, _ = as_run(words)
        verb = verb_of(parts)
        known = {option.flag for option in options(verb.settings)} | {"--help", "--config", "--set", "--debug"}
        given = {part.partition("=")[0] for part in parts if part.startswith("--") and part != "--"}
        assert given <= known, f"{document}: {words}"


@pytest.mark.slow
def test_every_command_runs_as_it_is_printed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failed = []
    for document, words in [*(("this test", run) for run in RUNS), *commands()]:
        if any(mark in words for mark in NOT_RUN):
            continue
        parts, stdin = as_run(words)
        if "--output" in parts and Path(parts[parts.index("--output") + 1]).exists() and document != "this test":
            parts[parts.index("--output") + 1] += "-again"
        said = Path(stdin).read_bytes() if stdin else b"Hello?\n/exit\n"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said), encoding="utf-8"))
        status = main(budgeted(parts))
        if status != 0:
            failed.append(f"{document}: {words.strip()} -> {status}\n{capfd.readouterr().err[-900:]}")
    assert not failed, "\n\n".join(failed)
