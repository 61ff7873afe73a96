"""Launching of Triton kernels: tile sizes, targets, recording.

`launch` runs every kernel of this package, with a `Config` (tile sizes, warps, stages) that suits the chip and the
shape. Inside `recording(target)` it records the launch instead; the benchmark uses this to compile kernels for chips
that this machine does not have, and to list the launches of an op.

Under Triton's interpreter (TRITON_INTERPRET=1, set before triton is imported) kernels run on CPU tensors, for tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources

from domain_ft_kernels.triton_backend import tuning

INTERPRETER = "interpreter"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942", INTERPRETER)
"""Families of chips that tile sizes are chosen for; `target_of` assigns one to every chip."""

_PROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304, INTERPRETER: 4}
"""Processors of A100, H100, B200 and MI300X, for launches that are only recorded."""


@dataclass(frozen=True)
class Config:
    """Tile sizes by the names of the kernel's parameters, and the numbers of warps and pipeline stages.

    `targets` and `itemsizes` (bytes of an operand's element) say where a config may be used: only where it compiles
    without spilling registers, which `domain-ft bench kernels --compile` checks.
    """

    blocks: dict[str, int]
    num_warps: int = 4
    num_stages: int = 2
    targets: tuple[str, ...] = TARGETS
    itemsizes: tuple[int, ...] = (2, 4)

    def __str__(self) -> str:
        blocks = " ".join(f"{name}={size}" for name, size in self.blocks.items())
        return f"{blocks} warps={self.num_warps} stages={self.num_stages}"


@dataclass(frozen=True)
class Launch:
    """A recorded launch.

    Attributes:
        kernel: the jitted function.
        grid: number of programs in each dimension.
        arguments: the kernel's tensors and numbers, in the order of its parameters.
        constants: the kernel's constexpr parameters by name, including the config's blocks.
        config: the chosen config.
        configs: all configs that it was chosen from.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    config: Config
    configs: tuple[Config, ...]


@dataclass
class _Recorder:
    target: str
    launches: list[Launch] = field(default_factory=list)


_recorder: ContextVar[_Recorder | None] = ContextVar("domain_ft_kernels_recorder", default=None)


_INTERPRETING = bool(triton.knobs.runtime.interpret)  # when the kernels are defined, as triton reads it then


def interpreting() -> bool:
    """Whether kernels run under Triton's interpreter, on CPU tensors."""
    return _INTERPRETING


def target_of(device: torch.device) -> str:
    """The family in TARGETS whose configs are used on `device`."""
    recorder = _recorder.get()
    if recorder is not None:
        return recorder.target
    if device.type != "cuda":
        return INTERPRETER
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


def processors(device: torch.device) -> int:
    """Streaming multiprocessors (compute units) of `device`, which set the number of persistent programs."""
    recorder = _recorder.get()
    if recorder is None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return _PROCESSORS[target_of(device)]


def dot_precision(dtype: torch.dtype, device: torch.device) -> str:
    """tl.dot's `input_precision` for operands of `dtype`: how float32 is multiplied on tensor cores.

    AMD's tensor cores multiply float32 directly. On other chips, three TF32 products are within a few roundings of a
    float32 product. A single TF32 product is used if torch.set_float32_matmul_precision allows it. For two-byte types
    there is no choice.
    """
    target = target_of(device)
    if dtype.itemsize == 2 or target == INTERPRETER:
        return "ieee"
    if torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee" if target == "gfx942" else "tf32x3"


def candidates(configs: Sequence[Config], device: torch.device, dtype: torch.dtype) -> tuple[Config, ...]:
    """Those of `configs` that may run on `device` for operands of `dtype`, in the same order."""
    target = target_of(device)
    return tuple(c for c in configs if target in c.targets and dtype.itemsize in c.itemsizes)


@contextlib.contextmanager
def recording(target: str) -> Iterator[list[Launch]]:
    """Inside the block, launches are not run, but added to the list as for a chip of the family `target`."""
    recorder = _Recorder(target)
    token = _recorder.set(recorder)
    try:
        yield recorder.launches
    finally:
        _recorder.reset(token)


def launch(
    kernel: Any,
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    *arguments: Any,
    configs: Sequence[Config],
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, ...] = (),
    repeatable: bool = True,
    **constants: Any,
) -> None:
    """Run `kernel` on `device`.

    Args:
        grid: computes the number of programs per dimension from the tile sizes; if one is 0, nothing is launched.
        arguments: the kernel's parameters before its constexpr ones, in order.
        configs: the configs to choose from, the best guess first.
        dtype: the type of the operands; the choice of config depends on it.
        shape: sizes that the best config depends on, such as (N, K). They are rounded up to powers of two; the config
            is chosen once for each result.
        repeatable: whether a second run gives the same result, so that configs may be timed. False for a kernel that
            overwrites its input.
        constants: the kernel's other constexpr parameters.
    """
    recorder = _recorder.get()
    if recorder is not None:
        usable = candidates(configs, device, dtype)
        programs = grid(usable[0].blocks)
        blocks = {**constants, **usable[0].blocks}
        recorder.launches.append(Launch(kernel, programs, arguments, blocks, usable[0], usable))
        return

    def run(config: Config) -> None:
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            kernel[grid(config.blocks)](*arguments, **constants, **config.blocks, **options)

    def usable_here() -> tuple[Config, ...]:
        return candidates(configs, device, dtype)

    if 0 in grid(configs[0].blocks):
        return
    if device.type != "cuda":
        run(usable_here()[0])
        return
    name = f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"
    key = tuning.Key(name, device, dtype, tuning.classes(shape), tuple(constants.items()))
    tuning.run_best(key, usable_here, run, repeatable=repeatable, too_large=OutOfResources)
