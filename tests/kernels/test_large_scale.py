"""A large LoRA scale in float16: t or dt times the scale would overflow; y and the gradients must not."""

from __future__ import annotations

import importlib

import pytest
import torch
from kernel_checks import relative_error, value_and_gradients
from torch import Tensor

pytest.importorskip("triton")

from domain_ft_kernels import lora_linear, lora_linear_group


def operands(dtype: torch.dtype, *, value: float) -> list[Tensor]:
    """x (3, 64) of one value, W (16, 64), A (8, 64), B (16, 8)."""
    x, weight = torch.full((3, 64), value, dtype=dtype), torch.zeros(16, 64, dtype=dtype)
    return [x, weight, torch.full((8, 64), 0.5), torch.full((16, 8), 1e-3)]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("size", ["forward", "backward"])
@pytest.mark.parametrize("scaling", [64.0, pytest.param(-64.0, marks=pytest.mark.slow), 0.25])
@pytest.mark.parametrize("group", [False, True])
def test_a_large_scale_stays_in_range(backend: str, dropout_p: float, size: str, scaling: float, group: bool) -> None:
    """Without dropout, t is 1,920 or dt is 16,000: 64 times that is beyond float16's 65,504."""
    given = operands(torch.float16, value=60.0 if size == "forward" else 1e-2)
    grad = torch.full((3, 16), 1e-3 if size == "forward" else 2e4)
    if size == "backward":
        given[2], given[3] = torch.full((8, 64), 2e-3), torch.full((16, 8), 5e-2)

    def layer(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, which: str = backend) -> Tensor:
        how = {"dropout_p": dropout_p, "seed": 3, "backend": which}
        with torch.autocast("cpu", dtype=torch.float16, enabled=x.dtype == torch.float16):
            if group:
                ys = lora_linear_group(x, [weight] * 2, [None] * 2, [a] * 2, [b] * 2, [scaling, 0.5], **how)
                return ys[0] + ys[1]
            return lora_linear(x, weight, None, a, b, scaling, **how)

    exact = value_and_gradients(
        lambda *t: layer(*t, which="reference"), [t.double() for t in given], grad.half().double()
    )
    actual = value_and_gradients(layer, given, grad)
    for name, ours, wanted in zip(("y", "dx", "dW", "dA", "dB"), actual, exact, strict=True):
        assert ours.isfinite().all(), name
        assert relative_error(ours, wanted) < 3e-3, name


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_case_that_overflowed(backend: str) -> None:
    x, weight, a, b = operands(torch.float16, value=60.0)
    with torch.autocast("cpu", dtype=torch.float16):
        y = lora_linear(x, weight, None, a, b, 64.0, backend=backend)
    torch.testing.assert_close(y, torch.full_like(y, 983.5), rtol=2e-3, atol=0.0)


def test_a_weight_with_too_many_elements_is_refused_by_triton_and_runs_on_torch_with_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("domain_ft_kernels.lora_linear")
    monkeypatch.setattr(module, "MOST_ELEMENTS", 16 * 64)
    given = operands(torch.float32, value=1.0)
    with pytest.raises(ValueError, match=r"a weight has 1024 elements.*backend='torch', or 'auto'"):
        lora_linear(*given[:2], None, *given[2:], 1.0, backend="triton")
    monkeypatch.setattr(module, "resolve_backend", lambda *_: "triton")  # as auto would on a GPU
    y = lora_linear(*given[:2], None, *given[2:], 1.0, backend="auto")
    torch.testing.assert_close(y, torch.full((3, 16), 64 * 0.5 * 8 * 1e-3))
