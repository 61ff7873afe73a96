"""`--read-first` of `classify` and `tag`: a whole run of `adapt` on the task's own texts, before training on the task.

the task's texts, --unlabelled -> RUN/read-first-texts.jsonl -> adapt, in RUN/read-first -> training on the task

This is task-adaptive pretraining (Gururangan et al. 2020, "Don't Stop Pretraining", section 4). Only this module runs a
verb within another.
"""

from __future__ import annotations

import contextlib
import gc
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from accelerate.utils import broadcast_object_list

from domain_ft.corpus.disk import disk_errors
from domain_ft.corpus.examples import Examples
from domain_ft.corpus.unlabelled import Gathered, gather_texts, open_unlabelled
from domain_ft.errors import SettingsError, UserError
from domain_ft.models.sources import OWN_BASE
from domain_ft.report.run_folder import RunFolder
from domain_ft.storage import sha256, sync_folder
from domain_ft.training.loop import release_free_memory
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.shared.language_model import NO_CONTROL
from domain_ft.verbs.shared.lineage import READ_FIRST_TEXTS
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.runs import is_resolved, refuse_other_settings
from domain_ft.verbs.tag.settings import TagSettings
from domain_ft.wording import counted

ReadsFirst: TypeAlias = ClassifySettings | TagSettings
"""The settings of a verb that can read first."""

TOKENS = 500_000
"""The default of --read-first-tokens."""

MOST_EPOCHS = 10
"""By default each text is read at most this many times. Gururangan et al. read small sets up to 100 times (appendix B).
No measurement supports this limit."""

_SHARED = (
    *("model", "device", "dtype", "kernels", "seed"),
    *("tokens_per_micro_batch", "activation_checkpointing"),
    *("checkpoint_every", "keep_checkpoints", "examples", "track", "quiet"),
)
"""The settings of the task that also apply to the reading: the model, the machine, the run folder, the seed, and the
memory of a step. Everything else is the default of `adapt`."""


@dataclass(frozen=True)
class ReadableTask:
    """The texts of a task.

    Attributes:
        splits: the examples by split.
        fields: the names of the fields of the text and of the second text of a pair; empty if they are not known.
    """

    splits: Mapping[str, Examples]
    fields: Sequence[str]


@dataclass(frozen=True)
class Reading:
    """A finished reading.

    Attributes:
        folder: the folder of the run of `adapt`.
        gathered: counts and digest of the texts.
        adapted: result.json of the run of `adapt`.
    """

    folder: Path
    gathered: Gathered
    adapted: Mapping[str, Any]

    def to_result(self) -> dict[str, Any]:
        """The value of `read_first` in result.json. The losses are on the held-out texts."""
        return {
            "run": self.folder.name,
            **counts(self.gathered),
            "tokens": self.adapted["tokens_seen"],
            "epochs": self.adapted["epochs"],
            **{when: self.adapted[when]["domain"] for when in ("before", "after")},
            "difference": self.adapted["differences"]["domain"],
        }


def counts(gathered: Gathered) -> dict[str, int]:
    """The numbers of texts, for result.json and for the plan of --dry-run."""
    return {
        "texts": gathered.texts,
        "unlabelled_texts": gathered.unlabelled,
        "copies": gathered.copies,
        "left_out": gathered.left_out,
    }


def read_first(
    task: ReadableTask, settings: ReadsFirst, run: RunFolder, machine: Machine, display: ProgressDisplay
) -> Reading:
    """Gather the texts and adapt the model to them. A resumed run continues the reading, or returns a finished one.

    Args:
        task: the texts; the model does not read those of the test examples.
        settings: the settings of the task, as the user gave them.
        run: the run of the task, whose folder is locked. It gets a config.toml, so that the reading can be resumed.

    Raises:
        SettingsError: a resumed run has other settings or other texts.
        UserError: the texts cannot be read, or the model cannot be adapted to them. A new run that is refused before
            its first step leaves no files.
        Interrupted: see `adapt`.
    """
    texts, folder = run.path / READ_FIRST_TEXTS, RunFolder(run.path / OWN_BASE)
    if settings.resume and not is_resolved(run):
        refuse_other_settings(settings, run)
    with machine.main_first():
        gathered = _gather_into(texts, task, settings, run, machine, display)
    if folder.finished:
        return Reading(folder.path, gathered, folder.read_result())
    _say_what_is_read(gathered, display)
    try:
        adapted = _adapt(_settings_of(settings, texts, folder), folder, settings, machine, display)
    except UserError:
        if machine.is_main and not settings.resume and not folder.config.is_file():  # refused before the first step
            shutil.rmtree(folder.path, ignore_errors=True)
            texts.unlink(missing_ok=True)
            run.config.unlink(missing_ok=True)
        raise
    return Reading(folder.path, gathered, adapted)


