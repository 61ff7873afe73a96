"""cross_entropy: F.cross_entropy's definition, the additional terms, the torch backend, and refused calls."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_as_exact_as, peak_bytes, value_and_gradients
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from domain_ft_kernels import cross_entropy

OP = torch.ops.domain_ft_kernels.cross_entropy.default
BACKWARD_OP = torch.ops.domain_ft_kernels.cross_entropy_backward.default
TERMS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"softcap": 3.0},
    {"label_smoothing": 1.0, "z_loss": 0.1, "softcap": 5.0},
]


def make(rows: int, classes: int, *, ignored: float = 0.3, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator) * scale
    target = torch.randint(0, classes, (rows,), generator=generator)
    return logits, target.where(torch.rand(rows, generator=generator) >= ignored, -100)


def run(backend: str, logits: Tensor, target: Tensor, grad: Tensor | None = None, **options: Any) -> list[Tensor]:
    return value_and_gradients(lambda z: cross_entropy(z, target, backend=backend, **options), [logits], grad)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2, 1.0])
def test_is_torchs_own_definition(backend: str, reduction: str, label_smoothing: float) -> None:
    logits, target = make(20, 7)
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    ours = run(backend, logits.double(), target, **options)
    theirs = value_and_gradients(lambda z: F.cross_entropy(z, target, **options), [logits.double()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_z_loss_and_softcap_by_hand(backend: str) -> None:
    logits, target = make(20, 7)
    logits = logits.double()
    capped = 3 * (logits / 3).tanh()
    wanted = F.cross_entropy(capped, target, reduction="none") + 0.1 * capped.logsumexp(1) ** 2 * (target != -100)
    actual = cross_entropy(logits, target, z_loss=0.1, softcap=3.0, reduction="none", backend=backend)
    torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_against_finite_differences(backend: str, terms: dict[str, Any], reduction: str) -> None:
    logits, target = make(6, 5)
    leaf = logits.double().requires_grad_()
    torch.autograd.gradcheck(lambda z: cross_entropy(z, target, reduction=reduction, backend=backend, **terms), leaf)


@given(
    rows=st.integers(0, 40),
    classes=st.integers(1, 70),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    terms=st.sampled_from(TERMS),
    reduction=st.sampled_from(["sum", "none"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_torch_is_as_exact_as_the_reference(
    rows: int, classes: int, ignored: float, terms: dict[str, Any], reduction: str, dtype: torch.dtype, seed: int
) -> None:
    logits, target = make(rows, classes, ignored=ignored, seed=seed)
    logits = logits.to(dtype)
    grad = torch.randn(rows) if reduction == "none" else torch.tensor(0.7)
    options = {**terms, "reduction": reduction}
    exact = run("reference", logits.double(), target, grad, **options)
    reference, actual = (run(backend, logits, target, grad, **options) for backend in ("reference", "torch"))
    # With a probability near 1, terms near 1 cancel: the error is measured against their size.
    count = torch.ones(max(1, int((target != -100).sum())))
    assert actual[0].dtype == torch.float32
    assert_as_exact_as(actual[:1], reference[:1], exact[:1], roundings=8, magnitudes=[exact[0].abs() + count.sum()])
    assert_as_exact_as(actual[1:], reference[1:], exact[1:], roundings=2, magnitudes=[count])


def test_many_blocks_of_rows_give_the_result_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = make(50, 33)
    whole = run("torch", logits, target, label_smoothing=0.1)
    monkeypatch.setattr(importlib.import_module("domain_ft_kernels.cross_entropy"), "BLOCK_BYTES", 7 * 33 * 4)
    for a, b in zip(run("torch", logits, target, label_smoothing=0.1), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_extreme_logits_give_the_result_of_torch(backend: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [float("-inf"), 1.0, 2.0], [1e4, 1e4, -1e4]])
    target = torch.tensor([1, 2, 1, 0])
    losses, gradient = run(backend, logits, target, reduction="none")
    wanted = value_and_gradients(lambda z: F.cross_entropy(z, target, reduction="none"), [logits.double()])
    torch.testing.assert_close(losses.double(), wanted[0])
    torch.testing.assert_close(gradient.double(), wanted[1])


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_with_nothing_to_predict_the_sum_is_zero_and_the_mean_nan(backend: str) -> None:
    for logits in (torch.randn(0, 5), torch.randn(4, 5)):
        target = torch.full((len(logits),), -100)
        loss, gradient = run(backend, logits, target)
        assert loss == 0
        assert not gradient.any()
        assert cross_entropy(logits, target, reduction="mean", backend=backend).isnan()
        assert torch.equal(cross_entropy(logits, target, reduction="none", backend=backend), torch.zeros(len(logits)))


def test_layouts_make_no_difference() -> None:
    logits, target = make(24, 10)
    wanted = run("torch", logits, target, reduction="none")
    losses, gradient = run("torch", logits.reshape(2, 3, 4, 10), target.reshape(2, 3, 4), reduction="none")
    assert torch.equal(losses, wanted[0].reshape(2, 3, 4))
    assert torch.equal(gradient, wanted[1].reshape(2, 3, 4, 10))
    losses, gradient = run("torch", logits.t().contiguous().t(), target.int(), reduction="none")
    assert torch.equal(losses, wanted[0])
    assert torch.equal(gradient, wanted[1])
    one = cross_entropy(logits[0], torch.tensor(3), reduction="none")
    torch.testing.assert_close(one, F.cross_entropy(logits[0], torch.tensor(3)))
    other = cross_entropy(logits, target.where(target != -100, 3), ignore_index=3)
    torch.testing.assert_close(
        other,
        F.cross_entropy(logits, target.where(target != -100, 3), ignore_index=3)
        * (target.where(target != -100, 3) != 3).sum(),
    )


def test_logits_are_not_changed() -> None:
    logits, target = make(24, 10)
    before = logits.clone()
    run("torch", logits, target, softcap=3.0, label_smoothing=0.1)
    assert torch.equal(before, logits)


def test_inplace_writes_the_gradient_over_the_logits() -> None:
    logits, target = make(24, 10)
    wanted = run("torch", logits, target, softcap=3.0, label_smoothing=0.1)
    leaf = logits.clone().requires_grad_()
    loss = cross_entropy(leaf, target, softcap=3.0, label_smoothing=0.1, inplace=True)
    loss.backward(retain_graph=True)
    assert torch.equal(loss.detach(), wanted[0])
    assert leaf.grad is not None
    assert leaf.grad.data_ptr() == leaf.data_ptr()
    assert torch.equal(leaf.grad, wanted[1])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inplace_does_not_overwrite_rows_that_share_memory() -> None:
    logits, target = make(1, 10, ignored=0.0)
    _, gradient = run("torch", logits.expand(4, 10), target.expand(4), inplace=True)
    assert torch.equal(gradient, run("torch", logits.expand(4, 10).clone(), target.expand(4))[1])


def test_inplace_can_be_compiled() -> None:
    def function(hidden: Tensor, inplace: bool) -> Tensor:
        return cross_entropy(hidden * 2, target, inplace=inplace)

    torch._dynamo.reset()
    logits, target = make(13, 10)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    eager, traced = (
        value_and_gradients(f, [logits]) for f in (lambda z: function(z, False), lambda z: compiled(z, True))
    )
    for ours, theirs in zip(traced, eager, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_peak_memory_is_the_gradient_and_a_few_blocks() -> None:
    logits, target = make(4096, 3000, ignored=0.0)
    logits = logits.bfloat16().requires_grad_()
    peak, _ = peak_bytes(lambda: cross_entropy(logits, target).backward())
    assert peak < logits.nbytes + 4 * 4 * 2**20
    assert peak_bytes(lambda: cross_entropy(logits.detach(), target))[0] < 4 * 4 * 2**20


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_autocast_changes_nothing(backend: str) -> None:
    logits, target = make(24, 10)
    wanted = run(backend, logits, target, label_smoothing=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run(backend, logits, target, label_smoothing=0.1)
    assert all(torch.equal(a, b) for a, b in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("terms", [TERMS[0], TERMS[-1]])
def test_the_ops_pass_opcheck(terms: dict[str, Any]) -> None:
    logits, target = make(6, 5)
    options = (-100, terms.get("label_smoothing", 0.0), terms.get("z_loss", 0.0), terms.get("softcap"))
    for dtype in (torch.float32, torch.bfloat16):
        z = logits.to(dtype)
        torch.library.opcheck(OP, (z.clone().requires_grad_(), target, None, *options, False, False))
        losses, _, *sums = OP(z, target, None, *options, False, False)
        torch.library.opcheck(BACKWARD_OP, (losses, None, z, target, None, *sums, *options))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_it_compiles_whole(backend: str, reduction: str) -> None:
    def function(z: Tensor, t: Tensor) -> Tensor:
        return cross_entropy(z * 2, t, reduction=reduction, z_loss=0.1, backend=backend)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (13, 29):
        logits, target = make(rows, 10)
        eager, traced = (value_and_gradients(lambda z, f=f, t=target: f(z, t), [logits]) for f in (function, compiled))
        for ours, theirs in zip(traced, eager, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_activation_checkpointing_changes_nothing() -> None:
    logits, target = make(12, 5)
    wanted = run("torch", logits, target)
    actual = value_and_gradients(lambda z: checkpoint(cross_entropy, z, target, use_reentrant=False), [logits])
    assert all(torch.equal(a, b) for a, b in zip(actual, wanted, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.ones(3, 4, dtype=torch.long)}, r"logits has shape \(3, 4\) and dtype torch.int64; expected"),
        (
            {"target": torch.zeros(4, dtype=torch.long)},
            r"target has shape \(4,\); expected the leading dimensions = \(3,\)",
        ),
        ({"target": torch.zeros(3)}, r"target has dtype torch.float32; expected integers"),
        ({"target": torch.tensor([0, 4, 1])}, r"target holds 4 at \(flat\) position 1; expected 0 <= target < 4"),
        ({"target": torch.tensor([0, 1, -1])}, r"target holds -1 at \(flat\) position 2"),
        ({"target": torch.zeros(3, dtype=torch.long, device="meta")}, r"logits on cpu, target on meta"),
        ({"logits": torch.ones(3, 0)}, r"there are 0 classes"),
        ({"label_smoothing": 1.5}, r"label_smoothing=1.5"),
        ({"z_loss": -1.0}, r"z_loss=-1.0"),
        ({"softcap": -0.5}, r"softcap=-0.5: expected softcap > 0, or 0 or None for no softcap"),
        ({"reduction": "avg"}, r"reduction='avg': expected one of sum, mean, none"),
        ({"logits": torch.ones(3, 4).double(), "backend": "triton"}, r"float32, bfloat16 and float16, not float64"),
        ({"backend": "cuda"}, r"backend='cuda': expected one of auto, reference, torch, triton"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_bad_calls_are_refused(change: dict[str, Any], message: str, backend: str) -> None:
    arguments = {"logits": torch.ones(3, 4), "target": torch.zeros(3, dtype=torch.long), "backend": backend}
    with pytest.raises(ValueError, match=message):
        cross_entropy(**{**arguments, **change})


def test_a_target_outside_the_classes_gives_nan_where_it_cannot_raise() -> None:
    """Targets are checked only on a CPU, and not in compiled code. If unchecked, the loss of such a row is NaN."""
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda z, t: cross_entropy(z, t, reduction="none", backend="reference"), fullgraph=True, backend="aot_eager"
    )
    losses = compiled(torch.zeros(4, 3), torch.tensor([0, 3, -1, -100]))
    assert losses.isnan().tolist() == [False, True, True, False]
