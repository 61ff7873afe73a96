"""Which method learns a task from few labels: a linear probe, contrastive training, LoRA, full fine-tuning, or an SVM?

    domain-ft bench few-labels -- --data DIR                   benchmarks/results/few-labels.json
    domain-ft bench few-labels -- --data DIR --only overruling --per-class 8 16 --methods head contrastive

A training set has k examples of each class. Each method gets the same sets and nothing else: what it needs for
validation, it takes from them, as `domain-ft classify` does with a user's file. The tasks and the test examples are
those of `domain-ft bench adaptation`. Differences to the probe have an interval over draws and test examples, and are
pooled over tasks (see `adaptation/pooled.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from adaptation import pooled
from adaptation.features import MAX_LENGTH, Examples
from adaptation.tasks import Task, development_tasks
from shared import RESULTS, machine, say, show, table, write_json

from domain_ft.evaluation.baselines import tfidf_svm
from domain_ft.evaluation.predictions import Predictions
from domain_ft.randomness import generator
from domain_ft.verbs.classify.run import classify
from domain_ft.verbs.classify.settings import ClassifySettings

TASKS = ("overruling", "clause-or-notice", "has-disease", "has-chemical")
"""Tasks with few classes and short texts, so that a run takes seconds."""

METHODS = ("head", "contrastive", "lora", "full", "tfidf")
PER_CLASS, DRAWS = (8, 16, 32, 64), 3

Scores = dict[tuple[str, int, str], list[Predictions]]
"""By task, examples per class, and method: the predictions for the test examples, one entry for each draw."""


def draw(task: Task, per_class: int, seed: int) -> Examples:
    """`per_class` examples of each class; for a smaller per_class, a subset of them."""
    chosen: list[int] = []
    for place, name in enumerate(task.labels.names):
        members = [index for index, example in enumerate(task.pool) if example.labels == (name,)]
        chosen += generator(seed, "few labels", place).permutation(members)[:per_class].tolist()
    return Examples(task.pool[index] for index in sorted(chosen))


def learned(task: Task, method: str, examples: Examples, model: str, work: Path) -> Predictions:
    """The predictions of `domain-ft classify` after it learned from `examples`."""
    parts = examples, Examples(task.test)
    train, test = (work / f"{part.key}.jsonl" for part in parts)
    content = json.dumps([model, method, train.name, test.name])
    run = work / hashlib.blake2b(content.encode(), digest_size=12).hexdigest()
    if not (run / "result.json").is_file():
        for path, part in zip((train, test), parts, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            records = ({"id": e.id, "text": e.text, "label": e.labels[0], "group": e.group} for e in part)
            path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        classify(
            ClassifySettings(
                model=model,
                method=method,  # type: ignore[arg-type]
                train=str(train),
                test=str(test),
                text_field="text",
                label_field="label",
                group_field="group",
                max_length=MAX_LENGTH,
                baselines=False,
                examples=False,
                quiet=True,
                output=run,
                resume=run.is_dir(),
            )
        )
    return Predictions.load(run / "predictions" / "test-seed-0.npz")


def baseline(task: Task, examples: Examples) -> Predictions:
    """The predictions of TF-IDF with a linear SVM. C is chosen on a fifth of the examples; the last fit reads all."""
    order = np.random.default_rng(0).permutation(len(examples))
    cut = max(1, len(examples) // 5)
    validation, train = (Examples(examples[place] for place in part) for part in (order[:cut], order[cut:]))
    found = tfidf_svm(train, validation, Examples(task.test), task.labels, refit=True).predictions
    assert found is not None
    return found


def scored(tasks: list[Task], args: argparse.Namespace) -> Scores:
    """The predictions of all methods."""
    found: Scores = {}
    for task in tasks:
        for per_class in args.per_class:
            sets = [draw(task, per_class, seed) for seed in range(args.draws)]
            for method in args.methods:
                found[task.name, per_class, method] = [
                    baseline(task, one) if method == "tfidf" else learned(task, method, one, args.base, args.work)
                    for one in sets
                ]
            means = {method: mean_score(found[task.name, per_class, method]) for method in args.methods}
            say(f"{task.name} {per_class}: " + "  ".join(f"{name} {value:.1f}" for name, value in means.items()))
    return found


def mean_score(predictions: list[Predictions]) -> float:
    """The mean macro F1 over draws."""
    return statistics.mean(pooled.macro_f1(one) for one in predictions)


def summary(found: Scores) -> dict[str, Any]:
    """The scores, and the differences to the probe: for each task, and pooled over tasks."""
    rows = [
        {"task": task, "per_class": size, "method": method, "macro_f1": [pooled.macro_f1(one) for one in predictions]}
        for (task, size, method), predictions in found.items()
    ]
    names = list(dict.fromkeys(task for task, _, _ in found))
    sizes = list(dict.fromkeys(size for _, size, _ in found))
    methods = list(dict.fromkeys(method for _, _, method in found))
    comparisons = []
    for size in sizes:
        for method in methods[1:] if methods[0] == "head" else ():
            pairs = [(found[name, size, "head"], found[name, size, method]) for name in names]
            differences = [pooled.paired_difference(*pair) for pair in pairs]
            comparisons.append(
                {
                    "per_class": size,
                    "method": method,
                    "pooled": pooled.pooled(differences),
                    "tasks": {
                        name: {"mean": one.mean, "interval": one.interval()}
                        for name, one in zip(names, differences, strict=True)
                    },
                }
            )
    return {"rows": rows, "comparisons": comparisons}


def show_scores(found: dict[str, Any]) -> None:
    """Print the tables."""
    methods = list(dict.fromkeys(row["method"] for row in found["rows"]))
    made = table(f"macro F1, mean of {found['draws']} draws", ("task", "per class"), methods)
    by = {(row["task"], row["per_class"], row["method"]): statistics.mean(row["macro_f1"]) for row in found["rows"]}
    for task, size in dict.fromkeys((row["task"], row["per_class"]) for row in found["rows"]):
        made.add_row(task, str(size), *(f"{by[task, size, method]:.1f}" for method in methods))
    show(made)
    if found["comparisons"]:
        made = table("difference to the probe, mean over tasks", ("per class", "method"), ("mean", "95 % interval"))
        for one in found["comparisons"]:
            low, high = one["pooled"]["interval"]
            row = (str(one["per_class"]), one["method"])
            made.add_row(*row, f"{one['pooled']['mean']:+.1f}", f"{low:+.1f} to {high:+.1f}")
        show(made)


def main() -> None:
    """Measure, write the JSON and print the tables."""
    parser = argparse.ArgumentParser(
        prog="domain-ft bench few-labels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the public data sets; without it, bundled tasks only")
    parser.add_argument("--base", default="minilm", help="the model")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="which methods")
    parser.add_argument("--per-class", type=int, nargs="+", default=list(PER_CLASS), help="examples of each class")
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of training sets")
    parser.add_argument("--only", nargs="+", default=list(TASKS), metavar="TASK", help="only these tasks")
    parser.add_argument("--work", type=Path, default=Path("benchmark-runs/few-labels"), help="the folder of runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "few-labels.json", help="where to write the JSON")
    args = parser.parse_args()
    began = time.perf_counter()
    scores = scored(development_tasks(args.data, args.only), args)
    found = {
        "when": time.strftime("%Y-%m-%d"),
        **machine(),
        "base": args.base,
        "draws": args.draws,
        "wall_seconds": round(time.perf_counter() - began),
        **summary(scores),
    }
    write_json(found, args.output)
    show_scores(found)


if __name__ == "__main__":
    main()
