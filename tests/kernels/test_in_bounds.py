"""Every op's Triton kernels, forward and backward, at odd sizes, under the interpreter that checks memory.

`checked_memory` (tested with planted faults in test_interpreter.py) refuses accesses outside a tensor, reads of bytes
that were never written, writes to the caller's tensors, conflicts between programs of a launch, and float atomics. In
addition, every element of every output must be written and finite: uninitialised memory holds NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from kernel_checks import BY_WIDTH
from torch import Tensor

pytest.importorskip("triton")

from interpreter import checked_memory

from domain_ft_kernels import cross_entropy, linear_cross_entropy, lora_linear
from domain_ft_kernels import stash as stash_sizes
from domain_ft_kernels.lora_linear import lora_linear_group


def assert_in_bounds(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    *others: Tensor,
) -> None:
    """Run function(*tensors) and the gradients that `needs` marks; check every access, and all results."""
    leaves = [t if t is None else t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
    given = [t for t in leaves if t is not None]
    with checked_memory(*given, *others) as memory:
        outputs = function(*leaves)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        wanted = [t for t in given if t.requires_grad]
        gradients = torch.autograd.grad(outputs, wanted, [torch.randn_like(output) for output in outputs])
        memory.assert_written(*outputs, *gradients)
    for result in (*outputs, *gradients):
        assert result.isfinite().all()


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def some_labels(rows: int, classes: int, labelled: float) -> Tensor:
    return torch.randint(0, classes, (rows,)).where(torch.rand(rows) < labelled, -100)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


# LoRA

pytestmark = pytest.mark.slow  # the same kernels run in the fast tests, over fewer sizes

SIZES = [(1, 1, 1, 1), (5, 7, 3, 2), (33, 65, 47, 5), (70, 40, 66, 17), (66, 72, 70, 40)]
"""rows, K, N, R"""


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", BY_WIDTH)
@pytest.mark.parametrize("size", SIZES)
def test_lora_linear(size: tuple[int, int, int, int], dtype: torch.dtype, dropout_p: float) -> None:
    rows, K, N, R = size
    tensors = [
        normal(rows, K, dtype=dtype),
        normal(N, K, dtype=dtype),
        normal(N, dtype=dtype),
        normal(R, K),
        normal(N, R),
    ]

    def function(*given: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return lora_linear(*given, 0.5, dropout_p=dropout_p, seed=1, backend="triton")

    assert_in_bounds(function, tensors, [True] * 5)
    if dropout_p:
        assert_in_bounds(function, tensors, [True, False, False, True, True])


@pytest.mark.parametrize("needs", [n for n in itertools.product([False, True], repeat=5) if any(n)])
def test_lora_linear_for_any_gradients(needs: tuple[bool, ...]) -> None:
    def function(*given: Tensor) -> Tensor:
        return lora_linear(*given, 0.5, dropout_p=0.3, seed=2, backend="triton")

    assert_in_bounds(function, [normal(19, 23), normal(37, 23), normal(37), normal(3, 23), normal(37, 3)], needs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_linear_of_any_layout(dtype: torch.dtype) -> None:
    def function(x: Tensor, *given: Tensor | None) -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return lora_linear(x, *given, 0.5, dropout_p=0.3, seed=3, backend="triton")

    K, N, R = 39, 51, 6
    layers = [None, normal(R, K), normal(N, R)]
    weight = normal(N, K, dtype=dtype)
    for x in (normal(4, 9, K), normal(36, K + 5)[:, 2:-3], normal(K, 36).t(), normal(1, K).expand(36, K), normal(0, K)):
        assert_in_bounds(function, [x.to(dtype), weight, *layers], [True] * 5)
    conv1d = normal(K, N, dtype=dtype).t()
    padded = normal(N, K + 9, dtype=dtype)[:, 4:-5]
    for other in (conv1d, padded):
        assert_in_bounds(function, [normal(36, K, dtype=dtype), other, *layers], [True] * 5)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_lora_linear_group(trained: bool, dtype: torch.dtype, dropout_p: float) -> None:
    rows, K = 45, 67
    widths, ranks = (70, 35, 33), (5, 17, 1)
    weights = [normal(N, K, dtype=dtype) for N in widths]
    biases = [normal(widths[0], dtype=dtype), None, normal(widths[2], dtype=dtype)]
    lora_as, lora_bs = [normal(R, K) for R in ranks], [normal(N, R) for N, R in zip(widths, ranks, strict=True)]

    def function(x: Tensor, *layers: Tensor) -> tuple[Tensor, ...]:
        by_kind = [layers[first : first + 3] for first in (0, 3, 6, 9)]
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return lora_linear_group(x, *by_kind, (0.5, 1.0, 2.0), dropout_p=dropout_p, seed=4, backend="triton")

    tensors = [normal(rows, K, dtype=dtype), *weights, *biases, *lora_as, *lora_bs]
    assert_in_bounds(function, tensors, [True, *[trained] * 6, *[True] * 6])


# Linear cross-entropy

TERMS: list[dict[str, Any]] = [{}, {"label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 5.0}]


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("dtype", BY_WIDTH)
@pytest.mark.parametrize(
    ("size", "labelled"),
    [((1, 1, 1), 1.0), ((7, 3, 5), 0.5), ((7, 3, 5), 0.0), ((70, 131, 33), 0.2), ((140, 270, 40), 1.0)],
)
def test_linear_cross_entropy(
    size: tuple[int, int, int], labelled: float, dtype: torch.dtype, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, classes, D = size
    tensors = [normal(rows, D, dtype=dtype), normal(classes, D, dtype=dtype), normal(classes, dtype=dtype)]
    target = some_labels(rows, classes, labelled)
    one_chunk, many = stash_sizes.STASH_BYTES, 1
    for terms, stash, needs in (
        (TERMS[0], one_chunk, (True, True, True)),
        (TERMS[1], many, (True, True, True)),
        (TERMS[1], one_chunk, (True, False, False)),
        (TERMS[0], many, (False, True, False)),
    ):
        monkeypatch.setattr(stash_sizes, "STASH_BYTES", stash)

        def function(hidden: Tensor, weight: Tensor, bias: Tensor | None, terms: dict[str, Any] = terms) -> Tensor:
            return linear_cross_entropy(hidden, weight, target, bias, reduction=reduction, backend="triton", **terms)

        assert_in_bounds(function, tensors if all(needs) else [*tensors[:2], None], needs, target)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("many_chunks", [False, True])
@pytest.mark.parametrize("return_lse", [False, True])
def test_linear_cross_entropy_with_class_weights(
    terms: dict[str, Any], dtype: torch.dtype, many_chunks: bool, return_lse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if many_chunks:
        monkeypatch.setattr(stash_sizes, "STASH_BYTES", 1)
    rows, classes, D = 140, 131, 17
    target, class_weight = some_labels(rows, classes, 0.7), torch.rand(classes)
    options = {"class_weight": class_weight, "return_lse": return_lse, "reduction": "none", **terms}

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor | tuple[Tensor, ...]:
        return linear_cross_entropy(hidden, weight, target, bias, backend="triton", **options)

    tensors = [normal(rows, D, dtype=dtype), normal(classes, D, dtype=dtype), normal(classes, dtype=dtype)]
    assert_in_bounds(function, tensors, [True] * 3, target, class_weight)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_linear_cross_entropy_that_skips_tiles(reduction: str) -> None:
    tensors = [normal(140, 40) * 3, normal(700, 40), normal(700)]
    target = some_labels(140, 700, 0.9)

    def function(*given: Tensor) -> Tensor:
        hidden, weight, bias = given
        return linear_cross_entropy(
            hidden, weight, target, bias, reduction=reduction, filter_eps=1e-3, backend="triton"
        )

    assert_in_bounds(function, tensors, [True] * 3, target)


def test_linear_cross_entropy_of_any_layout() -> None:
    classes, D = 131, 39
    target = some_labels(36, classes, 0.8)

    def function(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, target[: len(hidden)], backend="triton")

    weight = normal(classes, D)
    for hidden in (normal(36, D + 5)[:, 2:-3], normal(D, 36).t(), normal(1, D).expand(36, D), normal(0, D)):
        assert_in_bounds(function, [hidden, weight], [True, True], target)
    for other in (normal(D, classes).t(), normal(classes, D + 9)[:, 4:-5]):
        assert_in_bounds(function, [normal(36, D), other], [True, True], target)


# Cross-entropy; test_cross_entropy_triton.py checks the memory in most of its tests


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("dtype", BY_WIDTH)
@pytest.mark.parametrize(
    ("size", "labelled"),
    [((1, 1), 1.0), ((7, 3), 0.5), ((7, 3), 0.0), ((40, 131), 0.5), ((3, 1030), 1.0), ((2, 2051), 0.5)],
)
def test_cross_entropy(size: tuple[int, int], labelled: float, dtype: torch.dtype, reduction: str) -> None:
    target = some_labels(*size, labelled)
    for terms in TERMS:

        def function(logits: Tensor, terms: dict[str, Any] = terms) -> Tensor:
            return cross_entropy(logits, target, reduction=reduction, backend="triton", **terms)

        assert_in_bounds(function, [normal(*size, dtype=dtype)], [True], target)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(7, 3), (40, 131), (2, 2051)])
def test_cross_entropy_with_class_weights_and_lse(
    size: tuple[int, int], dtype: torch.dtype, terms: dict[str, Any]
) -> None:
    target, weight = some_labels(*size, 0.7), torch.rand(size[1])

    def function(logits: Tensor) -> tuple[Tensor, ...]:
        return cross_entropy(
            logits, target, weight=weight, return_lse=True, reduction="none", backend="triton", **terms
        )

    assert_in_bounds(function, [normal(*size, dtype=dtype)], [True], target, weight)
