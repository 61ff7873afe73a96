"""How much memory training takes, counted before it starts, and how large a pass it leaves room for.

    resident already + gradients and moments of what trains + tensors that a micro-batch has alive at once

The second follows from the parameters. The third is counted, for any architecture: two small micro-batches of real text
go through the model, forward and backward, and after each op the bytes of all tensors that are alive are added up. Both
passes take the same ops, so what is alive after one of them grows along a line with the tokens, and a micro-batch of
any size takes what the highest of these lines says.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from domain_ft.corpus.batches import PackedBatch
from domain_ft.models.blockwise_attention import BLOCK
from domain_ft.objectives.base import Objective, TrainedModel
from domain_ft_kernels.linear_cross_entropy import WORKSPACE_BYTES
from domain_ft_kernels.stash import STASH_BYTES

SHARE = {"cpu": 0.5, "cuda": 0.85}
"""The share of the free memory that a run may plan with. A CPU's memory is everybody's, and its heap frays:
micro-batches of unequal sizes leave holes, so that a process holds more than it uses.
"""

SMALLEST_PASS = {"cpu": 128, "cuda": 1024}
"""Tokens. Where not even so many fit, activation checkpointing is tried. On a CPU it costs 35 to 50 %, and
micro-batches of 128 tokens 15 %; a GPU's number is not measured.
"""

LARGEST_PASS: dict[str, float] = {"cpu": 4096, "cuda": math.inf}
"""Tokens. On a CPU larger micro-batches are slower, as their activations leave its caches; a GPU only gains by them."""

ENOUGH = {"cpu": (1024, 2 * 2**30), "cuda": (math.inf, math.inf)}
"""Tokens and bytes. A micro-batch of more than both is no faster on a CPU, and the memory is better left to others."""

_HEAD_WORKSPACE = {"reference": 0, "torch": WORKSPACE_BYTES, "triton": STASH_BYTES}
"""The most that the head allocates inside its op, where it cannot be counted."""

ATTENTION_WORKSPACE = 3 * BLOCK * torch.float32.itemsize
"""The most that a block of attention takes on a CPU (P, dP and dS), however short the sequences that are counted
with."""

_COUNTED_LENGTH = 16
_COUNTED_LENGTH_WITH_SCORES = 512
"""The most tokens of a sequence that is counted with. A token costs the same at any length, unless attention keeps a
score for each pair of tokens.
"""


@dataclass(frozen=True)
class MicroBatchMemory:
    """The tensors that a micro-batch has alive at once, beside the parameters and their gradients.

    Attributes:
        lines: (moments, 2) float64; at each moment of a micro-batch, the bytes that do not depend on the number of
            tokens, and those of each token.
        workspace: bytes that the ops allocate for themselves alone, where they cannot be counted, at most.
    """

    lines: npt.NDArray[np.float64]
    workspace: int = 0

    def of(self, tokens: int) -> int:
        """The most bytes at any moment of a micro-batch of so many tokens."""
        return self.workspace + max(0, math.ceil((self.lines @ [1, tokens]).max()))


@dataclass(frozen=True)
class MicroBatchPlan:
    """How the tokens of a step go through the model.

    Attributes:
        tokens_per_micro_batch: at most; a longer sequence has a micro-batch of its own.
        activation_checkpointing: whether layers are computed again in the backward pass.
        reason: why, in words.
        asked_for: whether the number of tokens was given.
        fits: False where it is likely that memory runs out.
    """

    tokens_per_micro_batch: int
    activation_checkpointing: bool
    reason: str
    asked_for: bool
    fits: bool = True


@dataclass(frozen=True)
class MicroBatchLimits:
    """What a plan has to keep to.

    Attributes:
        step_tokens: of a step, on one process.
        longest: tokens of the longest sequence, which no pass can cut.
        device: `cpu` or `cuda`.
        free_bytes: memory that this process may still take.
        state_bytes: what gradients and moments will take of it.
    """

    step_tokens: int
    longest: int
    device: str
    free_bytes: int
    state_bytes: int

    @property
    def usable_bytes(self) -> int:
        """The share of the free memory that is planned with."""
        return int(SHARE[self.device] * self.free_bytes)

    def needed(self, memory: MicroBatchMemory, tokens: int) -> int:
        """Bytes that training with micro-batches of so many tokens takes beside what is resident already."""
        return self.state_bytes + memory.of(max(tokens, self.longest))

    def fit(self, memory: MicroBatchMemory, tokens: int) -> bool:
        """Whether there is room for that."""
        return self.needed(memory, tokens) <= self.usable_bytes

    def sizes(self, memory: MicroBatchMemory) -> list[int]:
        """Tokens that a micro-batch may have, falling: for a step in one pass, in two, in three, and at last sequence
        by sequence.

        Each has room for the sequence that lies across the border, so that the micro-batches of a step are about even.
        None is larger than it is good for.
        """
        found, micro_batches = [], 1
        enough_tokens, enough_bytes = ENOUGH[self.device]
        while (even := -(-self.step_tokens // micro_batches)) > self.longest:
            size = even + self.longest
            if even <= enough_tokens or (even <= LARGEST_PASS[self.device] and memory.of(size) <= enough_bytes):
                found.append(size)
            micro_batches += 1
        return [*found, self.longest]

    def largest(self, memory: MicroBatchMemory, sizes: Iterable[int]) -> int | None:
        """The first of falling sizes that fits; None where none does."""
        return next((size for size in sizes if self.fit(memory, size)), None)


def plan_micro_batches(
    limits: MicroBatchLimits,
    measure: Callable[[bool], MicroBatchMemory],
    *,
    tokens_per_micro_batch: int | None,
    activation_checkpointing: Literal["auto", "on", "off"],
    can_checkpoint: bool = True,
) -> MicroBatchPlan:
    """The largest micro-batch that fits, and activation checkpointing where it would be smaller than SMALLEST_PASS
    without.

    Args:
        limits: what it has to keep to.
        measure: counts the memory of a micro-batch, with activation checkpointing or without; called only where it
        matters.
        tokens_per_micro_batch: taken as it is, where it is given.
        activation_checkpointing: `auto`, or what was asked for.
        can_checkpoint: whether the model has layers that can be computed again.
    """
    if not can_checkpoint:
        activation_checkpointing = "off"
    given = tokens_per_micro_batch is not None
    if tokens_per_micro_batch is not None and activation_checkpointing != "auto":
        return MicroBatchPlan(tokens_per_micro_batch, activation_checkpointing == "on", "both were asked for", given)

    def sizes(memory: MicroBatchMemory) -> list[int]:
        return limits.sizes(memory) if tokens_per_micro_batch is None else [tokens_per_micro_batch]

    def plan(on: bool, memory: MicroBatchMemory, size: int | None, reason: str = "") -> MicroBatchPlan:
        chosen = size or sizes(memory)[-1]
        return MicroBatchPlan(chosen, on, _room(limits, memory, chosen) + reason, given, fits=size is not None)

    reason = ""
    if activation_checkpointing != "on":
        without = measure(False)
        falling = sizes(without)
        floor = min(falling[0], max(falling[-1], SMALLEST_PASS[limits.device]))
        least = floor if activation_checkpointing == "auto" else 0
        size = limits.largest(without, [size for size in falling if size >= least])
        if size is not None or activation_checkpointing == "off":
            return plan(False, without, size)
        reason = f"; without it, {floor:,} tokens would take {gib(limits.needed(without, floor))}"
    memory = measure(True)
    return plan(True, memory, limits.largest(memory, sizes(memory)), reason)


def _room(limits: MicroBatchLimits, memory: MicroBatchMemory, tokens: int) -> str:
    share = f"{SHARE[limits.device]:.0%} of {gib(limits.free_bytes)} of free memory may be used"
    return f"{share}; {tokens:,} tokens take {gib(limits.needed(memory, tokens))}"


def gib(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**30:.1f} GiB"


# --- Counting ---------------------------------------------------------------------------------------------------------


def training_state_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Bytes that gradients and AdamW's two moments take, for those of `parameters` that train."""
    return sum(3 * p.numel() * p.element_size() for p in parameters if p.requires_grad)


