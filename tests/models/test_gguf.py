"""GGUF files: a tiny Llama, written as llama.cpp writes it, is converted back unchanged; bad files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from domain_ft.errors import ModelError
from domain_ft.models.gguf import convert

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ Ġ", "Ġ t", "t h", "th e", "Ġt h", "1 2"]
TOKENS = [*SPECIALS, *BYTES, *(merge.replace(" ", "") for merge in MERGES)]
CONTROL, NORMAL = 3, 1
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def llama(**changes: Any) -> PreTrainedModel:
    return tiny_model("llama", vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, **changes)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    quantised: Callable[[str], gguf.GGMLQuantizationType] = lambda name: gguf.GGMLQuantizationType.F32,
    extra: str | None = None,
) -> Path:
    """Write `model` as a GGUF file, each weight in the type that `quantised` returns for its name in the file."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([CONTROL if token in SPECIALS else NORMAL for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.numpy()
        for projection, count in heads.items():
            if projection in name:  # llama.cpp rotates neighbours: rows i and i + D/2 of a head are put side by side
                halves = values.reshape(count, 2, -1, values.shape[1])
                values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        kind = quantised(name)
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    if extra:
        writer.add_tensor(extra, np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(path: Path, folder: Path) -> tuple[PreTrainedModel, Any]:
    folder.mkdir()
    convert(path, folder)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_comes_back_bit_for_bit(tied: bool, tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=tied)
    loaded, _ = converted(write_gguf(tmp_path / "tiny.gguf", model), tmp_path / "out")
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], weight) for name, weight in model.state_dict().items())
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    tokens = torch.arange(30)[None]
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert not hasattr(loaded.config, "quantization_config")


def test_the_configuration_comes_back(tmp_path: Path) -> None:
    model = llama(rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100_000.0})
    loaded, _ = converted(write_gguf(tmp_path / "tiny.gguf", model), tmp_path / "out")
    assert loaded.config.rms_norm_eps == 1e-5  # the file holds the nearest float32
    assert loaded.config.rope_parameters["rope_theta"] == 100_000.0
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id, loaded.config.pad_token_id) == (1, 2, 2)
    assert loaded.generation_config.eos_token_id == 2


def test_quantised_weights_are_those_of_transformers_own_reader(tmp_path: Path) -> None:
    def kind(name: str) -> gguf.GGMLQuantizationType:
        if "norm" in name:
            return gguf.GGMLQuantizationType.F32
        return gguf.GGMLQuantizationType.Q8_0 if name.startswith("token_embd") else gguf.GGMLQuantizationType.Q4_1

    path = write_gguf(tmp_path / "tiny.gguf", llama(), quantised=kind)
    loaded, _ = converted(path, tmp_path / "out")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name).state_dict()
    assert all(torch.equal(weight, reference[name]) for name, weight in loaded.state_dict().items())
    assert loaded.dtype == torch.float32


def test_the_tokenizer_splits_digits_and_keeps_every_character(tmp_path: Path) -> None:
    _, tokenizer = converted(write_gguf(tmp_path / "tiny.gguf", llama()), tmp_path / "out")
    # Each digit is a token, although a merge would join them; the spaces before a digit stay together.
    assert tokenizer.tokenize("the  12") == ["the", "ĠĠ", "1", "2"]
    text = "the  12\n\n Ünïcode 日本 <|im_start|>the<|im_end|>"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert ids.count(1) == ids.count(2) == 1
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.model_max_length == 128
    assert tokenizer.apply_chat_template([{"content": "the"}], tokenize=False) == "<|im_start|>the<|im_end|>"


def test_a_tokenizer_of_gpt2_joins_digits(tmp_path: Path) -> None:
    _, tokenizer = converted(write_gguf(tmp_path / "tiny.gguf", llama(), pre="gpt-2"), tmp_path / "out")
    assert tokenizer.tokenize("the12") == ["the", "12"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "mamba"}, "is of the architecture 'mamba'"),
        ({"pre": "deepseek-llm"}, "'deepseek-llm', which is not supported"),
        ({"extra": "rope_freqs.weight"}, "a weight that a Llama model does not have: rope_freqs.weight"),
    ],
)
def test_what_is_not_supported_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama(), **options)
    with pytest.raises(ModelError, match=message):
        convert(path, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("kept", [0, 3, 100, 5000])
def test_a_damaged_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="not a complete GGUF file"):
        convert(path, tmp_path)
