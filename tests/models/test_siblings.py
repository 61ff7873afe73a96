"""Sibling projections: which layers are computed together, when they are not, and that the numbers are the same."""

from __future__ import annotations

import copy
import gc
import importlib.util
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.distributed as dist
from test_lora import disturb, ids, logits
from tiny_models import SUPPORTED, VOCABULARY, tiny_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from domain_ft.models import siblings
from domain_ft.models.lora import (
    LoraConfig,
    LoraModel,
    apply_lora,
    lora_of,
    merge,
    merge_and_unload,
    set_backend,
    set_dropout_seed,
    unmerge,
)
from domain_ft.models.lora_layers import LoraLinear
from domain_ft.models.modes import without_base_dropout
from domain_ft.models.siblings import SharedCall

NO_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
ATTENTION = {"query", "key", "value"}
LLAMA = {"q_proj", "k_proj", "v_proj"}
MLP = {"gate_proj", "up_proj"}
FAMILIES: dict[str, list[set[str]]] = {
    "albert": [ATTENTION],  # its layers are one module, called twice
    "bert": [ATTENTION] * 2,
    "camembert": [ATTENTION] * 2,
    "distilbert": [{"q_lin", "k_lin", "v_lin"}] * 2,
    "electra": [ATTENTION] * 2,
    "gemma2": [LLAMA, MLP] * 2,
    "gpt2": [],
    "gpt_neox": [],
    "llama": [LLAMA, MLP] * 2,
    "mistral": [LLAMA, MLP] * 2,
    "modernbert": [],
    "mpnet": [{"q", "k", "v"}] * 2,
    "opt": [LLAMA] * 2,
    "qwen2": [LLAMA, MLP] * 2,
    "qwen3": [LLAMA, MLP] * 2,
    "roberta": [ATTENTION] * 2,
    "xlm-roberta": [ATTENTION] * 2,
}


class Attention(nn.Module):
    """Three projections, with the inputs that `choose` makes of the input."""

    def __init__(self, choose: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] = lambda x: (x, x, x)) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 10), nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
        self.choose = choose

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.choose(x)
        return torch.cat([self.query(one), self.key(two), self.value(three)], dim=-1)


