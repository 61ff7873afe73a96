"""Unsupported transforms raise: second derivatives, forward mode, torch.func. Meta tensors work."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.flop_counter
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

pytest.importorskip("triton")

import interpreter  # noqa: F401 (before anything else imports triton: it turns the interpreter on)

from domain_ft_kernels import cross_entropy, linear_cross_entropy, lora_linear, lora_linear_group

# At the first dual tensor, torch loads its forward-mode formulas, which still use torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated:DeprecationWarning")

generator = torch.Generator().manual_seed(0)
X, W, A, B = (torch.randn(shape, generator=generator) for shape in ((6, 5), (7, 5), (2, 5), (7, 2)))
TARGET = torch.tensor([0, -100, 3, 6, 2, 2])


def _lora(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    return lora_linear(x, w, None, A, B, 0.5, **how)


def _dropout(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    return lora_linear(x, w, None, A, B, 0.5, dropout_p=0.3, seed=1, **how)


def _group(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    return torch.cat(lora_linear_group(x, [w, w], [None] * 2, [A, A], [B, B], [0.5, 2.0], **how))


def _head(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    return linear_cross_entropy(x, w, TARGET.to(x.device), **how)


def _head_by_row(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    return linear_cross_entropy(x, w, TARGET.to(x.device), reduction="none", **how)


def _lse(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    loss, lse = linear_cross_entropy(x, w, TARGET.to(x.device), reduction="none", return_lse=True, **how)
    return loss + lse


def _logits(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    return cross_entropy(x @ w.t(), TARGET.to(x.device), **how)


OPS = [_lora, _dropout, _group, _head, _head_by_row, _logits]
Function = Callable[..., Tensor]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("constant", [True, False], ids=["constant gradient", "gradient that depends on x"])
@pytest.mark.parametrize("function", OPS)
@pytest.mark.parametrize("mode", ["eager", "watched"])
def test_a_second_derivative_raises(function: Function, constant: bool, backend: str, mode: str) -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with torch.utils.flop_counter.FlopCounterMode(display=False) if mode == "watched" else torch.enable_grad():
        output = function(x, w, backend=backend)
        output = output.sum() if constant else output.square().sum()
        first = torch.autograd.grad(output, [x, w], create_graph=True)
    for gradient in first:
        with pytest.raises(RuntimeError, match=r"has no second derivative on this backend.*backend='reference'"):
            torch.autograd.grad(gradient.square().sum(), x, retain_graph=True)


@pytest.mark.parametrize("function", OPS)
def test_the_reference_has_second_derivatives(function: Function) -> None:
    w = W.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "A", A.double())
        patch.setitem(globals(), "B", B.double())
        torch.autograd.gradgradcheck(
            lambda x: function(x, w, backend="reference").square(), X.double().requires_grad_()
        )


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("function", OPS)
@pytest.mark.parametrize("trained", [False, True])
def test_forward_mode_raises(function: Function, backend: str, trained: bool) -> None:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(X.clone().requires_grad_(trained), torch.ones_like(X))
        with pytest.raises(NotImplementedError, match=r"forward-mode.*backend='reference'"):
            function(x, W, backend=backend)
        function(X, W, backend=backend)  # no tangent: not refused


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("function", OPS)
def test_transforms_of_torch_func_raise(function: Function, backend: str) -> None:
    def loss(x: Tensor) -> Tensor:
        return function(x, W, backend=backend).sum()

    for transformed in (
        lambda: torch.func.grad(loss)(X),
        lambda: torch.func.jvp(loss, (X,), (torch.ones_like(X),)),
        lambda: torch.func.vmap(loss)(torch.stack([X, X])),
        lambda: torch.func.hessian(loss)(X),
    ):
        with pytest.raises(NotImplementedError, match=r"torch.func transforms.*backend='reference'"):
            transformed()


@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
@pytest.mark.parametrize("function", [*OPS, _lse])
@pytest.mark.parametrize("create_graph", [False, True])
def test_batched_gradients_are_right_or_refused(function: Function, backend: str, create_graph: bool) -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    output = function(x, w, backend=backend)
    grads = torch.randn(3, *output.shape, generator=torch.Generator().manual_seed(1))
    how: dict[str, Any] = {"retain_graph": True, "create_graph": create_graph}
    try:
        batched = torch.autograd.grad(output, [x, w], grads, is_grads_batched=True, **how)
    except NotImplementedError as error:
        assert backend != "reference"
        assert re.match(
            r"(lora_linear|(linear_)?cross_entropy) does not work .*(batched gradients|transforms).*'reference'",
            str(error),
        )
        return
    each = [torch.autograd.grad(output, [x, w], grad, **how) for grad in grads]
    for found, wanted in zip(batched, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(wanted))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_messages_name_the_function_that_was_called(backend: str) -> None:
    for function, name in ((_head, "linear_cross_entropy"), (_logits, "cross_entropy"), (_lora, "lora_linear")):
        x = X.clone().requires_grad_()
        (first,) = torch.autograd.grad(function(x, W, backend=backend).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=f"^{name} has no second derivative"):
            first.sum().backward()


@pytest.mark.parametrize("function", OPS)
def test_the_reference_is_plain_pytorch_under_torch_func(function: Function) -> None:
    def loss(x: Tensor) -> Tensor:
        return function(x, W, backend="reference").square().sum()

    x = X.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(X), wanted)
    each = torch.func.vmap(torch.func.grad(loss))(torch.stack([X, X]))
    torch.testing.assert_close(each, torch.stack([wanted, wanted]))
    slope = torch.func.jvp(loss, (X,), (torch.ones_like(X),))[1]
    torch.testing.assert_close(slope, wanted.sum())


@pytest.mark.parametrize("function", [_lora, _head, _head_by_row, _logits])
@pytest.mark.parametrize("fake", [False, True])
def test_shapes_without_values(function: Function, fake: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = function(X, W)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor) if fake else tensor.to("meta")

    for name in ("A", "B", "TARGET"):
        monkeypatch.setitem(globals(), name, empty(globals()[name]))
    x, w = empty(X).requires_grad_(), empty(W).requires_grad_()
    output = function(x, w)
    assert (output.shape, output.dtype) == (wanted.shape, wanted.dtype)
    output.sum().backward()
    assert x.grad.shape == X.shape  # type: ignore[union-attr]
    assert w.grad.shape == W.shape  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
@pytest.mark.parametrize("rows", [0, 4])
def test_a_mean_over_nothing_is_nan_with_gradients_of_zero(backend: str, rows: int) -> None:
    target = torch.full((rows,), -100)
    hidden, weight = torch.randn(rows, 5).requires_grad_(), W.clone().requires_grad_()
    logits = torch.randn(rows, 7).requires_grad_()
    head = linear_cross_entropy(hidden, weight, target, reduction="mean", backend=backend)
    loss = cross_entropy(logits, target, reduction="mean", backend=backend)
    assert head.isnan()
    assert loss.isnan()
    (head + loss).backward()
    for tensor in (hidden, weight, logits):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
def test_a_softcap_of_zero_means_no_softcap(backend: str) -> None:
    assert torch.equal(_head(X, W, softcap=0.0, backend=backend), _head(X, W, softcap=None, backend=backend))
    assert torch.equal(_logits(X, W, softcap=0, backend=backend), _logits(X, W, softcap=None, backend=backend))


@pytest.mark.parametrize("function", [_lora, _group, _head])
def test_the_message_for_a_dtensor_says_what_to_do(function: Function) -> None:
    class Sharded(Tensor):
        def full_tensor(self) -> Tensor: ...  # type: ignore[empty-body]

    with pytest.raises(ValueError, match=r"is a DTensor.*full_tensor\(\).*to_local\(\)"):
        function(X, W.as_subclass(Sharded))
