"""The effect of adaptation on the tasks of the corpora, and how our fine-tuning compares with transformers'.

    domain-ft bench tasks [-- --seeds 5 --control head]          benchmarks/results/tasks.json
    domain-ft bench tasks -- --peers DIR [--rounds 3]            benchmarks/results/task-peers.json

Scores. For each task that comes with a corpus: a majority class, TF-IDF with a linear SVM, and a linear probe, LoRA and
full fine-tuning of `minilm`, unadapted and adapted to the task's field. Each of several seeds draws different training
examples; the test examples are the same. The adaptation text contains no document that is a copy of a test example.
`--control head` adds, for probes, a model adapted to as much text of the other field. A gain should be measured against
this model, because masked-LM training on any text changes a model that was trained to compare sentences. These runs are
kept in --work, so an interrupted benchmark continues.

Peers. `DIR` has public data sets as published (`SETS` lists the files). `domain-ft` and a program like transformers'
run_classification.py or run_ner.py take turns on each, once per seed, with the same model, examples, steps and batch
size. The score is macro F1, or entity F1 as seqeval computes it; seconds are training time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shared import RESULTS, in_a_process, machine, say, show, table, write_json

MODEL = "minilm"
ADAPTATION_TOKENS = 500_000
CONTAINED, LONGER = 0.5, 3
"""Documents that contain this share of a test example, and are at most this many times as long, are left out."""


@dataclass(frozen=True)
class Plan:
    """How a task of a corpus is measured.

    Attributes:
        task: its name.
        field: the corpus that the model is adapted to.
        test, validation: their fractions of all examples, which are about 600 and 200 examples.
        examples: training examples, drawn separately for each seed.
        max_length: tokens read of each example.
    """

    task: str
    field: str
    test: float
    validation: float
    examples: int = 300
    max_length: int = 96

    @property
    def options(self) -> dict[str, Any]:
        """The settings that open the task."""
        return {"task": self.task, "test_fraction": self.test, "validation_fraction": self.validation}


PLANS = (
    Plan("legal/license-category", "legal", test=0.25, validation=0.1),
    Plan("legal/clause-or-notice", "legal", test=0.05, validation=0.02),
    Plan("medical/phenotype-system", "medical", test=0.04, validation=0.012),
    Plan("medical/icd-chapter", "medical", test=0.013, validation=0.004),
)
STEPS, EVALUATE_EVERY = 200, 50  # of 16 examples: about ten epochs
FIELDS = ("legal", "medical")
METHODS = ("head", "lora", "full")


@dataclass(frozen=True)
class PublicSet:
    """A public data set, and the budget of both sides.

    Attributes:
        name: the data set.
        options: of `domain-ft classify` or `tag`; files are relative to the data sets' folder.
        steps: optimiser steps of `batch_size` examples.
        max_length: tokens of an example.
        verb: `classify` or `tag`.
        files: the names of the options that are files.
    """

    name: str
    options: dict[str, str]
    steps: int
    max_length: int
    verb: str = "classify"
    files: tuple[str, ...] = field(default=("train", "validation", "test", "test_ids"))


SETS = (
    PublicSet("overruling", {"train": "overruling/overruling.csv"}, steps=80, max_length=96),
    PublicSet(
        "pubmedqa",
        {
            "train": "pubmedqa/data/ori_pqal.json",
            "test_ids": "pubmedqa/data/test_ground_truth.json",
            "text_field": "QUESTION",
            "pair_field": "CONTEXTS",
            "label_field": "final_decision",
        },
        steps=50,
        max_length=192,
    ),
    PublicSet(
        "mts_dialog",
        {
            "train": "mts_dialog/MTS-Dialog-TrainingSet.csv",
            "validation": "mts_dialog/MTS-Dialog-ValidationSet.csv",
            "test": "mts_dialog/MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
            "text_field": "dialogue",
            "label_field": "section_header",
        },
        steps=120,
        max_length=96,
    ),
    PublicSet(
        "ncbi_disease",
        {
            "train": "ner_ncbi_disease/train.txt",
            "validation": "ner_ncbi_disease/dev.txt",
            "test": "ner_ncbi_disease/test.txt",
        },
        steps=120,
        max_length=96,
        verb="tag",
    ),
)
BATCH_SIZE = 16
FULL_LEARNING_RATE = 2e-4
"""For full fine-tuning, on both sides: four times run_classification.py's 5e-5, with which so small a model hardly
changes in so few steps."""


# --- The effect of adaptation -----------------------------------------------------------------------------------------


def scores(args: argparse.Namespace) -> dict[str, Any]:
    """The scores of every plan, method and base."""
    plans = [plan for plan in PLANS if not args.only or plan.task in args.only]
    fields = [name for name in FIELDS if args.control or any(plan.field == name for plan in plans)]
    adapted = {name: adapted_model(name, args.work) for name in fields}
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    baselines: list[dict[str, Any]] = []
    for plan in plans:
        bases = {"base": MODEL, "adapted": adapted[plan.field]}
        other = next((adapted[name] for name in adapted if name != plan.field), MODEL)
        for method in args.methods:
            if method in args.control:
                bases["other field"] = other
            else:
                bases.pop("other field", None)
            runs = {name: classify_run(plan, method, name, model, args) for name, model in bases.items()}
            rows += [row_of(plan, method, name, run) for name, run in runs.items()]
            for first in ("base", "other field"):
                if first in runs:
                    comparisons.append(comparison(plan, method, first, "adapted", runs))
                    say(f"{plan.task} {method}: adapted against {first}: {comparisons[-1]['macro_f1']['verdict']}")
            if not any(found["task"] == plan.task for found in baselines):
                baselines.append(baseline_scores(plan, runs["base"]))
    return {
        **machine(),
        "model": MODEL,
        "adaptation_tokens": ADAPTATION_TOKENS,
        "seeds": args.seeds,
        "plans": [dataclasses.asdict(plan) for plan in plans],
        "baselines": baselines,
        "rows": rows,
        "comparisons": comparisons,
    }


def adapted_model(name: str, work: Path) -> str:
    """Adapt MODEL to a field's text without documents that are copies of test examples. Returns the run folder."""
    import domain_ft
    from domain_ft.verbs.adapt.settings import AdaptSettings

    run = work / f"adapted-{name}"
    if not (run / "result.json").is_file():
        text = work / f"{name}.jsonl"
        left_out = write_text_without_tests(name, text)
        say(f"adapting {MODEL} to {name}; {left_out} documents are left out because of test examples")
        domain_ft.adapt(
            AdaptSettings(
                corpus=str(text),
                model=MODEL,
                control="none",
                max_tokens=ADAPTATION_TOKENS,
                output=run,
                resume=run.is_dir(),
                quiet=True,
            )
        )
    return str(run)


