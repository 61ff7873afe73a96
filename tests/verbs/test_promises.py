"""Runs that are killed, interrupted or out of disk space leave nothing half-written, and resume to the same end."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from classify_jobs import settings as classify_settings
from forked import SERVER
from instruct_jobs import settings as instruct_settings
from safetensors.torch import load_file
from test_tag import settings as tag_settings
from verb_jobs import settings as adapt_settings

pytestmark = pytest.mark.slow

SMALL: dict[str, Callable[[Path], Any]] = {
    "adapt": lambda path: adapt_settings(path, max_steps=6),
    "classify": lambda path: classify_settings(path, max_steps=6, checkpoint_every=2, baselines=False),
    "tag": lambda path: tag_settings(path, max_steps=6, checkpoint_every=2, baselines=False),
    "instruct": lambda path: instruct_settings(path, max_steps=6, checkpoint_every=2, generate_examples=1),
}
TIMED = ("seconds", "memory", "per_second")
"""Parts of the keys of numbers that differ from run to run. A resumed run keeps the size of a micro-batch."""

Fault = Callable[[], None]


def _run(words: list[str], said: Path, fault: Fault | None) -> None:
    """Run a command line and end the process; what it prints goes to the file `said`."""
    from domain_ft import cli

    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if fault:
        fault()
    status = cli.main(words)
    sys.stderr.flush()
    os._exit(status)


def start(words: list[str], said: Path, fault: Fault | None = None) -> BaseProcess:
    process = SERVER.Process(target=_run, args=(words, said, fault))
    process.start()
    return process


def finish(words: list[str], said: Path, fault: Fault | None = None) -> int | None:
    process = start(words, said, fault)
    process.join(120)
    return process.exitcode


def command(verb: str, folder: Path, output: str) -> list[str]:
    """The words of a small run, whose settings are in a TOML file."""
    settings = SMALL[verb](folder)
    config = folder / "config.toml"
    config.write_text(settings.to_toml())
    return [verb, "--config", str(config), "--quiet", "--output", str(folder / output)]


def outcome(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What must not depend on how often a run was stopped: its numbers, and its weights."""

    def untimed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: untimed(one) for key, one in value.items() if not any(word in key for word in TIMED)}
        return value

    weights = {
        file.name: load_file(file) for file in sorted(run.rglob("*.safetensors")) if "checkpoints" not in file.parts
    }
    assert weights
    return untimed(json.loads((run / "result.json").read_text())), {
        f"{name}/{key}": tensor.tolist() for name, tensors in weights.items() for key, tensor in tensors.items()
    }


def check_nothing_is_half_written(run: Path) -> None:
    """Check that each file and folder with the name of something finished is complete."""
    if (run / "result.json").exists():
        json.loads((run / "result.json").read_text())
        assert (run / "report.html").is_file()
    for checkpoint in (run / "checkpoints").glob("step-*"):
        assert (checkpoint / "manifest.json").is_file()


def resumed(words: list[str], run: Path) -> list[str]:
    return [*words, "--resume"] if (run / "config.toml").is_file() else words


@pytest.mark.parametrize("verb", SMALL)
def test_five_kills_at_random_moments_change_nothing(verb: str, tmp_path: Path) -> None:
    said, words = tmp_path / "said.txt", command(verb, tmp_path, "killed")
    whole = command(verb, tmp_path, "whole")
    began = time.monotonic()
    assert finish(whole, said) == 0, said.read_text()
    took = time.monotonic() - began
    chance, run = random.Random(verb), tmp_path / "killed"
    for _ in range(5):
        if (run / "result.json").exists():
            break
        process = start(resumed(words, run), said)
        process.join(chance.uniform(0.1, 1.0) * took)
        process.kill()
        process.join()
        check_nothing_is_half_written(run)
    if not (run / "result.json").exists():
        assert finish(resumed(words, run), said) == 0, said.read_text()
    assert outcome(run) == outcome(tmp_path / "whole")


class KilledBeforeTheResult:
    """Kills the process when all of a run is written but its result.json."""

    def __call__(self) -> None:
        from domain_ft.report.run_folder import RunFolder

        def killed(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        RunFolder.write_result = killed  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    ("verb", "method"),
    [
        ("adapt", "lora"),
        ("adapt", "full"),
        ("instruct", "lora"),
        ("instruct", "full"),
        ("classify", "lora"),
        ("classify", "full"),
        ("classify", "head"),
        ("tag", "full"),
    ],
)
def test_a_run_that_lacks_only_its_result_is_resumed(verb: str, method: str, tmp_path: Path) -> None:
    said, run = tmp_path / "said.txt", tmp_path / "killed"
    whole = [*command(verb, tmp_path, "whole"), "--method", method]
    assert finish(whole, said) == 0, said.read_text()
    words = [*command(verb, tmp_path, "killed"), "--method", method]
    assert finish(words, said, KilledBeforeTheResult()) == -signal.SIGKILL
    assert not (run / "result.json").exists()
    assert finish([*words, "--resume"], said) == 0, said.read_text()
    assert outcome(run) == outcome(tmp_path / "whole")


