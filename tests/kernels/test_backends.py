"""The choice of a backend and of the type in which products are computed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from domain_ft_kernels import resolve_backend
from domain_ft_kernels.backends import compute_dtype
from domain_ft_kernels.triton_backend import launch

CPU = torch.device("cpu")


def test_names_are_resolved_on_a_cpu() -> None:
    assert resolve_backend("auto", CPU) == "torch"
    assert resolve_backend("torch", CPU) == "torch"
    assert resolve_backend("reference", CPU) == "reference"


def test_auto_is_triton_only_on_a_gpu_and_for_types_that_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert resolve_backend("auto", gpu) == resolve_backend("auto", gpu, torch.bfloat16) == "triton"
    assert resolve_backend("auto", gpu, torch.float64) == "torch"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert resolve_backend("auto", gpu) == "torch"
    with pytest.raises(ValueError, match=r"Tesla T4 has no bfloat16 tensor cores .* use 'auto'"):
        resolve_backend("triton", gpu)


def test_without_triton_auto_is_torch_and_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolve_backend("auto", torch.device("cuda")) == "torch"
    with pytest.raises(ValueError, match="triton is not installed"):
        resolve_backend("triton", CPU)


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "interpreting", lambda: True)
    assert resolve_backend("triton", CPU) == "triton"
    with pytest.raises(ValueError, match="float64"):
        resolve_backend("triton", CPU, torch.float64)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        resolve_backend("triton", CPU)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="backend='cuda': expected one of auto, reference, torch, triton"):
        resolve_backend("cuda", CPU)


def test_compute_dtype_follows_linear() -> None:
    x, weight = torch.ones(1, 2), torch.ones(3, 2)
    assert compute_dtype("x", x, weight) == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compute_dtype("x", x, weight) == torch.bfloat16
        assert compute_dtype("x", x.bfloat16(), weight) == torch.bfloat16
        assert compute_dtype("x", x.double(), weight.double()) == torch.float64
    with pytest.raises(ValueError, match=r"x has dtype torch.bfloat16 and weight torch.float32; expected the same"):
        compute_dtype("x", x.bfloat16(), weight)
    with pytest.raises(ValueError, match=r"x has dtype torch.int64; expected float32"):
        compute_dtype("x", x.long(), weight)
