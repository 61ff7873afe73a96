"""Adapters and PEFT: PEFT loads what we write, and we load what PEFT writes, with equal logits."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import SUPPORTED, VOCABULARY
from tiny_models import tiny_model as float32_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from domain_ft.errors import ModelError
from domain_ft.models import peft_format
from domain_ft.models.lora import LoraConfig, apply_lora, has_lora, merge_and_unload
from domain_ft.models.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, save_adapter
from domain_ft.models.targets import head_modules

TOLERANCE = 1e-12  # relative to the largest logit: the rounding of float64
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "alpha": 4},
    "dora": {"use_dora": True},
    "dropout": {"dropout": 0.3},
    "patterns": {"rank_pattern": {r".*\.0\..*": 2}, "alpha_pattern": {r".*\.0\..*": 5}},
    "attention": {"targets": "attention"},
    "regex": {"targets": r".*\b[01]\b.*(query|q_lin|q_proj|c_attn|Wqkv|query_key_value|ffn)"},
}


def tiny_model(architecture: str, **changes: Any) -> PreTrainedModel:
    """A tiny model in float64. PEFT keeps its adapter in the base's type, so only rounding may differ."""
    return float32_model(architecture, **changes).double()


def logits(model: nn.Module) -> Tensor:
    """Logits of two rows of fixed ids."""
    ids = torch.randint(5, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return result


def disturb(parameters: Any) -> None:
    """Add random numbers to `parameters`, as training would change them."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def assert_close(found: Tensor, expected: Tensor, base: Tensor) -> None:
    """Check that logits are equal to the rounding of float64, and that the adapter changes those of the base."""
    assert (expected - base).abs().max() > 1e-3
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1)


def quiet_peft(model: nn.Module, folder: Path) -> peft.PeftModel:
    """PEFT's model with the adapter in `folder`. Warnings, but for one of transformers', are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return peft.PeftModel.from_pretrained(model, folder)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_peft_loads_what_we_write(architecture: str, variant: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    base = logits(model)
    lora = apply_lora(model, LoraConfig(**{"rank": 4, "alpha": 8, **VARIANTS[variant]}))
    assert torch.equal(logits(model), base) or VARIANTS[variant].get("use_dora")
    disturb(lora.trainable_parameters().values())
    expected = logits(model)
    save_adapter(model, tmp_path / "adapter", base_name="a/base", revision="main")

    theirs = quiet_peft(tiny_model(architecture), tmp_path / "adapter")
    assert_close(logits(theirs), expected, base)

    ours = tiny_model(architecture)
    load_adapter(ours, tmp_path / "adapter")
    assert torch.equal(logits(ours), expected)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_peft_loads_modules_trained_in_full(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    base = logits(model)
    names = tuple(head_modules(model)) or ("norm" if architecture.startswith(("llama", "qwen")) else "ln_f",)
    names = {"gpt_neox": ("final_layer_norm",), "opt": ("fc1",)}.get(architecture, names)
    lora = apply_lora(model, LoraConfig(rank=2, train_modules=names))
    assert lora.trained_modules
    disturb(lora.trainable_parameters().values())
    expected = logits(model)
    save_adapter(model, tmp_path, base_name=None)

    assert_close(logits(quiet_peft(tiny_model(architecture), tmp_path)), expected, base)
    ours = tiny_model(architecture)
    load_adapter(ours, tmp_path)
    assert torch.equal(logits(ours), expected)


def test_task_type_and_base_are_recorded(tmp_path: Path) -> None:
    model = tiny_model("llama")
    apply_lora(model, LoraConfig())
    save_adapter(model, tmp_path, base_name="HuggingFaceTB/SmolLM2-135M", revision="93efa2f", task_type="CAUSAL_LM")
    settings = peft.LoraConfig.from_pretrained(tmp_path)
    assert settings.base_model_name_or_path == "HuggingFaceTB/SmolLM2-135M"
    assert settings.revision == "93efa2f"
    assert settings.task_type == "CAUSAL_LM"
    theirs = quiet_peft(tiny_model("llama"), tmp_path)
    assert isinstance(theirs, peft.PeftModelForCausalLM)


THEIRS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "gaussian": {"target_modules": "all-linear", "init_lora_weights": "gaussian", "lora_dropout": 0.2},
    "dora": {"target_modules": "all-linear", "use_dora": True, "use_rslora": True},
    "regex": {"target_modules": r".*(query|c_attn|q_proj|q_lin|Wqkv|query_key_value)", "rank_pattern": {".*": 3}},
    "excluded": {"target_modules": "all-linear", "exclude_modules": r".*(query|c_attn|q_proj|q_lin|Wqkv|value)"},
    "one layer": {"target_modules": ["query", "c_fc", "q_proj", "Wi", "q_lin", "dense"], "layers_to_transform": 1},
}
QUIET = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:fan_in_fan_out")


def written_by_peft(model: nn.Module, folder: Path, **settings: Any) -> Tensor:
    """Let PEFT write a random adapter for `model`; return the logits with it."""
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=4, **settings))
    disturb(parameter for parameter in theirs.parameters() if parameter.requires_grad)
    theirs.save_pretrained(folder)
    return logits(theirs)


