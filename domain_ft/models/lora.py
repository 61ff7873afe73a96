"""LoRA: a frozen base model with few trainable weights. Its layers call a fused kernel.

    y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ        W (N, K) frozen, A (R, K), B (N, R);  s = α/R, or α/√R with rsLoRA

This is low-rank adaptation (LoRA: Hu et al. 2021), with its rank-stabilised scaling (rsLoRA: Kalajdzievski 2023), its
weight-decomposed form (DoRA: Liu et al. 2024), trainable rows of the embedding for chosen tokens, and modules trained
in full, such as the head of a masked LM. The results equal PEFT's, and `peft_format` reads and writes PEFT's files.
LoRA can be put into any torch model with `nn.Linear` or GPT-2's `Conv1D` layers:

    lora = apply_lora(model, LoraConfig(rank=16, alpha=32, targets="attention"))
    optimizer = torch.optim.AdamW(lora.trainable_parameters().values())
    with disabled(model):                                # the base model, for instance as a reference policy
        ...

A model has one adapter at a time. `detach` takes it out, so that another can be put in; `attach` puts it back.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from domain_ft.errors import ModelError
from domain_ft.models import targets as targeting
from domain_ft.models.lora_layers import (
    DropoutSeed,
    LoraEmbedding,
    LoraLinear,
    Mergeable,
    TiedProjection,
    TrainableTokens,
)
from domain_ft.models.siblings import Siblings, find_siblings
from domain_ft.randomness import derive

_HANDLE = "_domain_ft_lora"  # the attribute of a model that holds its LoraModel


@dataclass(frozen=True)
class LoraConfig:
    """What is trained and how.

    Args:
        rank: R, the inner dimension of the update.
        alpha: α, the numerator of the scaling.
        dropout: the probability that an input of the update is dropped; inputs of the frozen layer never are.
        targets: `all-linear`, `attention`, a regular expression for the whole module path, or a list of names.
        use_rslora: scale by α/√R instead of α/R.
        use_dora: learn the length of each row of W separately from its direction.
        rank_pattern: other ranks, by a regular expression for the end of a module's path; the first match counts.
        alpha_pattern: other alphas, in the same way.
        train_modules: modules trained in full besides LoRA, by path or the end of a path (PEFT's modules_to_save).
        trainable_tokens: token ids whose rows of the input embedding are trained; a tied output projection uses the
            trained rows too.
        bias: which biases of the base are trained too: `none`, those of LoRA's layers (`lora_only`), or `all`.
        lora_bias: B has a bias b, so a layer also adds s · b; not possible for layers without a bias.

    Raises:
        ModelError: a value is out of range, a pattern is malformed, or two values exclude each other.
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
    bias: Literal["none", "all", "lora_only"] = "none"
    lora_bias: bool = False

    def __post_init__(self) -> None:
        for name, rank in {"rank": self.rank, **self.rank_pattern}.items():
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise ModelError(f"the LoRA rank {rank!r} ({name}) is not a positive integer", fix="8 is usual")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not (math.isfinite(alpha) and alpha > 0):
                raise ModelError(f"the LoRA alpha {alpha!r} ({name}) is not a positive number", fix="16 is usual")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"the LoRA dropout {self.dropout!r} is not in [0, 1)", fix="0.05 is usual")
        for key in (*self.rank_pattern, *self.alpha_pattern):
            _refuse_malformed(key)
        if len(set(self.trainable_tokens)) != len(self.trainable_tokens):
            raise ModelError("a trainable token is given twice", fix="give each token id once")
        if self.lora_bias and self.use_dora:
            raise ModelError("DoRA has no bias in B (lora_bias)", fix="leave one of the two out")

    def rank_of(self, path: str) -> int:
        """The rank of the layer at `path`."""
        key = _matching_key(self.rank_pattern, path)
        return self.rank if key is None else self.rank_pattern[key]

    def alpha_of(self, path: str) -> float:
        """The alpha of the layer at `path`."""
        key = _matching_key(self.alpha_pattern, path)
        return self.alpha if key is None else self.alpha_pattern[key]


