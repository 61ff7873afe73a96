"""FLOP formulas of this package's ops for torch.utils.flop_counter.FlopCounterMode. Only matrix products count.

A formula sees only shapes, so all rows count, including ignored ones. The cross-entropy of logits has no matrix product
and counts 0, like torch's own. The reference backend is plain PyTorch, which torch counts itself. A product counts in
the pass that runs it: gradients that forward computes count in forward, recomputed logits in backward.
"""

# ruff: noqa: ARG001 (a formula has the arguments of its op)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

_OPS = torch.ops.domain_ft_kernels
_Shape = Sequence[int]


@register_flop_formula([_OPS.lora_linear, _OPS.lora_linear_triton])
def _lora_linear(
    x: _Shape, weights: list[_Shape], biases: list[_Shape], lora_as: list[_Shape], *_: Any, **__: Any
) -> int:
    m, k = x
    return sum(2 * m * (n * k + r * (n + k)) for (n, _k), (r, _) in zip(weights, lora_as, strict=True))


@register_flop_formula([_OPS.lora_linear_backward, _OPS.lora_linear_triton_backward])
def _lora_linear_backward(
    grads: list[_Shape],
    x: _Shape,
    down: _Shape,
    weights: list[_Shape],
    biases: list[_Shape],
    lora_as: list[_Shape],
    *others: Any,
    **_: Any,
) -> int:
    (m, k), layers, needs = x, len(weights), others[-1]
    need_x, need_weights = needs[0], needs[1 : 1 + layers]
    need_as, need_bs = needs[-2 * layers : -layers], needs[-layers:]
    flops = 0
    for layer, (weight, lora_a) in enumerate(zip(weights, lora_as, strict=True)):
        n, r = weight[0], lora_a[0]
        products = need_x * (n * k + r * k) + (need_x or any(need_as)) * n * r  # g W, dt A, and dt = g B
        products += need_weights[layer] * n * k + need_as[layer] * r * k + need_bs[layer] * n * r
        flops += 2 * m * products
    return flops


def _head(hidden: _Shape, weight: _Shape) -> int:
    """FLOPs of the logits; dx and dW each need the same number."""
    return 2 * hidden[0] * weight[0] * weight[1]


@register_flop_formula([_OPS.linear_cross_entropy, _OPS.linear_cross_entropy_triton])
def _linear_cross_entropy(hidden: _Shape, weight: _Shape, *_: Any, **__: Any) -> int:
    return _head(hidden, weight)


@register_flop_formula([_OPS.linear_cross_entropy_with_gradients, _OPS.linear_cross_entropy_with_gradients_triton])
def _with_gradients(hidden: _Shape, weight: _Shape, *others: Any, **_: Any) -> int:
    return _head(hidden, weight) * (1 + sum(others[-1][:2]))


@register_flop_formula(_OPS.linear_cross_entropy_backward)
def _linear_cross_entropy_backward(
    grad: _Shape,
    lse_grad: _Shape | None,
    row_maxes: _Shape,
    sum_exps: _Shape,
    hidden: _Shape,
    weight: _Shape,
    *others: Any,
    **_: Any,
) -> int:
    return _head(hidden, weight) * (1 + sum(others[-1][:2]))


@register_flop_formula(_OPS.linear_cross_entropy_backward_triton)
def _linear_cross_entropy_backward_triton(
    grad: _Shape,
    lse_grad: _Shape | None,
    row_maxes: _Shape,
    sum_exps: _Shape,
    stash: _Shape,
    panel_maxes: _Shape,
    hidden: _Shape,
    weight: _Shape,
    *others: Any,
    **_: Any,
) -> int:
    keep, needs = others[-2:]
    return _head(hidden, weight) * ((not keep) + sum(needs[:2]))
