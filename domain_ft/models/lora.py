"""LoRA, our own layer, since the fused kernel is inside it: from a base model to one with few trainable weights.

    y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ        W (N, K) frozen, A (R, K), B (N, R);  s = α/R, or α/√R with rsLoRA

Low-rank adaptation (LoRA: Hu et al. 2021), its rank-stabilised scaling (rsLoRA: Kalajdzievski 2023), its
weight-decomposed form (DoRA: Liu et al. 2024), rows of the embedding trained for chosen tokens, and modules trained
whole, such as the head of a masked LM. Each means what it means in PEFT, and `peft_format` reads and writes PEFT's
files. Works on any torch model with `nn.Linear` or GPT-2's `Conv1D` layers:

    lora = apply_lora(model, LoraConfig(rank=16, alpha=32, targets="attention"))
    optimizer = torch.optim.AdamW(lora.trainable_parameters().values())
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from domain_ft.errors import ModelError
from domain_ft.models import siblings as related
from domain_ft.models import targets as targeting
from domain_ft.models.siblings import SharedCall, Siblings
from domain_ft.randomness import derive
from domain_ft_kernels import lora_linear
from domain_ft_kernels.dropout import keep_mask

_HANDLE = "_domain_ft_lora"  # the attribute of a model that holds its LoraModel
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: consecutive layers' seeds lie far apart


@dataclass(frozen=True)
class LoraConfig:
    """What is trained and how.

    Args:
        rank: R, the inner dimension of the update.
        alpha: α, the numerator of the scaling.
        dropout: the probability that an input of the update (never of the frozen product) is dropped.
        targets: `all-linear`, `attention`, a regular expression for the whole module path, or a list of names.
        use_rslora: scale by α/√R instead of α/R.
        use_dora: learn the length of each row of W apart from its direction.
        rank_pattern: other ranks by a regular expression for the end of a module's path; the first that matches counts.
        alpha_pattern: other alphas, likewise.
        train_modules: modules trained whole beside LoRA, by path or the end of one (PEFT's modules_to_save).
        trainable_tokens: token ids whose rows of the input embedding are trained; a tied output projection follows.

    Raises:
        ModelError: a value that is out of range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    train_modules: tuple[str, ...] = ()
    trainable_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, rank in {"rank": self.rank, **self.rank_pattern}.items():
            if not isinstance(rank, int) or rank < 1:
                raise ModelError(f"the LoRA rank {rank!r} ({name}) is no whole number above 0", fix="give 8, say")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not (math.isfinite(alpha) and alpha > 0):
                raise ModelError(f"the LoRA alpha {alpha!r} ({name}) is no number above 0", fix="give 16, say")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"the LoRA dropout {self.dropout!r} is not in [0, 1)", fix="give 0.05, say")
        for key in (*self.rank_pattern, *self.alpha_pattern):
            _refuse_malformed(key)
        if len(set(self.trainable_tokens)) != len(self.trainable_tokens):
            raise ModelError("the trainable tokens name a token twice", fix="give each token id once")

    def rank_of(self, path: str) -> int:
        """The rank of the layer at `path`."""
        key = _matching_key(self.rank_pattern, path)
        return self.rank if key is None else self.rank_pattern[key]

    def alpha_of(self, path: str) -> float:
        """The alpha of the layer at `path`."""
        key = _matching_key(self.alpha_pattern, path)
        return self.alpha if key is None else self.alpha_pattern[key]


