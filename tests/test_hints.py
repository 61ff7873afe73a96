"""Hints only name options that the verb has."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import domain_ft
from domain_ft import cli
from domain_ft.errors import RecordError, UserError
from domain_ft.hints import FLAG, fitted, fitting, misplaced

COMMANDS = {" ".join(verb.words): cli._flags(verb) for verb in cli.VERBS}
EVERY = {flag for flags in COMMANDS.values() for flag in flags}
# Options of other programs that are run or named, such as pip, torchrun and qpdf.
FOREIGN = {
    "--dest", "--disable-pip-version-check", "--fsdp", "--ignore-requires-python", "--no-deps", "--no-input",
    "--only-binary", "--quiet", "--use", "--version", "--noent", "--converter", "--decrypt",
}  # fmt: skip


@pytest.mark.parametrize(
    ("fix", "flags", "left"),
    [
        ("fix it; or leave such records out: --on-bad-record skip", ["--input"], "fix it"),
        ("fix it; or leave such records out: --on-bad-record skip", ["--on-bad-record"], None),
        ("name it: --text-field F, or several: --text-field a,b", ["--input"], ""),
        ("give a larger --max-length, or shorter prompts", ["--input"], "shorter prompts"),
        ("run domain-ft data check F --fix OUT", ["--input"], None),
        ("run domain-ft data check F --output OUT", ["--output"], ""),
        ("pip download --no-deps x", [], None),
    ],
)
def test_alternatives_that_the_verb_does_not_offer_are_left_out(fix: str, flags: list[str], left: str | None) -> None:
    """`left` is the rest of the hint: None for all of it, empty for nothing."""
    assert (fitting(fix, flags, COMMANDS) or "") == (fix if left is None else left)


def test_an_error_keeps_its_kind_and_the_rest_of_its_words() -> None:
    with pytest.raises(RecordError) as caught, fitted(["--input"], COMMANDS):
        raise RecordError("broken", where="a.jsonl, line 3", fix="fix it; or leave it out: --on-bad-record skip")
    assert str(caught.value) == "broken\n  where: a.jsonl, line 3\n  do:    fix it"
    with pytest.raises(UserError) as other, fitted(["--input"], COMMANDS):
        raise UserError("broken", fix="give --output F")
    assert str(other.value) == "broken"


def strings(module: ast.Module) -> Iterator[str]:
    """The strings of a module that are not docstrings, f-strings joined."""
    documentation = {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inside = {id(part) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (documentation | inside)
        ):
            yield node.value


def modules() -> list[Path]:
    return sorted(Path(domain_ft.__file__).parent.rglob("*.py"))


def test_every_option_that_is_named_exists() -> None:
    unknown = {
        (path.name, flag)
        for path in modules()
        for text in strings(ast.parse(path.read_text(encoding="utf-8")))
        for flag in FLAG.findall(text)
        if flag not in EVERY | FOREIGN and flag != "--no-0"
    }
    assert unknown == set()


def advice_of(message: str) -> str:
    """The advice of a message."""
    return message.partition("  do:    ")[2]


BAD = {
    "broken.jsonl": '{"text": \n',
    "unclear.jsonl": '{"a": "one", "b": "two"}\n',
    "number.jsonl": '{"text": 3, "prompt": 3, "label": 3}\n',
    "empty.jsonl": "",
    "latin.txt": "caf\udce9\n",
    "chat.jsonl": '{"messages": [{"role": "who", "content": "x"}]}\n',
    "unknown.xyz": "x\n",
}
VERBS = (
    ["data", "check", "FILE"],
    ["data", "check", "FILE", "--kind", "examples"],
    ["data", "split", "FILE", "--output", "out"],
    ["data", "mix", "FILE:1", "FILE:2", "--output", "out.jsonl"],
    ["data", "sample", "FILE", "--model", "nowhere"],
    ["data", "show", "FILE"],
    ["data", "estimate", "FILE", "--model", "nowhere"],
    ["predict", "--model", "nowhere", "--input", "FILE"],
    ["embed", "--model", "nowhere", "--input", "FILE"],
    ["generate", "--model", "nowhere", "--input", "FILE"],
    ["evaluate", "--model", "nowhere", "--corpus", "FILE"],
    ["adapt", "--model", "nowhere", "--corpus", "FILE", "--dry-run"],
    ["classify", "--model", "nowhere", "--train", "FILE", "--dry-run"],
    ["tag", "--model", "nowhere", "--train", "FILE", "--dry-run"],
    ["instruct", "--model", "nowhere", "--data", "FILE", "--dry-run"],
    ["compare", "FILE", "FILE"],
    ["export", "--model", "FILE", "--output", "out"],
)


@pytest.mark.slow
@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_messages_about_bad_files_only_name_options_of_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in BAD.items():
        Path(name).write_bytes(content.encode("utf-8", "surrogateescape"))
    verb = " ".join(words[:2]) if words[0] == "data" else words[0]
    for name in BAD:
        cli.main([word.replace("FILE", name) for word in words])
        advice = advice_of(capsys.readouterr().err)
        assert misplaced(advice, COMMANDS[verb], COMMANDS) == [], advice
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in BAD} == {
        name: content.encode("utf-8", "surrogateescape") for name, content in BAD.items()
    }


def test_the_stream_verbs_do_not_name_options_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from domain_ft.verbs.shared.streams import bad_records

    bad = bad_records(None, advice="have such records listed: --rejects F")
    with pytest.raises(RecordError) as caught:
        bad.add("broken", file="a", line=1)
    assert json.dumps(str(caught.value)).endswith('fix it; or have such records listed: --rejects F"')
    for words in (["predict"], ["embed"], ["generate"]):
        assert misplaced(str(caught.value), COMMANDS[words[0]], COMMANDS) == []
