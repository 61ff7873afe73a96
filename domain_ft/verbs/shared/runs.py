"""What the verbs that train share before and after training: the run folder, config.toml, and the costs."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from rich.console import Console
from torch import Tensor

from domain_ft.checking import PROVENANCE, tomllib
from domain_ft.corpus.naming import name_of
from domain_ft.errors import SettingsError
from domain_ft.models import catalogue
from domain_ft.models.export import Exportable, export_model
from domain_ft.models.peft_format import save_adapter
from domain_ft.objectives.base import TrainedModel
from domain_ft.report.plain import plain
from domain_ft.report.run_folder import RunFolder
from domain_ft.training.checkpoints import TrainingState
from domain_ft.training.loop import LoopSettings, over_ranks, peak_memory_bytes
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.shared.facts import BaseFacts
from domain_ft.verbs.shared.machine import Machine, choose_machine, is_main_process, provenance
from domain_ft.verbs.shared.training import S, TrainSettings, alpha_of

MAY_CHANGE = {
    "output",
    "activation_checkpointing",
    "track",
    "checkpoint_every",
    "keep_checkpoints",
    "sharding",
    "examples",
    "quiet",
    "json",
    "resume",
    "dry_run",
}
"""Settings that may differ when a run is resumed: they do not change what is computed, except for rounding."""


class HasResult(Protocol):
    """A report on a run."""

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""


Report = TypeVar("Report", bound=HasResult)
Model = TypeVar("Model")
Settings = TypeVar("Settings", bound=TrainSettings)


@dataclass(frozen=True)
class FinishedRun(Generic[Report, Model]):
    """A finished run.

    Attributes:
        folder: the run folder.
        report: the facts of its report.
        model: the trained model, ready to use.
    """

    folder: Path
    report: Report
    model: Model

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""
        return self.report.result


class Started(NamedTuple):
    """A run whose folder, machine and display are ready."""

    folder: RunFolder
    machine: Machine
    display: ProgressDisplay


def run_or_plan(
    settings: Settings,
    train: Callable[[Settings], FinishedRun[Report, Any]],
    plan: Callable[[Settings], dict[str, Any]],
    print_report: Callable[[Report, Console], None],
) -> dict[str, Any]:
    """Run a verb and print its report, or with --dry-run print the plan; returns what --json prints."""
    if settings.dry_run:
        planned = plan(settings)
        if not settings.json and is_main_process():
            Console().print_json(data=planned)
        return planned
    finished = train(settings)
    console = Console(quiet=settings.json or not is_main_process())
    print_report(finished.report, console)
    console.print(plain(f"\nrun folder: {finished.folder}"), soft_wrap=True)  # paths must not be wrapped
    console.print(plain(f"report:     {finished.folder / 'report.html'}"), soft_wrap=True)
    return dict(finished.result)


def output_folder(settings: TrainSettings, data: str) -> Path:
    """--output, or runs/DATA-MODEL, with hyphens for characters that do not belong in a file name."""
    if settings.output:
        return settings.output
    return Path("runs") / "-".join(re.sub(r"[^\w.-]+", "-", word) for word in (data, name_of(settings.model)))


@contextlib.contextmanager
def started(settings: TrainSettings, path: Path) -> Iterator[Started]:
    """Create the run folder, or reopen it with --resume.

    The main process locks the folder, and it alone writes there. If the block succeeds, all processes wait for each
    other at its end.

    Raises:
        SettingsError: the folder cannot be used, or the machine lacks what the settings ask for.
    """
    folder = RunFolder(path)
    machine = choose_machine(settings, sharding=settings.sharding, track=settings.track, project=path)
    with contextlib.ExitStack() as claim:
        with machine.main_first():
            if machine.is_main:
                folder = claim.enter_context(RunFolder.claimed(path, resume=settings.resume))
        with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
            yield Started(folder, machine, display)
            machine.accelerator.wait_for_everyone()


@contextlib.contextmanager
def planning(settings: TrainSettings, path: Path) -> Iterator[tuple[Machine, ProgressDisplay]]:
    """The machine and display of a --dry-run, which makes no folder.

    Raises:
        SettingsError: the folder cannot be used, or the machine lacks what the settings ask for.
    """
    RunFolder(path).check(resume=settings.resume)
    machine = choose_machine(settings, sharding=settings.sharding)
    with ProgressDisplay(quiet=settings.quiet or not machine.is_main) as display:
        yield machine, display


def resolved(settings: TrainSettings, machine: Machine, max_length: int, loop: LoopSettings | None) -> dict[str, Any]:
    """The settings whose defaults depend on machine, model or data, with their values.

    Args:
        max_length: the maximum number of tokens in a sequence.
        loop: the training loop's settings; None for a probe.
    """
    values: dict[str, Any] = {
        "max_length": max_length,
        "alpha": alpha_of(settings),
        "device": machine.device.type,
        "dtype": machine.dtype,
        "kernels": machine.kernels,
        "sharding": "full" if machine.sharded else "none",
    }
    if loop is None:
        return values
    return values | {
        "learning_rate": loop.learning_rate,
        "tokens_per_micro_batch": loop.tokens_per_micro_batch,
        "activation_checkpointing": "on" if loop.activation_checkpointing else "off",
    }


def as_started(settings: S, folder: RunFolder) -> S:
    """The settings. A resumed run takes defaults that may have changed since its start from its config.toml.

    The micro-batch size and activation checkpointing depend on free memory; the date that some chat templates write
    depends on the day.
    """
    if not (settings.resume and folder.config.is_file()):
        return settings
    stored = type(settings).from_toml(folder.config)
    kept = {
        name: getattr(settings, name) or getattr(stored, name)
        for name in ("tokens_per_micro_batch", "template_date")
        if hasattr(settings, name)
    }
    if settings.activation_checkpointing == "auto":
        kept["activation_checkpointing"] = stored.activation_checkpointing
    return dataclasses.replace(settings, **kept)


def resolve_config(
    settings: TrainSettings,
    facts: Mapping[str, Any],
    folder: RunFolder,
    machine: Machine,
    *,
    sources: Collection[str],
) -> None:
    """Write config.toml; for a resumed run, check that settings, text and model are unchanged.

    If a run was stopped during --read-first, its config.toml has the settings as the user gave them and no provenance.
    That file is replaced.

    Args:
        settings: the settings, with every default resolved.
        facts: the provenance of the run.
        sources: the keys of `facts` that identify the text and the model.

    Raises:
        SettingsError: a resumed run has other settings, another text or another model.
    """
    text = settings.to_toml(facts)
    if not settings.resume or not is_resolved(folder):
        if machine.is_main:
            folder.write_config(text)
        return
    refuse_other_settings(settings, folder)
    before, after = (tomllib.loads(one)[PROVENANCE] for one in (folder.config.read_text(encoding="utf-8"), text))
    if any(before[name] != after[name] for name in sources):
        raise SettingsError(
            "--resume: the text or the model has changed since the run was started",
            where=str(folder.config),
            fix="restore the files, or start a new run with another --output",
        )


def is_resolved(folder: RunFolder) -> bool:
    """Whether config.toml was written by `resolve_config`, with every default resolved."""
    return PROVENANCE in tomllib.loads(folder.config.read_text(encoding="utf-8"))


def refuse_other_settings(settings: TrainSettings, folder: RunFolder) -> None:
    """Check that a run is resumed with the settings in its config.toml.

    Raises:
        SettingsError: settings differ; the message lists them.
    """
    now = settings.to_dict()
    changed = [
        f"{name} was {before!r}, now {now[name]!r}"
        for name, before in type(settings).from_toml(folder.config).to_dict().items()
        if name not in MAY_CHANGE and before != now[name]
    ]
    if changed:
        raise SettingsError(
            f"--resume: the settings differ from those that the run was started with: {'; '.join(changed)}",
            where=str(folder.config),
            fix="resume with the same options (they are in config.toml), or start a new run with another --output",
        )


def costs(
    machine: Machine,
    model: TrainedModel,
    states: Sequence[TrainingState],
    trained: Iterable[Tensor],
    wall_seconds: float,
) -> dict[str, Any]:
    """The costs of a run for result.json.

    Tokens, steps and training seconds are summed over `states`, one for each training; peak memory is the maximum over
    processes.
    """
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


def base_facts(model: TrainedModel) -> BaseFacts:
    """The base model, for the report."""
    is_embedded = model.name in catalogue.EMBEDDED
    return BaseFacts(
        name=model.name,
        source=model.source,
        revision=model.revision,
        embedded=is_embedded,
        licence=catalogue.provenance(model.name)["licence"] if is_embedded else "",
    )


def origin(machine: Machine, model: TrainedModel, **read: Any) -> dict[str, Any]:
    """The provenance of a run: versions, machine, and what identifies the model and the data (`read`)."""
    return provenance(machine) | {"model": {"source": model.source, "revision": model.revision}} | read


class Saved(TrainedModel, Exportable, Protocol):
    """A model that can be trained and saved."""


def write_model(model: Saved, method: str, folder: RunFolder, task_type: str | None) -> None:
    """Write the adapter, or with --method full the whole model.

    Args:
        task_type: PEFT's name for the kind of model, such as CAUSAL_LM.
    """
    if method == "full":
        target = folder.path / "model"
        if target.exists():  # from an attempt that was killed before it wrote result.json; we hold the lock
            shutil.rmtree(target)
        export_model(model, target)
        return
    save_adapter(model.model, folder.adapter, base_name=model.source, revision=model.revision, task_type=task_type)
