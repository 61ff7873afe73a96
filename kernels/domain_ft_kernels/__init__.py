"""The ops of domain-ft's hot path: the LoRA linear and the (linear) cross-entropy, fused.

    from domain_ft_kernels import lora_linear, lora_linear_group, linear_cross_entropy, cross_entropy

Each op is one public function with an argument `backend`: `reference` is the definition in plain PyTorch, `torch` the
fast path on a CPU, `triton` the fast path on a GPU; `auto` chooses by device. The package contains no model code; it
needs torch, and for the backend `triton` also triton.
"""

from __future__ import annotations

from domain_ft_kernels.backends import BACKENDS, resolve_backend
from domain_ft_kernels.cross_entropy import cross_entropy
from domain_ft_kernels.dropout import keep_mask
from domain_ft_kernels.linear_cross_entropy import linear_cross_entropy
from domain_ft_kernels.lora_linear import lora_linear, lora_linear_group
from domain_ft_kernels.modules import CrossEntropyLoss, LinearCrossEntropyLoss

from domain_ft_kernels import flops as _flops  # isort: skip  # noqa: F401 (formulas of the ops above)

__all__ = [
    "BACKENDS",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "cross_entropy",
    "keep_mask",
    "linear_cross_entropy",
    "lora_linear",
    "lora_linear_group",
    "resolve_backend",
]
