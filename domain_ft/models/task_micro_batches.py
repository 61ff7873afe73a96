"""Micro-batches of a task, and the token of each sequence that a classification head reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from domain_ft.models.base import Batch, Tokens


class TaskMicroBatch(Batch, Protocol):
    """The input of `TaskModel.logits`: a `Batch` in which an example is one sequence or several (its windows)."""

    @property
    def type_ids(self) -> Tensor:
        """(T,) int64, the segment of each token."""

    @property
    def owners(self) -> Tensor:
        """(S,) int64, the example of the micro-batch that each sequence belongs to, counted from 0 and ascending."""

    @property
    def examples(self) -> int:
        """Number of examples in the micro-batch."""


@dataclass(frozen=True)
class TaskTokens(Tokens):
    """A `TaskMicroBatch` made by hand, for trials and tests: each sequence is an example, of one segment."""

    @property
    def type_ids(self) -> Tensor:
        """(T,) zeros."""
        return torch.zeros_like(self.input_ids)

    @property
    def owners(self) -> Tensor:
        """(S,) the index of each sequence."""
        return torch.arange(self.examples, device=self.input_ids.device)

    @property
    def examples(self) -> int:
        """Number of sequences."""
        return len(self.cu_seqlens) - 1


def last_tokens(inputs: Batch, padding: int | None) -> Tensor:
    """(S,) the position of each sequence's last token that is not `padding`, which transformers' decoders classify
    by."""
    starts, lengths = inputs.cu_seqlens[:-1].long(), torch.diff(inputs.cu_seqlens).long()  # (S,) each
    if padding is None:
        return starts + lengths - 1
    places = torch.arange(len(inputs.input_ids), device=starts.device)  # (T,)
    sequence = torch.searchsorted(inputs.cu_seqlens[1:].long(), places, right=True)  # (T,)
    places = places.where(inputs.input_ids != padding, starts[sequence])  # (T,)
    return starts.scatter_reduce(0, sequence, places, "amax")


@contextlib.contextmanager
def one_token_per_sequence(model: PreTrainedModel, cu_seqlens: Tensor) -> Iterator[None]:
    """Inside the block an encoder's body passes its head a batch of the packed row's sequences, one token each.

    It is the first token, which heads and poolers read; or, for classes that pool by the mean, the sequence's mean,
    which the head's mean over one token leaves unchanged.
    """
    by_mean = getattr(model.config, "classifier_pooling", "cls") == "mean"

    def take_tokens(body: nn.Module, _args: Any, output: Any) -> None:
        hidden = output.last_hidden_state.squeeze(0)  # (T, D)
        if by_mean:
            wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            pooled = torch.segment_reduce(wide, "mean", lengths=torch.diff(cu_seqlens).long()).to(hidden.dtype)
        else:
            pooled = hidden.index_select(0, cu_seqlens[:-1].long())  # (S, D)
        output.last_hidden_state = pooled.unsqueeze(1)  # (S, 1, D)
        if getattr(output, "pooler_output", None) is not None:
            output.pooler_output = _pooler_output(body, output.last_hidden_state)

    handle = model.base_model.register_forward_hook(take_tokens)
    try:
        yield
    finally:
        handle.remove()


def _pooler_output(body: Any, hidden: Tensor) -> Tensor:
    """The pooler's output (S, D) for hidden states (S, 1, D); ALBERT has its pooler in two parts."""
    if hasattr(body, "pooler_activation"):
        return body.pooler_activation(body.pooler(hidden[:, 0]))
    return body.pooler(hidden)
