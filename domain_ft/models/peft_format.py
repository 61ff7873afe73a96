"""Reads and writes adapters in PEFT's format.

`save_adapter` writes `adapter_config.json` and `adapter_model.safetensors`, which `peft.PeftModel.from_pretrained`
loads with equal logits; `load_adapter` reads what PEFT wrote. PEFT ignores unknown and missing tensors; here both are
errors that list the tensors. Other PEFT methods, LoRA variants that are not implemented, and initialisations that
change the base are refused, by errors that name them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from domain_ft.errors import ModelError
from domain_ft.files import require_file
from domain_ft.json_files import read_object
from domain_ft.models import targets as targeting
from domain_ft.models.lora import LoraConfig, LoraModel, insert_lora, lora_of, refuse_adapted, trained_biases
from domain_ft.models.lora_layers import LoraEmbedding, LoraLinear
from domain_ft.models.model_files import not_finite
from domain_ft.storage import write_atomic, write_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."

# Initialisations of A and B that leave the base unchanged, so they do not matter once the adapter is trained. (MiCA
# also freezes B, which matters only in training.)
_PLAIN_INITIALISATIONS = ("gaussian", "orthogonal", "eva", "mica")
# Initialisations that move a part of the base's weights into A and B. The adapter needs the changed base, which it does
# not contain. PEFT writes `true` instead into an adapter that it has converted for the original base.
_CHANGED_BASES = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
}
# Keys of PEFT's LoRA config that, if set, change the computation in a way that is not implemented here.
_VARIANTS = {
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "layer_replication": "layer replication",
    "megatron_config": "Megatron layers",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "LoRA on bare parameters",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QA-LoRA",
    "velora_config": "VeLoRA",
}
_HONOURED = {
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
}
"""Keys that are read."""

_IRRELEVANT = {
    "auto_mapping",  # which class PEFT builds
    "base_model_name_or_path",  # read by `sources`
    "corda_config",  # settings of an initialisation, used with init_lora_weights
    "ensure_weight_tying",  # about tied modules, which cannot be trained in full here
    "eva_config",
    "fan_in_fan_out",  # how the base stores a weight, which follows from its class
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",  # the name of a module, used with megatron_config
    "peft_version",
    "qalora_group_size",  # used with use_qalora
    "revision",  # read by `sources`
    "runtime_config",
}
"""Keys that do not change what a trained adapter computes."""

_MERGE_WITH_PEFT = "merge it into its base with PEFT's merge_and_unload and load the merged model"


def save_adapter(
    model: nn.Module, folder: Path, *, base_name: str | None, revision: str | None = None, task_type: str | None = None
) -> None:
    """Write the adapter of `model` into `folder`: each file atomically, the config last.

    Args:
        model: a model with an adapter.
        folder: created if missing; an adapter in it is replaced.
        base_name: the base model to record: a hub id, a path or an embedded name.
        revision: the base model's commit on the hub, or a hash of its weights.
        task_type: PEFT's name of the task, such as `CAUSAL_LM`; a masked LM has none.
    """
    lora = lora_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    # Copies, since a bias may have two names in the model, and safetensors refuses shared memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _tensors(lora).items()}
    write_atomic(folder / ADAPTER_WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(folder / ADAPTER_CONFIG, _settings(lora, base_name, revision, task_type))


def load_adapter(
    model: nn.Module, folder: Path, *, body_only: bool = False, train_modules: Sequence[str] = ()
) -> LoraModel:
    """Put the adapter in `folder`, ours or PEFT's, into `model`, ready to run or to train further.

    Args:
        model: the model that the adapter was trained on; with `body_only`, any model with the same body.
        folder: of the adapter.
        body_only: ignore the adapter's tensors for the head, since the model has another head.
        train_modules: further modules to train in full, for which the adapter has no weights.

    Raises:
        ModelError: the model has LoRA already, files are missing or damaged, the PEFT method or variant is not
            implemented, or tensors are missing, unexpected or of another shape than in the model (the first 20 such
            tensors are listed).
    """
    refuse_adapted(model)
    settings = read_settings(folder)
    tensors = _read_tensors(folder)
    _refuse_foreign(settings, folder)
    _check_types(settings, folder)
    config = _lora_config(model, settings, folder)
    trained = targeting.resolve_modules(model, [*config.train_modules, *train_modules])
    paths = _adapted_modules(model, settings, trained)
    targeting.refuse_unfit(model, paths, embeddings=True)
    _refuse_dora_embeddings(model, config, paths, folder)
    _refuse_biases_beside_modules(config, tensors, folder)
    embeddings = _embedding_tensors(model)
    lora = insert_lora(model, config, paths, trained)
    slots = _tensors(lora) | {name: slot for name, slot in _base_tensors(lora).items() if name in tensors}
    if train_modules:
        beside = tuple(f"{_PREFIX}{path}." for path in targeting.resolve_modules(model, train_modules))
        slots = {name: slot for name, slot in slots.items() if not name.startswith(beside)}
    if body_only:
        assert isinstance(model, PreTrainedModel)
        body = f"{_PREFIX}{model.base_model_prefix}."
        tensors = {name: tensor for name, tensor in tensors.items() if name in slots or name.startswith(body)}
    try:
        tensors = _without_copies(embeddings, slots, tensors, folder)
        _compare(slots, tensors, folder)
    except ModelError:
        lora.discard()
        raise
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(tensors[name])
    return lora


def task_type(folder: Path) -> str | None:
    """PEFT's name of the task of the adapter in `folder`; None for a masked LM."""
    return read_settings(folder).get("task_type")


