"""Activation checkpointing: bit-identical losses and gradients, and far fewer bytes saved for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loop_jobs import job
from tiny_models import ENCODERS, SUPPORTED, tiny_model
from torch import Tensor, nn

from domain_ft.models.activation_checkpointing import ActivationCheckpointing, repeated_layers
from domain_ft.models.base import BaseModel
from domain_ft.models.lora import set_dropout_seed
from domain_ft.objectives.base import Inputs, Objective


def gradients(base: BaseModel, objective: Objective, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and every gradient of a micro-batch."""
    base.model.zero_grad(set_to_none=True)
    loss = objective.loss(base, inputs)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in base.model.named_parameters() if p.grad is not None}


def saved_bytes(base: BaseModel, objective: Objective, inputs: Inputs) -> int:
    """The bytes that autograd saves in a forward pass, without the parameters."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective.loss(base, inputs)
    parameters = {parameter.untyped_storage()._cdata for parameter in base.model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in parameters)


@pytest.mark.parametrize("architecture", [*SUPPORTED, "mpnet", "deberta-v2", "gemma2"])
def test_losses_and_gradients_are_bit_identical_and_less_is_saved(architecture: str) -> None:
    base, objective, rows = job(architecture, dropout=0.3)
    base.model.train()
    set_dropout_seed(base.model, 11)
    inputs = objective.prepare(rows.pack(range(8)), 0)
    checkpointing = ActivationCheckpointing(base.model)
    whole, plain = saved_bytes(base, objective, inputs), None
    for on in (False, True, False):
        checkpointing.switch(on)
        assert checkpointing.on == on
        torch.manual_seed(5)  # the base model's own dropout, where it has some
        loss, found = gradients(base, objective, inputs)
        if plain is None:
            plain = loss, found
        assert torch.equal(loss, plain[0])
        assert found.keys() == plain[1].keys()
        assert all(torch.equal(found[name], plain[1][name]) for name in found)
    checkpointing.switch(True)
    assert saved_bytes(base, objective, inputs) < 0.35 * whole


def test_every_weight_may_train() -> None:
    base, objective, rows = job("llama", lora=False)
    base.model.train()
    inputs = objective.prepare(rows.pack(range(8)), 0)
    _, plain = gradients(base, objective, inputs)
    ActivationCheckpointing(base.model).switch(True)
    _, again = gradients(base, objective, inputs)
    assert plain.keys() == again.keys() == {name for name, _ in base.model.named_parameters()}
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_the_layers_of_a_model_are_found(architecture: str) -> None:
    model = tiny_model(architecture)
    layers = repeated_layers(model)
    assert len(layers) == (1 if architecture == "albert" else model.config.num_hidden_layers)
    body = sum(p.numel() for p in model.base_model.parameters()) - sum(
        p.numel() for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()
    )
    # outside the layers are only some norms, and the projections of embeddings of another width
    assert (
        sum(p.numel() for layer in layers for p in layer.parameters())
        > (0.7 if architecture in ENCODERS else 0.9) * body
    )


def test_without_gradients_nothing_is_recomputed_and_an_own_forward_is_restored() -> None:
    calls: list[Any] = []

    class Layer(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            calls.append("class")
            return super().forward(x)

    model = nn.ModuleList([Layer(3, 3), Layer(3, 3)])
    of_class = model[1].forward

    def own(x: Tensor) -> Tensor:
        calls.append("own")
        return of_class(x)

    model[1].forward = own
    checkpointing = ActivationCheckpointing(model)
    checkpointing.switch(True)
    checkpointing.switch(True)  # no second wrapping
    x = torch.ones(1, 3)
    with torch.no_grad():
        model[1](model[0](x))
    assert calls == ["class", "own", "class"]
    model[1](model[0](x)).sum().backward()
    assert len(calls) > 6
    checkpointing.switch(False)
    assert "forward" not in vars(model[0])
    assert model[1].forward is own


def test_a_model_without_layers_is_left_alone() -> None:
    checkpointing = ActivationCheckpointing(nn.Linear(2, 2))
    checkpointing.switch(True)
    assert not checkpointing.possible
    assert not checkpointing.on
