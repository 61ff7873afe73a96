"""The command line: words become settings, all mistakes are reported at once, and there are no tracebacks."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import types
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft import cli
from domain_ft.checking import Settings
from domain_ft.errors import CorpusError
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.bench.settings import BenchSettings
from domain_ft.verbs.evaluate.settings import EvaluateSettings

Verb = Callable[[Any], Any]
BENCHMARKS = "kernels, training, memory, corpus, scaling, startup, tasks, adaptation, few-labels"


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Verb], None]:
    """A function that replaces the `run` of a verb."""

    def put(name: str, run: Verb) -> None:
        module = types.ModuleType(f"domain_ft.verbs.{name}")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return put


@pytest.fixture
def settings_of(verb: Callable[[str, Verb], None]) -> Callable[..., Settings]:
    """A function that runs a command line up to the verb, and returns the settings that the verb would get."""

    def run(*words: str) -> Settings:
        seen: list[Settings] = []
        verb(cli._verb_of(words).module, seen.append)  # type: ignore[union-attr]
        assert cli.main(list(words)) == 0
        return seen[0]

    return run


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines of the error message of a command line."""
    assert cli.main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()


# --- From words to settings -------------------------------------------------------------------------------------------


def test_options_become_settings(settings_of: Callable[..., Settings]) -> None:
    words = "adapt --corpus c.jsonl --rank 8 --alpha=3.5 --no-whole-word --rslora --output runs/x --max-tokens 250_000"
    assert settings_of(*words.split(), "--track", "a", "--track", "b") == AdaptSettings(
        corpus="c.jsonl",
        rank=8,
        alpha=3.5,
        whole_word=False,
        rslora=True,
        output=Path("runs/x"),
        max_tokens=250_000,
        track=("a", "b"),
    )


def test_every_setting_has_an_option(settings_of: Callable[..., Settings]) -> None:
    values = {int: "3", float: "0.5", str: "text", Path: "a/b"}
    for option in cli.checking.options(AdaptSettings):
        if option.kind is bool:
            words = [cli._negative(option) if option.default else option.flag]
            expected: Any = not option.default
        else:
            expected = option.choices[-1] if option.choices else option.kind(values[option.kind])
            expected = {"max_length": 8, "encoding": "cp932", "dimensions": "8,16"}.get(option.name, expected)
            words = [option.flag, str(expected)]
            expected = (expected,) if option.many else expected
        corpus = [] if option.name == "corpus" else ["--corpus", "x"]
        assert getattr(settings_of("adapt", *corpus, *words), option.name) == expected


def test_models_can_be_repeated(settings_of: Callable[..., Settings]) -> None:
    chosen = settings_of("evaluate", "--model", "a", "--corpus", "c", "--model", "b")
    assert isinstance(chosen, EvaluateSettings)
    assert chosen.model == ("a", "b")


def test_the_last_value_of_an_option_is_used(settings_of: Callable[..., Settings]) -> None:
    assert settings_of("adapt", "--corpus", "c", "--rank", "4", "--rank=8").to_dict()["rank"] == 8


def test_a_corpus_may_be_given_without_its_option(settings_of: Callable[..., Settings]) -> None:
    assert settings_of("data", "show", "legal") == settings_of("data", "show", "--corpus", "legal")
    assert settings_of("data", "pull", "legal", "minilm").to_dict()["names"] == ["legal", "minilm"]


def test_a_benchmark_gets_its_own_options(settings_of: Callable[..., Settings]) -> None:
    words = ("--compile", "--tokens", "64", "--json")
    assert settings_of("bench", "kernels", *words) == BenchSettings(what="kernels", arguments=words)


