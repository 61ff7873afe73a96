"""Cost of training by the length of a run, the tokens per micro-batch and the length of a row.

    domain-ft bench scaling [-- --parts length,micro_batches,rows --minilm --json]

length         tokens/s over a run and in its last tenth, and memory at its end, for runs of 1e5, 1e6 and 1e7 tokens.
               A tiny random BERT is trained, so that the loop and the data are a large part of a step and 1e7 tokens
               take minutes. --minilm adds runs of 1e5 and 1e6 tokens with minilm (ten more minutes). If tokens/s stay
               the same, the cost is linear in the length.
micro_batches  the time of a step of 16,384 tokens of minilm, in micro-batches of 256 to 16,384 tokens.
rows           tokens/s for rows of 32 to 8,192 tokens at 8,192 tokens per step, with a small random BERT with 8,192
               positions, beside the FLOPs per token: attention sees the whole row, so its share grows with the row.

Each measurement is a separate process, in interleaved rounds (except 1e7 tokens, which run once). Medians are shown;
the first step of each process is not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import INK, OURS, RESULTS, figure, in_a_process, machine, say, show, table, write_json

PARTS = ("length", "micro_batches", "rows")
RUNS = (100_000, 1_000_000, 10_000_000)
MINILM_RUNS = (100_000, 1_000_000)
STEP = 4_096
MICRO_BATCHES = (256, 1_024, 4_096, 16_384)
MICRO_BATCH_STEP = 16_384
ROWS = (32, 128, 512, 2_048, 8_192)
ROW_STEP = 8_192
ROUNDS = 2

DOCUMENT_CHARACTERS = 1_000_000
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINY_MASK_RATE = 0.05
"""So few tokens are masked that the head with its 30,522 classes does not dominate the step."""
LONG = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}


# --- One measurement, in a separate process -------------------------------------------------------------------------


def make_model(folder: Path, sizes: dict[str, int], positions: int) -> None:
    """A random BERT of `sizes` with minilm's tokenizer, saved to `folder`."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    from domain_ft.models.sources import find

    tokenizer = AutoTokenizer.from_pretrained(find("minilm").folder)
    tokenizer.model_max_length = positions
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=positions, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_long_documents(path: Path) -> None:
    """Write concatenated legal texts as JSONL; each document fills many rows of 8,192 tokens."""
    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.corpus.prepared import prepare

    joined: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for document in prepare(open_corpus("legal")).split("train").documents():
            joined.append(document.text)
            if sum(map(len, joined)) >= DOCUMENT_CHARACTERS:
                file.write(json.dumps({"text": "\n".join(joined)}) + "\n")
                joined = []


@dataclass(frozen=True)
class Measurement:
    """One training run in a separate process: `model` on `corpus` for `tokens`.

    Attributes:
        length, step, micro_batch: maximum tokens of a row, of an optimiser step, and of a micro-batch.
        mask_rate: the share of tokens that are masked.
    """

    model: str
    corpus: str
    length: int
    step: int
    micro_batch: int
    tokens: int
    mask_rate: float = 0.15

    def take(self, environment: dict[str, str] | None = None) -> dict[str, Any]:
        """Run the process and return its result."""
        return in_a_process(__file__, "--measure", json.dumps(dataclasses.asdict(self)), environment=environment)


