"""lora_linear: the definition, the torch backend against it, FLOPs, memory, and refused calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_as_exact_as, matrix_flops, peak_bytes, value_and_gradients
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from domain_ft_kernels import keep_mask, lora_linear

OP = torch.ops.domain_ft_kernels.lora_linear.default
BACKWARD_OP = torch.ops.domain_ft_kernels.lora_linear_backward.default


def make(
    rows: int, n: int, k: int, rank: int, *, bias: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Any]:
    """x, weight, bias, lora_a, lora_b of ordinary sizes, rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = [draw(rows, k), draw(n, k) / k**0.5, draw(n) if bias else None, draw(rank, k) / k**0.5, draw(n, rank)]
    return [None if t is None else t.to(dtype) for t in tensors]


def run(backend: str, tensors: list[Any], grad: Tensor | None = None, **options: Any) -> list[Tensor]:
    return value_and_gradients(lambda *t: lora_linear(*t, 0.7, backend=backend, **options), tensors, grad)


def doubles(tensors: list[Any]) -> list[Any]:
    return [None if t is None else t.double() for t in tensors]


def test_reference_is_the_definition() -> None:
    x, weight, bias, a, b = make(9, 5, 7, 3, dtype=torch.float64)
    mask = keep_mask(torch.tensor(8), 9, 7, 0.25, x.device)
    plain = F.linear(x, weight, bias) + 0.7 * (x @ a.T @ b.T)
    dropped = F.linear(x, weight, bias) + 0.7 * ((x * mask / 0.75) @ a.T @ b.T)
    torch.testing.assert_close(lora_linear(x, weight, bias, a, b, 0.7, backend="reference"), plain)
    y = lora_linear(x, weight, bias, a, b, 0.7, dropout_p=0.25, seed=8, backend="reference")
    torch.testing.assert_close(y, dropped)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_gradients_against_finite_differences(backend: str, dropout_p: float) -> None:
    """With dropout this also shows that forward and backward use the same mask."""
    tensors = [t.requires_grad_() for t in make(6, 4, 5, 2, dtype=torch.float64)]
    torch.autograd.gradcheck(
        lambda *t: lora_linear(*t, 0.7, dropout_p=dropout_p, seed=3, backend=backend), tensors, fast_mode=False
    )


