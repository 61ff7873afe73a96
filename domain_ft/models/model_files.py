"""A model's files, checked as they are read: config.json, the tokenizer, the weights and their index.

transformers raises almost any exception for a damaged or foreign file, and drops weights that a model has no place for
without an error. Here every such case becomes a `ModelError` that names the file and what is wrong in it. Only calls of
transformers are guarded, each on its own, so that a bug of ours is still seen as one.
"""

from __future__ import annotations

import contextlib
import difflib
import re
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

from domain_ft.errors import ModelError, UserError
from domain_ft.files import refuse_no_file
from domain_ft.json_files import read_object
from domain_ft.models.architectures import encoder_decoder_error
from domain_ft.models.sources import Source

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
"""Weights below the body that checkpoints hold and a model without them computes the same."""

_HARMLESS_HEAD = re.compile(r"^cls\.seq_relationship\.|^sop_classifier\.|^final_logits_bias$")
"""Weights beside the body that are known and say nothing about the model: heads for the order of sentences."""

_SHOWN = 5  # names of tensors in a message


@contextlib.contextmanager
def guarded(what: str, *, where: Path | str | None = None, fix: str) -> Iterator[None]:
    """Turn what a call of transformers raises for a bad file into a `ModelError`: `what`, and its own message.

    Nothing but that call belongs inside the block.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{what}: {reason(error)}", where=None if where is None else str(where), fix=fix) from error


def reason(error: Exception) -> str:
    """The message of an exception on one line, with its class where the message alone says little."""
    said = " ".join(str(error).split())
    if len(said) > 400:
        said = said[:400] + "..."
    if not said:
        return type(error).__name__
    return said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}"


# --------------------------------------------------------------------------------------------------------------- config


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """The config.json of a model.

    Raises:
        ModelError: it is no JSON object, its model_type is missing, unknown, or that of an encoder-decoder, the model
            is quantised, or one of its values is not what transformers takes.
    """
    where = folder / CONFIG_NAME
    settings = _read_object(where, name)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelError(
            f"the {CONFIG_NAME} of '{name}' "
            + ("has no model_type" if kind is None else f"has the model_type {kind!r}, which is no name")
            + ", so the kind of the model is not known.",
            where=f'{where}, field "model_type"',
            fix="copy the config.json that belongs to the weights, or write the type there, such as bert or llama",
        )
    if kind not in CONFIG_MAPPING_NAMES:
        code = " It brings code of its own (auto_map), which is never run." if settings.get("auto_map") else ""
        raise ModelError(
            f"'{name}' is of type '{kind}', which transformers {transformers.__version__} does not know.{code}",
            where=f'{where}, field "model_type"',
            fix=f"take a model of a known type; {_nearest_types(kind)}",
        )
    single = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() | MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and kind not in single:
        raise encoder_decoder_error(kind, name)
    if settings.get("quantization_config"):
        raise ModelError(
            f"'{name}' is quantised, and quantised models cannot be adapted yet.",
            where=f'{where}, field "quantization_config"',
            fix="take the model that it was made from, in bfloat16 or float32",
        )
    with guarded(
        f"the {CONFIG_NAME} of '{name}' does not describe a model of type '{kind}'",
        where=where,
        fix="correct that value, or copy the config.json that belongs to the weights",
    ):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return config


def _nearest_types(kind: str) -> str:
    """The nearest known type; the list of all would be too long."""
    close = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=1, cutoff=0.75)
    return f"did you mean '{close[0]}'?" if close else "bert and llama are two"


def _read_object(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the model `name`.

    Raises:
        ModelError: the file is missing, is not JSON, or holds something else.
    """
    return read_object(path, ModelError, what=f"the {path.name} of '{name}'", fix="fetch or copy the file again")


# ------------------------------------------------------------------------------------------------------------ tokenizer


