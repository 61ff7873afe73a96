"""Reports on tasks in words. Scores are in points (of 100): `81.2`, not `0.812`.

A difference is `better` or `worse` if its interval excludes zero, and otherwise `not shown`, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domain_ft.corpus.left_out import sentences as unread_sentences
from domain_ft.corpus.tasks.leaks import KIND_WORDS
from domain_ft.evaluation.bootstrap import FEWEST_UNITS
from domain_ft.report.numbers import bounds, difference_span, level, number, points, signed
from domain_ft.verbs.shared.loss_words import digits_for
from domain_ft.verbs.shared.task_facts import TaskSummary
from domain_ft.wording import counted

Difference = Mapping[str, Any]
"""The difference of one metric, from `evaluation.counts.counts_difference`."""


METRIC_WORDS = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
}
"""The names of metrics in reports."""


FEW = 10
"""A class with fewer test examples is flagged: a single example moves its score by many points."""


def verdict(difference: Difference, metric: str) -> str:
    """A difference of `metric` in words.

    >>> verdict({"verdict": "better", "difference": 0.021, "interval": [0.004, 0.039]}, "macro_f1")
    'better by 2.1 points of macro F1 (0.4 to 3.9)'
    >>> verdict({"verdict": "not shown", "difference": 0.012, "interval": [-0.005, 0.029]}, "macro_f1")
    'not shown: −0.5 to +2.9 points of macro F1'
    """
    bounds, unit = difference["interval"], f"points of {METRIC_WORDS[metric]}"
    if difference["verdict"] == "not shown":
        reason = f"{difference_span(bounds)} {unit}" if bounds else "too few independent examples for an interval"
        return f"not shown: {reason}"
    low, high = sorted(abs(bound) for bound in bounds)
    amount = f"{points(abs(difference['difference']))} {unit} ({points(low)} to {points(high)})"
    return f"{difference['verdict']} by {amount}"


def p_value(difference: Difference) -> str:
    """`p = 0.031`, or `p < 0.001`; preceded by `adjusted` if several runs are compared with the first.

    >>> p_value({"p_value": 0.031}), p_value({"p_value": 0.0005, "p_holm": 0.0005})
    ('p = 0.031', 'adjusted p < 0.001')
    """
    value = difference.get("p_holm", difference["p_value"])
    text = f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"
    return f"adjusted {text}" if "p_holm" in difference else text


def few_units(units: int, what: str) -> str:
    """A warning that there are few independent `what`, such as `test examples`."""
    if units < FEWEST_UNITS:
        return f"There are only {units:,} independent {what}: too few for an interval, so no difference can be shown."
    return f"There are only {units:,} independent {what}: the intervals are rough."


def reading(result: Mapping[str, Any]) -> list[str]:
    """What the model read before the task, and how its loss changed; empty without --read-first."""
    found = result.get("read_first")
    if not found:
        return []
    difference, before, after = found["difference"], found["before"]["loss"], found["after"]["loss"]
    unlabelled, left_out, digits = found["unlabelled_texts"], found["left_out"], digits_for(difference)
    more = f", and from {counted(unlabelled, 'unlabelled text')}" if unlabelled else ""
    interval = f"; {level(difference)} {bounds(difference['interval'], digits)}" if difference["interval"] else ""
    sentence = (
        f"Before the task, the model read {counted(found['tokens'], 'token')} from "
        f"{counted(found['texts'] - unlabelled, 'text')} of the examples, without their labels{more}: its loss on "
        f"{counted(difference['documents'], 'held-out text')} went from {number(before, digits)} to "
        f"{number(after, digits)} ({signed(difference['loss'], digits)}{interval})."
    )
    if left_out:
        sentence += (
            f" {counted(left_out, 'unlabelled text that holds', 'unlabelled texts that hold')} the text of a test "
            f"example {'was' if left_out == 1 else 'were'} left out."
        )
    return [sentence]


def facts(task: TaskSummary) -> list[tuple[str, str]]:
    """(name, value) of a task's sizes, fields and textual facts."""
    skipped = ("description", "fields")
    named = [
        (name.replace("_", " "), value if isinstance(value, str) else ", ".join(map(str, value)))
        for name, value in task.facts.items()
        if name not in skipped and value and isinstance(value, (str, list, tuple))
    ]
    sizes = [(f"{split} examples", f"{amount:,}") for split, amount in task.examples.items()]
    kind = "any number per example" if task.multi_label else "one per example"
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


def _mean_length(task: TaskSummary) -> str:
    mean = task.facts.get("mean_characters")
    return f", {mean:,} characters on average" if mean else ""


def left_out(result: Mapping[str, Any]) -> list[str]:
    """What was not read from the examples, in sentences."""
    return unread_sentences(result)


def leaks(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind of copies, count) from `Leaks.counts`."""
    return [(KIND_WORDS[kind], f"{amount:,}") for kind, amount in counts.items()]