def plan_reading(
    task: ReadableTask, settings: ReadsFirst, machine: Machine, display: ProgressDisplay
) -> dict[str, Any]:
    """What a reading would do, for --dry-run: `counts`, and tokens, epochs and steps of `adapt`. Keeps no file."""
    from domain_ft.verbs.adapt.prepare import set_up  # only here, so that other runs need not import `adapt`

    with tempfile.TemporaryDirectory(prefix="domain-ft-") as own:
        place = Path(broadcast_object_list([own])[0])  # all use the main process's
        texts = place / READ_FIRST_TEXTS
        with machine.main_first():
            gathered = _gather(task, settings, texts if machine.is_main else None, display)
        asked = _settings_of(settings, texts, RunFolder(place))
        job = set_up(asked, machine, display, most_epochs=_most_epochs(settings))
    return {
        **counts(gathered),
        "tokens": job.planned_tokens,
        "epochs": round(job.epochs, 2),
        "steps": job.loop.total_steps,
    }


def _adapt(
    asked: AdaptSettings, folder: RunFolder, settings: ReadsFirst, machine: Machine, display: ProgressDisplay
) -> Mapping[str, Any]:
    """Adapt the model into `folder`, and return the result. The model in memory is freed."""
    from domain_ft.verbs.adapt.run import adapt_into  # only here, so that other runs need not import `adapt`

    with contextlib.ExitStack() as claim:
        with machine.main_first():
            if machine.is_main:
                claim.enter_context(RunFolder.claimed(folder.path, resume=asked.resume))
        result = adapt_into(folder, asked, machine, display, most_epochs=_most_epochs(settings)).result
        machine.accelerator.wait_for_everyone()  # until the main process has written the adapter
    free_models()
    return result


def free_models() -> None:
    """Free the memory of models that are no longer used; reference cycles keep them alive until then."""
    gc.collect()
    release_free_memory()


def _settings_of(settings: ReadsFirst, texts: Path, folder: RunFolder) -> AdaptSettings:
    """The settings of the run of `adapt`."""
    return AdaptSettings(
        corpus=str(texts.resolve()),
        text_field="text",
        control=NO_CONTROL,
        max_tokens=settings.read_first_tokens or TOKENS,
        output=folder.path,
        resume=folder.config.is_file(),
        **{name: getattr(settings, name) for name in _SHARED},
    )


def _most_epochs(settings: ReadsFirst) -> float:
    """The maximum number of epochs: infinite if the user gave --read-first-tokens."""
    return math.inf if settings.read_first_tokens else MOST_EPOCHS


def _gather(task: ReadableTask, settings: ReadsFirst, into: Path | None, display: ProgressDisplay) -> Gathered:
    """Gather the texts of the task and of --unlabelled."""
    unlabelled = None
    if settings.unlabelled is not None:
        unlabelled = open_unlabelled(
            settings.unlabelled, task.fields, on_bad_record=settings.on_bad_record, encoding=settings.encoding
        )
    return gather_texts(task.splits, unlabelled, into=into, progress=display.job)


def _gather_into(
    texts: Path,
    task: ReadableTask,
    settings: ReadsFirst,
    run: RunFolder,
    machine: Machine,
    display: ProgressDisplay,
) -> Gathered:
    """Gather the texts into the file `texts` of the run, and write the run's config.toml unless it exists.

    Raises:
        SettingsError: the file exists with other texts.
    """
    if not machine.is_main:
        return _gather(task, settings, None, display)
    part = texts.with_name(f".{texts.name}.part")
    try:
        with disk_errors("the texts to read first", texts.parent):
            gathered = _gather(task, settings, part, display)
        if texts.is_file() and sha256(texts) != gathered.digest:
            raise SettingsError(
                "--resume: the texts that are read first have changed since the run was started",
                where=str(texts),
                fix="restore the files of examples and of --unlabelled, or start a new run with another --output",
            )
        if not run.config.is_file():
            run.write_config(settings.to_toml())
        with run.writing():
            part.replace(texts)
            sync_folder(texts.parent)
    finally:
        part.unlink(missing_ok=True)
    return gathered


def _say_what_is_read(gathered: Gathered, display: ProgressDisplay) -> None:
    """Print what is read before the task."""
    for note in gathered.notes:
        display.say(f"note: {note}")
    more = f" and {counted(gathered.unlabelled, 'unlabelled text')}" if gathered.unlabelled else ""
    copies = f", each once ({counted(gathered.copies, 'copy', 'copies')} left out)" if gathered.copies else ""
    display.say(
        f"reading first, without labels: {counted(gathered.labelled, 'text')} of the training and validation "
        f"examples{more}{copies}"
    )
    if gathered.left_out:
        display.say(
            f"note: {counted(gathered.left_out, 'unlabelled text holds', 'unlabelled texts hold')} the text of a test "
            "example and will not be read"
        )
