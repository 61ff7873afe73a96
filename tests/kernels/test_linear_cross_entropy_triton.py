"""linear_cross_entropy's Triton kernels in the interpreter: accurate, deterministic, no unnecessary work.

test_in_bounds.py checks memory accesses; test_composition.py checks autocast, compilation, checkpointing and processes.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import checked_memory, exact_bfloat16
from kernel_checks import BY_WIDTH, DTYPES, HALVES, assert_as_exact_as, relative_error, value_and_gradients
from test_linear_cross_entropy import TERMS, doubles, make, run
from torch import Tensor

from domain_ft_kernels import linear_cross_entropy
from domain_ft_kernels import stash as stash_sizes
from domain_ft_kernels.triton_backend import launch

OPS = torch.ops.domain_ft_kernels
MODULE = importlib.import_module("domain_ft_kernels.linear_cross_entropy")  # the package has the function of that name
KERNELS = importlib.import_module("domain_ft_kernels.triton_backend.linear_cross_entropy")


@pytest.fixture(autouse=True)
def _bfloat16() -> Iterator[None]:
    with exact_bfloat16():
        yield


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 rows. With more rows, backward recomputes the logits of unsummed losses."""
    monkeypatch.setattr(stash_sizes, "STASH_BYTES", 1)


def assert_exact(tensors: list[Any], target: Tensor, grad: Tensor | None = None, **options: Any) -> list[Tensor]:
    """Assert that the triton backend's loss and gradients are as exact as the reference's. Returns them.

    With a probability near 1, terms of the gradient and of the loss cancel: their errors are measured against the size
    of these terms.
    """
    actual = run("triton", tensors, target, grad, **options)
    reference = run("reference", tensors, target, grad, **options)
    exact = run("reference", doubles(tensors), target, grad, **options)
    assert actual[0].dtype == torch.float32
    count = 1.0 + int((target != -100).sum())
    magnitudes = [
        exact[0].abs() + count,
        *(count * (1 + t.double().abs().amax()) for t in tensors if t is not None and t.numel()),
    ]
    if len(target):
        assert_as_exact_as(actual, reference, exact, roundings=2, magnitudes=magnitudes)
    return actual


# Exactness


@pytest.mark.slow
@given(
    rows=st.integers(0, 150),
    classes=st.sampled_from([1, 2, 31, 127, 128, 129, 256, 300]),
    size=st.sampled_from([1, 7, 16, 40, 64, 70]),
    bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    terms=st.sampled_from(TERMS),
    reduction=st.sampled_from(["sum", "none"]),
    dtype=st.sampled_from(DTYPES),
    stash=st.sampled_from([1, 2**20]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=10, deadline=None)
def test_is_as_exact_as_the_reference(
    rows: int,
    classes: int,
    size: int,
    bias: bool,
    ignored: float,
    terms: dict[str, Any],
    reduction: str,
    dtype: torch.dtype,
    stash: int,
    seed: int,
) -> None:
    tensors, target = make(rows, classes, size, bias=bias, ignored=ignored, dtype=dtype, seed=seed)
    grad = torch.randn(rows) if reduction == "none" else torch.tensor(0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stash_sizes, "STASH_BYTES", stash)
        assert_exact(tensors, target, grad, reduction=reduction, **terms)


@pytest.mark.parametrize(
    "terms", [TERMS[0], *(pytest.param(terms, marks=pytest.mark.slow) for terms in TERMS[1:-1]), TERMS[-1]]
)
@pytest.mark.parametrize("dtype", BY_WIDTH)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_options_over_ragged_panels_are_as_exact_as_in_the_reference(
    terms: dict[str, Any], dtype: torch.dtype, reduction: str
) -> None:
    """V = 300 ends 44 columns into the third panel; D = 70 and 90 rows end within a tile."""
    tensors, target = make(90, 300, 70, dtype=dtype)
    assert_exact(tensors, target, torch.randn(90) if reduction == "none" else None, reduction=reduction, **terms)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.usefixtures("small_chunks")
def test_several_chunks_are_as_exact_as_the_reference(reduction: str) -> None:
    """300 rows in three chunks. The labelled rows fill only two."""
    tensors, target = make(300, 260, 24, ignored=0.5)
    assert 128 < int((target != -100).sum()) <= 256
    assert_exact(tensors, target, torch.randn(300) if reduction == "none" else None, reduction=reduction)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BY_WIDTH[1:])
