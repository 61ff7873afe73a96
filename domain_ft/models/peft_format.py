"""Adapters on disk in PEFT's format, both ways.

`save_adapter` writes `adapter_config.json` and `adapter_model.safetensors` that `peft.PeftModel.from_pretrained` loads
with equal logits; `load_adapter` puts what PEFT wrote into a model. PEFT ignores keys that it does not know and skips
those that it misses; here both are errors that list them. What we have no like of (other PEFT methods, LoRA variants
and initialisations that change the base) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from domain_ft.errors import ModelError
from domain_ft.json_files import Kinds, read_object
from domain_ft.models import targets as targeting
from domain_ft.models.lora import LoraConfig, LoraModel, insert_lora, lora_of, refuse_adapted
from domain_ft.storage import write_atomic, write_json

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."

# What we count on in PEFT's config, by kind.
_KINDS: Kinds = {
    "alpha_pattern": dict,
    "base_model_name_or_path": str,
    "bias": str,
    "exclude_modules": (str, list),
    "layers_pattern": (str, list),
    "layers_to_transform": (int, list),
    "lora_alpha": float,
    "lora_dropout": float,
    "modules_to_save": list,
    "peft_type": str,
    "r": int,
    "rank_pattern": dict,
    "revision": str,
    "target_modules": (str, list),
    "task_type": str,
    "trainable_token_indices": (list, dict),
}
# Initial values that leave the base as it is: what was trained stands whole in the adapter.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
# Keys of PEFT's LoRA config that change what is computed in a way that we have no like of, where they are set.
_VARIANTS = {
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "layer_replication": "layer replication",
    "lora_bias": "a bias in LoRA's B",
    "megatron_config": "Megatron layers",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "LoRA on bare parameters",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QA-LoRA",
    "velora_config": "VeLoRA",
}
_UNDERSTOOD = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
}


def save_adapter(
    model: nn.Module, folder: Path, *, base_name: str | None, revision: str | None = None, task_type: str | None = None
) -> None:
    """Write the adapter of `model` into `folder`, each file whole or absent, the config last.

    Args:
        model: a model that went through `apply_lora` or `load_adapter`.
        folder: made if it is not there; an adapter in it is replaced.
        base_name: what PEFT is to load as the base model: a hub id, a path or an embedded name.
        revision: the base model's commit on the hub, or a hash of its content.
        task_type: PEFT's name of the task, such as `CAUSAL_LM`; a masked LM has none.
    """
    lora = lora_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(lora).items()}
    write_atomic(folder / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
    write_json(folder / CONFIG_NAME, _settings(lora, base_name, revision, task_type))


def load_adapter(
    model: nn.Module, folder: Path, *, body_only: bool = False, train_modules: Sequence[str] = ()
) -> LoraModel:
    """Put the adapter in `folder`, ours or PEFT's, into `model`, ready to run or to train on.

    Args:
        model: the one that the adapter was trained on, or, with `body_only`, one of the same body.
        folder: of the adapter.
        body_only: leave out what the adapter has for a head, since the model has another one.
        train_modules: modules that are trained whole beside those of the adapter, which has no weights of them.

    Raises:
        ModelError: files that are missing or broken, a PEFT method or variant without a like here, or tensors that are
            missing, unexpected or of another shape than this model needs; all of them are listed.
    """
    refuse_adapted(model)
    settings = read_settings(folder)
    tensors = _read_tensors(folder)
    _refuse_foreign(settings, folder)
    config = _lora_config(model, settings, folder)
    trained = targeting.resolve_modules(model, [*config.train_modules, *train_modules])
    paths = _adapted_modules(model, settings, trained)
    targeting.refuse_unfit(model, paths)
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
        _compare(slots, tensors, folder)
    except ModelError:
        lora.discard()
        raise
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(tensors[name])
    return lora


def task_type(folder: Path) -> str | None:
    """PEFT's name of the task that the adapter in `folder` is for; None for a masked LM."""
    return read_settings(folder).get("task_type")


