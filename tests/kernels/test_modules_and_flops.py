"""The losses as modules, and FlopCounterMode's counts for the matrix products of the torch and triton backends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton")

import interpreter  # noqa: F401 (before anything else imports triton: it turns the interpreter on)

from domain_ft_kernels import CrossEntropyLoss, LinearCrossEntropyLoss, linear_cross_entropy, lora_linear

HIDDEN, WEIGHT, TARGET = torch.randn(6, 5), torch.randn(7, 5), torch.tensor([0, -100, 3, 6, 2, 2])


def test_the_modules_compute_the_losses_of_the_functions() -> None:
    class_weight = torch.rand(7)
    wanted = F.cross_entropy(HIDDEN @ WEIGHT.t(), TARGET, class_weight)
    linear, plain = LinearCrossEntropyLoss(class_weight), CrossEntropyLoss(class_weight)
    torch.testing.assert_close(linear(HIDDEN, WEIGHT, TARGET), wanted)
    torch.testing.assert_close(plain(HIDDEN @ WEIGHT.t(), TARGET), wanted)
    assert list(plain.state_dict()) == list(linear.state_dict()) == ["class_weight"]
    bias, target = torch.randn(7), TARGET.where(TARGET != -100, 1)
    capped = LinearCrossEntropyLoss(ignore_index=2, softcap=3.0, z_loss=0.1, label_smoothing=0.1, reduction="sum")
    options = {"ignore_index": 2, "softcap": 3.0, "z_loss": 0.1, "label_smoothing": 0.1, "reduction": "sum"}
    assert torch.equal(
        capped(HIDDEN, WEIGHT, target, bias), linear_cross_entropy(HIDDEN, WEIGHT, target, bias, **options)
    )


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("trained", [False, True])
def test_flops_of_the_lora_linear(backend: str, trained: bool) -> None:
    m, k, n, r = 6, 5, 7, 2
    x, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_(trained)
    lora_a, lora_b = torch.randn(r, k, requires_grad=True), torch.randn(n, r, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = lora_linear(x, weight, None, lora_a, lora_b, 0.5, backend=backend)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == 2 * m * (n * k + r * (n + k))
    assert counter.get_total_flops() == forward + 2 * m * ((1 + trained) * n * k + 2 * r * (n + k))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(("reduction", "trained", "products"), [("sum", False, 2), ("mean", True, 3)])
def test_flops_of_the_head(backend: str, reduction: str, trained: bool, products: int) -> None:
    hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_(trained)
    with FlopCounterMode(display=False) as counter:
        linear_cross_entropy(hidden, weight, TARGET, reduction=reduction, backend=backend).backward()
    assert counter.get_total_flops() == products * 2 * 6 * 5 * 7


@pytest.mark.parametrize(("backend", "products"), [("torch", 4), ("triton", 3)])
def test_flops_of_losses_by_row(backend: str, products: int) -> None:
    """The torch backend recomputes the logits in backward; the triton backend keeps them if their stash has room."""
    hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        linear_cross_entropy(hidden, weight, TARGET, reduction="none", backend=backend).sum().backward()
    assert counter.get_total_flops() == products * 2 * 6 * 5 * 7