def test_half_precision_loses_only_the_last_roundings(dtype: torch.dtype) -> None:
    """The loss is within 3e-5 of float64; dW within 2.5e-3, for one rounding of ∂loss/∂u and one of dW; dx and db
    within the machine epsilon of their type.
    """
    tensors, target = make(300, 3000, 96, dtype=dtype)
    loss, d_hidden, d_weight, d_bias = run("triton", tensors, target)
    exact = run("reference", doubles(tensors), target)
    assert relative_error(loss, exact[0]) < 3e-5
    assert relative_error(d_weight, exact[2]) < 2.5e-3
    assert relative_error(d_hidden, exact[1]) < torch.finfo(dtype).eps
    assert relative_error(d_bias, exact[3]) < torch.finfo(dtype).eps


def test_float16_keeps_the_probabilities_that_bfloat16_would_lose() -> None:
    """The stash is float16 for bfloat16 too: with bfloat16 logits near 10, probabilities would be off by up to 3%."""
    hidden = torch.full((4, 1), 10.0).bfloat16()
    weight = torch.linspace(0.9, 1.0, 200).bfloat16().unsqueeze(1)
    target = torch.tensor([0, 50, 100, 199])
    exact = run("reference", doubles([hidden, weight, None]), target, reduction="none")
    actual = run("triton", [hidden, weight, None], target, reduction="none")
    assert relative_error(actual[2], exact[2]) < 2.5e-3


@pytest.mark.slow
def test_gpt2s_vocabulary_is_as_exact_as_in_the_reference() -> None:
    """V = 50,257: 393 panels, the last with 81 columns."""
    tensors, target = make(3, 50257, 16, ignored=0.0)
    target[0] = 50256
    assert_exact(tensors, target, reduction="sum")