def measure(measurement: Measurement) -> dict[str, Any]:
    """Train; the first step is not counted."""
    import flops

    from domain_ft.training.loop import train
    from domain_ft.training.progress import ProgressDisplay
    from domain_ft.verbs.adapt.prepare import set_up
    from domain_ft.verbs.adapt.settings import AdaptSettings
    from domain_ft.verbs.shared.machine import choose_machine
    from domain_ft.verbs.shared.text_runs import add_trainable

    settings = AdaptSettings(
        corpus=measurement.corpus,
        model=measurement.model,
        control="none",
        max_tokens=measurement.tokens,
        max_length=measurement.length,
        tokens_per_step=measurement.step,
        tokens_per_micro_batch=measurement.micro_batch,
        mask_rate=measurement.mask_rate,
        quiet=True,
    )
    chosen = choose_machine(settings)
    prepared = set_up(settings, chosen, ProgressDisplay(quiet=True))
    add_trainable(prepared)
    lines: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            prepared.base,
            prepared.objective,
            prepared.train_rows,
            dataclasses.replace(prepared.loop, evaluate_every=0, checkpoint_every=prepared.loop.total_steps + 1),
            accelerator=chosen.accelerator,
            checkpoints=Path(folder),
            display=ProgressDisplay(quiet=True),
            log=lines.append,
        )
    tokens = [after["tokens"] - before["tokens"] for before, after in itertools.pairwise(lines)]
    seconds = [count / line["tokens_per_second"] for count, line in zip(tokens, lines[1:], strict=True)]
    tenth = max(1, len(tokens) // 10)
    return {
        "tokens": lines[-1]["tokens"],
        "steps": len(lines),
        "tokens_per_second": sum(tokens) / sum(seconds),
        "tokens_per_second_last_tenth": sum(tokens[-tenth:]) / sum(seconds[-tenth:]),
        "seconds_per_step": statistics.median(seconds),
        "memory_bytes": lines[-1]["memory_bytes"],
        "flops_per_token": dataclasses.asdict(flops.count(prepared)),
        "dtype": chosen.dtype,
    }


# --- The parts ------------------------------------------------------------------------------------------------------


def _medians(turns: list[tuple[Any, dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """A row for each value of `name`, with the medians over its turns."""
    rows = []
    for value in dict.fromkeys(value for value, _ in turns):
        found = [one for other, one in turns if other == value]
        medians = {
            key: statistics.median(one[key] for one in found)
            for key, sample in found[0].items()
            if isinstance(sample, int | float)
        }
        rows.append({name: value, **medians, "flops_per_token": found[0]["flops_per_token"], "turns": len(found)})
    return rows


def _turn(title: str, measurement: Measurement, environment: dict[str, str] | None = None) -> dict[str, Any]:
    found = measurement.take(environment)
    say(f"{title}: {found['tokens_per_second']:,.0f} tokens/s")
    return found


def by_length(folder: Path, minilm: bool) -> dict[str, Any]:
    """Runs of increasing length: twice each, but the longest of the tiny model once."""
    make_model(folder, TINY, 512)
    found = {}
    jobs = [("tiny", str(folder), RUNS, TINY_MASK_RATE)]
    if minilm:
        jobs.append(("minilm", "minilm", MINILM_RUNS, 0.15))
    for name, model, runs, mask_rate in jobs:
        turns = []
        for number in range(ROUNDS):
            for tokens in runs[:-1] if number and name == "tiny" else runs:
                measurement = Measurement(model, "legal", 256, STEP, STEP, tokens, mask_rate)
                turns.append((tokens, _turn(f"{name}, {tokens:,} tokens", measurement)))
        found[name] = _medians(turns, "run_tokens")
    return found


def by_micro_batch() -> list[dict[str, Any]]:
    """Steps of one size in micro-batches of increasing size."""
    turns = []
    for _ in range(ROUNDS):
        for micro_batch in MICRO_BATCHES:
            measurement = Measurement("minilm", "legal", 256, MICRO_BATCH_STEP, micro_batch, 2 * MICRO_BATCH_STEP)
            turns.append((micro_batch, _turn(f"micro-batches of {micro_batch:,} tokens", measurement)))
    return _medians(turns, "tokens_per_micro_batch")


def by_row(folder: Path) -> list[dict[str, Any]]:
    """Steps of one size with rows of increasing length."""
    make_model(folder / "model", LONG, max(ROWS))
    corpus = folder / "long.jsonl"
    make_long_documents(corpus)
    environment = {"DOMAIN_FT_CACHE": str(folder / "cache")}
    turns = []
    for _ in range(ROUNDS):
        for length in ROWS:
            measurement = Measurement(str(folder / "model"), str(corpus), length, ROW_STEP, ROW_STEP, 5 * ROW_STEP)
            turns.append((length, _turn(f"rows of {length:,} tokens", measurement, environment)))
    return _medians(turns, "row_tokens")


# --- What is shown --------------------------------------------------------------------------------------------------


def show_all(found: dict[str, Any]) -> None:
    """Print the tables."""
    for name, rows in found.get("length", {}).items():
        made = table(f"runs of {name}", ("tokens",), ("tokens/s", "in the last tenth", "resident MiB at the end"))
        for row in rows:
            made.add_row(
                f"{row['run_tokens']:,}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['tokens_per_second_last_tenth']:,.0f}",
                f"{row['memory_bytes'] / 2**20:,.0f}",
            )
        show(made)
    if "micro_batches" in found:
        made = table(
            f"minilm, a step of {MICRO_BATCH_STEP:,} tokens",
            ("tokens in a micro-batch",),
            ("s per step", "tokens/s", "resident MiB"),
        )
        for row in found["micro_batches"]:
            made.add_row(
                f"{row['tokens_per_micro_batch']:,}",
                f"{row['seconds_per_step']:.2f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['memory_bytes'] / 2**20:,.0f}",
            )
        show(made)
    if "rows" in found:
        made = table(
            f"a BERT of 4 layers of 256, a step of {ROW_STEP:,} tokens",
            ("tokens in a row",),
            ("tokens/s", "MFLOP per token", "attention's share", "GFLOP/s"),
        )
        for row in found["rows"]:
            total = sum(row["flops_per_token"].values())
            made.add_row(
                f"{row['row_tokens']:,}",
                f"{row['tokens_per_second']:,.0f}",
                f"{total / 1e6:.1f}",
                f"{row['flops_per_token']['attention'] / total:.0%}",
                f"{row['tokens_per_second'] * total / 1e9:.0f}",
            )
        show(made)


def plot(found: dict[str, Any], path: Path) -> None:
    """Plot one panel per part."""
    parts = [part for part in PARTS if part in found]
    with figure(path, (3.6 * len(parts), 3.1)) as drawn:
        for axes, part in zip(drawn.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            axes.set_xscale("log")
            axes.set_ylabel("tokens/s")
            axes.grid(color="#e3e7ec")
            if part == "length":
                for colour, (name, rows) in zip((OURS, INK), found[part].items(), strict=False):
                    shares = [row["tokens_per_second"] / rows[0]["tokens_per_second"] for row in rows]
                    axes.plot([row["run_tokens"] for row in rows], shares, "o-", color=colour, label=name)
                axes.set(title="length of a run", xlabel="tokens", ylabel="tokens/s relative to the shortest run")
                axes.set_ylim(0, 1.3)
                axes.legend()
            else:
                name, title = {
                    "micro_batches": ("tokens_per_micro_batch", f"micro-batches of a step of {MICRO_BATCH_STEP:,}"),
                    "rows": ("row_tokens", f"rows of a step of {ROW_STEP:,}"),
                }[part]
                places = [row[name] for row in found[part]]
                axes.plot(places, [row["tokens_per_second"] for row in found[part]], "o-", color=OURS, label="measured")
                axes.set(
                    title=title, xlabel="tokens in a micro-batch" if part == "micro_batches" else "tokens in a row"
                )
                if part == "rows":
                    totals = [sum(row["flops_per_token"].values()) for row in found[part]]
                    first = found[part][0]["tokens_per_second"] * totals[0]
                    axes.plot(
                        places,
                        [first / total for total in totals],
                        "--",
                        color=INK,
                        label="predicted by FLOPs per token",
                    )
                    axes.legend()
                axes.set_xticks(places, [f"{place:,}" for place in places], rotation=30)
                axes.minorticks_off()
                axes.set_ylim(bottom=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}; results of the others are kept"
    )
    parser.add_argument("--minilm", action="store_true", help="measure runs of minilm too")
    parser.add_argument("--output", type=Path, help="where to write the JSON; default: results/scaling.json")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the tables")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(Measurement(**json.loads(args.measure)))))
        return
    parts = ["micro_batches" if part == "passes" else part for part in args.parts.split(",")]  # `passes`: a former name
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--parts: unknown {', '.join(unknown)}; known: {', '.join(PARTS)}")
    output = args.output or RESULTS / "scaling.json"
    before = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
    found = {part: before[part] for part in PARTS if part in before} | machine()
    with tempfile.TemporaryDirectory(prefix="scaling-benchmark-") as folder:
        for part in parts:
            place = Path(folder) / part
            place.mkdir()
            if part == "length":
                found[part] = by_length(place, args.minilm)
            else:
                found[part] = by_micro_batch() if part == "micro_batches" else by_row(place)
            write_json(found, output)
    plot(found, output.with_suffix(".png"))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show_all(found)
    say(f"written to {output}")


if __name__ == "__main__":
    main()
