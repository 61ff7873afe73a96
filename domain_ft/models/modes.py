"""Modes of a model: evaluation, and training without the base model's dropout."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from domain_ft.models.lora_layers import LoraLinear

_RATE = re.compile(r"(.*_)?(dropout|pdrop|layerdrop|drop)(_p|_prob|_rate|_ratio)?")
"""The names of attributes that are dropout rates in transformers' modules, such as `attention_dropout`, `layerdrop` and
`hidden_dropout_prob`; not `dropout_scale` or `drop_after`."""


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block, the model is in eval mode, without gradients; afterwards every module's mode is restored.

    no_grad, not inference_mode: modules cache tensors on their first call (rotary tables, packed weights), and training
    could not use inference tensors.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def without_base_dropout(model: nn.Module) -> Iterator[None]:
    """Inside the block, the base model's dropout is off, but not LoRA's; afterwards its rates are restored.

    On a CPU, dropout costs a quarter of a step's time and keeps attention off its fast path. A run of about one epoch
    hardly overfits without it.
    """
    rates = list(_rates(model))
    for module, name, _ in rates:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, rate in rates:
            setattr(module, name, rate)


def _rates(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """(module, name of its attribute, rate) for each dropout rate of the base."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            continue
        if isinstance(module, _DropoutNd):
            yield module, "p", module.p
        for name, value in vars(module).items():
            if isinstance(value, float) and 0 <= value <= 1 and _RATE.fullmatch(name):
                yield module, name, value
