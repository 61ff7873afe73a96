"""Attention inside each sequence of a packed row, for every model that uses transformers' AttentionInterface.

`install(model)` makes `packed_attention` the model's attention. If a call passes `cu_seq_lens_q`, the argument of
transformers' kernels for unpadded rows, a sequence attends only to itself. On a GPU, in half precision and without
dropout, torch's variable-length kernel computes this if torch has it; otherwise each group of neighbouring sequences of
equal length is one call. Calls without `cu_seq_lens_q` (padded batches, generation with a cache) go to transformers'
SDPA.

Shapes: T tokens in the row, S sequences, H heads, G key-value heads, E head dimension.
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
"""The name of our attention in transformers' registries."""


@dataclass(frozen=True)
class EqualLengths:
    """Neighbouring sequences of equal length: `sequences` of them, `length` tokens each."""

    sequences: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all these sequences."""
        return self.sequences * self.length


class PackedLayout:
    """The places of the sequences in a packed row, computed once per micro-batch by the first layer that needs them.

    Args:
        cu_seqlens: (S + 1,), where each sequence begins, and the end of the last.
    """

    def __init__(self, cu_seqlens: Tensor) -> None:
        self._cu_seqlens = cu_seqlens
        self._windows: dict[tuple[int, int, bool, torch.device], Tensor] = {}
        self._masks: dict[tuple[int, int, bool, torch.dtype, torch.device], Tensor] = {}

    @functools.cached_property
    def groups(self) -> tuple[EqualLengths, ...]:
        """The groups of the row, in order. There are fewest if the sequences are sorted by length."""
        groups: list[EqualLengths] = []
        for length in torch.diff(self._cu_seqlens).tolist():  # waits for the GPU, if there is one
            if length == 0:
                continue
            if groups and groups[-1].length == length:
                groups[-1] = EqualLengths(groups[-1].sequences + 1, length)
            else:
                groups.append(EqualLengths(1, length))
        return tuple(groups)

    def mask(self, length: int, reach: int | None, causal: bool, like: Tensor) -> Tensor | None:
        """(length, length) to add to the scores: -inf where `window` is False, else 0; None if every token sees all.

        Args:
            reach: a token sees the tokens at most this far away; None for no limit.
        """
        if not causal and (reach is None or length <= reach + 1):
            return None
        reach = length if reach is None else reach
        key = (length, reach, causal, like.dtype, like.device)
        if key not in self._masks:
            window = self.window(length, reach, causal, like.device)
            self._masks[key] = like.new_zeros(window.shape).masked_fill_(~window, float("-inf"))
        return self._masks[key]

    def window(self, length: int, reach: int, causal: bool, device: torch.device) -> Tensor:
        """(length, length) bool: whether the row's token sees the column's: within `reach`, and not later if causal."""
        key = (length, reach, causal, device)
        if key not in self._windows:
            positions = torch.arange(length, device=device)  # (length,)
            distance = positions[:, None] - positions[None, :]  # (length, length)
            self._windows[key] = (distance <= reach) & (distance >= (0 if causal else -reach))
        return self._windows[key]


def install(model: PreTrainedModel) -> None:
    """Make `packed_attention` the attention of `model`, in place."""
    model.set_attn_implementation(NAME)


def packed_arguments(cu_seqlens: Tensor, max_seqlen: int) -> dict[str, Any]:
    """The arguments of a model's forward, besides ids and positions, that keep attention inside each sequence.

    `cu_seqlens` replaces the mask. The mask returned here is never read: its four dimensions tell transformers not to
    build one. Otherwise decoders would wait for the GPU to find out whether positions restart, and build a (T, T) mask.
    """
    return {
        "attention_mask": cu_seqlens.new_ones((1, 1, 1, 1), dtype=torch.bool),
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_seqlen,
        "max_length_k": max_seqlen,
        "layout": PackedLayout(cu_seqlens),
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
    layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers' AttentionInterface.

    Args:
        query: (1, H, T, E) if packed; key and value (1, G, T, E).
        sliding_window: a token sees the tokens at most `sliding_window - 1` away, as in flash attention.
        cu_seq_lens_q: (S + 1,) int32; None for an ordinary batch, which goes to transformers' SDPA.
        layout: the layout of `cu_seq_lens_q`; computed if None.

    Returns:
        (1, T, H, E) if packed, and None for the attention weights.

    Raises:
        NotImplementedError: the model changes its scores in a way that is not implemented here.
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
    query, key, value = (tensor.transpose(1, 2).squeeze(0) for tensor in (query, key, value))  # (T, H, E), (T, G, E)
    device = query.device.type
    if torch.is_autocast_enabled(device):  # models that normalise queries and keys may leave them in float32
        query, key, value = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (query, key, value))
    if HAS_VARLEN and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0:
        longest = max_length_q or int(torch.diff(cu_seq_lens_q).max())
        mixed = _variable_length(query, key, value, cu_seq_lens_q, longest, scaling, causal, reach)
    else:
        mixed = _by_groups(query, key, value, layout or PackedLayout(cu_seq_lens_q), dropout, scaling, causal, reach)
    return mixed.unsqueeze(0), None  # (1, T, H, E)


def _by_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    dropout: float,
    scaling: float | None,
    causal: bool,
    reach: int | None,
) -> Tensor:
    """Attention in one call for each group of sequences of equal length; query and result are (T, H, E).

    A group is a view of the row, and the outputs are concatenated once. With `split` the backward pass concatenates
    once too. With slices instead, it would allocate a gradient of the whole row for each slice.
    """
    repeats = query.shape[1] // key.shape[1]  # H / G
    sizes = [group.tokens for group in layout.groups]
    mixed = []
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    for group, q, k, v in zip(layout.groups, query.split(sizes), key.split(sizes), value.split(sizes), strict=True):
        if dropout == 0.0 and is_faster(q, group.length):
            mask = layout.mask(group.length, reach, causal, q)
            mixed.append(blockwise_attention(q, k, v, group.length, scale, mask))
            continue
        # (tokens, H, E) -> (sequences, H, length, E)
        q, k, v = (part.unflatten(0, (group.sequences, group.length)).transpose(1, 2) for part in (q, k, v))
        window = None
        if reach is not None and group.length > reach + 1:
            window = layout.window(group.length, reach, causal, query.device)
        part = F.scaled_dot_product_attention(
            q,
            repeat_kv(k, repeats),
            repeat_kv(v, repeats),
            attn_mask=window,
            dropout_p=dropout,
            scale=scale,
            is_causal=causal and window is None and group.length > 1,
        )
        mixed.append(part.transpose(1, 2).flatten(0, 1))  # (tokens, H, E)
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
    """torch's variable-length flash attention; query and result are (T, H, E)."""
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
