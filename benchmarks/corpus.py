"""The cost of a corpus by its size: of preparing and tokenising it once, and of reading it in every later run.

    domain-ft bench corpus [-- --gigabytes 2 --small-gigabytes 0.01 --seconds 20 --folder DIR --json]

Two corpora are generated from random words, a small and a large one: documents of up to some 150 kilobytes, one in
seven in Japanese, one in ten a near copy of the one before. Each corpus is read from Parquet, cleaned, deduplicated and
split, and its training split is tokenised. Then this split is read in steps of about 4,096 tokens (the batches below),
masked as in training but without a model. Each measurement runs in a separate process; memory is the resident memory of
the process and its workers, sampled while it runs. The two corpora are read in turns; each reading is first from the
disk, then from the page cache. Three quantities show whether reading costs more as the corpus grows: seconds to the
first batch once cached, memory while reading, and time per batch. The files take about three times the size of the
large corpus, in a temporary folder. A folder given by --folder is kept, and a second call uses its cache.
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from domain_ft.corpus.workers import cores
from domain_ft.storage import write_json

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" if (HERE.parent / "pyproject.toml").is_file() else Path("benchmark-results")
LENGTH = 256
TOKENS_PER_STEP = 4096
SEED = 0
WORDS = 30_000
NEAR_COPIES = 0.1
JAPANESE = 0.15
ROW_GROUP_BYTES = 16_000_000
MEGABYTE = 1e6
READINGS = 3


# --- The corpus -----------------------------------------------------------------------------------------------------


def texts(size: int) -> Iterator[str]:
    """Documents of at least `size` bytes in total, the same in every run."""
    draw = np.random.default_rng(SEED)
    consonants, vowels = list("bcdfghjklmnprstvz"), ["a", "e", "i", "o", "u", "é", "ö"]
    syllables = np.array([c + v for c in consonants for v in vowels] + ["tion", "ing", "er", "ment"])
    english = np.array(["".join(draw.choice(syllables, draw.integers(1, 5))) for _ in range(WORDS)], dtype=object)
    frequencies = np.cumsum(1 / np.arange(1, WORDS + 1))  # Zipf's law
    japanese = np.array([_japanese_word(draw) for _ in range(WORDS)], dtype=object)
    text, made = "", 0
    while made < size:
        if text and draw.random() < NEAR_COPIES:
            text = f"{text[:-40]} {english[draw.integers(WORDS)]}."
        else:
            count = int(min(20_000, 5 + np.exp(draw.normal(5.2, 1.1))))
            if draw.random() < JAPANESE:
                text = "".join(japanese[draw.integers(0, WORDS, count)]) + "。"
            else:
                text = " ".join(english[np.searchsorted(frequencies, draw.random(count) * frequencies[-1])]) + "."
        made += len(text.encode())
        yield text


def _japanese_word(draw: np.random.Generator) -> str:
    """One or two kanji and up to two hiragana."""
    kanji, hiragana = (
        draw.integers(0x4E00, 0x5E00, draw.integers(1, 3)),
        draw.integers(0x3041, 0x3093, draw.integers(3)),
    )
    return "".join(map(chr, [*kanji, *hiragana]))


def make_corpus(path: Path, size: int) -> None:
    """Write at least `size` bytes of text as a Parquet file with one column, `text`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[str] = []
    waiting = 0
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="lz4") as writer:
        for text in texts(size):
            rows.append(text)
            waiting += len(text.encode())
            if waiting >= ROW_GROUP_BYTES:
                writer.write_table(pa.table({"text": rows}))
                rows, waiting = [], 0
        writer.write_table(pa.table({"text": rows}))


