"""AdamW over the trainable parameters: no decay of norms and biases, and LoRA+ as an option."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

_SECOND_FACTOR = re.compile(r"lora_(embedding_)?B|lora_b")  # B and its bias


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    learning_rate: float,
    weight_decay: float,
    lora_plus_ratio: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) in one fused step.

    Args:
        parameters: names and parameters that train.
        learning_rate: the peak rate. Each parameter group stores its own as `peak_learning_rate`.
        weight_decay: decay of matrices; vectors (norms, biases, magnitudes) have none.
        lora_plus_ratio: the learning rate of LoRA's B and its bias divided by that of the rest (LoRA+, Hayou et al.
            2024).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        rate = learning_rate * (lora_plus_ratio if _SECOND_FACTOR.search(name) else 1.0)
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "lr": rate, "peak_learning_rate": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ],
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set each group to `factor` times its peak, and return the first group's rate for the log."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_learning_rate"] * factor
    return float(optimizer.param_groups[0]["lr"])
