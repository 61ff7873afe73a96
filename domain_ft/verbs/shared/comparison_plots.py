"""The figures of a comparison of runs: differences with intervals, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domain_ft.report import numbers
from domain_ft.report.drawing import CONTROL, DOMAIN, INK, Change, draw_changes, drawing, short
from domain_ft.verbs.shared import loss_words, task_words
from domain_ft.verbs.shared.comparison import CompareReport
from domain_ft.verbs.shared.task_plots import describe_curve, draw_curve, finish_curve

_COLOURS = (INK, DOMAIN, CONTROL, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito
_MARKERS = "oDs^vP*"


def learning_curves(report: CompareReport) -> str:
    """The learning curves of several runs in one figure."""
    runs = [(place, run) for place, run in enumerate(report.runs) if run.learning_curve]
    description = " ".join(f"{run.name}: {describe_curve(run.learning_curve)}" for _, run in runs)
    with drawing("learning-curves", 2.9 + 0.2 * len(runs), f"Learning curves. {description}") as (figure, rendered):
        axes = figure.subplots()
        for place, run in runs:
            draw_curve(axes, run.learning_curve, *_look(place), short(run.name, 40))
        finish_curve(axes, [run.learning_curve for _, run in runs])
        figure.legend(loc="outside upper left", ncols=1)
    return rendered[0]


def has_differences(report: CompareReport) -> bool:
    """Whether `differences` has anything to draw."""
    return any(_value(found) is not None for run in report.runs for found in run.differences.values())


def differences(report: CompareReport) -> str:
    """The differences of each run's scores from the first run's, with intervals.

    Losses per token of different tokenizers cannot be compared, and are left out.
    """
    rows = []
    for place, run in enumerate(report.runs[1:], 1):
        for metric in report.metrics:
            found = run.differences.get(metric)
            if found is not None and _value(found) is not None:
                name, value, label = f"{run.name} · {_metric_name(metric)}", _value(found), _label(found)
                scale = 100 if "difference" in found else 1
                bounds = None if found["interval"] is None else [scale * bound for bound in found["interval"]]
                rows.append(Change(name, *_look(place), scale * value, bounds, label))
    unit = "loss, lower is better" if report.of_losses else "points"
    description = "; ".join(f"{row.name}: {row.label}" for row in rows)
    with drawing("differences", 1.0 + 0.5 * len(rows), f"Against {report.runs[0].name}: {description}") as (
        figure,
        rendered,
    ):
        draw_changes(figure.subplots(), rows, f"Against {short(report.runs[0].name, 30)} ({unit})", above=True)
    return rendered[0]


def _look(place: int) -> tuple[str, str]:
    """The colour and marker of the run at this position."""
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def _value(difference: Mapping[str, Any]) -> Any:
    """A difference of scores or of losses; None if the losses cannot be compared."""
    return difference.get("difference", difference.get("loss"))


def _label(difference: Mapping[str, Any]) -> str:
    if "difference" in difference:
        return numbers.signed_points(difference["difference"])
    return numbers.signed(difference["loss"], loss_words.digits_for(difference))


def _metric_name(metric: str) -> str:
    return task_words.METRIC_WORDS.get(metric, metric)
