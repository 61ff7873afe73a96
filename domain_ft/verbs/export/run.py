"""`domain-ft export`: merge a run's adapter into its base model, and write a model that transformers can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domain_ft.embedded.loading import load, load_task_run
from domain_ft.errors import ModelError, SettingsError
from domain_ft.locks import refuse_below_file, writing_beside
from domain_ft.models.export import Exportable, export_model
from domain_ft.models.sentence_facts import MODULES_NAME
from domain_ft.models.task_facts import TASK_NAME
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.export.settings import ExportSettings


def export(settings: ExportSettings) -> Path:
    """Write the merged model to `settings.output` and return that folder, which appears once the model is checked.

    Raises:
        ModelError: the run cannot be loaded or has a linear probe, or the merged model has other logits.
        SettingsError: the folder is not empty, or cannot be created.
    """
    _refuse_taken(settings.output)
    with ProgressDisplay(quiet=settings.quiet) as display:
        model = _load(settings.model, display)
        with writing_beside(settings.output):
            _refuse_taken(settings.output)  # again: another process may have created it meanwhile
            export_model(model, settings.output)
    return settings.output


def _refuse_taken(output: Path) -> None:
    """Check that the folder is new or empty, and that it can be created."""
    refuse_below_file(output)
    if output.is_symlink() or (output.exists() and not (output.is_dir() and not any(output.iterdir()))):
        what = "is a link" if output.is_symlink() else "is not empty" if output.is_dir() else "is a file"
        raise SettingsError(f"--output {output} {what}", fix="give a new or empty folder; nothing was changed")


def _load(name: str, display: ProgressDisplay) -> Exportable:
    """A language model or run, or a run of `classify` or `tag` with its head."""
    if not (Path(name) / TASK_NAME).is_file():
        return load(name, progress=display.job)
    task = load_task_run(name, progress=display.job)
    if task.probe is not None:
        raise ModelError(
            f"'{name}' has a linear probe (--method head or contrastive), which transformers cannot load",
            fix="use domain-ft predict with the run, or train with --method lora, dora or full",
        )
    return task


def run(settings: ExportSettings) -> dict[str, Any]:
    """The verb: export, and print the folder."""
    folder = export(settings)
    with ProgressDisplay(quiet=settings.quiet) as display:
        display.say(f"merged model written to {folder}; its logits match the run's")
        if (folder / MODULES_NAME).is_file():
            display.say("sentence-transformers loads it too: SentenceTransformer(folder)")
    return {"command": "export", "model": settings.model, "output": str(folder)}
