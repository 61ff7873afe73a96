"""Sibling projections: LoRA layers of one module that read the same input, computed in one call.

The query, key and value projections of an attention read the same hidden states, as do the gate and up projections of
a gated MLP. `lora_linear_group` reads the input once for all siblings, forward and backward.

Siblings are found by their names. Names are only a guess, so every call is checked. The first layer that is called
computes the outputs of all siblings. Each other layer takes its output if it is called with the same tensor; otherwise
it computes its output itself. Siblings share one dropout mask, so both ways lead to the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from domain_ft_kernels import lora_linear_group

if TYPE_CHECKING:
    from domain_ft.models.lora_layers import LoraLinear

NAMES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
    ("gate_proj", "up_proj"),
)
"""Names of projections that read the same input, in the order in which their parent calls them."""


class Siblings:
    """LoRA layers of a module that may be computed together. They share a `SharedCall` while the module runs.

    Args:
        parent: the module's path in the model.
        names: the names of the layers in it.
    """

    def __init__(self, parent: str, names: Sequence[str]) -> None:
        self.parent, self.names = parent, tuple(names)
        self._together = True
        self._hooks: list[RemovableHandle] = []

    @property
    def paths(self) -> list[str]:
        """The layers' paths in the model."""
        return [f"{self.parent}.{name}" if self.parent else name for name in self.names]

    def attach(self, model: nn.Module) -> None:
        """Register hooks on the parent module in `model`."""
        module = model.get_submodule(self.parent)
        self._hooks = [
            module.register_forward_pre_hook(self._open),
            module.register_forward_hook(self._close, always_call=True),
        ]

    def detach(self) -> None:
        """Undo `attach`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _layers(self, module: nn.Module) -> list[LoraLinear]:
        return [getattr(module, name) for name in self.names]

    def _open(self, module: nn.Module, _args: Any) -> None:
        if self._together:
            layers = self._layers(module)
            call = SharedCall(layers)
            for layer in layers:
                layer.call = call

    def _close(self, module: nn.Module, _args: Any, output: Any) -> None:
        """Drop the shared outputs. If some were not taken, as in cross-attention, never share again."""
        for layer in self._layers(module):
            if layer.call is not None and layer.call.has_left_over and output is not None:
                self._together = False
            layer.call = None


class SharedCall:
    """What siblings share during one call of their parent module."""

    def __init__(self, layers: Sequence[LoraLinear]) -> None:
        self._layers = layers
        self._x: Tensor | None = None
        self._state: tuple[Any, ...] = ()
        self._outputs: list[Tensor | None] = [None] * len(layers)

    @property
    def has_left_over(self) -> bool:
        """Whether an output was computed that no layer took."""
        return any(output is not None for output in self._outputs)

    def take(self, layer: LoraLinear, x: Tensor) -> Tensor | None:
        """The output (..., N) of `layer` for x (..., K), or None if the layer has to compute it itself."""
        if self._x is None:
            self._x, self._state = x, _state_of(x)
            if _can_be_grouped(self._layers, x):
                self._outputs = list(_group(self._layers, x))
        if x is not self._x or _state_of(x) != self._state:
            return None
        place = next(place for place, sibling in enumerate(self._layers) if sibling is layer)
        output, self._outputs[place] = self._outputs[place], None
        return output


def find_siblings(layers: Mapping[str, LoraLinear]) -> list[Siblings]:
    """The siblings among `layers` (by path): layers of one parent, with names of one group and inputs of one size."""
    families: dict[str, dict[str, LoraLinear]] = {}
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        families.setdefault(parent, {})[name] = layer
    siblings = []
    for parent, family in families.items():
        for names in NAMES:
            present = [name for name in names if name in family]
            if len(present) > 1 and len({family[name].in_features for name in present}) == 1:
                siblings.append(Siblings(parent, present))
    return siblings


def _group(layers: Sequence[LoraLinear], x: Tensor) -> tuple[Tensor, ...]:
    first = layers[0]
    dropout_p = first.active_dropout
    return lora_linear_group(
        x,
        [layer.base_weight for layer in layers],
        [layer.bias for layer in layers],
        [layer.lora_A for layer in layers],
        [layer.lora_B for layer in layers],
        [layer.scaling for layer in layers],
        dropout_p=dropout_p,
        seed=first.seed.of(first.index) if dropout_p else None,
        backend=first.backend,
    )


def _can_be_grouped(layers: Sequence[LoraLinear], x: Tensor) -> bool:
    """Whether one call can compute the outputs of all layers now.

    Not for inference tensors: they have no version counter, so a change in place would go unnoticed.
    """
    if not torch.compiler.is_compiling() and x.is_inference():
        return False
    kind = _kind(layers[0])
    return not any(layer.merged for layer in layers) and all(_kind(layer) == kind for layer in layers[1:])


def _kind(layer: LoraLinear) -> tuple[Any, ...]:
    """What layers must have in common to be computed in one call.

    The class of lora_A is part of it, since FSDP may have gathered the parameters of only one layer.
    """
    weight, lora_a = layer.base_layer.weight, layer.lora_A
    settings = layer.backend, layer.active_dropout, layer.index
    return *settings, weight.dtype, weight.device, lora_a.dtype, type(lora_a)


def _state_of(x: Tensor) -> tuple[Any, ...]:
    """What an output depends on besides the identity of x: how often x was written to (unknown while tracing), and
    torch's modes.
    """
    version = 0 if torch.compiler.is_compiling() or x.is_inference() else x._version
    return version, torch.is_grad_enabled(), torch.is_autocast_enabled(x.device.type)
