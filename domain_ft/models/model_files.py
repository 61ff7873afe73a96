"""Reads and checks a model's files: config.json, the tokenizer, the weights and their index.

transformers raises almost any exception for a damaged or unsupported file, and drops weights that a model has no place
for. Here a fault is a `ModelError` that names the file, and dropped weights of a head are noted. Only single calls of
transformers are guarded, so that a bug in our code is not reported as a bad file.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

import domain_ft
import domain_ft_kernels
from domain_ft.errors import ModelError, UserError
from domain_ft.files import require_file
from domain_ft.json_files import read_object
from domain_ft.models.architectures import encoder_decoder_error
from domain_ft.models.sources import ModelSource

CONFIG_NAME = "config.json"
_WEIGHTS_NAME, _INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
_GENERATION_NAME = "generation_config.json"
_TOKENIZER_OBJECTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_GIT_LFS = b"version https://git-lfs"

_HARMLESS_BODY = re.compile(
    r"(^|\.)position_ids$"  # buffers that older versions of transformers saved
    r"|(^|\.)token_type_ids$"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
    r"|(attn|attention)\.(bias|masked_bias)$"  # the causal masks of GPT-2 and GPT-NeoX
    r"|(^|\.)pooler\."  # BERT's first-token pooler, which no language model uses
)
"""Weights of the body that some checkpoints have, but no language model needs."""

_HARMLESS_HEAD = re.compile(r"^cls\.seq_relationship\.|^sop_classifier\.|^final_logits_bias$")
"""Weights outside the body that are dropped without a note: heads for the order of sentences, and BART's logit bias."""

_SHOWN = 5  # names of tensors in a message
_OUR_PACKAGES = tuple(Path(str(package.__file__)).parent for package in (domain_ft, domain_ft_kernels))


@contextlib.contextmanager
def guarded(what: str, *, where: Path | str | None = None, fix: str) -> Iterator[None]:
    """Turn an exception of transformers into a `ModelError` with the message `what` and the original message.

    Bugs in our code, lack of memory and errors for the user are raised unchanged.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_our_bug(error):
            raise
        raise ModelError(f"{what}: {reason(error)}", where=None if where is None else str(where), fix=fix) from error


def is_our_bug(error: Exception) -> bool:
    """Whether `error` is a bug in our packages: raised in our code, and of a type such as TypeError or KeyError.

    RuntimeError and ValueError do not count. torch raises them for shapes and types that do not fit, and with an
    unknown model it may do so in a call from our code.
    """
    if not isinstance(error, (TypeError, AttributeError, NameError, LookupError, AssertionError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(Path(frames[-1].filename).is_relative_to(package) for package in _OUR_PACKAGES)


def reason(error: Exception) -> str:
    """An exception's message on one line of about 400 characters at most.

    The class is named too, unless it is an OSError or ValueError.
    """
    message = " ".join(str(error).split())
    if len(message) > 400:
        message = message[:400] + "..."
    if not message:
        return type(error).__name__
    return message if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {message}"


# --------------------------------------------------------------------------------------------------------------- config


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """The configuration of a model, from its config.json.

    Raises:
        ModelError: config.json is missing, or is not a JSON object; its model_type is missing, unknown, or an
            encoder-decoder; the model is quantised; or transformers rejects a value.
    """
    where = folder / CONFIG_NAME
    settings = _read_object(where, name)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelError(
            f"the {CONFIG_NAME} of '{name}' "
            + ("has no model_type" if kind is None else f"has the model_type {kind!r}, which is not a name")
            + ", so the kind of the model is not known.",
            where=f'{where}, field "model_type"',
            fix="copy the config.json that belongs to the weights, or add the type, such as bert or llama",
        )
    if kind not in CONFIG_MAPPING_NAMES:
        code = " It comes with custom code (auto_map), which is never run." if settings.get("auto_map") else ""
        raise ModelError(
            f"'{name}' is of type '{kind}', which transformers {transformers.__version__} does not know.{code}",
            where=f'{where}, field "model_type"',
            fix=f"use a model of a known type; {_nearest_types(kind)}",
        )
    single = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() | MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and kind not in single:
        raise encoder_decoder_error(kind, name)
    if settings.get("quantization_config"):
        raise ModelError(
            f"'{name}' is quantised, and quantised models cannot be adapted yet.",
            where=f'{where}, field "quantization_config"',
            fix="use the original model, in bfloat16 or float32",
        )
    with guarded(
        f"the {CONFIG_NAME} of '{name}' does not describe a model of type '{kind}'",
        where=where,
        fix="correct that value, or copy the config.json that belongs to the weights",
    ):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return config


def _nearest_types(kind: str) -> str:
    """A hint with the nearest known type, or with two examples; the full list would be too long."""
    close = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=1, cutoff=0.75)
    return f"did you mean '{close[0]}'?" if close else "for example bert or llama"


def _read_object(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the model `name`.

    Raises:
        ModelError: the file is missing, or is not a JSON object.
    """
    return read_object(path, ModelError, what=f"the {path.name} of '{name}'", fix="fetch or copy the file again")


