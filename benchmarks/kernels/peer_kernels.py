"""The launches of Liger's and CCE's kernels at full size, so that their machine code is analysed like ours.

Each kernel is taken from the installed package, with the arguments that its host code passes. Of an autotuned kernel,
the first config is used.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from cases import TOKENS, Head, Model
from torch import Tensor
from triton.runtime.autotuner import Autotuner, Heuristics

OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass
class PeerLaunch:
    """A kernel, its arguments by name, and its compiler options."""

    package: str
    kernel: Any
    keywords: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


def installed() -> list[str]:
    """The packages in LAUNCHES that are installed."""
    return [name for name in LAUNCHES if importlib.util.find_spec(name) is not None]


def peer_launches(package: str, model: Model, target: str) -> Iterator[PeerLaunch]:
    """What `package` launches for the head of `model`, in bfloat16, on a chip of the family `target`."""
    for kernel, keywords in LAUNCHES[package](model.head, target):
        kernel, keywords = _without_heuristics(kernel, dict(keywords))
        options = {name: keywords.pop(name) for name in OPTIONS if name in keywords}
        yield PeerLaunch(package, kernel, keywords, {k: v for k, v in options.items() if v is not None})


def _without_heuristics(kernel: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The jitted function without its decorators, and the arguments with those that they add.

    Of an autotuner, these are the arguments of its first config.
    """
    while isinstance(kernel, (Heuristics, Autotuner)):
        if isinstance(kernel, Autotuner):
            keywords |= kernel.configs[0].all_kwargs()
        else:
            for name, choose in kernel.values.items():
                keywords[name] = choose(keywords)
        kernel = kernel.fn
    return kernel, keywords


def _tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _liger(head: Head, target: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    source = importlib.import_module("liger_kernel.ops.cross_entropy")
    v, d, rows = head.vocabulary, head.hidden, 512
    warps = 16 if target == "gfx942" else 32
    yield (
        source.liger_cross_entropy_kernel,
        {
            "X_ptr": _tensor(rows, v),
            "X_stride": v,
            "Y_ptr": _tensor(rows, dtype=torch.int64),
            "Y_stride": 1,
            "weight_ptr": None,
            "loss_ptr": _tensor(rows, dtype=torch.float32),
            "z_loss_ptr": None,
            "loss_stride": 1,
            "token_accuracy_ptr": None,
            "token_accuracy_stride": 0,
            "predicted_tokens_ptr": None,
            "predicted_tokens_stride": 0,
            "n_cols": v,
            "n_non_ignore": head.rows(),
            "sum_non_ignore_weight": head.rows(),
            "weight_sum": 0.0,
            "ignore_index": -100,
            "lse_square_scale": 0.0,
            "label_smoothing": 0.0,
            "reduction": "mean",
            "softcap": None,
            "RETURN_Z_LOSS": False,
            "RETURN_TOKEN_ACCURACY": False,
            "RETURN_PREDICTED_TOKENS": False,
            "BLOCK_SIZE": 32_768,
            "HAS_WEIGHT": False,
            "HAS_SOFTCAPPING": False,
            "HAS_GRADIENTS": True,
            "num_warps": warps,
        },
    )
    yield (
        source.element_mul_kernel,
        {
            "X_ptr": _tensor(TOKENS, d),
            "X_stride": d,
            "grad_output_ptr": _tensor(dtype=torch.float32),
            "n_cols": d,
            "BLOCK_SIZE": 1 << (d - 1).bit_length(),
            "num_warps": warps,
        },
    )


def _cce(head: Head, target: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    del target  # CCE's tile sizes are the same on all chips
    v, d, n = head.vocabulary, head.hidden, head.rows()
    valid = _tensor(n, dtype=torch.int32) if n < TOKENS else None
    operands = {"E": _tensor(TOKENS, d), "C": _tensor(v, d), "Valids": valid, "softcap": None, "B": n, "V": v, "D": d}
    strides = {"stride_eb": d, "stride_ed": 1, "stride_cv": d, "stride_cd": 1, "stride_vb": 1, "B_BIN": 1024}
    states = _tensor(n, dtype=torch.float32)
    targets = _tensor(TOKENS, dtype=torch.int64)
    locks = _tensor(128, 12, dtype=torch.int32)
    forward = importlib.import_module("cut_cross_entropy.cce_lse_forward")
    yield (
        forward._cce_lse_forward_kernel,
        {**operands, **strides, "LSE": states, "LA": None, "Locks": locks, "stride_lse_b": 1, "num_locks": 128},
    )
    dot = importlib.import_module("cut_cross_entropy.indexed_dot")
    used = {name: value for name, value in {**operands, **strides}.items() if name not in ("softcap", "V")}
    yield (
        dot._indexed_neg_dot_forward_kernel,
        {**used, "Inds": targets, "Out": states, "stride_ib": 1, "SHIFT": False},
    )
    backward = importlib.import_module("cut_cross_entropy.cce_backward")
    lock_counts = dict.fromkeys(("n_de_locks_0", "n_de_locks_1", "n_dc_locks_0", "n_dc_locks_1"), 12)
    yield (
        backward._cce_backward_kernel,
        {
            **operands,
            **strides,
            **lock_counts,
            "LSE": states,
            "dOut": _tensor(1, dtype=torch.float32),
            "grad_scale": 1.0,
            "VocabOrdering": None,
            "Targets": targets,
            "dE": _tensor(TOKENS, d),
            "dELocks": locks,
            "dC": operands["C"],
            "dCLocks": locks,
            "filter_eps": None,
            "SHIFT": False,
            "REQUIRES_GRAD": False,
        },
    )


LAUNCHES: dict[str, Callable[[Head, str], Iterator[tuple[Any, dict[str, Any]]]]] = {
    "liger_kernel": _liger,
    "cut_cross_entropy": _cce,
}
