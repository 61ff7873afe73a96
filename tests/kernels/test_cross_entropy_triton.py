"""cross_entropy's Triton kernels in the interpreter: accuracy, memory accesses, and bytes moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import BY_WIDTH, DTYPES, HALVES, assert_as_exact_as, relative_error, value_and_gradients
from test_cross_entropy import TERMS, make, run
from torch import Tensor
from torch.utils.checkpoint import checkpoint

pytest.importorskip("triton")

from interpreter import checked_memory, counted_bytes

from domain_ft_kernels import cross_entropy
from domain_ft_kernels.triton_backend import cross_entropy as kernels
from domain_ft_kernels.triton_backend.launch import recording

OPS = torch.ops.domain_ft_kernels
TILE = 1024
"""Elements in a tile under the interpreter."""

WIDTHS = st.one_of(
    st.integers(1, 40),
    st.integers(TILE // 2 - 10, TILE // 2 + 10),
    st.integers(TILE - 10, TILE + 10),
    st.integers(3 * TILE - 10, 3 * TILE + 10),
)
"""Numbers of classes with many, two or one rows per tile, or several tiles per row."""


def assert_right(
    logits: Tensor, target: Tensor, grad: Tensor | None = None, *, reduction: str = "none", **options: Any
) -> list[Tensor]:
    """Check memory accesses and accuracy of the Triton backend. Returns its loss and gradient."""
    options["reduction"] = reduction
    exact = run("reference", logits.double(), target, grad, **options)
    reference = run("reference", logits, target, grad, **options)
    with checked_memory(logits, target) as memory:
        actual = run("triton", logits, target, grad, **options)
        memory.assert_written(*actual)
    # With a probability near 1, terms near 1 cancel: the error is measured against their size.
    count = torch.ones(max(1, int((target != -100).sum())))
    assert actual[0].dtype == torch.float32
    assert_as_exact_as(actual[:1], reference[:1], exact[:1], roundings=8, magnitudes=[exact[0].abs() + count.sum()])
    assert_as_exact_as(actual[1:], reference[1:], exact[1:], roundings=2, magnitudes=[count])
    return actual


@pytest.mark.slow
@given(
    rows=st.integers(0, 9),
    classes=WIDTHS,
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    terms=st.sampled_from(TERMS),
    reduction=st.sampled_from(["sum", "none"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20)
def test_is_as_exact_as_the_reference(
    rows: int, classes: int, ignored: float, terms: dict[str, Any], reduction: str, dtype: torch.dtype, seed: int
) -> None:
    logits, target = make(rows, classes, ignored=ignored, seed=seed)
    grad = torch.randn(rows) if reduction == "none" else torch.tensor(0.7)
    assert_right(logits.to(dtype), target, grad, reduction=reduction, **terms)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BY_WIDTH)
@pytest.mark.parametrize("terms", [TERMS[0], TERMS[-1]])
def test_gpt2s_vocabulary_is_as_exact_as_in_the_reference(dtype: torch.dtype, terms: dict[str, Any]) -> None:
    logits, target = make(3, 50257, ignored=0.0)
    target[0], target[1] = 50256, -100
    assert_right(logits.to(dtype), target, torch.randn(3), **terms)


@pytest.mark.parametrize("dtype", HALVES)
def test_losses_of_half_precision_inputs_are_exact(dtype: torch.dtype) -> None:
    logits, target = make(64, 3001)
    logits = logits.to(dtype)
    exact = cross_entropy(logits.double(), target, reduction="mean", backend="reference")
    actual = cross_entropy(logits, target, reduction="mean", backend="triton")
    assert relative_error(actual, exact) < 1e-6


def test_small_logits_under_a_softcap_keep_their_digits() -> None:
    logits, target = make(8, 300, ignored=0.0, scale=1e-3)
    exact = run("reference", logits.double(), target, softcap=30.0)
    actual = run("triton", logits, target, softcap=30.0)
    assert relative_error(actual[1], exact[1]) < 1e-6


@pytest.mark.parametrize("classes", [3, 300])
def test_extreme_logits_give_the_result_of_torch(classes: int) -> None:
    small = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [float("-inf"), 1.0, 2.0], [1e4, 1e4, -1e4]])
    target = torch.tensor([1, 2, 1, 0])
    logits = torch.cat([small, torch.full((4, classes - 3), -1e4)], 1)
    losses, gradient = run("triton", logits, target, reduction="none")
    wanted = value_and_gradients(lambda z: F.cross_entropy(z, target, reduction="none"), [logits.double()])
    torch.testing.assert_close(losses.double(), wanted[0])
    torch.testing.assert_close(gradient.double(), wanted[1])


@pytest.mark.parametrize("classes", [5, 300])
def test_rows_of_minus_infinity_or_with_nan_are_nan_and_others_unaffected(classes: int) -> None:
    logits, target = make(4, classes, ignored=0.0)
    logits[1] = float("-inf")
    logits[2, -1] = float("nan")
    losses = cross_entropy(logits, target, reduction="none", backend="triton")
    wanted = cross_entropy(logits, target, reduction="none", backend="torch")
    assert losses.isnan().tolist() == [False, True, True, False]
    torch.testing.assert_close(losses, wanted, equal_nan=True)


def test_with_nothing_to_predict_losses_and_gradient_are_zero() -> None:
    for logits in (torch.randn(0, 5), torch.randn(4, 5)):
        target = torch.full((len(logits),), -100)
        losses, gradient = assert_right(logits, target)
        assert torch.equal(losses, torch.zeros(len(logits)))
        assert not gradient.any()
        assert cross_entropy(logits, target, reduction="mean", backend="triton").isnan()


@pytest.mark.parametrize("classes", [4, 10, 1301])
@pytest.mark.parametrize("dtype", BY_WIDTH)
def test_layouts_make_no_difference(classes: int, dtype: torch.dtype) -> None:
    logits, target = make(6, classes)
    logits = logits.to(dtype)
    wanted = run("triton", logits, target, reduction="none")
    padded = torch.full((6, classes + 7), float("nan"), dtype=dtype)
    padded[:, 3:-4] = logits
    shifted = torch.cat([torch.zeros(1, dtype=dtype), logits.reshape(-1)])[1:].view(6, classes)
    for same in (padded[:, 3:-4], shifted, logits.t().contiguous().t(), logits.reshape(1, 3, 2, classes)):
        labels = target.reshape(same.shape[:-1])
        losses, gradient = assert_right(same, labels)
        torch.testing.assert_close(losses.reshape(6), wanted[0])
        torch.testing.assert_close(gradient.reshape(6, classes), wanted[1])
    assert_right(logits, torch.stack([target, target], 1)[:, 0], torch.randn(6, 2)[:, 0])
    assert_right(logits[:1].expand(6, classes), target, torch.randn(6))


@pytest.mark.slow
def test_two_runs_are_equal() -> None:
    logits, target = make(24, 1700)
    first, second = (run("triton", logits, target, z_loss=0.1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("classes", [10, 1301])
@pytest.mark.parametrize("dtype", BY_WIDTH)
def test_inplace_writes_the_gradient_over_the_logits(classes: int, dtype: torch.dtype) -> None:
    logits, target = make(6, classes)
    logits = logits.to(dtype)
    wanted = run("triton", logits, target, softcap=3.0)
    leaf = logits.clone().requires_grad_()
    with checked_memory(target):
        cross_entropy(leaf, target, softcap=3.0, inplace=True, backend="triton").backward()
    assert leaf.grad is not None
    assert leaf.grad.data_ptr() == leaf.data_ptr()
    assert torch.equal(leaf.grad, wanted[1])


@pytest.mark.parametrize("classes", [3, 300])
def test_a_target_outside_the_classes_reads_nothing(classes: int) -> None:
    """Targets are not checked on a GPU."""
    logits, _ = make(5, classes)
    target = torch.tensor([0, classes, -1, -100, 2**40])
    with checked_memory(logits, target) as memory:
        losses, row_maxes, sum_exps = kernels.forward(logits, target, None, -100, 0.0, 0.0, None)
        gradient = torch.empty_like(logits)
        kernels.fill_gradient(
            gradient, torch.ones(5), None, logits, target, None, row_maxes, sum_exps, -100, 0.0, 0.0, None
        )
        memory.assert_written(losses, row_maxes, sum_exps, gradient)
    assert losses.isnan().tolist() == [False, True, True, False, True]
    torch.testing.assert_close(gradient[1], logits[1].softmax(0))


@pytest.mark.parametrize("classes", [11, 1301])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_byte_moves_once(classes: int, dtype: torch.dtype) -> None:
    rows, labelled = 9, 5
    logits, _ = make(rows, classes)
    logits = logits.to(dtype)
    target = torch.arange(rows).remainder(classes).where(torch.arange(rows) < labelled, -100)
    with counted_bytes() as launches:
        run("triton", logits, target, torch.ones(rows), reduction="none")
    forward, backward = launches
    row = classes * logits.element_size()
    assert forward.compulsory == labelled * row + rows * 8 + 3 * rows * 4
    assert forward.requested == forward.compulsory + labelled * logits.element_size()  # the target's logit once more
    assert backward.compulsory == backward.requested == (labelled + rows) * row + rows * 8 + 3 * labelled * 4


def test_launches_are_recorded_for_tensors_without_values() -> None:
    logits = torch.empty(16384, 50257, dtype=torch.bfloat16, device="meta")
    target = torch.empty(16384, dtype=torch.long, device="meta")
    with recording("sm_90") as launches:
        losses, row_maxes, sum_exps = kernels.forward(logits, target, None, -100, 0.0, 0.0, None)
        gradient = torch.empty_like(logits)
        kernels.fill_gradient(gradient, losses, None, logits, target, None, row_maxes, sum_exps, -100, 0.0, 0.0, None)
    assert [launch.kernel.__name__ for launch in launches] == ["_forward", "_backward"]
    assert all(launch.grid == (16384,) for launch in launches)


@pytest.mark.parametrize("terms", [pytest.param(TERMS[0], marks=pytest.mark.slow), TERMS[-1]])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_ops_pass_opcheck(terms: dict[str, Any], inplace: bool) -> None:
    logits, target = make(6, 5)
    options = (-100, terms.get("label_smoothing", 0.0), terms.get("z_loss", 0.0), terms.get("softcap"))
    for dtype in (torch.float32, torch.bfloat16):
        z = logits.to(dtype)
        losses, _, *sums = OPS.cross_entropy_triton(z, target, None, *options, False, False)
        backward = (target, None, *sums, *options)
        if inplace:
            op = OPS.cross_entropy_triton_backward_.default
            torch.library.opcheck(op, (losses, None, z.clone(), *backward))
            continue
        forward = (z.clone().requires_grad_(), target, None, *options, False, False)
        torch.library.opcheck(OPS.cross_entropy_triton.default, forward)
        for rows in (z, F.pad(z, (0, 3))[:, :5]):
            torch.library.opcheck(OPS.cross_entropy_triton_backward.default, (losses, None, rows, *backward))


@pytest.fixture
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("inplace", [False, True])
def test_it_compiles_whole(reduction: str, inplace: bool) -> None:
    def function(z: Tensor, t: Tensor) -> Tensor:
        return cross_entropy(z * 2, t, reduction=reduction, z_loss=0.1, inplace=inplace, backend="triton")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (13, 29):
        logits, target = make(rows, 10)
        eager, traced = (value_and_gradients(lambda z, f=f, t=target: f(z, t), [logits]) for f in (function, compiled))
        for ours, theirs in zip(traced, eager, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_autocast_and_checkpointing_change_nothing() -> None:
    logits, target = make(24, 10)
    wanted = run("triton", logits, target, label_smoothing=0.1)

    def again(z: Tensor) -> Tensor:
        return checkpoint(cross_entropy, z, target, label_smoothing=0.1, backend="triton", use_reentrant=False)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        for actual in (run("triton", logits, target, label_smoothing=0.1), value_and_gradients(again, [logits])):
            assert all(torch.equal(a, b) for a, b in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("change", [{"target": torch.tensor([0, 4, 1])}, {"logits": torch.ones(3, 4).double()}])
def test_bad_calls_are_refused(change: dict[str, Any]) -> None:
    arguments = {"logits": torch.ones(3, 4), "target": torch.zeros(3, dtype=torch.long), **change}
    with pytest.raises(ValueError, match=r"target holds 4 at \(flat\) position 1|not float64"):
        cross_entropy(**arguments, backend="triton")
