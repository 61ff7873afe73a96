"""FLOPs per token that a training job needs, counted from its model and rows, without padding and recomputation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per trained token, forward and backward.

    Attributes:
        linears: frozen layers: 2 K N forward (K inputs, N outputs), and 2 K N for the gradient of their input. The
            layers that read the embeddings need no such gradient, because nothing below them is trained. Layers in
            the head of a masked LM see only the labelled positions, for `adapters` too.
        adapters: 2 R (K + N) forward and twice that backward, minus 2 R K if the input needs no gradient.
        attention: 4 L D per layer forward (scores and weighted sum over the L tokens of a row; half of it if causal)
            and twice that backward. L is the length of a token's row, averaged over tokens.
        head: the output projection, on the labelled positions: 2 D V forward and 2 D V backward.
    """

    linears: float
    adapters: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """The sum."""
        return sum(dataclasses.astuple(self))


def count(prepared: Any) -> Flops:
    """The FLOPs per token of an `adapt.prepare.AdaptJob` with adapters in all linears and attention over whole rows."""
    config, rows, rank = prepared.base.model.config, prepared.train_rows, prepared.settings.rank
    causal = prepared.base.objective == "clm"
    labelled = 1.0 if causal else prepared.settings.mask_rate
    linears = adapters = 0.0
    for layer, needs_gradient, in_head in _adapted(prepared):
        share = labelled if in_head else 1.0
        frozen, inner = layer.in_features * layer.out_features, rank * (layer.in_features + layer.out_features)
        linears += share * (4 * frozen if needs_gradient else 2 * frozen)
        adapters += share * (6 * inner if needs_gradient else 6 * inner - 2 * rank * layer.in_features)
    mean_row = float((rows.lengths.astype(float) ** 2).sum() / rows.lengths.sum())
    attention = 12 * mean_row * config.hidden_size * config.num_hidden_layers * (0.5 if causal else 1.0)
    head = labelled * 4 * prepared.base.model.get_output_embeddings().weight.numel()
    return Flops(linears, adapters, attention, head)


def _adapted(prepared: Any) -> list[tuple[Any, bool, bool]]:
    """Each adapted layer, whether its input needs a gradient, and whether it sees only the labelled positions.

    A forward pass over the longest row shows this.
    """
    from domain_ft.models.lora_layers import LoraLinear

    model, rows = prepared.base.model, prepared.train_rows
    inputs = prepared.objective.prepare(rows.pack([int(rows.lengths.argmax())]), epoch=0)
    tokens = inputs.input_ids.numel()
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    seen = dict.fromkeys(layers, (True, False))

    def note(layer: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        seen[layer] = x.requires_grad, x.numel() // x.shape[-1] < tokens

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    prepared.objective.loss(prepared.base, inputs.to(model.device))
    for hook in hooks:
        hook.remove()
    return [(layer, *seen[layer]) for layer in layers]
