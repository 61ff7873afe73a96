"""Activation checkpointing: keep the inputs of each layer alone, and compute the layer again in the backward pass.

A micro-batch then holds every layer's input and one layer's activations at a time, where it would hold those of all
layers. It costs a second forward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Losses and
gradients are the same: dropout follows from seeds that stay as they are until the micro-batch is over, or from a
generator that is set back.

transformers' own switch does this for most models, but not for ALBERT and MPNet; this one does it for any model that
keeps its layers in a list. As there, a layer's `forward` is what is done twice, and not its hooks, such as FSDP2's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that a model consists of, in order: those of its largest list of modules. Empty where there is none.

    ALBERT's is a list of one layer, which it calls many times.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    # A list comes before one inside it that holds as much, and max takes the first.
    largest = max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=())
    return list(largest)


class ActivationCheckpointing:
    """The switch of a model's activation checkpointing. Several of one model are the same switch.

    Args:
        model: any model; one without a list of layers is left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = repeated_layers(model)

    @property
    def possible(self) -> bool:
        """Whether the model has layers that can be computed again."""
        return bool(self._layers)

    @property
    def on(self) -> bool:
        """Whether they are."""
        return any(isinstance(vars(layer).get("forward"), _Recomputed) for layer in self._layers)

    def switch(self, on: bool) -> None:
        """Switch it on or off, in place. What is computed without gradients stays as it is."""
        for layer in self._layers:
            attributes = vars(layer)  # an instance's own `forward` goes before its class's
            own = attributes.get("forward")
            if on and not isinstance(own, _Recomputed):
                attributes["forward"] = _Recomputed(layer.forward, own)
            elif not on and isinstance(own, _Recomputed):
                if own.replaced is None:
                    del attributes["forward"]
                else:
                    attributes["forward"] = own.replaced


class _Recomputed:
    """A layer's forward that is computed again in the backward pass.

    Args:
        forward: what is computed.
        replaced: the instance's own forward that this one stands in for, if there was one.
    """

    def __init__(self, forward: Callable[..., Any], replaced: Callable[..., Any] | None) -> None:
        self._forward, self.replaced = forward, replaced

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
