"""The optimiser's groups: decay on matrices alone, LoRA+'s rate on B alone."""

from __future__ import annotations

import torch
from torch import nn

from domain_ft.training.optimizer import build_optimizer, set_learning_rate


def named_parameters() -> dict[str, nn.Parameter]:
    return {
        "encoder.lora_A.weight": nn.Parameter(torch.ones(2, 3)),
        "encoder.lora_B.weight": nn.Parameter(torch.ones(3, 2)),
        "encoder.norm.weight": nn.Parameter(torch.ones(3)),
    }


def group_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, object]:
    return next(group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))


def test_vectors_have_no_decay_and_b_has_its_own_rate() -> None:
    parameters = named_parameters()
    optimizer = build_optimizer(parameters.items(), learning_rate=1e-3, weight_decay=0.1, lora_plus_ratio=16)
    a, b, norm = (group_of(optimizer, parameter) for parameter in parameters.values())
    assert (a["weight_decay"], b["weight_decay"], norm["weight_decay"]) == (0.1, 0.1, 0.0)
    assert (a["lr"], b["lr"], norm["lr"]) == (1e-3, 1.6e-2, 1e-3)


def test_the_rate_is_set_from_each_groups_peak() -> None:
    optimizer = build_optimizer(named_parameters().items(), learning_rate=1e-3, weight_decay=0.1, lora_plus_ratio=4)
    for factor in (0.5, 0.25):  # the second time must start from the peak again
        assert set_learning_rate(optimizer, factor) == 1e-3 * factor
        assert {group["lr"] for group in optimizer.param_groups} == {1e-3 * factor, 4e-3 * factor}


def test_a_step_moves_every_parameter() -> None:
    parameters = named_parameters()
    optimizer = build_optimizer(parameters.items(), learning_rate=1e-3, weight_decay=0.0)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(bool((parameter < 1).all()) for parameter in parameters.values())
