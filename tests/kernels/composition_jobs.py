"""A small network of the linear ops, and a job that trains it in several processes, for test_composition.py.

Each rank reads its own rows; rank 0 writes the gradients of the sum of all losses to FOLDER/gradients.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from domain_ft_kernels import linear_cross_entropy, lora_linear, lora_linear_group

ROWS, HIDDEN, CLASSES = 40, 24, 50
DROPOUT = 0.3
IGNORED = -100


class Adapted(nn.Module):
    """The parameters of a frozen linear layer with a trainable update. The block that owns them runs the op."""

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.randn(outputs, rank))


class Block(nn.Module):
    """Two projections of the same input in one call, and one of their gated product."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.one, self.two, self.three = Adapted(20, HIDDEN, 3), Adapted(20, HIDDEN, 5), Adapted(HIDDEN, 20, 4)

    def forward(self, x: Tensor, seed: Tensor) -> Tensor:
        """Map x (rows, HIDDEN) to the same shape."""
        pair = (self.one, self.two)
        one, two = lora_linear_group(
            x,
            [layer.base.weight for layer in pair],
            [layer.base.bias for layer in pair],
            [layer.a for layer in pair],
            [layer.b for layer in pair],
            [0.5, 0.7],
            dropout_p=DROPOUT,
            seed=seed,
            backend=self.backend,
        )
        three, options = self.three, {"dropout_p": DROPOUT, "seed": seed + 1, "backend": self.backend}
        return lora_linear(F.silu(one) * two, three.base.weight, three.base.bias, three.a, three.b, 0.3, **options)


class Network(nn.Module):
    """Two blocks and a head. Only the updates, the norm and the head's bias are trained."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.norm = nn.LayerNorm(HIDDEN)
        self.blocks = nn.ModuleList(Block(backend) for _ in range(2))
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.head.weight.requires_grad_(False)

    def forward(self, x: Tensor, target: Tensor, seed: Tensor) -> Tensor:
        """The sum of the losses of the rows of x (rows, HIDDEN) that `target` (rows,) labels."""
        for number, block in enumerate(self.blocks):
            x = x + block(self.norm(x), seed + 10 * number)
        return linear_cross_entropy(
            self.norm(x), self.head.weight, target, self.head.bias, label_smoothing=0.1, backend=self.backend
        )


def network(backend: str) -> Network:
    """A network with the same values for every backend and process."""
    torch.manual_seed(4)
    return Network(backend)


def rows(rank: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A rank's x, targets (a third of them ignored) and dropout seed."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(ROWS, HIDDEN, generator=generator)
    target = torch.randint(CLASSES, (ROWS,), generator=generator)
    target[torch.rand(ROWS, generator=generator) < 1 / 3] = IGNORED
    return x, target, torch.tensor(70 + rank)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The full gradients, by parameter name."""
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in named.items()}


def train(backend: str, wrapper: str) -> dict[str, Tensor]:
    """The gradients of the sum of all ranks' losses, from the second of two passes; those of the first are dropped.

    The wrapper is freed when this function returns. If it outlived the process group, its destructor would hold the GIL
    while it waits for gloo's threads, one of which may be waiting for the GIL.
    """
    model = network(backend)
    if wrapper == "ddp":
        wrapped: nn.Module = DistributedDataParallel(model)
    else:
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        wrapped = model
    for _ in range(2):  # the second pass gathers again what the first freed
        model.zero_grad()
        (dist.get_world_size() * wrapped(*rows(dist.get_rank()))).backward()  # both wrappers average over ranks
    return gradients(model)


def train_together(folder: Path, wrapper: str, backend: str) -> None:
    """The program of each rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = train(backend, wrapper)
    if dist.get_rank() == 0:
        save_file(found, folder / "gradients.safetensors")
    dist.barrier()
    dist.destroy_process_group()
