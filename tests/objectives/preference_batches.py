"""Small random pairs and rated answers, and plain implementations to compare the preference objectives with."""

from __future__ import annotations

import numpy as np
import torch
from tiny_models import VOCABULARY, tiny_model, tiny_tokenizer
from torch import Tensor

from domain_ft.corpus.conversations.rows import ConversationBatch
from domain_ft.models import attention
from domain_ft.models.base import BaseModel
from domain_ft.models.lora import LoraConfig, apply_lora

Answer = tuple[list[int], list[int]]
"""The tokens of a prompt and of an answer."""


def decoder(architecture: str = "llama") -> BaseModel:
    """A tiny decoder in float64, whose adapter is not zero."""
    model = tiny_model(architecture).double()
    base = BaseModel(model, tiny_tokenizer("gpt2"), "clm", architecture, architecture, "sha256:0", 128, packed=True)
    attention.install(model)
    lora = apply_lora(model, LoraConfig(rank=2, alpha=4.0), seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in lora.trainable_parameters().values():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return base


def answers(count: int, seed: int = 0) -> list[Answer]:
    """Random prompts with answers of different lengths."""
    draw = np.random.default_rng(seed)
    return [
        (draw.integers(1, VOCABULARY, draw.integers(1, 6)).tolist(), draw.integers(1, VOCABULARY, size).tolist())
        for size in draw.integers(1, 9, count)
    ]


def pairs(count: int, seed: int = 0) -> list[Answer]:
    """Better and worse answers in turn, both after the same prompt."""
    found = answers(2 * count, seed)
    return [(found[place - place % 2][0], answer) for place, (_, answer) in enumerate(found)]


def packed(sequences: list[Answer], rows: list[int]) -> ConversationBatch:
    """The sequences as a micro-batch; `rows` (sequences,) are their rows."""
    lengths = [len(prompt) + len(answer) for prompt, answer in sequences]
    return ConversationBatch.of(
        np.array([token for prompt, answer in sequences for token in prompt + answer]),
        lengths=lengths,
        rows=np.array(rows),
        documents=np.array(rows),
        sequences=np.zeros(len(rows)),
        trained=np.concatenate([np.arange(len(p) + len(a)) >= len(p) for p, a in sequences]),
    )


def pair_batch(sequences: list[Answer], chosen: range) -> ConversationBatch:
    """The pairs with these numbers, as a micro-batch."""
    taken = [sequences[2 * row + place] for row in chosen for place in (0, 1)]
    return packed(taken, [row for row in chosen for _ in (0, 1)])


def rated_batch(sequences: list[Answer], chosen: range) -> ConversationBatch:
    """The answers with these numbers, then the same prompts with the next example's answers."""
    others = [(sequences[row][0], sequences[(row + 1) % len(sequences)][1]) for row in chosen]
    return packed([sequences[row] for row in chosen] + others, [*chosen, *chosen])


def token_log_probs(base: BaseModel, sequence: Answer) -> Tensor:
    """(answer tokens,) the log-probability of each token of the answer: one plain forward pass, all logits."""
    prompt, answer = sequence
    ids = torch.tensor([prompt + answer])
    logs = base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)  # (T, V)
    return torch.stack([logs[place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1])])


def gradients(base: BaseModel) -> list[Tensor]:
    """The gradients of the adapter's parameters, which are then reset."""
    found = []
    for parameter in base.model.parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            found.append(parameter.grad.clone())
            parameter.grad = None
    return found