def write_text_without_tests(name: str, path: Path) -> int:
    """Write the training text of a corpus to `path`. Returns how many documents were left out.

    A document is left out if it contains half of a test example of the field's tasks and is at most LONGER times as
    long: then it is that example or a copy. Longer documents are kept; otherwise no licences would be left, since each
    of them contains some notice, and notices are test examples.
    """
    from domain_ft.corpus.cleaning import normalise
    from domain_ft.corpus.corpus import open_corpus
    from domain_ft.corpus.duplicates import Containment, shingles
    from domain_ft.corpus.prepared import prepare
    from domain_ft.corpus.tasks.opening import TaskSource, open_task

    tests = []
    for plan in PLANS:
        if plan.field == name:
            tests += [normalise(example.text) for example in open_task(TaskSource(**plan.options)).splits["test"]]
    lengths = [len(text) for text in tests]
    index = Containment.of_documents(shingles(text) for text in tests)
    left_out = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for document in prepare(open_corpus(name)).split("train").documents():
            text = normalise(document.text)
            found, shares = index.of(shingles(text))
            copies = (lengths[place] * LONGER >= len(text) for place in found[shares >= CONTAINED].tolist())
            if any(copies):
                left_out += 1
            else:
                file.write(json.dumps({"id": document.id, "text": document.text}, ensure_ascii=False) + "\n")
    return left_out


def classify_run(plan: Plan, method: str, base: str, model: str, args: argparse.Namespace) -> Path:
    """Run `domain-ft classify` on a plan, unless that is done. Returns the run folder."""
    import domain_ft
    from domain_ft.verbs.classify.settings import ClassifySettings

    run: Path = args.work / f"{plan.task.replace('/', '-')}-{method}-{base.replace(' ', '-')}"
    if not (run / "result.json").is_file():
        say(f"{plan.task}: {method} on {base}, {args.seeds} seeds of {plan.examples} examples")
        domain_ft.classify(
            ClassifySettings(
                **plan.options,
                model=model,
                method=method,
                max_length=plan.max_length,
                train_sizes=str(plan.examples),
                max_steps=STEPS,
                learning_rate=FULL_LEARNING_RATE if method == "full" else None,
                evaluate_every=EVALUATE_EVERY,
                seeds=args.seeds,
                baselines=method == args.methods[0] and base == "base",
                examples=False,
                output=run,
                resume=run.is_dir(),
                quiet=True,
            )
        )
    return run