# ------------------------------------------------------------------------------------------------------------ tokenizer


def load_tokenizer(source: ModelSource, name: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of the last adapter that has one, else the one beside the weights.

    Raises:
        ModelError: there is none, its files are damaged, or its kind is not supported.
    """
    folders = [folder for folder in (*reversed(source.adapters), source.folder) if _has_vocabulary(folder)]
    if not folders:
        raise ModelError(
            f"'{name}' comes without a tokenizer (tokenizer.json).",
            where=str(source.folder),
            fix="copy the tokenizer's files into the model's folder",
        )
    return read_tokenizer(folders[0], name)


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer in `folder`.

    Raises:
        ModelError: its files are damaged, or its kind is not supported.
    """
    objects = {file: _read_object(folder / file, name) for file in _TOKENIZER_OBJECTS if (folder / file).is_file()}
    _refuse_mecab(objects.get("tokenizer_config.json", {}), folder, name)
    with guarded(
        f"the tokenizer of '{name}' cannot be loaded",
        where=folder,
        fix="copy the tokenizer's files (tokenizer.json, tokenizer_config.json) again, or correct that value",
    ):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of '{name}' ({type(tokenizer).__name__}) has no fast version, which is required.",
            where=str(folder),
            fix="use a model with a tokenizer.json; most models on the hub have one",
        )
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest > 0:
        raise ModelError(
            f"the tokenizer of '{name}' has the model_max_length {longest!r}, which is not a positive number.",
            where=f'{folder / "tokenizer_config.json"}, field "model_max_length"',
            fix="set it to the most tokens that the model can read",
        )
    return tokenizer