def load_tokenizer(source: Source, name: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer beside the weights, or beside the last adapter that brings its own.

    Raises:
        ModelError: there is none, its files are damaged, or it is of a kind that is not supported.
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
        ModelError: its files are damaged, or it is of a kind that is not supported.
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
            f"the tokenizer of '{name}' ({type(tokenizer).__name__}) has no fast version, which is needed here.",
            where=str(folder),
            fix="take a model with a tokenizer.json; most models on the hub have one",
        )
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest > 0:
        raise ModelError(
            f"the tokenizer of '{name}' has the model_max_length {longest!r}, which is no number above 0.",
            where=f'{folder / "tokenizer_config.json"}, field "model_max_length"',
            fix="write the number of tokens that the model takes there",
        )
    return tokenizer


def _has_vocabulary(folder: Path) -> bool:
    """Is there a vocabulary in `folder`? (Where there is none, transformers makes up an empty tokenizer in silence.)"""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _refuse_mecab(settings: dict[str, Any], folder: Path, name: str) -> None:
    """Tokenizers that split Japanese into words by a program of their own have no fast version and cannot get one."""
    words = settings.get("word_tokenizer_type")
    if settings.get("tokenizer_class") != "BertJapaneseTokenizer" and words not in ("mecab", "sudachi", "jumanpp"):
        return
    program = {"sudachi": "Sudachi", "jumanpp": "Juman++"}.get(str(words), "MeCab")
    raise ModelError(
        f"the tokenizer of '{name}' (BertJapaneseTokenizer) splits Japanese into words with {program}, which is not "
        "supported yet. It has no fast version, and none can be made from it.",
        where=str(folder / "tokenizer_config.json"),
        fix="take a Japanese model with a tokenizer.json, such as sbintuitions/modernbert-ja-130m, or a multilingual "
        "one, such as FacebookAI/xlm-roberta-base",
    )


# -------------------------------------------------------------------------------------------------------------- weights


def load_weights(
    auto: Any, folder: Path, config: PretrainedConfig, dtype: torch.dtype, name: str, *, any_head: bool = False
) -> tuple[PreTrainedModel, set[str], tuple[str, ...]]:
    """The model of an auto class, the names of the weights that the checkpoint does not hold, and notes for a person.

    Args:
        name: of the model, as it was asked for.
        any_head: the head is another one than the checkpoint's: of another shape, which counts as missing, or of
            another task, which is left out.

    Raises:
        ModelError: files that are missing or damaged, weights of another shape than config.json says, weights of the
            body that the model has no place for, or weights that are not finite.
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
    misfits = [found for found in mismatched if not any_head or in_body(model, found[0])]
    if misfits:
        key, stored, expected = misfits[0]
        raise ModelError(
            f"the weights of '{name}' do not fit config.json: {key} is {tuple(stored)}, where the model has "
            f"{tuple(expected)}.",
            where=str(folder),
            fix="take the config.json and model.safetensors of the same model",
        )
    missing = set(report["missing_keys"]) | {key for key, *_ in mismatched}
    notes = _refuse_unexpected(model, report["unexpected_keys"], folder, name)
    _refuse_not_finite(model, missing, folder, name)
    return model, missing, (() if any_head else notes) + _untied_notes(model)


def check_weight_files(folder: Path, name: str) -> None:
    """Raise unless the weights are there in safetensors format, every file of them whole."""
    if (folder / _WEIGHTS_NAME).is_file():
        files = [_WEIGHTS_NAME]
    elif (folder / _INDEX_NAME).is_file():
        files = _indexed_files(folder, name)
    elif any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:_SHOWN])
        raise ModelError(
            f"the weights of '{name}' are neither in {_WEIGHTS_NAME} nor listed in {_INDEX_NAME}; found: {found}.",
            where=str(folder),
            fix=f"copy {_INDEX_NAME} beside them, or give a single file that name",
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
    """The files that the index of a sharded model lists."""
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
            f"{_INDEX_NAME} of '{name}' lists {foreign[0]!r}, which is no safetensors file in the same folder.",
            where=str(where),
            fix=fix,
        )
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise ModelError(
            f"{len(absent)} of the {len(files)} files of weights that {_INDEX_NAME} of '{name}' lists are not there: "
            f"{_some(absent)}.",
            where=str(folder),
            fix="fetch or copy the missing files",
        )
    return files


def _check_tensor_file(path: Path, name: str) -> None:
    try:
        refuse_no_file(path)
        with safe_open(path, framework="pt") as opened:
            opened.keys()
    except OSError as error:
        raise ModelError(
            f"{path.name} of '{name}' cannot be read: {error.strerror or error}",
            where=str(path),
            fix="give yourself the right to read it, or fetch or copy the file again",
        ) from error
    except SafetensorError as error:
        with contextlib.suppress(OSError), path.open("rb") as stream:
            if stream.read(len(_GIT_LFS)) == _GIT_LFS:
                raise ModelError(
                    f"{path.name} of '{name}' is a pointer of Git LFS, not the weights themselves.",
                    where=str(path),
                    fix="fetch them with `git lfs pull`",
                ) from None
        raise ModelError(
            f"the weights of '{name}' are damaged: {reason(error)}", where=str(path), fix="fetch or copy the file again"
        ) from error


def in_body(model: PreTrainedModel, key: str) -> bool:
    """Does a checkpoint's `key` belong to the body of `model`? Checkpoints of a bare body have no prefix."""
    first, dot, _ = key.partition(".")
    prefix = model.base_model_prefix
    body = model.base_model
    own = dict(body.named_children()).keys() if dot else dict(body.named_parameters(recurse=False)).keys()
    if body is model:
        return first in own
    heads = dict(model.named_children()).keys() - {prefix}
    return first == prefix or (first in own and first not in heads)


