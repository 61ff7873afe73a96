"""The choice of a backend and of the type to multiply in."""

from __future__ import annotations

import pytest
import torch

from domain_ft_kernels import resolve_backend
from domain_ft_kernels.backends import compute_dtype

CPU = torch.device("cpu")


def test_names() -> None:
    assert resolve_backend("auto", CPU) == "torch"
    assert resolve_backend("auto", torch.device("cuda")) == "torch"
    assert resolve_backend("torch", CPU) == "torch"
    assert resolve_backend("reference", CPU) == "reference"


def test_triton_is_refused_until_it_exists() -> None:
    with pytest.raises(ValueError, match="this version has no Triton backend"):
        resolve_backend("triton", CPU)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="backend='cuda': wanted one of auto, reference, torch"):
        resolve_backend("cuda", CPU)


def test_compute_dtype_follows_linear() -> None:
    x, weight = torch.ones(1, 2), torch.ones(3, 2)
    assert compute_dtype("x", x, weight) == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compute_dtype("x", x, weight) == torch.bfloat16
        assert compute_dtype("x", x.bfloat16(), weight) == torch.bfloat16
        assert compute_dtype("x", x.double(), weight.double()) == torch.float64
    with pytest.raises(ValueError, match=r"x has dtype torch.bfloat16 and weight torch.float32; wanted the same"):
        compute_dtype("x", x.bfloat16(), weight)
    with pytest.raises(ValueError, match=r"x has dtype torch.int64; wanted float32"):
        compute_dtype("x", x.long(), weight)
