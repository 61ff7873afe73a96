"""`without_base_dropout`: it turns off all dropout of the base model and nothing else, and restores it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import SUPPORTED, tiny_model

from domain_ft.models.lora import LoraConfig, apply_lora
from domain_ft.models.modes import without_base_dropout


@pytest.mark.parametrize("architecture", sorted(SUPPORTED))
def test_training_mode_without_dropout_is_evaluation_mode(architecture: str) -> None:
    """All dropout is off, since any that is left on would change the logits, and the rates are restored."""
    model = tiny_model(architecture)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    rates = [(name, value) for module in model.modules() for name, value in vars(module).items() if name != "training"]
    ids = torch.randint(5, 40, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = model.eval()(input_ids=ids).logits
        with without_base_dropout(model):
            model.train()
            assert torch.equal(model(input_ids=ids).logits, truth)
    model.train()
    after = [(name, value) for module in model.modules() for name, value in vars(module).items() if name != "training"]
    numbers = [pair for pair in rates if isinstance(pair[1], float)]
    assert [pair for pair in after if isinstance(pair[1], float)] == numbers


class Odd(torch.nn.Module):
    """Numbers whose names hold "drop": three rates of dropout, and three that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_dropout = 0.1
        self.activation_dropout_p = 0.2
        self.layerdrop = 0.3
        self.dropout_scale = 0.5
        self.drop_after = 0.25
        self.droplet_size = 0.75


def test_only_rates_of_dropout_are_changed_and_an_error_restores_them() -> None:
    model = Odd()
    names = ("attention_dropout", "activation_dropout_p", "layerdrop", "dropout_scale", "drop_after", "droplet_size")
    before = [getattr(model, name) for name in names]
    with pytest.raises(KeyboardInterrupt), without_base_dropout(model):
        assert [getattr(model, name) for name in names] == [0.0, 0.0, 0.0, 0.5, 0.25, 0.75]
        raise KeyboardInterrupt
    assert [getattr(model, name) for name in names] == before


def test_the_dropout_of_lora_is_left_alone() -> None:
    model = tiny_model("bert")
    apply_lora(model, LoraConfig(rank=2, dropout=0.5))
    with without_base_dropout(model):
        assert {module.dropout for module in model.modules() if type(module).__name__ == "LoraLinear"} == {0.5}
