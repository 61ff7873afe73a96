"""The logits and features of a task's model for many examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domain_ft.corpus.packing import micro_batches
from domain_ft.models.modes import evaluating
from domain_ft.objectives.classification import ClassificationObjective, TaskInputs
from domain_ft.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from domain_ft.corpus.tasks.rows import ExampleRows
    from domain_ft.models.task_model import TaskModel


def predict_logits(
    model: TaskModel,
    rows: ExampleRows,
    *,
    tokens_per_micro_batch: int,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
    label: str = "predict",
) -> npt.NDArray[np.float32]:
    """(examples, L) float32, the logits of all examples in the order of `rows`.

    Processes share the micro-batches, and all of them return the same logits. On the same hardware, one process and
    several return equal logits to the last bit. The caller sets autocast.

    Args:
        tokens_per_micro_batch: the most tokens in one forward pass, unless a single example is longer.
        accelerator: None for a single process. With several, all must call this function.
        progress: called with (`label`, examples done, examples in total).
    """
    return _over_micro_batches(model, rows, model.logits, tokens_per_micro_batch, accelerator, progress, label)


def compute_features(
    model: TaskModel,
    rows: ExampleRows,
    *,
    tokens_per_micro_batch: int,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
    label: str = "features",
) -> npt.NDArray[np.float32]:
    """(examples, D) float32, the features of all examples for a linear probe. See `predict_logits`."""
    return _over_micro_batches(model, rows, model.features, tokens_per_micro_batch, accelerator, progress, label)


def _over_micro_batches(
    model: TaskModel,
    rows: ExampleRows,
    function: Callable[[TaskInputs], Tensor],
    tokens_per_micro_batch: int,
    accelerator: Accelerator | None,
    progress: Progress | None,
    label: str,
) -> npt.NDArray[np.float32]:
    """The results of `function` for all examples, (examples, L) or (examples, D); processes share the micro-batches."""
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    objective = ClassificationObjective(rows.labels)
    results = np.zeros((len(rows), 0), dtype=np.float32)
    done = 0
    cut = micro_batches(np.arange(len(rows)), rows.lengths, tokens_per_micro_batch)
    with evaluating(model.model):
        for first in range(0, len(cut), ranks):
            # A rank without a micro-batch in the last round repeats another rank's: a sharded model needs all ranks.
            place = first + rank
            members = cut[place if place < len(cut) else first]
            values = function(objective.prepare(rows.pack(members), epoch=0).to(model.device))
            if not results.shape[1]:
                results = np.zeros((len(rows), values.shape[1]), dtype=np.float32)
            if place < len(cut):
                results[members] = values.float().cpu().numpy()
            done += sum(len(each) for each in cut[first : first + ranks])
            if progress:
                progress(label, done, len(rows))
    if accelerator and ranks > 1:  # each row is zero on all ranks but one, so the sum is exact
        results = accelerator.reduce(torch.from_numpy(results).to(accelerator.device), "sum").cpu().numpy()
    return results
