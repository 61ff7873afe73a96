"""Micro-batches of a task, and the token of each sequence that a classification head reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from domain_ft.corpus.batches import TaskBatch
from domain_ft.models.base import Tokens

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class TaskTokens(Tokens):
    """`Tokens` whose sequences belong to examples, as `TaskModel.logits` reads them: `TaskBatch` as tensors.

    Attributes:
        type_ids: (tokens,) int64, the segment of each token.
        owners: (sequences,) int64, the example of each sequence, numbered from 0 in the micro-batch, in rising order.
        examples: number of examples in the micro-batch.
    """

    type_ids: Tensor
    owners: Tensor
    examples: int

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Self:
        """Pack `sequences`, lists of token ids, end to end: each is an example, and all tokens are of segment 0."""
        tokens = Tokens.of(sequences, device)
        types, owners = torch.zeros_like(tokens.input_ids), torch.arange(len(sequences), device=device)
        return cls(**vars(tokens), type_ids=types, owners=owners, examples=len(sequences))

    @classmethod
    def from_task_batch(cls, batch: TaskBatch, **fields: Any) -> Self:
        """The tensors of `batch`, on the CPU; `fields` are the further fields of a subclass."""
        return cls.from_batch(
            batch,
            type_ids=torch.from_numpy(batch.type_ids),
            owners=torch.from_numpy(batch.owners),
            examples=batch.examples,
            **fields,
        )


def last_tokens(inputs: Tokens, padding: int | None) -> Tensor:
    """(sequences,) the position of each sequence's last token that is not `padding`: a decoder's head reads it."""
    starts, lengths = inputs.cu_seqlens[:-1].long(), torch.diff(inputs.cu_seqlens).long()  # (S,) each
    if padding is None:
        return starts + lengths - 1
    places = torch.arange(len(inputs.input_ids), device=starts.device)  # (T,)
    sequence = torch.searchsorted(inputs.cu_seqlens[1:].long(), places, right=True)  # (T,)
    places = places.where(inputs.input_ids != padding, starts[sequence])  # (T,)
    return starts.scatter_reduce(0, sequence, places, "amax")


@contextlib.contextmanager
def one_token_per_sequence(model: PreTrainedModel, cu_seqlens: Tensor) -> Iterator[None]:
    """Inside the block, an encoder's body passes one hidden state per sequence of a packed row to its head, (S, 1, D).

    It is the state of the first token, which heads and poolers read. In models that pool by the mean it is the mean
    over the sequence, and the head's mean over one token does not change it.
    """
    by_mean = getattr(model.config, "classifier_pooling", "cls") == "mean"

    def take_tokens(body: nn.Module, _args: Any, output: Any) -> None:
        hidden = output.last_hidden_state.squeeze(0)  # (T, D)
        if by_mean:
            wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # (T, D)
            pooled = torch.segment_reduce(wide, "mean", lengths=torch.diff(cu_seqlens).long())  # (S, D)
            pooled = pooled.to(hidden.dtype)
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
    """The pooler's output (S, D) for hidden states (S, 1, D). ALBERT's body has the pooler's two parts."""
    if hasattr(body, "pooler_activation"):
        return body.pooler_activation(body.pooler(hidden[:, 0]))
    return body.pooler(hidden)
