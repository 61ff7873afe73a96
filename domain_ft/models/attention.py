"""Attention inside each sequence of a packed row, for every model that uses transformers' AttentionInterface.

`install(model)` makes `packed_attention` the model's attention. Given `cu_seq_lens_q` (as transformers' own kernels for
unpadded rows are), a sequence sees itself alone: on a GPU through torch's variable-length kernel, elsewhere through one
call of scaled_dot_product_attention for each run of sequences of equal length. Without it, the model is what it was
before (padded batches, generation with a cache).
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from domain_ft.models.blockwise_attention import blockwise_attention, is_faster

try:
    from torch.nn.attention.varlen import varlen_attn

    HAS_VARLEN = {"scale", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()
except ImportError:  # an older torch
    HAS_VARLEN = False

NAME = "domain_ft_packed"
"""What our attention is called in transformers' registries."""


@dataclass(frozen=True)
class Run:
    """Neighbouring sequences of one length: `sequences` of them, `length` tokens each."""

    sequences: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return self.sequences * self.length


class Layout:
    """Where the sequences of a packed row lie: worked out once a micro-batch, by the first layer that asks.

    Args:
        cu_seqlens: (sequences + 1,), where each sequence begins, and the end of the last.
    """

    def __init__(self, cu_seqlens: Tensor) -> None:
        self._cu_seqlens = cu_seqlens
        self._windows: dict[tuple[int, int, bool, torch.device], Tensor] = {}
        self._masks: dict[tuple[int, int, bool, torch.dtype, torch.device], Tensor] = {}

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """The row, from its first token to its last. Rows whose sequences are sorted by length have the fewest runs."""
        runs: list[Run] = []
        for length in torch.diff(self._cu_seqlens).tolist():  # waits for a GPU
            if length == 0:
                continue
            if runs and runs[-1].length == length:
                runs[-1] = Run(runs[-1].sequences + 1, length)
            else:
                runs.append(Run(1, length))
        return tuple(runs)

    def mask(self, length: int, reach: int | None, causal: bool, like: Tensor) -> Tensor | None:
        """(length, length), to be added to the scores: -inf where `window` is false; None where all see all."""
        if not causal and (reach is None or length <= reach + 1):
            return None
        reach = length if reach is None else reach
        key = (length, reach, causal, like.dtype, like.device)
        if key not in self._masks:
            window = self.window(length, reach, causal, like.device)
            self._masks[key] = like.new_zeros(window.shape).masked_fill_(~window, float("-inf"))
        return self._masks[key]

    def window(self, length: int, reach: int, causal: bool, device: torch.device) -> Tensor:
        """(length, length) bool: may the token of a row see the token of a column, at most `reach` tokens away?"""
        key = (length, reach, causal, device)
        if key not in self._windows:
            positions = torch.arange(length, device=device)
            distance = positions[:, None] - positions[None, :]
            self._windows[key] = (distance <= reach) & (distance >= (0 if causal else -reach))
        return self._windows[key]


def install(model: PreTrainedModel) -> None:
    """Make `packed_attention` the attention of `model`, in place."""
    model.set_attn_implementation(NAME)


def packed_arguments(cu_seqlens: Tensor, max_seqlen: int) -> dict[str, Any]:
    """What to give a model's forward, besides ids and positions, so that attention stays inside each sequence.

    `cu_seqlens` says all that a mask would. Nobody reads the one given here, but as it has four dimensions, models
    take it for finished: from restarting positions decoders would otherwise make one of tokens x tokens, and, to see
    that they restart, wait for the GPU.
    """
    return {
        "attention_mask": cu_seqlens.new_ones((1, 1, 1, 1), dtype=torch.bool),
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_seqlen,
        "max_length_k": max_seqlen,
        "layout": Layout(cu_seqlens),
    }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as AttentionInterface wants it.

    Args:
        query: (1, heads, tokens, head_dim) where packed; key and value (1, key_value_heads, tokens, head_dim).
        sliding_window: as flash attention counts it here: a token sees those at most `sliding_window - 1` away.
        cu_seq_lens_q: (sequences + 1,) int32; None for an ordinary batch, which goes to transformers' own SDPA.
        layout: of `cu_seq_lens_q`, where it is at hand.

    Returns:
        (1, tokens, heads, head_dim), and None for the attention weights.

    Raises:
        NotImplementedError: the model asks for something that changes the scores and that we do not compute.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"packed attention does not compute '{name}'")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    reach = sliding_window - 1 if sliding_window else None
    query, key, value = (tensor.transpose(1, 2).squeeze(0) for tensor in (query, key, value))
    device = query.device.type
    if torch.is_autocast_enabled(device):  # norms of queries and keys may leave them in float32
        query, key, value = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (query, key, value))
    if HAS_VARLEN and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0:
        longest = max_length_q or int(torch.diff(cu_seq_lens_q).max())
        mixed = _variable_length(query, key, value, cu_seq_lens_q, longest, scaling, causal, reach)
    else:
        mixed = _by_runs(query, key, value, layout or Layout(cu_seq_lens_q), dropout, scaling, causal, reach)
    return mixed.unsqueeze(0), None


def _by_runs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    dropout: float,
    scaling: float | None,
    causal: bool,
    reach: int | None,
) -> Tensor:
    """One call a run of equal lengths; (tokens, heads, head_dim) in and out.

    A run is a view of the row, and one concatenation is made on the way out. `split`
    is what keeps the backward pass at one concatenation too, where slices would each fill a tensor of the whole row.
    """
    groups = query.shape[1] // key.shape[1]
    tokens = [run.tokens for run in layout.runs]
    mixed = []
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    for run, q, k, v in zip(layout.runs, query.split(tokens), key.split(tokens), value.split(tokens), strict=True):
        if dropout == 0.0 and is_faster(q, run.length):
            mask = layout.mask(run.length, reach, causal, q)
            mixed.append(blockwise_attention(q, k, v, run.length, scale, mask))
            continue
        q, k, v = (part.unflatten(0, (run.sequences, run.length)).transpose(1, 2) for part in (q, k, v))
        window = None
        if reach is not None and run.length > reach + 1:
            window = layout.window(run.length, reach, causal, query.device)
        part = F.scaled_dot_product_attention(
            q,
            repeat_kv(k, groups),
            repeat_kv(v, groups),
            attn_mask=window,
            dropout_p=dropout,
            scale=scale,
            is_causal=causal and window is None and run.length > 1,
        )
        mixed.append(part.transpose(1, 2).flatten(0, 1))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _variable_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    scaling: float | None,
    causal: bool,
    reach: int | None,
) -> Tensor:
    """torch's variable-length flash attention; (tokens, heads, head_dim) in and out."""
    left = -1 if reach is None else reach
    mixed = varlen_attn(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0 if causal else left),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return cast(Tensor, mixed)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