def make_tokenizer(path: Path) -> None:
    """Train a BERT-style WordPiece tokenizer on 8 megabytes of the generated text."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(texts(8_000_000), vocab_size=WORDS, show_progress=False)
    tokenizer.save(str(path))


# --- One measurement, in a separate process -------------------------------------------------------------------------


@contextlib.contextmanager
def memory_over_time(every: float) -> Iterator[list[tuple[float, float]]]:
    """Samples (seconds, megabytes) of the resident memory of this process and its children, until the block ends."""
    samples: list[tuple[float, float]] = []
    stop = threading.Event()
    began = time.perf_counter()

    def sample() -> None:
        while not stop.wait(every):
            resident = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    resident += process.memory_info().rss
            samples.append((round(time.perf_counter() - began, 2), round(resident / MEGABYTE, 1)))

    me = psutil.Process()
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def open_rows(corpus: Path, tokenizer: Path) -> tuple[Any, Any, Any, float]:
    """The training rows of a corpus, its tokenizer, the prepared corpus, and the seconds that preparing took."""
    from transformers import PreTrainedTokenizerFast

    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.corpus.prepared import prepare
    from domain_ft.corpus.tokens import tokenize

    names = {name: f"[{name[:-6].upper()}]" for name in ("cls_token", "sep_token", "mask_token", "pad_token")}
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), unk_token="[UNK]", **names)
    began = time.perf_counter()
    prepared = prepare(open_corpus(str(corpus)))
    seconds = time.perf_counter() - began
    return tokenize(prepared.split("train"), fast, max_length=LENGTH), fast, prepared, seconds


def measure_making(corpus: Path, tokenizer: Path) -> dict[str, Any]:
    """Prepare a corpus and tokenise its training split, for the first time. `tokenise_seconds` includes imports."""
    with memory_over_time(0.5) as samples:
        began = time.perf_counter()
        rows, _, prepared, prepare_seconds = open_rows(corpus, tokenizer)
        seconds = time.perf_counter() - began
    cache = Path(os.environ["DOMAIN_FT_CACHE"])
    return {
        "prepare_seconds": prepare_seconds,
        "tokenise_seconds": seconds - prepare_seconds,
        "tokens": rows.tokens,
        "sequences": len(rows),
        "text_bytes_on_disk": sum(file.stat().st_size for file in cache.glob(f"corpora/{prepared.key}/*")),
        "token_bytes_on_disk": sum(file.stat().st_size for file in cache.glob(f"tokens/{rows.key}/*")),
        "peak_memory_megabytes": max(megabytes for _, megabytes in samples),
        "memory": samples,
    }


def evict(files: list[Path]) -> None:
    """Drop the files from the page cache, except pages that are memory-mapped."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def preload(files: list[Path]) -> None:
    """Read the files into the page cache."""
    for file in files:
        with file.open("rb") as opened:
            while opened.read(1 << 20):
                pass


