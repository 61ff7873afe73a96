"""The mode of a model: read and not trained, or trained without the dropout of its base."""

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
"""What transformers calls a rate of dropout that a module keeps as a number: `attention_dropout`, `layerdrop`,
`hidden_dropout_prob`. `dropout_scale` or `drop_after` is none."""


class HasModel(Protocol):
    """Whatever has a model, which may become another object in training (`Shards.whole_model`)."""

    model: PreTrainedModel


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode, without gradients; afterwards every module is as it was.

    no_grad and not inference_mode: what a module caches on its first call (rotary tables, packed weights) must stay of
    use to the training that follows, and an inference tensor is not.
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
    """Inside the block the base model drops nothing; LoRA's own dropout is left alone. Afterwards its rates are back.

    Drawing the masks costs a quarter of a step on a CPU and puts attention on the slow path, and a run that sees its
    corpus about once has little to overfit.
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
    """(path of a module, name of its attribute) -> rate, of all dropout of the base."""
    found: dict[tuple[str, str], float] = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLinear):
            continue
        if isinstance(module, _DropoutNd):
            found[path, "p"] = module.p
        for name, value in vars(module).items():
            if isinstance(value, float) and 0 <= value <= 1 and _RATE.fullmatch(name):
                found[path, name] = value
    return found
