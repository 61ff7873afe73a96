"""Class weights as F.cross_entropy defines them, and the log-sum-exp beside the loss, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import HALVES, relative_error, value_and_gradients
from torch import Tensor

pytest.importorskip("triton")

import interpreter  # noqa: F401 (before anything else imports triton: it turns the interpreter on)

from domain_ft_kernels import cross_entropy, linear_cross_entropy

BACKENDS = ["reference", "torch", "triton"]


def make(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden (11, 6), weight (140, 6), bias (140,), target (11,) and class weights (140,), one of them 0."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(s, generator=generator) for s in ((11, 6), (140, 6), (140,)))
    target = torch.randint(0, 140, (11,), generator=generator)
    target[3] = -100
    class_weight = torch.rand(140, generator=generator) + 0.1
    class_weight[target[0]] = 0.0
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), target, class_weight


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("return_lse", [False, True])
def test_class_weights_are_torchs(backend: str, reduction: str, return_lse: bool) -> None:
    hidden, weight, bias, target, class_weight = make()

    def head(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        how: dict[str, Any] = {"reduction": reduction, "return_lse": return_lse, "backend": backend}
        result = linear_cross_entropy(h, w, target, b, class_weight=class_weight, **how)
        return result[0] if return_lse else result

    def logits(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        how: dict[str, Any] = {"reduction": reduction, "return_lse": return_lse, "backend": backend}
        result = cross_entropy(F.linear(h, w, b), target, weight=class_weight, **how)
        return result[0] if return_lse else result

    def wanted(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, w, b), target, class_weight, reduction=reduction)

    exact = value_and_gradients(wanted, [hidden, weight, bias])
    for function in (head, logits):
        for ours, theirs in zip(value_and_gradients(function, [hidden, weight, bias]), exact, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_the_reference_takes_smoothing_and_z_loss_with_weights(reduction: str) -> None:
    hidden, weight, _, target, class_weight = (t.double() if t.is_floating_point() else t for t in make())
    logits = hidden @ weight.t()
    options = {"label_smoothing": 0.2, "reduction": reduction}
    ours = cross_entropy(logits, target, weight=class_weight, backend="reference", **options)
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, class_weight, **options))
    by_row = cross_entropy(logits, target, weight=class_weight, z_loss=0.1, reduction="none", backend="reference")
    squares = logits.logsumexp(1) ** 2 * (target != -100)
    torch.testing.assert_close(by_row, F.cross_entropy(logits, target, class_weight, reduction="none") + 0.1 * squares)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("terms", [{"label_smoothing": 0.1}, {"z_loss": 0.1}])
def test_other_backends_refuse_these_by_name(backend: str, terms: dict[str, float]) -> None:
    hidden, weight, _, target, class_weight = make()
    with pytest.raises(ValueError, match=r"class_weight together with label_smoothing or z_loss.*backend='reference'"):
        linear_cross_entropy(hidden, weight, target, class_weight=class_weight, backend=backend, **terms)
    with pytest.raises(ValueError, match=r"weight together with label_smoothing or z_loss.*backend='reference'"):
        cross_entropy(hidden @ weight.t(), target, weight=class_weight, backend=backend, **terms)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("trained", [False, True])
def test_lse(backend: str, softcap: float | None, dtype: torch.dtype, trained: bool) -> None:
    hidden, weight, bias, target, _ = make(dtype)
    exact = F.linear(hidden.double(), weight.double(), bias.double())
    wanted = exact if softcap is None else softcap * (exact / softcap).tanh()
    wanted = wanted.logsumexp(1).where(target != -100, 0.0)
    how: dict[str, Any] = {"softcap": softcap, "backend": backend, "return_lse": True}
    hidden.requires_grad_(trained)
    loss, lse = linear_cross_entropy(hidden, weight, target, bias, **how)
    plain = linear_cross_entropy(hidden, weight, target, bias, softcap=softcap, backend=backend)
    torch.testing.assert_close(loss, plain)
    assert (lse.dtype, lse.requires_grad, float(lse[3])) == (torch.float32, False, 0.0)
    assert relative_error(lse, wanted) < (5e-3 if backend == "reference" and dtype in HALVES else 1e-5)
    logits = F.linear(hidden, weight, bias)
    _, lse = cross_entropy(logits, target, **how)
    assert (lse.dtype, lse.requires_grad) == (torch.float32, False)
    assert relative_error(lse, wanted) < (5e-3 if dtype in HALVES else 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_weights(backend: str) -> None:
    hidden, weight, _, target, class_weight = make()
    with pytest.raises(ValueError, match=r"class_weight has shape \(5,\); wanted \(V,\) = \(140,\)"):
        linear_cross_entropy(hidden, weight, target, class_weight=class_weight[:5], backend=backend)
    with pytest.raises(ValueError, match=r"weight has dtype torch.int64; wanted a float type"):
        cross_entropy(hidden @ weight.t(), target, weight=class_weight.long(), backend=backend)


def test_class_probabilities_are_refused_by_name() -> None:
    hidden, weight, *_ = make()
    probabilities = torch.softmax(hidden @ weight.t(), 1)
    with pytest.raises(ValueError, match=r"class probabilities are not computed.*functional.cross_entropy"):
        cross_entropy(hidden @ weight.t(), probabilities)
    with pytest.raises(ValueError, match=r"class probabilities are not computed"):
        linear_cross_entropy(hidden, weight, probabilities)
