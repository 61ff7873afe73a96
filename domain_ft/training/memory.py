"""How much memory training needs, computed before it starts, and the micro-batch size that fits.

    memory in use + gradients and moments of the trainable parameters + tensors alive at once in a micro-batch

The second term follows from the parameters. The third is counted, for any architecture: two small micro-batches of real
text go through the model, forward and backward, and the bytes of all live tensors are summed after each op. Both run
the same ops, and the bytes alive after an op are linear in the number of tokens. So two sizes give one line per op, and
a micro-batch of any size needs the maximum over these lines.
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
"""The share of the free memory that a run may use. On a CPU other programs need memory too, and the heap fragments:
after micro-batches of unequal sizes a process holds more memory than it uses.
"""

SMALLEST_MICRO_BATCH = {"cpu": 128, "cuda": 1024}
"""In tokens. If fewer fit, activation checkpointing is tried: on a CPU a micro-batch of the same size then takes 35 to
50 % longer, whereas micro-batches of 128 tokens cost only 15 %. The value for a GPU has not been tuned.
"""

LARGEST_MICRO_BATCH: dict[str, float] = {"cpu": 4096, "cuda": math.inf}
"""In tokens, besides the longest sequence. On a CPU larger micro-batches are no faster."""

ENOUGH = {"cpu": (1024, 2 * 2**30), "cuda": (math.inf, math.inf)}
"""Tokens and bytes. Beyond both, a larger micro-batch is no faster on a CPU, but takes memory from other programs."""

_HEAD_WORKSPACE = {"reference": 0, "torch": WORKSPACE_BYTES, "triton": STASH_BYTES}
"""By backend: the most bytes of logits that the loss allocates inside its op, where they cannot be counted."""

ATTENTION_WORKSPACE = 3 * BLOCK * torch.float32.itemsize
"""The bytes that attention allocates on a CPU for a block of BLOCK scores: P, dP and dS in float32."""

_COUNTED_LENGTH = 16
_COUNTED_LENGTH_WITH_SCORES = 512
"""The longest sequences to measure with, in tokens. Memory per token does not depend on the length of the sequence,
unless attention keeps a score for each pair of tokens.
"""


@dataclass(frozen=True)
class MicroBatchMemory:
    """The memory of the tensors in a micro-batch, without the parameters and their gradients.

    Attributes:
        lines: (ops, 2) float64, of the tensors alive after each op: the bytes that do not depend on the number of
            tokens, and the bytes per token.
        workspace: upper bound of the bytes that ops allocate internally, where they cannot be counted.
    """

    lines: npt.NDArray[np.float64]
    workspace: int = 0

    def of(self, tokens: int) -> int:
        """The peak bytes of a micro-batch of this many tokens."""
        return self.workspace + max(0, math.ceil((self.lines @ [1, tokens]).max()))


@dataclass(frozen=True)
class MicroBatchPlan:
    """How the tokens of a step go through the model.

    Attributes:
        tokens_per_micro_batch: the most tokens in a micro-batch; a longer sequence is a micro-batch by itself.
        activation_checkpointing: whether layers are recomputed in the backward pass.
        reason: the reason for this choice, in words.
        asked_for: whether the user gave the number of tokens.
        fits: False if memory will probably run out.
    """

    tokens_per_micro_batch: int
    activation_checkpointing: bool
    reason: str
    asked_for: bool
    fits: bool = True


@dataclass(frozen=True)
class MicroBatchLimits:
    """The limits of a plan.

    Attributes:
        step_tokens: tokens of a step on one process.
        longest: tokens of the longest sequence, which cannot be split.
        device: `cpu` or `cuda`.
        free_bytes: memory that this process can still allocate.
        state_bytes: bytes of the gradients and the optimiser's moments.
    """

    step_tokens: int
    longest: int
    device: str
    free_bytes: int
    state_bytes: int

    @property
    def usable_bytes(self) -> int:
        """The free bytes that training may use."""
        return int(SHARE[self.device] * self.free_bytes)

    def needed(self, memory: MicroBatchMemory, tokens: int) -> int:
        """Bytes that training with micro-batches of this many tokens adds to the memory in use."""
        return self.state_bytes + memory.of(max(tokens, self.longest))

    def fit(self, memory: MicroBatchMemory, tokens: int) -> bool:
        """Whether micro-batches of this many tokens fit."""
        return self.needed(memory, tokens) <= self.usable_bytes

    def sizes(self, memory: MicroBatchMemory) -> list[int]:
        """Candidate sizes of a micro-batch in tokens, largest first: a step in one, two, three micro-batches, and so
        on, down to the longest sequence.

        Each but the last is an even share of the step plus the longest sequence, so that a step is cut into about equal
        micro-batches. Sizes that are no faster than smaller ones are left out.
        """
        sizes, micro_batches = [], 1
        enough_tokens, enough_bytes = ENOUGH[self.device]
        while (even := -(-self.step_tokens // micro_batches)) > self.longest:
            size = even + self.longest
            if even <= enough_tokens or (even <= LARGEST_MICRO_BATCH[self.device] and memory.of(size) <= enough_bytes):
                sizes.append(size)
            micro_batches += 1
        return [*sizes, self.longest]

    def largest(self, memory: MicroBatchMemory, sizes: Iterable[int]) -> int | None:
        """The first of `sizes`, which are sorted largest first, that fits; None if none does."""
        return next((size for size in sizes if self.fit(memory, size)), None)


def plan_micro_batches(
    limits: MicroBatchLimits,
    measure: Callable[[bool], MicroBatchMemory],
    *,
    tokens_per_micro_batch: int | None,
    activation_checkpointing: Literal["auto", "on", "off"],
    can_checkpoint: bool = True,
) -> MicroBatchPlan:
    """The largest micro-batch that fits, or the user's choice.

    With `auto`, activation checkpointing is on if SMALLEST_MICRO_BATCH, or the user's choice, does not fit without it.

    Args:
        limits: the limits of the plan.
        measure: counts the memory of a micro-batch, with activation checkpointing if its argument is True; called only
            if needed.
        tokens_per_micro_batch: the user's choice, or None.
        activation_checkpointing: the user's choice, or `auto`.
        can_checkpoint: whether the model has layers that can be recomputed.
    """
    if not can_checkpoint:
        activation_checkpointing = "off"
    fixed = tokens_per_micro_batch is not None
    if tokens_per_micro_batch is not None and activation_checkpointing != "auto":
        reason = "the settings give both" if can_checkpoint else "given, and the model has no layers to recompute"
        return MicroBatchPlan(tokens_per_micro_batch, activation_checkpointing == "on", reason, fixed)

    def sizes(memory: MicroBatchMemory) -> list[int]:
        return limits.sizes(memory) if tokens_per_micro_batch is None else [tokens_per_micro_batch]

    def plan(on: bool, memory: MicroBatchMemory, size: int | None, reason: str = "") -> MicroBatchPlan:
        chosen = size or sizes(memory)[-1]
        return MicroBatchPlan(chosen, on, _memory_text(limits, memory, chosen) + reason, fixed, fits=size is not None)

    reason = ""
    if activation_checkpointing != "on":
        without = measure(False)
        falling = sizes(without)
        floor = min(falling[0], max(falling[-1], SMALLEST_MICRO_BATCH[limits.device]))
        least = floor if activation_checkpointing == "auto" else 0
        size = limits.largest(without, [size for size in falling if size >= least])
        if size is not None or activation_checkpointing == "off":
            return plan(False, without, size)
        reason = f"; without activation checkpointing, {floor:,} tokens would take {gib(limits.needed(without, floor))}"
    memory = measure(True)
    return plan(True, memory, limits.largest(memory, sizes(memory)), reason)


def _memory_text(limits: MicroBatchLimits, memory: MicroBatchMemory, tokens: int) -> str:
    share = f"{SHARE[limits.device]:.0%} of {gib(limits.free_bytes)} of free memory may be used"
    return f"{share}; {tokens:,} tokens take {gib(limits.needed(memory, tokens))}"


def gib(size: int) -> str:
    """Bytes in GiB, for messages."""
    return f"{size / 2**30:.1f} GiB"


# --- Counting ---------------------------------------------------------------------------------------------------------


def training_state_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of the gradients and AdamW's two moments of the trainable `parameters`."""
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
    """Count the memory of a micro-batch of `base` by running two small ones.

    The parameters' gradients are None afterwards.

    Args:
        base: in training mode, with its adapter.
        objective: the loss.
        sequence: a single sequence of text, preferably the longest that a micro-batch will have.
        kernels: the backend of the ops, not `auto`.
        autocast: returns the context of a forward pass.
        keeps_scores: whether attention keeps its scores for the backward pass, as with dropout or padded batches.
    """
    length = min(sequence.tokens, _COUNTED_LENGTH_WITH_SCORES if keeps_scores else _COUNTED_LENGTH)
    lengths = [length, max(1, length - 1)]  # two lengths, since attention makes one more tensor for unequal ones
    parameters = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    histories, tokens = [], []
    # Long sequences are expensive, so use fewer copies. A single copy of a short sequence has another memory layout.
    for copies in (1, 2) if keeps_scores else (2, 4):
        batch = sequence.repeated([each for each in lengths for _ in range(copies)])
        inputs = objective.prepare(batch, 0).to(base.device)
        for parameter in parameters:  # gradients exist in every micro-batch of a step but the first
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
    if len(histories[0]) != len(histories[1]):  # the ops depend on the text: use the line through the peaks
        histories = [[max(history)] for history in histories]
    first, second = (np.array(history, dtype=np.float64) for history in histories)  # (ops,) each
    workspace = _HEAD_WORKSPACE[kernels] + (ATTENTION_WORKSPACE if base.device.type == "cpu" else 0)
    per_token = (second - first) / (tokens[1] - tokens[0])  # (ops,)
    return MicroBatchMemory(np.stack([first - per_token * tokens[0], per_token], axis=1), workspace)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors that were made inside the block.

    A storage counts once, however many tensors view it, from the op that returns it until neither Python nor autograd
    refers to it. What an op allocates internally is not counted.

    Attributes:
        live: bytes alive now.
        history: bytes alive after each op.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.history: list[int] = []
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):  # tensors from before the block first appear as arguments
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


# --- Free memory ------------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate.

    On a GPU: free, or cached by PyTorch. On the CPU: available, and within the limits of the process's control groups
    (a container's memory limit is one).
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min([int(psutil.virtual_memory().available), *_control_groups(Path("/"))])


def _control_groups(root: Path) -> Iterator[int]:
    """The bytes left in each control group of this process that has a limit.

    Versions 1 and 2 (https://docs.kernel.org/admin-guide/cgroup-v2.html). Inactive file pages count as free, since the
    kernel reclaims them when memory is short.
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
            inner = top / path.lstrip("/")  # absent in a container, where the process's own group is the top
            for folder in (inner, *inner.parents):
                limit, usage = _read(folder / limit_name).strip(), _read(folder / usage_name).strip()
                if limit.isdigit() and usage.isdigit():
                    statistics = dict(entry.split() for entry in _read(folder / "memory.stat").splitlines())
                    yield max(0, int(limit) - int(usage) + int(statistics.get(reclaimable, 0)))
                if folder == top:
                    break


def _read(path: Path) -> str:
    """The text of a kernel file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
