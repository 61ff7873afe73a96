"""Dropout masks that are regenerated, never stored: a pure function of (seed, row, column).

The mask of a seed is the same in the forward and the backward pass, on every backend and device, and for any block
size. No state of a random generator is kept.

    a_i = odd(mix(key + (2i + 1) γ))     an odd 32-bit number per row     key = mix(seed), γ = 2^64 / golden ratio
    b_j = odd(mix(key + (2j + 2) γ))     an odd 32-bit number per column  mix: splitmix64's finaliser
    kept(i, j)  =  a_i · b_j mod 2^32, read as a signed number,  >=  p · 2^32 - 2^31

Multiplication by an odd number permutes the odd residues, so each element is kept with probability 1 - p (to 2^-31).
Elements of one row, of one column, or at the corners of a rectangle are uncorrelated: a small integer combination of
random odd numbers is 0 mod 2^32 only with probability about 2^-32. A test measures all three. An element costs one
multiplication and one comparison, in registers on a GPU. On a CPU, a random generator took a quarter of the time of a
training step. mix: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_seed(seed: int | Tensor | None) -> Tensor:
    """The seed as an int64 tensor of no dimensions; None draws one from torch's default generator.

    Raises ValueError for any other tensor and for an int that int64 cannot hold.
    """
    if seed is None:
        return torch.randint(0, 2**62, (), dtype=torch.int64)
    if isinstance(seed, Tensor):
        if seed.dim() != 0 or seed.dtype != torch.int64:
            raise ValueError(
                f"seed has shape {tuple(seed.shape)} and dtype {seed.dtype}; expected () and torch.int64, or an int"
            )
        return seed
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed={seed}: expected -2**63 <= seed < 2**63")
    return torch.tensor(seed, dtype=torch.int64)


def keys(seed: Tensor, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The hashed keys of the rows, (rows, 1), and of the columns, (1, columns): odd int32 numbers on `device`."""
    key = _mix(seed.to(device))
    row = _mix(key + (2 * torch.arange(rows, device=device) + 1) * _signed(_GAMMA))
    column = _mix(key + (2 * torch.arange(columns, device=device) + 2) * _signed(_GAMMA))
    return _odd(row).unsqueeze(1), _odd(column).unsqueeze(0)


def threshold(p: float) -> int:
    """The smallest product of keys, as a signed 32-bit number, that keeps its element."""
    return min(round(p * 2**32), 2**32 - 1) - 2**31


def keep_mask(seed: Tensor, rows: int, columns: int, p: float, device: torch.device) -> Tensor:
    """The mask, (rows, columns) bool, True where an element is kept: the reference that the kernels must match."""
    row_keys, column_keys = keys(seed, rows, columns, device)
    return row_keys * column_keys >= threshold(p)


def keep_bits(row_keys: Tensor, column_keys: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """The mask as integers as wide as `dtype`, all ones where kept and zero where dropped, to AND with a value's bits.

    On a CPU this is several times faster than a bool mask, which every later operation would have to widen.
    """
    products = row_keys * column_keys
    bits = products if dtype.itemsize == 4 else torch.empty_like(products, dtype=_BITS[dtype.itemsize])
    return torch.ge(products, threshold(p), out=bits).neg_()


def apply_bits(x: Tensor, bits: Tensor, out: Tensor) -> Tensor:
    """Write x with its dropped elements zeroed (no scaling) to `out`, which may be x itself."""
    torch.bitwise_and(x.view(bits.dtype), bits, out=out.view(bits.dtype))
    return out


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _mix(z: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, a bijection: flipping an input bit flips about half of the output's bits."""
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, places: int) -> Tensor:
    """A logical right shift; >> on int64 copies the sign."""
    return (z >> places) & (2 ** (64 - places) - 1)


def _odd(z: Tensor) -> Tensor:
    return (z >> 32).to(torch.int32) | 1
