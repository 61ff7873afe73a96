"""lora_linear_group: each layer's result is that of its own lora_linear, in every backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from interpreter import exact_bfloat16
from kernel_checks import BY_WIDTH, assert_as_exact_as, matrix_flops, peak_bytes
from torch import Tensor

from domain_ft_kernels import lora_linear, lora_linear_group

OP = torch.ops.domain_ft_kernels.lora_linear.default
BACKWARD_OP = torch.ops.domain_ft_kernels.lora_linear_backward.default
BACKENDS = ("reference", "torch", "triton")
SCALINGS = (0.7, 1.3, 2.0)

Group = tuple[list[Any], list[Any], list[Any], list[Any]]
"""Weights, biases, lora_as and lora_bs."""


@pytest.fixture(autouse=True)
def _bfloat16() -> Iterator[None]:
    with exact_bfloat16():
        yield


def make(
    rows: int,
    columns: tuple[int, ...],
    k: int,
    ranks: tuple[int, ...],
    *,
    biases: bool | tuple[bool, ...] = True,
    dtype: torch.dtype = torch.float32,
    lora_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Group]:
    """x and layers with these N and R, with values of order 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, to: torch.dtype | None = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(to or dtype)

    has_bias = biases if isinstance(biases, tuple) else (biases,) * len(columns)
    x = draw(rows, k)
    weights = [draw(n, k) / k**0.5 for n in columns]
    given = [draw(n) if has else None for n, has in zip(columns, has_bias, strict=True)]
    lora_as = [draw(r, k, to=lora_dtype) / k**0.5 for r in ranks]
    return x, (weights, given, lora_as, [draw(n, r, to=lora_dtype) for n, r in zip(columns, ranks, strict=True)])


def leaves_of(x: Tensor, group: Group) -> tuple[Tensor, Group]:
    """Copies that require gradients."""
    weights, biases, lora_as, lora_bs = (
        [None if t is None else t.detach().clone().requires_grad_() for t in kind] for kind in group
    )
    return x.detach().clone().requires_grad_(), (weights, biases, lora_as, lora_bs)


def gradients_of(x: Tensor, group: Group, ys: tuple[Tensor, ...]) -> list[Tensor]:
    """The ys and all gradients, for output gradients that differ by layer and element."""
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(y.shape, generator=generator).to(y.dtype) for y in ys]
    leaves = [t for t in (x, *(t for kind in group for t in kind)) if t is not None]
    return [*(y.detach() for y in ys), *torch.autograd.grad(ys, leaves, grads)]


def together(x: Tensor, group: Group, backend: str, **options: Any) -> list[Tensor]:
    x, group = leaves_of(x, group)
    scalings = SCALINGS[: len(group[0])]
    return gradients_of(x, group, lora_linear_group(x, *group, scalings, backend=backend, **options))


def alone(x: Tensor, group: Group, backend: str, **options: Any) -> list[Tensor]:
    x, group = leaves_of(x, group)
    layers = zip(*group, SCALINGS[: len(group[0])], strict=True)
    return gradients_of(x, group, tuple(lora_linear(x, *layer, backend=backend, **options) for layer in layers))


def doubles(x: Tensor, group: Group) -> tuple[Tensor, Group]:
    weights, biases, lora_as, lora_bs = ([None if t is None else t.double() for t in kind] for kind in group)
    return x.double(), (weights, biases, lora_as, lora_bs)


