"""The table of architectures: what the rest of the code needs to know about each.

For each architecture the table gives the objective, the position at which sequences begin, and the names of the
attention projections (for `--targets attention`). An architecture that is not in the table gets a generic description,
and is tried on a short input before it is used (`base.choose_layout`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from domain_ft.errors import ModelError

ObjectiveName = Literal["mlm", "clm"]


@dataclass(frozen=True)
class Architecture:
    """How one architecture is handled.

    Attributes:
        objective: `mlm` for encoders, `clm` for decoders.
        attention: name suffixes of the attention's linear layers, matched as PEFT matches `target_modules`.
        positions_after_padding: whether positions begin at `pad_token_id + 1`, as in RoBERTa, instead of 0.
        tested: whether our tests show that packing is exact for it; other models are tried when they are loaded.
    """

    objective: ObjectiveName
    attention: tuple[str, ...] = ()
    positions_after_padding: bool = False
    tested: bool = True

    def position_offset(self, config: PretrainedConfig) -> int:
        """The position id of a sequence's first token.

        Raises:
            ModelError: positions begin after the padding token's id, which the config lacks.
        """
        if not self.positions_after_padding:
            return 0
        if config.pad_token_id is None:
            raise ModelError(
                f"models of type '{config.model_type}' count positions from pad_token_id, which config.json lacks.",
                fix="add pad_token_id to config.json (1 for RoBERTa)",
            )
        return int(config.pad_token_id) + 1


_BERT_ATTENTION = ("query", "key", "value", "attention.output.dense")
_LLAMA_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

ARCHITECTURES: dict[str, Architecture] = {
    "albert": Architecture("mlm", ("query", "key", "value", "attention.dense")),
    "bert": Architecture("mlm", _BERT_ATTENTION),
    "distilbert": Architecture("mlm", ("q_lin", "k_lin", "v_lin", "out_lin")),
    "electra": Architecture("mlm", _BERT_ATTENTION),
    "modernbert": Architecture("mlm", ("attn.Wqkv", "attn.Wo")),
    "roberta": Architecture("mlm", _BERT_ATTENTION, positions_after_padding=True),
    "xlm-roberta": Architecture("mlm", _BERT_ATTENTION, positions_after_padding=True),
    "gpt2": Architecture("clm", ("attn.c_attn", "attn.c_proj")),
    "gpt_neox": Architecture("clm", ("attention.query_key_value", "attention.dense")),
    "llama": Architecture("clm", _LLAMA_ATTENTION),
    "opt": Architecture("clm", ("q_proj", "k_proj", "v_proj", "out_proj")),
    "qwen2": Architecture("clm", _LLAMA_ATTENTION),
    "qwen3": Architecture("clm", _LLAMA_ATTENTION),
}
"""The architectures by the `model_type` in config.json. SmolLM and SmolLM2 are `llama`."""

_USE_ANOTHER = f"use a model of one of these types: {', '.join(ARCHITECTURES)}"


def describe(config: PretrainedConfig, name: str) -> Architecture:
    """The table's entry for `config`, or a generic one for an architecture that is not in the table.

    Raises:
        ModelError: the architecture is neither an encoder with a masked-LM head nor a decoder with a causal-LM head, or
            its config makes an encoder causal or a decoder bidirectional.
    """
    kind = config.model_type
    listed = ARCHITECTURES.get(kind)
    if config.is_encoder_decoder:
        raise encoder_decoder_error(kind, name)
    if listed is None and _generic_objective(config) is None:
        raise ModelError(
            f"'{name}' is a model of type '{kind}', which is neither an encoder with a masked-LM head nor a decoder "
            "with a causal-LM head.",
            fix=_USE_ANOTHER,
        )
    if listed and listed.objective == "mlm" and getattr(config, "is_decoder", False):
        raise ModelError(
            f"'{name}' is of type '{kind}', an encoder, but its config.json says is_decoder = true.",
            fix="use the encoder (is_decoder = false), or a decoder such as smollm2",
        )
    architecture = listed or Architecture(_generic_objective(config) or "clm", tested=False)
    for key, value in (("is_causal", False), ("use_bidirectional_attention", True)):
        setting = getattr(config, key, None)
        if architecture.objective == "clm" and setting is not None and bool(setting) is value:
            raise ModelError(
                f"'{name}' is a decoder of type '{kind}' that attends to later tokens: its config.json has {key} = "
                f"{json.dumps(setting)}. It cannot be trained to predict the next token, since it sees that token.",
                fix="use the causal decoder that it was made from",
            )
    return architecture


def encoder_decoder_error(kind: str, name: str) -> ModelError:
    """The error for a model with an encoder and a decoder, such as T5 and BART."""
    return ModelError(
        f"'{name}' is a model of type '{kind}' with an encoder and a decoder. Only encoders with a masked-LM head and "
        "decoders with a causal-LM head can be adapted.",
        fix=_USE_ANOTHER,
    )


def _generic_objective(config: PretrainedConfig) -> ObjectiveName | None:
    """The objective for which transformers has an LM head; None if it has neither a masked nor a causal one.

    A type with both heads counts as an encoder, unless its config has is_decoder = true.
    """
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and not getattr(config, "is_decoder", False):
        return "mlm"
    return "clm" if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else None


@dataclass(frozen=True)
class LogitTail:
    """What a model does after the output projection: logits = c · tanh(z / c) with z = scale · (hidden Wᵀ + b).

    c is the `softcap`; if it is None, logits = z.
    """

    scale: float = 1.0
    softcap: float | None = None


def logit_tail(config: PretrainedConfig) -> LogitTail:
    """The `LogitTail` of `config`, from the keys that transformers' decoders use (Cohere, Granite, Gemma)."""
    multiplier = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return LogitTail(multiplier / divisor, getattr(config, "final_logit_softcapping", None))


def attention_targets(model: PreTrainedModel) -> tuple[str, ...]:
    """The targets of `--targets attention`: from the table, else all linear layers with attn or attention in the path.

    Raises:
        ModelError: the architecture is not in the table, and the model has no such layer.
    """
    listed = ARCHITECTURES.get(model.config.model_type)
    if listed:
        return listed.attention
    found = tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(part in name.lower() for part in ("attn", "attention"))
    )
    if not found:
        raise ModelError(
            f"no attention projections are known for models of type '{model.config.model_type}'",
            fix="name the modules by a regular expression, or use --targets all-linear",
        )
    return found
