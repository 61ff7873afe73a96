"""Chat templates like those of common model families, and small conversations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from tiny_models import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from domain_ft.corpus.conversations.conversation import Conversation, Turn

CHATML = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>{{ '\n' }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
"""Like SmolLM2 and Qwen: a newline after the token that ends a turn."""

HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message.role }}<|end|>\n\n{{ message.content | trim }}"
    "<|eot|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>{{ '\n\n' }}{% endif %}"
)
"""Like Llama 3: contents are trimmed, and a header of special tokens precedes each."""

INST = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""Like Mistral: no generation prompt, a space before each answer, and no system turn."""

ALTERNATING = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<|start|>{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content | trim }}<|end|>"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|start|>model{{ '\n' }}{% endif %}"
)
"""Like Gemma: no system turn, and roles must alternate."""

THINKING = (
    "{% set ns = namespace(last=0) %}{% for message in messages %}{% if message.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}{{ '\n' }}"
    "{% if message.role == 'assistant' %}{% set said = message.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.index0 > ns.last %}{% if '</think>' in message.content %}"
    "{% set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% endif %}"
    "<think>{{ '\n' }}{{ thought or '' }}{{ '\n' }}</think>{{ '\n\n' }}{% endif %}{{ said }}"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
"""Like Qwen3: thoughts are kept only in answers after the last user turn."""

CLOSING = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""Like Phi-3: without a generation prompt, a conversation ends with eos."""

UNENDED = (
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:{{ '\n' }}{% endif %}"
)
"""Without a token that ends a turn."""

SPECIALS = ("<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<|user|>", "<|assistant|>")
TEMPLATES: Mapping[str, str | None] = {
    "chatml": CHATML,
    "headers": HEADERS,
    "inst": INST,
    "alternating": ALTERNATING,
    "thinking": THINKING,
    "closing": CLOSING,
    "unended": UNENDED,
    "none": None,
}


def chat_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level, with special tokens for turns, pad == eos, and ids below 400."""
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS), "pad_token": tokenizer.eos_token})
    tokenizer.chat_template = template
    return tokenizer


def chat(*contents: str, id: str = "a", system: str | None = None, untrained: tuple[int, ...] = ()) -> Conversation:
    """Alternating turns of user and assistant; `untrained` are the indices of the answers that are not trained."""
    turns = [Turn("system", system)] if system else []
    roles = itertools.cycle(("user", "assistant"))
    for number, (content, role) in enumerate(zip(contents, roles, strict=False)):
        if role == "user":
            turns.append(Turn("user", content))
        else:
            turns.append(Turn("assistant", content, trained=number // 2 not in untrained))
    return Conversation(id, "chats.jsonl", 7, tuple(turns))


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}},
}


def tool_chat() -> Conversation:
    """A question, a tool call, the tool's result, and an answer."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"town": "京都"}}}
    turns = (
        Turn("user", "Is it raining?"),
        Turn("assistant", "", True, (call,)),
        Turn("tool", '{"rain": true}', name="weather", tool_call_id="c1"),
        Turn("assistant", "It is.", True),
    )
    return Conversation("tools", "chats.jsonl", 3, turns, (WEATHER,))