def measure_micro_batch(
    base: TrainedModel,
    objective: Objective,
    sequence: PackedBatch,
    *,
    kernels: str,
    autocast: Callable[[], AbstractContextManager[Any]],
    keeps_scores: bool = False,
) -> MicroBatchMemory:
    """Count what a micro-batch of `base` takes, as the model is now, by two small ones.

    Gradients of the parameters are None when this returns.

    Args:
        base: in training mode, with all that trains in it.
        objective: what is asked of it.
        sequence: a single sequence of text; the longest that a micro-batch will have says most.
        kernels: the backend of the ops, resolved.
        autocast: gives the context of a forward pass.
        keeps_scores: attention keeps scores, as it does with dropout in it and where sequences are padded.
    """
    length = min(sequence.tokens, _COUNTED_LENGTH_WITH_SCORES if keeps_scores else _COUNTED_LENGTH)
    lengths = [length, max(1, length - 1)]  # two lengths, as attention has a tensor more where there is more than one
    parameters = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    histories, tokens = [], []
    for copies in (
        (1, 2) if keeps_scores else (2, 4)
    ):  # long sequences are dear; a single one is not laid out as two are
        batch = sequence.repeated([each for each in lengths for _ in range(copies)])
        inputs = objective.prepare(batch, 0).to(base.device)
        for parameter in parameters:  # as in every micro-batch of a step but the first
            parameter.grad = torch.zeros_like(parameter)
        with LiveBytes() as live:
            with autocast():
                loss = objective.loss(base, inputs)
            loss.backward()
            del loss
        histories.append(live.history)
        tokens.append(batch.tokens)
    for parameter in parameters:
        parameter.grad = None
    if len(histories[0]) != len(histories[1]):  # a model whose ops depend on the text: the line through the peaks
        histories = [[max(history)] for history in histories]
    first, second = (np.array(history, dtype=np.float64) for history in histories)
    workspace = _HEAD_WORKSPACE[kernels] + (ATTENTION_WORKSPACE if base.device.type == "cpu" else 0)
    per_token = (second - first) / (tokens[1] - tokens[0])
    return MicroBatchMemory(np.stack([first - per_token * tokens[0], per_token], axis=1), workspace)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside the block: those alive now, and the most at once.

    A storage counts once, however many tensors look at it, from the op that returns it until nothing holds it: neither
    Python nor autograd. What an op allocates for itself alone is not seen.

    Attributes:
        live: bytes alive.
        history: what was alive after each op.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.history: list[int] = []
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):  # what was there before the block shows first as an argument
            self._add(storage, 0)
        result = function(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._add(storage, storage.nbytes())
        self.history.append(self.live)
        return result

    def _add(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.live += size
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))


# --- What is free -----------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take: of a GPU what is free or kept by PyTorch for itself; of the machine what
    is available, within the limits of the process's control groups, which a container's limit is one of.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min([int(psutil.virtual_memory().available), *_control_groups(Path("/"))])


def _control_groups(root: Path) -> Iterator[int]:
    """The bytes left in each control group around this process that has a limit; nothing where there are none.

    In version 2 (https://docs.kernel.org/admin-guide/cgroup-v2.html) and version 1. File pages that were not read
    lately are given back when memory is short, so they count as free.
    """
    versions = {
        "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in versions:
                continue
            mounted, limit_name, usage_name, reclaimable = versions[controller]
            top = root / mounted
            inner = top / path.lstrip("/")  # absent in a container, which sees its own group as the top
            for folder in (inner, *inner.parents):
                limit, usage = _read(folder / limit_name).strip(), _read(folder / usage_name).strip()
                if limit.isdigit() and usage.isdigit():
                    statistics = dict(entry.split() for entry in _read(folder / "memory.stat").splitlines())
                    yield max(0, int(limit) - int(usage) + int(statistics.get(reclaimable, 0)))
                if folder == top:
                    break


def _read(path: Path) -> str:
    """The text of a file of the kernel's, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
