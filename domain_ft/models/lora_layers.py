"""The layers of LoRA. Each replaces a Linear, Conv1D or Embedding while an adapter is in the model.

Notation: W (N, K) the frozen weight, A (R, K) and B (N, R) the update's factors, s its scaling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from domain_ft.errors import ModelError
from domain_ft.models import targets as targeting
from domain_ft_kernels import lora_linear
from domain_ft_kernels.dropout import keep_mask

_TO_MERGE = "_merge_after_loading"  # attribute of a layer that has to be merged again after loading a state dict

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, which spreads the seeds of consecutive layers


class SiblingCall(Protocol):
    """The interface of `siblings.SharedCall`, which sibling layers hold while their parent module runs."""

    @property
    def has_left_over(self) -> bool:
        """Whether an output was computed that no layer took."""

    def take(self, layer: LoraLinear, x: Tensor) -> Tensor | None:
        """The output (..., N) of `layer` for x (..., K), or None if the layer has to compute it itself."""


class DropoutSeed:
    """The seed of a micro-batch's dropout, shared by all LoRA layers of a model and combined with a layer's index.

    A layer's mask is a function of (`value`, the layer's index), so a resumed run and a recomputed activation use the
    same mask. A module that is called several times in a micro-batch (ALBERT) uses the same mask each time, and sibling
    projections share one index. The seed is a tensor that is written in place, so that a compiled model is not
    recompiled for each seed.
    """

    def __init__(self, value: int = 0) -> None:
        self._tensor = torch.tensor(value, dtype=torch.int64, device="cpu")

    @property
    def value(self) -> int:
        """The seed, 63 bits."""
        return int(self._tensor)

    @value.setter
    def value(self, value: int) -> None:
        self._tensor.fill_(value)

    def of(self, index: int) -> Tensor:
        """The seed of layer `index`: () int64; the sum may wrap around."""
        return self._tensor + (index + 1) * _GOLDEN % 2**63


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update.

    Args:
        base: `nn.Linear`, or GPT-2's `Conv1D`, whose weight is stored transposed.
        rank, alpha, dropout, use_rslora, use_dora, lora_bias: as in `LoraConfig`.
        seed: the dropout's seed, shared with the model's other layers.
        index: this layer's number in the model, or that of its first sibling.
        generator: of A's initial values; B starts at zero, so at first the layer computes what its base does.

    The factors are float32 (float64 on a float64 base). Shapes: x (..., K) -> (..., N).
    """

    lora_A: nn.Parameter  # noqa: N815 (the paper's letters, and PEFT's)
    lora_B: nn.Parameter  # noqa: N815
    lora_magnitude_vector: nn.Parameter | None
    lora_bias: nn.Parameter | None

    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        use_rslora: bool = False,
        use_dora: bool = False,
        lora_bias: bool = False,
        seed: DropoutSeed | None = None,
        index: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(base, targeting.LINEAR_CLASSES) or not base.weight.is_floating_point():
            raise ModelError(f"LoRA needs a Linear or Conv1D layer with a floating-point weight, not {base}")
        self.base_layer = base.requires_grad_(False)
        self.transposed = isinstance(base, Conv1D)
        self.dropout = dropout
        self.scaling = alpha / (math.sqrt(rank) if use_rslora else rank)
        self.seed = seed or DropoutSeed()
        self.index = index
        self.backend = "auto"
        self.call: SiblingCall | None = None  # set while the siblings' parent module runs
        # The base's weight and bias from before a merge; None while the layer is not merged.
        self._original: Tensor | None = None
        self._original_bias: Tensor | None = None

        weight = self.base_weight
        self.out_features, self.in_features = weight.shape
        dtype = torch.promote_types(weight.dtype, torch.float32)
        # The bound of kaiming_uniform with a = √5, as in LoRA's original code and in PEFT.
        bound = 1 / math.sqrt(self.in_features)
        first = torch.empty(rank, self.in_features, dtype=dtype).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first.to(weight.device))  # (R, K)
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, dtype=dtype, device=weight.device))  # (N, R)
        lengths = torch.linalg.vector_norm(weight.to(dtype), dim=1) if use_dora else None  # (N,)
        self.lora_magnitude_vector = None if lengths is None else nn.Parameter(lengths)
        if lora_bias and base.bias is None:
            raise ModelError(f"a bias in LoRA's B needs a layer with a bias, and {base} has none")
        bias = torch.zeros(self.out_features, dtype=dtype, device=weight.device) if lora_bias else None
        self.lora_bias = None if bias is None else nn.Parameter(bias)
        hook_state_dict(self)

    @property
    def base_weight(self) -> Tensor:
        """The base layer's weight as (N, K), whether or not it is stored transposed."""
        return self.base_layer.weight.T if self.transposed else self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias (N,) with the update, or None."""
        bias: Tensor | None = self.base_layer.bias
        if self.lora_bias is None or bias is None or self.merged:
            return bias
        return (bias.to(self.lora_bias.dtype) + self.scaling * self.lora_bias).to(bias.dtype)

    @property
    def weight(self) -> Tensor:
        """The weight with the update, in the base layer's storage order; differentiable in the update.

        For callers that multiply by the weight themselves, such as the fused loss.
        """
        if self.merged:
            return self.base_layer.weight
        full = self._updated_weight()
        if self.lora_magnitude_vector is not None:
            full = full * (self.lora_magnitude_vector / row_lengths(full.detach())).unsqueeze(1)
        full = full.to(self.base_layer.weight.dtype)
        return full.T if self.transposed else full

    @property
    def merged(self) -> bool:
        """Whether the update is in the base layer's weight."""
        return self._original is not None

    @property
    def active_dropout(self) -> float:
        """The probability of dropout: 0 in evaluation mode."""
        return self.dropout if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base_layer(x)
        if self.call is not None and (shared := self.call.take(self, x)) is not None:
            return shared
        dropout_p = self.active_dropout
        seed = self.seed.of(self.index) if dropout_p else None
        if self.lora_magnitude_vector is not None:
            return self._forward_dora(x, self.lora_magnitude_vector, dropout_p, seed)
        return lora_linear(
            x,
            self.base_weight,
            self.bias,
            self.lora_A,
            self.lora_B,
            self.scaling,
            dropout_p=dropout_p,
            seed=seed,
            backend=self.backend,
        )

    def _forward_dora(self, x: Tensor, magnitude: Tensor, dropout_p: float, seed: Tensor | None) -> Tensor:
        """y = m/‖W + sBA‖ · (x Wᵀ + s x Aᵀ Bᵀ) + b. No gradient flows through the row norms ‖·‖ (DoRA, section 4.3).

        Dropout applies to the update only, which includes DoRA's rescaling of the frozen product:
        y = x Wᵀ + b + (m/‖·‖ - 1) z Wᵀ + m/‖·‖ · s z Aᵀ Bᵀ with z = drop(x).
        """
        weight, bias = self.base_weight, self.base_layer.bias
        with torch.no_grad():
            lengths = row_lengths(self._updated_weight())  # (N,)
        scale = magnitude / lengths  # (N,)
        dropped = drop(x, dropout_p, seed) if seed is not None else x  # (..., K)
        y = lora_linear(dropped, weight, None, self.lora_A, self.lora_B, self.scaling, backend=self.backend)  # (..., N)
        scaled = y * scale  # (..., N)
        if seed is not None:
            scaled = scaled + F.linear(x - dropped, weight, bias)
        elif bias is not None:
            scaled = scaled + bias
        return scaled.to(y.dtype)

    def _updated_weight(self) -> Tensor:
        """W + sBA as (N, K), in the update's precision even under autocast."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            return torch.addmm(self.base_weight.to(self.lora_A.dtype), self.lora_B, self.lora_A, alpha=self.scaling)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the updated weight and bias into the base layer; the originals are kept for `unmerge`."""
        if not self.merged:
            merged, original = self.weight, self.base_layer.weight.detach().clone()
            bias = self.bias
            if self.lora_bias is not None and bias is not None:
                self._original_bias = self.base_layer.bias.detach().clone()
                self.base_layer.bias.copy_(bias)
            self.base_layer.weight.copy_(merged)
            self._original = original

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restore the base layer's weight and bias, to the last bit."""
        if self._original is not None:
            self.base_layer.weight.copy_(self._original)
            self._original = None
        if self._original_bias is not None:
            self.base_layer.bias.copy_(self._original_bias)
            self._original_bias = None

    def unmerged_tensors(self) -> dict[str, Tensor]:
        """The tensors of the base that a merge has changed, as they were before it, by name in this module."""
        kept = {"base_layer.weight": self._original, "base_layer.bias": self._original_bias}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}

    def extra_repr(self) -> str:
        kind = "DoRA, " if self.lora_magnitude_vector is not None else ""
        return f"{kind}rank={self.lora_A.shape[0]}, scaling={self.scaling:g}, dropout={self.dropout:g}"


