"""A comparison of runs in words."""

from __future__ import annotations

from domain_ft.report.numbers import bounds as interval_of
from domain_ft.report.numbers import number
from domain_ft.verbs.shared.comparison import ComparedRun, CompareReport
from domain_ft.verbs.shared.task_words import Difference, p_value, verdict


def compared(run: ComparedRun, report: CompareReport) -> str:
    """A sentence on how a run differs from the first run in the first metric."""
    metric, against = report.metrics[0], f"{run.name} against {report.runs[0].name}"
    difference = run.differences[metric]
    if report.of_losses:
        return f"{against}: {loss_verdict(difference)}."
    return f"{against}: {verdict(difference, metric)}; {p_value(difference)}."


def loss_verdict(difference: Difference) -> str:
    """A difference of losses in words; in bits per byte if the tokenizers differ."""
    in_bits = difference["loss"] is None
    value, bounds = (
        (difference["bits_per_byte"], difference["bits_per_byte_interval"])
        if in_bits
        else (difference["loss"], difference["interval"])
    )
    unit = "bits per byte" if in_bits else "nats per token"
    if bounds is None:
        return "not shown: too few documents for an interval"
    if bounds[0] <= 0 <= bounds[1]:
        return f"not shown: {interval_of(bounds, 3)} {unit}"
    low, high = sorted(abs(bound) for bound in bounds)
    direction = "better" if bounds[1] < 0 else "worse"
    return f"{direction} by {number(abs(value), 3)} {unit} ({number(low, 3)} to {number(high, 3)})"
