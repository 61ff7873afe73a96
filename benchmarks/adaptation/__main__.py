"""What adaptation to a field is worth on its tasks, compared with the base, another field, general text and TF-IDF.

    domain-ft bench adaptation -- --data DIR                          benchmarks/results/adaptation.json
    domain-ft bench adaptation -- --data DIR --recipe "--max-tokens 1000000 --learning-rate 5e-4"
    domain-ft bench adaptation -- --data DIR --adapted legal=RUN --adapted medical=RUN --adapted general=RUN

Three models are adapted with the same options of `domain-ft adapt`, the recipe: to legal, medical and general text. For
a legal task, the medical model is the one of the wrong field, and vice versa. Documents that begin with a test text are
left out of all adaptation text (see `texts.py`). For each task and number of labels, all models learn from the same
draws of examples.

With `--features auto`, a probe uses the features of the adapted model or of its base model, whichever have the lower
log-loss in cross-validation on the draw's examples, as `classify --method head` does. With `--features adapted`, it
uses those of the adapted model.

The columns: base, own (adapted to the task's field), wrong, general, TF-IDF + SVM. The scores are macro F1 of a linear
probe, or of fine-tuning with `--method lora` or `full`. Differences between columns, such as own - base, have an
interval over draws and test examples, and are pooled over tasks (see `pooled.py`). Judge a recipe by the pooled means.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adaptation import pooled
from adaptation.features import MAX_LENGTH, Examples, Features
from adaptation.tasks import Task, development_tasks
from adaptation.texts import FIELDS, GENERAL, write_text
from shared import RESULTS, machine, say, show, table, write_json

from domain_ft.corpus.tasks.sampling import subset
from domain_ft.evaluation.baselines import tfidf_svm
from domain_ft.evaluation.predictions import Predictions
from domain_ft.models.probe import fit_probe

DRAWS, SIZES = 5, (100, 300, 1000)
BASE, OWN, WRONG, TFIDF = "base", "own", "wrong", "tfidf"
COLUMNS = (BASE, OWN, WRONG, GENERAL, TFIDF)
COMPARISONS = ((BASE, OWN), (WRONG, OWN), (GENERAL, OWN), (BASE, WRONG), (TFIDF, BASE), (TFIDF, OWN))


NAMES = {BASE: "base", OWN: "adapted", WRONG: "wrong_field", GENERAL: "general", TFIDF: "tfidf_svm"}
"""The names of the columns in the JSON's `tasks` and `pooled`."""

POOLED_SIZE = 300


@dataclass(frozen=True)
class Score:
    """A model's predictions for a task's test examples: one entry for each draw of `size` training examples."""

    task: str
    size: int
    column: str
    predictions: list[Predictions] = field(repr=False)


def adapted_models(args: argparse.Namespace, tasks: list[Task]) -> dict[str, str]:
    """The runs given by --adapted; for each other field and, with --data, for general text, one made by `adapt`."""
    given = dict(word.split("=", 1) for word in args.adapted)
    fields = [*FIELDS, *([GENERAL] if args.data or GENERAL in given else [])]
    return {name: given.get(name) or adapt(name, args, tasks) for name in fields}


def adapt(name: str, args: argparse.Namespace, tasks: list[Task]) -> str:
    """Run `domain-ft adapt` with the recipe on the text of `name`, unless that is done. Returns the run folder."""
    tests = "\0".join(text for task in tasks for text in task.test_texts)  # documents that begin with one are left out
    text = args.work / "texts" / f"{name}-{hashlib.blake2b(tests.encode(), digest_size=6).hexdigest()}.jsonl"
    if not text.is_file():
        unfinished = text.with_suffix(".part")
        counts = write_text(name, args.data, (text for task in tasks for text in task.test_texts), unfinished)
        unfinished.replace(text)
        say(f"{name}: {counts['documents']:,} documents, {counts['left_out']:,} left out because of test texts")
    options = ["--model", args.base, "--control", "none", *shlex.split(args.recipe)]
    digest = hashlib.blake2b(json.dumps([text.name, *options]).encode(), digest_size=6).hexdigest()
    run: Path = args.work / "runs" / f"{name}-{digest}"
    if not (run / "result.json").is_file():
        say(f"adapting {args.base} to {name}: {args.recipe or 'defaults'}")
        command = [sys.executable, "-m", "domain_ft", "adapt", "--corpus", str(text), "--output", str(run), "--quiet"]
        resume = ["--resume"] if run.is_dir() else []
        subprocess.run([*command, *options, *resume], check=True, stdout=subprocess.DEVNULL)
    return str(run)