@QUIET
@pytest.mark.parametrize("variant", THEIRS)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_we_load_what_peft_writes(architecture: str, variant: str, tmp_path: Path) -> None:
    settings = dict(THEIRS[variant])
    if architecture == "albert" and variant == "one layer":  # all its layers are one module
        settings["layers_to_transform"] = 0
    expected = written_by_peft(tiny_model(architecture), tmp_path, **settings)
    model = tiny_model(architecture)
    base = logits(model)
    load_adapter(model, tmp_path)
    assert_close(logits(model), expected, base)


@QUIET
@pytest.mark.parametrize(("pattern", "layers"), [("h", 1), (["layers", "h"], [0])])
def test_layers_pattern_names_the_list_of_layers(pattern: Any, layers: Any, tmp_path: Path) -> None:
    settings = {"target_modules": ["c_attn"], "layers_to_transform": layers, "layers_pattern": pattern}
    expected = written_by_peft(tiny_model("gpt2"), tmp_path, **settings)
    model = tiny_model("gpt2")
    base = logits(model)
    assert len(load_adapter(model, tmp_path).layers) == 1
    assert_close(logits(model), expected, base)


@QUIET
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "opt"])
@pytest.mark.parametrize("named", [False, True])
def test_trained_tokens_both_ways(architecture: str, named: bool, tmp_path: Path) -> None:
    tokens = [9, 4, 300]
    model = tiny_model(architecture)
    base = logits(model)
    path = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    expected = written_by_peft(
        tiny_model(architecture),
        tmp_path / "theirs",
        target_modules="all-linear",
        trainable_token_indices={path: tokens} if named else tokens,
    )
    lora = load_adapter(model, tmp_path / "theirs")
    assert_close(logits(model), expected, base)
    assert lora.config.trainable_tokens == tuple(tokens)

    disturb(lora.trainable_parameters().values())
    expected = logits(model)
    save_adapter(model, tmp_path / "ours", base_name=None)
    assert_close(logits(quiet_peft(tiny_model(architecture), tmp_path / "ours")), expected, base)


@QUIET
def test_why_trainable_tokens_of_a_tied_projection_with_a_bias_are_refused(tmp_path: Path) -> None:
    """PEFT drops the projection's bias even before training. If it stops doing so, `apply_lora` can allow them."""
    base = logits(tiny_model("bert"))
    settings = peft.LoraConfig(target_modules=["query"], trainable_token_indices=[7])
    theirs = peft.get_peft_model(tiny_model("bert"), settings)
    bias = tiny_model("bert").get_output_embeddings().bias
    torch.testing.assert_close(logits(theirs), base - bias)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="bias"):
        load_adapter(tiny_model("bert"), tmp_path)


