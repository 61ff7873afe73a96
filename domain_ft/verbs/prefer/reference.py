"""Log-probabilities under the reference: computed once, and kept row by row in the cache.

The reference is the model before training, with its adapters merged and no new adapter. A row's values depend on its
tokens, the weights, the tokenizer and the template, the precision and the backend. So they are reused by other losses,
seeds and learning rates, and by a resumed run; and a model that was trained again, or a file that was changed, gets
values of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from domain_ft.corpus.packing import micro_batches
from domain_ft.corpus.preferences.rows import PreferenceRows
from domain_ft.errors import ModelError
from domain_ft.models.base import BaseModel, rounding
from domain_ft.models.identity import model_digest
from domain_ft.models.modes import evaluating
from domain_ft.objectives.base import EVALUATION_EPOCH
from domain_ft.objectives.preference.answers import Reference
from domain_ft.progress import Progress
from domain_ft.storage import cache_folder, creation_lock, write_atomic
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.prefer.losses import PreferenceObjective
from domain_ft.verbs.shared.machine import Machine

_ENTRY = np.dtype([("row", "S32"), ("values", "<f8", (2, 2))])
"""A row's key, and its log-probabilities as in `Reference`."""

PROVED_TOKENS = 2_000
"""The tokens of the rows on which the reference is compared with the model before the first step."""


@dataclass(frozen=True)
class ReferenceValues:
    """The log-probabilities of some rows under the reference.

    Attributes:
        values: (rows, 2, 2), see `Reference`; NaN for rows that were not asked for.
        rows: how many rows were asked for.
        reused: how many of them were found in the cache.
        file: the file in the cache.
    """

    values: Reference
    rows: int
    reused: int
    file: Path


def cache_file(model: str, template: str, machine: Machine) -> Path:
    """The file in the cache for a model, a chat template, a precision and a backend."""
    parts = (model_digest(model), template, machine.dtype, machine.kernels, machine.device.type, torch.__version__)
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return cache_folder("references") / f"{key}.npy"


def reference_values(
    file: Path,
    base: BaseModel,
    objective: PreferenceObjective,
    rows: PreferenceRows,
    selected: npt.NDArray[np.int64],
    machine: Machine,
    display: ProgressDisplay,
    *,
    tokens_per_micro_batch: int,
) -> ReferenceValues:
    """The log-probabilities of the rows `selected` under `base`, from the cache as far as it has them.

    Args:
        file: from `cache_file`.
        base: without a new adapter.
        objective: of the rows; its own reference is not read.
    """
    keys = {row: _row_key(rows, row) for row in selected.tolist()}
    with creation_lock(file, lambda: display.say("waiting for another run that computes the same reference")):
        known = _read(file)
        missing = np.array([row for row, key in keys.items() if key not in known], dtype=np.int64)
        if len(missing):
            computed = row_values(
                base,
                objective,
                rows,
                missing,
                machine,
                tokens_per_micro_batch,
                label="reference",
                progress=display.job,
            )
            known |= {keys[row]: values for row, values in zip(missing.tolist(), computed, strict=True)}
            _write(file, known)
    values = np.full((len(rows), 2, 2), np.nan)
    values[selected] = np.stack([known[key] for key in keys.values()])
    return ReferenceValues(values, len(keys), len(keys) - len(missing), file)


def row_values(
    base: BaseModel,
    objective: PreferenceObjective,
    rows: PreferenceRows,
    selected: npt.NDArray[np.int64],
    machine: Machine,
    tokens_per_micro_batch: int,
    *,
    label: str,
    progress: Progress | None = None,
) -> Reference:
    """(selected, 2, 2) log-probabilities of the answers of these rows under `base` as it is, in evaluation mode.

    Args:
        progress: called with (`label`, tokens done, tokens in total).
    """
    selected = np.sort(selected)
    found = np.zeros((len(selected), 2, 2))
    done, total = 0, int(rows.lengths[selected].sum())
    with evaluating(base.model), machine.accelerator.autocast():
        for chosen in micro_batches(selected, rows.lengths, tokens_per_micro_batch):
            inputs = objective.prepare(rows.pack(chosen), EVALUATION_EPOCH).to(base.device)
            found[np.searchsorted(selected, chosen)] = objective.answers(base, inputs).cpu().numpy()
            done += int(rows.lengths[chosen].sum())
            if progress:
                progress(label, done, total)
    return found


def prove(
    reference: Reference,
    base: BaseModel,
    objective: PreferenceObjective,
    rows: PreferenceRows,
    selected: npt.NDArray[np.int64],
    machine: Machine,
    *,
    tokens_per_micro_batch: int,
    file: Path,
) -> float:
    """Check that before the first step every log-ratio is 0, up to rounding, so that the DPO loss is log 2.

    Args:
        reference: of the rows `selected`.
        base: with its new adapter.
        file: that the reference was read from.

    Returns:
        the largest log-ratio among some rows, in nats.

    Raises:
        ModelError: a log-ratio is not 0: the reference is not the model that is trained.
    """
    fitting = int(np.searchsorted(np.cumsum(rows.lengths[selected], dtype=np.int64), PROVED_TOKENS, side="right"))
    selected = selected[: max(1, fitting)]
    own = row_values(base, objective, rows, selected, machine, tokens_per_micro_batch, label="proof")
    ratios = np.abs(own - reference[selected])[..., 0]  # (selected, 2)
    allowed = rounding(torch.bfloat16 if machine.dtype == "bfloat16" else torch.float32) * (1 + np.abs(own[..., 0]))
    worst = int((ratios - allowed).max(axis=1).argmax())
    if not (ratios[worst] <= allowed[worst]).all():
        raise ModelError(
            f"before training, the log-probability of an answer differs by {ratios[worst].max():.3g} nats between the "
            "model and the reference, so the reference is not the model that is trained",
            where=f"{rows.row_id(int(selected[worst]))}; reference: {file}",
            fix="delete that file, so that the reference is computed again",
        )
    return float(ratios.max())


def _row_key(rows: PreferenceRows, row: int) -> bytes:
    """A hash of the tokens of a row, and of which of them belong to answers."""
    batch = rows.pack([row])
    digest = hashlib.blake2b(digest_size=16)
    for part in (batch.cu_seqlens, batch.input_ids, batch.trained):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest().encode()


def _read(file: Path) -> dict[bytes, npt.NDArray[np.float64]]:
    """The rows in a file of the cache; none if it does not exist or is damaged."""
    try:
        entries = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return {}
    if entries.dtype != _ENTRY:
        return {}
    return {bytes(entry["row"]): entry["values"] for entry in entries}


def _write(file: Path, known: dict[bytes, npt.NDArray[np.float64]]) -> None:
    entries = np.array([(key, values) for key, values in sorted(known.items())], dtype=_ENTRY)
    buffer = io.BytesIO()
    np.save(buffer, entries)
    write_atomic(file, buffer.getvalue())