def check_missing(model: PreTrainedModel, missing: Iterable[str], name: str) -> None:
    """Weights of the head may be missing; those of the body may not."""
    body = sorted(key for key in missing if key.startswith(f"{model.base_model_prefix}."))
    if body:
        raise ModelError(
            f"{len(body)} weights of '{name}' are not in its files: {_some(body)}.",
            fix="take a whole checkpoint, whose config.json belongs to its weights",
        )


def _refuse_unexpected(model: PreTrainedModel, unexpected: Iterable[str], folder: Path, name: str) -> tuple[str, ...]:
    """Raise for weights of the body that the model has no place for; a note for those of other heads."""
    strange = sorted(key for key in unexpected if not _HARMLESS_BODY.search(key))
    body = [key for key in strange if in_body(model, key)]
    if body:
        layers = "num_hidden_layers" if re.search(r"\.\d+\.", body[0]) else "a size or a type"
        raise ModelError(
            f"the files of '{name}' hold {len(body)} weights for which a model of its config.json has no place: "
            f"{_some(body)}. Without them it would be another model.",
            where=str(folder),
            fix=f"take the config.json that belongs to the weights ({layers} in this one does not fit them)",
        )
    heads = [key for key in strange if not _HARMLESS_HEAD.search(key)]
    return (f"weights that a {type(model).__name__} does not have are left out: {_some(heads)}",) if heads else ()


def _refuse_not_finite(model: PreTrainedModel, missing: set[str], folder: Path, name: str) -> None:
    """Raise for weights that are NaN or infinite, naming the tensors."""
    bad = not_finite({key: parameter for key, parameter in model.named_parameters() if key not in missing})
    if bad:
        dtype = str(model.dtype).removeprefix("torch.")
        narrow = ", or load it with --dtype float32 where they are too large for " + dtype
        raise ModelError(
            f"the weights of '{name}' are not all finite: NaN or infinity in {bad}.",
            where=str(folder),
            fix="take the checkpoint before its training diverged, or fetch it again"
            + (narrow if model.dtype in (torch.float16, torch.bfloat16) else ""),
        )


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """The names of the tensors that hold NaN or infinity, for a message; empty where all are finite."""
    bad = []
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and (count := tensor.numel() - int(torch.isfinite(tensor).sum())):
            bad.append(f"{key} ({count:,} of {tensor.numel():,} numbers)")
    return _some(bad)


def _untied_notes(model: PreTrainedModel) -> tuple[str, ...]:
    """A note where config.json ties weights that the checkpoint holds apart: transformers then keeps both."""
    apart = [
        target
        for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items()
        if model.get_parameter_or_buffer(target) is not model.get_parameter_or_buffer(source)
    ]
    if not apart:
        return ()
    return (
        f"config.json ties {_some(apart)} to the embedding, but the checkpoint holds another weight, which is kept",
    )


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