def _tensors(lora: LoraModel) -> dict[str, Tensor]:
    """The trained tensors under PEFT's names. They are the model's tensors, not copies."""
    tensors: dict[str, Tensor] = {}
    for path, layer in lora.layers.items():
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = layer.lora_A
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = layer.lora_B
        if layer.lora_magnitude_vector is not None:
            tensors[f"{_PREFIX}{path}.lora_magnitude_vector"] = layer.lora_magnitude_vector
        if layer.lora_bias is not None:
            tensors[f"{_PREFIX}{path}.lora_B.bias"] = layer.lora_bias
    for path, adapted in lora.embeddings.items():
        tensors[f"{_PREFIX}{path}.lora_embedding_A"] = adapted.lora_embedding_A
        tensors[f"{_PREFIX}{path}.lora_embedding_B"] = adapted.lora_embedding_B
    for name, bias in _biases(lora).items():
        tensors[f"{_PREFIX}{name}"] = bias
    for path, embedding in lora.trained_tokens.items():
        tensors[f"{_PREFIX}{path}.token_adapter.trainable_tokens_delta"] = embedding.rows
    for path, module in lora.trained_modules.items():
        tensors |= {f"{_PREFIX}{path}.{name}": tensor for name, tensor in module.state_dict().items()}
    return tensors


def _biases(lora: LoraModel) -> dict[str, Tensor]:
    """The trained biases of the base under PEFT's names: those of LoRA layers are in `base_layer`."""
    wrapped = {f"{path}.bias" for path in lora.layers}
    biases = trained_biases(lora.model, lora.config.bias, lora.layers)
    return {
        name.removesuffix("bias") + "base_layer.bias" if name in wrapped else name: bias
        for name, bias in biases.items()
    }


def _base_tensors(lora: LoraModel) -> dict[str, Tensor]:
    """The frozen tensors of the LoRA layers under PEFT's names. PEFT's files may contain those of embeddings."""
    wrappers: dict[str, LoraLinear | LoraEmbedding] = {**lora.layers, **lora.embeddings}
    return {
        f"{_PREFIX}{path}.base_layer.{name}": tensor
        for path, layer in wrappers.items()
        for name, tensor in layer.base_layer.state_dict().items()
    }