def _tensors(lora: LoraModel) -> dict[str, Tensor]:
    """Every trained tensor under PEFT's name for it; what is written into one is in the model."""
    tensors: dict[str, Tensor] = {}
    for path, layer in lora.layers.items():
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = layer.lora_A
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = layer.lora_B
        if layer.lora_magnitude_vector is not None:
            tensors[f"{_PREFIX}{path}.lora_magnitude_vector"] = layer.lora_magnitude_vector
    for path, embedding in lora.trained_tokens.items():
        tensors[f"{_PREFIX}{path}.token_adapter.trainable_tokens_delta"] = embedding.rows
    for path, module in lora.trained_modules.items():
        tensors |= {f"{_PREFIX}{path}.{name}": tensor for name, tensor in module.state_dict().items()}
    return tensors


def _base_tensors(lora: LoraModel) -> dict[str, Tensor]:
    """The frozen tensors of LoRA's layers under the names by which PEFT saves those of an output projection too."""
    return {
        f"{_PREFIX}{path}.base_layer.{name}": tensor
        for path, layer in lora.layers.items()
        for name, tensor in layer.base_layer.state_dict().items()
    }


def _settings(lora: LoraModel, base_name: str | None, revision: str | None, task_type: str | None) -> dict[str, Any]:
    """PEFT's LoRA config for what `lora` trains, in PEFT's order (sorted)."""
    config, model = lora.config, lora.model
    return {
        "alpha_pattern": {key: _whole(alpha) for key, alpha in config.alpha_pattern.items()},
        "auto_mapping": _auto_mapping(model) if task_type is None else None,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": any(layer.transposed for layer in lora.layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _whole(config.alpha),
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
    """An alpha without its `.0`, for readers that want a whole number."""
    return int(alpha) if alpha == int(alpha) else alpha


def _auto_mapping(model: nn.Module) -> dict[str, str] | None:
    """The model's class, by which PEFT's AutoPeftModel finds it where no task type tells."""
    if not isinstance(model, PreTrainedModel):
        return None
    return {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}


def _target_modules(lora: LoraModel) -> list[str] | str:
    """The LoRA layers' whole paths; as one expression where PEFT would find a listed path at the end of another."""
    paths = list(lora.layers)
    originals = {path for path, _ in _original_modules(lora)}
    if all(path in lora.layers or not path.endswith(tuple(f".{target}" for target in paths)) for path in originals):
        return sorted(paths)
    return "|".join(re.escape(path) for path in paths)


def _original_modules(lora: LoraModel) -> list[tuple[str, nn.Module]]:
    """The modules by path as they are without LoRA."""
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
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ModelError(f"{folder} holds no adapter: {CONFIG_NAME} is missing")
    return read_object(path, ModelError, kinds=_KINDS, fix="copy the adapter again, or train it again")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_NAME
    try:
        return load_file(path)
    except FileNotFoundError:
        pickled = (folder / "adapter_model.bin").exists()
        raise ModelError(
            f"{folder} holds no {WEIGHTS_NAME}" + (", only a pickle, which is never loaded" if pickled else ""),
            fix="save the adapter with PEFT's save_pretrained(..., safe_serialization=True)" if pickled else None,
        ) from None
    except SafetensorError as error:
        raise ModelError(f"the adapter's {WEIGHTS_NAME} is damaged: {error}", where=str(path)) from None


def _refuse_foreign(settings: dict[str, Any], folder: Path) -> None:
    """Raise for what the config asks and we do not have, all of it at once."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"the adapter's peft_type is {kind!r}; only LORA can be loaded",
            where=str(folder / CONFIG_NAME),
            fix="merge it into its base with PEFT's merge_and_unload and load the merged model",
        )
    found = [f"{name} ({key})" for key, name in _VARIANTS.items() if settings.get(key)]
    start = settings.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        found.append(f"the initialisation {start!r}, which changes the base model (init_lora_weights)")
    if settings.get("bias", "none") != "none":
        found.append(f"trained biases (bias = {settings['bias']!r})")
    unknown = sorted(settings.keys() - _UNDERSTOOD - _VARIANTS.keys())
    found += [f"the unknown setting {key} = {settings[key]!r}" for key in unknown if settings[key]]
    if found:
        raise ModelError(
            f"the adapter uses what cannot be loaded here: {'; '.join(found)}",
            where=str(folder / CONFIG_NAME),
            fix="merge it into its base with PEFT's merge_and_unload and load the merged model",
        )


def _lora_config(model: nn.Module, settings: dict[str, Any], folder: Path) -> LoraConfig:
    """Our config for PEFT's `settings`."""
    targets = settings.get("target_modules")
    if not targets:
        raise ModelError("the adapter's config names no target_modules", where=str(folder / CONFIG_NAME))
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
        )
    except KeyError as error:
        raise ModelError(f"the adapter's config lacks {error.args[0]}", where=str(folder / CONFIG_NAME)) from None


