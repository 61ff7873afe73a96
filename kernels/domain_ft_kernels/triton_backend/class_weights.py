"""What class weights, and label smoothing with them, do to a row's loss: pieces that both cross-entropy kernels share.

The maths, and what the letters stand for, are in `domain_ft_kernels.cross_entropy`. Weights are None, and the kernels
are compiled without them, where there are none.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def wide_weights(class_weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Class weights (V,) in float32, and their mean (1,); None for None."""
    if class_weight is None:
        return None, None
    weights = class_weight.to(torch.float32).contiguous()
    return weights, weights.mean().reshape(1)


@triton.jit
def row_weight(label, known, weights):
    """w_t of each row's label (rows,), 0 where it is not known to be a class; 1 without weights."""
    if weights is None:
        weight = tl.full(label.shape, 1.0, tl.float32)
    else:
        weight = tl.load(weights + label, mask=known, other=0.0)
    return weight


@triton.jit
def lse_slope(weight, mean_weight, label_smoothing):
    """a (rows,): what a row's log-sum-exp counts for in its loss, of the weight of the row's target."""
    slope = weight
    if mean_weight is not None:  # noqa: SIM102 (Triton compiles an `if` of None away, and no `and`)
        if label_smoothing is not None:
            slope = (1 - label_smoothing) * weight + label_smoothing * tl.load(mean_weight)
    return slope


@triton.jit
def row_loss(log_mass, peak, picked, total, label, known, weights, mean_weight, classes, label_smoothing):
    """The losses (rows,), but for the z-loss: log_mass is log S, peak m, picked z_t, total Σ w z."""
    weight = row_weight(label, known, weights)
    own = weight * (picked - peak)
    loss = lse_slope(weight, mean_weight, label_smoothing) * log_mass
    if label_smoothing is None:
        loss -= own
    else:
        mean_peak = peak
        if mean_weight is not None:
            mean_peak = peak * tl.load(mean_weight)
        loss -= (1 - label_smoothing) * own + label_smoothing * (total / classes - mean_peak)
    return loss