def columns_of(task: Task, base: str, adapted: dict[str, str]) -> dict[str, str]:
    """The model of each column but TF-IDF."""
    wrong = next(name for name in FIELDS if name != task.field)
    found = {BASE: base, OWN: adapted[task.field], WRONG: adapted[wrong]}
    return found | ({GENERAL: adapted[GENERAL]} if GENERAL in adapted else {})


# --------------------------------------------------------------------------------------------- scores of a linear probe


def probe_scores(tasks: list[Task], adapted: dict[str, str], args: argparse.Namespace) -> list[Score]:
    """The scores of a linear probe on each model's features, and of TF-IDF with an SVM."""
    features = {model: Features(model, args.work / "features") for model in {args.base, *adapted.values()}}
    jobs: list[tuple[Task, int, str, Features | None, Features | None]] = []
    for task in tasks:
        models = columns_of(task, args.base, adapted)
        for model in dict.fromkeys(models.values()):
            features[model].of(task)
        for size in sizes_of(task, args.sizes):
            for column, model in models.items():
                fallback = features[args.base] if column != BASE and args.features == "auto" else None
                jobs.append((task, size, column, features[model], fallback))
            jobs.append((task, size, TFIDF, None, None))
        say(f"{task.name}: features of {len(models)} models")
    found = []
    # The fits are small: many processes with one thread each are faster than one process with many threads.
    with ProcessPoolExecutor(initializer=threadpool_limits, initargs=(1,), mp_context=get_context("fork")) as pool:
        for (task, size, column, *_), predictions in zip(jobs, pool.map(_scored, repeat(args), jobs), strict=True):
            found.append(Score(task.name, size, column, predictions))
            if column == TFIDF:
                show_task(task, size, found)
    return found


def _scored(
    args: argparse.Namespace, job: tuple[Task, int, str, Features | None, Features | None]
) -> list[Predictions]:
    task, size, _, features, fallback = job
    return probes(task, size, features, args, fallback) if features else tfidf(task, size, args)


def sizes_of(task: Task, sizes: list[int]) -> list[int]:
    """The sizes up to that of the pool. Draws of most of the pool overlap, so their variance is too low."""
    return [size for size in sizes if size <= len(task.pool)]


def probes(
    task: Task, size: int, features: Features, args: argparse.Namespace, fallback: Features | None = None
) -> list[Predictions]:
    """The predictions of a probe for each draw.

    Args:
        fallback: other features, which are used for the draws in which their log-loss in cross-validation is lower.
    """
    logits, losses = _probe_logits(task, size, features, args)
    if fallback:
        others, other_losses = _probe_logits(task, size, fallback, args)
        logits = np.where((other_losses < losses)[:, None, None], others, logits)
    return [Predictions.of(task.test, task.labels, values) for values in logits]


def _probe_logits(task: Task, size: int, features: Features, args: argparse.Namespace) -> tuple[Any, Any]:
    """Logits (draws, test examples, L), and the log-loss in cross-validation (draws,). Both are cached."""
    name = f"{features.key(task)}-{size}-{args.draws}-{args.layer}-{args.balance}"
    cached: Path = args.work / "probes" / f"{name}.npz"
    if not cached.is_file():
        pool, test = features.of(task)
        found = [_probe(task, chosen, pool, test, args) for chosen in draws(task, size, args.draws)]
        logits, losses = zip(*found, strict=True)
        # Another process may compute the same file: several columns fall back to the base model.
        unfinished = cached.with_suffix(f".{os.getpid()}.npz")
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.savez(unfinished, logits=np.stack(logits), losses=np.array(losses))
        unfinished.replace(cached)
    with np.load(cached) as kept:
        return kept["logits"], kept["losses"]


def _probe(task: Task, chosen: Any, pool: Any, test: Any, args: argparse.Namespace) -> tuple[Any, float]:
    layer = args.layer
    examples = [task.pool[place] for place in chosen]
    groups = np.unique([example.group for example in examples], return_inverse=True)[1]
    targets = task.labels.targets([example.labels for example in examples])
    fitted = fit_probe(
        np.asarray(pool[chosen, layer], np.float32),
        targets,
        task.labels,
        groups=groups.reshape(-1),
        balanced=args.balance == "weights",
    )
    return fitted.probe.logits(torch.from_numpy(np.asarray(test[:, layer], np.float32))).numpy(), fitted.loss