@given(
    rows=st.integers(0, 70),
    n=st.integers(1, 50),
    k=st.integers(1, 50),
    rank=st.integers(1, 64),
    bias=st.booleans(),
    dropout_p=st.sampled_from([0.0, 0.1, 0.6]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_torch_is_as_exact_as_the_reference(
    rows: int, n: int, k: int, rank: int, bias: bool, dropout_p: float, dtype: torch.dtype, seed: int
) -> None:
    tensors = make(rows, n, k, rank, bias=bias, dtype=dtype, seed=seed)
    grad = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
    options = {"dropout_p": dropout_p, "seed": seed}
    exact = run("reference", doubles(tensors), grad, **options)
    magnitudes = run("reference", [None if t is None else t.double().abs() for t in tensors], grad.abs(), **options)
    reference, actual = run("reference", tensors, grad, **options), run("torch", tensors, grad, **options)
    assert_as_exact_as(actual, reference, exact, roundings=2, magnitudes=magnitudes)


def test_many_blocks_of_rows_are_as_exact_as_in_the_reference() -> None:
    """More elements than are masked at a time, with a ragged last block, and one row wider than a block."""
    for shape in ((1000, 30, 500, 4), (3, 5, 2**17 + 3, 2)):
        tensors = make(*shape)
        exact = run("reference", doubles(tensors), dropout_p=0.1, seed=1)
        reference = run("reference", tensors, dropout_p=0.1, seed=1)
        assert_as_exact_as(run("torch", tensors, dropout_p=0.1, seed=1), reference, exact, roundings=2)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_float32_adapters_on_a_bfloat16_base_keep_their_types(backend: str) -> None:
    x, weight, bias, a, b = make(20, 12, 16, 4, dtype=torch.bfloat16)
    y, *gradients = run(backend, [x, weight, bias, a.float(), b.float()])
    assert y.dtype == torch.bfloat16
    assert [g.dtype for g in gradients] == [torch.bfloat16] * 3 + [torch.float32] * 2


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_as_exact_as_in_the_reference(dtype: torch.dtype, dropout_p: float) -> None:
    tensors = make(40, 24, 32, 8)
    options = {"dropout_p": dropout_p, "seed": 5}
    exact = run("reference", doubles(tensors), **options)
    with torch.autocast("cpu", dtype=dtype):
        reference, actual = run("reference", tensors, **options), run("torch", tensors, **options)
        assert F.linear(tensors[0], tensors[1]).dtype == actual[0].dtype == dtype
    assert [g.dtype for g in actual[1:]] == [torch.float32] * 5
    assert_as_exact_as(actual, reference, exact, roundings=1)


def test_layouts_make_no_difference() -> None:
    """Leading dimensions, Conv1D's transposed weight, strided and expanded inputs, an expanded gradient."""
    x, weight, bias, a, b = make(24, 10, 6, 3)
    options = {"dropout_p": 0.2, "seed": 4}
    wanted = run("torch", [x, weight, bias, a, b], **options)
    for leading in ((24,), (4, 6), (2, 3, 4)):
        y, dx, *rest = run("torch", [x.reshape(*leading, 6), weight, bias, a, b], **options)
        for ours, theirs in zip((y.reshape(24, 10), dx.reshape(24, 6), *rest), wanted, strict=True):
            assert torch.equal(ours, theirs)

    strided = [t.t().contiguous().t() if t.dim() == 2 else t for t in (x, weight, bias, a, b)]
    for ours, theirs in zip(run("torch", strided, **options), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)

    expanded = x[:1].expand(24, 6)
    torch.testing.assert_close(
        lora_linear(expanded, weight, bias, a, b, 1.0, **options),
        lora_linear(expanded.contiguous(), weight, bias, a, b, 1.0, **options),
    )
    conv1d = weight.t().contiguous().requires_grad_()  # (K, N), as GPT-2 keeps it
    lora_linear(x, conv1d.t(), bias, a, b, 0.7, **options).sum().backward()
    torch.testing.assert_close(conv1d.grad, wanted[2].t())


def test_x_may_be_one_vector() -> None:
    x, weight, bias, a, b = make(1, 10, 6, 3)
    assert lora_linear(x[0], weight, bias, a, b, 0.7).shape == (10,)


def test_two_runs_are_bit_identical() -> None:
    tensors = make(300, 64, 500, 8)
    first, second = (run("torch", tensors, dropout_p=0.1, seed=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_mask_depends_on_the_seed_or_on_torchs_generator() -> None:
    tensors = make(8, 4, 16, 2)
    one = lora_linear(*tensors, 1.0, dropout_p=0.5, seed=1)
    assert torch.equal(one, lora_linear(*tensors, 1.0, dropout_p=0.5, seed=torch.tensor(1)))
    assert not torch.equal(one, lora_linear(*tensors, 1.0, dropout_p=0.5, seed=2))
    torch.manual_seed(0)
    drawn = lora_linear(*tensors, 1.0, dropout_p=0.5)
    assert not torch.equal(drawn, lora_linear(*tensors, 1.0, dropout_p=0.5))
    torch.manual_seed(0)
    assert torch.equal(drawn, lora_linear(*tensors, 1.0, dropout_p=0.5))
    before = torch.get_rng_state()
    lora_linear(*tensors, 1.0)
    lora_linear(*tensors, 1.0, dropout_p=0.5, seed=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("names", ["AB", "xAB", "x", "A", "B", "b", "W", "xWbAB"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_only_required_gradients_are_computed(names: str, dropout_p: float) -> None:
    """Backward runs only the products of the formulas, and computes only required gradients."""
    m, n, k, r = 40, 24, 32, 4
    tensors = dict(zip("xWbAB", make(m, n, k, r), strict=True))
    for name in names:
        tensors[name].requires_grad_()
    y = lora_linear(*tensors.values(), 0.7, dropout_p=dropout_p, seed=1)
    base, down, up = 2 * m * n * k, 2 * m * k * r, 2 * m * n * r
    flops, merged = 0, dropout_p == 0
    if "x" in names:
        flops += base + (2 * n * r * k if merged else down)  # g (W + s B A), or g W and dt A
    if ("x" in names and not merged) or "A" in names:
        flops += up  # g B
    flops += base * ("W" in names) + down * ("A" in names) + up * ("B" in names)
    assert matrix_flops(lambda: y.sum().backward()) == flops
    assert {name for name, tensor in tensors.items() if tensor.grad is not None} == set(names)


def test_only_x_its_projection_and_the_parameters_are_saved() -> None:
    tensors = make(512, 64, 256, 4)
    for adapter in tensors[3:]:
        adapter.requires_grad_()
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        lora_linear(*tensors, 1.0, dropout_p=0.1, seed=torch.tensor(1))
    parameters = sum(t.nbytes for t in tensors[1:])
    assert sum(saved.values()) <= tensors[0].nbytes + 512 * 4 * 4 + parameters + 8


def test_dropout_needs_no_copy_of_x() -> None:
    tensors = make(4096, 64, 512, 4)
    for adapter in tensors[3:]:
        adapter.requires_grad_()

    def step() -> None:
        lora_linear(*tensors, 1.0, dropout_p=0.1, seed=1).sum().backward()

    peak, _ = peak_bytes(step)
    assert peak < 0.7 * tensors[0].nbytes


@pytest.mark.parametrize(("names", "dropout_p"), [("AB", 0.0), ("xWbAB", 0.3)])
def test_the_ops_pass_opcheck(names: str, dropout_p: float) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        tensors = dict(zip("xWbAB", make(6, 5, 4, 3, dtype=dtype), strict=True))
        for name in names:
            tensors[name].requires_grad_()
        seed = torch.tensor(3) if dropout_p else None
        x, *layer = tensors.values()
        torch.library.opcheck(OP, (x, *([t] for t in layer), [0.5], dropout_p, seed, dtype))
        layer = [[t.detach()] for t in layer]
        needs = [name in names for name in "xWbAB"]
        grad, down = torch.randn(6, 5, dtype=dtype), torch.randn(6, 3, dtype=dtype)
        torch.library.opcheck(BACKWARD_OP, ([grad], x.detach(), down, *layer, [0.5], dropout_p, seed, dtype, needs))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_it_compiles_whole_and_once_for_all_seeds(backend: str) -> None:
    def function(x: Tensor, w: Tensor, b: Tensor, a: Tensor, c: Tensor, seed: Tensor) -> Tensor:
        return lora_linear(x, w, b, a, c, 0.7, dropout_p=0.3, seed=seed, backend=backend)

    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=graphs)
    tensors = make(12, 5, 8, 3)
    for seed in (1, 2, 3):
        eager, traced = (
            value_and_gradients(lambda *t, f=f, s=seed: f(*t, torch.tensor(s)), tensors) for f in (function, compiled)
        )
        for ours, theirs in zip(traced, eager, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert graphs.frame_count == 1


def test_it_compiles_once_for_any_number_of_rows() -> None:
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda *t: lora_linear(*t, 0.7), fullgraph=True, backend=graphs, dynamic=True)
    compiled(*make(7, 5, 8, 3))
    compilations = graphs.frame_count
    for rows in (12, 31):
        tensors = make(rows, 5, 8, 3)
        assert torch.equal(compiled(*tensors), lora_linear(*tensors, 0.7))
    assert graphs.frame_count == compilations


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_it_compiles_under_autocast(backend: str) -> None:
    def function(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return lora_linear(*tensors, 0.7, dropout_p=0.3, seed=torch.tensor(2), backend=backend)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    eager, traced = (value_and_gradients(f, make(12, 5, 8, 3)) for f in (function, compiled))
    assert eager[0].dtype == traced[0].dtype == torch.bfloat16
    for ours, theirs in zip(traced, eager, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("seed", [None, 9])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(seed: int | None, use_reentrant: bool) -> None:
    def function(*tensors: Tensor) -> Tensor:
        torch.manual_seed(1)
        return lora_linear(*tensors, 0.7, dropout_p=0.3, seed=seed)

    def checkpointed(*tensors: Tensor) -> Tensor:
        return checkpoint(function, *tensors, use_reentrant=use_reentrant)

    tensors = make(12, 5, 8, 3)
    results = []
    for f in (function, checkpointed):
        leaves = [t.clone().requires_grad_() for t in tensors]
        f(*leaves).sum().backward()
        results.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 7)}, r"x has shape \(3, 7\); expected \(..., 6\), as weight is \(N, K\) = \(4, 6\)"),
        ({"weight": torch.ones(6)}, r"weight has shape \(6,\); expected \(N, K\)"),
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\); expected \(N,\) = \(4,\)"),
        ({"lora_a": torch.ones(2, 5)}, r"lora_a has shape \(2, 5\); expected \(R, K\) = \(R, 6\)"),
        ({"lora_b": torch.ones(4, 3)}, r"lora_b has shape \(4, 3\); expected \(N, R\) = \(4, 2\)"),
        ({"x": torch.ones(3, 6).bfloat16()}, r"x has dtype torch.bfloat16 and weight torch.float32"),
        ({"lora_a": torch.ones(2, 6, device="meta")}, r"expected all tensors on one device, got .*lora_a on meta"),
        ({"dropout_p": 1.0}, r"dropout_p=1.0: expected 0 <= dropout_p < 1"),
        ({"dropout_p": 0.1, "seed": torch.ones(2)}, r"seed has shape \(2,\)"),
        ({"backend": "cuda"}, r"backend='cuda': expected one of auto"),
    ],
)
def test_bad_calls_are_refused(change: dict[str, Any], message: str) -> None:
    x, weight, bias, a, b = make(3, 4, 6, 2)
    arguments = {"x": x, "weight": weight, "bias": bias, "lora_a": a, "lora_b": b, "scaling": 1.0}
    with pytest.raises(ValueError, match=message):
        lora_linear(**{**arguments, **change})
