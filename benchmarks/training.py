"""Tokens per second, peak memory and loss of `adapt`, compared with transformers' Trainer + PEFT.

    domain-ft bench training [-- --jobs minilm-legal,... --sides ours,peer,... --rounds 3 --steps 5 --json]
    domain-ft bench training -- --losses 24 [--rounds 1]      the losses after equal tokens, instead of the speed

Both train the same adapter (rank, targets, alpha) of the same base on the same corpus, in rows of at most 256 tokens,
with about the same number of tokens per step, the same learning rate, schedule and number of threads. Each runs in a
separate process, and sides take turns: ours, peer, peer without dropout, and so on. Ratios are between two processes of
one round. Loading and tokenising are not timed, nor is the first step of each process. Only document tokens count, not
padding. Each round has a different seed.

Sides. `ours` is `adapt` with `--dtype auto`; if that is not float32, `ours_float32` is run too. The peer is run with
dropout and without. SmolLM2 has no dropout, so there only the adapters have it (PEFT's lora_dropout). If the peer pads
(short documents, one per row), it is also run with batches grouped by length; full rows have one length, so grouping
would change nothing.

`gemm_fraction` is the rate of our counted FLOPs (see flops.py) as a share of torch.mm's rate in float32, measured in
the same round; `best_gemm_fraction` is the share of the fastest library's rate in the type that is used.
`data_fraction` is the share of our step time in which the loop prepares its micro-batches instead of computing.
`final_loss` is the held-out loss after these few steps and only shows that both train. --losses shows whether both
learn the same from equal tokens. Our scorer scores both sides and the base, and intervals are from the paired bootstrap
over held-out documents.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from shared import (
    INK,
    OURS,
    OURS_TOO,
    PEER,
    PEER_TOO,
    RESULTS,
    figure,
    gemm_rates,
    in_a_process,
    machine,
    say,
    show,
    table,
    write_json,
)

RANK = 16
LENGTH = 256
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
WARMUP = 0.1
SHORT_EVALUATION, LONG_EVALUATION = 4_000, 20_000
"""Held-out tokens that are scored after the speed rounds, and for --losses."""


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        model, corpus: embedded names.
        objective: `mlm` or `clm`.
        full_rows: whether the peer concatenates documents (run_mlm.py, run_clm.py) or pads them (--line_by_line).
        tokens_per_step: document tokens in an optimiser step; fewer where the peer would take minutes.
        steps: optimiser steps per process; the first is not timed.
    """

    model: str
    corpus: str
    objective: str
    full_rows: bool
    tokens_per_step: int
    steps: int


@dataclass(frozen=True)
class Side:
    """Who trains, and how: `dtype` applies to ours, `dropout` and grouping by length to the peer.

    `name` is for the table's narrow column, `label` for the plot.
    """

    name: str
    label: str
    colour: str
    ours: bool = False
    dtype: str = "auto"
    dropout: bool = False
    by_length: bool = False


JOBS = {
    "minilm-legal": Job("minilm", "legal", "mlm", full_rows=True, tokens_per_step=4096, steps=4),
    "minilm-medical": Job("minilm", "medical", "mlm", full_rows=False, tokens_per_step=2048, steps=5),
    "smollm2-medical": Job("smollm2", "medical", "clm", full_rows=True, tokens_per_step=2048, steps=3),
}
SIDES = {
    "ours": Side("ours", "domain-ft", OURS, ours=True),
    "ours_float32": Side("ours", "domain-ft, float32", OURS_TOO, ours=True, dtype="float32"),
    "peer": Side("peer", "Trainer + PEFT, defaults", PEER, dropout=True),
    "peer_no_dropout": Side("  no dropout", "no dropout", PEER_TOO),
    "peer_by_length": Side("  by length", "defaults, grouped by length", PEER, dropout=True, by_length=True),
    "peer_by_length_no_dropout": Side(
        "  by length, no dropout", "no dropout, grouped by length", PEER_TOO, by_length=True
    ),
}


