"""The mode of a model while it is read and not trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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