def draws(task: Task, size: int, count: int) -> list[Any]:
    """The indices in the pool of each draw's examples."""
    targets = task.labels.targets([example.labels for example in task.pool])
    return [subset(targets, size, seed) for seed in range(count)]


def tfidf(task: Task, size: int, args: argparse.Namespace) -> list[Predictions]:
    """TF-IDF's predictions for each draw. C is chosen on a fifth of the draw; the SVMs are then fitted to all of it."""
    digest = hashlib.blake2b(Examples(task.pool + task.test).key.encode(), digest_size=12).hexdigest()
    cached = args.work / "probes" / f"tfidf-{digest}-{size}-{args.draws}.npy"
    if not cached.is_file():
        logits = []
        for chosen in draws(task, size, args.draws):
            examples = Examples(task.pool[place] for place in np.random.default_rng(0).permutation(chosen))
            cut = len(examples) // 5
            train, validation, test = Examples(examples[cut:]), Examples(examples[:cut]), Examples(task.test)
            baseline = tfidf_svm(train, validation, test, task.labels, refit=True)
            assert baseline.predictions is not None
            logits.append(baseline.predictions.logits)
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.save(cached, np.stack(logits))
    return [Predictions.of(task.test, task.labels, logits) for logits in np.load(cached)]


# ---------------------------------------------------------------------------------------------- scores of fine-tuning


def fine_tuned_scores(tasks: list[Task], adapted: dict[str, str], args: argparse.Namespace) -> list[Score]:
    """`domain-ft classify --method METHOD` on the same draws for each model."""
    found = []
    for task in tasks:
        for size in sizes_of(task, args.sizes):
            for column, model in columns_of(task, args.base, adapted).items():
                found.append(Score(task.name, size, column, fine_tuned(task, size, column, model, args)))
            found.append(Score(task.name, size, TFIDF, tfidf(task, size, args)))
            show_task(task, size, found)
    return found