def attention(*arguments: Any, dropout: float = 0.4, **changes: Any) -> tuple[nn.Module, LoraModel]:
    """A model of one attention, in double precision, ready to train."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 6), Attention(*arguments)).double().train()
    lora = apply_lora(model, LoraConfig(rank=2, dropout=dropout, targets=r"1\..*", **changes))
    disturb(model)
    set_dropout_seed(model, 12)
    model[0].requires_grad_()  # its gradient shows those of the hidden states
    return model, lora


def apart(lora: LoraModel) -> None:
    """Let each layer compute alone."""
    for family in lora.siblings:
        family.detach()


def outcome(call: Callable[[Tensor], Tensor], lora: LoraModel, *inputs: Tensor) -> list[Tensor]:
    """The sum of the outputs' squares, and its gradients: of the adapters and of the layer before them."""
    trained = list(lora.trainable_parameters().values())
    total = torch.stack([call(x).square().sum() for x in inputs]).sum()
    return [total.detach(), *torch.autograd.grad(total, trained, materialize_grads=True)]


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of layers in each group that was computed."""
    sizes: list[int] = []
    real = siblings.lora_linear_group

    def counting(x: Tensor, weights: list[Tensor], *rest: Any, **options: Any) -> tuple[Tensor, ...]:
        sizes.append(len(weights))
        return real(x, weights, *rest, **options)

    monkeypatch.setattr(siblings, "lora_linear_group", counting)
    return sizes


@pytest.mark.parametrize("architecture", sorted({*SUPPORTED, *FAMILIES}))
def test_siblings_of_real_models_are_found_used_and_change_nothing(architecture: str, grouped: list[int]) -> None:
    model = tiny_model(architecture).double()
    lora = apply_lora(model, LoraConfig(rank=2, dropout=0.3))
    families = FAMILIES[architecture]
    assert [set(family.names) for family in lora.siblings] == families
    disturb(model)
    set_dropout_seed(model, 7)
    model.train()
    with without_base_dropout(model):

        def losses_and_gradients() -> list[Tensor]:
            loss = model(input_ids=ids(), attention_mask=torch.ones_like(ids()), labels=ids()).loss
            return [loss.detach(), *torch.autograd.grad(loss, list(lora.trainable_parameters().values()))]

        together = losses_and_gradients()
        assert sorted(grouped) == sorted(len(names) for names in families) * (2 if architecture == "albert" else 1)
        assert losses_and_gradients()[0] == together[0]
        assert len(grouped) % 2 == 0  # the second pass grouped them too
        apart(lora)
        torch.testing.assert_close(losses_and_gradients(), together)


def test_a_family_holds_only_target_layers(grouped: list[int]) -> None:
    model = tiny_model("bert")
    lora = apply_lora(model, LoraConfig(targets=("query", "value")))
    assert [family.names for family in lora.siblings] == [("query", "value")] * 2
    logits(model)
    assert grouped == [2, 2]
    assert lora_of(model).layers["bert.encoder.layer.0.attention.self.value"].index == 0
    assert apply_lora(tiny_model("bert"), LoraConfig(targets=("query", "attention.output.dense"))).siblings == []
    assert apply_lora(tiny_model("bert"), LoraConfig(use_dora=True)).siblings == []


@pytest.mark.parametrize("backend", ["reference", "torch", pytest.param("triton", marks=NO_TRITON)])
def test_ranks_and_scalings_may_differ(backend: str, grouped: list[int]) -> None:
    model, lora = attention(rank_pattern={"key": 3}, alpha_pattern={"value": 5})
    dtype = torch.float32 if backend == "triton" else torch.float64  # the triton backend has no float64
    together = outcome(model.to(dtype), lora, numbers(7, 5).to(dtype))
    set_backend(model, backend)
    found = outcome(model, lora, numbers(7, 5).to(dtype))
    assert grouped == [3, 3]
    torch.testing.assert_close(found, together)
    apart(lora)
    torch.testing.assert_close(outcome(model, lora, numbers(7, 5).to(dtype)), together)


OTHER_INPUTS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "cross-attention": lambda x: (x, x + 1, x + 1),
    "equal but not the same": lambda x: (x, x.clone(), x.clone()),
    "all differ": lambda x: (x, 2 * x, 3 * x),
}


@pytest.mark.parametrize("case", OTHER_INPUTS)
def test_layers_with_other_inputs_are_computed_alone_and_not_tried_again(case: str, grouped: list[int]) -> None:
    model, lora = attention(OTHER_INPUTS[case])
    x = numbers(7, 5)
    together = outcome(model, lora, x)
    assert torch.equal(outcome(model, lora, x)[0], together[0])
    assert grouped == [3]  # only in the first pass, in vain
    apart(lora)
    torch.testing.assert_close(outcome(model, lora, x), together)


def test_a_call_between_two_passes_of_the_same_tensor_gives_its_own_gradient(grouped: list[int]) -> None:
    model, lora = attention(dropout=0.0)
    x = numbers(7, 5)
    together = outcome(model, lora, x, x)
    assert grouped == [3, 3]
    apart(lora)
    torch.testing.assert_close(outcome(model, lora, x, x), together)


class Restless(Attention):
    """Calls `between` before the last projection."""

    def __init__(self, between: Callable[[Restless, Tensor], Any]) -> None:
        super().__init__()
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.query(x), self.key(x)
        self.between(self, x)
        return torch.cat([query, key, self.value(x)], dim=-1)


@pytest.mark.parametrize(
    "between",
    [
        lambda _, x: x.add_(1),
        lambda module, x: module.key(x).sum(),
        lambda module, x: module.query(x - 1),
    ],
    ids=["written to", "called again", "called with another tensor"],
)
def test_what_happens_between_the_projections_is_respected(between: Callable[[Restless, Tensor], Any]) -> None:
    torch.manual_seed(3)
    model = Restless(between).double()
    lora = apply_lora(model, LoraConfig(rank=2))
    disturb(model)
    with torch.no_grad():
        together = model(numbers(7, 6))
        apart(lora)
        torch.testing.assert_close(model(numbers(7, 6)), together)


def test_each_call_follows_its_own_gradient_mode() -> None:
    class Frozen(Attention):
        def forward(self, x: Tensor) -> Tensor:
            query = self.query(x)
            with torch.no_grad():
                frozen = self.key(x), self.value(x)
            return torch.cat([query, *frozen], dim=-1)

    model = Frozen()
    apply_lora(model, LoraConfig(rank=2))
    disturb(model)
    model(torch.ones(3, 6)).sum().backward()
    assert model.get_parameter("query.lora_B").grad is not None
    frozen = model.get_parameter("key.lora_B").grad
    assert frozen is None or not frozen.any()


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "dropout", 0.0),
        lambda layer: layer.eval(),
        lambda layer: layer.merge(),
        lambda layer: setattr(layer, "backend", "reference"),
    ],
    ids=["dropout", "eval", "merged", "backend"],
)
def test_a_layer_that_differs_dissolves_the_call(change: Callable[[LoraLinear], Any], grouped: list[int]) -> None:
    model, lora = attention()
    change(lora.layers["1.key"])
    together = outcome(model, lora, numbers(7, 5))
    assert grouped == []
    apart(lora)
    torch.testing.assert_close(outcome(model, lora, numbers(7, 5)), together)


def test_a_layer_that_is_called_from_outside_is_computed_alone(grouped: list[int]) -> None:
    model, lora = attention()
    x = numbers(7, 6)
    torch.testing.assert_close(model.get_submodule("1")(x)[:, :10], lora.layers["1.query"](x))
    assert grouped == [3]


@pytest.mark.parametrize("fail", [False, True])
def test_nothing_is_kept_after_the_call(fail: bool) -> None:
    kept: list[weakref.ref[Tensor]] = []

    def between(module: Restless, x: Tensor) -> None:
        call = lora.layers["value"].call
        assert isinstance(call, SharedCall)
        assert call.has_left_over
        kept.extend(weakref.ref(output) for output in call._outputs if output is not None)
        if fail:
            raise InterruptedError

    model = Restless(between)
    lora = apply_lora(model, LoraConfig(rank=2))
    x = torch.ones(3, 6)
    kept.append(weakref.ref(x))
    try:
        model(x)
    except InterruptedError:
        assert fail
    assert all(layer.call is None for layer in lora.layers.values())
    assert len(kept) == 2
    del x
    gc.collect()
    assert all(reference() is None for reference in kept)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_activation_checkpointing_recomputes_the_group(
    architecture: str, use_reentrant: bool, grouped: list[int]
) -> None:
    model = tiny_model(architecture).double()
    lora = apply_lora(model, LoraConfig(rank=2, dropout=0.3))
    disturb(model)
    model.train()
    with without_base_dropout(model):

        def gradients() -> list[Tensor]:
            model.zero_grad()
            loss = model(input_ids=ids(), attention_mask=torch.ones_like(ids()), labels=ids()).loss
            loss.backward()
            return [parameter.grad for parameter in lora.trainable_parameters().values() if parameter.grad is not None]

        plain, calls = gradients(), len(grouped)
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        if use_reentrant:
            model.enable_input_require_grads()
        for _ in range(2):
            torch.testing.assert_close(gradients(), plain)
        assert len(grouped) == 5 * calls
        assert len(plain) == len(lora.trainable_parameters())


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")  # to which nothing writes
@pytest.mark.parametrize("wrapped", ["attention", "layers"])
def test_sharded_parameters(wrapped: str, grouped: list[int], one_process: None) -> None:
    """Siblings that FSDP gathers together are computed together, and those that it gathers one by one are not."""
    model, lora = attention()
    expected = outcome(model, lora, numbers(7, 5))
    grouped.clear()
    for module in lora.layers.values() if wrapped == "layers" else [model.get_submodule("1")]:
        fully_shard(module)
    fully_shard(model)
    for _ in range(2):
        model.zero_grad()
        total = model(numbers(7, 5)).square().sum()
        total.backward()
        torch.testing.assert_close(total.detach(), expected[0])
        for parameter, gradient in zip(lora.trainable_parameters().values(), expected[1:], strict=True):
            assert isinstance(parameter.grad, DTensor)
            torch.testing.assert_close(parameter.grad.full_tensor(), gradient)
    assert grouped == ([] if wrapped == "layers" else [3, 3])


def test_autocast(grouped: list[int]) -> None:
    model, lora = attention()
    model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = outcome(model, lora, numbers(7, 5).float())
        apart(lora)
        alone = outcome(model, lora, numbers(7, 5).float())
    for one, other in zip(together, alone, strict=True):
        assert (one - other).norm() <= 3e-2 * other.norm()
    assert grouped == [3]


def test_inference_mode(grouped: list[int]) -> None:
    model, lora = attention()
    with torch.inference_mode():
        together = model(numbers(7, 5))
        apart(lora)
        assert torch.equal(model(numbers(7, 5)), together)
    assert grouped == []


def test_a_compiled_model_is_one_graph_that_groups() -> None:
    model, lora = attention()
    x = numbers(7, 5)
    eager = outcome(model, lora, x)
    compilations = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=compilations, fullgraph=True)
    for seed in (12, 2**62 + 3):
        set_dropout_seed(model, seed)
        torch.testing.assert_close(compiled(x), model(x))
    assert compilations.frame_count == 1
    torch._dynamo.reset()
    set_dropout_seed(model, 12)
    torch.testing.assert_close(outcome(torch.compile(model, backend="aot_eager", fullgraph=True), lora, x), eager)
    apart(lora)
    torch._dynamo.reset()
    alone = torch._dynamo.testing.CompileCounter()
    torch.compile(model, backend=alone, fullgraph=True)(x)
    assert alone.op_count > compilations.op_count


def test_merging_unmerging_and_unloading(grouped: list[int]) -> None:
    model = tiny_model("llama").double()
    apply_lora(model, LoraConfig(rank=2))
    disturb(model)
    expected = logits(model)
    assert grouped
    for change in (merge, unmerge):
        change(model)
        torch.testing.assert_close(logits(model), expected)
    merge_and_unload(model)
    torch.testing.assert_close(logits(model), expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("call" in vars(module) for module in model.modules())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_siblings_of_its_own(clone: Callable[[nn.Module], nn.Module], grouped: list[int]) -> None:
    model = tiny_model("bert")
    apply_lora(model, LoraConfig(rank=2))
    copied = clone(model)
    before = logits(model)
    grouped.clear()
    disturb(copied)
    assert not torch.equal(logits(copied), before)
    assert torch.equal(logits(model), before)
    assert grouped == [3] * 4
    merge_and_unload(copied)
    assert not any(module._forward_hooks for module in copied.modules())
    assert torch.equal(logits(model), before)
    assert grouped == [3] * 6


def test_calls_do_not_change_the_names_of_modules_and_state() -> None:
    model = tiny_model("bert")
    lora = apply_lora(model, LoraConfig(rank=2))
    names = [set(model.state_dict())]
    names.append({name for name, _ in model.named_modules()})
    model(input_ids=torch.randint(5, VOCABULARY, (1, 4)))
    apart(lora)
    assert names == [set(model.state_dict()), {name for name, _ in model.named_modules()}]