def _has_vocabulary(folder: Path) -> bool:
    """Whether `folder` has a vocabulary. Without one transformers silently makes an empty tokenizer."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _refuse_mecab(settings: dict[str, Any], folder: Path, name: str) -> None:
    """Raise for Japanese tokenizers with a morphological analyser, which have no fast version."""
    words = settings.get("word_tokenizer_type")
    if settings.get("tokenizer_class") != "BertJapaneseTokenizer" and words not in ("mecab", "sudachi", "jumanpp"):
        return
    program = {"sudachi": "Sudachi", "jumanpp": "Juman++"}.get(str(words), "MeCab")
    raise ModelError(
        f"the tokenizer of '{name}' (BertJapaneseTokenizer) splits Japanese into words with {program}, which is not "
        "supported yet. Such a tokenizer has no fast version.",
        where=str(folder / "tokenizer_config.json"),
        fix="use a Japanese model with a tokenizer.json, such as sbintuitions/modernbert-ja-130m, or a multilingual "
        "one, such as FacebookAI/xlm-roberta-base",
    )


# -------------------------------------------------------------------------------------------------------------- weights


def load_weights(
    auto: Any, folder: Path, config: PretrainedConfig, dtype: torch.dtype, name: str, *, any_head: bool = False
) -> tuple[PreTrainedModel, set[str], tuple[str, ...]]:
    """Load a model with an auto class.

    Args:
        name: the name that the user gave.
        any_head: the checkpoint's head may differ from the model's: head weights of another shape count as missing,
            and weights that the model lacks are dropped without a note.

    Returns:
        The model, the names of the weights that are not in the checkpoint, and notes for the user.

    Raises:
        ModelError: files are missing or damaged, weights do not have the shapes of config.json, weights of the body
            have no place in the model, or weights are not finite.
    """
    check_weight_files(folder, name)
    if (folder / _GENERATION_NAME).is_file():
        _read_object(folder / _GENERATION_NAME, name)
    with guarded(
        f"the model '{name}' cannot be built from its config.json and weights",
        where=folder,
        fix="correct the value in config.json, or copy config.json and the weights of one model again",
    ):
        model, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    mismatched = sorted(report["mismatched_keys"])
    misfits = [entry for entry in mismatched if not any_head or in_body(model, entry[0])]
    if misfits:
        key, stored, expected = misfits[0]
        raise ModelError(
            f"the weights of '{name}' do not fit config.json: {key} is {tuple(stored)}, where the model has "
            f"{tuple(expected)}.",
            where=str(folder),
            fix="use the config.json and model.safetensors of the same model",
        )
    missing = set(report["missing_keys"]) | {key for key, *_ in mismatched}
    notes = _refuse_unexpected(model, report["unexpected_keys"], folder, name)
    _refuse_not_finite(model, missing, folder, name)
    return model, missing, (() if any_head else notes) + _untied_notes(model)


def check_weight_files(folder: Path, name: str) -> None:
    """Raise a ModelError unless all files of the weights exist and are complete, in safetensors format."""
    if (folder / _WEIGHTS_NAME).is_file():
        files = [_WEIGHTS_NAME]
    elif (folder / _INDEX_NAME).is_file():
        files = _indexed_files(folder, name)
    elif any(folder.glob("*.safetensors")):
        names = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:_SHOWN])
        raise ModelError(
            f"the weights of '{name}' are neither in {_WEIGHTS_NAME} nor listed in {_INDEX_NAME}; found: {names}.",
            where=str(folder),
            fix=f"copy {_INDEX_NAME} into the folder, or rename a single file to {_WEIGHTS_NAME}",
        )
    else:
        raise ModelError(
            f"'{name}' has no weights in safetensors format, and no other format is loaded.",
            where=str(folder),
            fix="save it again with transformers' save_pretrained, which writes model.safetensors",
        )
    for file in files:
        _check_tensor_file(folder / file, name)


def _indexed_files(folder: Path, name: str) -> list[str]:
    """The files in the index of a sharded model."""
    where, fix = folder / _INDEX_NAME, "copy the index that was saved with these weights again"
    index = _read_object(where, name)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelError(
            f"the field \"weight_map\" of {_INDEX_NAME} of '{name}' does not give a file for each weight.",
            where=str(where),
            fix=fix,
        )
    if not isinstance(index.get("metadata"), dict):  # transformers reads it
        raise ModelError(
            f"the field \"metadata\" of {_INDEX_NAME} of '{name}' is not an object.", where=str(where), fix=fix
        )
    files = sorted(set(places.values()))
    foreign = [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]
    if foreign:
        raise ModelError(
            f"{_INDEX_NAME} of '{name}' lists {foreign[0]!r}, which is not a safetensors file in the same folder.",
            where=str(where),
            fix=fix,
        )
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise ModelError(
            f"{len(absent)} of the {len(files)} weight files that {_INDEX_NAME} of '{name}' lists are missing: "
            f"{_some(absent)}.",
            where=str(folder),
            fix="fetch or copy the missing files",
        )
    return files


def _check_tensor_file(path: Path, name: str) -> None:
    try:
        require_file(path)
        with safe_open(path, framework="pt") as opened:
            opened.keys()
    except OSError as error:
        raise ModelError(
            f"{path.name} of '{name}' cannot be read: {error.strerror or error}",
            where=str(path),
            fix="make the file readable, or fetch or copy it again",
        ) from error
    except SafetensorError as error:
        with contextlib.suppress(OSError), path.open("rb") as stream:
            if stream.read(len(_GIT_LFS)) == _GIT_LFS:
                raise ModelError(
                    f"{path.name} of '{name}' is a Git LFS pointer, not the weights.",
                    where=str(path),
                    fix="fetch them with `git lfs pull`",
                ) from None
        raise ModelError(
            f"the weights of '{name}' are damaged: {reason(error)}", where=str(path), fix="fetch or copy the file again"
        ) from error


def in_body(model: PreTrainedModel, key: str) -> bool:
    """Whether a checkpoint's `key` belongs to the body of `model`. Checkpoints of a bare body have no prefix."""
    first, dot, _ = key.partition(".")
    prefix = model.base_model_prefix
    body = model.base_model
    names = dict(body.named_children()).keys() if dot else dict(body.named_parameters(recurse=False)).keys()
    if body is model:
        return first in names
    heads = dict(model.named_children()).keys() - {prefix}
    return first == prefix or (first in names and first not in heads)