def _settings(lora: LoraModel, base_name: str | None, revision: str | None, task_type: str | None) -> dict[str, Any]:
    """PEFT's LoRA config of `lora`, in PEFT's order (sorted)."""
    config, model = lora.config, lora.model
    return {
        "alpha_pattern": {key: _whole(alpha) for key, alpha in config.alpha_pattern.items()},
        "auto_mapping": _auto_mapping(model) if task_type is None else None,
        "base_model_name_or_path": base_name,
        "bias": config.bias,
        "fan_in_fan_out": any(layer.transposed for layer in lora.layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _whole(config.alpha),
        "lora_bias": config.lora_bias,
        "lora_dropout": config.dropout,
        "modules_to_save": list(lora.trained_modules) or None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": dict(config.rank_pattern),
        "revision": revision,
        "target_modules": _target_modules(lora),
        "task_type": task_type,
        "trainable_token_indices": list(config.trainable_tokens) or None,
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
    }


def _whole(alpha: float) -> float | int:
    """An alpha as an int if it is whole, since some readers of adapter_config.json require that."""
    return int(alpha) if alpha == int(alpha) else alpha


def _auto_mapping(model: nn.Module) -> dict[str, str] | None:
    """The model's class, which PEFT's AutoPeftModel needs if there is no task type."""
    if not isinstance(model, PreTrainedModel):
        return None
    return {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}


def _target_modules(lora: LoraModel) -> list[str] | str:
    """The full paths of the LoRA layers, or an expression for them if PEFT would match one to another path's end."""
    paths = [*lora.layers, *lora.embeddings]
    originals = {path for path, _ in _original_modules(lora)}
    if all(path in paths or not path.endswith(tuple(f".{target}" for target in paths)) for path in originals):
        return sorted(paths)
    return "|".join(re.escape(path) for path in paths)


def _original_modules(lora: LoraModel) -> list[tuple[str, nn.Module]]:
    """The modules of the model without LoRA, by path."""
    lora.detach()
    try:
        return list(lora.model.named_modules())
    finally:
        lora.attach()


def read_settings(folder: Path) -> dict[str, Any]:
    """The adapter_config.json in `folder`.

    Raises:
        ModelError: it is missing or damaged.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} holds no adapter: {ADAPTER_CONFIG} is missing")
    return read_object(path, ModelError, fix="copy the adapter again, or train it again")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / ADAPTER_WEIGHTS
    try:
        require_file(path)
        tensors = load_file(path)
    except FileNotFoundError:
        pickled = (folder / "adapter_model.bin").exists()
        raise ModelError(
            f"{folder} holds no {ADAPTER_WEIGHTS}" + (", only a pickle, which is never loaded" if pickled else ""),
            fix="save the adapter with PEFT's save_pretrained(..., safe_serialization=True)" if pickled else None,
        ) from None
    except OSError as error:
        raise ModelError(
            f"the adapter's {ADAPTER_WEIGHTS} cannot be read: {error.strerror or error}",
            where=str(path),
            fix="make the file readable, or copy the adapter again",
        ) from error
    except SafetensorError as error:
        raise ModelError(
            f"the adapter's {ADAPTER_WEIGHTS} is damaged: {error}",
            where=str(path),
            fix="copy the adapter again, or train it again",
        ) from None
    if bad := not_finite(tensors):
        raise ModelError(
            f"the adapter's weights are not all finite: NaN or infinity in {bad}",
            where=str(path),
            fix="use a checkpoint from before the training diverged, or train it again with a lower learning rate",
        )
    return tensors


def _refuse_foreign(settings: dict[str, Any], folder: Path) -> None:
    """Raise one error for all settings that are not implemented."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"the adapter's peft_type is {kind!r}; only LORA can be loaded",
            where=str(folder / ADAPTER_CONFIG),
            fix=_MERGE_WITH_PEFT,
        )
    unsupported = [f"{name} ({key})" for key, name in _VARIANTS.items() if settings.get(key)]
    unknown = sorted(settings.keys() - _HONOURED - _IRRELEVANT - _VARIANTS.keys())
    unsupported += [f"the unknown setting {key} = {settings[key]!r}" for key in unknown if settings[key]]
    if unsupported:
        raise ModelError(
            f"the adapter uses settings that are not supported: {'; '.join(unsupported)}",
            where=str(folder / ADAPTER_CONFIG),
            fix=_MERGE_WITH_PEFT,
        )
    _refuse_changed_base(settings.get("init_lora_weights"), folder)


