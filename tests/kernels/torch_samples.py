"""The samples that torch tests its linear_cross_entropy with, where in our scope, through our function.

A program: prints how many samples were tried, and fails at the first that differs.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton, which reads it once

import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db

from domain_ft_kernels import linear_cross_entropy


def main() -> None:
    """Class indices and a 2-D weight are our scope; probabilities, class weights and batched weights are not."""
    tried = 0
    for info in op_db:
        if info.name != "nn.functional.linear_cross_entropy":
            continue
        for sample in info.sample_inputs("cpu", torch.float64):
            options = {k: v for k, v in sample.kwargs.items() if k not in ("options", "linear_bias") and v is not None}
            weight, target = sample.args
            if weight.dim() != 2 or target.is_floating_point() or "weight" in options:
                continue
            hidden, bias = sample.input, sample.kwargs.get("linear_bias")
            if target.shape != hidden.shape[:-1]:
                continue
            options.setdefault("reduction", "mean")
            wanted = F.cross_entropy(F.linear(hidden, weight, bias), target, **options)
            for backend in ("reference", "torch"):
                actual = linear_cross_entropy(hidden, weight, target, bias, backend=backend, **options)
                torch.testing.assert_close(actual, wanted, equal_nan=True)
            narrow = [None if t is None else t.float() for t in (hidden, weight, bias)]  # Triton has no float64
            actual = linear_cross_entropy(*narrow[:2], target, narrow[2], backend="triton", **options)
            torch.testing.assert_close(actual, wanted.float(), equal_nan=True)
            tried += 1
    print(tried)


if __name__ == "__main__":
    main()
