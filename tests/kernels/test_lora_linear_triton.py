"""lora_linear's Triton kernels in the interpreter: accuracy, memory accesses, launches, gradients, composition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import checked_memory, exact_bfloat16
from kernel_checks import DTYPES, assert_as_exact_as, value_and_gradients
from torch import Tensor

from domain_ft_kernels import lora_linear, lora_linear_group
from domain_ft_kernels.triton_backend import lora_linear as kernels
from domain_ft_kernels.triton_backend.launch import recording

OP = torch.ops.domain_ft_kernels.lora_linear_triton.default
BACKWARD_OP = torch.ops.domain_ft_kernels.lora_linear_triton_backward.default


@pytest.fixture(autouse=True)
def _bfloat16() -> Iterator[None]:
    with exact_bfloat16():
        yield


def make(
    rows: int, n: int, k: int, rank: int, *, bias: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Any]:
    """Random x, weight, bias (None without `bias`), lora_a and lora_b in `dtype`; x Wᵀ and x Aᵀ are of order 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = [draw(rows, k), draw(n, k) / k**0.5, draw(n) if bias else None, draw(rank, k) / k**0.5, draw(n, rank)]
    return [None if t is None else t.to(dtype) for t in tensors]


def run(backend: str, tensors: list[Any], grad: Tensor | None = None, **options: Any) -> list[Tensor]:
    return value_and_gradients(lambda *t: lora_linear(*t, 0.7, backend=backend, **options), tensors, grad)


def check(tensors: list[Any], *, roundings: float = 2, **options: Any) -> None:
    """Check the value and all gradients against float64, for an output gradient of order 1."""
    rows, n = len(tensors[0]), len(tensors[1])
    grad = torch.randn(rows, n, generator=torch.Generator().manual_seed(9)).to(tensors[0].dtype)

    def doubles(change: Any = torch.clone) -> list[Any]:
        return [None if t is None else change(t.double()) for t in tensors]

    exact = run("reference", doubles(), grad, **options)
    magnitudes = run("reference", doubles(torch.abs), grad.abs(), **options)
    reference, actual = run("reference", tensors, grad, **options), run("triton", tensors, grad, **options)
    assert_as_exact_as(actual, reference, exact, roundings=roundings, magnitudes=magnitudes)


# Accuracy


@given(
    rows=st.integers(0, 140),
    n=st.integers(1, 70),
    k=st.integers(1, 140),
    rank=st.integers(1, 70),
    bias=st.booleans(),
    dropout_p=st.sampled_from([0.0, 0.1, 0.6]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=6)
def test_as_exact_as_the_reference(
    rows: int, n: int, k: int, rank: int, bias: bool, dropout_p: float, dtype: torch.dtype, seed: int
) -> None:
    check(make(rows, n, k, rank, bias=bias, dtype=dtype, seed=seed), dropout_p=dropout_p, seed=seed)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("rank", [1, 8, 16, 17, 64, 65, 256])
def test_ranks(rank: int, dropout_p: float) -> None:
    check(make(40, 36, 48, rank, dtype=torch.bfloat16), dropout_p=dropout_p, seed=4)


@pytest.mark.parametrize(("dtype", "dropout_p"), [(torch.float32, 0.0), (torch.bfloat16, 0.3)])
def test_many_chunks_of_rows(dtype: torch.dtype, dropout_p: float) -> None:
    check(make(1100, 20, 17, 3, dtype=dtype), dropout_p=dropout_p, seed=4)


@pytest.mark.parametrize("seed", [0, 1, -5, 2**31, 2**62 + 12_345, -(2**63)])
def test_the_dropout_mask_is_that_of_the_reference(seed: int) -> None:
    """W is zero, and A and B are the identity, so y is x after dropout."""
    x, k = torch.ones(40, 35), 35
    zeros, identity = torch.zeros(k, k), torch.eye(k)
    y = {
        backend: lora_linear(x, zeros, None, identity, identity, 1.0, dropout_p=0.5, seed=seed, backend=backend)
        for backend in ("reference", "triton")
    }
    assert torch.equal(y["triton"], y["reference"])
    assert 0.4 < (y["triton"] == 0).double().mean() < 0.6


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, dropout_p: float) -> None:
    tensors = make(40, 24, 32, 8)
    options = {"dropout_p": dropout_p, "seed": 5}
    exact = run("reference", [t.double() for t in tensors], **options)
    with torch.autocast("cpu", dtype=dtype):
        reference, actual = run("reference", tensors, **options), run("triton", tensors, **options)
        assert F.linear(tensors[0], tensors[1]).dtype == actual[0].dtype == dtype
    assert [g.dtype for g in actual[1:]] == [torch.float32] * 5
    assert_as_exact_as(actual, reference, exact, roundings=1)


