"""The dropout mask: its formula, its rate, the independence of its elements, and its seeds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domain_ft_kernels import dropout

CPU = torch.device("cpu")
PINNED = ["###..##.####.##.", ".....##...#.#.##", "..###..#..#....#", "##.#...##..#.###"]


def mask(seed: int, rows: int, columns: int, p: float) -> torch.Tensor:
    return dropout.keep_mask(torch.tensor(seed), rows, columns, p, CPU)


def splitmix64(z: int) -> int:
    """The finaliser in Python's unbounded integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def kept(seed: int, row: int, column: int, p: float) -> bool:
    """The formulas of `dropout.py`, one element at a time, in Python's unbounded integers."""
    gamma, key = 0x9E3779B97F4A7C15, splitmix64(seed % 2**64)
    a = splitmix64((key + (2 * row + 1) * gamma) % 2**64) >> 32 | 1
    b = splitmix64((key + (2 * column + 2) * gamma) % 2**64) >> 32 | 1
    product = a * b % 2**32
    signed = product - 2**32 if product >= 2**31 else product
    return signed >= round(p * 2**32) - 2**31


@given(st.integers(-(2**63), 2**63 - 1), st.floats(0.0, 0.99))
@settings(max_examples=30, deadline=None)
def test_the_mask_follows_the_formula_of_the_module(seed: int, p: float) -> None:
    wanted = [[kept(seed, row, column, p) for column in range(5)] for row in range(7)]
    assert mask(seed, 7, 5, p).tolist() == wanted


def test_the_mask_does_not_change_between_versions() -> None:
    """Runs resume bit for bit only if the mask of a seed never changes."""
    rows = ["".join("#" if keep else "." for keep in row) for row in mask(2024, 4, 16, 0.5).tolist()]
    assert rows == PINNED


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_mask_keeps_the_stated_share(p: float) -> None:
    shares = torch.tensor([mask(seed, 256, 384, p).double().mean() for seed in range(50)])
    elements = 50 * 256 * 384
    assert abs(shares.mean() - (1 - p)) < 5 * (p * (1 - p) / elements) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_elements_are_uncorrelated(p: float) -> None:
    """In a row, in a column, and at the four corners of a rectangle: these elements share keys."""
    centred = torch.stack([mask(seed, 64, 64, p) for seed in range(400)]).double() - (1 - p)
    centred /= (p * (1 - p)) ** 0.5
    rows = torch.einsum("sij,skj->sik", centred, centred)  # Σ_j over products of two elements of a column
    columns = torch.einsum("sij,sik->sjk", centred, centred)
    apart = ~torch.eye(64, dtype=torch.bool)
    for products in (rows, columns):
        pairs = products[:, apart] / 64
        assert abs(pairs.mean()) < 5 / (pairs.numel() / 2 * 64) ** 0.5
    # Σ over k != i and j != l of z_ij z_il z_kj z_kl, from the squares of the sums over j
    corners = (rows**2 - torch.einsum("sij,skj->sik", centred**2, centred**2))[:, apart]
    count = corners.numel() * 64 * 63
    assert abs(corners.sum() / count) < 5 / (count / 4) ** 0.5


def test_neighbouring_seeds_give_unrelated_masks() -> None:
    flat = torch.stack([mask(seed, 64, 64, 0.5).flatten() for seed in range(64)]).double() * 2 - 1
    correlations = (flat @ flat.t() / flat.shape[1])[~torch.eye(64, dtype=torch.bool)]
    assert correlations.abs().max() < 5.5 / 64
    assert correlations.std() < 1.1 / 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_bits_are_the_mask(dtype: torch.dtype) -> None:
    x = torch.randn(33, 17).to(dtype)
    bits = dropout.keep_bits(*dropout.keys(torch.tensor(3), 33, 17, CPU), 0.3, dtype)
    dropped = dropout.apply_bits(x, bits, out=torch.empty_like(x))
    assert torch.equal(dropped, x.where(mask(3, 33, 17, 0.3), 0))


def test_extreme_probabilities_keep_all_or_nearly_nothing() -> None:
    assert mask(1, 100, 100, 0.0).all()
    assert mask(1, 100, 100, 1e-12).all()
    assert mask(1, 1000, 100, 1 - 1e-6).double().mean() < 1e-3


def test_a_mask_may_have_no_rows() -> None:
    assert mask(1, 0, 5, 0.5).shape == (0, 5)


def test_a_missing_seed_is_drawn_from_torchs_generator() -> None:
    torch.manual_seed(11)
    first, second = dropout.as_seed(None), dropout.as_seed(None)
    torch.manual_seed(11)
    assert first == dropout.as_seed(None)
    assert first != second


@pytest.mark.parametrize("seed", [torch.tensor([1]), torch.tensor(1.0)])
def test_a_wrong_seed_is_refused(seed: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"seed has shape .* expected \(\) and torch.int64"):
        dropout.as_seed(seed)


def test_a_seed_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="seed=9223372036854775808: expected"):
        dropout.as_seed(2**63)