# --- Signals ----------------------------------------------------------------------------------------------------------

PHASES = {
    "reading": ("domain_ft.verbs.adapt.prepare", "prepare_corpora", 1),
    "tokenising": ("domain_ft.verbs.adapt.prepare", "tokenize", 1),
    "scoring the base": ("domain_ft.verbs.shared.text_runs", "score_held_out", 1),
    "training": ("domain_ft.training.loop", "release_free_memory", 1),
    "scoring after": ("domain_ft.verbs.shared.text_runs", "measure", 2),
    "writing": ("domain_ft.verbs.adapt.run", "_write", 1),
}


class Signalled:
    """Sends this process a signal when a function of a module is called for the n-th time."""

    def __init__(self, place: tuple[str, str, int], number: int) -> None:
        self.place, self.number = place, number

    def __call__(self) -> None:
        import importlib

        if self.number == signal.SIGINT:  # a background job inherits an ignored SIGINT
            signal.signal(signal.SIGINT, signal.default_int_handler)
        module, name, turn = self.place
        there = importlib.import_module(module)
        real, calls = getattr(there, name), 0

        def calling(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == turn:
                os.kill(os.getpid(), self.number)
            return real(*arguments, **named)

        setattr(there, name, calling)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs of `adapt`, and a run that nothing has stopped."""
    folder = tmp_path_factory.mktemp("promises")
    assert finish(command("adapt", folder, "whole"), folder / "said.txt") == 0, (folder / "said.txt").read_text()
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_is_resumed_after_a_signal_in_any_phase(phase: str, number: signal.Signals, whole: Path) -> None:
    name = f"{phase}-{number.name}".replace(" ", "-")
    said, run, words = whole / f"{name}.txt", whole / name, command("adapt", whole, name)
    assert finish(words, said, Signalled(PHASES[phase], number)) == 130, said.read_text()
    assert "interrupted" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert not (run / "result.json").exists()
    check_nothing_is_half_written(run)
    if phase == "training":
        assert any((run / "checkpoints").glob("step-*"))
    assert finish(resumed(words, run), said) == 0, said.read_text()
    assert outcome(run) == outcome(whole / "whole")


# --- A full disk ------------------------------------------------------------------------------------------------------


class Full:
    """A disk that is full from the `turn`-th call of fsync on; the number of calls is written to the file `count`."""

    def __init__(self, turn: int, count: Path) -> None:
        self.turn, self.count = turn, count

    def __call__(self) -> None:
        real, calls = os.fsync, 0

        def flush(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            self.count.write_text(str(calls))
            if calls >= self.turn:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        os.fsync = flush  # type: ignore[assignment]


def test_a_disk_that_fills_at_any_moment_is_reported_and_the_run_can_be_resumed(whole: Path) -> None:
    count, said = whole / "count.txt", whole / "full.txt"
    assert finish(command("adapt", whole, "counted"), said, Full(10**9, count)) == 0
    writes = int(count.read_text())
    assert writes > 20
    for turn in range(1, writes + 1, 5):
        run, words = whole / f"full-{turn}", command("adapt", whole, f"full-{turn}")
        assert finish(words, said, Full(turn, count)) == 2, (turn, said.read_text())
        told = said.read_text()
        for part in ("No space left on device", "free on this disk", "make room"):
            assert part in told, (turn, told)
        assert "Traceback" not in told
        assert not (run / "result.json").exists()
        check_nothing_is_half_written(run)
    assert finish(resumed(words, run), said) == 0, said.read_text()
    assert outcome(run) == outcome(whole / "whole")


def test_two_runs_at_once_do_not_mix(whole: Path) -> None:
    words, run = command("adapt", whole, "shared"), whole / "shared"
    first = start(words, whole / "first.txt")
    while not (run / ".in-use.json").exists():
        assert first.is_alive()
        time.sleep(0.01)
    for more in ([], ["--resume"]):
        assert finish([*words, *more], whole / "second.txt") == 2
        assert f"process {first.pid} on " in (whole / "second.txt").read_text()
    first.join(120)
    assert first.exitcode == 0
    assert outcome(run) == outcome(whole / "whole")