class DropoutSeed:
    """The seed of a pass's dropout, shared by all LoRA layers of a model; each folds its own index in.

    A layer's mask is a function of (`value`, the layer's index) alone, so a resumed run and a recomputed activation see
    the same mask. A module that is called several times in a pass (ALBERT's) draws the same mask each time, and sibling
    projections of one input have one index. The seed is a tensor that is written in place, so that a compiled model is
    not compiled again for each seed.
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
        """The seed of the layer `index`: () int64, which wraps around."""
        return self._tensor + (index + 1) * _GOLDEN % 2**63


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update.

    Args:
        base: `nn.Linear`, or GPT-2's `Conv1D`, whose weight is stored transposed.
        rank, alpha, dropout, use_rslora, use_dora: as in `LoraConfig`.
        seed: the dropout's seed, shared with the model's other layers.
        index: this layer's number in the model, or that of the first of its siblings.
        generator: where A's first values come from; B starts at zero, so the layer starts as its base.

    The update's weights are float32 (float64 on a float64 base). Shapes: x (..., K) -> (..., N).
    """

    lora_A: nn.Parameter  # noqa: N815 (the paper's letters, and PEFT's)
    lora_B: nn.Parameter  # noqa: N815
    lora_magnitude_vector: nn.Parameter | None

    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        use_rslora: bool = False,
        use_dora: bool = False,
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
        self.call: SharedCall | None = None  # what siblings share while the module around them runs
        self._original: Tensor | None = None  # the base weight, kept while the update is merged into it

        weight = self.base_weight
        self.out_features, self.in_features = weight.shape
        dtype = torch.promote_types(weight.dtype, torch.float32)
        # The bound that kaiming_uniform with a = √5 has, as in LoRA's first code and in PEFT.
        bound = 1 / math.sqrt(self.in_features)
        first = torch.empty(rank, self.in_features, dtype=dtype).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, dtype=dtype, device=weight.device))
        lengths = torch.linalg.vector_norm(weight.to(dtype), dim=1) if use_dora else None
        self.lora_magnitude_vector = None if lengths is None else nn.Parameter(lengths)

    @property
    def base_weight(self) -> Tensor:
        """The base layer's weight as (N, K), whichever way it is stored."""
        return self.base_layer.weight.T if self.transposed else self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias (N,)."""
        return self.base_layer.bias

    @property
    def weight(self) -> Tensor:
        """The weight with the update in it, stored as the base layer stores its own; differentiable in the update.

        This is what a caller needs who multiplies by hand, such as the fused loss with an output projection.
        """
        if self.merged:
            return self.base_layer.weight
        full = self._updated_weight()
        if self.lora_magnitude_vector is not None:
            full = full * (self.lora_magnitude_vector / _row_lengths(full.detach())).unsqueeze(1)
        full = full.to(self.base_layer.weight.dtype)
        return full.T if self.transposed else full

    @property
    def merged(self) -> bool:
        """Whether the update stands in the base layer's weight."""
        return self._original is not None

    @property
    def active_dropout(self) -> float:
        """The probability of dropout in the mode that the layer is in."""
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
            self.base_layer.bias,
            self.lora_A,
            self.lora_B,
            self.scaling,
            dropout_p=dropout_p,
            seed=seed,
            backend=self.backend,
        )

    def _forward_dora(self, x: Tensor, magnitude: Tensor, dropout_p: float, seed: Tensor | None) -> Tensor:
        """y = m/‖W + sBA‖ · (x Wᵀ + s x Aᵀ Bᵀ) + b, the length ‖·‖ of each row taken as a constant (section 4.3).

        Dropout reaches the update alone, and what DoRA adds to the frozen product is part of the update:
        y = x Wᵀ + b + (m/‖·‖ - 1) z Wᵀ + m/‖·‖ · s z Aᵀ Bᵀ with z = drop(x).
        """
        weight, bias = self.base_weight, self.base_layer.bias
        with torch.no_grad():
            lengths = _row_lengths(self._updated_weight())
        scale = magnitude / lengths
        dropped = _drop(x, dropout_p, seed) if seed is not None else x
        y = lora_linear(dropped, weight, None, self.lora_A, self.lora_B, self.scaling, backend=self.backend)
        scaled = y * scale
        if seed is not None:
            scaled = scaled + F.linear(x - dropped, weight, bias)
        elif bias is not None:
            scaled = scaled + bias
        return scaled.to(y.dtype)

    def _updated_weight(self) -> Tensor:
        """W + sBA as (N, K), in the update's precision, under autocast too."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            return torch.addmm(self.base_weight.to(self.lora_A.dtype), self.lora_B, self.lora_A, alpha=self.scaling)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the update into the base layer's weight; a copy of the weight is kept for `unmerge`."""
        if not self.merged:
            merged, original = self.weight, self.base_layer.weight.detach().clone()
            self.base_layer.weight.copy_(merged)
            self._original = original

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the base layer's weight back as it was, to the last bit."""
        if self._original is not None:
            self.base_layer.weight.copy_(self._original)
            self._original = None

    def extra_repr(self) -> str:
        kind = "DoRA, " if self.lora_magnitude_vector is not None else ""
        return f"{kind}rank={self.lora_A.shape[0]}, scaling={self.scaling:g}, dropout={self.dropout:g}"


