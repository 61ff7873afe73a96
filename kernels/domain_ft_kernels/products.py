"""Matrix products of the torch backend, by the fastest library in torch.

On x86 torch multiplies float32 matrices with MKL, which on AMD's processors leaves half of AVX-512 unused: 190 GFLOP/s
on two Zen 5 cores where oneDNN reaches 430. torch itself uses oneDNN for bfloat16; for float32 it can be called through
an op of torch.compile's CPU backend. On other machines, and for other types, torch.mm or torch.addmm runs.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor

_THIN = 64
"""Products with a smaller inner dimension are memory-bound: there, adding in place matters more than the library."""


@functools.cache
def has_onednn() -> bool:
    """Whether oneDNN can be called for float32 products on this machine."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether oneDNN can use instructions of this CPU that multiply bfloat16 faster than float32 (AVX512-BF16, AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return has_onednn() and any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def mm(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b + bias, (m, n), for a (m, k), b (k, n) and bias (n,), all of one type."""
    if _by_onednn(a, b):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a.contiguous(), b.t(), bias, "none", [], "")
        return product
    return torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)


def add_mm_(sums: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    """Add alpha · a b to sums (m, n), in place."""
    if a.dtype == torch.float32 and a.shape[1] >= _THIN and _by_onednn(a, b):
        return sums.add_(mm(a, b), alpha=alpha)
    return sums.addmm_(a, b, alpha=alpha)


def _by_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN supports this product and is fast at it, given that `mm` copies a non-contiguous `a`."""
    if a.device.type != "cpu" or not has_onednn():
        return False
    if a.dtype != torch.float32 and not (a.dtype == torch.bfloat16 and has_fast_bfloat16()):
        return False
    if not (a.numel() and b.numel() and (b.is_contiguous() or b.t().is_contiguous())):
        return False
    return a.is_contiguous() or 4 * a.numel() <= b.numel()
