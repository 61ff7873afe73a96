"""A program that runs the samples of torch's own cross-entropy tests through our functions.

Prints how many samples of each function were run, and fails at the first that differs.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, which reads it once

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

from domain_ft_kernels import cross_entropy, linear_cross_entropy


def samples(name: str) -> Iterator[Any]:
    """torch's samples of the function `name`, in float64."""
    for info in op_db:
        if info.name == name:
            yield from info.sample_inputs("cpu", torch.float64)


def narrow(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """Convert to float32: the Triton kernels do not support float64."""
    return [None if t is None else t.float() for t in tensors]


def try_linear_cross_entropy() -> int:
    """Check linear_cross_entropy; return the number of samples.

    Skips class probabilities, batched weights and batched targets, which we do not support.
    """
    tried = 0
    for sample in samples("nn.functional.linear_cross_entropy"):
        options = {k: v for k, v in sample.kwargs.items() if k not in ("options", "linear_bias") and v is not None}
        weight, target = sample.args
        hidden, bias = sample.input, sample.kwargs.get("linear_bias")
        if weight.dim() != 2 or target.is_floating_point() or target.shape != hidden.shape[:-1]:
            continue
        options.setdefault("reduction", "mean")
        wanted = F.cross_entropy(F.linear(hidden, weight, bias), target, **options)
        class_weight = options.pop("weight", None)
        operands = [hidden, weight, bias, class_weight]
        for backend in ("reference", "torch", "triton"):
            h, w, b, c = narrow(operands) if backend == "triton" else operands
            actual = linear_cross_entropy(h, w, target, b, class_weight=c, backend=backend, **options)
            torch.testing.assert_close(actual, wanted.to(actual.dtype), equal_nan=True)
        tried += 1
    return tried


def try_cross_entropy() -> int:
    """Check cross_entropy, with the classes moved to the last dimension; return the number of samples.

    Skips class probabilities, which we do not support.
    """
    tried = 0
    for sample in samples("nn.functional.cross_entropy"):
        logits, (target,), options = sample.input, sample.args, dict(sample.kwargs)
        if target.is_floating_point():
            continue
        options.setdefault("reduction", "mean")
        wanted = F.cross_entropy(logits, target, **options)
        class_weight = options.pop("weight", None)
        operands = [logits.movedim(1, -1) if logits.dim() > 1 else logits, class_weight]
        for backend in ("reference", "torch", "triton"):
            u, c = narrow(operands) if backend == "triton" else operands
            actual = cross_entropy(u, target, weight=c, backend=backend, **options)
            torch.testing.assert_close(actual, wanted.to(actual.dtype), equal_nan=True)
        tried += 1
    return tried


if __name__ == "__main__":
    print(try_linear_cross_entropy(), try_cross_entropy())
