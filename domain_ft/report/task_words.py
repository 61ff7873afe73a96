"""What the reports on tasks say in words. Scores are written in points, of 100: `81.2`, not `0.812`.

A claim goes as far as its interval and no further: a difference is `better` or `worse` where the interval excludes
zero, and else `not shown`, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domain_ft.corpus.left_out import sentences as unread_sentences
from domain_ft.corpus.tasks.leaks import KIND_WORDS
from domain_ft.evaluation.bootstrap import FEWEST_UNITS
from domain_ft.report.task_data import ClassifyReport, ComparedRun, CompareReport, TaskFacts
from domain_ft.report.words import bounds as interval_of
from domain_ft.report.words import number, signed
from domain_ft.wording import counted as count

Difference = Mapping[str, Any]
"""What `evaluation.counts.counts_difference` gives of a score."""

METRICS = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
}
"""What scores are called, in the order in which they are shown."""

BASELINES = {"majority": "majority class", "tfidf_svm": "TF-IDF + linear SVM"}

FEW = 10
"""A class with fewer test examples than this is flagged: one more or less right moves its score by points."""

_NAMED = 6  # classes that a sentence names


def points(value: float | None) -> str:
    """A score in points.

    >>> points(0.8125), points(None)
    ('81.2', '–')
    """
    return "–" if value is None else number(100 * value, 1)


def signed_points(value: float) -> str:
    """A difference of scores in points.

    >>> signed_points(0.021), signed_points(-0.005)
    ('+2.1', '−0.5')
    """
    return signed(100 * value, 1)


def span(interval: Sequence[float] | None) -> str:
    """`72.3 to 83.0`; `no interval` where there is none."""
    return "no interval" if interval is None else f"{points(interval[0])} to {points(interval[1])}"


def difference_span(interval: Sequence[float] | None) -> str:
    """`−0.5 to +2.9`; `no interval` where there is none."""
    if interval is None:
        return "no interval"
    return f"{signed_points(interval[0])} to {signed_points(interval[1])}"


def verdict(difference: Difference, metric: str) -> str:
    """What a difference is, as far as its interval goes.

    >>> verdict({"verdict": "better", "difference": 0.021, "interval": [0.004, 0.039]}, "macro_f1")
    'better by 2.1 points of macro F1 (0.4 to 3.9)'
    >>> verdict({"verdict": "not shown", "difference": 0.012, "interval": [-0.005, 0.029]}, "macro_f1")
    'not shown: −0.5 to +2.9 points of macro F1'
    """
    bounds, said = difference["interval"], f"points of {METRICS[metric]}"
    if difference["verdict"] == "not shown":
        found = f"{difference_span(bounds)} {said}" if bounds else "too few independent examples for an interval"
        return f"not shown: {found}"
    low, high = sorted(abs(bound) for bound in bounds)
    amount = f"{points(abs(difference['difference']))} {said} ({points(low)} to {points(high)})"
    return f"{difference['verdict']} by {amount}"


def p_value(difference: Difference) -> str:
    """`p = 0.031`, below a thousandth only that it is so; adjusted where it is one of several.

    >>> p_value({"p_value": 0.031}), p_value({"p_value": 0.0005, "p_holm": 0.0005})
    ('p = 0.031', 'adjusted p < 0.001')
    """
    value = difference.get("p_holm", difference["p_value"])
    said = f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"
    return f"adjusted {said}" if "p_holm" in difference else said


def level(scores: Mapping[str, Any]) -> str:
    """`95% interval`."""
    return f"{100 * scores.get('level', 0.95):g}% interval"


def listed(names: Sequence[str]) -> str:
    """`a, b and 3 more`: the first few of many names."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def headline(report: ClassifyReport) -> str:
    """What came out, in one sentence for everybody."""
    classes = count(len(report.task.labels), "class")
    return (
        f"{report.base.short_name} reaches a macro F1 of {points(report.test['macro_f1'])} on the {classes} of "
        f"{report.task.name}."
    )


