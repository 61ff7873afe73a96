"""What is timed: an op's operands, and the implementations that are installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from cases import DROPOUT, MODELS, RANK, Head, Linear
from torch import Tensor, nn

from domain_ft_kernels import cross_entropy, linear_cross_entropy, lora_linear_group

Tensors = dict[str, Tensor]
Implementation = Callable[[Tensors], list[Tensor]]

SEED = 0
IGNORED = -100
CLASSES = (1_000, 30_522, 50_257)
"""Columns of the logits that `cross_entropy` is timed on."""


@dataclass(frozen=True)
class Problem:
    """An op at one size.

    `reference` is our PyTorch definition, `eager` is common user code, and `compiled` is `eager` with torch.compile.

    Attributes:
        op, case: the op and its size, in words.
        tokens: rows.
        dtype: of the operands.
        tensors: by name, for all implementations.
        differentiable: the tensors that get gradients.
        implementations: by name; each maps the tensors to the outputs.
        unchecked: implementations that draw other dropout masks, so that their outputs cannot be compared.
        overwritten: tensors that some implementation overwrites; each call gets copies, whose making is not timed.
        flops: forward and backward, as required by the maths.
    """

    op: str
    case: str
    tokens: int
    dtype: torch.dtype
    tensors: Tensors
    differentiable: tuple[str, ...]
    implementations: dict[str, Implementation]
    flops: float
    unchecked: frozenset[str] = frozenset()
    overwritten: tuple[str, ...] = ()

    def widened(self) -> Tensors:
        """The tensors in float32 (float64 if they are float32). Errors are measured against the results for these."""
        wide = torch.float64 if self.dtype == torch.float32 else torch.float32
        return {name: t.to(wide) if t.is_floating_point() else t for name, t in self.tensors.items()}


def problems(ops: tuple[str, ...], device: torch.device, *, full: bool) -> Iterator[Problem]:
    """The problems to time: with `full`, over tokens, ranks, vocabularies and types; otherwise a few small ones."""
    dtypes = (torch.bfloat16, torch.float16, torch.float32) if full else (torch.float32,)
    for dtype in dtypes:
        for tokens in (2_048, 16_384) if full else (1_024,):
            for model in MODELS if full else MODELS[1:2]:
                if "lora_linear" in ops:
                    for rank in (8, RANK, 64) if full and model is MODELS[0] else (RANK,):
                        for linear in model.linears if full else model.linears[:1]:
                            yield lora_problem(model.name, linear, tokens, rank, dtype, device)
                if "linear_cross_entropy" in ops:
                    yield head_problem(model.name, model.head, tokens, dtype, device)
            if "cross_entropy" in ops:
                for classes in CLASSES if full else CLASSES[1:2]:
                    yield cross_entropy_problem(classes, tokens if full else tokens // 4, dtype, device)


def _backends(device: torch.device) -> tuple[str, ...]:
    return ("triton", "torch") if device.type == "cuda" else ("torch",)


def lora_problem(
    name: str, linear: Linear, tokens: int, rank: int, dtype: torch.dtype, device: torch.device
) -> Problem:
    """The layers of `linear` on one x, with dropout; gradients of x, A and B."""
    random = _randoms(dtype, device)
    k, parts, seed = linear.inputs, range(len(linear.outputs)), torch.tensor(SEED)
    tensors = {"x": random(tokens, k)}
    for i, n in enumerate(linear.outputs):
        weight = random(k, n).t() if linear.transposed else random(n, k)
        tensors |= {f"W{i}": weight * k**-0.5, f"A{i}": random(rank, k) * k**-0.5, f"B{i}": random(n, rank)}
        if linear.bias:
            tensors[f"b{i}"] = random(n)

    def ours(operands: Tensors, backend: str) -> list[Tensor]:
        weights, lora_as, lora_bs = ([operands[f"{letter}{i}"] for i in parts] for letter in "WAB")
        biases = [operands.get(f"b{i}") for i in parts]
        options = {"dropout_p": DROPOUT, "seed": seed, "backend": backend}
        return list(lora_linear_group(operands["x"], weights, biases, lora_as, lora_bs, [1.0] * len(parts), **options))

    def plain(operands: Tensors) -> list[Tensor]:
        dropped = F.dropout(operands["x"], DROPOUT)
        return [
            F.linear(operands["x"], operands[f"W{i}"], operands.get(f"b{i}"))
            + dropped @ operands[f"A{i}"].t() @ operands[f"B{i}"].t()
            for i in parts
        ]

    implementations: dict[str, Implementation] = _ours(ours, device)
    others: dict[str, Implementation] = {"eager": plain, "compiled": _compiled(plain)}
    if importlib.util.find_spec("peft") is not None:
        others["PEFT"] = _peft(tensors, linear, rank)
    outputs = ", ".join(map(str, linear.outputs))
    return Problem(
        "lora_linear",
        f"{name} {k} -> {outputs}, rank {rank}",
        tokens,
        dtype,
        tensors,
        ("x", *(f"{letter}{i}" for letter in "AB" for i in parts)),
        implementations | others,
        flops=sum(4.0 * tokens * (n * k + 1.5 * rank * (n + k)) for n in linear.outputs),
        unchecked=frozenset(others),
    )


def _ours(function: Callable[[Tensors, str], list[Tensor]], device: torch.device) -> dict[str, Implementation]:
    """Our backends on `device`, and the reference."""
    return {backend: functools.partial(function, backend=backend) for backend in (*_backends(device), "reference")}


def _compiled(function: Implementation) -> Implementation:
    """The function, compiled by torch.compile at its first call."""
    compiled = functools.cache(lambda: torch.compile(function))
    return lambda operands: compiled()(operands)


def _peft(tensors: Tensors, linear: Linear, rank: int) -> Implementation:
    """PEFT's layers, with their parameters replaced by ours."""
    from peft import LoraConfig, inject_adapter_in_model

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            made = (nn.Linear(linear.inputs, n, bias=linear.bias, device="meta") for n in linear.outputs)
            self.layers = nn.ModuleList(made)

    module = Layers()
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=DROPOUT, target_modules=r"layers\.\d+")
    inject_adapter_in_model(config, module)
    module.to_empty(device=tensors["x"].device).train()

    def run(operands: Tensors) -> list[Tensor]:
        outputs = []
        for i, layer in enumerate(module.layers):
            parameters = {
                "base_layer.weight": operands[f"W{i}"],
                "lora_A.default.weight": operands[f"A{i}"],
                "lora_B.default.weight": operands[f"B{i}"],
            }
            if linear.bias:
                parameters["base_layer.bias"] = operands[f"b{i}"]
            outputs.append(torch.func.functional_call(layer, parameters, (operands["x"],)))
        return outputs

    return run


