"""`domain-ft bench`: run a benchmark from the repository or, in an installed wheel, from inside the package."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

from domain_ft.errors import SettingsError, UserError
from domain_ft.verbs.bench.settings import BenchSettings


def benchmarks_folder() -> Path:
    """The folder of the benchmarks."""
    package = Path(str(resources.files("domain_ft")))
    inside = package / "benchmarks"
    return inside if inside.is_dir() else package.parent / "benchmarks"


def program_of(what: str) -> Path | None:
    """The program of a benchmark: a file, or a folder with a __main__.py. None if it is missing."""
    folder = benchmarks_folder()
    if (folder / what / "__main__.py").is_file():
        return folder / what
    program = folder / f"{what.replace('-', '_')}.py"
    return program if program.is_file() else None


def run(settings: BenchSettings) -> None:
    """The verb: run the benchmark in a separate process, so that its memory can be measured.

    Raises:
        SettingsError: the benchmark's program is missing from this installation.
        UserError: the benchmark failed; its output is above.
    """
    program = program_of(settings.what)
    if program is None:
        raise SettingsError(
            f"the program of the benchmark '{settings.what}' is missing from this installation",
            fix="install domain-ft again, or run the benchmark in a clone of the repository",
        )
    done = subprocess.run([sys.executable, str(program), *settings.arguments], check=False)
    if done.returncode:
        raise UserError(
            f"the benchmark '{settings.what}' ended with status {done.returncode}",
            fix="see its output above; pip install 'domain-ft[dev]' adds the libraries that it compares with",
        )