@QUIET
def test_modules_to_save_written_by_peft(tmp_path: Path) -> None:
    expected = written_by_peft(
        tiny_model("roberta"), tmp_path, target_modules=["query"], modules_to_save=["lm_head.dense", "layer_norm"]
    )
    model = tiny_model("roberta")
    base = logits(model)
    lora = load_adapter(model, tmp_path)
    assert set(lora.trained_modules) == {"lm_head.dense", "lm_head.layer_norm"}
    assert_close(logits(model), expected, base)


@QUIET
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_lora_on_an_untied_projection(tmp_path: Path) -> None:
    expected = written_by_peft(tiny_model("qwen2"), tmp_path, target_modules=["q_proj", "lm_head"])
    assert "base_model.model.lm_head.base_layer.weight" in load_file(tmp_path / ADAPTER_WEIGHTS)
    model = tiny_model("qwen2")
    base = logits(model)
    load_adapter(model, tmp_path)
    assert_close(logits(model), expected, base)
    save_adapter(model, tmp_path / "ours", base_name=None)
    assert_close(logits(quiet_peft(tiny_model("qwen2"), tmp_path / "ours")), expected, base)


@QUIET
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer replication"),
        ({"init_lora_weights": "pissa"}, "PiSSA.*moves a part"),
        ({"init_lora_weights": "pissa_niter_4"}, "PiSSA"),
        ({"init_lora_weights": "olora"}, "OLoRA"),
        ({"init_lora_weights": "corda"}, "CorDA"),
        ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
        ({"init_lora_weights": "loftq"}, "LoftQ.*quantised"),
        ({"init_lora_weights": "warp"}, "warp"),
        ({"target_parameters": ["weight"]}, "bare parameters"),
        ({"new_in_2031": "warp"}, "new_in_2031"),
    ],
)
def test_foreign_variants_are_refused_by_name(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    written_by_peft(tiny_model("llama"), tmp_path, target_modules=["q_proj"])
    change_config(tmp_path, **settings)
    model = tiny_model("llama")
    with pytest.raises(ModelError, match=named):
        load_adapter(model, tmp_path)
    assert not has_lora(model)


@QUIET
@pytest.mark.parametrize("kind", ["IA3", "LOHA", "PREFIX_TUNING", None])
def test_other_methods_are_refused_by_name(kind: str | None, tmp_path: Path) -> None:
    written_by_peft(tiny_model("llama"), tmp_path, target_modules=["q_proj"])
    change_config(tmp_path, peft_type=kind)
    with pytest.raises(ModelError, match=str(kind)):
        load_adapter(tiny_model("llama"), tmp_path)


@QUIET
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens, whose weight is tied"),
        ({"target_modules": "(q_proj"}, "target_modules holds"),
        ({"target_modules": 3}, "target_modules must be an expression or a list of names, not 3"),
        ({"exclude_modules": "*"}, "exclude_modules holds"),
        ({"rank_pattern": {"[": 3}}, "rank_pattern holds"),
        ({"rank_pattern": [3]}, "rank_pattern must be an object"),
        ({"layers_pattern": "(", "layers_to_transform": 1}, "layers_pattern holds"),
        ({"layers_to_transform": "one"}, "layers_to_transform must be a whole number"),
        ({"r": "8"}, "r must be a whole number"),
        ({"r": True}, "r must be a whole number"),
        ({"r": 2.5, "lora_alpha": "x"}, "lora_alpha must be a number.*; r must be a whole number"),
        ({"lora_dropout": []}, "lora_dropout must be a number"),
        ({"lora_dropout": 3}, "dropout"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be a list"),
        ({"trainable_token_indices": ["a"]}, "trainable_token_indices must be a list"),
        ({"use_dora": "no"}, "use_dora must be true or false"),
        ({"bias": "some"}, "bias must be"),
        ({"trainable_token_indices": {"lm_head": [3]}}, "only those of the input embedding"),
        ({"target_modules": None}, "no target_modules(.|\\n)*copy the adapter_config.json"),
        ({"lora_alpha": None}, 'lacks lora_alpha(.|\\n)*field "lora_alpha"(.|\\n)*add the alpha of the training'),
        ({"r": None}, "lacks r(.|\\n)*add the rank of the weights"),
        ({"target_modules": "nothing"}, "matches"),
        ({"r": 0}, "rank"),
        ({"rank_pattern": {"nothing": 3}}, "nothing"),
        ({"exclude_modules": ["q_proj"]}, "matches"),
    ],
)
def test_configs_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    written_by_peft(tiny_model("llama"), tmp_path, target_modules=["q_proj"])
    change_config(tmp_path, **settings)
    model = tiny_model("llama")
    with pytest.raises(ModelError, match=message):
        load_adapter(model, tmp_path)
    assert not has_lora(model)


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder with an adapter of ours for the tiny llama."""
    model = tiny_model("llama")
    apply_lora(model, LoraConfig(rank=2, targets="attention"))
    save_adapter(model, tmp_path / "adapter", base_name=None)
    return tmp_path / "adapter"


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(adapter: Path) -> None:
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    first, second = sorted(tensors)[:2]
    tensors["base_model.model.model.norm.weight"] = tensors.pop(first)
    tensors[second] = tensors[second][:1].contiguous()
    save_file(tensors, adapter / ADAPTER_WEIGHTS)
    model = tiny_model("llama")
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(ModelError) as error:
        load_adapter(model, adapter)
    message = str(error.value)
    assert f"missing: {first}" in message
    assert "unexpected: base_model.model.model.norm.weight" in message
    assert f"of another shape: {second}" in message
    assert not has_lora(model)
    assert [name for name, _ in model.named_parameters()] == list(before)


def test_another_models_adapter_is_refused(adapter: Path) -> None:
    with pytest.raises(ModelError, match="matches the adapter's target_modules"):
        load_adapter(tiny_model("bert"), adapter)
    with pytest.raises(ModelError, match="of another shape"):
        load_adapter(tiny_model("llama", hidden_size=16), adapter)


def test_files_that_are_missing_or_broken_are_refused(adapter: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(ModelError, match=match):
            load_adapter(tiny_model("llama"), adapter)

    weights, config = (adapter / ADAPTER_WEIGHTS).read_bytes(), (adapter / ADAPTER_CONFIG).read_text()
    (adapter / ADAPTER_WEIGHTS).write_bytes(weights[:100])
    refused("damaged")
    (adapter / ADAPTER_WEIGHTS).unlink()
    refused(f"holds no {ADAPTER_WEIGHTS}$")
    (adapter / "adapter_model.bin").write_bytes(b"")
    refused("pickle")
    (adapter / ADAPTER_WEIGHTS).write_bytes(weights)
    (adapter / ADAPTER_CONFIG).write_text(config[:20])
    refused("not JSON")
    (adapter / ADAPTER_CONFIG).write_text("[]")
    refused("where a JSON object is expected")
    (adapter / ADAPTER_CONFIG).write_text(json.dumps({k: v for k, v in json.loads(config).items() if k != "r"}))
    refused("lacks r")
    (adapter / ADAPTER_CONFIG).unlink()
    refused("holds no adapter")


@QUIET
def test_names_that_are_the_ends_of_other_names(tmp_path: Path) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))

    model, x = network(), torch.randn(3, 4)
    lora = apply_lora(model, LoraConfig(rank=2, targets=r"0|1\.1"))
    disturb(lora.trainable_parameters().values())
    save_adapter(model, tmp_path, base_name=None)
    theirs = quiet_peft(network(), tmp_path)
    assert theirs.base_model.targeted_module_names == ["0", "1.1"]
    torch.testing.assert_close(theirs(x), model(x))
    ours = network()
    load_adapter(ours, tmp_path)
    assert torch.equal(ours(x), model(x))


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_half_precision_base_keeps_a_float32_adapter(architecture: str, tmp_path: Path) -> None:
    model = float32_model(architecture).to(torch.bfloat16)
    lora = apply_lora(model, LoraConfig(rank=2))
    disturb(lora.trainable_parameters().values())
    save_adapter(model, tmp_path, base_name=None)
    assert {tensor.dtype for tensor in load_file(tmp_path / ADAPTER_WEIGHTS).values()} == {torch.float32}
    theirs = quiet_peft(float32_model(architecture).to(torch.bfloat16), tmp_path)
    exact = float32_model(architecture).to(torch.bfloat16).float()
    load_adapter(exact, tmp_path)
    our_error, their_error = ((logits(either) - logits(exact)).abs().mean() for either in (model, theirs))
    assert our_error <= 2 * their_error  # the op multiplies by A and B in bfloat16, PEFT in float32


def test_many_layers_resolve_to_the_same_modules_in_peft(tmp_path: Path) -> None:
    model = tiny_model("llama", num_hidden_layers=6)  # more than 20 names, which PEFT shortens as it loads
    lora = apply_lora(model, LoraConfig(rank=2, targets=r"model\.layers\.[1-5]\..*"))
    disturb(lora.trainable_parameters().values())
    save_adapter(model, tmp_path, base_name=None)
    theirs = quiet_peft(tiny_model("llama", num_hidden_layers=6), tmp_path)
    assert sorted(theirs.base_model.targeted_module_names) == sorted(lora.layers)
    assert_close(logits(theirs), logits(model), logits(tiny_model("llama", num_hidden_layers=6)))


def test_every_field_of_pefts_config_is_honoured_irrelevant_or_refused() -> None:
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    groups = (peft_format._HONOURED, peft_format._IRRELEVANT, set(peft_format._VARIANTS))
    assert fields == set().union(*groups)
    assert sum(len(group) for group in groups) == len(fields)


@QUIET
@pytest.mark.parametrize("kind", ["all", "lora_only"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "opt", "qwen2"])
def test_trained_biases_both_ways(architecture: str, kind: str, tmp_path: Path) -> None:
    names = ["query", "q_proj", "c_attn", "dense"]
    expected = written_by_peft(tiny_model(architecture), tmp_path / "theirs", target_modules=names, bias=kind)
    model = tiny_model(architecture)
    base = logits(model)
    lora = load_adapter(model, tmp_path / "theirs")
    assert_close(logits(model), expected, base)
    assert any(name.endswith(".bias") for name in lora.trainable_parameters())

    disturb(lora.trainable_parameters().values())
    expected = logits(model)
    save_adapter(model, tmp_path / "ours", base_name=None)
    assert_close(logits(quiet_peft(tiny_model(architecture), tmp_path / "ours")), expected, base)
    merge_and_unload(model)
    assert_close(logits(model), expected, base)


@QUIET
@pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape")  # PEFT warns of B's bias
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_bias_in_b_both_ways(architecture: str, use_rslora: bool, tmp_path: Path) -> None:
    settings = {"target_modules": ["query", "value", "c_attn"], "lora_bias": True, "use_rslora": use_rslora}
    expected = written_by_peft(tiny_model(architecture), tmp_path / "theirs", **settings)
    model = tiny_model(architecture)
    base = logits(model)
    lora = load_adapter(model, tmp_path / "theirs")
    assert_close(logits(model), expected, base)

    disturb(lora.trainable_parameters().values())
    expected = logits(model)
    save_adapter(model, tmp_path / "ours", base_name=None)
    assert_close(logits(quiet_peft(tiny_model(architecture), tmp_path / "ours")), expected, base)
    lora.merge()
    assert_close(logits(model), expected, base)
    lora.unmerge()
    assert torch.equal(logits(model), expected)


@QUIET
def test_a_bias_in_b_of_a_layer_without_one_is_refused(tmp_path: Path) -> None:
    written_by_peft(tiny_model("llama"), tmp_path, target_modules=["q_proj"])
    change_config(tmp_path, lora_bias=True)
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="bias in LoRA's B"):
        load_adapter(model, tmp_path)
    assert not has_lora(model)


@QUIET
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("start", [True, "mica"])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox"])
def test_lora_on_an_untied_embedding_both_ways(architecture: str, start: Any, tmp_path: Path) -> None:
    names = ["embed_tokens", "embed_in", "q_proj", "query_key_value"]
    untied = {"tie_word_embeddings": False}
    expected = written_by_peft(
        tiny_model(architecture, **untied).float(), tmp_path / "theirs", target_modules=names, init_lora_weights=start
    )
    model = tiny_model(architecture, **untied)
    base = logits(model)
    lora = load_adapter(model, tmp_path / "theirs")
    assert len(lora.embeddings) == 1
    torch.testing.assert_close(logits(model), expected.double(), rtol=0, atol=1e-5)

    disturb(lora.trainable_parameters().values())
    expected = logits(model)
    save_adapter(model, tmp_path / "ours", base_name=None)
    assert_close(logits(quiet_peft(tiny_model(architecture, **untied), tmp_path / "ours")), expected, base)
    lora.merge()
    assert_close(logits(model), expected, base)
    lora.unmerge()
    assert torch.equal(logits(model), expected)


@QUIET
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_dora_on_an_embedding_is_refused(tmp_path: Path) -> None:
    written_by_peft(tiny_model("qwen2"), tmp_path, target_modules=["embed_tokens", "q_proj"], use_dora=True)
    with pytest.raises(ModelError, match=r"DoRA on the embedding model\.embed_tokens"):
        load_adapter(tiny_model("qwen2"), tmp_path)


@QUIET
def test_biases_that_peft_writes_twice_are_refused_by_name(tmp_path: Path) -> None:
    whole = ["final_layer_norm"]
    written_by_peft(tiny_model("opt"), tmp_path, target_modules=["q_proj"], bias="all", modules_to_save=whole)
    model = tiny_model("opt")
    with pytest.raises(ModelError, match=r"trained biases .* and modules trained in full"):
        load_adapter(model, tmp_path)
    assert not has_lora(model)


@QUIET
@pytest.mark.parametrize("start", ["Gaussian", "gaussian", "orthogonal", "mica", "MiCA", False])
def test_first_values_do_not_matter_after_training(start: Any, tmp_path: Path) -> None:
    model = tiny_model("llama").float()
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start))
    disturb(parameter for parameter in theirs.parameters() if parameter.requires_grad)
    theirs.save_pretrained(tmp_path)
    ours = tiny_model("llama").float()
    base = logits(ours)
    load_adapter(ours, tmp_path)
    assert (logits(theirs) - base).abs().max() > 1e-3
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-5)


@QUIET
def test_copies_of_the_bases_embeddings_are_accepted(tmp_path: Path) -> None:
    for architecture in ("llama", "qwen2", "bert"):
        folder = tmp_path / architecture
        names = ["q_proj", "query"]
        theirs = peft.get_peft_model(tiny_model(architecture), peft.LoraConfig(r=4, target_modules=names))
        disturb(parameter for parameter in theirs.parameters() if parameter.requires_grad)
        theirs.save_pretrained(folder, save_embedding_layers=True)
        assert any("embed" in name for name in load_file(folder / ADAPTER_WEIGHTS))
        model = tiny_model(architecture)
        base = logits(model)
        load_adapter(model, folder)
        assert_close(logits(model), logits(theirs), base)


@QUIET
def test_embeddings_that_are_no_copies_are_refused_with_what_to_do(tmp_path: Path) -> None:
    larger = tiny_model("llama")
    larger.resize_token_embeddings(VOCABULARY + 5)
    theirs = peft.get_peft_model(larger, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    theirs.save_pretrained(tmp_path / "resized", save_embedding_layers=True)
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="vocabulary was resized") as caught:
        load_adapter(model, tmp_path / "resized")
    assert f"resize_token_embeddings({VOCABULARY + 5})" in str(caught.value)
    assert not has_lora(model)

    written_by_peft(tiny_model("qwen2"), tmp_path / "trained", target_modules=["q_proj"])
    tensors = load_file(tmp_path / "trained" / ADAPTER_WEIGHTS)
    tensors["base_model.model.lm_head.weight"] = torch.ones(VOCABULARY, 32, dtype=torch.float64)
    save_file(tensors, tmp_path / "trained" / ADAPTER_WEIGHTS)
    with pytest.raises(ModelError, match=r"another embedding than the base model: .*lm_head\.weight"):
        load_adapter(tiny_model("qwen2"), tmp_path / "trained")


def test_an_adapter_that_is_not_finite_is_named(adapter: Path) -> None:
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    name = sorted(tensors)[0]
    tensors[name][0, 0] = float("nan")
    save_file(tensors, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(ModelError, match=r"not all finite.*lora_A"):
        load_adapter(tiny_model("llama"), adapter)


FIELDS: dict[str, list[Any]] = {
    "target_modules": [["q_proj"], ["q_proj", "fc1"], "all-linear", r".*\.0\..*k_proj", ["embed_tokens", "v_proj"]],
    "exclude_modules": [None, ["k_proj"], r".*\.1\..*"],
    "bias": ["none", "all", "lora_only"],
    "lora_bias": [False, True],
    "use_rslora": [False, True],
    "use_dora": [False, True],
    "init_lora_weights": [True, False, "gaussian", "Gaussian", "orthogonal", "mica", "olora", "pissa"],
    "rank_pattern": [{}, {"q_proj": 2}],
    "alpha_pattern": [{}, {r".*\.0\..*": 3}],
    "lora_alpha": [8, 3],
    "lora_dropout": [0.0, 0.2],
    "modules_to_save": [None, ["final_layer_norm"], ["lm_head"]],
    "layers_to_transform": [None, 1, [0]],
    "trainable_token_indices": [None, [3, 9]],
    "fan_in_fan_out": [False, True],
    "use_qalora": [False, True],
    "layer_replication": [None, [[0, 2], [1, 2]]],
}


@pytest.mark.filterwarnings("ignore")
@examples(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(chosen=st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in FIELDS.items()}))
@example(chosen={"bias": "all", "modules_to_save": ["final_layer_norm"]})
@example(chosen={"bias": "all", "modules_to_save": ["lm_head"]})
@example(chosen={"bias": "lora_only", "lora_bias": True})
@example(chosen={"target_modules": ["embed_tokens", "v_proj"], "bias": "all"})
@example(chosen={"target_modules": ["embed_tokens", "v_proj"], "trainable_token_indices": [3, 9]})
@example(chosen={"trainable_token_indices": [3, 9], "modules_to_save": ["lm_head"]})
def test_whatever_peft_writes_is_loaded_with_equal_logits_or_refused(
    chosen: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    untied = {"tie_word_embeddings": False, "word_embed_proj_dim": 32}

    def model() -> PreTrainedModel:
        return float32_model("opt", **untied)  # PEFT computes some initial values only in float32

    try:
        expected = written_by_peft(model(), folder, **{"target_modules": ["q_proj"], **chosen})
    except Exception:  # PEFT refuses this combination
        return
    ours = model()
    try:
        load_adapter(ours, folder)
    except ModelError as error:
        assert error.where or error.fix
        assert not has_lora(ours)
        return
    torch.testing.assert_close(logits(ours), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