@pytest.mark.parametrize("rows", [1, 5])
def test_one_labelled_row_is_as_exact_as_in_the_reference(rows: int) -> None:
    tensors, _ = make(rows, 140, 20)
    target = torch.full((rows,), -100)
    target[rows // 2] = 7
    for reduction in ("sum", "mean", "none"):
        actual = assert_exact(tensors, target, reduction=reduction)
        assert not actual[1][target == -100].any()


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.usefixtures("small_chunks")
def test_with_nothing_to_predict_the_sum_is_zero_and_the_mean_nan(rows: int) -> None:
    tensors, _ = make(rows, 5, 3)
    target = torch.full((rows,), -100)
    for reduction in ("sum", "none"):
        losses, *gradients = run("triton", tensors, target, reduction=reduction)
        assert losses.shape == (() if reduction == "sum" else (rows,))
        assert not losses.any()
        assert [g.shape for g in gradients] == [t.shape for t in tensors]
        assert not any(g.any() for g in gradients)
    assert linear_cross_entropy(tensors[0], tensors[1], target, reduction="mean", backend="triton").isnan()


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_extreme_logits_give_the_result_of_torch(reduction: str) -> None:
    """Logits of ±1e4, and a bias of -inf on all of the first panel and some of the next."""
    hidden, weight = torch.tensor([[1e2], [-1e2], [0.0]]), torch.linspace(-100, 100, 300).unsqueeze(1)
    bias = torch.zeros(300)
    bias[:150] = float("-inf")
    target = torch.tensor([299, 200, 170])

    def loss(ours: bool, h: Tensor, w: Tensor) -> Tensor:
        if ours:
            return linear_cross_entropy(h, w, target, bias, reduction=reduction, backend="triton")
        return F.cross_entropy(F.linear(h, w, bias), target, reduction=reduction)

    ours, theirs = (value_and_gradients(lambda h, w, o=o: loss(o, h, w), [hidden, weight]) for o in (True, False))
    for actual, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def test_a_row_of_minus_infinity_is_nan_and_affects_no_other() -> None:
    """Its loss and gradient are NaN, as in torch."""
    hidden, weight = torch.tensor([[1.0], [-float("inf")]]), torch.linspace(1, 2, 140).unsqueeze(1)
    target = torch.tensor([3, 4])
    losses, d_hidden, _ = run("triton", [hidden, weight, None], target, reduction="none")
    alone = run("triton", [hidden[:1], weight, None], target[:1], reduction="none")
    assert torch.equal(losses[:1], alone[0])
    assert torch.equal(d_hidden[:1], alone[1])
    assert losses[1].isnan()
    assert d_hidden[1].isnan().all()


def test_layouts_make_no_difference() -> None:
    (hidden, weight, bias), target = make(24, 150, 6)
    for reduction in ("sum", "none"):
        wanted = run("triton", [hidden, weight, bias], target, reduction=reduction)
        folded = run("triton", [hidden.reshape(2, 3, 4, 6), weight, bias], target.reshape(2, 3, 4), reduction=reduction)
        strided = [F.pad(t, (1, 2))[..., 1:-2] for t in (hidden, weight, bias)]
        turned = [t.t().contiguous().t() if t.dim() == 2 else t for t in (hidden, weight, bias)]
        others = [run("triton", tensors, target.int(), reduction=reduction) for tensors in (strided, turned)]
        for results in (folded, *others):
            for ours, theirs in zip(results, wanted, strict=True):
                assert torch.equal(ours.reshape(theirs.shape), theirs)
    expanded = hidden[:1].expand(24, 6)
    for labels in (target, torch.tensor(3).expand(24)):
        ours, theirs = (linear_cross_entropy(h, weight, labels, bias, backend="triton") for h in (expanded, +expanded))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_is_as_exact_as_in_the_reference(dtype: torch.dtype, reduction: str) -> None:
    """Operands are rounded to autocast's type; gradients have the inputs' types."""
    tensors, target = make(40, 200, 32)
    exact = run("reference", doubles(tensors), target, reduction=reduction)
    with torch.autocast("cpu", dtype=dtype):
        reference, actual = (run(b, tensors, target, reduction=reduction) for b in ("reference", "triton"))
        mixed = run("triton", [tensors[0].to(dtype), *tensors[1:]], target, reduction=reduction)
    assert [t.dtype for t in actual] == [torch.float32] * 4
    assert [t.dtype for t in mixed] == [torch.float32, dtype, torch.float32, torch.float32]
    eps = torch.finfo(dtype).eps
    for a, r, e in zip(actual, reference, exact, strict=True):
        assert relative_error(a, e) <= 2 * relative_error(r, e) + eps


def test_gradients_of_the_losses_may_have_any_form() -> None:
    """A scalar, one per row, an expanded scalar, and zeros."""
    tensors, target = make(20, 140, 8)
    for needs in ([True] * 3, [True, False, False]):
        leaves = [t.clone().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        for reduction, grad in (
            ("sum", torch.tensor(-2.5)),
            ("none", torch.randn(20)),
            ("none", torch.tensor(3.0).expand(20)),
            ("none", torch.zeros(20)),
        ):
            ours, theirs = (
                torch.autograd.grad(
                    linear_cross_entropy(leaves[0], leaves[1], target, leaves[2], reduction=reduction, backend=b),
                    wanted,
                    grad,
                )
                for b in ("triton", "reference")
            )
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("reduction", "stash"), [("sum", 1), ("none", 2**20)])
def test_two_runs_are_bit_identical(reduction: str, stash: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stash_sizes, "STASH_BYTES", stash)
    tensors, target = make(140, 300, 40, dtype=torch.bfloat16)
    first, second = (run("triton", tensors, target, reduction=reduction) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_few_rows_are_exact_with_few_or_many_slices() -> None:
    """With more processors than tiles of dx, its sum over the vocabulary is split into slices. Some may be empty."""
    for classes in (20, 1000):
        tensors, target = make(6, classes, 30, ignored=0.0)
        actual = assert_exact(tensors, target)
        wanted = run("torch", tensors, target)
        torch.testing.assert_close(actual[1], wanted[1])


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("stash", [1, 2**20])
def test_backward_can_run_twice(reduction: str, stash: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stash_sizes, "STASH_BYTES", stash)
    tensors, target = make(10, 150, 6)
    leaves = [t.requires_grad_() for t in tensors]
    loss = linear_cross_entropy(*leaves[:2], target, leaves[2], reduction=reduction, backend="triton").sum()
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, leaves), strict=True))