def row_of(plan: Plan, method: str, base: str, run: Path) -> dict[str, Any]:
    """The scores by seed from a run's result.json."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    seeds = result["seeds"]
    return {
        "task": plan.task,
        "method": method,
        "base": base,
        "test_examples": result["examples"]["test"],
        "classes": len(result["labels"]),
        "seconds": result["training_seconds"],
        **{
            name: {key: seeds[name][key] for key in ("mean", "sd", "values")}
            for name in ("macro_f1", "accuracy", "mcc")
        },
    }


def comparison(plan: Plan, method: str, first: str, other: str, runs: dict[str, Path]) -> dict[str, Any]:
    """Macro F1 of `other` minus that of `first`, over examples and seeds."""
    from domain_ft.evaluation.classification import paired_difference

    return {
        "task": plan.task,
        "method": method,
        "first": first,
        "other": other,
        "macro_f1": paired_difference(predictions_of(runs[first]), predictions_of(runs[other]))["macro_f1"],
    }


def predictions_of(run: Path) -> list[Any]:
    """The test predictions of each seed of a run."""
    from domain_ft.evaluation.predictions import Predictions

    return [Predictions.load(path) for path in sorted((run / "predictions").glob("test-seed-*.npz"))]


def baseline_scores(plan: Plan, run: Path) -> dict[str, Any]:
    """The scores of a majority class, and of TF-IDF with a linear SVM on each seed's examples."""
    from domain_ft.corpus.tasks.opening import TaskSource, open_task
    from domain_ft.corpus.tasks.sampling import subset
    from domain_ft.evaluation.baselines import majority, tfidf_svm
    from domain_ft.evaluation.classification import point_scores

    data = open_task(TaskSource(**plan.options))
    splits, labels = data.splits, data.labels
    targets = labels.targets([example.labels for example in splits["train"]])
    seeds = [int(path.stem.rpartition("-")[2]) for path in sorted((run / "predictions").glob("test-seed-*.npz"))]
    values = []
    for seed in seeds:
        drawn = splits["train"].take(subset(targets, plan.examples, seed))
        found = tfidf_svm(drawn, splits["validation"], splits["test"], labels, seed=seed).predictions
        assert found is not None
        values.append(point_scores(found)["macro_f1"])
    plain = majority(splits["train"], splits["test"], labels).predictions
    assert plain is not None
    return {
        "task": plan.task,
        "majority": point_scores(plain)["macro_f1"],
        "tfidf_svm": {"mean": statistics.mean(values), "sd": statistics.stdev(values), "values": values},
    }


# --- Peers ------------------------------------------------------------------------------------------------------------


def peers(args: argparse.Namespace) -> dict[str, Any]:
    """Both sides on every public data set in `args.peers`, in turns."""
    found = []
    for public in SETS:
        if args.only and public.name not in args.only:
            continue
        say(f"{public.name}: {public.steps} steps of {BATCH_SIZE} examples, {args.rounds} seeds")
        found.append(peer_row(public, args))
    return {**machine(), "model": MODEL, "learning_rate": FULL_LEARNING_RATE, "batch_size": BATCH_SIZE, "rows": found}


Scorer = Callable[[dict[str, Any]], float]
"""A function that scores the output of the peer's program."""


def peer_row(public: PublicSet, args: argparse.Namespace) -> dict[str, Any]:
    """Scores and seconds of each side and seed."""
    side: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        job, score_of, facts = prepared_peer(public, args)
        for seed in range(args.rounds):
            for name in ("ours", "peer"):
                if name == "peer":
                    path = Path(folder) / "job.json"
                    path.write_text(json.dumps({**job, "seed": seed}), encoding="utf-8")
                    answer = in_a_process(str(Path(__file__).with_name("peer.py")), str(path))
                    side[name].append({"score": score_of(answer), "seconds": answer["seconds"]})
                else:
                    side[name].append(ours(public, seed, Path(folder), args))
                say(f"{public.name} seed {seed} {name}: {side[name][-1]}")
    summary = {
        name: {
            "mean": statistics.mean(one["score"] for one in runs),
            "sd": statistics.stdev(one["score"] for one in runs) if len(runs) > 1 else None,
            "values": [one["score"] for one in runs],
            "seconds": statistics.median(one["seconds"] for one in runs),
        }
        for name, runs in side.items()
    }
    return {"set": public.name, "steps": public.steps, "max_length": public.max_length, **facts, **summary}