def _refuse_changed_base(initialisation: Any, folder: Path) -> None:
    """Raise if the adapter's initialisation changed the weights of its base."""
    kind = initialisation.lower() if isinstance(initialisation, str) else ""
    if initialisation is None or isinstance(initialisation, bool) or kind in _PLAIN_INITIALISATIONS:
        return
    where = f'{folder / ADAPTER_CONFIG}, field "init_lora_weights"'
    if kind == "loftq":
        raise ModelError(
            "the adapter was trained with LoftQ, on a base whose weights were replaced by quantised ones. It does not "
            "work on the original base",
            where=where,
            fix=_MERGE_WITH_PEFT,
        )
    name = next((name for begin, name in _CHANGED_BASES.items() if kind.startswith(begin)), None)
    if name is None:
        raise ModelError(
            f"the adapter's initialisation, {initialisation!r}, is not known", where=where, fix=_MERGE_WITH_PEFT
        )
    raise ModelError(
        f"the adapter was trained with {name}, which moves a part of the base's weights into the adapter. It does not "
        "work on the original base",
        where=where,
        fix="convert it with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), or merge it "
        "into its base with merge_and_unload and load the merged model",
    )


def _check_types(settings: dict[str, Any], folder: Path) -> None:
    """Raise one error for all values of the wrong type and all invalid expressions."""
    problems = []
    for key, (fits, expected) in _TYPES.items():
        value = settings.get(key)
        if value is not None and not fits(value):
            problems.append(f"{key} must be {expected}, not {value!r:.60}")
        elif key in _EXPRESSIONS and value:
            expressions = [value] if isinstance(value, str) else value if key != "target_modules" else []
            problems += [f"{key} holds {text!r}: {_malformed(text)}" for text in expressions if _malformed(text)]
    if problems:
        raise ModelError(
            f"the adapter's {ADAPTER_CONFIG} cannot be used: {'; '.join(problems)}",
            where=str(folder / ADAPTER_CONFIG),
            fix="correct these values, or save the adapter with PEFT again",
        )


def _malformed(expression: str) -> str | None:
    """What is wrong with a regular expression; None if nothing is."""
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        return f"not a regular expression ({error})"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(fits(item) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_texts(value: Any) -> bool:
    return isinstance(value, str) or _are(_is_text)(value)


def _is_table_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(fits(item) for item in value.values())


_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "alpha_pattern": (_is_table_of(_is_number), "an object of numbers by name"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), '"none", "all" or "lora_only"'),
    "exclude_modules": (_is_text_or_texts, "an expression or a list of names"),
    "layers_pattern": (_is_text_or_texts, "a name or a list of names"),
    "layers_to_transform": (
        lambda value: _is_whole(value) or _are(_is_whole)(value),
        "a whole number or a list of them",
    ),
    "lora_alpha": (_is_number, "a number"),
    "lora_bias": (lambda value: isinstance(value, bool), "true or false"),
    "lora_dropout": (_is_number, "a number"),
    "modules_to_save": (_are(_is_text), "a list of names"),
    "r": (_is_whole, "a whole number"),
    "rank_pattern": (_is_table_of(_is_whole), "an object of whole numbers by name"),
    "target_modules": (_is_text_or_texts, "an expression or a list of names"),
    "trainable_token_indices": (
        lambda value: _are(_is_whole)(value) or _is_table_of(_are(_is_whole))(value),
        "a list of token ids, or an object of such lists by module",
    ),
    "use_dora": (lambda value: isinstance(value, bool), "true or false"),
    "use_rslora": (lambda value: isinstance(value, bool), "true or false"),
}
_EXPRESSIONS = ("alpha_pattern", "exclude_modules", "layers_pattern", "rank_pattern", "target_modules")