class LoraEmbedding(nn.Module):
    """A frozen embedding with a trainable low-rank update of its weight (V, D): W + s · Aᵀ Bᵀ.

    Only adapters written by PEFT have these; in its files the factors are lora_embedding_A and lora_embedding_B. The
    update is multiplied by the embedding's `embed_scale`, like its rows, and has no dropout. Shapes: ids (...) ->
    (..., D).
    """

    base_layer: nn.Embedding
    lora_embedding_A: nn.Parameter  # noqa: N815
    lora_embedding_B: nn.Parameter  # noqa: N815

    def __init__(self, base: nn.Embedding, *, rank: int, alpha: float, use_rslora: bool = False) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.num_embeddings, self.embedding_dim = base.weight.shape
        self.padding_idx = base.padding_idx
        self.scaling = alpha / (math.sqrt(rank) if use_rslora else rank)
        self._original: Tensor | None = None
        dtype, device = torch.promote_types(base.weight.dtype, torch.float32), base.weight.device
        # (R, V) and (D, R)
        self.lora_embedding_A = nn.Parameter(torch.zeros(rank, self.num_embeddings, dtype=dtype, device=device))
        self.lora_embedding_B = nn.Parameter(torch.zeros(self.embedding_dim, rank, dtype=dtype, device=device))
        hook_state_dict(self)

    @property
    def weight(self) -> Tensor:
        """The whole embedding (V, D) with the update, differentiable in the factors."""
        weight = self.base_layer.weight
        if self.merged:
            return weight
        with torch.autocast(weight.device.type, enabled=False):
            update = self.lora_embedding_A.T @ self.lora_embedding_B.T  # (V, D)
        return (weight.to(update.dtype) + self.scaling * update).to(weight.dtype)

    @property
    def merged(self) -> bool:
        """Whether the update is in the base embedding."""
        return self._original is not None

    def forward(self, ids: Tensor) -> Tensor:
        frozen: Tensor = self.base_layer(ids)  # (..., D)
        if self.merged:
            return frozen
        with torch.autocast(frozen.device.type, enabled=False):
            update = F.embedding(ids, self.lora_embedding_A.T) @ self.lora_embedding_B.T  # (..., D)
        update = update * (self.scaling * getattr(self.base_layer, "embed_scale", 1.0))
        return (frozen.to(update.dtype) + update).to(frozen.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the base embedding; the original is kept for `unmerge`."""
        if not self.merged:
            merged, original = self.weight, self.base_layer.weight.detach().clone()
            self.base_layer.weight.copy_(merged)
            self._original = original

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restore the base embedding's weight, to the last bit."""
        if self._original is not None:
            self.base_layer.weight.copy_(self._original)
            self._original = None

    def unmerged_tensors(self) -> dict[str, Tensor]:
        """The tensors of the base that a merge has changed, as they were before it, by name in this module."""
        return {} if self._original is None else {"base_layer.weight": self._original}

    def extra_repr(self) -> str:
        return f"rank={self.lora_embedding_A.shape[0]}, scaling={self.scaling:g}"


class TrainableTokens(nn.Module):
    """An embedding with trainable rows for chosen tokens; the other rows are frozen (PEFT's trainable tokens).

    Shapes: ids (...) -> (..., D); `rows` (tokens, D) replace the base's rows.
    """

    base_layer: nn.Embedding
    tokens: Tensor
    slots: Tensor

    def __init__(self, base: nn.Embedding, tokens: Sequence[int]) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.num_embeddings, self.embedding_dim = base.weight.shape
        self.padding_idx = base.padding_idx
        self._original: Tensor | None = None
        device = base.weight.device
        index = torch.tensor(list(tokens), dtype=torch.long, device=device)  # (tokens,)
        # slots (V,): the index of each token in `rows`, or -1
        slots = torch.full((self.num_embeddings,), -1, dtype=torch.long, device=device)
        slots[index] = torch.arange(len(index), device=device)
        self.register_buffer("tokens", index, persistent=False)
        self.register_buffer("slots", slots, persistent=False)
        dtype = torch.promote_types(base.weight.dtype, torch.float32)
        self.rows = nn.Parameter(base.weight.detach()[index].to(dtype))  # (tokens, D)
        hook_state_dict(self)

    @property
    def weight(self) -> Tensor:
        """The whole embedding (V, D) with the trained rows, differentiable in them."""
        weight = self.base_layer.weight
        return weight if self.merged else weight.index_copy(0, self.tokens, self.rows.to(weight.dtype))

    @property
    def merged(self) -> bool:
        """Whether the trained rows are in the base embedding."""
        return self._original is not None

    def forward(self, ids: Tensor) -> Tensor:
        frozen = self.base_layer(ids)  # (..., D)
        if self.merged:
            return frozen
        slots = self.slots[ids]  # (...)
        # (..., D); the values for frozen tokens are not used
        trained = F.embedding(slots.clamp_min(0), self.rows) * getattr(self.base_layer, "embed_scale", 1.0)
        return torch.where((slots >= 0).unsqueeze(-1), trained.to(frozen.dtype), frozen)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the trained rows into the base embedding; the original rows are kept for `unmerge`."""
        if not self.merged:
            self._original = self.base_layer.weight[self.tokens].clone()
            self.base_layer.weight[self.tokens] = self.rows.to(self.base_layer.weight.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restore the base embedding's rows, to the last bit."""
        if self._original is not None:
            self.base_layer.weight[self.tokens] = self._original
            self._original = None

    def unmerged_tensors(self) -> dict[str, Tensor]:
        """The tensors of the base that a merge has changed, as they were before it, by name in this module."""
        if self._original is None:
            return {}
        weight = self.base_layer.weight.detach()
        return {"base_layer.weight": weight.index_copy(0, self.tokens, self._original)}

    def extra_repr(self) -> str:
        return f"trained={len(self.tokens)}"


class TiedProjection(nn.Module):
    """An output projection tied to an embedding with trained rows: it uses the same rows.

    Shapes: x (..., D) -> (..., V).
    """

    def __init__(self, base: nn.Linear, embedding: TrainableTokens) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self._embedding = [embedding]  # in a list, so that it is not registered as a submodule a second time
        hook_state_dict(self)

    @property
    def merged(self) -> bool:
        """Whether the trained rows are in the base embedding, whose weight this projection shares."""
        return self._embedding[0].merged

    def merge(self) -> None:
        """Merge the embedding."""
        self._embedding[0].merge()

    def unmerge(self) -> None:
        """Unmerge the embedding."""
        self._embedding[0].unmerge()

    def unmerged_tensors(self) -> dict[str, Tensor]:
        """The tensors of the base that a merge has changed, as they were before it, by name in this module."""
        return self._embedding[0].unmerged_tensors()

    @property
    def weight(self) -> Tensor:
        """(V, D), differentiable in the trained rows."""
        return self._embedding[0].weight

    @property
    def bias(self) -> Tensor | None:
        """(V,) or None."""
        bias: Tensor | None = self.base_layer.bias
        return bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


Mergeable = LoraLinear | LoraEmbedding | TrainableTokens | TiedProjection
"""The layers that can be merged."""


def hook_state_dict(module: nn.Module) -> None:
    """Make the state dict of `module` the same whether or not it is merged: the original base, and the update.

    Saving a merged module saves the unmerged weights, and loading into a merged module merges what was loaded.
    Otherwise the update would be counted twice, or be lost at `unmerge`.
    """
    module.register_state_dict_post_hook(_save_unmerged)
    module.register_load_state_dict_pre_hook(_unmerge_to_load)
    module.register_load_state_dict_post_hook(_merge_what_was_loaded)


def _save_unmerged(module: Mergeable, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name, tensor in module.unmerged_tensors().items():
        if prefix + name in state:
            state[prefix + name] = tensor.to(state[prefix + name].device)


def _unmerge_to_load(module: Mergeable, *_arguments: Any) -> None:
    if module.merged:
        module.unmerge()
        setattr(module, _TO_MERGE, True)


def _merge_what_was_loaded(module: Mergeable, _incompatible: Any) -> None:
    if hasattr(module, _TO_MERGE):
        delattr(module, _TO_MERGE)
        module.merge()


def row_lengths(weight: Tensor) -> Tensor:
    """The norms (N,) of the rows of (N, K); never zero, so that a row of zeros stays zero when divided by its norm."""
    return torch.linalg.vector_norm(weight, dim=1).clamp_min(torch.finfo(weight.dtype).tiny)


def drop(x: Tensor, p: float, seed: Tensor) -> Tensor:
    """Inverted dropout of x (..., K), with the mask of the fused op for `seed`."""
    mask = keep_mask(seed, x.numel() // x.shape[-1], x.shape[-1], p, x.device)  # (rows of x, K)
    return x * mask.view(x.shape) / (1 - p)
