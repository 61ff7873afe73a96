"""The torch backend's matrix products, whichever library computes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES
from torch import Tensor

from domain_ft_kernels import products
from domain_ft_kernels.products import add_mm_, mm

SIZES = st.sampled_from([1, 2, 3, 7, 16, 33, 64, 130])


def laid_out(shape: tuple[int, int], how: str, dtype: torch.dtype) -> Tensor:
    """A random matrix, stored row by row, column by column, or with gaps between the rows."""
    rows, columns = shape
    if how == "columns":
        return torch.randn(columns, rows).to(dtype).t()
    if how == "gaps":
        return torch.randn(rows, columns + 3).to(dtype)[:, 1:-2]
    return torch.randn(shape).to(dtype)


@given(SIZES, SIZES, SIZES, st.sampled_from(["rows", "columns", "gaps"]), st.sampled_from(["rows", "columns", "gaps"]))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_any_layout_and_size(dtype: torch.dtype, m: int, k: int, n: int, left: str, right: str) -> None:
    """The error is at most that of a sum of k products in the accumulation type and of rounding the result."""
    torch.manual_seed(m * 1000 + k * 10 + n)
    a, b, bias, sums = laid_out((m, k), left, dtype), laid_out((k, n), right, dtype), torch.randn(n), torch.randn(m, n)
    bias, sums = bias.to(dtype), sums.to(dtype)
    exact = a.double() @ b.double()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    magnitude = a.double().abs() @ b.double().abs() + bias.double().abs() + 2 * sums.double().abs()
    bound = ((k + 2) * torch.finfo(wide).eps + torch.finfo(dtype).eps) * magnitude
    assert ((mm(a, b).double() - exact).abs() <= bound).all()
    assert ((mm(a, b, bias).double() - exact - bias.double()).abs() <= bound).all()
    given_sums = sums.clone()
    added = add_mm_(sums, a, b, alpha=0.5)
    assert added is sums
    assert ((added.double() - given_sums.double() - 0.5 * exact).abs() <= bound).all()
    assert mm(a, b).dtype == dtype


def test_empty_products() -> None:
    assert mm(torch.randn(0, 3), torch.randn(3, 4)).shape == (0, 4)
    assert torch.equal(mm(torch.randn(2, 0), torch.randn(0, 4), torch.ones(4)), torch.ones(2, 4))


def test_without_onednn_torch_computes_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without oneDNN, `mm` with a bias is torch.addmm; the product is the same up to float32 rounding."""
    a, b, bias = torch.randn(40, 70), torch.randn(70, 30), torch.randn(30)
    before = mm(a, b, bias)
    monkeypatch.setattr(products, "has_onednn", lambda: False)
    assert torch.equal(mm(a, b, bias), torch.addmm(bias, a, b))
    torch.testing.assert_close(before, mm(a, b, bias))