@dataclass(eq=False)
class LoraModel:
    """An adapter, and the model that contains it.

    Args:
        layers: the LoRA layers, by path; each wraps the layer that had this path.
        trained_tokens: the embedding with trained rows, by path; one entry or none.
        tied: the projections tied to that embedding, by path.
        trained_modules: the modules that are trained in full, by path.
        siblings: groups of layers that are computed together.
        embeddings: the LoRA layers of embeddings, by path; only adapters written by PEFT have them.
        notes: what the user should know, such as a rank that is larger than some layers.
    """

    model: nn.Module
    config: LoraConfig
    seed: DropoutSeed
    layers: dict[str, LoraLinear]
    trained_tokens: dict[str, TrainableTokens]
    tied: dict[str, TiedProjection]
    trained_modules: dict[str, nn.Module]
    siblings: list[Siblings]
    embeddings: dict[str, LoraEmbedding] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name; every other parameter of the model is frozen."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def count_parameters(self) -> tuple[int, int]:
        """The number of trainable parameters, and of all parameters (tied weights once)."""
        trainable = sum(parameter.numel() for parameter in self.trainable_parameters().values())
        return trainable, sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def merged(self) -> bool:
        """Whether the updates are in the base weights."""
        return all(module.merged for module in self._updated())

    def merge(self) -> None:
        """Put every update into the base weights, up to rounding; the model then runs as fast as its base."""
        for module in self._updated():
            module.merge()

    def unmerge(self) -> None:
        """Undo `merge`: every base weight is restored to the last bit."""
        for module in self._updated():
            module.unmerge()

    def detach(self) -> None:
        """Take the adapter out of the model: the original modules return, with the updates in their weights if merged.

        Modules trained in full stay as trained. `attach` puts the adapter back; until then another adapter can be put
        in. A detached adapter follows neither the model's device nor its mode (training or evaluation).
        """
        for family in self.siblings:
            family.detach()
        for path, layer in self._wrappers().items():
            self.model.set_submodule(path, layer.base_layer, strict=True)
        delattr(self.model, _HANDLE)

    def attach(self) -> None:
        """Put the adapter into the model.

        Raises:
            ModelError: the model has an adapter already.
        """
        refuse_adapted(self.model)
        for path, layer in self._wrappers().items():
            self.model.set_submodule(path, layer, strict=True)
        for family in self.siblings:
            family.attach(self.model)
        setattr(self.model, _HANDLE, self)

    def discard(self) -> None:
        """Remove the adapter for good. The model is then plain and frozen. If it was merged, the updates stay in it."""
        self.detach()
        self.model.requires_grad_(False)

    def _updated(self) -> list[LoraLinear | LoraEmbedding | TrainableTokens]:
        return [*self.layers.values(), *self.embeddings.values(), *self.trained_tokens.values()]

    def _wrappers(self) -> dict[str, Mergeable]:
        return {**self.layers, **self.embeddings, **self.trained_tokens, **self.tied}


def apply_lora(model: nn.Module, config: LoraConfig, *, seed: int = 0) -> LoraModel:
    """Put LoRA into `model` in place and freeze everything else.

    Args:
        model: any torch model with linear layers.
        config: what is trained.
        seed: the initial values of each A are a function of (`seed`, the layer's path).

    Raises:
        ModelError: nothing matches the targets, a target or token cannot be trained as PEFT would train it, or the
            model has LoRA already. In these cases no layer is replaced.
    """
    refuse_adapted(model)
    trained = targeting.resolve_modules(model, config.train_modules)
    paths = targeting.resolve_targets(model, config.targets, trained)
    notes = targeting.check_ranks(model, {path: config.rank_of(path) for path in paths})
    lora = insert_lora(model, config, paths, trained, seed=seed)
    lora.notes = notes
    return lora


def insert_lora(
    model: nn.Module, config: LoraConfig, paths: Sequence[str], trained: Sequence[str], *, seed: int = 0
) -> LoraModel:
    """`apply_lora` for modules given by full paths, which replace `targets` and `train_modules` of `config`.

    Args:
        paths: the paths of the layers that LoRA goes into.
        trained: the paths of the modules that are trained in full.
    """
    _refuse_unused_patterns(config, paths)
    targets = {path: model.get_submodule(path) for path in paths}
    embedded = {path: module for path, module in targets.items() if isinstance(module, nn.Embedding)}
    paths = [path for path in paths if path not in embedded]
    embedding = _embedding_for(model, config, trained)

    model.requires_grad_(False)
    shared_seed = DropoutSeed()
    layers = {
        path: _lora_layer(model.get_submodule(path), path, config, shared_seed, index, seed)
        for index, path in enumerate(paths)
    }
    embeddings = {
        path: LoraEmbedding(
            module, rank=config.rank_of(path), alpha=config.alpha_of(path), use_rslora=config.use_rslora
        )
        for path, module in embedded.items()
    }
    siblings = [] if config.use_dora else find_siblings(layers)
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
    for parameter in trained_biases(model, config.bias, layers).values():
        parameter.requires_grad_(True)
    lora = LoraModel(model, config, shared_seed, layers, trained_tokens, tied, modules, siblings, embeddings)
    for layer in lora._wrappers().values():
        layer.train(model.training)
    lora.attach()
    return lora


