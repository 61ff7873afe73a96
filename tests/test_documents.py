"""Runs the command lines of README.md and docs/ as printed, in order, with tiny models and budgets.

The test fails if a printed command is refused, or names a run that no earlier command has made.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_chats import CHATML
from tiny_examples import WORDS
from tiny_models import save_tiny

from domain_ft import cli
from domain_ft.corpus import recipes
from domain_ft.models import catalogue
from domain_ft.randomness import generator

ROOT = Path(__file__).parent.parent

NOT_RUN = {
    "adapt --corpus hf:ID": "a hub is needed",
    "bench": "minutes of measuring: benchmarks have tests of their own",
}
"""Commands that cannot run here, by their beginning, and why."""

BUDGETS = {
    "adapt": "--max-steps 2 --tokens-per-step 300 --max-length 64 --evaluation-tokens 400 --examples",
    "classify": "--max-steps 2 --max-length 48 --train-sizes 40 --seeds 1 --method lora",
    "--unlabelled": "--read-first-tokens 1000",
    "tag": "--max-steps 2 --max-length 48",
    "instruct": "--max-steps 2 --tokens-per-step 300 --max-length 96 --generate-examples 2 --max-new-tokens 4",
    "prefer": "--max-steps 2 --tokens-per-step 300 --max-length 96 --generate-examples 2 --max-new-tokens 4",
    "generate": "--max-new-tokens 4",
    "evaluate": "",
    "data estimate": "--max-length 64",
}
"""Options that limit a command to seconds, by its verb or by an option that it has.

They are placed before the options of the printed command, which override them.
"""

RUN = {"instruct.md": "runs/questions-medical-smollm2", "tasks.md": "runs/mails-legal-minilm"}
"""The finished run that RUN stands for, by page."""


def commands(page: Path) -> list[str]:
    """The command lines of a page, with continued lines joined and shell variables resolved."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    variables = dict(re.findall(r'^    (\w+)="(.*)"$', text, re.MULTILINE))
    found = []
    for line in re.findall(r"^    (?:\.venv/bin/)?(domain-ft .*|make adapt .*)$", text, re.MULTILINE):
        line = re.sub(r"\$(\w+)", lambda name: variables[name[1]], line)
        line = re.sub(r"\bRUN\b", RUN.get(page.name, "RUN"), line)
        found.append(re.sub(r"^make adapt CORPUS=(\S+)", r"domain-ft adapt --corpus \1", line))
    return found


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def texts(field: str, count: int, seed: int) -> list[str]:
    """`count` texts of a field's words, of which no two are near copies."""
    drawn = []
    for index in range(count):
        draw = generator(seed, field, index)
        words = [*draw.choice(WORDS[field], 25), *("".join(draw.choice(list("abcdefgh"), 6)) for _ in range(25))]
        draw.shuffle(words)
        drawn.append(" ".join(map(str, words)) + ".")
    return drawn


