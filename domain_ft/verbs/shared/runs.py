"""What all verbs that train share on either side of their training: the run's folder, its settings, and its costs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from torch import Tensor

from domain_ft.checking import PROVENANCE, tomllib
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
"""Settings that a resumed run may be given anew: nothing that is computed depends on them, but for rounding."""


class Started(NamedTuple):
    """A run that has its folder, its machine and a display."""

    folder: RunFolder
    machine: Machine
    display: ProgressDisplay


def default_folder(*words: str) -> Path:
    """runs/WORD-WORD, where what is not fit for a file's name has become a hyphen."""
    return Path("runs") / "-".join(re.sub(r"[^\w.-]+", "-", word) for word in words)


@contextlib.contextmanager
def started(settings: TrainSettings, path: Path) -> Iterator[Started]:
    """Make the folder of a run, or with --resume take it up; at the end of the block all processes wait for each other.

    The folder is locked for the main process, which writes for all of them.

    Raises:
        SettingsError: the folder cannot be used, or what the settings ask of the machine is not there.
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


def console_of(settings: TrainSettings) -> Console:
    """Where the tables go: nowhere with --json, and of several processes one has the word."""
    return Console(quiet=settings.json or not is_main_process())


def print_paths(folder: Path, console: Console) -> None:
    """Say where the run and its report are, in lines that no terminal breaks."""
    console.print(plain(f"\nrun folder: {folder}"), soft_wrap=True)
    console.print(plain(f"report:     {folder / 'report.html'}"), soft_wrap=True)


def resolved(settings: TrainSettings, machine: Machine, max_length: int, loop: LoopSettings | None) -> dict[str, Any]:
    """The settings that depend on the machine, the model or the data, as they have come out.

    Args:
        max_length: tokens of a row at most.
        loop: of the training; None where there is none.
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
    """For a resumed run the micro-batches that it was started with, and the day, where none are asked for.

    Memory may be other by now, and another day would be another text, where a chat template writes the date.
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
    return settings.resolved(**kept)


def resolve_config(
    settings: TrainSettings,
    facts: Mapping[str, Any],
    folder: RunFolder,
    machine: Machine,
    *,
    sources: Collection[str],
) -> None:
    """Write config.toml; for a resumed run, refuse settings that are not those it was started with.

    Args:
        settings: with nothing left to a default.
        facts: where the run comes from.
        sources: the keys of `facts` by which the text and the model of a resumed run are known.

    Raises:
        SettingsError: a resumed run with other settings, another text or another model.
    """
    text = settings.to_toml(facts)
    if not settings.resume:
        if machine.is_main:
            folder.write_config(text)
        return
    now = settings.to_dict()
    changed = [
        f"{name} was {before!r}, now {now[name]!r}"
        for name, before in type(settings).from_toml(folder.config).to_dict().items()
        if name not in MAY_CHANGE and before != now[name]
    ]
    if changed:
        raise SettingsError(
            f"--resume with other settings than the run was started with: {'; '.join(changed)}",
            where=str(folder.config),
            fix="resume with the same options (config.toml has them), or start another run with another --output",
        )
    before, after = (tomllib.loads(one)[PROVENANCE] for one in (folder.config.read_text(encoding="utf-8"), text))
    if any(before[name] != after[name] for name in sources):
        raise SettingsError(
            "--resume: the text or the model is not what the run was started with, though the settings are",
            where=str(folder.config),
            fix="put the files back as they were, or start another run with another --output",
        )


def print_plan(planned: Mapping[str, Any], settings: TrainSettings, machine: Machine) -> None:
    """Show what --dry-run found, unless its caller prints it."""
    if not settings.json and machine.is_main:
        Console().print_json(data=planned)


def costs(
    machine: Machine,
    model: TrainedModel,
    states: Sequence[TrainingState],
    trained: Iterable[Tensor],
    wall_seconds: float,
) -> dict[str, Any]:
    """What result.json says of tokens, seconds, memory and parameters, over all trainings of a run."""
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
    """The model that was trained, as the report tells of it."""
    is_embedded = model.name in catalogue.EMBEDDED
    return BaseFacts(
        name=model.name,
        source=model.source,
        revision=model.revision,
        embedded=is_embedded,
        licence=catalogue.provenance(model.name)["licence"] if is_embedded else "",
    )


def origin(machine: Machine, model: TrainedModel, **read: Any) -> dict[str, Any]:
    """Where the numbers come from: versions, machine, and what exactly was trained and read."""
    return provenance(machine) | {"model": {"source": model.source, "revision": model.revision}} | read


class Saved(TrainedModel, Exportable, Protocol):
    """A model that can be trained and written."""


def write_model(model: Saved, method: str, folder: RunFolder, task_type: str | None) -> None:
    """The adapter, or the whole model where all of it was trained.

    Args:
        task_type: what PEFT calls the model's kind.
    """
    if method == "full":
        export_model(model, folder.path / "model")
        return
    save_adapter(model.model, folder.adapter, base_name=model.source, revision=model.revision, task_type=task_type)
