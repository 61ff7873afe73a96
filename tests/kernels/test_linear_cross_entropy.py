"""linear_cross_entropy: the definition, the torch backend's three ways, FLOPs and memory, and refused calls."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_as_exact_as, matrix_flops, peak_bytes, relative_error, value_and_gradients
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from domain_ft_kernels import linear_cross_entropy

OPS = torch.ops.domain_ft_kernels
MODULE = importlib.import_module("domain_ft_kernels.linear_cross_entropy")  # the package has the function of that name
TERMS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"softcap": 3.0},
    {"label_smoothing": 0.3, "z_loss": 0.1, "softcap": 5.0},
]


def make(
    rows: int,
    classes: int,
    size: int,
    *,
    bias: bool = True,
    ignored: float = 0.3,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[list[Any], Tensor]:
    """[hidden, weight, bias or None], with logits of order 1, and targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, size, generator=generator)
    weight = torch.randn(classes, size, generator=generator) * 2 / size**0.5
    offset = torch.randn(classes, generator=generator) if bias else None
    target = torch.randint(0, classes, (rows,), generator=generator)
    tensors = [None if t is None else t.to(dtype) for t in (hidden, weight, offset)]
    return tensors, target.where(torch.rand(rows, generator=generator) >= ignored, -100)


def run(backend: str, tensors: list[Any], target: Tensor, grad: Tensor | None = None, **options: Any) -> list[Tensor]:
    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear_cross_entropy(hidden, weight, target, bias, backend=backend, **options)

    return value_and_gradients(loss, tensors, grad)


