"""The command line: values that begin with a dash, and closed pipes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft import checking, cli


def settings_of(*words: str) -> checking.Settings:
    """The settings of a command line."""
    verbs: dict[Callable[..., Any], cli.Verb] = {}
    command, given_, unused, problems = cli._parse(cli._app(verbs), cli._with_dashes(words))
    return cli._settings(verbs[command], given_, unused, problems)


def value(option: str, *words: str) -> Any:
    return settings_of(*words).to_dict()[option]


def test_a_dash_is_standard_input_for_every_verb_that_reads_it() -> None:
    for words in (["--input", "-"], ["--input=-"]):
        assert value("input", "predict", "--model", "m", *words) == "-"
        assert value("input", "generate", "--model", "m", *words) == "-"
        assert value("input", "predict", *words, "--model", "m", "--output", "x") == "-"


@pytest.mark.parametrize("prompt", ["- item", "-x", "-", "-- item", "--- a rule", "-5 degrees", "--1", "-h", "--x y"])
def test_a_prompt_may_begin_with_a_dash(prompt: str) -> None:
    assert value("prompt", "generate", "--model", "m", "--prompt", prompt) == prompt
    assert value("prompt", "generate", f"--prompt={prompt}", "--model", "m") == prompt


@given(st.text())
def test_every_value_with_a_dash_that_is_not_spelled_like_an_option_is_joined_to_its_option(text: str) -> None:
    words = ["generate", "--prompt", text, "--model", "m"]
    joined = cli._with_dashes(words)
    if text.startswith("-") and not cli._OPTION.fullmatch(text) and text != "--":
        assert joined == ["generate", f"--prompt={text}", "--model", "m"]
    else:
        assert joined == words


def test_an_option_is_not_a_value() -> None:
    with pytest.raises(cli.SettingsError, match="--prompt: needs a value"):
        settings_of("generate", "--model", "m", "--prompt", "--system", "Be brief.")
    assert value("prompt", "generate", "--model", "m", "--prompt=--system") == "--system"
    with pytest.raises(cli.SettingsError, match="--input: needs a value"):
        settings_of("predict", "--model", "m", "--input")


def test_numbers_switches_and_files_with_dashes_are_still_read() -> None:
    assert value("seed", "adapt", "--corpus", "c", "--seed", "3", "--no-whole-word") == 3
    with pytest.raises(cli.SettingsError, match="at least 0"):
        settings_of("adapt", "--corpus", "c", "--seed", "-1")
    assert value("data", "data", "check", "-x.jsonl") == "-x.jsonl"
    assert value("data", "data", "check", "x.jsonl", "--json") == "x.jsonl"
    with pytest.raises(cli.SettingsError, match="--rnak"):
        settings_of("adapt", "--corpus", "c", "--rnak", "8")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], TextIO]]:
    """A function that replaces standard output or error by a pipe without a reader."""
    opened: list[TextIO] = []

    def make(name: str) -> TextIO:
        reader, writer = os.pipe()
        os.close(reader)
        stream = io.TextIOWrapper(os.fdopen(writer, "wb"), encoding="utf-8")
        opened.append(stream)
        monkeypatch.setattr(sys, name, stream)
        return stream

    yield make
    for stream in opened:
        stream.close()  # does not fail: the rest is discarded


def run_instead(monkeypatch: pytest.MonkeyPatch, module: str, run: Callable[[Any], Any]) -> None:
    monkeypatch.setattr(f"domain_ft.verbs.{module}.run.run", run)


@pytest.mark.parametrize("module", ["predict", "generate"])
@pytest.mark.parametrize("flush", [False, True])
def test_a_closed_pipe_ends_a_verb_quietly(
    monkeypatch: pytest.MonkeyPatch, unread: Callable[[str], TextIO], capfd: Any, module: str, flush: bool
) -> None:
    def run(_: Any) -> dict[str, Any]:
        for _number in range(100_000):
            sys.stdout.write("a line of output\n")
            if flush:
                sys.stdout.flush()
        return {}

    run_instead(monkeypatch, module, run)
    unread("stdout")
    assert cli.main([module, "--model", "m", "--input", "x"]) == 0
    assert capfd.readouterr().err == "loading m\n"


def test_an_error_without_a_reader_is_still_an_error(unread: Callable[[str], TextIO]) -> None:
    unread("stderr")
    assert cli.main(["predict", "--model", "m"]) == 2


def test_a_broken_pipe_of_our_own_is_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: Any) -> dict[str, Any]:
        raise BrokenPipeError

    run_instead(monkeypatch, "predict", run)
    assert cli.main(["predict", "--model", "m", "--input", "x"]) == 1
    assert "bug in domain-ft" in capsys.readouterr().err