def trained_biases(
    model: nn.Module, kind: Literal["none", "all", "lora_only"], layers: Mapping[str, LoraLinear]
) -> dict[str, nn.Parameter]:
    """The biases of the base that are trained besides LoRA, by their names in the model without LoRA."""
    if kind == "none":
        return {}
    if kind == "lora_only":
        biases = {f"{path}.bias": layer.base_layer.bias for path, layer in layers.items()}
        return {name: bias for name, bias in biases.items() if bias is not None}
    named = dict(model.named_parameters(remove_duplicate=False))
    biases = {name: bias for name, bias in named.items() if name == "bias" or name.endswith(".bias")}
    return {name.replace(".base_layer.bias", ".bias"): bias for name, bias in biases.items()}


def has_lora(model: nn.Module) -> bool:
    """Whether an adapter is in `model`."""
    return hasattr(model, _HANDLE)


def refuse_adapted(model: nn.Module) -> None:
    """Raise a ModelError for a model that has LoRA layers already."""
    if has_lora(model):
        raise ModelError("the model has LoRA layers already", fix="merge and remove them: merge_and_unload(model)")


def lora_of(model: nn.Module) -> LoraModel:
    """The adapter in `model`.

    Raises:
        ModelError: there is none.
    """
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


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside the block, `model` computes what its base does, to the last bit; afterwards the adapter is as before.

    A merged adapter is allowed. Backward passes must end inside the block; otherwise activation checkpointing would
    recompute layers with the adapter.

    Raises:
        ModelError: the model has no adapter, or the adapter trains modules or biases in full, so their base values are
            lost.
    """
    lora = lora_of(model)
    if lora.trained_modules or lora.config.bias != "none":
        trained = ", ".join(lora.trained_modules) or f"biases ({lora.config.bias})"
        raise ModelError(
            f"the adapter cannot be turned off: it trains {trained} in full, and the base's values are not kept",
            fix="load the base model a second time",
        )
    merged = lora.merged
    lora.unmerge()
    lora.detach()
    try:
        yield
    finally:
        lora.attach()
        if merged:
            lora.merge()


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Merge every update and remove the LoRA layers. `model` is then a plain, frozen model."""
    lora = lora_of(model)
    lora.merge()
    lora.discard()
    return model


def set_backend(model: nn.Module, backend: str) -> None:
    """Choose the kernels of every LoRA layer: `auto`, `reference`, `torch` or `triton`."""
    for layer in lora_of(model).layers.values():
        layer.backend = backend


def set_dropout_seed(model: nn.Module, seed: int) -> None:
    """Set the seed of the next micro-batch's dropout masks in every LoRA layer."""
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
        lora_bias=config.lora_bias,
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
        raise ModelError(f"the LoRA pattern {expression!r} is not a regular expression: {error}") from None


def _refuse_unused_patterns(config: LoraConfig, paths: Sequence[str]) -> None:
    for name, pattern in (("rank", config.rank_pattern), ("alpha", config.alpha_pattern)):
        for key in pattern:
            if not any(re.match(rf"(.*\.)?({key})$", path) for path in paths):
                raise ModelError(
                    f"the {name} pattern {key!r} matches none of the {len(paths)} LoRA layers",
                    fix=f"give an expression for the end of a path such as {paths[0]}",
                )


def _embedding_for(model: nn.Module, config: LoraConfig, trained: Sequence[str]) -> nn.Embedding | None:
    """The embedding whose rows are trained; None if no tokens are.

    Raises:
        ModelError: the tokens cannot be trained, or PEFT would compute something else.
    """
    if not config.trainable_tokens:
        return None
    embedding = targeting.input_embedding(model)
    if embedding is None:
        raise ModelError(f"{type(model).__name__} has no input embedding whose rows could be trained")
    rows = embedding.weight.shape[0]
    outside = [token for token in config.trainable_tokens if not 0 <= token < rows]
    if outside:
        raise ModelError(f"the trainable token {outside[0]} is not in the vocabulary of {rows} tokens")
    path = targeting.path_of(model, embedding)
    if targeting.inside(path, trained):
        raise ModelError(f"{path} would be trained both in full and by single rows", fix="choose one of the two")
    for tied, module in targeting.tied_projections(model).items():
        bias = getattr(module, "bias", None)
        if bias is not None and bool(bias.detach().any()):
            raise ModelError(
                f"tokens of {type(model).__name__} cannot be trained with LoRA: the output projection {tied} is tied "
                "to the embedding and has a bias, which PEFT would drop when it loads the adapter",
                fix="train all weights with --method full, or load a base model whose weights are not tied",
            )
    return embedding