def check_missing(model: PreTrainedModel, missing: Iterable[str], name: str) -> None:
    """Raise a ModelError if weights of the body are missing; weights of the head may be missing."""
    body = sorted(key for key in missing if key.startswith(f"{model.base_model_prefix}."))
    if body:
        raise ModelError(
            f"{len(body)} weights of '{name}' are not in its files: {_some(body)}.",
            fix="use a complete checkpoint, with the config.json that belongs to it",
        )


def _refuse_unexpected(model: PreTrainedModel, unexpected: Iterable[str], folder: Path, name: str) -> tuple[str, ...]:
    """Raise for weights of the body that the model has no place for; return a note if a head's are dropped."""
    dropped = sorted(key for key in unexpected if not _HARMLESS_BODY.search(key))
    body = [key for key in dropped if in_body(model, key)]
    if body:
        setting = "num_hidden_layers" if re.search(r"\.\d+\.", body[0]) else "a size or a type"
        raise ModelError(
            f"the files of '{name}' have {len(body)} weights that a model with its config.json has no place for: "
            f"{_some(body)}. Without these weights it would be another model.",
            where=str(folder),
            fix=f"use the config.json that belongs to the weights ({setting} in this one does not fit them)",
        )
    heads = [key for key in dropped if not _HARMLESS_HEAD.search(key)]
    return (f"weights that a {type(model).__name__} does not have are left out: {_some(heads)}",) if heads else ()


def _refuse_not_finite(model: PreTrainedModel, missing: set[str], folder: Path, name: str) -> None:
    """Raise for weights that are NaN or infinite, naming the tensors."""
    bad = not_finite({key: parameter for key, parameter in model.named_parameters() if key not in missing})
    if bad:
        dtype = str(model.dtype).removeprefix("torch.")
        narrow = ", or load it with --dtype float32 if some are too large for " + dtype
        raise ModelError(
            f"the weights of '{name}' are not all finite: NaN or infinity in {bad}.",
            where=str(folder),
            fix="use a checkpoint from before the training diverged, or fetch it again"
            + (narrow if model.dtype in (torch.float16, torch.bfloat16) else ""),
        )


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """The names of the tensors with NaN or infinity, for a message; empty if all are finite."""
    bad = []
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and (count := tensor.numel() - int(torch.isfinite(tensor).sum())):
            bad.append(f"{key} ({count:,} of {tensor.numel():,} numbers)")
    return _some(bad)


def _untied_notes(model: PreTrainedModel) -> tuple[str, ...]:
    """A note if config.json ties weights that the checkpoint stores separately: transformers then keeps both."""
    apart = [
        target
        for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items()
        if model.get_parameter_or_buffer(target) is not model.get_parameter_or_buffer(source)
    ]
    if not apart:
        return ()
    return (
        f"config.json ties {_some(apart)} to the embedding, but the checkpoint has a separate weight, which is kept",
    )


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
