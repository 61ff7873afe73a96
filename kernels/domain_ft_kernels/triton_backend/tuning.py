"""Choice of the fastest of a few configs: timed once, then remembered on disk for each `Key`.

To limit the delay of a first run, configs are timed only while this process has spent less than BUDGET_SECONDS on it.
After that, and for kernels that must not run twice, the remembered config is used, or without one the first that fits
the chip. Configs may sum in different orders, so two runs are bit-identical only if both use the same configs. They do
on one machine once all choices are remembered, or with DOMAIN_FT_TUNE=0, which disables timing.
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
"""Seconds after which a process times no further config, for all kernels and shapes together."""

REPEATS = 5
"""Timed runs of a config; the median counts."""


class Candidate(Protocol):
    """A config; `str` of it identifies it in the file of choices."""

    def __str__(self) -> str: ...


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Key:
    """What a choice depends on.

    Attributes:
        kernel: the kernel's module and name.
        device: the device that runs the kernel.
        dtype: the type of the operands.
        shape: the relevant sizes, rounded up by `classes`.
        constants: names and values of the kernel's constexpr parameters other than tile sizes.
    """

    kernel: str
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    constants: tuple[tuple[str, Any], ...]

    def text(self) -> str:
        """The key in the file: the same on all machines with this kind of device and version of triton."""
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
    """Call `run` with the remembered config for `key`, else the fastest if it may be timed, else the first that fits.

    Raises:
        Exception: `too_large`, if no config fits the chip's shared memory.
    """
    if key in _chosen:  # the hot path: every launch but the first of its kind
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
    """Forget this process's choices and the time that it spent on timing; the file stays."""
    global _spent
    _chosen.clear()
    _stored.cache_clear()
    _spent = 0.0


def _may_tune() -> bool:
    enabled = os.environ.get("DOMAIN_FT_TUNE", "1") != "0"
    return enabled and _spent < BUDGET_SECONDS and not torch.cuda.is_current_stream_capturing()


def _by_time(
    configs: Sequence[C], run: Callable[[C], None], device: torch.device, too_large: type[Exception]
) -> list[C]:
    """Those of `configs` that fit and were timed within the budget, the fastest first."""
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
    """The choices in the file; none if it cannot be read."""
    try:
        choices = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _store(text: str, name: str) -> None:
    """Add a choice to the file, atomically. If that fails, the next process times the configs again."""
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
