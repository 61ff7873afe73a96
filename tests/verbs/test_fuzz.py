"""Any options, TOML files and run files: the exit status is 0, 2 or 130, without a traceback or the report of a bug."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
from classify_jobs import settings as classify_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verb_jobs import settings as adapt_settings

from domain_ft import checking, cli

SLACK = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}

# What a user or a script may give where a number, a word or a path is expected.
ODD_TEXT = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        [
            "0",
            "-1",
            "1e308",
            "1" * 40,
            "nan",
            "inf",
            "1e400",
            "0x10",
            "١",
            "true",
            "",
            " ",
            "[1,",
            "~nobody/x",
            "-",
            "..",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**400, "a\0b", -(2**63)]),
)
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replaces the code of every verb, so that only the way from words and files to settings is tested."""
    stub = SimpleNamespace(run=lambda chosen: {"settings": chosen.to_toml() and "ok"})
    monkeypatch.setattr(cli, "importlib", SimpleNamespace(import_module=lambda _name: stub))
    yield


def refused_or_done(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the command line; check its exit status, and that it reports no bug."""
    try:
        status = cli.main(words)
    except SystemExit as leaving:  # --help and --version end like this
        status = leaving.code  # type: ignore[assignment]
    said = capsys.readouterr().err
    assert status in (0, 2, 130, None), (words, said)
    assert "Traceback" not in said, (words, said)
    assert "bug in domain-ft" not in said, (words, said)


@st.composite
def _command(draw: st.DrawFn) -> list[str]:
    verb = draw(st.sampled_from(cli.VERBS))
    flags = [option.flag for option in checking.options(verb.settings)] + ["--set", "--config", "--no-such"]
    words = [*verb.words]
    for _ in range(draw(st.integers(0, 4))):
        flag, value = draw(st.sampled_from(flags)), draw(ODD_TEXT)
        words += draw(st.sampled_from([[flag, value], [f"{flag}={value}"], [flag], [value]]))
    return words


@settings(max_examples=20, **SLACK)
@given(words=_command())
def test_any_options(words: list[str], stubbed: None, capsys: pytest.CaptureFixture[str]) -> None:
    refused_or_done(words, capsys)


@pytest.mark.slow
@settings(max_examples=200, **SLACK)
@given(words=_command())
def test_any_options_with_more_examples(words: list[str], stubbed: None, capsys: pytest.CaptureFixture[str]) -> None:
    refused_or_done(words, capsys)


@st.composite
def _config(draw: st.DrawFn) -> tuple[cli.Verb, bytes]:
    verb = draw(st.sampled_from([verb for verb in cli.VERBS if not verb.passes_on]))
    names = st.sampled_from([option.name for option in checking.options(verb.settings)] + ["provenance", "nonsense"])
    value = st.recursive(
        st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.datetimes()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
    text = tomli_w.dumps(draw(st.dictionaries(names, value, max_size=4))).encode()
    cut = draw(st.integers(0, len(text)))
    return verb, draw(st.sampled_from([text, text[:cut], text[:cut] + b"\xff\x00[[["])) if text else draw(st.binary())


@settings(max_examples=20, **SLACK)
@given(made=_config())
def test_any_toml(
    made: tuple[cli.Verb, bytes], stubbed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, content = made
    (tmp_path / "config.toml").write_bytes(content)
    refused_or_done([*verb.words, "--config", str(tmp_path / "config.toml")], capsys)


# --- The files of a run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of adapt and one of classify, with a file to predict."""
    from domain_ft.verbs.adapt.run import adapt
    from domain_ft.verbs.classify.run import classify

    folder = tmp_path_factory.mktemp("fuzzed")
    adapt(adapt_settings(folder, output=folder / "adapted", max_steps=1))
    classify(classify_settings(folder, output=folder / "classified", max_steps=1, baselines=False, seeds=1))
    (folder / "in.jsonl").write_text('{"text": "No warranty is given."}\n')
    return folder


VERBS_ON_RUNS = {
    "adapted": (
        ("compare", "{run}", "{other}"),
        ("export", "--model", "{run}", "--output", "{new}"),
        ("adapt", "--resume", "--config", "{run}/config.toml", "--output", "{run}"),
        ("generate", "--model", "{run}", "--prompt", "x", "--against", "base"),
    ),
    "classified": (
        ("compare", "{run}", "{other}"),
        ("export", "--model", "{run}", "--output", "{new}"),
        ("predict", "--model", "{run}", "--input", "{folder}/in.jsonl", "--output", "{new}.jsonl"),
        ("evaluate", "--model", "{run}", "--test", "{folder}/in.jsonl"),
    ),
}
FILES = {
    "adapted": ("result.json", "config.toml", "adapter/adapter_config.json", "scores/after-domain.json"),
    "classified": ("result.json", "task.json", "adapter/adapter_config.json", "config.toml"),
}


@st.composite
def _damage(draw: st.DrawFn) -> tuple[str, tuple[str, ...], str, Any]:
    kind = draw(st.sampled_from(sorted(FILES)))
    verb, file = draw(st.sampled_from(VERBS_ON_RUNS[kind])), draw(st.sampled_from(FILES[kind]))
    how = draw(st.sampled_from(["whole", "value", "value", "value", "gone", "cut", "bytes"]))
    return kind, verb, file, (how, draw(st.integers(0, 10**6)), draw(JSON), draw(st.binary(max_size=20)))


def _damaged(path: Path, damage: tuple[str, int, Any, bytes]) -> None:
    how, place, value, raw = damage
    text = path.read_bytes()
    if how == "bytes" or (how == "whole" and path.suffix == ".toml"):
        path.write_bytes(raw)
    elif how == "cut" or path.suffix == ".toml":
        path.write_bytes(text[: place % len(text)])
    elif how == "whole":
        path.write_text(json.dumps(value))
    else:
        content = json.loads(text)
        key = sorted(content)[place % len(content)]
        if how == "gone":
            del content[key]
        else:
            content[key] = value
        path.write_text(json.dumps(content))


def _try(runs: Path, made: tuple[str, tuple[str, ...], str, Any], folder: Path, capsys: Any) -> None:
    kind, verb, file, damage = made
    shutil.rmtree(folder, ignore_errors=True)
    run = folder / "run"
    shutil.copytree(runs / kind, run)
    if "--resume" in verb:
        (run / "result.json").unlink()
    if (run / file).is_file():
        _damaged(run / file, damage)
    places = {"run": str(run), "other": str(runs / kind), "new": str(folder / "new"), "folder": str(runs)}
    refused_or_done([word.format(**places) for word in verb], capsys)


@pytest.mark.slow
@settings(max_examples=120, **SLACK)
@given(made=_damage())
def test_any_run_file(
    made: tuple[str, tuple[str, ...], str, Any], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _try(runs, made, tmp_path / "tried", capsys)
