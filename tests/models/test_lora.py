"""LoRA layers and models with them: outputs, gradients, merging, stateless dropout, trained tokens, state dicts."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import SUPPORTED, VOCABULARY, tiny_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from domain_ft.errors import ModelError
from domain_ft.models.head import captured_input, projection
from domain_ft.models.lora import (
    LoraConfig,
    apply_lora,
    disabled,
    has_lora,
    lora_of,
    merge,
    merge_and_unload,
    set_backend,
    set_dropout_seed,
    unmerge,
)
from domain_ft.models.lora_layers import DropoutSeed, LoraLinear, TrainableTokens
from domain_ft_kernels.dropout import keep_mask


def base_layer(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A layer from 6 to 10 features with random weight and bias."""
    torch.manual_seed(3)
    layer = Conv1D(10, 6) if kind == "conv1d" else nn.Linear(6, 10, bias=kind != "no_bias")
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.to(dtype)


def disturb(module: nn.Module) -> None:
    """Add random numbers to the trainable parameters, as training would change them."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.3)


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


def ids() -> Tensor:
    return torch.randint(5, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(7))


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=ids(), attention_mask=torch.ones_like(ids())).logits
    return result


KINDS = ["linear", "no_bias", "conv1d"]


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_published_formula(kind: str, use_rslora: bool) -> None:
    base = base_layer(kind)
    layer = LoraLinear(base, rank=3, alpha=6, use_rslora=use_rslora)
    x = inputs(2, 5, 6)
    torch.testing.assert_close(layer(x), base(x))
    disturb(layer)
    scaling = 6 / 3**0.5 if use_rslora else 2.0
    torch.testing.assert_close(layer(x), base(x) + scaling * x @ layer.lora_A.T @ layer.lora_B.T)


@pytest.mark.parametrize("kind", KINDS)
def test_dora_is_the_published_formula(kind: str) -> None:
    base = base_layer(kind)
    layer = LoraLinear(base, rank=3, alpha=6, use_dora=True)
    x = inputs(2, 5, 6)
    torch.testing.assert_close(layer(x), base(x))
    disturb(layer)
    assert layer.lora_magnitude_vector is not None
    direction = F.normalize(layer.base_weight + 2 * layer.lora_B @ layer.lora_A, dim=1)
    torch.testing.assert_close(layer(x), F.linear(x, layer.lora_magnitude_vector[:, None] * direction, layer.bias))


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_output_and_gradients_are_pefts(kind: str, use_dora: bool, dropout: float) -> None:
    ours = LoraLinear(base_layer(kind), rank=3, alpha=6, dropout=dropout, use_dora=use_dora)
    disturb(ours)
    ours.seed.value = 99

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = base_layer(kind)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(x)
            return result

    settings = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=["layer"], use_dora=use_dora, fan_in_fan_out=kind == "conv1d"
    )
    theirs = peft.get_peft_model(Net(), settings, autocast_adapter_dtype=False)
    layer = theirs.base_model.model.layer
    layer.lora_A["default"].weight.data = ours.lora_A.detach().clone()
    layer.lora_B["default"].weight.data = ours.lora_B.detach().clone()
    if ours.lora_magnitude_vector is not None:
        layer.lora_magnitude_vector["default"].weight.data = ours.lora_magnitude_vector.detach().clone()
    if dropout:
        layer.lora_dropout["default"] = OurDropout(dropout, ours.seed.of(ours.index))

    results = []
    for module in (ours.train(), theirs.train()):
        x = inputs(2, 5, 6).requires_grad_()
        y = module(x)
        (y * inputs(2, 5, 10)).sum().backward()
        results.append((y, x.grad))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(ours.lora_A.grad, layer.lora_A["default"].weight.grad)
    torch.testing.assert_close(ours.lora_B.grad, layer.lora_B["default"].weight.grad)
    if ours.lora_magnitude_vector is not None:
        torch.testing.assert_close(ours.lora_magnitude_vector.grad, layer.lora_magnitude_vector["default"].weight.grad)
    assert all(parameter.grad is None for parameter in ours.base_layer.parameters())


class OurDropout(nn.Module):
    """The fused op's mask, as a module that PEFT's layer can call."""

    def __init__(self, p: float, seed: Tensor) -> None:
        super().__init__()
        self.p, self.seed = p, seed

    def forward(self, x: Tensor) -> Tensor:
        columns = x.shape[-1]
        mask = keep_mask(self.seed, x.numel() // columns, columns, self.p, x.device)
        return x * mask.view(x.shape) / (1 - self.p)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_is_exact_to_rounding_and_unmerge_restores_each_bit(
    kind: str, use_dora: bool, dtype: torch.dtype
) -> None:
    layer = LoraLinear(base_layer(kind, dtype), rank=3, use_dora=use_dora).eval()
    disturb(layer)
    x = inputs(7, 6, dtype=dtype)
    original, before = layer.base_layer.weight.clone(), layer(x)
    layer.merge()
    layer.merge()  # a second time changes nothing
    assert layer.merged
    exact = copy.deepcopy(layer).double()
    exact.unmerge()
    reference = exact(x.double())
    rounding = 4 * torch.finfo(dtype).eps * reference.abs().max()
    assert (layer(x) - reference).abs().max() <= rounding
    assert (before - reference).abs().max() <= rounding
    layer.unmerge()
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, original)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_trained_weights_are_float32_on_any_base(dtype: torch.dtype) -> None:
    layer = LoraLinear(base_layer("linear", dtype), use_dora=True)
    assert {parameter.dtype for parameter in layer.parameters() if parameter.requires_grad} == {torch.float32}
    x = inputs(4, 6, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    y.sum().backward()
    assert layer.lora_B.grad is not None
    assert layer.lora_B.grad.dtype == torch.float32


def test_weight_is_what_the_layer_multiplies_by() -> None:
    layer = LoraLinear(base_layer("linear"), use_dora=True)
    disturb(layer)
    x = inputs(4, 6)
    torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), layer(x))
    layer.weight.sum().backward()
    assert layer.lora_A.grad is not None
    assert layer.base_layer.weight.grad is None


@pytest.mark.parametrize("use_dora", [False, True])
def test_dropout_is_a_function_of_seed_and_layer(use_dora: bool) -> None:
    seed = DropoutSeed()
    layers = [LoraLinear(base_layer("linear"), dropout=0.5, use_dora=use_dora, seed=seed, index=i) for i in (0, 1)]
    for layer in layers:
        disturb(layer)
    x = inputs(50, 6)
    layers[1].load_state_dict(layers[0].state_dict())
    seed.value = 17
    first = layers[0](x)
    assert not torch.allclose(first, layers[1](x))
    seed.value = 18
    assert not torch.allclose(first, layers[0](x))
    seed.value = 17
    torch.manual_seed(0)
    assert torch.equal(first, layers[0](x))
    assert torch.equal(layers[0].eval()(x), layers[1].eval()(x))


@given(st.integers(0, 2**63 - 1), st.integers(0, 5000), st.integers(0, 5000))
def test_layer_seeds_differ(value: int, first: int, second: int) -> None:
    seed = DropoutSeed(value)
    assert seed.value == value
    assert (seed.of(first) == seed.of(second)) == (first == second)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_only_lora_is_trained(architecture: str) -> None:
    model = tiny_model(architecture)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    plain = logits(model)
    lora = apply_lora(model, LoraConfig(rank=2))
    assert torch.equal(logits(model), plain)
    names = lora.trainable_parameters()
    assert {name.rsplit(".", 1)[1] for name in names} == {"lora_A", "lora_B"}
    assert lora.count_parameters() == (
        sum(p.numel() for p in names.values()),
        sum(p.numel() for p in before.values()) + sum(p.numel() for p in names.values()),
    )
    model.train()
    model(input_ids=ids(), labels=ids()).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in names), name


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"train_modules": ("cls.predictions.transform",)}])
def test_merge_and_unload_gives_a_plain_model(changes: dict[str, Any]) -> None:
    model = tiny_model("bert").double()
    classes = {name: type(module) for name, module in model.named_modules()}
    apply_lora(model, LoraConfig(rank=2, **changes))
    disturb(model)
    expected = logits(model)
    merge_and_unload(model)
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert not has_lora(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(logits(model), expected)
    with pytest.raises(ModelError, match="no LoRA"):
        lora_of(model)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "modernbert"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_model_merge_and_unmerge(architecture: str, use_dora: bool) -> None:
    model = tiny_model(architecture).double()
    apply_lora(model, LoraConfig(rank=2, use_dora=use_dora))
    disturb(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = logits(model)
    merge(model)
    torch.testing.assert_close(logits(model), expected)
    unmerge(model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "opt"])
def test_trainable_tokens(architecture: str) -> None:
    model = tiny_model(architecture).double()
    projection = model.get_output_embeddings().weight
    tied = projection is model.get_input_embeddings().weight
    original = model.get_input_embeddings().weight.clone()
    tokens = (9, 4, int(ids()[0, 0]))
    lora = apply_lora(model, LoraConfig(rank=2, trainable_tokens=tokens))
    rows = model.get_input_embeddings()
    assert isinstance(rows, TrainableTokens)
    torch.testing.assert_close(rows.weight, original)
    disturb(model)
    changed = original.index_copy(0, torch.tensor(tokens), rows.rows.detach())
    torch.testing.assert_close(rows(ids()), F.embedding(ids(), changed))
    torch.testing.assert_close(model.get_output_embeddings().weight, changed if tied else projection)

    expected = logits(model)
    model(input_ids=ids(), labels=ids()).loss.backward()
    assert rows.rows.grad is not None
    assert rows.base_layer.weight.grad is None
    lora.merge()
    torch.testing.assert_close(logits(model), expected)
    lora.unmerge()
    assert torch.equal(rows.base_layer.weight, original)
    assert torch.equal(logits(model), expected)
    merge_and_unload(model)
    torch.testing.assert_close(logits(model), expected)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


def test_trainable_tokens_of_a_tied_projection_with_a_bias_are_refused() -> None:
    with pytest.raises(ModelError, match="bias"):
        apply_lora(tiny_model("bert"), LoraConfig(trainable_tokens=(5,)))


def test_dora_is_finite_for_rows_of_zeros_and_keeps_its_precision_under_autocast() -> None:
    layer = LoraLinear(base_layer("linear", torch.float32), use_dora=True)
    disturb(layer)
    with torch.no_grad():
        layer.base_layer.weight[0], layer.lora_B[0] = 0, 0
        assert layer.lora_magnitude_vector is not None
        layer.lora_magnitude_vector[0] = 0
    x = inputs(4, 6, dtype=torch.float32)
    assert layer(x).isfinite().all()
    weight = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer.weight, weight)


def test_a_model_that_is_a_single_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="no linear layer"):
        apply_lora(nn.Linear(2, 2), LoraConfig())


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"trainable_tokens": (3, 9)}),
        ("qwen2", {"targets": ("q_proj", "lm_head")}),
        ("qwen2", {"targets": ("lm_head",), "use_dora": True}),
    ],
)
def test_the_fused_head_sees_the_updated_projection(architecture: str, changes: dict[str, Any]) -> None:
    model = tiny_model(architecture).double()
    lora = apply_lora(model, LoraConfig(rank=2, **changes))
    disturb(model)
    with captured_input(model) as captured:
        model(input_ids=ids())
    weight, bias = projection(model)
    fused = F.linear(captured[-1], weight, bias)
    torch.testing.assert_close(fused, model(input_ids=ids()).logits)
    fused.sum().backward()
    assert all(parameter.grad is not None for parameter in lora.trainable_parameters().values())


def test_any_torch_model() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    lora = apply_lora(model, LoraConfig(rank=2, rank_pattern={"1": 5}, alpha_pattern={r"2\.0": 4}), seed=1)
    assert {path: layer.lora_A.shape[0] for path, layer in lora.layers.items()} == {"0": 2, "2.0": 2, "2.1": 5}
    assert lora.layers["2.0"].scaling == 2
    assert lora.layers["2.1"].scaling == 16 / 5
    model(torch.ones(3, 4)).sum().backward()


def test_first_values_depend_on_seed_and_path_alone() -> None:
    def first(seed: int, targets: str) -> dict[str, Tensor]:
        lora = apply_lora(tiny_model("gpt2"), LoraConfig(targets=targets), seed=seed)
        return {path: layer.lora_A.detach() for path, layer in lora.layers.items()}

    everywhere, attention, other = first(0, "all-linear"), first(0, "attention"), first(1, "attention")
    for path, values in attention.items():
        assert torch.equal(values, everywhere[path])
        assert not torch.equal(values, other[path])
        assert values.abs().max() <= values.shape[1] ** -0.5


def test_backend_and_seed_reach_every_layer() -> None:
    model = tiny_model("bert")
    lora = apply_lora(model, LoraConfig(dropout=0.1))
    set_backend(model, "reference")
    set_dropout_seed(model, 42)
    assert {layer.backend for layer in lora.layers.values()} == {"reference"}
    assert {layer.seed.value for layer in lora.layers.values()} == {42}


def test_a_compiled_model_is_compiled_once_for_all_seeds() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    apply_lora(model, LoraConfig(rank=2, dropout=0.3))
    disturb(model)
    model.train()
    compilations = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=compilations)
    x = inputs(5, 6, dtype=torch.float32)
    for seed in (0, 1, 2**62 + 3, 2**63 - 1):
        set_dropout_seed(model, seed)
        torch.testing.assert_close(compiled(x), model(x))
    assert compilations.frame_count == 1


def test_a_refused_config_leaves_the_model_alone() -> None:
    model = tiny_model("bert")
    state = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for changes in (
        {"targets": "nothing"},
        {"train_modules": ("cls",)},
        {"trainable_tokens": (VOCABULARY,)},
        {"rank_pattern": {"nothing": 3}},
        {"alpha_pattern": {"nothing": 3}},
    ):
        with pytest.raises(ModelError):
            apply_lora(model, LoraConfig(**changes))
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == state
    apply_lora(model, LoraConfig())
    with pytest.raises(ModelError, match="already"):
        apply_lora(model, LoraConfig())


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 0},
        {"rank": 1.5},
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"dropout": 1.0},
        {"rank_pattern": {"query": 0}},
        {"alpha_pattern": {"query(": 3}},
        {"trainable_tokens": (3, 3)},
    ],
)
def test_a_config_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        LoraConfig(**changes)


def test_a_base_that_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear"):
        LoraLinear(nn.LayerNorm(4))


def test_a_deepcopy_is_independent() -> None:
    model = tiny_model("gpt2")
    apply_lora(model, LoraConfig(trainable_tokens=(3,)))
    copied = copy.deepcopy(model)
    disturb(copied)
    set_dropout_seed(copied, 5)
    assert lora_of(model).seed.value == 0
    assert not torch.equal(logits(copied), logits(model))
    assert lora_of(copied).model is copied


STATES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("bert", {}),
    "dora": ("bert", {"use_dora": True}),
    "conv1d": ("gpt2", {}),
    "bias in B": ("bert", {"lora_bias": True}),
    "trained biases": ("bert", {"bias": "all"}),
    "tokens of a tied embedding": ("gpt2", {"trainable_tokens": (9, 4, 300)}),
    "tokens of an untied embedding": ("gpt_neox", {"trainable_tokens": (9, 4, 300)}),
}


def adapted(kind: str) -> nn.Module:
    """A tiny model in float64 with random updates."""
    architecture, changes = STATES[kind]
    model = tiny_model(architecture).double()
    apply_lora(model, LoraConfig(rank=2, **changes))
    disturb(model)
    return model


@pytest.mark.parametrize("into_merged", [False, True])
@pytest.mark.parametrize("from_merged", [False, True])
@pytest.mark.parametrize("kind", STATES)
def test_a_state_dict_holds_the_update_once(kind: str, from_merged: bool, into_merged: bool) -> None:
    source = adapted(kind)
    expected, state = logits(source), {name: tensor.clone() for name, tensor in source.state_dict().items()}
    if from_merged:
        merge(source)
        assert source.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in source.state_dict().items())

    architecture, changes = STATES[kind]
    target = tiny_model(architecture, seed=5).double()
    apply_lora(target, LoraConfig(rank=2, **changes))
    if into_merged:
        merge(target)
    target.load_state_dict(source.state_dict())
    assert lora_of(target).merged == into_merged
    torch.testing.assert_close(logits(target), expected)
    unmerge(target)
    assert all(torch.equal(tensor, state[name]) for name, tensor in target.state_dict().items())
    assert torch.equal(logits(target), expected)


@pytest.mark.parametrize("kind", STATES)
def test_a_merged_model_loads_its_own_state_dict(kind: str) -> None:
    model = adapted(kind)
    state, expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}, logits(model)
    merge(model)
    model.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(model), expected)
    copied = copy.deepcopy(model)
    unmerge(copied)
    unmerge(model)
    for each in (model, copied):
        assert all(torch.equal(tensor, state[name]) for name, tensor in each.state_dict().items())


def test_a_part_of_a_state_dict_keeps_the_logits_of_a_merged_model() -> None:
    model = adapted("lora")
    expected = logits(model)
    merge(model)
    part = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    model.load_state_dict(part, strict=False)
    torch.testing.assert_close(logits(model), expected)
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict({"nothing": torch.zeros(1)})
    torch.testing.assert_close(logits(model), expected)
    assert lora_of(model).merged


def test_a_rank_that_no_layer_can_use_is_refused() -> None:
    for rank in (33, 1_000_000, 10**20):
        model = tiny_model("llama")
        with pytest.raises(ModelError, match=f"rank {rank} is larger than every target layer.*at most 32"):
            apply_lora(model, LoraConfig(rank=rank))
        assert not has_lora(model)


def test_a_rank_that_some_layers_cannot_use_is_noted() -> None:
    lora = apply_lora(tiny_model("llama"), LoraConfig(rank=20))
    (note,) = lora.notes
    assert "rank 20 is larger than 4 of the 14 layers" in note
    assert "k_proj, which allows at most 16" in note
    assert apply_lora(tiny_model("llama"), LoraConfig(rank=16)).notes == ()


@pytest.mark.parametrize("rank", [True, 2.0, "8"])
def test_a_rank_that_is_no_whole_number_is_refused(rank: Any) -> None:
    with pytest.raises(ModelError, match="not a positive integer"):
        LoraConfig(rank=rank)


# --- Adapters off, and several on one base ----------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"trainable_tokens": (7, 9)}])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_disabled_is_the_base_bit_for_bit(architecture: str, changes: dict[str, Any], merged: bool) -> None:
    model = tiny_model(architecture)
    base = logits(model)
    apply_lora(model, LoraConfig(rank=4, **changes))
    disturb(model)
    if merged:
        merge(model)
    adapted = logits(model)
    assert not torch.equal(adapted, base)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with disabled(model):
        assert torch.equal(logits(model), base)
        assert not has_lora(model)
    assert torch.equal(logits(model), adapted)
    assert lora_of(model).merged == merged
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


def test_an_error_inside_disabled_restores_the_adapter() -> None:
    model = tiny_model("llama")
    apply_lora(model, LoraConfig(rank=4))
    disturb(model)
    adapted = logits(model)
    with pytest.raises(RuntimeError, match="inside"), disabled(model):
        raise RuntimeError("inside")
    assert torch.equal(logits(model), adapted)


@pytest.mark.parametrize("changes", [{"train_modules": ("cls.predictions.transform",)}, {"bias": "all"}])
def test_disabled_refuses_what_cannot_be_undone(changes: dict[str, Any]) -> None:
    model = tiny_model("bert")
    apply_lora(model, LoraConfig(rank=4, **changes))
    with pytest.raises(ModelError, match=r"cannot be turned off: it trains .* in full"), disabled(model):
        pass
    assert has_lora(model)
    with pytest.raises(ModelError, match="no LoRA layers"), disabled(tiny_model("bert")):
        pass


def test_two_adapters_take_turns_on_one_base() -> None:
    model = tiny_model("llama")
    base = logits(model)
    first = apply_lora(model, LoraConfig(rank=4), seed=1)
    disturb(model)
    expected = [logits(model)]
    first.detach()
    assert torch.equal(logits(model), base)
    second = apply_lora(model, LoraConfig(rank=2, targets="attention"), seed=2)
    disturb(model)
    expected.append(logits(model))
    with pytest.raises(ModelError, match="LoRA layers already"):
        first.attach()
    for _ in range(2):
        second.detach()
        first.attach()
        assert lora_of(model) is first
        assert torch.equal(logits(model), expected[0])
        first.detach()
        second.attach()
        assert torch.equal(logits(model), expected[1])
