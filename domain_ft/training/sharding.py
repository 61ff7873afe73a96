"""FSDP2 (Zhao et al. 2023; torch's `fully_shard`): each process keeps a shard of the weights, gradients and moments.

A layer's weights are gathered while it runs, forward and backward, and then freed. The weights outside the layers
(embeddings, final norm, head) stay gathered during a micro-batch, since the fused loss reads the projection's weight
from outside its module. Communication does not round weights or gradients to a lower precision.

The model is sharded only during training. Before training (scoring the base) and after it (scoring, samples, saving,
merging) the model is unsharded, so that the code for these steps does not handle shards:

    shards = Shards.of(module, base.model, accelerator)    # now all processes must call module(inputs) together
    ...                                                    # build the optimiser, train
    base.model = shards.unsharded_model()
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from domain_ft.models.activation_checkpointing import repeated_layers


@dataclass(frozen=True)
class Shards:
    """A model that is sharded over all processes.

    Attributes:
        root: the module whose forward all processes must call together.
        model: the model in it, with sharded parameters.
        empty: an unsharded copy of the model whose parameters have no storage.
    """

    root: FSDPModule
    model: PreTrainedModel
    empty: PreTrainedModel

    @classmethod
    def of(cls, root: nn.Module, model: PreTrainedModel, accelerator: Accelerator) -> Shards:
        """Shard `root`, which contains `model`, in place. Its parameters are new objects afterwards."""
        empty = _without_storage(model)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        layers = repeated_layers(model)
        for unit in (*(layers if len(layers) > 1 else ()), root):  # ALBERT's one layer is called many times
            fully_shard(unit, mesh=mesh).set_force_sum_reduction_for_comms(True)  # gloo cannot average
        assert isinstance(root, FSDPModule)
        return cls(root, model, empty)

    def unsharded_model(self) -> PreTrainedModel:
        """The unsharded model with the current weights, on each process. All processes must call it, once."""
        sharded = dict(self.model.named_parameters())
        for name, empty in self.empty.named_parameters():
            full = nn.Parameter(unsharded(sharded[name].detach()), requires_grad=empty.requires_grad)
            torch.utils.swap_tensors(empty, full)  # in place, so that tied weights stay tied
        return self.empty


@contextlib.contextmanager
def gathered(shards: Shards | None) -> Iterator[None]:
    """Inside the block, a sharded model can be called without its root, but equally often on each process."""
    if shards is None:
        yield
        return
    shards.root.unshard()
    try:
        yield
    finally:
        shards.root.reshard()


def unsharded(tensor: Tensor) -> Tensor:
    """`tensor`, unsharded. All processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's shard of `tensor`, sharded like `like`; the whole tensor if `like` is not sharded."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _without_storage(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of `model` with its parameters on the meta device; buffers and hooks are copied as they are."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo)