def _refuse_dora_embeddings(model: nn.Module, config: LoraConfig, paths: Sequence[str], folder: Path) -> None:
    embedded = [path for path in paths if isinstance(model.get_submodule(path), nn.Embedding)]
    if embedded and config.use_dora:
        raise ModelError(
            f"the adapter has DoRA on the embedding {embedded[0]}, which is not supported",
            where=str(folder / ADAPTER_CONFIG),
            fix=_MERGE_WITH_PEFT,
        )


def _refuse_biases_beside_modules(config: LoraConfig, tensors: dict[str, Tensor], folder: Path) -> None:
    """Raise if biases and whole modules are trained: PEFT cannot read the names under which it writes their biases."""
    twice = [name for name in tensors if ".modules_to_save." in name or ".original_module." in name]
    if config.bias == "all" and twice:
        raise ModelError(
            f'the adapter has trained biases (bias = "all") and modules trained in full, and some biases are '
            f"written twice: {twice[0]}",
            where=str(folder / ADAPTER_WEIGHTS),
            fix=_MERGE_WITH_PEFT,
        )


def _embedding_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the input embedding and of the output projection, by PEFT's names."""
    if not isinstance(model, PreTrainedModel):
        return {}
    modules = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    return {
        f"{_PREFIX}{targeting.path_of(model, module)}.{name}": tensor
        for module in modules
        for name, tensor in module.state_dict().items()
    }


def _without_copies(
    embeddings: dict[str, Tensor], slots: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path
) -> dict[str, Tensor]:
    """The adapter's tensors without copies of the base's embeddings, which PEFT's save_embedding_layers=True adds.

    Raises:
        ModelError: an embedding is not a copy, because the vocabulary was resized or the embedding was trained.
    """
    kept = dict(tensors)
    for name in sorted((embeddings.keys() & tensors.keys()) - slots.keys()):
        saved, base = tensors[name], embeddings[name]
        if saved.shape[1:] != base.shape[1:]:
            continue  # from another model; `_compare` reports it
        kept.pop(name)
        if saved.shape != base.shape:
            raise ModelError(
                f"the adapter has another embedding than the base model: {name} has {saved.shape[0]:,} rows, the base "
                f"{base.shape[0]:,}. The vocabulary was resized before training",
                where=str(folder / ADAPTER_WEIGHTS),
                fix=f"in PEFT call resize_token_embeddings({saved.shape[0]}) on the base model, load the adapter, "
                "merge it with merge_and_unload, save model and tokenizer, and load that folder",
            )
        if not torch.equal(saved.to(base.dtype), base.cpu()):
            raise ModelError(
                f"the adapter has another embedding than the base model: {name}",
                where=str(folder / ADAPTER_WEIGHTS),
                fix=_MERGE_WITH_PEFT,
            )
    return kept


def _lora_config(model: nn.Module, settings: dict[str, Any], folder: Path) -> LoraConfig:
    """PEFT's `settings` as a `LoraConfig`."""
    targets = settings.get("target_modules")
    if not targets:
        raise ModelError(
            "the adapter's config names no target_modules",
            where=f'{folder / ADAPTER_CONFIG}, field "target_modules"',
            fix="copy the adapter_config.json that was saved with these weights, or add the names of the modules "
            "that have LoRA",
        )
    for key in ("r", "lora_alpha"):
        if settings.get(key) is None:
            what = "the rank of the weights" if key == "r" else "the alpha of the training"
            raise ModelError(
                f"the adapter's config lacks {key}",
                where=f'{folder / ADAPTER_CONFIG}, field "{key}"',
                fix=f"copy the adapter_config.json that was saved with these weights, or add {what}",
            )
    try:
        return LoraConfig(
            rank=settings["r"],
            alpha=settings["lora_alpha"],
            dropout=settings.get("lora_dropout") or 0.0,
            targets=targets if isinstance(targets, str) else tuple(targets),
            use_rslora=bool(settings.get("use_rslora")),
            use_dora=bool(settings.get("use_dora")),
            rank_pattern=settings.get("rank_pattern") or {},
            alpha_pattern=settings.get("alpha_pattern") or {},
            train_modules=tuple(_modules_to_save(model, settings)),
            trainable_tokens=tuple(_trainable_tokens(model, settings)),
            bias=settings.get("bias") or "none",
            lora_bias=bool(settings.get("lora_bias")),
        )
    except ModelError as error:
        raise ModelError(error.what, where=error.where or str(folder / ADAPTER_CONFIG), fix=error.fix) from None