def head_problem(name: str, head: Head, tokens: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """The summed loss of a frozen head; gradient of the hidden states."""
    random, v, d = _randoms(dtype, device), head.vocabulary, head.hidden
    tensors = {"hidden": random(tokens, d), "W": random(v, d) * d**-0.5}
    tensors["target"] = torch.randint(v, (tokens,), device=device)
    tensors["target"][head.rows(tokens) :] = IGNORED
    if head.bias:
        tensors["bias"] = random(v)

    def ours(operands: Tensors, backend: str) -> list[Tensor]:
        loss = linear_cross_entropy(
            operands["hidden"], operands["W"], operands["target"], operands.get("bias"), backend=backend
        )
        return [loss]

    implementations = _ours(ours, device)
    implementations |= {"eager": _eager_head, "compiled": _compiled(_eager_head)}
    if importlib.util.find_spec("torch.nn.modules.linear_cross_entropy") is not None:
        implementations["torch chunked"] = _chunked_head
    if device.type == "cuda" and (liger := _installed("liger_kernel.transformers.functional")):
        implementations["Liger"] = functools.partial(_liger_head, liger)
    if device.type == "cuda" and not head.bias and (cce := _installed("cut_cross_entropy")):
        implementations["CCE"] = functools.partial(_cce_head, cce)
    return Problem(
        "linear_cross_entropy",
        f"{name} head {d} -> {v}",
        tokens,
        dtype,
        tensors,
        ("hidden",),
        implementations,
        flops=4.0 * head.rows(tokens) * v * d,
    )


def _eager_head(operands: Tensors) -> list[Tensor]:
    logits = F.linear(operands["hidden"], operands["W"], operands.get("bias"))
    return [F.cross_entropy(logits.float(), operands["target"], reduction="sum")]


def _chunked_head(operands: Tensors) -> list[Tensor]:
    options = _installed("torch.nn.modules.linear_cross_entropy_options").LinearCrossEntropyOptions()
    bias, loss = operands.get("bias"), F.linear_cross_entropy  # type: ignore[attr-defined]
    out = loss(
        operands["hidden"], operands["W"], operands["target"], linear_bias=bias, reduction="sum", options=options
    )
    return [out]


def _liger_head(liger: Any, operands: Tensors) -> list[Tensor]:
    arguments = operands["hidden"], operands["W"], operands["target"], operands.get("bias")
    return [liger.liger_fused_linear_cross_entropy(*arguments, reduction="sum")]


def _cce_head(cce: Any, operands: Tensors) -> list[Tensor]:
    loss = cce.linear_cross_entropy
    return [loss(operands["hidden"], operands["W"], operands["target"], reduction="sum", filter_eps=None)]


def cross_entropy_problem(classes: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """The summed loss of logits; gradient of the logits."""
    tensors = {"logits": _randoms(dtype, device)(tokens, classes)}
    tensors["target"] = torch.randint(classes, (tokens,), device=device)

    def ours(operands: Tensors, backend: str) -> list[Tensor]:
        return [cross_entropy(operands["logits"], operands["target"], backend=backend)]

    implementations = _ours(ours, device)
    implementations |= {"eager": _eager_cross_entropy, "compiled": _compiled(_eager_cross_entropy)}
    overwritten: tuple[str, ...] = ()
    if device.type == "cuda" and (liger := _installed("liger_kernel.transformers.functional")):
        implementations["Liger"] = functools.partial(_liger_cross_entropy, liger)
        overwritten = ("logits",)  # by the gradient
    return Problem(
        "cross_entropy",
        f"{classes} classes",
        tokens,
        dtype,
        tensors,
        ("logits",),
        implementations,
        flops=0.0,
        overwritten=overwritten,
    )


def _eager_cross_entropy(operands: Tensors) -> list[Tensor]:
    return [F.cross_entropy(operands["logits"].float(), operands["target"], reduction="sum")]


def _liger_cross_entropy(liger: Any, operands: Tensors) -> list[Tensor]:
    return [liger.liger_cross_entropy(operands["logits"], operands["target"], reduction="sum")]


def _randoms(dtype: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
    generator = torch.Generator(device).manual_seed(SEED)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    return random


def _installed(name: str) -> Any:
    """The module `name`, or None if its package is not installed."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return None
    return importlib.import_module(name)
