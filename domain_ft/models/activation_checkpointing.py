"""Activation checkpointing: keep only the input of each layer, and recompute the layer in the backward pass.

Memory then holds the inputs of all layers, and the other activations of one layer at a time (Chen et al. 2016,
"Training Deep Nets with Sublinear Memory Cost"). The price is a second forward pass. Losses and gradients do not
change: LoRA's dropout is a function of the micro-batch's seed, and torch restores the random state for any other
dropout.

The switch in transformers does not cover ALBERT and MPNet; this module covers any model that keeps its layers in an
`nn.ModuleList`. As in transformers, a layer's `forward` runs twice, but its hooks (such as FSDP2's) run once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, in order: its `nn.ModuleList` with the most parameters. Empty if it has none.

    ALBERT has a list of one layer, which it calls many times.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    # If lists are equally large, `max` returns the first, which is the outermost.
    largest = max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=())
    return list(largest)


class ActivationCheckpointing:
    """Switches a model's activation checkpointing on and off.

    The state is kept in the model, so all instances for one model agree.

    Args:
        model: any model; a model without a list of layers is left unchanged.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = repeated_layers(model)

    @property
    def possible(self) -> bool:
        """Whether the model has layers that can be recomputed."""
        return bool(self._layers)

    @property
    def on(self) -> bool:
        """Whether activation checkpointing is on."""
        return any(isinstance(vars(layer).get("forward"), _Recomputed) for layer in self._layers)

    def switch(self, on: bool) -> None:
        """Switch activation checkpointing on or off, in place. A forward pass without gradients is not affected."""
        for layer in self._layers:
            attributes = vars(layer)  # an instance attribute `forward` shadows the class's method
            current = attributes.get("forward")
            if on and not isinstance(current, _Recomputed):
                attributes["forward"] = _Recomputed(layer.forward, current)
            elif not on and isinstance(current, _Recomputed):
                if current.replaced is None:
                    del attributes["forward"]
                else:
                    attributes["forward"] = current.replaced


class _Recomputed:
    """A layer's forward, recomputed in the backward pass.

    Args:
        forward: the layer's forward.
        replaced: the instance attribute `forward` that this object replaces, if there was one.
    """

    def __init__(self, forward: Callable[..., Any], replaced: Callable[..., Any] | None) -> None:
        self._forward, self.replaced = forward, replaced

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
