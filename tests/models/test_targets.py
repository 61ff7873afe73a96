"""Names and patterns become module paths as PEFT reads them; what cannot be trained or reloaded is refused."""

from __future__ import annotations

import peft
import pytest
from tiny_models import DECODERS, ENCODERS, SUPPORTED, tiny_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from domain_ft.errors import ModelError
from domain_ft.models.targets import head_modules, resolve_modules, resolve_targets, tied_projections

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_all_linear_is_pefts(architecture: str) -> None:
    ours = resolve_targets(tiny_model(architecture), "all-linear")
    theirs = peft.get_peft_model(tiny_model(architecture), peft.LoraConfig(target_modules="all-linear"))
    assert sorted(ours) == sorted(theirs.base_model.targeted_module_names)


def test_all_linear_leaves_classification_heads_out() -> None:
    bert = BertForSequenceClassification(BertConfig(**SMALL))
    roberta = RobertaForSequenceClassification(RobertaConfig(**SMALL))
    for model in (bert, roberta):
        assert not [path for path in resolve_targets(model, "all-linear") if path.startswith("classifier")]
    assert "bert.pooler.dense" in resolve_targets(bert, "all-linear")


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_attention_is_in_every_block_and_nowhere_else(architecture: str) -> None:
    model = tiny_model(architecture)
    paths = resolve_targets(model, "attention")
    assert paths
    assert all("attn" in path or "attention" in path for path in paths)
    inside = [
        path
        for path in resolve_targets(model, "all-linear")
        if any("attn" in part or "attention" in part for part in path.split(".")[:-1])
    ]
    assert paths == inside


def test_a_list_matches_paths_and_their_ends() -> None:
    model = tiny_model("bert")
    assert resolve_targets(model, ["bert.encoder.layer.1.attention.self.query"]) == [
        "bert.encoder.layer.1.attention.self.query"
    ]
    assert len(resolve_targets(model, ["query", "self.key"])) == 4
    with pytest.raises(ModelError, match="'uery'"):
        resolve_targets(model, ["uery"])


def test_an_expression_matches_whole_paths() -> None:
    model = tiny_model("gpt2")
    assert resolve_targets(model, r"transformer\.h\.0\..*") == [
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        "transformer.h.0.mlp.c_fc",
        "transformer.h.0.mlp.c_proj",
    ]
    with pytest.raises(ModelError, match=r"transformer\.h\.0\.attn\.c_attn"):
        resolve_targets(model, "c_attn")
    with pytest.raises(ModelError, match="not a regular expression"):
        resolve_targets(model, "c_attn(")


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_the_output_projection_takes_lora_only_where_it_is_not_tied(architecture: str) -> None:
    model = tiny_model(architecture)
    output = next(path for path, module in model.named_modules() if module is model.get_output_embeddings())
    if tied_projections(model):
        assert list(tied_projections(model)) == [output]
        with pytest.raises(ModelError, match="tied"):
            resolve_targets(model, [output])
    else:
        assert resolve_targets(model, [output]) == [output]


def test_modules_that_take_no_lora_are_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="an embedding"):
        resolve_targets(model, ["embed_tokens"])
    with pytest.raises(ModelError, match="an embedding"):
        resolve_targets(model, ".*embed.*")
    with pytest.raises(ModelError, match="a LlamaRMSNorm"):
        resolve_targets(model, ["input_layernorm"])


def test_attention_of_a_bare_torch_model_is_unknown() -> None:
    with pytest.raises(ModelError, match="not a transformers model"):
        resolve_targets(nn.Sequential(nn.Linear(2, 2)), "attention")


def test_no_lora_inside_a_module_trained_in_full() -> None:
    model = tiny_model("bert")
    whole = resolve_modules(model, ["transform"])
    assert whole == ["cls.predictions.transform"]
    assert not [path for path in resolve_targets(model, "all-linear", whole) if path.startswith("cls")]


@pytest.mark.parametrize("architecture", ENCODERS)
def test_head_modules_can_be_trained_in_full(architecture: str) -> None:
    model = tiny_model(architecture)
    names = head_modules(model)
    assert names
    assert sorted(resolve_modules(model, names)) == sorted(names)


@pytest.mark.parametrize("architecture", DECODERS)
def test_decoders_have_no_head_but_the_projection(architecture: str) -> None:
    assert head_modules(tiny_model(architecture)) == []


def test_modules_that_peft_could_not_reload_are_refused() -> None:
    bert = tiny_model("bert")
    with pytest.raises(ModelError, match=r"cls\.predictions\.transform instead"):
        resolve_modules(bert, ["cls"])
    with pytest.raises(ModelError, match="tied"):
        resolve_modules(bert, ["word_embeddings"])
    with pytest.raises(ModelError, match="ModuleList"):
        resolve_modules(tiny_model("llama"), ["layers"])
    with pytest.raises(ModelError, match="'clss'"):
        resolve_modules(bert, ["clss"])

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.lm_head = nn.Linear(2, 2), nn.Linear(2, 2)

    with pytest.raises(ModelError, match="lm_head too"):
        resolve_modules(Heads(), ["head"])


def test_the_outermost_module_counts() -> None:
    assert resolve_modules(tiny_model("bert"), ["transform.dense", "transform"]) == ["cls.predictions.transform"]