def test_the_gradient_of_b_is_precise_beside_a_bfloat16_weight() -> None:
    """A and B are float32, W is bfloat16, and the update B A is far smaller than the rounding of W."""
    x, weight, _, a, b = make(32, 24, 32, 8)
    weight, b = weight.bfloat16() * 64, b * 1e-3
    grad = torch.randn(32, 24, generator=torch.Generator().manual_seed(1)).bfloat16()
    _, d_b = torch.autograd.grad(
        lora_linear(x.bfloat16(), weight, None, a.requires_grad_(), b.requires_grad_(), 1.0, backend="triton"),
        (a, b),
        grad,
    )
    exact = grad.double().T @ (x.bfloat16().double() @ a.detach().double().T)
    assert float((d_b - exact).norm() / exact.norm()) < 5e-3


def test_layouts() -> None:
    """Leading dimensions, transposed weights (Conv1D), gaps between rows, transposed or expanded x, expanded dy."""
    x, weight, bias, a, b = make(24, 40, 35, 3)
    options = {"dropout_p": 0.2, "seed": 4}
    wanted = run("triton", [x, weight, bias, a, b], **options)
    y, dx, *rest = run("triton", [x.reshape(2, 3, 4, 35), weight, bias, a, b], **options)
    for ours, theirs in zip((y.reshape(24, 40), dx.reshape(24, 35), *rest), wanted, strict=True):
        assert torch.equal(ours, theirs)

    wide = torch.full((24, 50), torch.nan)
    wide[:, :35] = x
    with_gaps = [wide[:, :35], *(t.t().contiguous().t() if t.dim() == 2 else t for t in (weight, bias, a, b))]
    for ours, theirs in zip(run("triton", with_gaps, **options), wanted, strict=True):
        assert torch.equal(ours, theirs)

    expanded = x[:1].expand(24, 35)
    leaves = [t.clone().requires_grad_() for t in (weight, a, b)]
    grads = [
        torch.autograd.grad(
            lora_linear(t, leaves[0], bias, *leaves[1:], 0.7, backend="triton", **options).sum(), leaves
        )
        for t in (expanded, expanded.contiguous(), expanded.t().contiguous().t())
    ]
    assert all(torch.equal(one, other) for others in grads[1:] for one, other in zip(grads[0], others, strict=True))


def test_one_vector_and_no_rows() -> None:
    x, weight, bias, a, b = make(1, 10, 6, 3)
    y = lora_linear(x[0], weight, bias, a, b, 0.7, backend="triton")
    torch.testing.assert_close(y, lora_linear(x, weight, bias, a, b, 0.7)[0])
    gradients = run("triton", make(0, 10, 6, 3), dropout_p=0.3, seed=1)
    assert gradients[0].shape == (0, 10)
    assert not any(g.any() for g in gradients)


