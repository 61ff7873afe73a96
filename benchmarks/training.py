"""Tokens per second and peak memory of `adapt`'s training against transformers' Trainer + PEFT, side by side.

    domain-ft bench training [--jobs minilm-legal,...] [--rounds 3] [--steps 6] [--json]

Both sides train the same adapter (rank, targets) of the same base on the same documents, in rows of at most 256
tokens, about as many tokens in a step, in processes of their own that take turns: ours, peer, peer without dropout,
ours, and so on. Loading and tokenising are outside the timed steps on both sides, and the first step of each
process is not counted. A token is a token of a document: padding is not counted. `final_loss` is the held-out loss
after the last step, by our scorer for both sides. `gemm_fraction` is the share of the machine's measured float32
GEMM rate that the job's own arithmetic (see `flops_per_token`) reaches on our side.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" if (HERE.parent / "pyproject.toml").is_file() else Path("benchmark-results")
SIDES = ("ours", "peer", "peer_no_dropout")
RANK = 16
LENGTH = 256
TOKENS_PER_STEP = 4096
LEARNING_RATE = 1e-3
SEED = 0
CHARACTERS_PER_TOKEN = 5


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        model, corpus: embedded names.
        objective: `mlm` or `clm`.
        grouped: whether the peer lays documents end to end (run_mlm.py, run_clm.py) or pads them (--line_by_line).
    """

    model: str
    corpus: str
    objective: str
    grouped: bool


JOBS = {
    "minilm-legal": Job("minilm", "legal", "mlm", grouped=True),
    "minilm-medical": Job("minilm", "medical", "mlm", grouped=False),
    "smollm2-medical": Job("smollm2", "medical", "clm", grouped=True),
}


# --- One measurement, in a process of its own -----------------------------------------------------------------------


def measure(job: Job, side: str, steps: int) -> dict[str, Any]:
    """Train `steps` on one `side`; speed of each step but the first, peak memory, held-out loss afterwards.

    The peer's process loads nothing of ours but the texts before its peak memory is read.
    """
    from domain_ft.models.peft_format import load_adapter
    from domain_ft.settings import AdaptSettings
    from domain_ft.training.loop import peak_memory_bytes
    from domain_ft.training.progress import ProgressDisplay
    from domain_ft.verbs.adapt import add_trainable, set_up
    from domain_ft.verbs.language_model import choose_machine, score_held_out

    settings = AdaptSettings(
        corpus=job.corpus,
        model=job.model,
        control="none",
        max_steps=steps,
        rank=RANK,
        max_length=LENGTH,
        tokens_per_step=TOKENS_PER_STEP,
        tokens_per_pass=TOKENS_PER_STEP,
        learning_rate=LEARNING_RATE,
        evaluation_tokens=20_000,
        quiet=True,
        seed=SEED,
    )
    with tempfile.TemporaryDirectory() as folder:
        if side != "ours":
            rates, adapter = _train_peer(job, side == "peer", steps, Path(folder))
            peak = peak_memory_bytes()
        machine = choose_machine(settings)
        prepared = set_up(settings, machine, ProgressDisplay(quiet=True))
        if side == "ours":
            add_trainable(prepared)
            rates = _train_ours(prepared, steps, Path(folder))
            peak = peak_memory_bytes()
        else:
            load_adapter(prepared.base.model, adapter)
    prepared.base.model.eval()
    scores = score_held_out(
        prepared.base,
        prepared.objective,
        prepared.held_out["domain"],
        machine,
        tokens_per_pass=TOKENS_PER_STEP,
    )
    return {
        "tokens_per_second": statistics.median(rates),
        "peak_memory_bytes": peak,
        "final_loss": scores.summary()["loss"],
        "flops_per_token": flops_per_token(prepared),
    }


def _train_ours(prepared: Any, steps: int, folder: Path) -> list[float]:
    from domain_ft.training.loop import train
    from domain_ft.training.progress import ProgressDisplay

    lines: list[Any] = []
    train(
        prepared.base,
        prepared.objective,
        prepared.train_rows,
        dataclasses.replace(prepared.loop, evaluate_every=0, checkpoint_every=steps + 1),
        accelerator=prepared.machine.accelerator,
        checkpoints=folder,
        display=ProgressDisplay(quiet=True),
        log=lines.append,
    )
    return [line["tokens_per_second"] for line in lines[1:]]


def _train_peer(job: Job, dropout: bool, steps: int, folder: Path) -> tuple[list[float], Path]:
    import peer_trainer

    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.corpus.prepared import prepare
    from domain_ft.models.sources import find

    texts: list[str] = []
    characters = 0
    for document in prepare(open_corpus(job.corpus)).split("train").documents():
        texts.append(document.text)
        characters += len(document.text)
        if characters > 3 * CHARACTERS_PER_TOKEN * steps * TOKENS_PER_STEP:  # more than enough for one epoch
            break
    return peer_trainer.run(
        find(job.model).folder,
        texts,
        objective=job.objective,
        grouped=job.grouped,
        length=LENGTH,
        tokens_per_step=TOKENS_PER_STEP,
        steps=steps,
        rank=RANK,
        learning_rate=LEARNING_RATE,
        dropout=dropout,
        seed=SEED,
        output=folder,
    )


