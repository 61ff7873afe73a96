"""The output projection: its captured input, times its weight plus its bias, equals the model's logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import OTHER_CONFIGS, SUPPORTED, VOCABULARY, tiny_model

from domain_ft.models import head

PLAIN = tuple(name for name in (*SUPPORTED, *OTHER_CONFIGS) if name not in ("gemma2", "cohere", "granite"))
INPUT = torch.randint(6, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", PLAIN)
def test_captured_input_times_weight_is_the_models_logits(architecture: str) -> None:
    model = tiny_model(architecture)
    with torch.no_grad():
        expected = model(input_ids=INPUT).logits
        with head.captured_input(model) as captured:
            model(input_ids=INPUT)
        weight, bias = head.projection(model)
        assert len(captured) == 1
        torch.testing.assert_close(F.linear(captured[0], weight, bias), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(model(input_ids=INPUT).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_gradients_are_those_of_the_full_logits(architecture: str) -> None:
    model = tiny_model(architecture).double()
    labels = torch.randint(0, VOCABULARY, (40,), generator=torch.Generator().manual_seed(1))
    gradients = []
    for fused in (False, True):
        model.zero_grad()
        if fused:
            with head.captured_input(model) as captured:
                model(input_ids=INPUT)
            weight, bias = head.projection(model)
            logits = F.linear(captured[0], weight, bias)
        else:
            logits = model(input_ids=INPUT).logits
        F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum").backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-9, atol=1e-9)


def test_a_model_with_sparse_prediction_is_captured_whole() -> None:
    model = tiny_model("modernbert", sparse_prediction=True)
    with head.captured_input(model) as captured:
        model(input_ids=INPUT)
    assert captured[0].shape == (2, 20, 32)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_only_rows_selects_rows_before_the_head_or_keeps_all(architecture: str) -> None:
    model, rows = tiny_model(architecture), torch.tensor([3, 11, 4])
    with torch.no_grad():
        with head.captured_input(model) as captured:
            model(input_ids=INPUT[:1])
        expected = captured[0][0]
        with head.captured_input(model) as captured, head.only_rows(model, rows) as taken:
            model(input_ids=INPUT[:1])
    got = captured[0][0]
    assert bool(taken) == (architecture != "opt")
    torch.testing.assert_close(got, expected[rows] if taken else expected, rtol=0, atol=1e-6)


def test_an_error_inside_the_block_leaves_the_model_as_it_was() -> None:
    model = tiny_model("bert")
    before = model(input_ids=INPUT).logits
    with (
        pytest.raises(RuntimeError, match="stop"),
        head.captured_input(model),
        head.only_rows(model, torch.tensor([0])),
    ):
        raise RuntimeError("stop")
    assert torch.equal(model(input_ids=INPUT).logits, before)
    assert "forward" not in vars(model.get_output_embeddings())


def test_blocks_may_be_nested_and_keep_a_forward_that_was_set_before() -> None:
    model = tiny_model("gpt2")
    projection = model.get_output_embeddings()
    plain = projection.forward
    projection.forward = lambda hidden: plain(hidden) * 2  # as accelerate's hooks do
    doubled = model(input_ids=INPUT).logits
    with head.captured_input(model) as outer:
        with head.captured_input(model) as inner:
            model(input_ids=INPUT)
        model(input_ids=INPUT)
    assert (len(inner), len(outer)) == (1, 1)
    assert torch.equal(model(input_ids=INPUT).logits, doubled)