def findings(report: ClassifyReport) -> list[str]:
    """The headline's grounds and its doubts, a sentence or two each."""
    test = report.test
    sources = "" if test["units"] == test["examples"] else f" from {count(test['units'], 'source')}"
    sentences = [
        f"Macro F1 is the mean over classes, the rare ones as much as the frequent. Its {level(test)} is "
        f"{span(test['interval']['macro_f1'])}, over {count(test['examples'], 'test example')}{sources}. "
        f"The accuracy is {points(test['accuracy'])} ({span(test['interval']['accuracy'])})."
    ]
    sentences += _against_baselines(report)
    seeds = report.result.get("seeds") or {}
    if seeds.get("n", 1) > 1:
        of_seeds = seeds["macro_f1"]
        sentences.append(
            f"Trained from {seeds['n']} seeds the macro F1 is {points(of_seeds['mean'])} on average, with a standard "
            f"deviation of {points(of_seeds['sd'])}. The model that is kept was the best on validation examples."
        )
    else:
        sentences.append("It was trained from one seed: what another would give is not measured (--seeds 5 does).")
    return sentences + doubts(report)


def doubts(report: ClassifyReport) -> list[str]:
    """What makes the numbers rougher than they look, in sentences."""
    test, classes = report.test, report.test["per_class"]
    sentences = []
    if test.get("few_units"):
        sentences.append(few_units(test["units"], "test examples"))
    absent = [name for name, scores in classes.items() if not scores["support"]]
    if absent:
        sentences.append(f"Not in the test examples, so not measured: {listed(absent)}.")
    silent = [name for name, scores in classes.items() if scores["support"] and not scores["predicted"]]
    if silent:
        sentences.append(f"Never predicted: {listed(silent)}.")
    few = [name for name, scores in classes.items() if 0 < scores["support"] < FEW]
    if few:
        sentences.append(
            f"Too few test examples (fewer than {FEW}) to say much of {count(len(few), 'class')}: {listed(few)}."
        )
    cut = report.result.get("cut_fraction") or 0
    if cut:
        share = f"{100 * cut:.0f}%" if cut >= 0.005 else "less than 1%"
        sentences.append(
            f"Of {share} of the examples not all text was read: --max-length and --long-text decide on that."
        )
    return sentences


def few_units(units: int, what: str) -> str:
    """What so few independent `what` are worth."""
    if units < FEWEST_UNITS:
        return f"There are only {units:,} independent {what}: too few for an interval, so nothing is shown."
    return f"There are only {units:,} independent {what}: the intervals are rough."


def limits(report: ClassifyReport) -> list[str]:
    """What the run does not say."""
    task = report.task
    return [
        f"The scores hold for texts like those of {task.name}. On texts from another source, or of another time, they "
        "will be lower.",
        "It always answers, on any text: none of its answers is 'none of these'."
        if not task.several
        else "Its classes are all it knows: what a text holds besides, it does not say.",
        probabilities(report),
        "The test examples were used for measuring alone. If you choose among many runs by their test scores, the best "
        "one's score is too high.",
    ]


def probabilities(report: ClassifyReport) -> str:
    """What the probabilities are worth, and what was done to them."""
    found, chosen = report.test.get("calibration") or {}, report.result.get("calibration")
    temperature = found.get("temperature", 1.0)
    if temperature == 1.0:
        if not chosen:
            return "Probabilities are not calibrated: they are what the model was trained to say."
        return (
            f"Probabilities are not calibrated: a temperature of {chosen['fitted']:.2f} was fitted to the validation "
            "examples, and was no sure improvement on those that it was not fitted to, so it is not used."
        )
    before, after = (points(found[name]) for name in ("ece_before", "ece_after"))
    said = f"Probabilities are calibrated on validation examples, with a temperature of {temperature:.2f}."
    if found["ece_after"] > found["ece_before"]:
        return (
            f"{said} On the test examples they are no better for it: the expected calibration error went from {before} "
            f"to {after} points. Do not take them at their word."
        )
    return f"{said} Where classes are more or less frequent than in these examples, they are off."


def _against_baselines(report: ClassifyReport) -> list[str]:
    """A sentence for each baseline that was run."""
    sentences = []
    for name, called in (("majority", "Always saying the majority class"), ("tfidf_svm", "TF-IDF with a linear SVM")):
        scores = (report.result.get("baselines") or {}).get(name) or {}
        if "macro_f1" not in scores:
            continue
        reached = f"{called} reaches a macro F1 of {points(scores['macro_f1'])}"
        if "difference" not in scores:
            sentences.append(f"{reached}.")
            continue
        difference = scores["difference"]["macro_f1"]
        subject = "that the model is better or worse is" if difference["verdict"] == "not shown" else "the model is"
        sentences.append(f"{reached}; {subject} {verdict(difference, 'macro_f1')}.")
    return sentences