CASES = [((12,), (3,)), ((12, 12, 12), (4, 4, 4)), ((12, 5, 8), (1, 7, 3)), ((6, 9), (2, 5))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", BY_WIDTH)
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize(("columns", "ranks"), CASES)
def test_each_layer_is_as_exact_as_its_own_lora_linear(
    backend: str, dtype: torch.dtype, dropout_p: float, columns: tuple[int, ...], ranks: tuple[int, ...]
) -> None:
    """Compared with the reference of the single layers with the same seed, hence the same mask."""
    tensors = make(30, columns, 11, ranks, dtype=dtype)
    options = {"dropout_p": dropout_p, "seed": 5}
    exact = alone(*doubles(*tensors), "reference", **options)
    reference = alone(*tensors, "reference", **options)
    assert_as_exact_as(together(*tensors, backend, **options), reference, exact, roundings=4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("biases", [False, (True, False, True)])
def test_layers_may_have_a_bias_or_none(backend: str, biases: bool | tuple[bool, ...]) -> None:
    tensors = make(9, (4, 6, 5), 7, (2, 2, 2), biases=biases)
    for ours, theirs in zip(together(*tensors, backend), alone(*tensors, backend), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_against_finite_differences(backend: str) -> None:
    x, group = leaves_of(*doubles(*make(5, (4, 3), 6, (2, 1))))

    def function(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        kinds = [list(flat[i : i + 2]) for i in range(0, 8, 2)]
        return lora_linear_group(x, *kinds, (0.7, 1.3), dropout_p=0.4, seed=3, backend=backend)

    torch.autograd.gradcheck(function, (x, *(t for kind in group for t in kind)), fast_mode=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [0, 1])
def test_one_row_or_none_is_enough(backend: str, rows: int) -> None:
    tensors = make(rows, (4, 6), 7, (2, 3))
    options = {"dropout_p": 0.2, "seed": 1}
    for ours, theirs in zip(together(*tensors, backend, **options), alone(*tensors, backend, **options), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_make_no_difference(backend: str) -> None:
    """Three dimensions, and Conv1D's transposed weights beside plain ones."""
    x, (weights, *rest) = make(12, (4, 6), 7, (2, 3))
    wanted = together(x, (weights, *rest), backend)
    transposed = [weights[0].t().contiguous().t(), weights[1]]
    ys = lora_linear_group(x.reshape(3, 4, 7), transposed, *rest, SCALINGS[:2], backend=backend)
    for y, plain in zip(ys, wanted[:2], strict=True):
        torch.testing.assert_close(y, plain.reshape(3, 4, -1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_is_as_exact_as_in_the_reference(backend: str) -> None:
    tensors = make(40, (24, 8), 32, (8, 4))
    exact = alone(*doubles(*tensors), "reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference, actual = alone(*tensors, "reference"), together(*tensors, backend)
    assert [t.dtype for t in actual] == [torch.bfloat16] * 2 + [torch.float32] * 9
    assert_as_exact_as(actual, reference, exact, roundings=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layer_whose_result_is_unused_gets_no_gradient(backend: str) -> None:
    x, group = leaves_of(*make(9, (4, 6), 7, (2, 3)))
    lora_linear_group(x, *group, SCALINGS[:2], backend=backend)[1].sum().backward()
    other, layers = leaves_of(x, group)
    lora_linear(other, *(kind[1] for kind in layers), SCALINGS[1], backend=backend).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    for kind, single in zip(group, layers, strict=True):
        torch.testing.assert_close(kind[1].grad, single[1].grad)
        assert kind[0].grad is None or not kind[0].grad.any()


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_only_required_gradients_are_computed(dropout_p: float) -> None:
    x, group = make(40, (24, 16), 32, (4, 3))
    for adapter in (*group[2], *group[3]):
        adapter.requires_grad_()
    ys = lora_linear_group(x, *group, SCALINGS[:2], dropout_p=dropout_p, seed=1)
    ups, downs = 2 * 40 * (24 * 4 + 16 * 3), 2 * 40 * 32 * (4 + 3)
    assert matrix_flops(lambda: torch.cat(ys, 1).sum().backward()) == 2 * ups + downs  # dt, dB; dA
    assert x.grad is None
    assert all(t.grad is None for t in (*group[0], *group[1]))


def test_dropout_needs_no_copy_of_x() -> None:
    x, group = make(4096, (64, 64), 512, (4, 4))
    for adapter in (*group[2], *group[3]):
        adapter.requires_grad_()

    def step() -> None:
        first, second = lora_linear_group(x, *group, SCALINGS[:2], dropout_p=0.1, seed=1)
        (first.sum() + second.sum()).backward()

    peak, _ = peak_bytes(step)
    assert peak < 1.0 * x.nbytes


@pytest.mark.parametrize(("biases", "dropout_p"), [(False, 0.0), (True, 0.3)])
def test_the_ops_pass_opcheck(dropout_p: float, biases: bool) -> None:
    x, group = leaves_of(*make(6, (5, 4), 7, (3, 2), biases=biases))
    kinds = [[t for t in kind if t is not None] for kind in group]
    seed = torch.tensor(3) if dropout_p else None
    options = [0.7, 1.3], dropout_p, seed, torch.float32
    torch.library.opcheck(OP, (x, *kinds, *options))
    plain = [[t.detach() for t in kind] for kind in kinds]
    needs = [True] * (1 + sum(map(len, plain)))
    torch.library.opcheck(
        BACKWARD_OP, ([torch.randn(6, 5), torch.randn(6, 4)], x.detach(), torch.randn(6, 5), *plain, *options, needs)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_compiles_whole(backend: str) -> None:
    torch._dynamo.reset()
    x, group = leaves_of(*make(12, (5, 8), 7, (3, 2)))

    def function(x: Tensor, *kinds: list[Tensor]) -> tuple[Tensor, ...]:
        return lora_linear_group(x, *kinds, (0.7, 1.3), dropout_p=0.3, seed=torch.tensor(2), backend=backend)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(
        gradients_of(x, group, compiled(x, *group)), gradients_of(x, group, function(x, *group)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": []}, r"lists of equal length; got 0 weights, 2 biases"),
        ({"scalings": [1.0]}, r"lists of equal length; got 2 weights, 2 biases, 2 lora_as, 2 lora_bs, 1 scalings"),
        ({"weights": [torch.ones(4, 6), torch.ones(5, 7)]}, r"x has shape \(3, 6\).* as weights\[1\] is \(N, K\) = "),
        ({"biases": [None, torch.ones(4)]}, r"biases\[1\] has shape \(4,\); expected \(N,\) = \(5,\)"),
        ({"lora_as": [torch.ones(2, 6), torch.ones(2, 5)]}, r"lora_as\[1\] has shape \(2, 5\); expected \(R, K\)"),
        ({"lora_bs": [torch.ones(4, 3), torch.ones(5, 2)]}, r"lora_bs\[0\] has shape \(4, 3\); expected \(N, R\)"),
        (
            {"lora_as": [torch.ones(2, 6), torch.ones(2, 6).bfloat16()]},
            r"lora_as have the types torch.bfloat16, torch.float32; expected one",
        ),
        (
            {"lora_as": [torch.ones(2, 6), torch.ones(2, 6, device="meta")]},
            r"on one device, got .*lora_as\[1\] on meta",
        ),
        ({"dropout_p": -0.1}, r"dropout_p=-0.1: expected 0 <= dropout_p < 1"),
    ],
)
def test_bad_calls_are_refused(change: dict[str, Any], message: str) -> None:
    x, (weights, biases, lora_as, lora_bs) = make(3, (4, 5), 6, (2, 2))
    arguments = {"weights": weights, "biases": biases, "lora_as": lora_as, "lora_bs": lora_bs, "scalings": [1.0, 1.0]}
    with pytest.raises(ValueError, match=message):
        lora_linear_group(x, **{**arguments, **change})
