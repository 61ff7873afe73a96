"""Conversion of a GGUF file into a folder that transformers loads: float32 weights, configuration, tokenizer.

transformers can read GGUF directly, but each load takes many seconds, marks the model as quantised, and ignores the
file's pre-tokenizer. SmolLM2's pre-tokenizer splits off each digit; without it, a space before a digit is tokenised
differently than in training. Here the file is converted once. The weights equal those of transformers' reader to the
last bit.

Only what the embedded model needs is supported: the llama architecture with a byte-level BPE vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from domain_ft.errors import ModelError
from domain_ft.progress import Progress

_LABEL = "converting the model"
_CONTROL, _USER_DEFINED = 3, 4  # GGUF's types of tokens that the tokenizer must never split

_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}
"""How text is split before BPE, by the name in the GGUF file."""

_OUTSIDE_BLOCKS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",  # absent if the output projection is tied
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of a Llama model's weights in a GGUF file, and in transformers."""


def convert(path: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write the model of the GGUF file `path` into `folder`: model.safetensors, configuration and tokenizer files.

    Quantised weights are written in float32: a value of Q4_1 (scale times a four-bit number, plus offset) is exact in
    neither float16 nor bfloat16.

    Raises:
        ModelError: the file is damaged, not a GGUF file, or not supported.
    """
    try:
        reader = GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(
            f"the file is not a complete GGUF file: {error}.", where=str(path), fix="fetch it again"
        ) from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != "llama":
        raise ModelError(
            f"the GGUF file is of the architecture '{fields.get('general.architecture')}'; only 'llama' is supported.",
            where=str(path),
            fix="give the model in transformers' format, with safetensors",
        )
    tokenizer = _tokenizer(fields, path)
    weights = _weights(reader.tensors, fields, path, progress)
    config = _config(fields, tied="lm_head.weight" not in weights)
    config.save_pretrained(folder)
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _config(fields: dict[str, Any], *, tied: bool) -> LlamaConfig:
    heads = fields["llama.attention.head_count"]
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=fields.get("llama.attention.head_count_kv", heads),
        max_position_embeddings=fields["llama.context_length"],
        # The file has a float32; the shortest decimal that rounds to it is the original value (1e-5).
        rms_norm_eps=float(str(np.float32(fields["llama.attention.layer_norm_rms_epsilon"]))),
        rope_parameters={"rope_type": "default", "rope_theta": fields.get("llama.rope.freq_base", 10_000.0)},
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=fields.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=fields.get("tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=tied,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def _weights(
    tensors: list[ReaderTensor], fields: dict[str, Any], path: Path, progress: Progress | None
) -> dict[str, Tensor]:
    """All weights in float32, under transformers' names."""
    heads = fields["llama.attention.head_count"]
    rotated = {"attn_q": heads, "attn_k": fields.get("llama.attention.head_count_kv", heads)}
    weights = {}
    for done, tensor in enumerate(tensors):
        if progress:
            progress(_LABEL, done, len(tensors))
        values = dequantize(tensor.data, tensor.tensor_type)
        if len(parts := tensor.name.split(".")) == 4 and parts[2] in rotated:
            values = _as_halves(values, rotated[parts[2]])
        # A copy, since unquantised weights are a read-only view of the file.
        weights[_name(tensor.name, path)] = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    if progress:
        progress(_LABEL, len(tensors), len(tensors))
    return weights


def _name(name: str, path: Path) -> str:
    """transformers' name for the weight `name` of the file."""
    if name in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _IN_BLOCK:
        raise ModelError(
            f"the GGUF file has a weight that a Llama model does not have: {name}.",
            where=str(path),
            fix="give the model in transformers' format, with safetensors",
        )
    return f"model.layers.{match[1]}.{_IN_BLOCK[match[2]]}.weight"


def _as_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key projection (H · E, in) for transformers' rotary embedding.

    llama.cpp rotates neighbours, rows (2i, 2i+1) of a head; transformers rotates row i with row i + E/2.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])  # (H, E/2, 2, in)
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(fields: dict[str, Any], path: Path) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer of the file, with its special tokens and its chat template."""
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    adds = [name for name in ("bos", "eos") if fields.get(f"tokenizer.ggml.add_{name}_token")]
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS or adds or fields.get("tokenizer.ggml.add_space_prefix"):
        raise ModelError(
            f"the GGUF file has a tokenizer of kind '{kind}', '{pre}', which is not supported.",
            where=str(path),
            fix="give the model in transformers' format, with its tokenizer.json",
        )
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    unsplit = [(token, type_) for token, type_ in zip(tokens, types, strict=True) if type_ in (_CONTROL, _USER_DEFINED)]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token, type_ in unsplit if type_ == _CONTROL])
    backend.add_tokens([AddedToken(token, normalized=False) for token, type_ in unsplit if type_ == _USER_DEFINED])
    named = {
        f"{ours}_token": tokens[fields[f"tokenizer.ggml.{theirs}_token_id"]]
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{theirs}_token_id" in fields
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        **named,
    )
