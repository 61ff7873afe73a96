"""Class weights and label smoothing in a row's loss: parts of both cross-entropy kernels.

`domain_ft_kernels.cross_entropy` has the maths and the notation. Without class weights their pointers are None, and the
kernels are compiled without them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def wide_weights(class_weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Class weights (V,) in float32, and their mean (1,); both None without class weights."""
    if class_weight is None:
        return None, None
    weights = class_weight.to(torch.float32).contiguous()
    return weights, weights.mean().reshape(1)


@triton.jit
def row_weight(label, known, class_weight_ptr):
    """(rows,) the weight w_t of each row's label; 0 where the label is not a `known` class, 1 without class weights.

    class_weight_ptr: (classes,), float32, or None.
    """
    if class_weight_ptr is None:
        weight = tl.full(label.shape, 1.0, tl.float32)
    else:
        weight = tl.load(class_weight_ptr + label, mask=known, other=0.0)
    return weight


@triton.jit
def lse_slope(weight, mean_weight_ptr, label_smoothing):
    """a (rows,), the factor of the log-sum-exp in a row's loss, from the weight w_t of the row's target.

    mean_weight_ptr: (1,), float32, the mean of the class weights, or None.
    """
    slope = weight
    if mean_weight_ptr is not None:  # noqa: SIM102 (Triton removes an `if` on None, but not an `and`)
        if label_smoothing is not None:
            slope = (1 - label_smoothing) * weight + label_smoothing * tl.load(mean_weight_ptr)
    return slope


@triton.jit
def row_loss(
    log_sum, row_max, picked, total, label, known, class_weight_ptr, mean_weight_ptr, classes, label_smoothing
):
    """The losses (rows,) without the z-loss: log_sum is log S, row_max m, picked z_t, total Σ w z.

    class_weight_ptr: (classes,), float32, or None; mean_weight_ptr: (1,), float32, their mean, or None.
    """
    weight = row_weight(label, known, class_weight_ptr)
    at_target = weight * (picked - row_max)
    loss = lse_slope(weight, mean_weight_ptr, label_smoothing) * log_sum
    if label_smoothing is None:
        loss -= at_target
    else:
        mean_max = row_max
        if mean_weight_ptr is not None:
            mean_max = row_max * tl.load(mean_weight_ptr)
        loss -= (1 - label_smoothing) * at_target + label_smoothing * (total / classes - mean_max)
    return loss