def doubles(tensors: list[Any]) -> list[Any]:
    return [None if t is None else t.double() for t in tensors]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles and blocks so small that every shape has several, the last ones partial."""
    monkeypatch.setattr(MODULE, "TILE", 16)
    monkeypatch.setattr(MODULE, "WORKSPACE_BYTES", 5 * 16 * 4)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_is_torchs_own_definition(backend: str, reduction: str, label_smoothing: float) -> None:
    tensors, target = make(20, 37, 6)
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    ours = run(backend, doubles(tensors), target, **options)
    theirs = value_and_gradients(
        lambda h, w, b: F.cross_entropy(F.linear(h, w, b), target, **options), doubles(tensors)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    "terms", [TERMS[0], *(pytest.param(t, marks=pytest.mark.slow) for t in TERMS[1:-1]), TERMS[-1]]
)
@pytest.mark.parametrize(("reduction", "frozen"), [("mean", True), ("mean", False), ("none", False)])
@pytest.mark.usefixtures("small_tiles")
def test_gradients_against_finite_differences(
    backend: str, terms: dict[str, Any], reduction: str, frozen: bool
) -> None:
    tensors, target = make(6, 35, 4)
    hidden, weight, bias = doubles(tensors)

    def loss(h: Tensor, w: Tensor = weight, b: Tensor = bias) -> Tensor:
        return linear_cross_entropy(h, w, target, b, reduction=reduction, backend=backend, **terms)

    leaves = [t.requires_grad_() for t in ([hidden] if frozen else [hidden, weight, bias])]
    torch.autograd.gradcheck(loss, leaves)


@given(
    rows=st.integers(0, 40),
    classes=st.integers(1, 70),
    size=st.integers(1, 40),
    bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    terms=st.sampled_from(TERMS),
    reduction=st.sampled_from(["sum", "none"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_torch_is_as_exact_as_the_reference(
    rows: int,
    classes: int,
    size: int,
    bias: bool,
    ignored: float,
    terms: dict[str, Any],
    reduction: str,
    dtype: torch.dtype,
    seed: int,
) -> None:
    tensors, target = make(rows, classes, size, bias=bias, ignored=ignored, dtype=dtype, seed=seed)
    grad = torch.randn(rows) if reduction == "none" else torch.tensor(0.7)
    options = {**terms, "reduction": reduction}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "TILE", 16)
        patch.setattr(MODULE, "WORKSPACE_BYTES", 5 * 16 * 4)
        actual = run("torch", tensors, target, grad, **options)
    reference = run("reference", tensors, target, grad, **options)
    exact = run("reference", doubles(tensors), target, grad, **options)
    assert actual[0].dtype == torch.float32
    # With a probability near 1, terms near 1 cancel: the error is measured against their size.
    count = 1.0 + int((target != -100).sum())
    magnitudes = [
        exact[0].abs() + count,
        *(count * (1 + t.double().abs().amax()) for t in tensors if t is not None and t.numel()),
    ]
    if rows:
        assert_as_exact_as(actual, reference, exact, roundings=2, magnitudes=magnitudes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_lose_only_the_last_rounding(dtype: torch.dtype) -> None:
    """Sums are float32: the loss is within 1e-6 of float64, each gradient within the machine epsilon of its type."""
    tensors, target = make(300, 9000, 96, dtype=dtype)
    exact = run("reference", doubles(tensors), target)
    loss, *gradients = run("torch", tensors, target)
    assert relative_error(loss, exact[0]) < 1e-6
    assert all(relative_error(g, e) < torch.finfo(dtype).eps for g, e in zip(gradients, exact[1:], strict=True))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_real_vocabulary_is_as_exact_as_in_the_reference(reduction: str) -> None:
    """V = 30,522: 15 tiles, the last partial; against the reference in float64."""
    tensors, target = make(9, 30522, 24)
    exact = run("reference", doubles(tensors), target, reduction=reduction)
    reference, actual = (run(backend, tensors, target, reduction=reduction) for backend in ("reference", "torch"))
    assert_as_exact_as(actual, reference, exact, roundings=2)


@pytest.mark.usefixtures("small_tiles")
def test_extreme_logits_give_the_result_of_torch() -> None:
    """Logits of ±1e4, and a bias that masks a whole tile of classes with -inf; with a frozen and a trained weight."""
    hidden, weight = torch.tensor([[1e2], [-1e2], [0.0]]), torch.linspace(-100, 100, 40).unsqueeze(1)
    bias = torch.zeros(40)
    bias[:17] = float("-inf")
    target = torch.tensor([39, 30, 20])

    def plain(h: Tensor, w: Tensor = weight) -> Tensor:
        return F.cross_entropy(F.linear(h, w, bias), target, reduction="sum")

    def fused(h: Tensor, w: Tensor = weight) -> Tensor:
        return linear_cross_entropy(h, w, target, bias)

    for tensors in ([hidden], [hidden, weight]):
        ours, theirs = value_and_gradients(fused, tensors), value_and_gradients(plain, tensors)
        for actual, wanted in zip(ours, theirs, strict=True):
            assert actual.isfinite().all()
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("rows", [0, 4])
def test_with_nothing_to_predict_the_sum_is_zero_and_the_mean_nan(backend: str, rows: int) -> None:
    tensors, _ = make(rows, 5, 3)
    target = torch.full((rows,), -100)
    for reduction in ("sum", "none"):
        losses, *gradients = run(backend, tensors, target, reduction=reduction)
        assert losses.shape == (() if reduction == "sum" else (rows,))
        assert not losses.any()
        assert not any(g.any() for g in gradients)
    assert linear_cross_entropy(tensors[0], tensors[1], target, reduction="mean", backend=backend).isnan()


def test_layouts_make_no_difference() -> None:
    (hidden, weight, bias), target = make(24, 50, 6)
    for reduction in ("sum", "none"):
        wanted = run("torch", [hidden, weight, bias], target, reduction=reduction)
        folded = run("torch", [hidden.reshape(2, 3, 4, 6), weight, bias], target.reshape(2, 3, 4), reduction=reduction)
        for ours, theirs in zip(folded, wanted, strict=True):
            assert torch.equal(ours.reshape(theirs.shape), theirs)
        strided = [t.t().contiguous().t() if t.dim() == 2 else t for t in (hidden, weight, bias)]
        for ours, theirs in zip(run("torch", strided, target.int(), reduction=reduction), wanted, strict=True):
            torch.testing.assert_close(ours, theirs)
    expanded = hidden[:1].expand(24, 6)
    torch.testing.assert_close(
        linear_cross_entropy(expanded, weight, target, bias),
        linear_cross_entropy(expanded.contiguous(), weight, target, bias),
    )
    one = linear_cross_entropy(hidden[0], weight, torch.tensor(3), bias)
    torch.testing.assert_close(one, F.cross_entropy(F.linear(hidden[0], weight, bias), torch.tensor(3)))


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_as_exact_as_in_the_reference(dtype: torch.dtype, reduction: str) -> None:
    tensors, target = make(40, 200, 32)
    exact = run("reference", doubles(tensors), target, reduction=reduction)
    with torch.autocast("cpu", dtype=dtype):
        reference, actual = (run(backend, tensors, target, reduction=reduction) for backend in ("reference", "torch"))
        mixed = run("torch", [tensors[0].to(dtype), *tensors[1:]], target, reduction=reduction)
    assert [t.dtype for t in actual] == [torch.float32] * 4
    assert [t.dtype for t in mixed] == [torch.float32, dtype, torch.float32, torch.float32]
    eps = torch.finfo(dtype).eps
    for a, r, e in zip(actual, reference, exact, strict=True):
        assert relative_error(a, e) <= 2 * relative_error(r, e) + eps / 4
    assert torch.equal(mixed[0], actual[0])


def test_the_backward_of_an_autocast_forward_may_run_under_autocast() -> None:
    tensors, target = make(40, 200, 32)
    wanted = run("torch", tensors, target, torch.ones(40), reduction="none")
    leaves = [t.requires_grad_() for t in tensors]
    losses = linear_cross_entropy(leaves[0], leaves[1], target, leaves[2], reduction="none")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = torch.autograd.grad(losses.sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted[1:], strict=True))


@pytest.mark.parametrize(
    ("needs", "reduction", "products"),
    [
        ("", "sum", 1),
        ("", "none", 1),
        ("h", "sum", 2),
        ("h", "mean", 2),
        ("h", "none", 2),
        ("w", "sum", 2),
        ("b", "sum", 1),
        ("hwb", "sum", 3),
        ("w", "none", 3),
        ("hwb", "none", 4),
    ],
)
def test_only_required_products_and_gradients_are_computed(needs: str, reduction: str, products: int) -> None:
    """The products of the module's table run, over labelled rows only, and only required gradients are computed."""
    tensors, target = make(60, 5000, 16)
    named = dict(zip("hwb", tensors, strict=True))
    for name in needs:
        named[name].requires_grad_()
    labelled = int((target != -100).sum())

    def step() -> None:
        loss = linear_cross_entropy(named["h"], named["w"], target, named["b"], reduction=reduction)
        if needs:
            loss.sum().backward()

    assert matrix_flops(step) == products * 2 * labelled * 5000 * 16
    assert {name for name, tensor in named.items() if tensor.grad is not None} == set(needs)


