"""The compile table: every kernel, type and config at the models' shapes, for chips that need not be present."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import launches
import machine_code
import peer_kernels
import torch
from cases import MODELS
from machine_code import MachineCode

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
OWN = "domain_ft_kernels"
NOTHING = MachineCode(0, 0, 0, multiplies=False, tensor_core={}, narrow_accesses=0, occupancy=0.0)
"""The properties that are reported for a kernel that does not compile."""


@dataclass(frozen=True)
class Row:
    """A kernel with one config, type and target: the worst over its shapes and options.

    Attributes:
        package: whose kernel it is.
        kernel: op and kernel.
        target, dtype, config: what it was compiled for.
        registers, spills, shared_bytes, narrow_accesses: the maximum.
        tensor_core_ops: the number of tensor-core instructions, the minimum; `instructions` has them by kind.
        occupancy: the minimum.
        programs: how many different programs the row covers.
        breaches: what is wrong, in words.
    """

    package: str
    kernel: str
    target: str
    dtype: str
    config: str
    registers: int
    spills: int
    shared_bytes: int
    tensor_core_ops: int
    narrow_accesses: int
    instructions: dict[str, int]
    occupancy: float
    programs: int
    breaches: list[str]

    @property
    def failed(self) -> bool:
        """Whether a kernel of ours misses a bar; peers' kernels have none."""
        return bool(self.breaches) and self.package == OWN


@dataclass(frozen=True)
class Task:
    """The work of one process: an op of ours or a peer's package, for one target and type."""

    what: str
    target: str
    dtype: str
    models: tuple[str, ...]
    options: bool


def tasks(
    ops: Sequence[str], targets: Sequence[str], dtypes: Sequence[str], models: Sequence[str], *, options: bool
) -> list[Task]:
    """All tasks. With `options`, they also compile options that a training step does not use by default."""
    our_tasks = [
        Task(op, target, dtype, tuple(models), options) for target in targets for dtype in dtypes for op in ops
    ]
    peers = peer_kernels.installed() if "linear_cross_entropy" in ops and "bfloat16" in dtypes else []
    return our_tasks + [
        Task(package, target, "bfloat16", tuple(models), options) for package in peers for target in targets
    ]


def rows(work: Sequence[Task], processes: int) -> Iterator[tuple[Task, list[Row]]]:
    """Each task with its rows, as they complete."""
    if processes == 1:
        yield from ((task, run(task)) for task in work)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_set_up_worker) as pool:
        futures = {pool.submit(run, task): task for task in work}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _set_up_worker() -> None:
    """Use one thread, and discard standard error, since internal compiler errors are pages long."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run(task: Task) -> list[Row]:
    """Compile the kernels of `task`. Returns its rows of the table."""
    codes: dict[tuple[str, str, str], list[MachineCode]] = {}
    failures: dict[tuple[str, str, str], str] = {}
    seen: set[str] = set()
    for package, name, config, kernel, arguments, keywords, options in _launches(task):
        source = machine_code.specialise(kernel, arguments, keywords, options, task.target)
        if source.key() in seen:
            continue
        seen.add(source.key())
        made = codes.setdefault((package, name, config), [])
        try:
            made.append(machine_code.compiled(source))
        except Exception as error:  # report it as a row of the table, and continue
            failures[package, name, config] = f"does not compile: {type(error).__name__}: {error}".splitlines()[0]
    return [_worst(*key, task, made or [NOTHING], failures.get(key)) for key, made in codes.items()]


def _launches(task: Task) -> Iterator[tuple[str, str, str, Any, Sequence[Any], dict[str, Any], dict[str, Any]]]:
    models = [model for model in MODELS if model.name in task.models]
    if task.what not in launches.OPS:
        for model in models:
            for peer in peer_kernels.peer_launches(task.what, model, task.target):
                warps = f"warps={peer.options.get('num_warps', 4)}"
                yield task.what, peer.kernel.__name__, warps, peer.kernel, (), peer.keywords, peer.options
        return
    for model in models:
        for launch in launches.variants(task.what, model, DTYPES[task.dtype], task.target, options=task.options):
            for config in launch.configs:
                options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
                keywords = {**launch.constants, **config.blocks}
                name = f"{task.what}.{launch.kernel.__name__.lstrip('_')}"
                yield OWN, name, str(config), launch.kernel, launch.arguments, keywords, options


def _worst(
    package: str, kernel: str, config: str, task: Task, codes: Sequence[MachineCode], failure: str | None
) -> Row:
    fewest = min(codes, key=lambda code: sum(code.tensor_core.values()))
    worst = dataclasses.replace(
        fewest,
        registers=max(code.registers for code in codes),
        spills=max(code.spills for code in codes),
        shared_bytes=max(code.shared_bytes for code in codes),
        narrow_accesses=max(code.narrow_accesses for code in codes),
        occupancy=min(code.occupancy for code in codes),
    )
    return Row(
        package=package,
        kernel=kernel,
        target=task.target,
        dtype=task.dtype,
        config=config,
        registers=worst.registers,
        spills=worst.spills,
        shared_bytes=worst.shared_bytes,
        tensor_core_ops=sum(worst.tensor_core.values()),
        narrow_accesses=worst.narrow_accesses,
        instructions=worst.tensor_core,
        occupancy=worst.occupancy,
        programs=len(codes),
        breaches=[*([failure] if failure else []), *worst.breaches(task.target)],
    )


def as_dict(row: Row) -> dict[str, Any]:
    """For the JSON."""
    return dataclasses.asdict(row)


def default_processes() -> int:
    """How many processes compile by default: one per core, at most 8."""
    return max(1, min(8, os.cpu_count() or 1))
