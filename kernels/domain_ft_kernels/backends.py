"""Which backend runs an op, and in which precision: the choices that all ops share.

`reference` is plain PyTorch and defines the op; `torch` is the fast path on a CPU and runs on any device; `triton` is
the fast path on a GPU (and runs on a CPU under Triton's interpreter, for tests).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

P = ParamSpec("P")
T = TypeVar("T")

BACKENDS = ("auto", "reference", "torch", "triton")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OLDEST_CHIP = (8, 0)
"""The lowest compute capability that the Triton kernels support: it has bfloat16 tensor cores."""


def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype | None = None) -> str:
    """`backend` resolved for operands of `dtype` on `device`: `reference`, `torch` or `triton`.

    `auto` is `triton` if triton is installed, the operands are not float64, and the device is an AMD GPU or an NVIDIA
    GPU with bfloat16 tensor cores; otherwise `torch`. Inside a torch.func transform (grad, jvp, vmap, hessian), which
    handles plain operations only, `auto` is `reference`.

    Raises:
        ValueError: the backend does not exist or cannot run here; the message says why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        if not torch.compiler.is_compiling() and peek_interpreter_stack() is not None:
            return "reference"
        return "torch" if device.type == "cpu" or _why_not_triton(device, dtype) else "triton"
    if backend == "triton" and (reason := _why_not_triton(device, dtype)):
        raise ValueError(f"backend='triton': {reason}; use 'auto'")
    return backend


def _why_not_triton(device: torch.device, dtype: torch.dtype | None) -> str | None:
    """Why the Triton kernels cannot run on `device` with operands of `dtype`, or None if they can."""
    if dtype == torch.float64:
        return "the Triton kernels take float32, bfloat16 and float16, not float64"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if torch.version.hip is None and capability < OLDEST_CHIP:
            return (
                f"{torch.cuda.get_device_name(device)} has no bfloat16 tensor cores (compute capability {capability})"
            )
        return None
    if device.type == "cpu":
        from domain_ft_kernels.triton_backend.launch import interpreting

        if interpreting():
            return None
        return "the Triton kernels run on a GPU; on a CPU only for tests, with TRITON_INTERPRET=1 set at the start"
    return f"the Triton kernels do not run on {device.type}"


def compute_dtype(name: str, x: Tensor, weight: Tensor) -> torch.dtype:
    """The type in which `F.linear(x, weight)` would multiply: autocast's, or without autocast the tensors' own.

    Autocast leaves float64 alone. Raises ValueError if the types do not match; `name` is the caller's name for x.
    """
    for given, tensor in ((name, x), ("weight", weight)):
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{given} has dtype {tensor.dtype}; expected float32, bfloat16, float16 or float64")
    device = x.device.type
    if _autocasts(device) and torch.float64 not in (x.dtype, weight.dtype):
        return torch.get_autocast_dtype(device)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"{name} has dtype {x.dtype} and weight {weight.dtype}; expected the same, as in F.linear outside autocast"
        )
    return x.dtype


def _autocasts(device: str) -> bool:
    """Whether autocast is on for a device type. Some, such as `meta`, have no autocast, and querying it raises."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of sums, losses and log-sum-exps over values of `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def in_given_types(kernel: Callable[P, T]) -> Callable[P, T]:
    """Wrap a kernel so that it runs with autocast off: autocast would change the types that the kernel chooses."""

    @functools.wraps(kernel)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next(argument.device.type for argument in args if isinstance(argument, Tensor))
        if not _autocasts(device):
            return kernel(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return kernel(*args, **kwargs)

    return run


def check_same_device(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all given tensors are on one device, and none is a DTensor."""
    for name, tensor in tensors.items():
        if tensor is not None and hasattr(tensor, "full_tensor"):  # isinstance would import torch.distributed
            raise ValueError(
                f"{name} is a DTensor; these ops take the tensors of one process: pass {name}.full_tensor() to compute"
                f" on all of it, or {name}.to_local() inside a parallel style that handles the shards"
            )
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        raise ValueError(
            "expected all tensors on one device, got " + ", ".join(f"{n} on {d}" for n, d in devices.items())
        )


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Raise ValueError unless `tensor` has the shape `expected`; `meaning` describes that shape, such as (N, K)."""
    if tensor.shape != expected:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {meaning} = {tuple(expected)}")
