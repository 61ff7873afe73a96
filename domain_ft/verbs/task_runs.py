"""What `classify` and `tag` share on either side of their trials: what is settled, found, kept and written."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from domain_ft.corpus.prepared import PreparedCorpus
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.leaks import KIND_WORDS, Leaks
from domain_ft.errors import SettingsError
from domain_ft.models import embedded
from domain_ft.models.export import export_merged
from domain_ft.models.peft_format import save_adapter
from domain_ft.models.task_model import TaskModel
from domain_ft.report.data import BaseFacts
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import over_ranks, peak_memory_bytes
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.lineage import training_corpora
from domain_ft.verbs.machine import Machine, provenance
from domain_ft.verbs.tasks import TaskJob, TaskSettings, Trial
from domain_ft.verbs.training import alpha_of


class HasTrial(Protocol):
    """What a trial has come to."""

    @property
    def trial(self) -> Trial:
        """Which trial."""


class HasCut(Protocol):
    """The rows of a split."""

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        """(examples,) whether a text is longer than what is read at once."""


Outcome = TypeVar("Outcome", bound=HasTrial)


# --- Before the first step --------------------------------------------------------------------------------------------


def check_options(settings: TaskSettings) -> None:
    """Raise for options that cannot go together, or not with a task.

    Raises:
        SettingsError: --sharding full; --adapter continue where no adapter is trained.
    """
    if settings.adapter == "continue" and settings.method not in ("lora", "dora"):
        raise SettingsError(
            f"--adapter continue with --method {settings.method}: there is no adapter to train on",
            fix="leave --adapter out: the run's adapter is then merged into what is trained",
        )
    if settings.sharding != "none":
        raise SettingsError(
            "--sharding full: a task's model is not sharded yet",
            fix="leave the option out; with several processes each keeps the whole model",
        )


def adapted_to(model: str, display: ProgressDisplay) -> list[PreparedCorpus]:
    """The corpora that a run of `adapt`, or the runs that it stands on, were trained on, if they can be had."""
    corpora, unknown = training_corpora(model, display)
    for name in unknown:
        display.say(f"note: '{name}', which the model was adapted to, cannot be read now: no check against its text")
    return corpora


def settle(settings: TaskSettings, machine: Machine, length: int, tasks: TaskJob | None) -> dict[str, Any]:
    """The settings that depend on the machine, the model or the task; `tasks` is None where there is no loop."""
    settled: dict[str, Any] = {
        "max_length": length,
        "alpha": alpha_of(settings),
        "device": machine.device.type,
        "dtype": machine.dtype,
        "kernels": machine.kernels,
    }
    if tasks is None:
        return settled
    loop = tasks.loop(tasks.trials[-1])
    return settled | {
        "learning_rate": loop.learning_rate,
        "batch_size": loop.rows_per_step,
        "tokens_per_pass": loop.tokens_per_pass,
        "activation_checkpointing": "on" if loop.activation_checkpointing else "off",
    }


def warn_of_leaks(leaks: Leaks, settings: TaskSettings, display: ProgressDisplay) -> None:
    """A line for each kind of leak that was found, and what can be done."""
    for kind, count in leaks.counts.items():
        if count:
            display.warn(f"{KIND_WORDS[kind]}: {count:,} (listed in leaks.jsonl)")
    if any(len(indices) for indices in leaks.removals.values()):
        removed = settings.remove_leaks
        display.say(
            "note: what stands in two splits was left out of the one that is trained on"
            if removed
            else "note: --remove-leaks leaves out what stands in two splits"
        )
    for note in leaks.notes:
        display.say(f"note: {note}")


def cut_fraction(rows: Mapping[str, HasCut]) -> float:
    """The share of all texts that are longer than what is read of them at once."""
    return float(np.concatenate([own.cut for own in rows.values()]).mean())


def write_findings(folder: RunFolder, leaks: Leaks, rejected: Sequence[Reject]) -> None:
    """leaks.jsonl and rejects.jsonl, where there is anything to list."""
    with folder.writing():
        if any(leaks.counts.values()):
            leaks.write(folder.path / "leaks.jsonl")
        if rejected:
            lines = (json.dumps(dataclasses.asdict(reject), ensure_ascii=False) for reject in rejected)
            folder.rejects.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# --- Afterwards -------------------------------------------------------------------------------------------------------


def largest(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of the largest number of training examples, one for each seed."""
    return [outcome for outcome in outcomes if outcome.trial.size == outcomes[-1].trial.size]


def costs(
    machine: Machine, model: TaskModel, states: Sequence[TrainingState], trained: Iterable[Tensor], wall_seconds: float
) -> dict[str, Any]:
    """What result.json says of tokens, seconds, memory and parameters, over all trials."""
    seconds, tokens = sum(state.seconds for state in states), sum(state.tokens for state in states)
    return {
        "tokens_seen": tokens,
        "steps": sum(state.step for state in states),
        "wall_seconds": wall_seconds,
        "training_seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "peak_memory_bytes": max(over_ranks(machine.accelerator, peak_memory_bytes()))[0],
        "processes": machine.processes,
        "trainable_parameters": sum(p.numel() for p in trained),
        "total_parameters": sum(p.numel() for p in model.model.parameters()),
    }


def base_facts(model: TaskModel) -> BaseFacts:
    """The model that was fine-tuned, as the report tells of it."""
    is_embedded = model.name in embedded.EMBEDDED
    return BaseFacts(
        name=model.name,
        source=model.source,
        revision=model.revision,
        embedded=is_embedded,
        licence=embedded.provenance(model.name)["licence"] if is_embedded else "",
    )


def origin(machine: Machine, model: TaskModel, task: str, key: str) -> dict[str, Any]:
    """Where the numbers come from: versions, machine, and what exactly was read and trained."""
    return provenance(machine) | {
        "model": {"source": model.source, "revision": model.revision},
        "task": {"name": task, "content": key},
    }


def write_model(model: TaskModel, method: str, folder: RunFolder) -> None:
    """The adapter, or the whole model where all of it was trained."""
    if method == "full":
        export_merged(model, folder.path / "model")
        return
    save_adapter(
        model.model, folder.adapter, base_name=model.source, revision=model.revision, task_type=model.task_type
    )


def keep_metrics(tasks: TaskJob, kept: Trial, folder: RunFolder) -> None:
    """Put the metrics of the trial that is kept into the run's own folder."""
    own = tasks.folder(kept, folder)
    if own != folder:
        shutil.copyfile(own.metrics, folder.metrics)


def drop_checkpoints(tasks: TaskJob, folder: RunFolder) -> None:
    """Remove the checkpoints of a finished run of several trials: no trial has to go on any more."""
    for trial in tasks.trials:
        own = tasks.folder(trial, folder)
        if own != folder:
            shutil.rmtree(own.checkpoints, ignore_errors=True)
