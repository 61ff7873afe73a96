"""A built wheel works in a separate environment, away from the checkout."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from tiny_models import save_tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
WORDS = ["court", "shall", "licence", "work", "notice", "grant", "party", "claim", "right", "term", "law", "use", "act"]


def run(*words: str | Path, folder: Path) -> str:
    """A program's standard output. It runs in `folder`, without the checkout or the tests on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with our wheel, which uses the other packages of this one.

    The wheel is built from the source distribution, so a file that is missing there is missing here too.
    """
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, folder=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "environment", symlinks=True)
    python = folder / "environment" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "-q", wheel, folder=folder)
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    # Folders named in a .pth file are searched, but their own .pth files (the editable install) are not read.
    (purelib / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for package in ("domain_ft", "domain_ft_kernels"):
        place = run(python, "-c", f"import {package}; print({package}.__file__)", folder=folder)
        assert place.startswith(str(purelib))
    return python.parent


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and two small corpora."""
    folder = tmp_path_factory.mktemp("job")
    save_tiny("bert", folder / "tiny")
    draw = random.Random(0)
    for name in ("domain", "control"):
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(20, 60))) + "." for _ in range(150)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def test_the_recipes_are_in_the_wheel(programs: Path, tmp_path: Path) -> None:
    listed = json.dumps(json.loads(run(programs / "domain-ft", "data", "list", "--json", folder=tmp_path)))
    assert '"legal"' in listed
    assert '"medical"' in listed


@pytest.fixture(scope="module")
def printed(programs: Path, job: Path) -> str:
    """The output of `adapt`, whose run is in the job's folder."""
    words = "adapt --corpus domain.jsonl --control control.jsonl --model tiny --output run --max-steps 3 --json --quiet"
    return run(programs / "domain-ft", *words.split(), "--tokens-per-step", "512", folder=job)


def test_adapt_runs_from_the_wheel(printed: str, job: Path) -> None:
    result = json.loads(printed)
    assert result == json.loads((job / "run" / "result.json").read_text())
    assert result["steps"] == 3
    for part in ("config.toml", "metrics.jsonl", "adapter/adapter_model.safetensors", "README.md", "report.html"):
        assert (job / "run" / part).stat().st_size > 0, part


def test_config_toml_repeats_the_run(programs: Path, printed: str, job: Path) -> None:
    """Both runs have bit-identical numbers."""
    words = ("adapt", "--config", "run/config.toml", "--output", "again", "--json", "--quiet")
    again, first = json.loads(run(programs / "domain-ft", *words, folder=job)), json.loads(printed)
    assert again["before"] == first["before"]
    assert again["after"] == first["after"]
