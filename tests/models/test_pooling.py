"""Pooling of packed hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from domain_ft.models.pooling import Pooling


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mean", lambda h: h.mean(0)), ("cls", lambda h: h[0]), ("max", lambda h: h.amax(0)), ("last", lambda h: h[-1])],
)
@pytest.mark.parametrize("normalise", [False, True])
def test_each_sequence_is_pooled_alone(kind: Any, expected: Callable[[Tensor], Tensor], normalise: bool) -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 5]
    hidden = torch.randn(sum(lengths), 4, dtype=torch.float64, requires_grad=True)
    cu_seqlens = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    wanted = torch.stack([expected(part) for part in hidden.split(lengths)])
    if normalise:
        wanted = wanted / wanted.norm(dim=-1, keepdim=True)
    found = Pooling(kind, normalise).vectors(hidden, cu_seqlens)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(one.pow(3).sum(), hidden)[0] for one in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_vectors_of_half_precision_states_are_float32() -> None:
    hidden = torch.ones(2, 3, dtype=torch.bfloat16)
    assert Pooling().vectors(hidden, torch.tensor([0, 2])).dtype == torch.float32
