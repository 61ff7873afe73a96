"""The table of architectures: its entries, generic descriptions of other architectures, and what is refused."""

from __future__ import annotations

import re

import pytest
from tiny_models import CONFIGS, DECODERS, ENCODERS, SUPPORTED, tiny_model
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from domain_ft.errors import ModelError
from domain_ft.models.architectures import ARCHITECTURES, LogitTail, attention_targets, describe, logit_tail


def test_every_supported_architecture_is_in_the_table_and_has_a_tiny_model() -> None:
    assert set(ARCHITECTURES) == set(SUPPORTED) == set(CONFIGS)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_objective_follows_the_architecture(architecture: str) -> None:
    described = describe(AutoConfig.for_model(architecture), architecture)
    assert described.objective == ("mlm" if architecture in ENCODERS else "clm")
    assert described.tested


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_attention_targets_are_all_the_linears_of_the_attention_and_no_others(architecture: str) -> None:
    model = tiny_model(architecture)
    endings = attention_targets(model)
    found = {name for name, _ in model.named_modules() if any(re.fullmatch(rf"(.*\.)?{end}", name) for end in endings)}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    attentive = {name for name in linear if re.search(r"\.(attention|attn|self_attn)\.", name)}
    assert found == attentive
    assert found


def test_positions_of_roberta_start_after_its_padding_token() -> None:
    config = AutoConfig.for_model("roberta", pad_token_id=1)
    assert describe(config, "r").position_offset(config) == 2
    config = AutoConfig.for_model("opt", pad_token_id=1)  # OPT adds its offset itself
    assert describe(config, "o").position_offset(config) == 0


@pytest.mark.parametrize(("kind", "objective"), [("camembert", "mlm"), ("mpnet", "mlm"), ("mistral", "clm")])
def test_other_architectures_are_described_by_their_heads(kind: str, objective: str) -> None:
    described = describe(AutoConfig.for_model(kind), kind)
    assert (described.objective, described.tested) == (objective, False)


@pytest.mark.parametrize("kind", ["t5", "bart", "vit"])
def test_what_is_neither_encoder_nor_decoder_is_refused_with_the_list(kind: str) -> None:
    with pytest.raises(ModelError, match=rf"'my-model' is a model of type '{kind}'") as caught:
        describe(AutoConfig.for_model(kind), "my-model")
    assert all(name in str(caught.value) for name in (*ENCODERS, *DECODERS))


def test_an_encoder_configured_as_a_decoder_is_refused() -> None:
    with pytest.raises(ModelError, match="is_decoder = true"):
        describe(AutoConfig.for_model("bert", is_decoder=True), "b")


def test_attention_of_other_architectures_is_found_by_name() -> None:
    targets = attention_targets(tiny_model("mistral"))
    assert "model.layers.0.self_attn.q_proj" in targets
    assert not any("mlp" in target or "lm_head" in target for target in targets)


def test_logit_tails_come_from_the_config() -> None:
    assert logit_tail(AutoConfig.for_model("cohere", logit_scale=0.25)) == LogitTail(scale=0.25)
    assert logit_tail(AutoConfig.for_model("granite", logits_scaling=8.0)) == LogitTail(scale=0.125)
    assert logit_tail(AutoConfig.for_model("gemma2", final_logit_softcapping=30.0)) == LogitTail(softcap=30.0)
    assert logit_tail(AutoConfig.for_model("llama")) == LogitTail()