def _modules_to_save(model: nn.Module, settings: dict[str, Any]) -> list[str]:
    """Paths of the modules that PEFT would train whole: PEFT compares ends of paths, dots or not."""
    names = settings.get("modules_to_save") or []
    return [path for path, _ in model.named_modules() if any(path.endswith(name) for name in names)]


def _adapted_modules(model: nn.Module, settings: dict[str, Any], trained: list[str]) -> list[str]:
    """Paths of the modules into which PEFT would put LoRA for `settings`."""
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
    """PEFT's rule: an expression matches the whole path, a listed name the path or the end of it."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(targeting.ends_with(path, name) for name in names)


def _in_layers(path: str, settings: dict[str, Any]) -> bool:
    """Whether the number of the layer that holds `path` is among layers_to_transform; true where that is not set."""
    layers = settings.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    named = settings.get("layers_pattern") or []
    named = [named] if isinstance(named, str) else named
    patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in named] or [r".*?\.[^.]*\.(\d+)\."]
    matches = [re.match(pattern, path) for pattern in patterns]
    number = next((int(match.group(1)) for match in matches if match), None)
    return number in ([layers] if isinstance(layers, int) else layers)


def _trainable_tokens(model: nn.Module, settings: dict[str, Any]) -> list[int]:
    """The token ids of trainable_token_indices: a list, or a dict that names the input embedding and what it ties."""
    given = settings.get("trainable_token_indices") or []
    if not isinstance(given, dict):
        return given
    module = targeting.input_embedding(model)
    if module is None:
        raise ModelError(f"the adapter trains tokens, and {type(model).__name__} has no input embedding")
    embedding = targeting.path_of(model, module)
    allowed = [embedding, *targeting.tied_projections(model)]
    rows = list(given.values())
    known = all(any(path.endswith(name) for path in allowed) for name in given)
    if not known or not any(embedding.endswith(name) for name in given) or any(other != rows[0] for other in rows):
        raise ModelError(
            f"the adapter trains tokens of {', '.join(given)}; only the input embedding's, {embedding}, can be loaded",
            fix="merge it into its base with PEFT's merge_and_unload and load the merged model",
        )
    return rows[0]


def _compare(slots: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path) -> None:
    """Raise unless the file holds just the tensors that the model takes, each of its shape."""
    problems = [f"missing: {name}" for name in slots if name not in tensors]
    problems += [f"unexpected: {name}" for name in tensors if name not in slots]
    problems += [
        f"of another shape: {name} is {tuple(tensors[name].shape)}, the model takes {tuple(slot.shape)}"
        for name, slot in slots.items()
        if name in tensors and tensors[name].shape != slot.shape
    ]
    if problems:
        listed = "\n    ".join(problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else []))
        raise ModelError(
            f"the adapter does not fit the model, {len(problems)} tensors differ:\n    {listed}",
            where=str(folder / WEIGHTS_NAME),
            fix="load the base model that the adapter was trained on (base_model_name_or_path in its config)",
        )