def test_two_runs_are_bit_identical() -> None:
    tensors = make(530, 24, 20, 8, dtype=torch.bfloat16)
    first, second = (run("triton", tensors, dropout_p=0.1, seed=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Memory accesses


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "dropout_p"), [((3, 20), 0.3), ((70, 1), 0.0)])
def test_memory(ranks: tuple[int, ...], dropout_p: float) -> None:
    """No access is out of bounds, and every output is written.

    No tile divides the sizes, and the rows of x, W and the output gradients have gaps between them.
    """
    rows, columns, k, dtype = 530, (35, 9), 37, torch.bfloat16
    wide = torch.randn(rows, k + 3).to(dtype)
    weights = [torch.randn(n, k + 5).to(dtype)[:, :k] for n in columns]
    biases = [torch.randn(n).to(dtype) for n in columns]
    lora_as, lora_bs = (
        [torch.randn(r, k) for r in ranks],
        [torch.randn(n, r) for n, r in zip(columns, ranks, strict=True)],
    )
    options = [0.7, 1.3], dropout_p, torch.tensor(3) if dropout_p else None, dtype
    layers = weights, biases, lora_as, lora_bs
    grads = [torch.randn(rows, n + 1).to(dtype)[:, :n] for n in columns]
    for needs in ([True] * 9, [False] * 5 + [True] * 4):
        with checked_memory(wide, *(t for kind in layers for t in kind), *grads) as memory:
            *ys, down = OP(wide[:, :k], *layers, *options)
            gradients = BACKWARD_OP(grads, wide[:, :k], down, *layers, *options, needs)
            memory.assert_written(*ys, down, *gradients)
        assert all(t.isfinite().all() for t in (*ys, down, *gradients))
        assert len(gradients) == sum(needs)


# Launches and gradients


def launched(
    needs: str = "xAB", *, rank: int = 16, dropout_p: float = 0.0, layers: int = 1, rows: int = 2048
) -> list[str]:
    """The names of the kernels that forward and backward launch for the gradients in `needs` (of x, W, b, A, B)."""
    x = torch.empty(rows, 768, dtype=torch.bfloat16, device="meta")
    weights = [torch.empty(768, 768, dtype=torch.bfloat16, device="meta")] * layers
    lora_as, lora_bs = ([torch.empty(shape, device="meta")] * layers for shape in ((rank, 768), (768, rank)))
    options = [0.5] * layers, dropout_p, torch.tensor(3) if dropout_p else None
    biases = [torch.empty(768, device="meta")] * layers
    with recording("sm_90") as launches:
        *ys, down = kernels.forward(x, weights, biases, lora_as, lora_bs, *options)
        required = [needs_it for name in "xWbAB" for needs_it in [name in needs] * (1 if name == "x" else layers)]
        kernels.backward(ys, x, down, weights, biases, lora_as, lora_bs, *options, required)
    return [launch.kernel.__name__ for launch in launches]


def test_launches() -> None:
    frozen = ["_linear_dx", "_outer", "_outer", "_add_up"]
    assert launched() == ["_linear", *frozen]
    assert launched(dropout_p=0.1) == ["_down", "_linear", *frozen]
    assert launched(dropout_p=0.1, layers=3) == launched(dropout_p=0.1)
    assert launched(rank=128) == ["_down", "_linear", "_down", *frozen]
    assert launched("x") == ["_linear", "_linear_dx"]
    assert launched("A") == ["_linear", "_down", "_outer", "_add_up"]
    assert launched("B") == launched("bB") == launched("W") == ["_linear", "_outer", "_add_up"]
    assert launched("b") == ["_linear"]  # torch sums the rows
    assert launched("xWbAB") == [
        "_linear",
        "_linear_dx",
        "_outer",
        "_outer",
        "_outer",
        "_add_up",
        "_add_up",
    ]  # one per type
    assert launched("") == ["_linear"]


