"""`domain-ft export`: a run's adapter merged into its base model, written as a model that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domain_ft.models.base import load
from domain_ft.models.export import export_merged
from domain_ft.settings import ExportSettings
from domain_ft.training.progress import ProgressDisplay


def export(settings: ExportSettings) -> Path:
    """Write the merged model to `settings.output` and return that folder; logits are compared before it appears.

    Raises:
        ModelError: the run cannot be loaded, or the merged model does not give its logits.
        SettingsError: the folder holds something already.
    """
    with ProgressDisplay(quiet=settings.quiet) as display:
        base = load(settings.model, progress=display.job)
        export_merged(base, settings.output)
    return settings.output


def run(settings: ExportSettings) -> dict[str, Any]:
    """The verb: export, and say where to."""
    folder = export(settings)
    with ProgressDisplay(quiet=settings.quiet) as display:
        display.say(f"merged model written to {folder}, its logits equal to the run's")
    return {"command": "export", "model": settings.model, "output": str(folder)}
