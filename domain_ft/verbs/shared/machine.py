"""Where and how a verb computes: device, precision, kernels and processes."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, LoggerType, gather_object

from domain_ft.errors import SettingsError, nearest
from domain_ft.verbs.groups import MachineOptions
from domain_ft_kernels import resolve_backend
from domain_ft_kernels.products import has_fast_bfloat16

PATIENCE = timedelta(days=30)
"""How long the other processes wait while the main one reads and tokenises a corpus."""


@dataclass(frozen=True)
class Machine:
    """Device, precision and processes, with every `auto` resolved.

    Attributes:
        accelerator: accelerate's view of device, precision and processes.
        dtype: the precision of the computation: `float32` or `bfloat16`.
        kernels: the backend of the fused operations: `reference`, `torch` or `triton`.
        sharded: whether each process keeps only a shard of the trained weights.
    """

    accelerator: Accelerator
    dtype: str
    kernels: str
    sharded: bool = False

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.accelerator.device

    def weights_dtype(self, method: str, train_modules: Sequence[str] = ()) -> torch.dtype:
        """The dtype of the base model's weights: that of the computation if all are frozen, else float32."""
        frozen = method != "full" and not train_modules
        return torch.bfloat16 if self.dtype == "bfloat16" and frozen else torch.float32

    @property
    def processes(self) -> int:
        """The number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return bool(self.accelerator.is_main_process)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process of each node first, so that the others find its caches filled.

        The others wait up to `PATIENCE`, because the default timeout of the process group is only minutes. If nodes
        share a cache, its locks let only one of them fill it. If the block fails, the others are released to fail as
        well.
        """
        if self.processes == 1:
            yield
            return
        patient = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        first = self.accelerator.is_local_main_process
        if not first:
            torch.distributed.barrier(patient)
        try:
            yield
        finally:
            if first:
                torch.distributed.barrier(patient)

    def agree(self, facts: Mapping[str, Any], model: torch.nn.Module) -> None:
        """Check that all processes have the same `facts`, and broadcast the main process's weights.

        Weights can differ in the last bits if each node has fitted its own MLM head.

        Raises:
            SettingsError: some facts differ; the message names them.
        """
        if self.processes == 1:
            return
        everyone: list[Mapping[str, Any]] = gather_object([dict(facts)])
        if differing := [name for name in facts if any(other.get(name) != facts[name] for other in everyone)]:
            raise SettingsError(
                f"the processes of this run do not have the same {', '.join(differing)}",
                fix="start all of them with the same options, the same files and the same version of domain-ft",
            )
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


def forget_earlier_accelerators() -> None:
    """Let the next `Accelerator` of a single process choose its own device and precision.

    accelerate keeps those of the first one in the process, but a second call from Python may need others.
    """
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def choose_machine(
    settings: MachineOptions, *, sharding: str = "none", track: tuple[str, ...] = (), project: Path | None = None
) -> Machine:
    """Resolve `auto` and set accelerate up for this process.

    Args:
        settings: device, precision and kernels.
        sharding: `none` or `full`, as --sharding; `accelerate launch --use_fsdp` implies `full`.
        track: the names of trackers.
        project: the folder for the trackers' files.

    Raises:
        SettingsError: a GPU, backend or tracker that was asked for is not available, or accelerate was launched for
            FSDP version 1.
    """
    sharding = "full" if _launched_for_fsdp() else sharding
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "--device cuda was given, but torch finds no GPU",
            fix="use --device cpu, or install the CUDA build of torch and check with torch.cuda.is_available()",
        )
    _check_trackers(track)
    use_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if use_cpu and not has_fast_bfloat16() else "bfloat16"
    forget_earlier_accelerators()
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision="bf16" if dtype == "bfloat16" else "no",
        log_with=list(track) or None,
        # The models' buffers (positions, rotary tables) never change: there is nothing to broadcast.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        project_dir=str(project) if project else None,
    )
    try:
        kernels = resolve_backend(settings.kernels, accelerator.device)
    except ValueError as error:
        raise SettingsError(f"--kernels {settings.kernels}: {error}", fix="use --kernels auto") from error
    return Machine(accelerator, dtype, kernels, sharded=sharding == "full" and accelerator.num_processes > 1)


def _launched_for_fsdp() -> bool:
    """Whether `accelerate launch` was told to use FSDP. Removes ACCELERATE_USE_FSDP from the environment.

    With that variable, transformers would load empty weights, and accelerate would shard in a way that rounds the loss.
    domain-ft shards the weights itself.

    Raises:
        SettingsError: accelerate was launched for FSDP version 1.
    """
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() not in ("1", "true"):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise SettingsError(
            "accelerate was launched for FSDP version 1, which is not supported",
            fix="accelerate launch --use_fsdp --fsdp_version 2, or torchrun with --sharding full",
        )
    return True


def _check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that are unknown or not installed. accelerate would silently ignore those not installed."""
    known = {str(kind.value) for kind in LoggerType} - {"all"}
    for name in names:
        if name not in known:
            raise SettingsError(f"--track {name}: there is no such tracker", fix=nearest(name, known))
        if LoggerType(name) not in get_available_trackers():
            raise SettingsError(f"--track {name}: the package is not installed", fix=f"pip install {name}")


def is_main_process() -> bool:
    """Whether this process writes and prints: the only one, or rank 0 under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def provenance(machine: Machine) -> dict[str, Any]:
    """What the results depend on besides the settings: versions, machine and kernels."""
    packages = ("domain-ft", "torch", "transformers", "accelerate", "tokenizers", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        if machine.device.type == "cpu"
        else torch.cuda.get_device_name(machine.device),
        "device": machine.device.type,
        "dtype": machine.dtype,
        "kernels": machine.kernels,
        "processes": machine.processes,
        "sharding": "full" if machine.sharded else "none",
    }
