"""The choice of a config: timed once, remembered on disk, within a time budget; and what `recording` records."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from domain_ft_kernels.triton_backend import launch as launching
from domain_ft_kernels.triton_backend import tuning
from domain_ft_kernels.triton_backend.launch import Config, launch, recording

GPU = torch.device("cuda")
CONSTANTS = (("EVEN", True),)
KEY = tuning.Key("products.multiply", GPU, torch.bfloat16, tuning.classes((768, 3000)), CONSTANTS)


def key_of(kernel: str) -> tuning.Key:
    return dataclasses.replace(KEY, kernel=kernel)


class TooLargeError(Exception):
    """Raised when a config does not fit the chip."""


class FakeGpu:
    """A GPU on which the config `c` takes `milliseconds[c]`; `runs` lists the configs that ran."""

    def __init__(self, milliseconds: dict[str, float]) -> None:
        self.milliseconds, self.clock, self.runs = milliseconds, 0.0, list[str]()

    def run(self, config: str) -> None:
        if config not in self.milliseconds:
            raise TooLargeError
        self.runs.append(config)
        self.clock += self.milliseconds[config]

    def event(self, enable_timing: bool) -> SimpleNamespace:
        event = SimpleNamespace(at=0.0)
        event.record = lambda stream: setattr(event, "at", self.clock)
        event.elapsed_time = lambda other: other.at - event.at
        return event


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """A function: choose(milliseconds, configs, ...) returns the configs that ran, in order."""
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path))
    monkeypatch.delenv("DOMAIN_FT_TUNE", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    tuning.forget()

    def run(
        milliseconds: dict[str, float], configs: str, *, repeatable: bool = True, key: tuning.Key = KEY
    ) -> list[str]:
        gpu = FakeGpu(milliseconds)
        monkeypatch.setattr(torch.cuda, "Event", gpu.event)
        tuning.run_best(key, lambda: list(configs), gpu.run, repeatable=repeatable, too_large=TooLargeError)
        return gpu.runs

    yield run
    tuning.forget()


def test_the_fastest_is_found_once_and_remembered(choose: Callable[..., list[str]]) -> None:
    times = {"a": 3.0, "b": 1.0, "c": 2.0}
    first = choose(times, "abc")
    assert first[-1] == "b"
    assert set(first) == set("abc")
    assert choose(times, "abc") == ["b"]
    tuning.forget()  # like another process, which reads the file
    assert choose(times, "abc") == ["b"]
    (text,) = json.loads(tuning.cache_file().read_text())
    assert "NVIDIA H200" in text
    assert "(1024, 4096)" in text


def test_another_shape_class_is_another_choice(choose: Callable[..., list[str]]) -> None:
    choose({"a": 1.0, "b": 2.0}, "ab")
    same_class = dataclasses.replace(KEY, shape=tuning.classes((700, 2100)))
    assert choose({"a": 2.0, "b": 1.0}, "ab", key=same_class) == ["a"]
    other = dataclasses.replace(KEY, shape=tuning.classes((768, 768)))
    assert choose({"a": 2.0, "b": 1.0}, "ab", key=other)[-1] == "b"


def test_a_config_that_does_not_fit_the_chip_is_skipped(choose: Callable[..., list[str]]) -> None:
    assert choose({"b": 2.0, "c": 3.0}, "abc")[-1] == "b"
    assert choose({"c": 3.0}, "abc", repeatable=False, key=key_of("other")) == ["c"]
    with pytest.raises(TooLargeError):
        choose({}, "abc", key=key_of("third"))


def test_a_kernel_that_must_not_run_twice_runs_once(choose: Callable[..., list[str]]) -> None:
    assert choose({"a": 3.0, "b": 1.0}, "ab", repeatable=False) == ["a"]


def test_no_timing_beyond_the_budget_or_when_disabled(
    choose: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOMAIN_FT_TUNE", "0")
    assert choose({"a": 3.0, "b": 1.0}, "ab") == ["a"]
    monkeypatch.delenv("DOMAIN_FT_TUNE")
    tuning.forget()
    seconds = itertools.count(step=tuning.BUDGET_SECONDS)
    monkeypatch.setattr(tuning.time, "monotonic", lambda: next(seconds))
    assert "b" not in choose({"a": 3.0, "b": 1.0}, "ab")  # timing "a" used up the budget
    other = key_of("other")
    assert choose({"a": 3.0, "b": 1.0}, "ab", key=other) == ["a"]


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_file_is_replaced(choose: Callable[..., list[str]], content: str) -> None:
    path = tuning.cache_file()
    path.parent.mkdir(parents=True)
    path.write_text(content)
    choose({"a": 1.0, "b": 2.0}, "ab")
    assert list(json.loads(path.read_text()).values()) == ["a"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_without_a_writable_folder_the_process_remembers(
    choose: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(blocked))
    assert choose({"a": 2.0, "b": 1.0}, "ab")[-1] == "b"
    assert choose({"a": 2.0, "b": 1.0}, "ab") == ["b"]  # remembered by the process


@triton.jit
def double(x: Any, n: Any, BLOCK: tl.constexpr) -> None:
    """x (n,), doubled in place."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + index, 2 * tl.load(x + index, mask=index < n), mask=index < n)


CONFIGS = (
    Config({"BLOCK": 256}, targets=("sm_90",), itemsizes=(2,)),
    Config({"BLOCK": 128}, targets=("sm_80", "sm_90")),
    Config({"BLOCK": 16}, targets=("interpreter",)),
)


def run_double(x: Tensor) -> None:
    launch(
        double, lambda b: (triton.cdiv(len(x), b["BLOCK"]),), x, len(x), configs=CONFIGS, device=x.device, dtype=x.dtype
    )


def test_the_interpreter_runs_its_own_config() -> None:
    x = torch.arange(40.0)
    run_double(x)
    assert torch.equal(x, 2 * torch.arange(40.0))
    with recording("interpreter") as launches:
        run_double(x)
    assert launches[0].constants == {"BLOCK": 16}


def test_recording_runs_nothing_and_records_the_launch_for_a_chip() -> None:
    x = torch.empty(1000, dtype=torch.bfloat16, device="meta")
    with recording("sm_90") as launches:
        run_double(x)
        assert launching.processors(x.device) == 132
    (noted,) = launches
    assert noted.grid == (4,)
    assert noted.constants == {"BLOCK": 256}
    assert noted.arguments == (x, 1000)
    assert [config.blocks["BLOCK"] for config in noted.configs] == [256, 128]
    with recording("sm_90") as launches:
        run_double(x.float())
    assert launches[0].constants == {"BLOCK": 128}
    with recording("sm_80") as launches:
        pass
    assert launches == []
