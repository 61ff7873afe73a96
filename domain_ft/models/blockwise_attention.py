"""Attention on a CPU for sequences of one length, as batched matrix products over a block of sequences and heads at a
time.

    P  = softmax(s Q Kᵀ + M)              O  = P V
    dV = Pᵀ dO        dP = dO Vᵀ          dS = P ∘ (dP - Σ_row dP ∘ P)        dQ = s dS K        dK = s dSᵀ Q

P is made again in the backward pass, so nothing quadratic in the length is kept. A block's scores fit a processor's
cache. torch's own kernel (flash attention, Dao et al. 2022) tiles single heads, which suits rows of thousands of
tokens; at the lengths that small models are trained on, it spends its time between many tiny products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from domain_ft_kernels.products import has_fast_bfloat16

BLOCK = 2**20
"""Scores that exist at a time: 2 MB in bfloat16."""

LONGEST = {torch.bfloat16: 1024, torch.float32: 64}
"""Longer sequences are torch's, by type: up to these this way was faster, causal or not (benchmarks/LOG.md)."""


def is_faster(query: Tensor, length: int) -> bool:
    """Whether `blockwise_attention` is the faster way for `query` in sequences of `length` tokens."""
    if query.device.type != "cpu" or length > LONGEST.get(query.dtype, 0):
        return False
    return query.dtype != torch.bfloat16 or has_fast_bfloat16()


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, length: int, scale: float, mask: Tensor | None
) -> Tensor:
    """The attention of each sequence to itself: (tokens, heads, head_dim). Differentiable once in query, key and value.

    Args:
        query: (tokens, heads, head_dim), of whole sequences of `length` tokens, one after the other.
        key: (tokens, key_value_heads, head_dim); heads is a multiple of key_value_heads.
        value: (tokens, key_value_heads, head_dim).
        length: tokens of a sequence.
        scale: s.
        mask: M (length, length), added to the scores: -inf where a row must not see a column; None lets all see all.
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
            q, k, v = (_stack(tensor, length, heads) for tensor in (query, key, value))
            mixed = torch.empty_like(q)
            for block in _blocks(q, length):
                torch.bmm(_probabilities(q[block], k[block], mask, scale), v[block], out=mixed[block])
        return _unstack(mixed, length, heads)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        length, scale, heads = ctx.length, ctx.scale, key.shape[1]
        with torch.autocast("cpu", enabled=False):
            q, k, v, g = (_stack(tensor, length, heads) for tensor in (query, key, value, grad))
            d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
            for block in _blocks(q, length):
                p = _probabilities(q[block], k[block], mask, scale)
                torch.bmm(p.transpose(1, 2), g[block], out=d_v[block])
                d_p = torch.bmm(g[block], v[block].transpose(1, 2))
                d_s = torch.ops.aten._softmax_backward_data(d_p, p, -1, p.dtype)
                torch.bmm(d_s, k[block], out=d_q[block])
                torch.bmm(d_s.transpose(1, 2), q[block], out=d_k[block])
            d_q.mul_(scale)
            d_k.mul_(scale)
        return *(_unstack(gradient, length, heads) for gradient in (d_q, d_k, d_v)), None, None, None


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """P (n, groups · length, length); `mask` as for one head."""
    if mask is None:
        scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    else:
        scores = torch.baddbmm(mask.repeat(q.shape[1] // len(mask), 1), q, k.transpose(1, 2), alpha=scale)
    return torch.softmax(scores, -1)


def _blocks(q: Tensor, length: int) -> Iterator[slice]:
    size = max(1, BLOCK // (q.shape[1] * length))
    return (slice(start, start + size) for start in range(0, len(q), size))


def _stack(x: Tensor, length: int, heads: int) -> Tensor:
    """(tokens, heads · groups, head_dim) as (sequences · heads, groups · length, head_dim): who shares a key,
    together."""
    parts = x.unflatten(0, (-1, length)).unflatten(2, (heads, -1))
    return parts.permute(0, 2, 3, 1, 4).flatten(0, 1).flatten(1, 2)


def _unstack(x: Tensor, length: int, heads: int) -> Tensor:
    """`_stack` undone."""
    parts = x.unflatten(0, (-1, heads)).unflatten(2, (-1, length))
    return parts.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)