def _modules_to_save(model: nn.Module, settings: dict[str, Any]) -> list[str]:
    """Paths of the modules that PEFT would train in full: it compares the ends of paths as plain strings."""
    names = settings.get("modules_to_save") or []
    return [path for path, _ in model.named_modules() if any(path.endswith(name) for name in names)]


def _adapted_modules(model: nn.Module, settings: dict[str, Any], trained: list[str]) -> list[str]:
    """Paths of the modules that PEFT would put LoRA into."""
    targets, excluded = settings["target_modules"], settings.get("exclude_modules") or []
    if targets == "all-linear":
        targets = targeting.resolve_targets(model, targets, trained)
    paths = [path for path, _ in model.named_modules() if path and not targeting.inside(path, trained)]
    paths = [path for path in paths if _matches(path, targets) and not _matches(path, excluded)]
    paths = [path for path in paths if _in_layers(path, settings)]
    if not paths:
        raise ModelError(
            f"no module of {type(model).__name__} matches the adapter's target_modules, {targets!r}",
            fix="load the base model that the adapter was trained on (base_model_name_or_path in its config)",
        )
    return paths


def _matches(path: str, names: str | list[str]) -> bool:
    """PEFT's rule: an expression must match the whole path, and a listed name the path or its end."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(targeting.ends_with(path, name) for name in names)


def _in_layers(path: str, settings: dict[str, Any]) -> bool:
    """Whether the layer number in `path` is among layers_to_transform; True if that is not set."""
    layers = settings.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    names = settings.get("layers_pattern") or []
    names = [names] if isinstance(names, str) else names
    patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in names] or [r".*?\.[^.]*\.(\d+)\."]
    matches = [re.match(pattern, path) for pattern in patterns]
    number = next((int(match.group(1)) for match in matches if match), None)
    return number in ([layers] if isinstance(layers, int) else layers)


def _trainable_tokens(model: nn.Module, settings: dict[str, Any]) -> list[int]:
    """The token ids of trainable_token_indices: a list, or lists for the input embedding and modules tied to it."""
    indices = settings.get("trainable_token_indices") or []
    if not isinstance(indices, dict):
        return indices
    module = targeting.input_embedding(model)
    if module is None:
        raise ModelError(f"the adapter trains tokens, but {type(model).__name__} has no input embedding")
    embedding = targeting.path_of(model, module)
    allowed = [embedding, *targeting.tied_projections(model)]
    rows = list(indices.values())
    known = all(any(path.endswith(name) for path in allowed) for name in indices)
    if not known or not any(embedding.endswith(name) for name in indices) or any(other != rows[0] for other in rows):
        raise ModelError(
            f"the adapter trains tokens of {', '.join(indices)}; only those of the input embedding, {embedding}, can "
            "be loaded",
            fix=_MERGE_WITH_PEFT,
        )
    return rows[0]


def _compare(slots: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path) -> None:
    """Raise unless the file has exactly the model's tensors, in their shapes."""
    problems = [f"missing: {name}" for name in slots if name not in tensors]
    problems += [f"unexpected: {name}" for name in tensors if name not in slots]
    problems += [
        f"of another shape: {name} is {tuple(tensors[name].shape)}, the model has {tuple(slot.shape)}"
        for name, slot in slots.items()
        if name in tensors and tensors[name].shape != slot.shape
    ]
    if problems:
        listed = "\n    ".join(problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else []))
        raise ModelError(
            f"the adapter does not fit the model; {len(problems)} tensors differ:\n    {listed}",
            where=str(folder / ADAPTER_WEIGHTS),
            fix="load the base model that the adapter was trained on (base_model_name_or_path in its config)",
        )
