"""Modes of a model: evaluation, and training without the dropout of its base."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

from domain_ft.models.lora_layers import LoraLinear

_RATE = re.compile(r"(.*_)?(dropout|pdrop|layerdrop|drop)(_p|_prob|_rate|_ratio)?")
"""The names of numeric dropout rates in transformers' modules: `attention_dropout`, `layerdrop`,
`hidden_dropout_prob`; but not `dropout_scale` or `drop_after`."""


class HasModel(Protocol):
    """An object with a model, which training may replace (`Shards.unsharded_model`)."""

    model: PreTrainedModel


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block the model is in eval mode, without gradients; afterwards every module's mode is restored.

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
def without_base_dropout(holder: HasModel) -> Iterator[None]:
    """Inside the block the base model has no dropout, except LoRA's; afterwards its rates are restored.

    Dropout costs a quarter of a step on a CPU and keeps attention off its fast path, and a run that sees its corpus
    about once hardly overfits.
    """
    rates = _rates(holder.model)
    for path, name in rates:
        setattr(holder.model.get_submodule(path), name, 0.0)
    try:
        yield
    finally:
        for (path, name), rate in rates.items():
            setattr(holder.model.get_submodule(path), name, rate)


def _rates(model: nn.Module) -> dict[tuple[str, str], float]:
    """The dropout rates of the base by (path of a module, name of its attribute)."""
    rates: dict[tuple[str, str], float] = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLinear):
            continue
        if isinstance(module, _DropoutNd):
            rates[path, "p"] = module.p
        for name, value in vars(module).items():
            if isinstance(value, float) and 0 <= value <= 1 and _RATE.fullmatch(name):
                rates[path, name] = value
    return rates
