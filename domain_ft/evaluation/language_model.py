"""A language model's loss on held-out text, by document.

A masked LM is scored with the masks of the evaluation epoch, which depend only on the seed, the document and the
sequence. So models with the same tokenizer predict the same tokens, before and after training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from domain_ft.corpus.packing import micro_batches
from domain_ft.errors import CorpusError, ModelError
from domain_ft.evaluation.scores import Scores
from domain_ft.models.modes import evaluating
from domain_ft.objectives.base import EVALUATION_EPOCH, IGNORED, Inputs, LanguageModelObjective
from domain_ft.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from domain_ft.corpus.batches import PackedBatch
    from domain_ft.corpus.rows import DocumentRows
    from domain_ft.models.base import BaseModel


def score(
    base: BaseModel,
    objective: LanguageModelObjective,
    rows: DocumentRows,
    selected: npt.NDArray[np.int64],
    *,
    tokens_per_micro_batch: int,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
    label: str = "evaluate",
) -> Scores:
    """The loss of `base` on the sequences `selected` of `rows`, summed by document.

    Processes share the micro-batches, and all of them return the same scores. On the same hardware, one process and
    several return equal scores to the last bit, since micro-batches do not depend on the number of processes.

    Args:
        selected: (sequences,) indices into `rows`, for instance from `rows.select_documents`.
        tokens_per_micro_batch: the most tokens in one forward pass, unless a single sequence is longer.
        accelerator: None for a single process. With several, all must call this function.
        progress: called with (`label`, tokens done, tokens in total).

    Raises:
        CorpusError: no selected sequence has a token to score.
        ModelError: the loss of some documents is not finite; the message names the first three.
    """
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    selected = np.sort(selected)
    sums = np.zeros((3, len(selected)))
    total, done = int(rows.lengths[selected].sum()), 0
    cut = micro_batches(selected, rows.lengths, tokens_per_micro_batch)
    with evaluating(base.model):
        for first in range(0, len(cut), ranks):
            # A rank without a micro-batch in the last round repeats another rank's: a sharded model needs all ranks.
            place = first + rank
            batch = rows.pack(cut[place if place < len(cut) else first])
            inputs = objective.prepare(batch, epoch=EVALUATION_EPOCH)
            losses = objective.losses(base, inputs.to(base.model.device))
            if place < len(cut):
                sums[:, np.searchsorted(selected, batch.rows)] = _sums_by_sequence(batch, inputs, losses)
            done += sum(int(rows.lengths[members].sum()) for members in cut[first : first + ranks])
            if progress:
                progress(label, done, total)
    if accelerator and ranks > 1:  # each number is zero on all ranks but one, so its sum is exact
        sums = accelerator.reduce(torch.from_numpy(sums).to(accelerator.device), "sum").cpu().numpy()
    documents, owner = np.unique(rows.documents[selected], return_inverse=True)
    of_documents = np.zeros((len(documents), 3))
    np.add.at(of_documents, owner, sums.T)
    nats, tokens, size = of_documents.T
    scored = tokens > 0
    ids = tuple(rows.document_id(int(document)) for document in documents[scored])
    if not ids:
        raise CorpusError("the held-out text has no token to score", fix="hold out more documents, or longer ones")
    _check_finite(nats[scored], ids)
    return Scores(ids, nats[scored], tokens[scored].astype(np.int64), size[scored].astype(np.int64))


def _sums_by_sequence(batch: PackedBatch, inputs: Inputs, losses: torch.Tensor) -> npt.NDArray[np.float64]:
    """(3, S): nats, tokens and bytes of each sequence of a micro-batch, in the batch's order."""
    owner = np.repeat(np.arange(len(batch.rows)), batch.lengths)
    labelled = (inputs.labels != IGNORED).cpu().numpy()
    values = (losses.double().cpu().numpy(), labelled, inputs.scored_bytes)
    return np.stack(
        [np.bincount(owner, weights=np.where(labelled, row, 0), minlength=len(batch.rows)) for row in values]
    )


def _check_finite(nats: npt.NDArray[np.float64], documents: tuple[str, ...]) -> None:
    bad = [document for document, value in zip(documents, nats, strict=True) if not np.isfinite(value)]
    if bad:
        named = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise ModelError(
            f"the model's loss on held-out text is not a finite number in {len(bad)} of {len(documents)} documents",
            where=named,
            fix="check that the weights are finite; with a low-precision --dtype, try --dtype float32",
        )