@pytest.mark.parametrize("target", [[140, 3], [2**31, 3], [-1, 3], [-(2**40), 3]])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_target_outside_the_classes_gives_nan_and_reads_nothing(
    target: list[int], reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets are not checked on a GPU. Other rows are not affected, and nothing outside W is loaded."""
    monkeypatch.setattr(MODULE, "check_targets", lambda *_: None)
    tensors, _ = make(2, 140, 8)
    tensors = [t.requires_grad_() for t in tensors]
    with checked_memory(*tensors):
        losses = linear_cross_entropy(
            *tensors[:2], torch.tensor(target), tensors[2], reduction=reduction, backend="triton"
        )
        losses.sum().backward()
    if reduction == "sum":
        assert losses.isnan()
    else:
        alone = linear_cross_entropy(tensors[0][1:], tensors[1], torch.tensor([3]), tensors[2], backend="reference")
        assert losses[0].isnan()
        torch.testing.assert_close(losses[1], alone)


# Skipped tiles


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("needs", [[True] * 3, [True, False, False]])
def test_skipped_tiles_stay_within_their_bound(needs: list[bool], reduction: str) -> None:
    """Some classes have large logits, so most tiles of 128 x 128 are nearly zero."""
    rows, classes, eps = 160, 400, 1e-4
    (hidden, weight, bias), _ = make(rows, classes, 24, ignored=0.0)
    bias[130:] -= 12
    target = torch.randint(0, 128, (rows,))
    target[150:] = 300
    grad = torch.randn(rows).abs() + 0.5 if reduction == "none" else torch.tensor(2.0)
    tensors = [t.requires_grad_(need) for t, need in zip((hidden, weight, bias), needs, strict=True)]
    wanted = [t for t in tensors if t.requires_grad]

    def gradients(filter_eps: float | None) -> tuple[Tensor, ...]:
        losses = linear_cross_entropy(
            hidden, weight, target, bias, reduction=reduction, filter_eps=filter_eps, backend="triton"
        )
        return torch.autograd.grad(losses, wanted, grad)

    exact, skipped = gradients(None), gradients(eps)
    row_grad = grad.expand(rows).unsqueeze(1)
    slack = 1e-6
    assert not torch.equal(exact[0], skipped[0])
    assert ((exact[0] - skipped[0]).abs() <= eps * row_grad * weight.abs().sum(0) + slack).all()
    if needs[1]:
        assert not torch.equal(exact[1], skipped[1])
        assert ((exact[1] - skipped[1]).abs() <= eps * (row_grad * hidden).abs().sum(0) + slack).all()
        assert torch.equal(exact[2], skipped[2])


@pytest.mark.slow
def test_with_a_filter_of_zero_only_zeros_are_skipped() -> None:
    tensors, target = make(140, 300, 24)
    for reduction in ("sum", "none"):
        exact, skipped = (run("triton", tensors, target, reduction=reduction, filter_eps=eps) for eps in (None, 0.0))
        assert all(torch.equal(a, b) for a, b in zip(exact, skipped, strict=True))


# Work and memory


def names(launches: list[launch.Launch]) -> Counter[str]:
    return Counter(entry.kernel.__name__ for entry in launches)


@pytest.mark.parametrize(
    ("needs", "reduction", "way", "kernels"),
    [
        ("", "sum", "losses", "_logits _losses"),
        ("h", "sum", "gradients", "_logits _losses _gradient _grad_hidden _add_slices _finish"),
        ("h", "none", "gradients", "_logits _losses _gradient _grad_hidden _add_slices _finish"),
        ("hw", "mean", "gradients", "_logits _losses _gradient _grad_hidden _add_slices _grad_weight _finish _finish"),
        ("b", "sum", "gradients", "_logits _losses _gradient"),
        ("w", "none", "stash", "_compact _logits _losses _gradient _grad_weight _finish"),
        ("hwb", "none", "recompute", "_compact _logits _logits _losses _gradient _grad_hidden _add_slices _grad_weight"
         " _finish _finish"),
    ],
)  # fmt: skip
def test_only_required_kernels_are_launched(
    needs: str, reduction: str, way: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launches of each plan, with one chunk; launches of an empty grid are recorded too."""
    tensors, target = make(20, 300, 8)
    named = dict(zip("hwb", tensors, strict=True))
    for name in needs:
        named[name].requires_grad_()
    monkeypatch.setattr(MODULE, "plan", lambda *_, **__: way)
    with launch.recording("sm_90") as launches:
        losses = linear_cross_entropy(named["h"], named["w"], target, named["b"], reduction=reduction, backend="triton")
        if needs:
            losses.sum().backward()
    assert names(launches) == Counter(["_compact", *kernels.split()])


def test_the_plan_depends_on_gradients_reduction_and_size() -> None:
    """With V = 30,522 and two bytes, a chunk has at most 10,880 rows."""
    V = 30522
    for summed in (True, False):
        assert MODULE.plan([False] * 3, summed, 10**6, V, 2) == "losses"
        assert MODULE.plan([True, False, False], summed, 10**6, V, 2) == "gradients"
    assert MODULE.plan([True, True, False], True, 10**6, V, 2) == "gradients"
    assert stash_sizes.chunk_rows(10**6, V, 2) <= 10880
    for needs in ([True, True, False], [False, False, True]):
        assert MODULE.plan(needs, False, 10880, V, 2) == "stash"
        assert MODULE.plan(needs, False, 10881, V, 2) == "recompute"
        assert MODULE.plan(needs, False, 10880, V, 4) == "recompute"


@given(rows=st.integers(0, 10**6), classes=st.integers(1, 300_000), itemsize=st.sampled_from([2, 4]))
def test_chunks_fit_the_stash_and_are_of_one_size(rows: int, classes: int, itemsize: int) -> None:
    chunk = stash_sizes.chunk_rows(rows, classes, itemsize)
    row_bytes = stash_sizes.stash_shape(1, classes)[1] * itemsize
    assert chunk % stash_sizes.PANEL == 0
    assert chunk == stash_sizes.PANEL or chunk * row_bytes <= stash_sizes.STASH_BYTES
    chunks = stash_sizes.cdiv(rows, chunk)
    assert chunks == 0 or rows > (chunks - 1) * chunk
    assert chunks * chunk - rows < chunks * stash_sizes.PANEL + stash_sizes.PANEL


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_memory_does_not_grow_with_the_logits(reduction: str) -> None:
    """131,072 tokens need gradients, a stash, and little else. On the meta device, where nothing is computed."""
    rows, classes, size = 131072, 50257, 768
    made: list[int] = []
    hidden = torch.empty(rows, size, dtype=torch.bfloat16, device="meta")
    weight = torch.empty(classes, size, dtype=torch.bfloat16, device="meta")
    target = torch.empty(rows, dtype=torch.int64, device="meta")
    empty = torch.empty

    def recorded(*arguments: Any, **keywords: Any) -> Tensor:
        tensor = empty(*arguments, **keywords)
        made.append(tensor.nbytes)
        return tensor

    with pytest.MonkeyPatch.context() as patch, launch.recording("sm_90"):
        patch.setattr(torch, "empty", recorded)
        options = (-100, 0.0, 0.0, None, torch.bfloat16, None)
        if reduction == "sum":
            KERNELS.forward_with_gradients(hidden, weight, target, None, None, *options, True, [True, True, False])
        else:
            losses = empty(rows, device="meta")
            operands = (hidden, weight, target, None, None)
            KERNELS.backward(losses, None, *[losses] * 4, *operands, *options, False, False, [True, True, False])
    gradients = 4 * (rows + classes) * size
    finished = 2 * (rows + classes) * size if reduction == "none" else 0
    assert rows * classes * 2 > 10 * stash_sizes.STASH_BYTES
    assert max(made) <= max(stash_sizes.STASH_BYTES, gradients)
    assert sum(made) <= gradients + finished + 1.1 * stash_sizes.STASH_BYTES


# Registration


@pytest.mark.parametrize("terms", [pytest.param(TERMS[0], marks=pytest.mark.slow), TERMS[-1]])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_the_ops_pass_opcheck(terms: dict[str, Any], dtype: torch.dtype) -> None:
    """All rows are labelled, since some outputs of the ops are uninitialised in ignored rows."""
    (hidden, weight, bias), target = make(6, 5, 4, dtype=dtype, ignored=0.0)
    options = (-100, terms.get("label_smoothing", 0.0), terms.get("z_loss", 0.0), terms.get("softcap"), dtype, None)
    for keep, needs in ((True, [True, True, True]), (False, [False, True, False])):
        losses, _, *kept = OPS.linear_cross_entropy_triton(hidden, weight, target, bias, None, *options, False, keep)
        torch.library.opcheck(
            OPS.linear_cross_entropy_backward_triton.default,
            (losses, None, *kept, hidden, weight, target, bias, None, *options, False, keep, needs),
        )
        tensors = [t.clone().requires_grad_(need) for t, need in zip((hidden, weight, bias), needs, strict=True)]
        arguments = (*tensors[:2], target, tensors[2], None, *options)
        torch.library.opcheck(OPS.linear_cross_entropy_triton.default, (*arguments, False, keep))
        torch.library.opcheck(OPS.linear_cross_entropy_with_gradients_triton.default, (*arguments, True, needs))
    arguments = (hidden.clone().requires_grad_(), weight, target, None, None, *options)
    needs = [True, False, False]
    torch.library.opcheck(OPS.linear_cross_entropy_with_gradients_triton.default, (*arguments, False, needs))
    losses, *kept = OPS.linear_cross_entropy_with_gradients_triton(*arguments, False, needs)
    torch.library.opcheck(OPS.linear_cross_entropy_finish_triton.default, (losses.detach(), *kept, *[dtype] * 3, needs))