def fine_tuned(task: Task, size: int, column: str, model: str, args: argparse.Namespace) -> list[Predictions]:
    """The predictions after fine-tuning on each draw of examples."""
    files = {}
    for split, examples in (("train", task.pool), ("test", task.test)):
        path = args.work / "examples" / f"{task.name}-{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        records = (
            {"id": e.id, "text": e.text, "pair": e.pair, "label": e.labels[0], "group": e.group} for e in examples
        )
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        files[split] = str(path)
    name = "-".join((task.name, str(size), args.method, hashlib.blake2b(model.encode(), digest_size=6).hexdigest()))
    run: Path = args.work / "classify" / name
    if not (run / "result.json").is_file():
        say(f"{task.name}: {args.method} on {column}, {args.draws} draws of {size}")
        words = ["--model", model, "--method", args.method, "--train-sizes", str(size), "--seeds", str(args.draws)]
        words += ["--train", files["train"], "--test", files["test"], "--text-field", "text", "--label-field", "label"]
        words += ["--group-field", "group", *(["--pair-field", "pair"] if task.pool[0].pair else [])]
        words += ["--max-length", str(MAX_LENGTH), "--no-baselines", "--no-examples", "--quiet", "--output", str(run)]
        command = [sys.executable, "-m", "domain_ft", "classify", *words, *(["--resume"] if run.is_dir() else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [Predictions.load(run / "predictions" / f"test-seed-{seed}.npz") for seed in range(args.draws)]


# ------------------------------------------------------------------------------------------------------------- results


def summary(scores: list[Score], method: str) -> dict[str, Any]:
    """The scores; and for each number of labels, the differences on each task and pooled over tasks."""
    by = {(score.task, score.size, score.column): score.predictions for score in scores}
    rows = [
        {
            "task": score.task,
            "labels": score.size,
            "column": score.column,
            "macro_f1": [pooled.macro_f1(one) for one in score.predictions],
        }
        for score in scores
    ]
    comparisons: list[dict[str, Any]] = []
    for size in sorted({score.size for score in scores}):
        names = list(dict.fromkeys(score.task for score in scores if score.size == size))
        for first, other in COMPARISONS:
            if (names[0], size, first) not in by or (names[0], size, other) not in by:
                continue
            differences = [pooled.paired_difference(by[name, size, first], by[name, size, other]) for name in names]
            comparisons.append(
                {
                    "labels": size,
                    "first": first,
                    "other": other,
                    "pooled": pooled.pooled(differences),
                    "tasks": {
                        name: {"mean": one.mean, "interval": one.interval()}
                        for name, one in zip(names, differences, strict=True)
                    },
                }
            )
    return {"rows": rows, "comparisons": comparisons, "tasks": _tasks(scores, method), **_pooled(comparisons)}


def _tasks(scores: list[Score], method: str) -> list[dict[str, Any]]:
    """The mean score of each column, by task and number of labels."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for score in scores:
        row = found.setdefault((score.task, score.size), {"task": score.task, "size": score.size, "method": method})
        row[NAMES[score.column]] = statistics.mean(pooled.macro_f1(one) for one in score.predictions)
    return list(found.values())


def _pooled(comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    """The pooled differences at `POOLED_SIZE` labels, or at the nearest number that was measured."""
    if not comparisons:
        return {"pooled": {}}
    size = min((one["labels"] for one in comparisons), key=lambda labels: abs(labels - POOLED_SIZE))
    named = {
        f"{NAMES[one['other']]}_minus_{NAMES[one['first']]}": one["pooled"]
        for one in comparisons
        if one["labels"] == size
    }
    return {"pooled": named, "pooled_size": size}


def show_task(task: Task, size: int, scores: list[Score]) -> None:
    """Print a task's mean scores at one size."""
    means = {
        score.column: statistics.mean(pooled.macro_f1(one) for one in score.predictions)
        for score in scores
        if score.task == task.name and score.size == size
    }
    say(f"{task.name} {size}: " + "  ".join(f"{name} {value:.1f}" for name, value in means.items()))


def show_scores(found: dict[str, Any]) -> None:
    """Print the tables."""
    for size in sorted({row["labels"] for row in found["rows"]}):
        made = table(f"macro F1 with {size} labels, mean of {found['draws']} draws", ("task",), COLUMNS)
        for name in dict.fromkeys(row["task"] for row in found["rows"] if row["labels"] == size):
            means = {
                row["column"]: statistics.mean(row["macro_f1"])
                for row in found["rows"]
                if row["task"] == name and row["labels"] == size
            }
            made.add_row(name, *(f"{means[column]:.1f}" if column in means else "" for column in COLUMNS))
        show(made)
    made = table(
        "differences of macro F1 over tasks, with 95 % intervals",
        ("labels", "difference"),
        ("weighted", "interval", "equal weights", "interval", "better", "worse"),
    )
    for one in found["comparisons"]:
        intervals = [task["interval"] for task in one["tasks"].values()]
        better, worse = sum(a > 0 for a, _ in intervals), sum(b < 0 for _, b in intervals)
        cells: list[str] = []
        for kept in (one["pooled"], one["pooled"]["equal_weights"]):
            low, high = kept["interval"]
            cells += [f"{kept['mean']:+.2f}", f"{low:+.2f} to {high:+.2f}"]
        made.add_row(str(one["labels"]), f"{one['other']} - {one['first']}", *cells, str(better), str(worse))
    show(made)


def main() -> None:
    """Adapt, measure, write the JSON and print the tables."""
    parser = argparse.ArgumentParser(
        prog="domain-ft bench adaptation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the public data sets; without it, bundled tasks only")
    parser.add_argument("--base", default="minilm", help="the model to adapt")
    parser.add_argument("--recipe", default="", help="options of domain-ft adapt, in one argument")
    parser.add_argument("--adapted", action="append", default=[], metavar="FIELD=RUN", help="use this run for a field")
    parser.add_argument("--method", default="head", choices=("head", "lora", "full"), help="how tasks are learned")
    parser.add_argument("--balance", default="none", choices=("none", "weights"), help="class weights of the probe")
    parser.add_argument("--features", default="auto", choices=("auto", "adapted"), help="the probe's, as in classify")
    parser.add_argument("--layer", type=int, default=-1, help="the layer of the probe's features; the last is -1")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of labels")
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of training examples")
    parser.add_argument("--only", nargs="+", default=[], metavar="TASK", help="only these tasks")
    parser.add_argument("--work", type=Path, default=Path("benchmark-runs/adaptation"), help="the folder of runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "adaptation.json", help="where to write the JSON")
    args = parser.parse_args()
    tasks = development_tasks(args.data, args.only)
    adapted = adapted_models(args, development_tasks(args.data) if args.only else tasks)
    scores = (probe_scores if args.method == "head" else fine_tuned_scores)(tasks, adapted, args)
    options = {
        name: getattr(args, name) for name in ("base", "recipe", "method", "draws", "features", "layer", "balance")
    }
    found = {"when": time.strftime("%Y-%m-%d"), **machine(), **options, **summary(scores, args.method)}
    write_json(found, args.output)
    show_scores(found)


if __name__ == "__main__":
    main()
