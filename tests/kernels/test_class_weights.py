"""Class weights as F.cross_entropy defines them, and log-sum-exps returned with the loss, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import HALVES, relative_error, value_and_gradients
from torch import Tensor

pytest.importorskip("triton")

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
def test_the_reference_supports_smoothing_and_z_loss_with_weights(reduction: str) -> None:
    hidden, weight, _, target, class_weight = (t.double() if t.is_floating_point() else t for t in make())
    logits = hidden @ weight.t()
    options = {"label_smoothing": 0.2, "reduction": reduction}
    ours = cross_entropy(logits, target, weight=class_weight, backend="reference", **options)
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, class_weight, **options))
    by_row = cross_entropy(logits, target, weight=class_weight, z_loss=0.1, reduction="none", backend="reference")
    squares = logits.logsumexp(1) ** 2 * (target != -100)
    torch.testing.assert_close(by_row, F.cross_entropy(logits, target, class_weight, reduction="none") + 0.1 * squares)


TERMS = [
    {"label_smoothing": 0.1},
    {"z_loss": 0.05},
    {"label_smoothing": 0.2, "z_loss": 0.05, "softcap": 3.0},
]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("reduction", [pytest.param("sum", marks=pytest.mark.slow), "mean", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("terms", TERMS)
def test_every_option_with_every_other(backend: str, reduction: str, weighted: bool, terms: dict[str, float]) -> None:
    """Losses and log-sum-exps, with different upstream gradients, against the reference in float64."""
    hidden, weight, bias, target, class_weight = make()
    generator = torch.Generator().manual_seed(1)
    upstream, lse_upstream = torch.randn(11, generator=generator), torch.randn(11, generator=generator)

    def scored(loss: Tensor, lse: Tensor) -> Tensor:
        scale = upstream if reduction == "none" else upstream[0]
        return (scale.to(loss.dtype) * loss).sum() + (lse_upstream.to(lse.dtype) * lse).sum()

    def head(h: Tensor, w: Tensor, b: Tensor, backend: str = backend) -> Tensor:
        weights = class_weight if weighted else None
        how: dict[str, Any] = {"reduction": reduction, "backend": backend, "return_lse": True, **terms}
        return scored(*linear_cross_entropy(h, w, target, b, class_weight=weights, **how))

    def logits(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        weights = class_weight if weighted else None
        how: dict[str, Any] = {"reduction": reduction, "backend": backend, "return_lse": True, **terms}
        return scored(*cross_entropy(F.linear(h, w, b), target, weight=weights, **how))

    doubles = [hidden.double(), weight.double(), bias.double()]
    exact = value_and_gradients(lambda h, w, b: head(h, w, b, "reference"), doubles)
    for function in (head, logits):
        for ours, theirs in zip(value_and_gradients(function, [hidden, weight, bias]), exact, strict=True):
            assert relative_error(ours, theirs) < 2e-5


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("return_lse", [False, True])
def test_the_torch_backends_gradients_are_exact_in_float64(reduction: str, return_lse: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in ((4, 3), (7, 3), (7,))
    )
    target, weights = torch.tensor([1, -100, 6, 0]), torch.rand(7, generator=generator)
    how: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 4.0, "reduction": reduction}
    how |= {"class_weight": weights, "return_lse": return_lse, "backend": "torch"}
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_cross_entropy(h, w, target, b, **how), (hidden, weight, bias)
    )


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_as_exact_as_the_reference(backend: str, dtype: torch.dtype) -> None:
    hidden, weight, bias, target, class_weight = make(dtype)
    how: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.01, "class_weight": class_weight, "return_lse": True}

    def head(h: Tensor, w: Tensor, b: Tensor, backend: str = backend) -> Tensor:
        loss, lse = linear_cross_entropy(h, w, target, b, backend=backend, **how)
        return loss + lse.sum()

    exact = value_and_gradients(
        lambda h, w, b: head(h, w, b, "reference"), [hidden.double(), weight.double(), bias.double()]
    )
    reference = value_and_gradients(lambda h, w, b: head(h, w, b, "reference"), [hidden, weight, bias])
    ours = value_and_gradients(head, [hidden, weight, bias])
    for mine, plain, true in zip(ours, reference, exact, strict=True):
        assert relative_error(mine, true) <= 1.5 * relative_error(plain, true) + torch.finfo(dtype).eps


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_weights_and_lse_pass_opcheck(backend: str) -> None:
    """All rows are labelled, since some outputs of the ops are uninitialised in ignored rows."""
    hidden, weight, bias, target, class_weight = make()
    target = target.clamp(min=0)
    hidden.requires_grad_()
    op = getattr(torch.ops.domain_ft_kernels, "linear_cross_entropy" + ("_triton" if backend == "triton" else ""))
    last = (None, True, False) if backend == "triton" else (True,)
    torch.library.opcheck(
        op.default, (hidden, weight, target, bias, class_weight, -100, 0.1, 0.1, None, torch.float32, *last)
    )
    name = "cross_entropy" + ("_triton" if backend == "triton" else "")
    logits = (hidden @ weight.t()).detach().requires_grad_()
    op = getattr(torch.ops.domain_ft_kernels, name)
    torch.library.opcheck(op.default, (logits, target, class_weight, -100, 0.1, 0.1, None, True, False))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("trained", [False, True])
def test_the_lse_is_that_of_the_logits(backend: str, softcap: float | None, dtype: torch.dtype, trained: bool) -> None:
    hidden, weight, bias, target, _ = make(dtype)
    exact = F.linear(hidden.double(), weight.double(), bias.double())
    wanted = exact if softcap is None else softcap * (exact / softcap).tanh()
    wanted = wanted.logsumexp(1).where(target != -100, 0.0)
    how: dict[str, Any] = {"softcap": softcap, "backend": backend, "return_lse": True}
    hidden.requires_grad_(trained)
    loss, lse = linear_cross_entropy(hidden, weight, target, bias, **how)
    plain = linear_cross_entropy(hidden, weight, target, bias, softcap=softcap, backend=backend)
    torch.testing.assert_close(loss, plain)
    assert (lse.dtype, lse.requires_grad, float(lse[3].detach())) == (torch.float32, trained, 0.0)
    assert relative_error(lse.detach(), wanted) < (5e-3 if backend == "reference" and dtype in HALVES else 1e-5)
    logits = F.linear(hidden, weight, bias)
    _, lse = cross_entropy(logits, target, **how)
    assert (lse.dtype, lse.requires_grad) == (torch.float32, trained)
    assert relative_error(lse.detach(), wanted) < (5e-3 if dtype in HALVES else 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_class_weights_are_refused(backend: str) -> None:
    hidden, weight, _, target, class_weight = make()
    with pytest.raises(ValueError, match=r"class_weight has shape \(5,\); expected \(V,\) = \(140,\)"):
        linear_cross_entropy(hidden, weight, target, class_weight=class_weight[:5], backend=backend)
    with pytest.raises(ValueError, match=r"weight has dtype torch.int64; expected a float type"):
        cross_entropy(hidden @ weight.t(), target, weight=class_weight.long(), backend=backend)


def test_class_probabilities_are_refused_by_name() -> None:
    hidden, weight, *_ = make()
    probabilities = torch.softmax(hidden @ weight.t(), 1)
    with pytest.raises(ValueError, match=r"class probabilities.*functional.cross_entropy"):
        cross_entropy(hidden @ weight.t(), probabilities)
    with pytest.raises(ValueError, match=r"class probabilities"):
        linear_cross_entropy(hidden, weight, probabilities)
