"""Tiny random models and tokenizers of every architecture, for the tests: real classes, nothing downloaded."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY = 384
MAX_LENGTH = 128  # the longest sequence of each tiny model

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": MAX_LENGTH,
}
_BERT_IDS: dict[str, Any] = {"pad_token_id": 0}
_ROBERTA_IDS: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_GPT_IDS: dict[str, Any] = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
_LLAMA: dict[str, Any] = {**_SIZES, **_GPT_IDS, "num_key_value_heads": 2}

# Tiny configs of the supported architectures, with their peculiarities: embedding widths, grouped heads, windows.
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_SIZES, **_BERT_IDS},
    "roberta": {**_SIZES, **_ROBERTA_IDS, "max_position_embeddings": MAX_LENGTH + 2},
    "xlm-roberta": {**_SIZES, **_ROBERTA_IDS, "max_position_embeddings": MAX_LENGTH + 2},
    "distilbert": {
        **_BERT_IDS,
        "vocab_size": VOCABULARY,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": MAX_LENGTH,
    },
    "electra": {**_SIZES, **_BERT_IDS, "embedding_size": 16},
    "albert": {**_SIZES, **_BERT_IDS, "embedding_size": 16},
    "modernbert": {
        **_SIZES,
        **_BERT_IDS,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": None,
        "eos_token_id": None,
        "num_hidden_layers": 3,
        "local_attention": 8,
        "global_attn_every_n_layers": 3,
    },
    "gpt2": {
        **_GPT_IDS,
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 48,
        "n_positions": MAX_LENGTH,
    },
    "gpt_neox": {**_SIZES, **_GPT_IDS},
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": MAX_LENGTH,
        "word_embed_proj_dim": 16,
        **_ROBERTA_IDS,
    },
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 8},
}
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "modernbert")
DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "qwen2", "qwen3")
SUPPORTED = ENCODERS + DECODERS

# Not in the table of architectures: they must work generically, or be refused.
OTHER_CONFIGS: dict[str, dict[str, Any]] = {
    "camembert": {**_SIZES, **_ROBERTA_IDS, "max_position_embeddings": MAX_LENGTH + 2},
    "mpnet": {**_SIZES, **_ROBERTA_IDS, "max_position_embeddings": MAX_LENGTH + 2},
    "deberta-v2": {
        **_SIZES,
        **_BERT_IDS,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "gemma2": {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
    "cohere": {**_LLAMA, "logit_scale": 0.25},
    "granite": {**_LLAMA, "logits_scaling": 8.0},
    "mistral": {**_LLAMA, "sliding_window": 8, "head_dim": 8},
}
# Types with a causal LM head whose attention sees later tokens.
SEEING_CONFIGS: dict[str, dict[str, Any]] = {
    "xlnet": {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, **_ROBERTA_IDS},
    "bert-generation": {**_SIZES, **_ROBERTA_IDS, "is_decoder": False},
    "gemma": {**_LLAMA, "head_dim": 8, "use_bidirectional_attention": True},
}
_OTHER_ENCODERS = ("camembert", "mpnet", "deberta-v2")


def tiny_model(architecture: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random float32 model with its LM head, in eval mode; `changes` override the config.

    Equal seeds give equal models. Biases and norms are random too, so that code that drops one of them fails.
    """
    settings = {**CONFIGS, **OTHER_CONFIGS, **SEEING_CONFIGS}[architecture]
    auto = AutoModelForMaskedLM if architecture in ENCODERS + _OTHER_ENCODERS else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(architecture, **{**settings, **changes})
        model = auto.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05 if parameter.ndim > 1 else 0.1)
    return model.eval()


_TEXT = [
    "The licensee shall not sublicense the work, nor remove any notice of copyright from it.",
    "An abnormality of the skeletal system, with short stature and delayed growth of the bones.",
    "The quick brown fox jumps over the lazy dog; 0123456789 (section 4.2)!",
    "Nothing in this agreement limits the liability of the licensor to the licensee.",
]


@functools.cache
def _backend_of(kind: str) -> Tokenizer:
    """The tokenizer of a `kind`, made from a few sentences."""
    if kind == "wordpiece":
        # Not trained: training would break ties differently in each process.
        words = {word for text in _TEXT for word in re.findall(r"\w+", text.lower())}
        signs = {sign for text in _TEXT for sign in text.lower() if not sign.isspace()}
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(signs), *(f"##{s}" for s in sorted(signs))]
        pieces += sorted(words - signs)
        tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return tokenizer
    specials = {"roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "gpt2": ["<|endoftext|>"]}[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small fast tokenizer: `wordpiece` (BERT's specials), `roberta` (byte-level, with a mask token) or `gpt2`
    (byte-level, one special token that ends a text, no mask). Every id is below `VOCABULARY`.
    """
    specials = {
        "wordpiece": {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        "roberta": {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        },
        "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    }[kind]
    backend = Tokenizer.from_str(_backend_of(kind).to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=MAX_LENGTH, **specials)


def tokenizer_kind(architecture: str) -> str:
    """The kind of `tiny_tokenizer` whose special ids agree with the tiny config of `architecture`."""
    if architecture in ("roberta", "xlm-roberta", "opt", "camembert", "mpnet"):
        return "roberta"
    return "wordpiece" if architecture in ENCODERS + _OTHER_ENCODERS else "gpt2"


def save_tiny(architecture: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model and its tokenizer as a folder that transformers loads; returns `folder`."""
    model = tiny_model(architecture, seed)
    model.should_save_on_this_rank = lambda _main: True  # on every one of several processes
    model.save_pretrained(folder)
    tiny_tokenizer(tokenizer_kind(architecture)).save_pretrained(folder)
    return folder


def save_talkative(architecture: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny decoder whose greedy answers vary; those of `save_tiny` repeat one token."""
    model = tiny_model(architecture, seed, tie_word_embeddings=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    tiny_tokenizer(tokenizer_kind(architecture)).save_pretrained(folder)
    return folder