@pytest.mark.parametrize("needs", ["", "h", "hwb"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_memory_does_not_grow_with_the_logits(needs: str, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is needed for the gradients, the workspace and copies of the rows, but not for all logits."""
    workspace, rows, classes, size = 2**20, 2000, 10007, 8
    monkeypatch.setattr(MODULE, "WORKSPACE_BYTES", workspace)
    tensors, target = make(rows, classes, size, ignored=0.0)
    named = dict(zip("hwb", tensors, strict=True))
    for name in needs:
        named[name].requires_grad_()

    def step() -> None:
        loss = linear_cross_entropy(named["h"], named["w"], target, named["b"], reduction=reduction)
        if needs:
            loss.sum().backward()

    peak, largest = peak_bytes(step)
    asked = sum(named[name].nbytes for name in needs)
    assert rows * classes * 4 > 20 * workspace
    assert largest <= max(workspace, asked)
    assert peak <= 3 * asked + 2 * workspace + 4 * tensors[0].nbytes


@pytest.mark.usefixtures("small_tiles")
def test_two_runs_are_bit_identical() -> None:
    tensors, target = make(60, 200, 16)
    for reduction in ("sum", "none"):
        first, second = (run("torch", tensors, target, reduction=reduction) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_backward_can_run_twice() -> None:
    tensors, target = make(10, 30, 6)
    hidden = tensors[0].requires_grad_()
    for reduction in ("sum", "none"):
        loss = linear_cross_entropy(hidden, tensors[1], target, reduction=reduction).sum()
        first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(loss, hidden)[0])


@pytest.mark.parametrize("terms", [pytest.param(TERMS[0], marks=pytest.mark.slow), TERMS[-1]])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_the_ops_pass_opcheck(terms: dict[str, Any], dtype: torch.dtype) -> None:
    (hidden, weight, bias), target = make(6, 5, 4, dtype=dtype)
    options = (-100, terms.get("label_smoothing", 0.0), terms.get("z_loss", 0.0), terms.get("softcap"), dtype)
    losses, _, *sums = OPS.linear_cross_entropy(hidden, weight, target, bias, None, *options, False)
    for needs in ([True, True, True], [True, False, False], [False, True, False]):
        backward = (losses, None, *sums, hidden, weight, target, bias, None, *options, False, needs)
        torch.library.opcheck(OPS.linear_cross_entropy_backward.default, backward)
        tensors = [t.clone().requires_grad_(need) for t, need in zip((hidden, weight, bias), needs, strict=True)]
        arguments = (*tensors[:2], target, tensors[2], None, *options)
        torch.library.opcheck(OPS.linear_cross_entropy.default, (*arguments, False))
        torch.library.opcheck(OPS.linear_cross_entropy_with_gradients.default, (*arguments, True, needs))
    arguments = (hidden.clone().requires_grad_(), weight, target, None, None, *options)
    torch.library.opcheck(OPS.linear_cross_entropy_with_gradients.default, (*arguments, False, [True, False, False]))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_it_compiles_whole_with_ignored_rows(backend: str, reduction: str) -> None:
    def function(h: Tensor, w: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return linear_cross_entropy(h * 2, w, t, b, reduction=reduction, label_smoothing=0.1, backend=backend)

    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=graphs, dynamic=True)
    compilations = 0
    for rows in (13, 29):
        compilations = graphs.frame_count
        tensors, target = make(rows, 50, 10)
        eager, traced = (
            value_and_gradients(lambda *ts, f=f, t=target: f(*ts, t), tensors) for f in (function, compiled)
        )
        for ours, theirs in zip(traced, eager, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert graphs.frame_count == compilations


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_activation_checkpointing_changes_nothing(use_reentrant: bool, reduction: str) -> None:
    tensors, target = make(12, 40, 5)

    def function(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return linear_cross_entropy(h, w, target, b, reduction=reduction)

    results = []
    for f in (function, lambda *t: checkpoint(function, *t, use_reentrant=use_reentrant)):
        leaves = [t.clone().requires_grad_() for t in tensors]
        f(*leaves).sum().backward()
        results.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.slow
def test_samples_of_torchs_own_tests_pass() -> None:
    """In a separate process: torch's test utilities import setuptools, which replaces distutils globally."""
    program = Path(__file__).with_name("torch_samples.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    linear, plain = map(int, done.stdout.split())
    assert linear > 100
    assert plain > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden": torch.ones(3, 5)},
            r"hidden has shape \(3, 5\); expected \(..., 6\), as weight is \(V, D\) = \(4, 6\)",
        ),
        ({"weight": torch.ones(6)}, r"weight has shape \(6,\); expected \(V, D\)"),
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\); expected \(V,\) = \(4,\)"),
        (
            {"target": torch.zeros(4, dtype=torch.long)},
            r"target has shape \(4,\); expected the leading dimensions = \(3,\)",
        ),
        ({"target": torch.zeros(3)}, r"target has dtype torch.float32"),
        ({"target": torch.tensor([0, 4, 1])}, r"target holds 4 at \(flat\) position 1; expected 0 <= target < 4"),
        ({"hidden": torch.ones(3, 6).bfloat16()}, r"hidden has dtype torch.bfloat16 and weight torch.float32"),
        ({"weight": torch.ones(4, 6, device="meta")}, r"expected all tensors on one device"),
        ({"weight": torch.ones(0, 6)}, r"there are 0 classes"),
        ({"label_smoothing": -0.1}, r"label_smoothing=-0.1"),
        ({"softcap": -1.0}, r"softcap=-1.0"),
        ({"reduction": "batchmean"}, r"reduction='batchmean': expected one of sum, mean, none"),
        ({"filter_eps": -1e-3}, r"filter_eps=-0.001: expected filter_eps >= 0, or None"),
        ({"backend": "cuda"}, r"backend='cuda': expected one of auto, reference, torch, triton"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("trained", [False, True])
def test_bad_calls_are_refused(change: dict[str, Any], message: str, backend: str, trained: bool) -> None:
    arguments = {
        "hidden": torch.ones(3, 6).requires_grad_(trained),
        "weight": torch.ones(4, 6),
        "target": torch.zeros(3, dtype=torch.long),
        "bias": None,
        "backend": backend,
    }
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**{**arguments, **change})
