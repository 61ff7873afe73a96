"""Micro-batches of a task: what a model of texts reads, and the one token of each sequence that its head looks at."""

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
    """What `TaskModel.logits` reads: a `Batch` of which one or several sequences are an example."""

    @property
    def type_ids(self) -> Tensor:
        """(tokens,) int64, the segment of each token."""

    @property
    def owners(self) -> Tensor:
        """(sequences,) int64, which example of the micro-batch each sequence is of, counted from 0; never falls."""

    @property
    def examples(self) -> int:
        """Number of examples in the micro-batch."""


@dataclass(frozen=True)
class TaskTokens(Tokens):
    """A `TaskMicroBatch` made by hand, for proofs and tests: a sequence an example, all of one segment."""

    @property
    def type_ids(self) -> Tensor:
        """(tokens,) zeros."""
        return torch.zeros_like(self.input_ids)

    @property
    def owners(self) -> Tensor:
        """(sequences,) each sequence its own."""
        return torch.arange(self.examples, device=self.input_ids.device)

    @property
    def examples(self) -> int:
        """Number of sequences."""
        return len(self.cu_seqlens) - 1


def last_tokens(inputs: Batch, padding: int | None) -> Tensor:
    """(sequences,) where each sequence's last token is that is not `padding`: what transformers' decoders classify
    by."""
    starts, lengths = inputs.cu_seqlens[:-1].long(), torch.diff(inputs.cu_seqlens).long()
    if padding is None:
        return starts + lengths - 1
    places = torch.arange(len(inputs.input_ids), device=starts.device)
    sequence = torch.searchsorted(inputs.cu_seqlens[1:].long(), places, right=True)
    places = places.where(inputs.input_ids != padding, starts[sequence])
    return starts.scatter_reduce(0, sequence, places, "amax")


@contextlib.contextmanager
def one_token_a_piece(model: PreTrainedModel, cu_seqlens: Tensor) -> Iterator[None]:
    """Inside the block the body of an encoder hands its head a batch of the packed row's sequences, of one token each.

    That is the first token of each, which heads and poolers read; or the mean of a sequence where the class pools by
    it, which the head's own mean then leaves as it is.
    """
    by_mean = getattr(model.config, "classifier_pooling", "cls") == "mean"

    def hand_on(body: nn.Module, _args: Any, output: Any) -> None:
        hidden = output.last_hidden_state.squeeze(0)
        if by_mean:
            wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            pooled = torch.segment_reduce(wide, "mean", lengths=torch.diff(cu_seqlens).long()).to(hidden.dtype)
        else:
            pooled = hidden.index_select(0, cu_seqlens[:-1].long())
        output.last_hidden_state = pooled.unsqueeze(1)
        if getattr(output, "pooler_output", None) is not None:
            output.pooler_output = _pooler_output(body, output.last_hidden_state)

    handle = model.base_model.register_forward_hook(hand_on)
    try:
        yield
    finally:
        handle.remove()


def _pooler_output(body: Any, hidden: Tensor) -> Tensor:
    """(sequences, D), what the pooler of a body makes of (sequences, 1, D); ALBERT keeps its pooler's parts apart."""
    if hasattr(body, "pooler_activation"):
        return body.pooler_activation(body.pooler(hidden[:, 0]))
    return body.pooler(hidden)