def facts(task: TaskFacts) -> list[tuple[str, str]]:
    """(what it is, what it says) of a task's facts that are words, and of its sizes."""
    skipped = ("description", "fields")
    named = [
        (name.replace("_", " "), value if isinstance(value, str) else ", ".join(map(str, value)))
        for name, value in task.facts.items()
        if name not in skipped and value and isinstance(value, (str, list, tuple))
    ]
    sizes = [(f"{split} examples", f"{amount:,}") for split, amount in task.examples.items()]
    kind = "any number of them an example" if task.several else "one an example"
    read = task.facts.get("fields") or {}
    fields = [
        (f"{what} read from", f"{read[name]}{length}")
        for name, what, length in (
            ("text", "text", _mean_length(task)),
            ("pair", "second text", ""),
            ("label", "label", ""),
        )
        if read.get(name)
    ]
    return [*sizes, ("classes", f"{len(task.labels):,}, {kind}"), *fields, *named]


def _mean_length(task: TaskFacts) -> str:
    mean = task.facts.get("mean_characters")
    return f", {mean:,} characters on average" if mean else ""


def left_out(result: Mapping[str, Any]) -> list[str]:
    """What was not read of the examples."""
    return unread_sentences(result)


def leaks(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what was found, how often) of `Leaks.counts`."""
    return [(KIND_WORDS[kind], f"{amount:,}") for kind, amount in counts.items()]


def loading_code(report: ClassifyReport) -> str:
    """Python that loads the run from within the run folder and classifies a text; empty where only `predict` can."""
    if report.settings.get("method") == "head":
        return ""
    base = report.base
    whole = "model" if report.settings.get("method") == "full" else "merged" if base.is_run else None
    if whole:
        return "\n".join(
            [
                *(["# first: domain-ft export --model . --output merged"] if whole == "merged" else []),
                "from transformers import pipeline",
                "",
                f'classify = pipeline("text-classification", model="{whole}", top_k=None)  # in the run folder',
                'print(classify("A text to classify."))',
            ]
        )
    source = "source = " + (f"embedded.resolve({base.name!r})  # fetched once" if base.embedded else repr(base.source))
    return "\n".join(
        [
            *(["from domain_ft.models import embedded"] if base.embedded else []),
            "from peft import PeftModel",
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            "",
            source,
            "base = AutoModelForSequenceClassification.from_pretrained(",
            f"    source, num_labels={len(report.task.labels)}",
            ")",
            'model = PeftModel.from_pretrained(base, "adapter")  # the run folder\'s',
            "tokenizer = AutoTokenizer.from_pretrained(source)",
            'logits = model(**tokenizer("A text to classify.", return_tensors="pt")).logits',
            f"print(logits.{'sigmoid()' if report.task.several else 'softmax(-1)'})",
        ]
    )


def compared(run: ComparedRun, report: CompareReport) -> str:
    """What a comparison says of a run after the first, in a sentence: of the first of its metrics."""
    metric, against = report.metrics[0], f"{run.name} against {report.runs[0].name}"
    difference = run.differences[metric]
    if report.of_losses:
        return f"{against}: {loss_verdict(difference)}."
    return f"{against}: {verdict(difference, metric)}; {p_value(difference)}."


def loss_verdict(difference: Difference) -> str:
    """What a difference of losses is, of `bootstrap.difference`: by loss, or bits per byte where tokenizers differ."""
    in_bits = difference["loss"] is None
    value, bounds = (
        (difference["bits_per_byte"], difference["bits_per_byte_interval"])
        if in_bits
        else (difference["loss"], difference["interval"])
    )
    unit = "bits per byte" if in_bits else "nats per token"
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return f"not shown: {interval_of(bounds, 3)} {unit}"
    low, high = sorted(abs(bound) for bound in bounds)
    direction = "better" if bounds[1] < 0 else "worse"
    return f"{direction} by {number(abs(value), 3)} {unit} ({number(low, 3)} to {number(high, 3)})"