@pytest.mark.parametrize("names", ["AB", "xAB", "x", "A", "B", "b", "W", "bW", "xWbAB"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_each_set_of_required_gradients_is_that_of_the_reference(names: str, dropout_p: float) -> None:
    gradients = []
    for backend in ("triton", "reference"):
        tensors = dict(zip("xWbAB", make(40, 24, 32, 4), strict=True))
        for name in names:
            tensors[name].requires_grad_()
        lora_linear(*tensors.values(), 0.7, dropout_p=dropout_p, seed=1, backend=backend).square().sum().backward()
        gradients.append({name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None})
    ours, theirs = gradients
    assert ours.keys() == theirs.keys() == set(names)
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_saves_only_x_its_projection_and_the_seed(autocast: bool) -> None:
    """Besides the parameters. Under autocast x and W are saved in the compute type; W is not counted here."""
    rows, n, k, rank = 96, 64, 64, 8
    tensors = make(rows, n, k, rank, dtype=torch.float32 if autocast else torch.bfloat16)
    parameters = {t.data_ptr() for t in tensors[1:]}
    for adapter in tensors[3:]:
        adapter.requires_grad_()
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=autocast):
        lora_linear(*tensors, 1.0, dropout_p=0.1, seed=torch.tensor(1), backend="triton")
    kept = [t for pointer, t in saved.items() if pointer not in parameters and t.shape != (n, k)]
    assert sum(t.nbytes for t in kept) == 2 * rows * k + 2 * rows * 16 + 8  # x, t and the seed


# Composition


@pytest.mark.parametrize(("names", "dropout_p"), [("AB", 0.0), ("xWbAB", 0.3)])
def test_opcheck(names: str, dropout_p: float) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        tensors = dict(zip("xWbAB", make(6, 5, 4, 3, dtype=dtype), strict=True))
        for name in names:
            tensors[name].requires_grad_()
        seed = torch.tensor(3) if dropout_p else None
        x, *layer = tensors.values()
        torch.library.opcheck(OP, (x, *([t] for t in layer), [0.5], dropout_p, seed, dtype))
        plain = [[t.detach()] for t in layer]
        needs = [name in names for name in "xWbAB"]
        grad, down = torch.randn(6, 5).to(dtype), torch.randn(6, 16).to(dtype)
        torch.library.opcheck(BACKWARD_OP, ([grad], x.detach(), down, *plain, [0.5], dropout_p, seed, dtype, needs))


def test_compiles_fully_and_once_for_all_seeds_and_rows() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor, a: Tensor, c: Tensor, seed: Tensor) -> Tensor:
        return lora_linear(x, w, b, a, c, 0.7, dropout_p=0.3, seed=seed, backend="triton")

    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=graphs, dynamic=True)
    for seed, rows in ((1, 12), (2, 40)):
        tensors = make(rows, 5, 8, 3)
        eager, traced = (
            value_and_gradients(lambda *t, f=f, s=seed: f(*t, torch.tensor(s)), tensors) for f in (function, compiled)
        )
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(traced, eager, strict=True))
    assert graphs.frame_count == 1


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant: bool) -> None:
    def function(*tensors: Tensor) -> Tensor:
        return lora_linear(*tensors, 0.7, dropout_p=0.3, seed=None, backend="triton")

    def gradients(f: Any) -> Sequence[Tensor | None]:
        torch.manual_seed(1)
        leaves = [t.requires_grad_() for t in make(12, 5, 8, 3)]
        f(*leaves).sum().backward()
        return [leaf.grad for leaf in leaves]

    def checkpointed(*tensors: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(function, *tensors, use_reentrant=use_reentrant)

    pairs = zip(gradients(function), gradients(checkpointed), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_float64_is_refused() -> None:
    with pytest.raises(ValueError, match="not float64"):
        lora_linear(*make(3, 4, 6, 2, dtype=torch.float64), 1.0, backend="triton")
    x, weight, _, a, b = make(3, 4, 6, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="not float64"):
        lora_linear_group(x, [weight], [None], [a], [b], [1.0], backend="triton")