def test_later_layers_override_earlier_ones(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(
        'corpus = "a"\nrank = 1\nseed = 1\ndropout = 0.1\nmax_tokens = 7\ntrack = ["x"]\n[provenance]\nt = 1\n'
    )
    second.write_text("seed = 2\ndropout = 0.2\nwarmup = 0.2\n")
    words = ["--config", str(first), "--config", str(second), "--set", "dropout=0.3", "--set", "warmup=0.3"]
    chosen = settings_of("adapt", *words, "--warmup", "0.4", "--epochs", "2")
    assert chosen == AdaptSettings(corpus="a", rank=1, seed=2, dropout=0.3, warmup=0.4, epochs=2, track=("x",))


def test_set_takes_keys_as_options_or_as_in_toml(settings_of: Callable[..., Settings]) -> None:
    words = (
        "--set",
        "corpus=a=b",
        "--set",
        "max-steps=5",
        "--set",
        "train_modules=['cls', 'x']",
        "--set",
        "examples=no",
    )
    chosen = settings_of("adapt", *words)
    assert chosen == AdaptSettings(corpus="a=b", max_steps=5, train_modules=("cls", "x"), examples=False)


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once_with_their_places(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "job.toml"
    config.write_text('schedul = "wsd"\nwarmup = 2\n')
    words = "stray --rnak 8 --method lorra --rank x --epochs --max-tokens 5 --max-steps 3 --dtype float16"
    words += f" --whole-word=maybe --set foo=3 --set rank --config {config}"
    lines = refusal(capsys, "adapt", *words.split())
    assert lines[0] == "error: 13 settings are wrong"
    for part in (
        "--epochs: needs a value",
        "--whole-word=maybe: must be true or false",
        f"{config}, schedul: there is no such setting; did you mean schedule?",
        "--set foo=3: there is no such setting",
        "--set rank: must have the form KEY=VALUE",
        "stray: belongs to no option; did you mean --corpus stray?",
        "--rnak 8: there is no such option; did you mean --rank?",
        "--corpus is required",
        "--method lorra: must be one of lora, dora, full; did you mean lora?",
        "--rank x: must be a whole number",
        f"{config}, warmup = 2: must be at least 0 and below 1",
        "--dtype float16: must be one of auto, float32, bfloat16; did you mean bfloat16?",
        "--max-tokens 5 and --max-steps 3: only one of these can be given",
    ):
        assert any(line.endswith(part) for line in lines), (part, lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("adpt", "error: domain-ft has no verb 'adpt'"),
        ("data lst", "error: domain-ft data has no verb 'lst'"),
        ("--corpus legal adapt", "error: --corpus: a verb must come first"),
        ("data --json list", "error: --json: a verb must come first"),
        ("adapt --corpus", "error: --corpus: needs a value"),
        ("adapt --corpus --rank 8", "error: --corpus: needs a value"),
        ("adapt --corpus legal --no-resume", "error: --no-resume: there is no such option; did you mean --resume?"),
        ("adapt --corpus legal -r 8", "error: -r 8: there is no such option; see domain-ft adapt --help"),
        ("adapt --corpus legal --config no.toml", "error: no.toml: cannot be read: No such file or directory"),
        ("adapt --corpus=", "error: --corpus '': must not be empty"),
        (
            "bench speed",
            f"error: speed: must be one of {BENCHMARKS}",
        ),
    ],
)
def test_one_mistake_is_one_message(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert refusal(capsys, *words.split())[0] == message


def test_missing_options_are_reported_with_the_other_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line[5:] for line in refusal(capsys, "evaluate", "--seed", "-1")[1:]] == [
        "--model is required",
        "--seed -1: must be at least 0",
    ]


def test_the_nearest_verb_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'adapt'?" in refusal(capsys, "adpt")[1]


VOCABULARY = [
    *(option.flag for option in cli.checking.options(AdaptSettings)),
    *("--no-whole-word", "--no-rank", "--config", "--set", "--json=x", "--rank=", "--=", "-", "--", "-rx", "-1", "x=y"),
    *("adapt", "data", "[b]", "", "legal", "8", "nan", "None", "é", "{}", "[", "a\\b", "'", "@file"),
]


@pytest.mark.slow
@given(words=st.lists(st.sampled_from(VOCABULARY), max_size=8), verb=st.sampled_from(cli.VERBS))
def test_no_command_line_causes_a_traceback(words: list[str], verb: cli.Verb) -> None:
    module = types.SimpleNamespace(run=lambda _: {})
    names = {f"domain_ft.verbs.{verb.module}": module for verb in cli.VERBS}
    with (
        unittest.mock.patch.dict(sys.modules, names),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        status = cli.main([*verb.words, *words])
    assert status in (0, 2), error.getvalue()


# --- Exit status and output -------------------------------------------------------------------------------------------


def failing(error: BaseException) -> Verb:
    def run(_: Any) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            CorpusError("no text", where="a.jsonl, line 3", fix="name [another] file"),
            2,
            "error: no text\n  where: a.jsonl, l",
        ),
        (KeyboardInterrupt(), 130, "interrupted: by ctrl-C or SIGTERM"),
        (KeyboardInterrupt("checkpoint at step 50"), 130, "interrupted: checkpoint at step 50"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "error: /x/y cannot be written: No space left"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            2,
            "error: /x/y cannot be opened: Permission denied\n  where: /x/y\n  do:    get permission",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x/y"), 2, "error: /x/y cannot be opened: Is a directory"),
        (RuntimeError("I/O error: File too large (os error 27)"), 2, "error: a file cannot be written: File too large"),
        (ZeroDivisionError("x / 0"), 1, "error: this is a bug in domain-ft: ZeroDivisionError: x / 0\n  do:"),
        (FileNotFoundError(errno.ENOENT, "gone", "/x"), 1, "error: this is a bug in domain-ft: FileNotFoundError"),
        (BrokenPipeError(), 1, "error: this is a bug in domain-ft: BrokenPipeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("debug", [False, True])
def test_exit_status(
    verb: Callable[[str, Verb], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
    debug: bool,
) -> None:
    verb("adapt.run", failing(error))
    assert cli.main(["adapt", "--corpus", "x", *(["--debug"] if debug else [])]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("Traceback" in captured.err) == (debug and status != 130)
    assert (message.removesuffix("\n  do:") if debug else message) in captured.err


def test_user_text_in_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "adapt", "--corpus", "x", "--rank", "[bold]8[/]")[0].startswith(
        "error: --rank '[bold]8[/]':"
    )


def test_json_is_the_only_standard_output(
    verb: Callable[[str, Verb], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Any) -> dict[str, Any]:
        print("a library chatters")
        return {"after": {"loss": 1.5}, "name": "ü"}

    verb("adapt.run", run)
    assert cli.main(["adapt", "--corpus", "x", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"after": {"loss": 1.5}, "name": "ü"}
    assert captured.err == "loading minilm\na library chatters\n"


def test_only_one_of_several_processes_prints(
    verb: Callable[[str, Verb], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    verb("adapt.run", lambda _: {})
    assert cli.main(["adapt", "--corpus", "x", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_messages_wrap_under_their_first_word() -> None:
    text = "error: 2 settings are wrong\n  1. " + "word " * 30 + "\n  where: /a/path-that-is-" + "long" * 30
    wrapped = cli._wrap(text, 80).splitlines()
    assert wrapped[1].startswith("  1. word")
    assert wrapped[2].startswith("     word")
    assert all(len(line) <= 80 for line in wrapped[:-1])
    assert "/a/path-that-is-" + "long" * 30 in wrapped[-1]


def command(*words: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "domain_ft", *words], text=True, stderr=subprocess.PIPE, **options)


def test_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with command("--help", stdout=writing) as process:
        os.close(writing)
        _, error = process.communicate()
    assert (process.returncode, error) == (0, "")


def test_the_module_runs_as_a_program() -> None:
    with command("adapt", stdout=subprocess.PIPE) as process:
        out, error = process.communicate()
    assert (process.returncode, out, error) == (2, "", "error: --corpus is required\n")


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], *([*v.words, "--help"] for v in cli.VERBS)])
def test_help_fits_80_columns(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80


def test_help_lists_every_option_under_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["adapt", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in cli.checking.options(AdaptSettings):
        assert f"{option.flag} " in shown
        assert f"─ {option.group} ─" in shown


def test_pydantic_does_not_validate_values_if_it_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    """cyclopts validates values with pydantic if it is loaded; ours stay raw until all are checked together."""
    pytest.importorskip("pydantic")
    assert cli.main(["adapt", "--corpus", "legal", "--rank", "eight", "--train-modules", "a", "--no-examples"]) == 2
    assert capfd.readouterr().err == "error: --rank eight: must be a whole number\n"


def test_the_model_is_named_before_it_is_loaded(capsys: pytest.CaptureFixture[str], verb: Any) -> None:
    """Importing torch and reading weights takes seconds to a minute; the screen must not be blank meanwhile."""
    seen: list[str] = []

    def see(_settings: Any) -> dict[str, Any]:
        seen.append(capsys.readouterr().err)
        return {}

    verb("adapt.run", see)
    assert cli.main(["adapt", "--corpus", "legal", "--model", "some/\x1b[31mmodel"]) == 0
    assert seen == ["loading some/\\x1b[31mmodel\n"]
    verb("evaluate.run", see)
    assert cli.main(["evaluate", "--model", "a", "--model", "b", "--corpus", "legal"]) == 0
    assert seen[1] == "loading a, b\n"
    verb("adapt.run", see)
    assert cli.main(["adapt", "--corpus", "legal", "--quiet"]) == 0
    assert seen[2] == ""


def test_a_message_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["adapt", "--corpus", "no\x1b[2Jfile.txt", "--rank", "x"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_former_option_works_and_its_new_name_is_shown(
    settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    old = "--tokens-per-pass"
    settings: Any = settings_of("adapt", "--corpus", "c", old, "64")
    assert settings.tokens_per_micro_batch == 64
    assert f"note: {old} is now --tokens-per-micro-batch" in capsys.readouterr().err
    settings = settings_of("adapt", "--corpus", "c", f"{old}=32")
    assert settings.tokens_per_micro_batch == 32