def flops_per_token(prepared: Any) -> float:
    """Floating-point operations a trained token needs, forward and backward, for this job as LoRA defines it.

    A frozen linear layer (K inputs, N outputs) takes 2 K N forward and 2 K N for the gradient of its input; its adapter
    takes 2 R (K + N) forward and twice that backward. Attention takes 4 L D forward (scores and mix over L tokens of a
    row; half of it where it is causal) and twice that backward. The head, on the labelled positions alone, takes 2 D V
    forward and 2 D V backward.
    """
    from torch import nn

    from domain_ft.models.lora import LoraLinear

    model, rows = prepared.base.model, prepared.train_rows
    config = model.config
    linears = [m for m in model.modules() if isinstance(m, LoraLinear)]
    projection = model.get_output_embeddings()
    frozen = sum(2 * m.in_features * m.out_features for m in linears)
    lora = sum(2 * RANK * (m.in_features + m.out_features) for m in linears)
    heads = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "base_layer" not in n]
    transform = sum(2 * m.in_features * m.out_features for m in heads if m is not projection)
    mean_row = float((rows.lengths.astype(float) ** 2).sum() / rows.lengths.sum())
    causal = prepared.base.objective == "clm"
    attention = 4 * mean_row * config.hidden_size * config.num_hidden_layers * (0.5 if causal else 1.0)
    share = 1.0 if causal else prepared.settings.mask_rate
    weight = projection.weight
    head = share * (2 * weight.shape[0] * weight.shape[1] + transform)
    return float(2 * frozen + 3 * lora + 3 * attention + 2 * head)


def gemm_rate() -> float:
    """Measured float32 GEMM rate in FLOP/s: the best of the shapes that minilm has and a square one."""
    import torch

    best = 0.0
    for rows, inner, columns in ((4096, 384, 1536), (4096, 1536, 384), (2048, 2048, 2048)):
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        out = torch.empty(rows, columns)
        torch.mm(a, b, out=out)
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(4):
                torch.mm(a, b, out=out)
            best = max(best, 4 * 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


# --- The comparison -------------------------------------------------------------------------------------------------


def compare(names: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """All jobs on all sides, in turns; medians over the rounds, and our share of the GEMM rate."""
    rate = gemm_rate()
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {name: {side: [] for side in SIDES} for name in names}
    for turn in range(rounds):
        for name in names:
            for side in SIDES:
                print(f"round {turn + 1} of {rounds}: {name}, {side}", file=sys.stderr, flush=True)
                runs[name][side].append(_in_a_process(name, side, steps))
    rows = []
    for name in names:
        medians = {side: _medians(runs[name][side]) for side in SIDES}
        flops = runs[name]["ours"][0]["flops_per_token"]
        rows.append(
            {
                "job": name,
                **medians,
                "ratio": medians["ours"]["tokens_per_second"] / medians["peer"]["tokens_per_second"],
                "ratio_no_dropout": medians["ours"]["tokens_per_second"]
                / medians["peer_no_dropout"]["tokens_per_second"],
                "memory_ratio": medians["ours"]["peak_memory_bytes"] / medians["peer"]["peak_memory_bytes"],
                "flops_per_token": flops,
                "gemm_fraction": medians["ours"]["tokens_per_second"] * flops / rate,
                "runs": runs[name],
            }
        )
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "gemm_gflops": rate / 1e9,
        "rounds": rounds,
        "steps": steps,
        "rows": rows,
    }


def _in_a_process(name: str, side: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", name, side, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}, {side} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        key: statistics.median(run[key] for run in runs)
        for key in ("tokens_per_second", "peak_memory_bytes", "final_loss")
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show(found: dict[str, Any]) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"training on {found['machine']} ({found['gemm_gflops']:.0f} GFLOP/s float32 GEMM); "
        f"medians of {found['rounds']} interleaved rounds"
    )
    for heading in ("job", "side", "tokens/s", "ours is", "memory", "held-out loss"):
        table.add_column(heading, justify="left" if heading in ("job", "side") else "right")
    for row in found["rows"]:
        for side in SIDES:
            own = row[side]
            ratio = {"ours": "", "peer": row["ratio"], "peer_no_dropout": row["ratio_no_dropout"]}[side]
            table.add_row(
                row["job"] if side == "ours" else "",
                side.replace("_", " "),
                f"{own['tokens_per_second']:,.0f}",
                f"{ratio:.2f} x" if ratio else f"{row['gemm_fraction']:.0%} of GEMM",
                f"{own['peak_memory_bytes'] / 2**30:.2f} GiB",
                f"{own['final_loss']:.3f}",
                end_section=side == SIDES[-1],
            )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"of {', '.join(JOBS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path, help="where to write the JSON; default: results/training.json")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")
    parser.add_argument("--measure", nargs=2, metavar=("JOB", "SIDE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        name, side = given.measure
        print(json.dumps(measure(JOBS[name], side, given.steps)))
        return
    names = given.jobs.split(",")
    unknown = [name for name in names if name not in JOBS]
    if unknown:
        parser.error(f"no job {', '.join(unknown)}; known: {', '.join(JOBS)}")
    found = compare(names, given.rounds, given.steps)
    output = given.output or RESULTS / "training.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
        print(f"written to {output}")


if __name__ == "__main__":
    main()
