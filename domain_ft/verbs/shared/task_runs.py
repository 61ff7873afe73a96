"""What `classify` and `tag` share on either side of their trials: what is settled, found, kept and written."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.prepared import PreparedCorpus
from domain_ft.corpus.readers.base import Reject
from domain_ft.corpus.tasks.leaks import KIND_WORDS, Leaks
from domain_ft.errors import SettingsError
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.shared.lineage import training_corpora
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.runs import resolved
from domain_ft.verbs.shared.trials import TaskJob, TaskSettings, Trial


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


def resolve_settings(settings: TaskSettings, machine: Machine, length: int, tasks: TaskJob | None) -> dict[str, Any]:
    """The settings that depend on the machine, the model or the task; `tasks` is None where there is no loop."""
    loop = tasks.loop(tasks.trials[-1]) if tasks else None
    return resolved(settings, machine, length, loop) | ({"batch_size": loop.rows_per_step} if loop else {})


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
    if any(leaks.counts.values()):
        with folder.writing():
            leaks.write(folder.path / "leaks.jsonl")
    if rejected:
        folder.write_lines(folder.rejects, map(dataclasses.asdict, rejected))


def largest(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of the largest number of training examples, one for each seed."""
    return [outcome for outcome in outcomes if outcome.trial.size == outcomes[-1].trial.size]


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
