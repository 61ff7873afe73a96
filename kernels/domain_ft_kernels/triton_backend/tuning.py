"""Which of a few configs is fastest here: timed once, remembered on disk by device, shape class and type.

A first run never stalls for long: configs are timed only while this process has spent less than BUDGET_SECONDS on it.
After that, and for kernels that must not run twice, the first config that fits the chip is taken. Another config may
add in another order, so two runs are equal to the last bit where both find the same choices: on one machine, from the
second run on, or with DOMAIN_FT_TUNE=0, which times nothing.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import triton

BUDGET_SECONDS = 30.0
"""Seconds that a process may spend on timing (and compiling) configs, over all kernels and shapes."""

REPEATS = 5
"""Timed runs of a config; the median counts."""


class Candidate(Protocol):
    """A config, by whose text the choice is remembered."""

    def __str__(self) -> str: ...


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Key:
    """What a choice holds for.

    Attributes:
        kernel: its module and name.
        device: where it runs.
        dtype: of the operands.
        shape: the `classes` of sizes that the choice depends on.
        constants: the kernel's constexpr parameters beside the tile sizes, and their values.
    """

    kernel: str
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    constants: tuple[tuple[str, Any], ...]

    def text(self) -> str:
        """As the file has it: the same on every machine with such a device."""
        constants = ", ".join(f"{name}={value}" for name, value in sorted(self.constants))
        name = torch.cuda.get_device_name(self.device)
        return " | ".join(map(str, (name, triton.__version__, self.kernel, self.dtype, self.shape, constants)))


def classes(shape: Iterable[int]) -> tuple[int, ...]:
    """Sizes that share a choice: rounded up to powers of two."""
    return tuple(1 << max(0, size - 1).bit_length() for size in shape)


_chosen: dict[Key, Any] = {}
_spent = 0.0


def run_best(
    key: Key,
    configs: Callable[[], Sequence[C]],
    run: Callable[[C], None],
    *,
    repeatable: bool,
    too_large: type[Exception],
) -> None:
    """Call `run` with one of `configs` for `key`: the one remembered, else the fastest, else the first that fits.

    Raises:
        Exception: `too_large`, where no config fits the chip's shared memory.
    """
    if key in _chosen:  # every launch but the first of its kind: nothing else may cost time here
        run(_chosen[key])
        return
    name = _stored().get(key.text())
    ordered = sorted(configs(), key=lambda config: str(config) != name)  # stable: the remembered one first
    if name is None and repeatable and len(ordered) > 1 and _may_tune():
        ordered = _by_time(ordered, run, key.device, too_large) or ordered
        _store(key.text(), str(ordered[0]))
    for position, config in enumerate(ordered):
        try:
            run(config)
        except too_large:
            if position + 1 == len(ordered):
                raise
            continue
        _chosen[key] = config
        return


def cache_file() -> Path:
    """Where choices are kept: $DOMAIN_FT_CACHE, else the user's cache folder."""
    root = os.environ.get("DOMAIN_FT_CACHE")
    if root is None:
        root = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "domain-ft")
    return Path(root) / "kernels" / "tuning.json"


def forget() -> None:
    """Drop what this process remembers, the file aside."""
    global _spent
    _chosen.clear()
    _stored.cache_clear()
    _spent = 0.0


def _may_tune() -> bool:
    wanted = os.environ.get("DOMAIN_FT_TUNE", "1") != "0"
    return wanted and _spent < BUDGET_SECONDS and not torch.cuda.is_current_stream_capturing()


def _by_time(
    configs: Sequence[C], run: Callable[[C], None], device: torch.device, too_large: type[Exception]
) -> list[C]:
    """Those of `configs` that fit and were reached within the budget, the fastest first."""
    global _spent
    started = time.monotonic()
    medians: dict[int, float] = {}
    for index, config in enumerate(configs):
        if _spent + time.monotonic() - started > BUDGET_SECONDS:
            break
        try:
            run(config)  # compiles, and warms the caches
        except too_large:
            continue
        events = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
        events[0].record(torch.cuda.current_stream(device))
        for event in events[1:]:
            run(config)
            event.record(torch.cuda.current_stream(device))
        torch.cuda.synchronize(device)
        times = sorted(before.elapsed_time(after) for before, after in itertools.pairwise(events))
        medians[index] = times[len(times) // 2]
    _spent += time.monotonic() - started
    return [configs[index] for index in sorted(medians, key=medians.__getitem__)]


@functools.cache
def _stored() -> dict[str, str]:
    """The file's choices; none where it cannot be read."""
    try:
        choices = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _store(text: str, name: str) -> None:
    """Add a choice to the file, atomically; a folder that cannot be written costs the next run its time, no more."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _stored.cache_clear()
        choices = {**_stored(), text: name}
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(choices, file, indent=1, sort_keys=True)
        Path(file.name).replace(path)
    except OSError:
        return
    finally:
        _stored.cache_clear()