def ours(public: PublicSet, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """One run of domain-ft in a separate process: the score on the test examples, and seconds of training."""
    run = folder / f"ours-{seed}"
    options = {
        **file_options(public, args.peers),
        "model": MODEL,
        "method": "full",
        "learning_rate": FULL_LEARNING_RATE,
        "max_steps": public.steps,
        "batch_size": BATCH_SIZE,
        "max_length": public.max_length,
        "schedule": "linear",
        "patience": 0,
        "evaluate_every": public.steps,
        "checkpoint_every": public.steps,
        "seed": seed,
        "output": run,
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--no-examples", "--quiet", "--no-baselines"]
    done = subprocess.run(
        [sys.executable, "-m", "domain_ft", public.verb, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"domain-ft {public.verb} failed with status {done.returncode}:\n{done.stderr[-3000:]}")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    score = result["test"]["macro_f1"] if public.verb == "classify" else result["test"]["f1"]
    return {"score": score, "seconds": result["training_seconds"]}


def file_options(public: PublicSet, folder: Path) -> dict[str, str]:
    """The options of a set, with the paths of its files."""
    return {name: str(folder / value) if name in public.files else value for name, value in public.options.items()}


def prepared_peer(public: PublicSet, args: argparse.Namespace) -> tuple[dict[str, Any], Scorer, dict[str, Any]]:
    """The peer's job without its seed, the function that scores its answers, and facts about the data set."""
    from domain_ft.models.sources import find

    common = {
        "model": str(find(MODEL).folder),
        "max_length": public.max_length,
        "batch_size": BATCH_SIZE,
        "steps": public.steps,
        "learning_rate": FULL_LEARNING_RATE,
        "weight_decay": 0.01,
        "warmup": 0.1,
    }
    made = prepared_tags if public.verb == "tag" else prepared_classes
    job, score_of, facts = made(file_options(public, args.peers))
    facts |= {"train_examples": len(job["train"]), "test_examples": len(job["test"])}
    return common | job, score_of, facts


def prepared_classes(options: dict[str, str]) -> tuple[dict[str, Any], Scorer, dict[str, Any]]:
    """A classification job for the peer, with the examples of domain-ft's splits."""
    from domain_ft.corpus.tasks.opening import TaskSource, open_task
    from domain_ft.evaluation.baselines import majority, tfidf_svm
    from domain_ft.evaluation.classification import point_scores
    from domain_ft.evaluation.predictions import Predictions
    from domain_ft.verbs.classify.settings import ClassifySettings

    data = open_task(TaskSource.of(ClassifySettings(**options)))
    labels, splits = data.labels, data.splits
    job = {
        "labels": list(labels.names),
        **{
            split: [{"text": one.text, "pair": one.pair, "label": one.labels[0]} for one in splits[split]]
            for split in ("train", "test")
        },
    }

    def score_of(answer: dict[str, Any]) -> float:
        return point_scores(Predictions.of(splits["test"], labels, answer["logits"]))["macro_f1"]

    found = {
        "majority": majority(splits["train"], splits["test"], labels).predictions,
        "tfidf_svm": tfidf_svm(splits["train"], splits["validation"], splits["test"], labels).predictions,
    }
    scored = {name: point_scores(one)["macro_f1"] for name, one in found.items() if one is not None}
    return job, score_of, {"score": "macro F1", "classes": len(labels), **scored}


def prepared_tags(options: dict[str, str]) -> tuple[dict[str, Any], Scorer, dict[str, Any]]:
    """A tagging job for the peer, in words and IOB2 tags, scored by seqeval."""
    from seqeval.metrics import f1_score

    from domain_ft.corpus.tagging.opening import TaggingSource, open_tagging

    data = open_tagging(TaggingSource(**options))
    splits = {split: [words_and_tags(text) for text in data.splits[split]] for split in ("train", "test")}
    names = ["O", *(f"{mark}-{name}" for name in data.types for mark in "BI")]
    truth = [one["tags"] for one in splits["test"]]

    def score_of(answer: dict[str, Any]) -> float:
        # Words beyond max_length have no answer and count as outside any entity, as in domain-ft.
        padded = [tags + ["O"] * (len(words) - len(tags)) for words, tags in zip(truth, answer["tags"], strict=True)]
        return float(f1_score(truth, padded))

    return {"labels": names, **splits}, score_of, {"score": "entity F1", "classes": len(data.types)}


def words_and_tags(text: Any) -> dict[str, list[str]]:
    """A tagged text as its words and their IOB2 tags."""
    tags = ["O"] * len(text.words)
    for span in text.spans:
        inside = [place for place, (start, end) in enumerate(text.words) if span.start <= start and end <= span.end]
        for place in inside:
            tags[place] = f"{'B' if place == inside[0] else 'I'}-{span.label}"
    return {"tokens": [text.text[start:end] for start, end in text.words], "tags": tags}


# --- What is shown ----------------------------------------------------------------------------------------------------


def show_scores(found: dict[str, Any]) -> None:
    """Print macro F1 in points, mean and standard deviation over the seeds."""
    made = table("Macro F1, mean ± sd over seeds", ("task", "model"), ("majority", "TF-IDF+SVM", *METHODS))
    for baseline in found["baselines"]:
        rows = [row for row in found["rows"] if row["task"] == baseline["task"]]
        for base in dict.fromkeys(row["base"] for row in rows):
            by_method = {row["method"]: row["macro_f1"] for row in rows if row["base"] == base}
            first = base == rows[0]["base"]
            made.add_row(
                baseline["task"] if first else "",
                base,
                f"{100 * baseline['majority']:.1f}" if first else "",
                spread(baseline["tfidf_svm"]) if first else "",
                *(spread(by_method[name]) if name in by_method else "" for name in METHODS),
            )
    show(made)
    made = table(
        "Macro F1 of the adapted model", ("task", "compared with", "method", "verdict"), ("difference", "interval", "p")
    )
    for one in found["comparisons"]:
        difference = one["macro_f1"]
        low, high = difference["interval"]
        made.add_row(
            one["task"],
            one["first"],
            one["method"],
            difference["verdict"],
            f"{100 * difference['difference']:+.1f}",
            f"{100 * low:+.1f} to {100 * high:+.1f}",
            f"{difference['p_value']:.3f}",
        )
    show(made)


def show_peers(found: dict[str, Any]) -> None:
    """Print scores in points and seconds of both sides."""
    columns = ("majority", "TF-IDF+SVM", "peer", "ours", "peer, s", "ours, s", "times faster")
    made = table("Compared with fine-tuning by transformers, mean ± sd over seeds", ("set", "score"), columns)
    for row in found["rows"]:
        made.add_row(
            row["set"],
            row["score"],
            *(f"{100 * row[name]:.1f}" if name in row else "" for name in ("majority", "tfidf_svm")),
            *(spread(row[name]) for name in ("peer", "ours")),
            *(f"{row[name]['seconds']:.0f}" for name in ("peer", "ours")),
            f"{row['peer']['seconds'] / row['ours']['seconds']:.1f}",
        )
    show(made)


def spread(scores: dict[str, Any]) -> str:
    """`81.2 ± 0.4`, in points."""
    sd = scores.get("sd")
    return f"{100 * scores['mean']:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else "")


def main() -> None:
    """Measure, show a table, write JSON."""
    parser = argparse.ArgumentParser(prog="domain-ft bench tasks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each score")
    parser.add_argument(
        "--control",
        nargs="*",
        choices=METHODS,
        default=[],
        help="also score a model adapted to as much text of the other field, with these methods",
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which methods")
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="compare with transformers on the public data sets in DIR"
    )
    parser.add_argument("--rounds", type=int, default=3, help="seeds of each side, with --peers")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these tasks or sets")
    parser.add_argument("--work", type=Path, default=Path("benchmark-runs/tasks"), help="where runs are kept")
    parser.add_argument("--output", type=Path, help="the JSON; by default in benchmarks/results")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the tables")
    args = parser.parse_args()
    measure, present, name = (peers, show_peers, "task-peers") if args.peers else (scores, show_scores, "tasks")
    found = {"when": time.strftime("%Y-%m-%d"), **measure(args)}
    write_json(found, args.output or RESULTS / f"{name}.json")
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        present(found)


if __name__ == "__main__":
    main()
