"""A frozen model's features of a task's texts, cached: the mean over tokens of each layer's hidden states."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from adaptation.tasks import Task
from torch import Tensor

from domain_ft.corpus.examples import Example
from domain_ft.corpus.packing import micro_batches
from domain_ft.corpus.tasks.rows import encode
from domain_ft.embedded.loading import load_task_model
from domain_ft.models.activation_checkpointing import repeated_layers
from domain_ft.models.modes import evaluating
from domain_ft.models.task_model import TaskModel
from domain_ft.objectives.classification import ClassificationObjective, TaskInputs

MAX_LENGTH = 96
_TOKENS = 4096  # per micro-batch


class Examples(tuple[Example, ...]):
    """A split, in the form that `encode` takes."""

    @property
    def key(self) -> str:
        """A hash of the texts and labels."""
        content = json.dumps([(one.text, one.pair, one.labels) for one in self])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


class Features:
    """The features of tasks by one model.

    Args:
        model: an embedded name, a folder, a run of `adapt`, or a Hub id.
        cache: the folder in which features are kept.
    """

    def __init__(self, model: str, cache: Path) -> None:
        self.model, self._cache = model, cache
        self._loaded: TaskModel | None = None

    def of(self, task: Task) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
        """The features of the pool and of the test examples, (examples, layers, D) each."""
        splits = Examples(task.pool), Examples(task.test)
        path = self._cache / f"{self.key(task)}.npy"
        if not path.is_file():
            found = np.concatenate([self._computed(task, split) for split in splits])
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".tmp.npy")
            np.save(unfinished, found)
            unfinished.replace(path)
        both = np.load(path, mmap_mode="r")
        return both[: len(task.pool)], both[len(task.pool) :]

    def key(self, task: Task) -> str:
        """A hash of the model's weights and the task's examples, for the names of cached files."""
        digest = hashlib.blake2b(digest_size=12)
        for part in (self._revision, str(MAX_LENGTH), Examples(task.pool).key, Examples(task.test).key):
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()

    @functools.cached_property
    def _revision(self) -> str:
        """A hash of the weights in the folder, which may change at the same path; without any, the model's name."""
        folder = Path(self.model)
        files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
        kept = [path for path in files if "checkpoints" not in path.parts]
        return hashlib.blake2b(b"".join(path.read_bytes() for path in kept)).hexdigest() if kept else self.model

    def _computed(self, task: Task, split: Examples) -> npt.NDArray[np.float16]:
        if self._loaded is None:
            self._loaded = load_task_model(self.model, task.labels)
        model = self._loaded
        rows = encode(split, task.labels, model.tokenizer, max_length=MAX_LENGTH, long_text="truncate")
        objective = ClassificationObjective(rows.labels)
        found = None
        with evaluating(model.model):
            for members in micro_batches(np.arange(len(rows)), rows.lengths, _TOKENS):
                inputs = objective.prepare(rows.pack(members), epoch=0)
                values = _layer_means(model, inputs)  # (examples, layers, D)
                if found is None:
                    found = np.zeros((len(rows), *values.shape[1:]), np.float16)
                found[members] = values
        assert found is not None
        return found


def _layer_means(model: TaskModel, inputs: TaskInputs) -> npt.NDArray[np.float32]:
    """(examples, layers, D), the mean over an example's tokens of each layer's output; the last is `model.features`."""
    outputs: list[Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]  # (1, tokens, D)
        outputs.append(torch.segment_reduce(hidden.squeeze(0).float(), "mean", lengths=torch.diff(inputs.cu_seqlens)))

    hooks = [layer.register_forward_hook(keep) for layer in repeated_layers(model.model)]
    try:
        last = model.features(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([*outputs[:-1], last], dim=1).numpy()
