"""The arithmetic that a training job needs, counted from its model and its rows. No padding, nothing done twice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flops:
    """Floating-point operations a trained token needs, forward and backward.

    Attributes:
        linears: of the frozen layers: 2 K N forward (K inputs, N outputs), and 2 K N for the gradient of their input.
            The layers that read the embeddings need no such gradient: nothing below them trains.
        adapters: 2 R (K + N) forward and twice that backward, less 2 R K where the input needs no gradient.
        attention: 4 L D in each layer forward (scores and mix over the L tokens of a row; half of it where it is
            causal) and twice that backward. L is the mean over tokens.
        head: on the labelled positions alone, 2 D V forward and 2 D V backward, and a masked LM's transform likewise.
    """

    linears: float
    adapters: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))


def count(prepared: Any) -> Flops:
    """The FLOPs of a `domain_ft.verbs.adapt.Job` with its adapters in it, whose attention sees whole rows."""
    from torch import nn

    from domain_ft.models.lora import LoraLinear

    model, rows, config = prepared.base.model, prepared.train_rows, prepared.base.model.config
    adapted = [m for m in model.modules() if isinstance(m, LoraLinear)]
    first = _without_input_gradient(prepared)
    frozen = sum((2 if m in first else 4) * m.in_features * m.out_features for m in adapted)
    rank = prepared.settings.rank
    adapters = sum(
        6 * rank * (m.in_features + m.out_features) - (2 * rank * m.in_features if m in first else 0) for m in adapted
    )
    mean_row = float((rows.lengths.astype(float) ** 2).sum() / rows.lengths.sum())
    causal = prepared.base.objective == "clm"
    attention = 12 * mean_row * config.hidden_size * config.num_hidden_layers * (0.5 if causal else 1.0)
    projection = model.get_output_embeddings()
    plain = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "base_layer" not in n]
    transform = sum(m.in_features * m.out_features for m in plain if m is not projection)
    share = 1.0 if causal else prepared.settings.mask_rate
    head = share * 4 * (projection.weight.numel() + transform)
    return Flops(float(frozen), float(adapters), attention, head)


def _without_input_gradient(prepared: Any) -> set[Any]:
    """The adapted layers whose input needs no gradient, as one short pass shows."""
    from domain_ft.models.lora import LoraLinear

    model, rows = prepared.base.model, prepared.train_rows
    needed: dict[Any, bool] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, given: needed.__setitem__(m, given[0].requires_grad))
        for module in model.modules()
        if isinstance(module, LoraLinear)
    ]
    inputs = prepared.objective.prepare(rows.pack([int(rows.lengths.argmin())]), epoch=0)
    training = model.training
    model.train()
    prepared.objective.loss(prepared.base, inputs.to(model.device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return {module for module, wanted in needed.items() if not wanted}
