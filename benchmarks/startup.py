"""How long commands take to answer, and how long `adapt` and Trainer + PEFT take to reach their first step.

    domain-ft bench startup [-- --rounds 5 --json]

Medians of wall-clock seconds, in separate processes that take turns. `help` is `domain-ft --help`. `adapt` is the time
from the start of `adapt` with default options, on a cached embedded corpus and model, to the start of its first
optimiser step: imports, text, model, and what the report needs beforehand. After the first run on a corpus, the base's
scores are cached too; `adapt, base not measured yet` is that first run. `peer` is run_mlm.py's work on the same text,
already tokenised; it measures nothing before training. A first round fills caches and is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from shared import RESULTS, in_a_process, machine, say, show, table, write_json

LIMITS = {"help": 0.3, "data list": 0.5, "adapt": 10.0}
"""In seconds, on two cores."""

CORPUS, MODEL, LENGTH = "legal", "minilm", 256


class Begun(BaseException):
    """Raised when the first optimiser step begins."""


def adapt_until_first_step(measured: bool) -> None:
    """Run `domain-ft adapt` up to its first step and print the current time.

    `measured`: use the cached scores of the base, if there are any.
    """
    from domain_ft.training import loop
    from domain_ft.verbs.adapt import run as adapt_run
    from domain_ft.verbs.adapt.settings import AdaptSettings

    def leave(*_: Any) -> None:
        _print_now()
        raise Begun

    with contextlib.ExitStack() as patches, tempfile.TemporaryDirectory() as folder:
        patches.enter_context(mock.patch.object(loop._Trainer, "take", leave))
        if not measured:
            patches.enter_context(mock.patch.object(adapt_run, "_base_scores_file", lambda *_: None))
        adapt_run.adapt(AdaptSettings(corpus=CORPUS, model=MODEL, output=Path(folder) / "run", quiet=True))


def peer_until_first_step(rows: Path) -> None:
    """Build the Trainer on cached rows and run it up to its first step."""
    import peer_trainer

    from domain_ft.models.sources import find

    def leave() -> None:
        _print_now()
        raise Begun

    with tempfile.TemporaryDirectory() as folder:
        recipe = peer_trainer.Recipe(
            model=find(MODEL).folder,
            rows=rows,
            objective="mlm",
            dropout=True,
            by_length=False,
            longest_first=False,
            tokens_per_step=4096,
            steps=60,
            rank=16,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup=0.1,
            seed=0,
        )
        trainer, _, times = peer_trainer.build(recipe, Path(folder))
        times.begun = leave
        trainer.train()


def _print_now() -> None:
    print(json.dumps({"now": time.time()}), flush=True)


def make_rows(folder: Path) -> None:
    """Tokenise the corpus for the peer, and fill our caches."""
    import peer_trainer

    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.corpus.prepared import prepare
    from domain_ft.models.sources import find

    texts = [document.text for document in prepare(open_corpus(CORPUS)).split("train").documents()]
    peer_trainer.make_rows(find(MODEL).folder, texts, length=LENGTH, full_rows=True, folder=folder)


def seconds_of(what: str, rows: Path) -> float:
    """Wall-clock seconds of one process, for `adapt` and the peer up to the first step."""
    began = time.time()
    if what in ("help", "data list"):
        words = ["--help"] if what == "help" else ["data", "list"]
        subprocess.run([sys.executable, "-m", "domain_ft", *words], stdout=subprocess.DEVNULL, check=True)
        return time.time() - began
    found = in_a_process(__file__, "--measure", what, "--rows", str(rows))
    return float(found["now"]) - began


def compare(rounds: int) -> dict[str, Any]:
    """Measure all in turns and take medians."""
    listed = ("help", "data list", "adapt", "adapt, base not measured yet", "peer")
    seconds: dict[str, list[float]] = {what: [] for what in listed}
    with tempfile.TemporaryDirectory(prefix="startup-benchmark-") as folder:
        rows = Path(folder) / "rows"
        say("tokenising for the peer")
        in_a_process(__file__, "--measure", "rows", "--rows", str(rows))
        for number in range(rounds + 1):
            for what in listed:
                taken = seconds_of(what, rows)
                say(f"{'warm-up' if number == 0 else f'round {number} of {rounds}'}: {what}: {taken:.2f} s")
                if number:
                    seconds[what].append(taken)
    medians = {what: statistics.median(taken) for what, taken in seconds.items()}
    return machine() | {
        "rounds": rounds,
        "rows": [
            {"what": what, "seconds": medians[what], "at_most": LIMITS.get(what), "runs": seconds[what]}
            for what in listed
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="where to write the JSON; default: results/startup.json")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        _measured(args.measure, args.rows)
        return
    found = compare(args.rounds)
    write_json(found, args.output or RESULTS / "startup.json")
    if args.json:
        print(json.dumps(found, indent=2))
        return
    made = table(f"seconds on {found['machine']}, medians of {found['rounds']}", ("what",), ("seconds", "at most"))
    for row in found["rows"]:
        limit = "" if row["at_most"] is None else f"{row['at_most']:g}"
        made.add_row(row["what"], f"{row['seconds']:.2f}", limit)
    show(made)


def _measured(what: str, rows: Path) -> None:
    """Carry out one measurement in this process."""
    if what == "rows":
        make_rows(rows)
        print("{}")
        return
    try:
        if what == "peer":
            peer_until_first_step(rows)
        else:
            adapt_until_first_step(measured=what == "adapt")
    except Begun:
        sys.stdout.flush()
        os._exit(0)  # the time has been printed; skip all cleanup


if __name__ == "__main__":
    main()
