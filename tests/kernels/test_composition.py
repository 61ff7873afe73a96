"""The linear ops under compilation, autocast, activation checkpointing and several processes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import torch._dynamo.testing
from composition_jobs import IGNORED, gradients, network, rows, train_together
from kernel_checks import assert_as_exact_as
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

NO_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
BACKENDS = ["torch", pytest.param("triton", marks=NO_TRITON)]

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def outcome(backend: str, wrap: Callable[[Any], Any] = lambda model: model, dtype: torch.dtype | None = None) -> Any:
    """The loss and all gradients by name, with what `wrap` makes of the network."""
    model = network(backend).to(dtype)
    x, *rest = rows()
    x = x.to(dtype).requires_grad_()
    loss = wrap(model)(x, *rest)
    loss.backward()
    assert x.grad is not None
    return {"loss": loss.detach(), "x": x.grad, **gradients(model)}


def assert_equal_to_rounding(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-5 * tensor.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_whole_equals_eager(backend: str, compiler: str) -> None:
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend(compiler)
    assert (rows()[1] == IGNORED).any()
    compiled = outcome(backend, lambda model: torch.compile(model, backend=graphs, fullgraph=True))
    assert_equal_to_rounding(compiled, outcome(backend))
    assert graphs.frame_count == 1


def test_autocast_is_as_exact_as_in_the_reference(backend: str) -> None:
    exact = outcome("reference", dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference, found = outcome("reference"), outcome(backend)
    assert found["loss"].dtype == torch.float32
    # The tensors are float32, but two blocks rounded to bfloat16: in bfloat16, its epsilon is allowed as an error.
    rounding = {name: tensor.to(torch.bfloat16) for name, tensor in found.items()}
    coarse = {name: tensor.to(torch.bfloat16) for name, tensor in reference.items()}
    assert_as_exact_as(list(rounding.values()), list(coarse.values()), list(exact.values()), roundings=2)


@pytest.mark.slow
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_draws_the_same_masks(backend: str, use_reentrant: bool) -> None:
    calls = 0

    def checkpointed(model: Any) -> Any:
        for block in model.blocks:
            block.forward = lambda *inputs, real=block.forward: recompute(real, *inputs)
        return model

    def recompute(real: Any, *inputs: Tensor) -> Any:
        def counted(*inputs: Tensor) -> Any:
            nonlocal calls
            calls += 1
            return real(*inputs)

        return checkpoint(counted, *inputs, use_reentrant=use_reentrant)

    found, expected = outcome(backend, checkpointed), outcome(backend)
    assert calls == 4
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_two_processes_add_their_gradients(backend: str, wrapper: str, tmp_path: Path) -> None:
    finished = forked.run(
        train_together, tmp_path, wrapper, backend, ranks=2, said=tmp_path / "said", OMP_NUM_THREADS="1"
    )
    assert not any(finished.codes), finished.stderr
    model = network("reference")
    for rank in range(2):
        model(*rows(rank)).backward()
    assert_equal_to_rounding(load_file(tmp_path / "gradients.safetensors"), gradients(model))