def measure_reading(corpus: Path, tokenizer: Path, seconds: float) -> dict[str, Any]:
    """Open the cached corpus and read masked batches: half of `seconds` from the disk, half from the page cache."""
    from domain_ft.corpus.masking import MaskVocabulary, mask_tokens
    from domain_ft.corpus.packing import StepPlan, micro_batches

    def read(index: int) -> None:
        step = plan.step(index)
        for chosen in micro_batches(step.rows, rows.lengths, TOKENS_PER_STEP):
            batch = rows.pack(chosen)
            mask_tokens(batch, epoch=step.epoch, seed=SEED, rate=0.15, whole_word=True, vocabulary=vocabulary)

    def rate(step: int, seconds: float) -> tuple[int, float]:
        """Read from `step` on for `seconds`. Returns the step after the last one read, and batches per second."""
        first, began = step, time.perf_counter()
        while time.perf_counter() - began < seconds:
            read(step)
            step += 1
        return step, (step - first) / (time.perf_counter() - began)

    with memory_over_time(0.1) as samples:
        began = time.perf_counter()
        rows, fast, _, _ = open_rows(corpus, tokenizer)
        vocabulary = MaskVocabulary.of(fast)
        plan = StepPlan(rows.lengths, TOKENS_PER_STEP, SEED)
        read(0)
        first = time.perf_counter() - began
        files = list(Path(os.environ["DOMAIN_FT_CACHE"]).glob(f"tokens/{rows.key}/*"))
        evict(files)
        steps, from_disk = rate(1, seconds / 2)
        preload(files)
        _, from_memory = rate(steps, seconds / 2)
    return {
        "seconds_to_first_batch": first,
        "batches_per_second": from_memory,
        "batches_per_second_from_disk": from_disk,
        "steps_per_epoch": plan.steps_per_epoch,
        "memory_megabytes": float(np.median([megabytes for _, megabytes in samples[len(samples) // 2 :]])),
        "peak_memory_megabytes": max(megabytes for _, megabytes in samples),
        "memory": samples,
    }


# --- The comparison -------------------------------------------------------------------------------------------------


def compare(sizes: dict[str, int], seconds: float, folder: Path) -> dict[str, Any]:
    """Measure each size. Returns the measurements by corpus name. Corpora and caches in `folder` are used again."""
    environment = {**os.environ, "DOMAIN_FT_CACHE": str(folder / "cache")}
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        make_tokenizer(tokenizer)

    def measure(what: str, name: str) -> dict[str, Any]:
        _say(f"{name}: {what}")
        command = [sys.executable, str(Path(__file__)), "--measure", what, "--seconds", str(seconds)]
        command += ["--corpus", str(folder / f"{name}.parquet"), "--tokenizer", str(tokenizer)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    rows: dict[str, Any] = {}
    for name, size in sizes.items():
        corpus, making = folder / f"{name}.parquet", folder / f"{name}.making.json"
        if not corpus.is_file():
            _say(f"{name}: generating {size / 1e9:g} GB of text")
            make_corpus(folder / "unfinished", size)
            (folder / "unfinished").rename(corpus)
        if not making.is_file():
            write_json(making, measure("making", name))
        rows[name] = {"bytes": size, "making": json.loads(making.read_text(encoding="utf-8"))}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sizes}
    for name in [*sizes] * READINGS:
        runs[name].append(measure("reading", name))
    for name, found in runs.items():
        medians = {key: statistics.median(run[key] for run in found) for key in found[0] if key != "memory"}
        rows[name]["reading"] = medians | {"memory": found[-1]["memory"]}
    return rows


def print_table(rows: dict[str, Any]) -> None:
    """Print a table with a column for each size."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(f"{row['bytes'] / 1e9:g} GB" for row in rows.values()))
    lines = {
        "prepared, MB/s": lambda row: f"{row['bytes'] / 1e6 / row['making']['prepare_seconds']:.1f}",
        "tokenised with imports, MB/s": lambda row: f"{row['bytes'] / 1e6 / row['making']['tokenise_seconds']:.1f}",
        "peak memory of preparing and tokenising, MB": lambda row: f"{row['making']['peak_memory_megabytes']:,.0f}",
        "disk, bytes per byte of text": lambda row: " + ".join(
            f"{row['making'][f'{what}_bytes_on_disk'] / row['bytes']:.2f}" for what in ("text", "token")
        ),
        "tokens": lambda row: f"{row['making']['tokens']:,}",
        "once cached: first batch, s": lambda row: f"{row['reading']['seconds_to_first_batch']:.2f}",
        "once cached: memory while reading, MB": lambda row: f"{row['reading']['memory_megabytes']:,.0f}",
        "once cached: batches/s": lambda row: f"{row['reading']['batches_per_second']:,.0f}",
        "once cached: batches/s from the disk": lambda row: f"{row['reading']['batches_per_second_from_disk']:,.0f}",
    }
    for label, line in lines.items():
        table.add_row(label, *(line(row) for row in rows.values()))
    Console(stderr=True).print(table)


def plot(rows: dict[str, Any], path: Path) -> None:
    """Plot resident memory over time, while a corpus is prepared and while it is read."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    titles = {"making": "prepared and tokenised, with all workers", "reading": "read as in training, once cached"}
    for axes, (what, title) in zip(panels, titles.items(), strict=True):
        for row in rows.values():
            seconds, megabytes = zip(*row[what]["memory"], strict=True)
            axes.plot(seconds, megabytes, label=f"{row['bytes'] / 1e9:g} GB of text")
        axes.set(title=title, xlabel="seconds", ylabel="resident memory, MB", ylim=0)
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the large corpus")
    parser.add_argument("--small-gigabytes", type=float, default=0.01, help="size of the small corpus")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of each of three readings of a corpus")
    parser.add_argument("--folder", type=Path, help="keep the corpora and their caches here between calls")
    parser.add_argument("--json", action="store_true", help="print the results as JSON on standard output")
    parser.add_argument("--measure", choices=("making", "reading"), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "making":
        print(json.dumps(measure_making(arguments.corpus, arguments.tokenizer)))
        return
    if arguments.measure == "reading":
        print(json.dumps(measure_reading(arguments.corpus, arguments.tokenizer, arguments.seconds)))
        return
    gigabytes = (arguments.small_gigabytes, arguments.gigabytes)
    sizes = {f"{size:g}-gigabytes": round(size * 1e9) for size in gigabytes}
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corpus-benchmark-")))
        folder.mkdir(parents=True, exist_ok=True)
        rows = compare(sizes, arguments.seconds, folder)
    print_table(rows)
    result = {"cores": cores(), "tokens_per_step": TOKENS_PER_STEP, "rows": list(rows.values())}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "corpus.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    plot(rows, RESULTS / "corpus-memory.svg")
    _say(f"written: {RESULTS / 'corpus.json'} and corpus-memory.svg")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