class TrainableTokens(nn.Module):
    """An embedding of which the rows of chosen tokens are trained, the others frozen (PEFT's trainable tokens).

    Shapes: ids (...) -> (..., D); `rows` (tokens, D), which stand in for the base's rows.
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
        index = torch.tensor(list(tokens), dtype=torch.long, device=device)
        # slots: for each id of the vocabulary its place in `rows`, or -1
        slots = torch.full((self.num_embeddings,), -1, dtype=torch.long, device=device)
        slots[index] = torch.arange(len(index), device=device)
        self.register_buffer("tokens", index, persistent=False)
        self.register_buffer("slots", slots, persistent=False)
        dtype = torch.promote_types(base.weight.dtype, torch.float32)
        self.rows = nn.Parameter(base.weight.detach()[index].to(dtype))

    @property
    def weight(self) -> Tensor:
        """The whole embedding (V, D) with the trained rows in it, differentiable in them."""
        weight = self.base_layer.weight
        return weight if self.merged else weight.index_copy(0, self.tokens, self.rows.to(weight.dtype))

    @property
    def merged(self) -> bool:
        """Whether the trained rows stand in the base embedding."""
        return self._original is not None

    def forward(self, ids: Tensor) -> Tensor:
        frozen = self.base_layer(ids)
        if self.merged:
            return frozen
        slots = self.slots[ids]
        trained = F.embedding(slots.clamp_min(0), self.rows) * getattr(self.base_layer, "embed_scale", 1.0)
        return torch.where((slots >= 0).unsqueeze(-1), trained.to(frozen.dtype), frozen)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the trained rows into the base embedding; the rows they replace are kept for `unmerge`."""
        if not self.merged:
            self._original = self.base_layer.weight[self.tokens].clone()
            self.base_layer.weight[self.tokens] = self.rows.to(self.base_layer.weight.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the base embedding's rows back as they were, to the last bit."""
        if self._original is not None:
            self.base_layer.weight[self.tokens] = self._original
            self._original = None

    def extra_repr(self) -> str:
        return f"trained={len(self.tokens)}"


class TiedProjection(nn.Module):
    """An output projection tied to an embedding with trained rows: it multiplies by the same rows.

    Shapes: x (..., D) -> (..., V).
    """

    def __init__(self, base: nn.Linear, embedding: TrainableTokens) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self._embedding = [embedding]  # in a list, for it is the embedding's module, not a second one of ours

    @property
    def weight(self) -> Tensor:
        """(V, D), differentiable in the trained rows."""
        return self._embedding[0].weight

    @property
    def bias(self) -> Tensor | None:
        """(V,) or none."""
        bias: Tensor | None = self.base_layer.bias
        return bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(eq=False)
class LoraModel:
    """A model with LoRA in it: what was put where. `model` is the model that was given, changed in place.

    Args:
        layers: the LoRA layers by the path of the layer that each wraps.
        trained_tokens: the embedding with trained rows by path; one entry or none.
        tied: the projections that follow it, by path.
        trained_modules: the modules that are trained whole, by path.
        siblings: the layers that are computed together.
    """

    model: nn.Module
    config: LoraConfig
    seed: DropoutSeed
    layers: dict[str, LoraLinear]
    trained_tokens: dict[str, TrainableTokens]
    tied: dict[str, TiedProjection]
    trained_modules: dict[str, nn.Module]
    siblings: list[Siblings]

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name; every other parameter of the model is frozen."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def count_parameters(self) -> tuple[int, int]:
        """How many numbers are trained, and how many the model holds in all (tied weights once)."""
        trainable = sum(parameter.numel() for parameter in self.trainable_parameters().values())
        return trainable, sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def merged(self) -> bool:
        """Whether the updates stand in the base weights."""
        return all(module.merged for module in self._updated())

    def merge(self) -> None:
        """Put every update into the base weights, exact to rounding; the model then runs as fast as its base."""
        for module in self._updated():
            module.merge()

    def unmerge(self) -> None:
        """Undo `merge`: every base weight is as it was, to the last bit."""
        for module in self._updated():
            module.unmerge()

    def detach(self) -> None:
        """Put the original modules back in their places: merged, they hold the updates; unmerged, they do not.

        Modules that were trained whole stay as trained. `attach` puts the LoRA layers in again.
        """
        for family in self.siblings:
            family.detach()
        for path, layer in self._wrappers().items():
            self.model.set_submodule(path, layer.base_layer, strict=True)

    def attach(self) -> None:
        """Undo `detach`."""
        for path, layer in self._wrappers().items():
            self.model.set_submodule(path, layer, strict=True)
        for family in self.siblings:
            family.attach(self.model)

    def discard(self) -> None:
        """Take the LoRA layers out of the model, which is a plain one again, all frozen; updates are kept if merged."""
        self.detach()
        self.model.requires_grad_(False)
        delattr(self.model, _HANDLE)

    def _updated(self) -> list[LoraLinear | TrainableTokens]:
        return [*self.layers.values(), *self.trained_tokens.values()]

    def _wrappers(self) -> dict[str, LoraLinear | TrainableTokens | TiedProjection]:
        return {**self.layers, **self.trained_tokens, **self.tied}


def apply_lora(model: nn.Module, config: LoraConfig, *, seed: int = 0) -> LoraModel:
    """Put LoRA into `model` in place and freeze everything else.

    Args:
        model: any torch model with linear layers.
        config: what is trained.
        seed: the first values of each A are a function of (`seed`, the layer's path).

    Raises:
        ModelError: nothing to train, something that cannot be exact, or a model that has LoRA already. The model is
            unchanged then.
    """
    refuse_adapted(model)
    trained = targeting.resolve_modules(model, config.train_modules)
    paths = targeting.resolve_targets(model, config.targets, trained)
    refuse_rank(model, paths, config.rank)
    return insert_lora(model, config, paths, trained, seed=seed)


def refuse_rank(model: nn.Module, paths: Sequence[str], rank: int) -> None:
    """Raise where no layer that LoRA goes into can use so high a rank: an update has at most min(inputs, outputs).

    Raises:
        ModelError: with the layer that takes the highest.
    """
    shapes = {path: tuple(model.get_submodule(path).get_parameter("weight").shape) for path in paths}
    widest = max(shapes, key=lambda path: min(shapes[path]))
    highest = min(shapes[widest])
    if rank > highest:
        raise ModelError(
            f"the LoRA rank {rank:,} is above what any of the layers can use: the widest, {widest}, has a weight of "
            f"{' x '.join(map(str, shapes[widest]))}",
            where="--rank",
            fix=f"give a rank of {highest} at most; 8 to 64 is usual. --method full trains every weight",
        )


def insert_lora(
    model: nn.Module, config: LoraConfig, paths: Sequence[str], trained: Sequence[str], *, seed: int = 0
) -> LoraModel:
    """`apply_lora` for modules that are known by their whole paths, whatever names `config` has for them.

    Args:
        paths: of the layers that LoRA goes into.
        trained: of the modules that are trained whole.
    """
    _refuse_idle_patterns(config, paths)
    embedding = _embedding_for(model, config, trained)

    model.requires_grad_(False)
    shared_seed = DropoutSeed()
    layers = {
        path: _lora_layer(model.get_submodule(path), path, config, shared_seed, index, seed)
        for index, path in enumerate(paths)
    }
    siblings = [] if config.use_dora else related.find(layers)
    for family in siblings:
        first, *others = family.paths
        for path in others:
            layers[path].index = layers[first].index
    trained_tokens: dict[str, TrainableTokens] = {}
    tied: dict[str, TiedProjection] = {}
    if embedding is not None:
        rows = TrainableTokens(embedding, config.trainable_tokens)
        tied = {path: TiedProjection(layer, rows) for path, layer in targeting.tied_projections(model).items()}
        trained_tokens = {targeting.path_of(model, embedding): rows}
    modules = {path: model.get_submodule(path).requires_grad_(True) for path in trained}
    lora = LoraModel(model, config, shared_seed, layers, trained_tokens, tied, modules, siblings)
    for layer in lora._wrappers().values():
        layer.train(model.training)
    lora.attach()
    setattr(model, _HANDLE, lora)
    return lora


def has_lora(model: nn.Module) -> bool:
    """Whether `model` went through `apply_lora` and has its LoRA layers still."""
    return hasattr(model, _HANDLE)


def refuse_adapted(model: nn.Module) -> None:
    """Raise for a model that has LoRA layers already."""
    if has_lora(model):
        raise ModelError(
            "the model has LoRA layers already", fix="merge them and take them out: merge_and_unload(model)"
        )


def lora_of(model: nn.Module) -> LoraModel:
    """The handle that `apply_lora` gave for `model`."""
    lora = getattr(model, _HANDLE, None)
    if lora is None:
        raise ModelError(f"this {type(model).__name__} has no LoRA layers", fix="call apply_lora or load_adapter first")
    return lora


def merge(model: nn.Module) -> None:
    """Put every update of `model` into its base weights. See `LoraModel.merge`."""
    lora_of(model).merge()


def unmerge(model: nn.Module) -> None:
    """Undo `merge`, to the last bit."""
    lora_of(model).unmerge()


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Merge every update and take the LoRA layers out: `model` is a plain model again, all frozen."""
    lora = lora_of(model)
    lora.merge()
    lora.discard()
    return model


def set_backend(model: nn.Module, backend: str) -> None:
    """Choose the kernels of every LoRA layer: `auto`, `reference`, `torch` or `triton`."""
    for layer in lora_of(model).layers.values():
        layer.backend = backend


def set_dropout_seed(model: nn.Module, seed: int) -> None:
    """Set the seed of the next pass's dropout masks in every LoRA layer."""
    lora_of(model).seed.value = seed


def _lora_layer(
    base: nn.Module, path: str, config: LoraConfig, shared_seed: DropoutSeed, index: int, seed: int
) -> LoraLinear:
    return LoraLinear(
        base,
        rank=config.rank_of(path),
        alpha=config.alpha_of(path),
        dropout=config.dropout,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        seed=shared_seed,
        index=index,
        generator=torch.Generator().manual_seed(derive(seed, "lora", path)),
    )


def _matching_key(pattern: Mapping[str, object], path: str) -> str | None:
    """The first key that matches the end of `path`, as PEFT reads rank_pattern and alpha_pattern."""
    return next((key for key in pattern if re.match(rf"(.*\.)?({key})$", path)), None)


def _refuse_malformed(expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise ModelError(f"the LoRA pattern {expression!r} is no regular expression: {error}") from None


def _refuse_idle_patterns(config: LoraConfig, paths: Sequence[str]) -> None:
    for name, pattern in (("rank", config.rank_pattern), ("alpha", config.alpha_pattern)):
        for key in pattern:
            if not any(re.match(rf"(.*\.)?({key})$", path) for path in paths):
                raise ModelError(
                    f"the {name} pattern {key!r} matches none of the {len(paths)} LoRA layers",
                    fix=f"give an expression for the end of a path such as {paths[0]}",
                )


def _embedding_for(model: nn.Module, config: LoraConfig, trained: Sequence[str]) -> nn.Embedding | None:
    """The embedding whose rows are trained, where tokens are; refused where PEFT would compute something else."""
    if not config.trainable_tokens:
        return None
    embedding = targeting.input_embedding(model)
    if embedding is None:
        raise ModelError(f"{type(model).__name__} has no input embedding whose rows could be trained")
    rows = embedding.weight.shape[0]
    outside = [token for token in config.trainable_tokens if not 0 <= token < rows]
    if outside:
        raise ModelError(f"the trainable token {outside[0]} is not in the vocabulary of {rows}")
    path = targeting.path_of(model, embedding)
    if targeting.inside(path, trained):
        raise ModelError(f"{path} is trained whole and by tokens", fix="choose one of the two")
    for tied, module in targeting.tied_projections(model).items():
        bias = getattr(module, "bias", None)
        if bias is not None and bool(bias.detach().any()):
            raise ModelError(
                f"tokens of {type(model).__name__} cannot be trained beside LoRA: the output projection {tied} is tied "
                "to the embedding and has a bias, which PEFT would drop when it loads the adapter",
                fix="train all weights with --method full, or load a base model whose weights are not tied",
            )
    return embedding


def _row_lengths(weight: Tensor) -> Tensor:
    """The length of each row of (N, K); never zero, so that a row of zeros stays one."""
    return torch.linalg.vector_norm(weight, dim=1).clamp_min(torch.finfo(weight.dtype).tiny)


def _drop(x: Tensor, p: float, seed: Tensor) -> Tensor:
    """Inverted dropout of x (..., K), with the mask that the fused op draws for `seed`."""
    mask = keep_mask(seed, x.numel() // x.shape[-1], x.shape[-1], p, x.device)
    return x * mask.view(x.shape) / (1 - p)
