"""Our kernels compared with the peers': the bytes that they move, their compiled code, and their speed.

    domain-ft bench kernels                    everything; without a GPU the CPU backends are timed, at small sizes
    domain-ft bench kernels -- --compile       registers, spills, shared memory and instructions on four chips
    domain-ft bench kernels -- --traffic       bytes and FLOPs at full size, the bars, and the least time on five chips
    domain-ft bench kernels -- --time          timings on this machine

Only the timings run kernels; the rest needs no GPU. --all also compiles float16, float32 and options that a training
step does not use by default: the first run then takes twenty minutes on two cores, instead of two. The peers Liger, CCE
and PEFT are timed if installed, and the first two are compiled too; the traffic of all peers is derived from their
sources. The benchmark fails if our traffic or compiled code misses a bar (a limit, such as no spills), or if a result
of ours is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before triton is imported: compiling needs the compiler

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" if (HERE.parents[1] / "pyproject.toml").is_file() else Path("benchmark-results")
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = ("bfloat16",)
ALL_DTYPES = ("bfloat16", "float16", "float32")
TRAFFIC_TARGET = "sm_90"
"""The chip family whose tile sizes the traffic table uses. Requested bytes depend on them, compulsory bytes hardly."""


def main() -> None:
    args = _arguments()
    every = not (args.compile or args.traffic or args.time)
    found: dict[str, Any] = {}
    wrong: list[str] = []
    if args.traffic or every:
        wrong += _traffic(args, found)
    if args.compile or every:
        wrong += _compile(args, found)
    if args.time or every:
        wrong += _time(args, found)
    output = args.output or (RESULTS / "kernels-static.json" if "bars" in found and args.complete else None)
    if output is not None:
        _write(found, output)
    if args.json:
        print(json.dumps(found, indent=2))
    for line in wrong:
        print(f"missed: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def _arguments() -> argparse.Namespace:
    from cases import MODELS
    from launches import OPS

    names = tuple(model.name for model in MODELS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="only the compile table")
    parser.add_argument("--traffic", action="store_true", help="only the traffic table; with --compile, both")
    parser.add_argument("--time", action="store_true", help="only the timings")
    parser.add_argument("--all", action="store_true", help="compile every type and option")
    for name, choices in (("ops", OPS), ("targets", TARGETS), ("dtypes", ALL_DTYPES), ("models", names)):
        default = "bfloat16, or all with --all" if name == "dtypes" else "all"
        parser.add_argument(f"--{name}", help=f"some of {','.join(choices)}; default: {default}")
    parser.add_argument("--processes", type=int, help="processes that compile; default: one per core, at most 8")
    parser.add_argument(
        "--output", type=Path, help="where to write the JSON; default: benchmarks/results/, if the tables are complete"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON, not the tables")
    args = parser.parse_args()
    narrowed = args.ops or args.targets or args.dtypes or args.models
    args.complete = not narrowed and args.traffic == args.compile  # only complete tables are recorded
    args.ops = _chosen(parser, "ops", args.ops, OPS, OPS)
    args.targets = _chosen(parser, "targets", args.targets, TARGETS, TARGETS)
    args.dtypes = _chosen(parser, "dtypes", args.dtypes, ALL_DTYPES, ALL_DTYPES if args.all else DTYPES)
    args.models = _chosen(parser, "models", args.models, names, names)
    return args


def _chosen(
    parser: argparse.ArgumentParser, name: str, text: str | None, known: Sequence[str], default: Sequence[str]
) -> tuple[str, ...]:
    chosen = tuple(default) if text is None else tuple(text.split(","))
    if unknown := [word for word in chosen if word not in known]:
        parser.error(f"--{name}: no {', '.join(unknown)}; known: {', '.join(known)}")
    return chosen


def _write(found: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {output}", file=sys.stderr)


# The traffic


def _traffic(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """Count and print the traffic. Returns the bars that are missed."""
    import bars

    entries = bars.entries(args.ops, TRAFFIC_TARGET)
    checks = bars.bars(entries)
    found["traffic"] = [
        {
            "op": entry.op,
            "case": f"{entry.case}, {entry.whose}",
            "bytes": entry.amount.requested,
            "minimum_bytes": entry.amount.compulsory,
            "flops": entry.amount.flops,
        }
        for entry in entries
    ]
    found["bars"] = [{**dataclasses.asdict(bar), "met": bar.met} for bar in checks]
    found["roofline"] = bars.rooflines(entries)
    if not args.json:
        _show_traffic(entries)
        _show_rooflines(found["roofline"])
        _show_bars(checks)
    return [f"{bar.name} is {bar.value:.3g}, at most {bar.limit:.3g}" for bar in checks if not bar.met]


def _show_traffic(entries: Sequence[Any]) -> None:
    table = _table(f"forward and backward, bfloat16, 16,384 tokens (tiles for {TRAFFIC_TARGET})")
    _columns(table, ("op", "case", "whose"), ("requested GB", "compulsory GB", "TFLOP"))
    last = None
    for entry in entries:
        amount, place = entry.amount, (entry.op, entry.case)
        if last is not None and place != last:
            table.add_section()
        names = ("", "") if place == last else (_short(entry.op), entry.case)
        numbers = (f"{amount.requested / 1e9:,.1f}", f"{amount.compulsory / 1e9:,.2f}", f"{amount.flops / 1e12:.2f}")
        table.add_row(*names, entry.whose, *numbers)
        last = place
    _print(table)
    _say(
        "Requested: the bytes that all loads and stores ask for. A call of cuBLAS or PyTorch counts its operands once, "
        "but a softmax its rows twice. Compulsory: the distinct bytes of each launch."
    )


def _show_rooflines(listed: Sequence[dict[str, Any]]) -> None:
    from roofline import CHIPS

    table = _table("least milliseconds, bound by c(ompute), m(emory) or L(2 cache)")
    _columns(table, ("op", "case", "whose"), [chip.name for chip in CHIPS])
    letters = {"compute": "c", "memory": "m", "cache": "L"}
    last = None
    for entry in listed:
        place = entry["op"], entry["case"]
        if last is not None and place != last:
            table.add_section()
        names = ("", "") if place == last else (_short(entry["op"]), entry["case"])
        times = [f"{ms:.2f} {letters[entry['bound'][chip]]}" for chip, ms in entry["milliseconds"].items()]
        table.add_row(*names, entry["whose"], *times)
        last = place
    _print(table)


def _show_bars(checks: Sequence[Any]) -> None:
    table = _table("bars")
    _columns(table, ("what",), ("ours", "at most", "peers"))
    for bar in checks:
        colour = "green" if bar.met else "red"
        peers = ", ".join(f"{whose} {value:.3g}" for whose, value in bar.peers.items())
        table.add_row(bar.name, f"[{colour}]{bar.value:.3g}[/]", f"{bar.limit:.3g}", peers)
    _print(table)


# The compiler's report


def _compile(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """Compile and print. Returns a line for each row of ours that misses a bar."""
    import compiling

    work = compiling.tasks(args.ops, args.targets, args.dtypes, args.models, options=args.all)
    rows: list[compiling.Row] = []
    for number, (task, made) in enumerate(compiling.rows(work, args.processes or compiling.default_processes()), 1):
        print(
            f"compiled {number} of {len(work)}: {task.what}, {task.target}, {task.dtype}", file=sys.stderr, flush=True
        )
        rows += made
    rows.sort(key=lambda row: (TARGETS.index(row.target), row.dtype, row.package != compiling.OWN, row.package))
    found["rows"] = [compiling.as_dict(row) for row in rows]
    if not args.json:
        _show_compiled(rows)
    return [
        f"{row.kernel}, {row.target}, {row.dtype}, {row.config}: {', '.join(row.breaches)}"
        for row in rows
        if row.failed
    ]


def _show_compiled(rows: Sequence[Any]) -> None:
    for target, dtype in dict.fromkeys((row.target, row.dtype) for row in rows):
        table = _table(f"{target}, {dtype}")
        _columns(table, ("kernel", "tile"), ("regs", "spills", "KiB", "tensor", "narrow", "occ."))
        for row in rows:
            if (row.target, row.dtype) != (target, dtype):
                continue
            instructions = ", ".join(f"{count} {name}" for name, count in row.instructions.items())
            numbers = (row.registers, _red(row.spills), f"{row.shared_bytes / 1024:.0f}", instructions)
            colour = "red" if row.failed else "dim" if row.package != "domain_ft_kernels" else "default"
            cells = (*numbers, _red(row.narrow_accesses), f"{row.occupancy:.0%}")
            table.add_row(f"[{colour}]{_short(row.kernel)}[/]", _short_config(row.config), *map(str, cells))
        _print(table)
    ours = [row for row in rows if row.package == "domain_ft_kernels"]
    programs, failed = sum(row.programs for row in ours), sum(row.failed for row in ours)
    _say(f"Ours: {programs} programs in {len(ours)} rows, each the worst of its shapes; {failed} rows miss a bar.")


def _red(count: int) -> str:
    return f"[red]{count}[/]" if count else "0"


BRIEF = {"linear_cross_entropy": "head", "lora_linear": "lora", "cross_entropy": "ce", "_kernel": ""}


def _short(name: str) -> str:
    """An op's or a kernel's name for a narrow column."""
    for long, brief in BRIEF.items():
        name = name.replace(long, brief)
    return name.lstrip("_")


def _short_config(config: str) -> str:
    """A config in short, such as 128x64x32 w4 s3: blocks, warps, stages."""
    sizes = "x".join(re.findall(r"\b(?!GROUP)[A-Z_]+=(\d+)", config))
    return " ".join(filter(None, (sizes, *(f"{m[1][0]}{m[2]}" for m in re.finditer(r"(warps|stages)=(\d+)", config)))))


# The times


def _time(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """Time, print, plot and write the JSON. Returns a line for each wrong result of ours."""
    import timing
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}-cpu"
    ceilings, measured = timing.measure(args.ops, device)
    rows = list(measured)
    found["device"] = name
    found["ceilings"] = dataclasses.asdict(ceilings)
    found["times"] = [timing.as_dict(row) for row in rows]
    stem = RESULTS / f"kernels-{re.sub(r'[^a-z0-9]+', '-', name.lower())}"
    _write({key: found[key] for key in ("device", "ceilings", "times")}, stem.with_suffix(".json"))
    timing.plot(rows, stem.with_suffix(".png"))
    if not args.json:
        _show_times(rows, ceilings, name)
    return [
        f"{row.op}, {row.case}, {row.dtype}, {row.implementation}: error {row.error:.1e}"
        for row in rows
        if row.implementation in timing.OWN and not row.correct
    ]


def _show_times(rows: Sequence[Any], ceilings: Any, name: str) -> None:
    products = ", ".join(f"{dtype} {rate / 1e12:.3g}" for dtype, rate in ceilings.matmul.items())
    _say(f"{name}: copies at {ceilings.copy / 1e12:.3g} TB/s, multiplies at (TFLOP/s) {products}")
    for op, case, tokens, dtype in dict.fromkeys((row.op, row.case, row.tokens, row.dtype) for row in rows):
        table = _table(f"{op}: {case}, {tokens:,} tokens, {dtype}")
        _columns(
            table, ("",), ("error", "forward ms", "both ms", "spread", "to ours", "of matmul", "of copy", "peak MiB")
        )
        for row in rows:
            if (row.op, row.case, row.tokens, row.dtype) != (op, case, tokens, dtype):
                continue
            error = "other masks" if row.error is None else f"{row.error:.1e}"
            table.add_row(
                row.implementation,
                error if row.correct else f"[red]{error}[/]",
                f"{row.forward_ms:.3g}",
                f"{row.both_ms:.3g}",
                f"{row.both_spread:.0%}",
                f"{row.ratio:.2f} x",
                f"{row.of_matmul:.0%}",
                f"{row.of_copy:.0%}",
                "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.0f}",
            )
        _print(table)


# On the terminal


def _table(title: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", show_edge=False)


def _columns(table: Any, left: Sequence[str], right: Sequence[str]) -> None:
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console()
    console.print(table)
    console.print()


def _say(text: str) -> None:
    from rich.console import Console

    Console().print(text + "\n", highlight=False)


if __name__ == "__main__":
    main()
