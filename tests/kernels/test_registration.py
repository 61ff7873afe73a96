"""Eager calls of an op bypass torch.library and run the same functions; modes and traces see the library op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from domain_ft_kernels.registration import Op

needed: list[Any] = []


def _scaled(x: Tensor, factors: list[Tensor], exponent: float) -> list[Tensor]:
    return [x * factor**exponent for factor in factors]


def _backward(grads: list[Tensor], x: Tensor, factors: list[Tensor], exponent: float) -> list[Tensor]:
    d_x = torch.stack([g * factor**exponent for g, factor in zip(grads, factors, strict=True)]).sum(0)
    slopes = [exponent * factor ** (exponent - 1) for factor in factors]
    return [d_x, *((grad * x).sum() * slope for grad, slope in zip(grads, slopes, strict=True))]


BACKWARD = Op(
    "test_scale_backward",
    "(Tensor[] grads, Tensor x, Tensor[] factors, float exponent) -> Tensor[]",
    _backward,
    fake=lambda grads, x, factors, exponent: [torch.empty_like(x), *map(torch.empty_like, factors)],
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, factors, ctx.exponent = inputs
    ctx.save_for_backward(x, *factors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    x, *factors = ctx.saved_tensors
    needed.append(ctx.needs_input_grad)
    given = [torch.zeros_like(x) if grad is None else grad for grad in grads]
    d_x, *d_factors = BACKWARD(given, x, factors, ctx.exponent)
    return d_x, d_factors, None


SCALE = Op(
    "test_scale",
    "(Tensor x, Tensor[] factors, float exponent) -> Tensor[]",
    _scaled,
    fake=lambda x, factors, exponent: [torch.empty_like(x) for _ in factors],
).differentiable(_differentiate, _setup_context)

CLEAR = Op("test_clear", "(Tensor(a!) x) -> ()", lambda x: x.detach().numpy().fill(0), lambda x: None, mutates=["x"])


class Names(TorchDispatchMode):
    """Records the names of the ops that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def inputs() -> tuple[Tensor, list[Tensor]]:
    """x (5,) and two factors; the second requires no gradient."""
    x = torch.arange(1.0, 6.0, requires_grad=True)
    return x, [torch.tensor(2.0, requires_grad=True), torch.tensor(3.0)]


@pytest.mark.parametrize("way", [SCALE, SCALE.registered], ids=["eager", "registered"])
def test_both_ways_give_the_same_values_and_gradients(way: Callable[..., list[Tensor]]) -> None:
    x, factors = inputs()
    needed.clear()
    first, second = way(x, factors, 2.0)
    assert torch.equal(first, 4 * x)
    assert torch.equal(second, 9 * x)
    (first.sum() + 2 * second.sum()).backward()
    assert torch.equal(x.grad, torch.full((5,), 4.0 + 18.0))
    assert factors[0].grad == 4 * x.sum()
    assert factors[1].grad is None
    ((need_x, need_factors, need_exponent),) = needed
    assert (need_x, list(need_factors), need_exponent) == (True, [True, False], False)


@pytest.mark.parametrize("way", [SCALE, SCALE.registered], ids=["eager", "registered"])
def test_an_unused_output_adds_nothing_to_the_gradient(way: Callable[..., list[Tensor]]) -> None:
    x, factors = inputs()
    way(x, factors, 2.0)[0].sum().backward()
    assert torch.equal(x.grad, torch.full((5,), 4.0))


def test_no_graph_is_built_without_gradients() -> None:
    x, factors = inputs()
    with torch.no_grad():
        assert not any(y.requires_grad for y in SCALE(x, factors, 2.0))
    assert not any(y.requires_grad for y in SCALE(x.detach(), [f.detach() for f in factors], 2.0))


def test_a_mode_sees_the_op_forward_and_backward() -> None:
    x, factors = inputs()
    with Names() as names:
        SCALE(x, factors, 2.0)[0].sum().backward()
    assert "domain_ft_kernels::test_scale" in names.seen
    assert "domain_ft_kernels::test_scale_backward" in names.seen


def test_a_trace_sees_the_op() -> None:
    x, factors = inputs()
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: SCALE(x, factors, 2.0)[0])(x.detach())
    assert any(node.target == SCALE.registered._opoverload for node in traced.graph.nodes)
    compiled = torch.compile(lambda x, factors: SCALE(x, factors, 2.0), fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(x, factors), SCALE(x, factors, 2.0), strict=True):
        assert torch.equal(ours, theirs)


def test_autograd_sees_writes() -> None:
    """The op writes to memory that autograd has saved, so backward has to raise."""
    x = torch.ones(3)
    weight = torch.ones(3, requires_grad=True)
    product = (weight * x).sum()
    CLEAR(x)
    assert not x.any()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
