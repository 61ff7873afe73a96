"""Attention on a CPU for sequences of equal length: batched matrix products over blocks of sequences and heads.

    P  = softmax(s Q Kᵀ + M)              O  = P V
    dV = Pᵀ dO        dP = dO Vᵀ          dS = P ∘ (dP - Σ_row dP ∘ P)        dQ = s dS K        dK = s dSᵀ Q

P is recomputed in the backward pass, so no scores are saved. A block's scores usually fit into the processor's cache.
torch's kernel (flash attention, Dao et al. 2022) tiles single heads. That suits long sequences; on short ones the
overhead of many tiny products takes much of its time.

Shapes: T tokens, H heads, G key-value heads, E head dimension, ℓ tokens per sequence. The first dimension of a block is
n: its pairs of a sequence and a key-value head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from domain_ft_kernels.products import has_fast_bfloat16

BLOCK = 2**20
"""The most scores in a block (2 MiB in bfloat16), unless a single matrix has more."""

LONGEST = {torch.bfloat16: 1024, torch.float32: 64}
"""The longest sequences, in tokens, for which this is used: it was faster than torch's kernel (benchmarks/LOG.md)."""


def is_faster(query: Tensor, length: int) -> bool:
    """Whether `blockwise_attention` is known to be faster than torch's kernel for sequences of `length` tokens."""
    if query.device.type != "cpu" or length > LONGEST.get(query.dtype, 0):
        return False
    return query.dtype != torch.bfloat16 or has_fast_bfloat16()


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, length: int, scale: float, mask: Tensor | None
) -> Tensor:
    """The attention of each sequence to itself: (T, H, E). Differentiable once in query, key and value.

    Args:
        query: (T, H, E), complete sequences of `length` tokens, end to end.
        key: (T, G, E); H is a multiple of G.
        value: (T, G, E).
        length: ℓ, tokens per sequence.
        scale: s.
        mask: M (ℓ, ℓ), added to the scores: -inf where a row must not see a column; None for no mask.
    """
    attended: Tensor = _Blockwise.apply(query, key, value, mask, length, scale)
    return attended


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, length: int, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.length, ctx.scale = length, scale
        heads = key.shape[1]
        with torch.autocast("cpu", enabled=False):
            # (sequences · G, H/G · ℓ, E), and (sequences · G, ℓ, E) for key and value
            q, k, v = (_stack(tensor, length, heads) for tensor in (query, key, value))
            mixed = torch.empty_like(q)
            for block in _blocks(q, length):
                torch.bmm(_probabilities(q[block], k[block], mask, scale), v[block], out=mixed[block])
        return _unstack(mixed, length, heads)  # (T, H, E)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        length, scale, heads = ctx.length, ctx.scale, key.shape[1]
        with torch.autocast("cpu", enabled=False):
            q, k, v, g = (_stack(tensor, length, heads) for tensor in (query, key, value, grad))
            d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
            for block in _blocks(q, length):
                p = _probabilities(q[block], k[block], mask, scale)  # (n, H/G · ℓ, ℓ), like d_p and d_s
                torch.bmm(p.transpose(1, 2), g[block], out=d_v[block])
                d_p = torch.bmm(g[block], v[block].transpose(1, 2))
                d_s = torch.ops.aten._softmax_backward_data(d_p, p, -1, p.dtype)
                torch.bmm(d_s, k[block], out=d_q[block])
                torch.bmm(d_s.transpose(1, 2), q[block], out=d_k[block])
            d_q.mul_(scale)
            d_k.mul_(scale)
        return *(_unstack(gradient, length, heads) for gradient in (d_q, d_k, d_v)), None, None, None


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """P (n, H/G · ℓ, ℓ) of a block; `mask` is (ℓ, ℓ)."""
    if mask is None:
        scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    else:
        scores = torch.baddbmm(mask.repeat(q.shape[1] // len(mask), 1), q, k.transpose(1, 2), alpha=scale)
    return torch.softmax(scores, -1)


def _blocks(q: Tensor, length: int) -> Iterator[slice]:
    """Slices of the first dimension of q (sequences · G, H/G · ℓ, E), each with at most BLOCK scores if possible."""
    size = max(1, BLOCK // (q.shape[1] * length))
    return (slice(start, start + size) for start in range(0, len(q), size))


def _stack(x: Tensor, length: int, heads: int) -> Tensor:
    """(T, G · repeats, E) as (sequences · G, repeats · ℓ, E): the queries of one key-value head become one matrix.

    `heads` is G. `repeats` is H/G for queries, 1 for keys and values.
    """
    parts = x.unflatten(0, (-1, length)).unflatten(2, (heads, -1))  # (sequences, ℓ, G, repeats, E)
    return parts.permute(0, 2, 3, 1, 4).flatten(0, 1).flatten(1, 2)


def _unstack(x: Tensor, length: int, heads: int) -> Tensor:
    """Undo `_stack`."""
    parts = x.unflatten(0, (-1, heads)).unflatten(2, (-1, length))  # (sequences, G, repeats, ℓ, E)
    return parts.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)
