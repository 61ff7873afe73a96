"""What several benchmarks share: separate processes, the machine's name and peak rates, tables and figures."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" if (HERE.parent / "pyproject.toml").is_file() else Path("benchmark-results")

OURS, OURS_TOO, PEER, PEER_TOO = "#0072b2", "#56b4e9", "#8a929c", "#b9c0c8"  # colours of sides in figures
INK = "#1c2430"

GEMM_SHAPES = ((4096, 384, 1536), (4096, 1536, 384), (2048, 2048, 2048))
"""(rows, inner, columns) of the matrix products whose best rate is the ceiling: minilm's, and a square one."""


def say(line: str) -> None:
    """Print a progress line to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def in_a_process(program: str, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run `program` in a separate process and return its last line of output, a JSON object.

    Raises:
        SystemExit: it failed; the message has the end of its standard error.
    """
    command = [sys.executable, program, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with status {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, threads and versions, which timings depend on."""
    import torch
    import transformers

    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def gemm_rates() -> dict[str, float]:
    """Measured rates of matrix products in FLOP/s, each the best over GEMM_SHAPES.

    `float32` is the rate of torch.mm, which any program gets; `best_float32` and `best_bfloat16` are the rates of the
    fastest library in torch for each type.
    """
    import torch

    from domain_ft_kernels.products import mm

    plain = _gemm_rate(torch.mm, torch.float32)
    found = {"float32": plain, "best_float32": max(plain, _gemm_rate(mm, torch.float32))}
    return found | {"best_bfloat16": max(_gemm_rate(product, torch.bfloat16) for product in (torch.mm, mm))}


def _gemm_rate(product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> float:
    import torch

    best = 0.0
    for rows, inner, columns in GEMM_SHAPES:
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        product(a, b)
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(4):
                product(a, b)
            best = max(best, 4 * 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


def write_json(found: dict[str, Any], path: Path) -> None:
    """Write the result atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


@contextlib.contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of `size` inches that is written to `path` as PNG when the block ends."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.edgecolor": "#5b6675",
        "grid.color": "#e3e7ec",
        "text.color": INK,
        "axes.labelcolor": INK,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        drawn = Figure(figsize=size, layout="constrained")
        yield drawn
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=150, metadata={"Software": None})


def table(title: str, left: Sequence[str], right: Sequence[str]) -> Any:
    """An empty table: text columns, then number columns."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", show_edge=False)
    for heading in left:
        made.add_column(heading)
    for heading in right:
        made.add_column(heading, justify="right")
    return made


def show(made: Any) -> None:
    """Print a table; 120 columns wide if the output is not a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(made)
    console.print()