def sides_of(job: Job) -> list[str]:
    """The sides that differ for `job`; `Comparison.turn` adds `ours_float32` if `ours` runs in another type."""
    return [name for name, side in SIDES.items() if name != "ours_float32" and not (side.by_length and job.full_rows)]


# --- One measurement, in a separate process -------------------------------------------------------------------------


def make_peer_rows(job: Job, folder: Path) -> None:
    """Tokenise the training split for the peer, once for all rounds."""
    import peer_trainer

    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.corpus.prepared import prepare
    from domain_ft.models.sources import find

    texts = [document.text for document in prepare(open_corpus(job.corpus)).split("train").documents()]
    model = find(job.model).folder
    peer_trainer.make_rows(model, texts, length=LENGTH, full_rows=job.full_rows, folder=folder)


def measure(job: Job, side: Side, steps: int, seed: int, rows: Path, scores: Path | None) -> dict[str, Any]:
    """Train `steps` on one `side`: speed of all steps but the first, peak memory, held-out loss afterwards.

    The peer's process reads its peak memory before it loads our model and corpus. If the folder `scores` is given, the
    scores of the trained model are written to it, and for our sides also those of the base.
    """
    import torch

    from domain_ft.models.peft_format import load_adapter
    from domain_ft.training.loop import peak_memory_bytes
    from domain_ft.training.progress import ProgressDisplay
    from domain_ft.verbs.adapt.prepare import set_up
    from domain_ft.verbs.adapt.settings import AdaptSettings
    from domain_ft.verbs.shared.language_model import score_held_out
    from domain_ft.verbs.shared.machine import choose_machine
    from domain_ft.verbs.shared.text_runs import add_trainable

    settings = AdaptSettings(
        corpus=job.corpus,
        model=job.model,
        control="none",
        max_steps=steps,
        rank=RANK,
        max_length=LENGTH,
        whole_word=False,  # the peer's collator masks tokens
        tokens_per_step=job.tokens_per_step,
        tokens_per_micro_batch=job.tokens_per_step,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup=WARMUP,
        evaluation_tokens=LONG_EVALUATION if scores else SHORT_EVALUATION,
        dtype=side.dtype if side.ours else "float32",
        quiet=True,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        if not side.ours:
            found, adapter = _train_peer(job, side, steps, seed, rows, Path(folder), longest_first=scores is None)
            found["peak_memory_bytes"] = peak_memory_bytes()
        chosen = choose_machine(settings)
        prepared = set_up(settings, chosen, ProgressDisplay(quiet=True))

        def score(name: str) -> float:
            prepared.base.model.eval()
            scored = score_held_out(
                prepared.base,
                prepared.objective,
                prepared.held_out["domain"],
                chosen,
                tokens_per_micro_batch=job.tokens_per_step,
            )
            if scores:
                scored.save(scores / f"{name}.json")
            return scored.summary()["loss"]

        if side.ours:
            if scores:
                score("base")
            add_trainable(prepared)
            found = _train_ours(prepared, steps, Path(folder))
            found["peak_memory_bytes"] = peak_memory_bytes()
            found["flops_per_token"] = _flops_per_token(prepared)
        else:
            load_adapter(prepared.base.model, adapter)
        found["final_loss"] = score("trained")
    return found | {"dtype": chosen.dtype, "threads": torch.get_num_threads()}


def _train_ours(prepared: Any, steps: int, folder: Path) -> dict[str, Any]:
    from domain_ft.training.loop import train
    from domain_ft.training.progress import ProgressDisplay

    lines: list[Any] = []
    with _preparing() as taken:
        state = train(
            prepared.base,
            prepared.objective,
            prepared.train_rows,
            dataclasses.replace(prepared.loop, evaluate_every=0, checkpoint_every=steps + 1),
            accelerator=prepared.machine.accelerator,
            checkpoints=folder,
            display=ProgressDisplay(quiet=True),
            log=lines.append,
        )
    tokens = lines[-1]["tokens"] - lines[0]["tokens"]
    seconds = state.seconds - lines[0]["tokens"] / lines[0]["tokens_per_second"]
    return {
        "tokens_per_second": tokens / seconds,
        "tokens": state.tokens,
        "padding_fraction": statistics.mean(line["padding_fraction"] for line in lines[1:]),
        "data_fraction": sum(taken[1:]) / seconds,
    }


@contextlib.contextmanager
def _preparing() -> Iterator[list[float]]:
    """The seconds of each step in which the loop prepares micro-batches instead of computing."""
    from domain_ft.training import loop

    original, seconds = loop._Trainer.prepare, list[float]()

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        prepared = original(*arguments)
        seconds.append(time.perf_counter() - began)
        return prepared

    with mock.patch.object(loop._Trainer, "prepare", timed):
        yield seconds


def _train_peer(
    job: Job, side: Side, steps: int, seed: int, rows: Path, folder: Path, *, longest_first: bool
) -> tuple[dict[str, Any], Path]:
    import peer_trainer

    from domain_ft.models.sources import find

    recipe = peer_trainer.Recipe(
        model=find(job.model).folder,
        rows=rows,
        objective=job.objective,
        dropout=side.dropout,
        by_length=side.by_length,
        longest_first=longest_first,
        tokens_per_step=job.tokens_per_step,
        steps=steps,
        rank=RANK,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup=WARMUP,
        seed=seed,
    )
    timed, adapter = peer_trainer.run(recipe, folder)
    return {
        "tokens_per_second": timed.tokens / timed.seconds,
        "tokens": timed.all_tokens,
        "padding_fraction": 1 - timed.tokens / timed.padded_tokens,
    }, adapter


def _flops_per_token(prepared: Any) -> float:
    import flops

    return flops.count(prepared).total


# --- The comparison -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Jobs and sides that take turns."""

    names: list[str]
    sides: list[str]
    steps: int | None
    folder: Path

    def make_rows(self) -> None:
        """Tokenise the corpora for the peer."""
        for name in self.names:
            if any(not SIDES[side].ours for side in self.sides):
                say(f"{name}: tokenising for the peer")
                in_a_process(__file__, "--measure", name, "rows", "--folder", str(self.folder))

    def turn(self, name: str, seed: int, scores: Path | None = None) -> dict[str, dict[str, Any]]:
        """Run one process per side. Returns the measurements by side."""
        found: dict[str, dict[str, Any]] = {}
        waiting = [side for side in sides_of(JOBS[name]) if side in self.sides]
        while waiting:
            side = waiting.pop(0)
            began = time.perf_counter()
            arguments = ["--measure", name, side, "--steps", str(self.steps_of(name)), "--seed", str(seed)]
            arguments += ["--folder", str(self.folder)]
            if scores:
                (scores / side).mkdir(parents=True)
                arguments += ["--scores", str(scores / side)]
            found[side] = one = in_a_process(__file__, *arguments)
            if side == "ours" and one["dtype"] != "float32" and "ours_float32" in self.sides:
                waiting.insert(0, "ours_float32")
            say(
                f"  {name}, {side}: {one['tokens_per_second']:,.0f} tokens/s, "
                f"{one['peak_memory_bytes'] / 2**30:.2f} GiB, {one['dtype']}, loss {one['final_loss']:.3f} "
                f"(took {time.perf_counter() - began:.0f} s)"
            )
        return found

    def steps_of(self, name: str) -> int:
        """The steps of every job, if given, or else this job's default."""
        return self.steps or JOBS[name].steps


def compare_speed(comparison: Comparison, rounds: int, output: Path) -> dict[str, Any]:
    """All jobs on all sides, in turns. The JSON is written after each round, so that finished rounds are not lost."""
    comparison.make_rows()
    turns: dict[str, list[dict[str, dict[str, Any]]]] = {name: [] for name in comparison.names}
    ceilings: dict[str, list[dict[str, float]]] = {name: [] for name in comparison.names}
    found: dict[str, Any] = {}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name in comparison.names:
            ceilings[name].append(in_a_process(__file__, "--measure", name, "ceilings"))
            turns[name].append(comparison.turn(name, seed=number))
        every = [one for listed in ceilings.values() for one in listed]
        found = machine() | {
            "gemm_gflops": statistics.median(one["float32"] for one in every) / 1e9,
            "best_gemm_gflops": {
                dtype: statistics.median(one[f"best_{dtype}"] for one in every) / 1e9
                for dtype in ("float32", "bfloat16")
            },
            "rounds": number + 1,
            "rows": [_row(name, comparison.steps_of(name), turns[name], ceilings[name]) for name in comparison.names],
        }
        write_json(found, output)
    return found


def _row(name: str, steps: int, turns: list[dict[str, dict[str, Any]]], ceilings: list[dict[str, float]]) -> Any:
    """A job's medians over the rounds, and the ratios within each round."""
    medians = {side: _medians([turn[side] for turn in turns]) for side in turns[0]}
    row = {"job": name, "tokens_per_step": JOBS[name].tokens_per_step, "steps": steps, **medians}
    if "ours" in medians:
        peers = [side for side in medians if not SIDES[side].ours]
        row |= {
            "ratios": {side: _ratios(turns, side, "tokens_per_second") for side in peers},
            "memory_ratios": {side: _ratios(turns, side, "peak_memory_bytes") for side in peers},
            "flops_per_token": turns[0]["ours"]["flops_per_token"],
            "data_fraction": statistics.median(turn["ours"]["data_fraction"] for turn in turns),
        }
    for side, suffix in (("ours", ""), ("ours_float32", "_float32")):
        if side in medians:
            row[f"gemm_fraction{suffix}"] = _fraction(turns, ceilings, side, "float32")
            row[f"best_gemm_fraction{suffix}"] = _fraction(turns, ceilings, side, f"best_{medians[side]['dtype']}")
    return row | {"runs": turns, "ceilings": ceilings}


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("tokens_per_second", "peak_memory_bytes", "final_loss", "padding_fraction")
    return {key: statistics.median(run[key] for run in runs) for key in keys} | {"dtype": runs[0]["dtype"]}


def _ratios(turns: list[dict[str, dict[str, Any]]], side: str, key: str) -> dict[str, Any]:
    rounds = [turn["ours"][key] / turn[side][key] for turn in turns]
    return {"median": statistics.median(rounds), "rounds": rounds}


def _fraction(turns: list[dict[str, dict[str, Any]]], ceilings: list[dict[str, float]], side: str, rate: str) -> float:
    reached = [
        turn[side]["tokens_per_second"] * turn[side]["flops_per_token"] / ceiling[rate]
        for turn, ceiling in zip(turns, ceilings, strict=True)
    ]
    return statistics.median(reached)


def compare_losses(comparison: Comparison, rounds: int, output: Path) -> dict[str, Any]:
    """The held-out loss of each side after equal tokens, one round per seed."""
    comparison.make_rows()
    found = machine() | {"evaluation_tokens": LONG_EVALUATION, "rows": []}
    for name in comparison.names:
        for seed in range(rounds):
            say(f"{name}, seed {seed}")
            scores = comparison.folder / f"scores-{name}-{seed}"
            turn = comparison.turn(name, seed, scores)
            found["rows"] += _losses(name, seed, comparison.steps_of(name), turn, scores)
            write_json(found, output)
    return found


def _losses(name: str, seed: int, steps: int, turn: dict[str, dict[str, Any]], scores: Path) -> list[dict[str, Any]]:
    from domain_ft.evaluation.bootstrap import difference
    from domain_ft.evaluation.scores import Scores

    base, ours = (Scores.load(scores / "ours" / f"{what}.json") for what in ("base", "trained"))
    rows: list[dict[str, Any]] = [
        {"job": name, "seed": seed, "side": "base", "tokens": 0, "loss": base.summary()["loss"]}
    ]
    for side, one in turn.items():
        trained = Scores.load(scores / side / "trained.json")
        row = {"job": name, "seed": seed, "side": side, "steps": steps, "tokens": one["tokens"]}
        row |= {"loss": trained.summary()["loss"], "against_base": difference(base, trained)}
        rows.append(row if side == "ours" else row | {"ours_against_it": difference(trained, ours)})
    return rows


# --- What is shown --------------------------------------------------------------------------------------------------


def show_speed(found: dict[str, Any]) -> None:
    """Print the table."""
    made = table(
        f"{found['machine']}, {found['threads']} threads; GFLOP/s: torch.mm {found['gemm_gflops']:.0f} in float32, the "
        f"fastest library {found['best_gemm_gflops']['float32']:.0f}, in bfloat16 "
        f"{found['best_gemm_gflops']['bfloat16']:.0f}\n'of GEMM': of torch.mm's rate / of the fastest's in that type\n"
        f"medians of {found['rounds']} interleaved rounds; ratios are of ours to the peer, within a round",
        ("job", "side"),
        ("tokens/s", "ratio", "of GEMM", "GiB", "ratio", "padding", "loss"),
    )
    for row in found["rows"]:
        for number, name in enumerate(side for side in SIDES if side in row):
            measured, speed, memory, fraction = row[name], "", "", ""
            if SIDES[name].ours:
                fraction = " / ".join(f"{row[key]:.0%}" for key in _fraction_keys(name))
            elif "ratios" in row:
                speed, memory = _spread(row["ratios"][name]), f"{row['memory_ratios'][name]['median']:.2f} x"
            made.add_row(
                "" if number else row["job"],
                f"{SIDES[name].name}, {measured['dtype']}" if SIDES[name].ours else SIDES[name].name,
                f"{measured['tokens_per_second']:,.0f}",
                speed,
                fraction,
                f"{measured['peak_memory_bytes'] / 2**30:.2f}",
                memory,
                f"{measured['padding_fraction']:.0%}",
                f"{measured['final_loss']:.2f}",
            )
        made.add_section()
    show(made)
    for row in found["rows"]:
        if "data_fraction" in row:
            print(f"{row['job']}: preparing micro-batches takes {row['data_fraction']:.2%} of our step time.")


def _fraction_keys(side: str) -> tuple[str, str]:
    suffix = "" if side == "ours" else "_float32"
    return f"gemm_fraction{suffix}", f"best_gemm_fraction{suffix}"


def _spread(ratios: dict[str, Any]) -> str:
    """`5.12 x (4.9-5.3)`: median, minimum and maximum over the rounds."""
    rounds = ratios["rounds"]
    return f"{ratios['median']:.2f} x" + (f" ({min(rounds):.1f}-{max(rounds):.1f})" if len(rounds) > 1 else "")


def show_losses(found: dict[str, Any]) -> None:
    """Print the table."""
    made = table(
        f"held-out loss after equal tokens ({found['evaluation_tokens']:,} held-out tokens, 95 % intervals)",
        ("job", "seed", "side"),
        ("tokens", "loss", "against the base", "ours against it"),
    )
    for row in found["rows"]:
        if row["side"] == "base" and made.row_count:
            made.add_section()
        made.add_row(
            *((row["job"], str(row["seed"]), "base") if row["side"] == "base" else ("", "", SIDES[row["side"]].name)),
            f"{row['tokens']:,}",
            f"{row['loss']:.3f}",
            *(_interval(row.get(key)) for key in ("against_base", "ours_against_it")),
        )
    show(made)


def _interval(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{found['loss']:+.3f} [{low:+.3f}, {high:+.3f}]"


def plot(found: dict[str, Any], path: Path) -> None:
    """Plot speed and memory, one row of panels per job, with our ratio to each peer."""
    rows = [row for row in found["rows"] if "ours" in row]
    if not rows:
        return
    counts = [sum(side in row for side in SIDES) for row in rows]
    with figure(path, (9.5, 0.6 + 0.3 * sum(counts) + 0.6 * len(rows))) as drawn:
        grid = drawn.subplots(len(rows), 2, squeeze=False, gridspec_kw={"height_ratios": counts})
        for (speed, memory), row in zip(grid, rows, strict=True):
            names = [side for side in SIDES if side in row]
            labels = [SIDES[name].label for name in names]
            colours = [SIDES[name].colour for name in names]
            rates = [row[name]["tokens_per_second"] for name in names]
            gibs = [row[name]["peak_memory_bytes"] / 2**30 for name in names]
            notes: list[tuple[str, str]] = []
            for name in names:
                if SIDES[name].ours:
                    notes.append((f"{row[_fraction_keys(name)[0]]:.0%} of GEMM", ""))
                else:
                    speed_ratio, memory_ratio = row["ratios"][name]["median"], row["memory_ratios"][name]["median"]
                    notes.append((f"ours: {speed_ratio:.1f} x", f"ours: {memory_ratio:.2f} x"))
            for axes, values, which, digits in ((speed, rates, 0, 0), (memory, gibs, 1, 1)):
                axes.barh(labels, values, color=colours, height=0.72)
                axes.invert_yaxis()
                axes.tick_params(axis="y", length=0, labelleft=axes is speed)
                axes.grid(axis="x", color="#e3e7ec")
                axes.set_xlim(0, max(values) * 1.6)
                for place, (value, note) in enumerate(zip(values, notes, strict=True)):
                    axes.annotate(
                        f"{value:,.{digits}f}" + (f"  {note[which]}" if note[which] else ""),
                        (value, place),
                        xytext=(4, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=8.5,
                        color=INK,
                    )
            speed.set_title(f"{row['job']}: tokens/s")
            memory.set_title("peak memory, GiB")
        drawn.supxlabel(
            f"{found['machine']}; medians of {found['rounds']} interleaved rounds; GEMM: torch.mm in float32, "
            f"{found['gemm_gflops']:.0f} GFLOP/s; domain-ft bench training",
            fontsize=8,
            color="#5b6675",
        )


# --- The command line -----------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"some of {', '.join(JOBS)}")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"some of {', '.join(SIDES)}")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds in which all sides take a turn, with one seed each"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps per process; default: 3 to 5, depending on the job")
    parser.add_argument("--losses", type=int, metavar="STEPS", help="compare the losses after STEPS, not the speed")
    parser.add_argument("--output", type=Path, help="the JSON; default: results/training.json or training-losses.json")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")
    parser.add_argument("--measure", nargs=2, metavar=("JOB", "WHAT"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scores", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measured(args)))
        return
    names, sides = args.jobs.split(","), args.sides.split(",")
    for chosen, known in ((names, JOBS), (sides, SIDES)):
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
    if args.losses and "ours" not in sides:
        parser.error("--losses compares with ours, so --sides must include it")
    output = args.output or RESULTS / ("training-losses.json" if args.losses else "training.json")
    with tempfile.TemporaryDirectory(prefix="training-benchmark-") as folder:
        comparison = Comparison(names, sides, args.losses or args.steps, Path(folder))
        compare = compare_losses if args.losses else compare_speed
        found = compare(comparison, args.rounds, output)
    if not args.losses:
        plot(found, output.with_suffix(".png"))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        (show_losses if args.losses else show_speed)(found)
    say(f"written to {output}")


def _measured(args: argparse.Namespace) -> dict[str, Any]:
    """Carry out one measurement in this process."""
    name, what = args.measure
    if what == "ceilings":
        return gemm_rates()
    rows = args.folder / f"rows-{name}"
    if what == "rows":
        make_peer_rows(JOBS[name], rows)
        return {}
    return measure(JOBS[name], SIDES[what], args.steps, args.seed, rows, args.scores)


if __name__ == "__main__":
    main()