def write_inputs(folder: Path) -> None:
    """Write small files with the names that the pages use."""
    for name, field in (("contracts", "law"), ("legal", "law"), ("medical", "medicine")):
        lines = [json.dumps({"text": f"{text[:20]}\n{text}"}) for text in texts(field, 60, len(name))]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("letters", "texts"):
        (folder / name).mkdir()
        for number, text in enumerate(texts("animals", 40, len(name))):
            (folder / name / f"{number}.txt").write_text(text, encoding="utf-8")
    labelled = [(text, field) for field in WORDS for text in texts(field, 30, 9)]
    for name in ("mails", "other"):
        rows = "".join(f'"{text}",{field}\n' for text, field in labelled)
        (folder / f"{name}.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    (folder / "new.jsonl").write_text("\n".join(json.dumps({"text": text}) for text, _ in labelled[:4]))
    (folder / "prompts.txt").write_text("What is a?\nWhat is b?\n")
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"What is {n}?"}) for n in "ab"))
    tagged = [[f"{word} {'B-Law' if word == 'licence' else 'O'}" for word in text.split()] for text, _ in labelled]
    for name in ("train", "test"):
        part = tagged[0::2] if name == "train" else tagged[1::2]
        (folder / f"{name}.txt").write_text("\n\n".join("\n".join(lines) for lines in part) + "\n", encoding="utf-8")
    asked = [{"question": f"What is {text.split()[0]}, {n}?", "answer": text} for n, (text, _) in enumerate(labelled)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    said = [(one["question"], one["answer"][:40], one["answer"][40:80]) for one in asked]
    pairs = [{"prompt": prompt, "chosen": good, "rejected": bad} for prompt, good, bad in said]
    rated = [{"prompt": p, "completion": (a, b)[n % 2], "label": n % 2 == 0} for n, (p, a, b) in enumerate(said)]
    for name, records in (("pairs", pairs), ("rated", rated)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def write_recipes(folder: Path) -> None:
    """Write recipes in place of the embedded corpora's, under their names, with the task that the README uses."""
    for name, other in (("legal", "medical"), ("medical", "legal")):
        task = (
            f'[[tasks]]\nname = "license-category"\ndescription = "Fields of words."\nkind = "files"\n'
            f'train = "{folder.parent}/mails.csv"\nclasses = 3\nlicence = "none"\nweaknesses = "made up"\n'
        )
        (folder / f"{name}.toml").write_text(
            f'name = "{name}"\ndescription = "Made-up text, beside {other}."\nlicence = "none"\ncitation = "none"\n'
            f'language = "en"\n[[sources]]\nkind = "files"\npath = "{folder.parent}/{name}.jsonl"\n{task}',
            encoding="utf-8",
        )


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the pages' files, in which `minilm`, `smollm2`, `legal` and `medical` are tiny stand-ins."""
    write_inputs(tmp_path)
    models = {"minilm": "bert", "smollm2": "llama", "my-model": "bert"}
    for name, architecture in models.items():
        save_tiny(architecture, tmp_path / name if name == "my-model" else tmp_path / "models" / name)
    settings = tmp_path / "models" / "smollm2" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": CHATML}))
    (tmp_path / "recipes").mkdir()
    write_recipes(tmp_path / "recipes")
    monkeypatch.setattr(recipes, "recipes_folder", lambda: tmp_path / "recipes")
    monkeypatch.setattr("domain_ft.corpus.corpus.recipes_folder", lambda: tmp_path / "recipes")
    monkeypatch.setattr(catalogue, "folder_of", lambda name: tmp_path / "models" / name)
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(line: str) -> tuple[int, str]:
    """The exit status of a command line, and what it printed to standard error."""
    line, _, source = re.sub(r"\s+#.*$", "", line).partition(" < ")
    words = shlex.split(line)[1:]
    verb = " ".join(words[:2]) if words[0] == "data" else words[0]
    place = len(verb.split())
    words[place:place] = [word for part in (verb, *words[place:]) for word in shlex.split(BUDGETS.get(part, ""))]
    errors = io.StringIO()
    typed = Path(source.strip()).read_bytes() if source else b"/exit\n"
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(typed))
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            return cli.main(words), errors.getvalue()
    finally:
        sys.stdin = before


@pytest.mark.slow
def test_the_commands_of_the_pages_run_as_printed(workplace: Path) -> None:
    done: set[str] = set()
    for page in pages():
        Path("answers.jsonl").unlink(missing_ok=True)  # from another page: existing files are refused
        for line in commands(page):
            command = " ".join(re.sub(r"\s+#.*$", "", line).split())
            if command in done or any(command.startswith(f"domain-ft {begins}") for begins in NOT_RUN):
                continue
            done.add(command)
            status, errors = run(line)
            assert status == 0, f"{page.name}: {line}\n{errors}"
            assert "Traceback" not in errors, f"{page.name}: {line}\n{errors}"
    assert len(done) > 30


def test_the_pages_print_commands() -> None:
    assert len(commands(ROOT / "README.md")) > 20
    assert "domain-ft adapt --corpus legal" in commands(ROOT / "README.md")
