"""The figures of the reports on tasks: scores by class, training, calibration, learning curves, differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from domain_ft.report import task_words, words
from domain_ft.report.drawing import CONTROL, DOMAIN, GRID, INK, QUIET, Change, draw_changes, drawing, short, smoothed
from domain_ft.report.tag_data import TagReport
from domain_ft.report.task_data import ClassifyReport, CompareReport
from domain_ft.wording import counted

MOST_CLASSES = 40
"""Classes whose bars fit a figure: of more, those with the lowest F1 are drawn."""

_COLOURS = (INK, DOMAIN, CONTROL, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito
_MARKERS = "oDs^vP*"


def class_bars(report: ClassifyReport | TagReport) -> str:
    """F1 of each class with its interval, the best first."""
    classes = [(name, scores) for name, scores in report.test["per_class"].items() if scores["interval"]]
    classes = sorted(classes, key=lambda item: item[1]["f1"])[:MOST_CLASSES][::-1]
    spoken = "; ".join(f"{name}: {task_words.points(scores['f1'])}" for name, scores in classes)
    with drawing("classes", 0.9 + 0.3 * len(classes), f"F1 by class. {spoken}") as (figure, rendered):
        axes = figure.subplots()
        for place, (_, scores) in enumerate(classes):
            few = scores["support"] < task_words.FEW
            axes.barh(place, 100 * scores["f1"], height=0.62, color="#d5dbe3" if few else "#9cc9e6")
            axes.plot([100 * bound for bound in scores["interval"]], [place, place], color=QUIET if few else DOMAIN)
            axes.plot([100 * scores["f1"]], [place], color=QUIET if few else DOMAIN, marker="o", markersize=4)
        axes.set_yticks(range(len(classes)), [f"{short(name, 26)} ({scores['support']:,})" for name, scores in classes])
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("F1")
    return rendered[0]


def training(report: ClassifyReport | TagReport) -> str:
    """The training loss, and under it macro F1 on validation examples with the point that was kept."""
    held_out = [(line["tokens"], line["evaluation"]["macro_f1"]) for line in report.metrics if _held_out(line)]
    best = max(held_out, key=lambda point: point[1]) if held_out else None
    spoken = "The training loss over the tokens read."
    if best:
        spoken += f" Macro F1 on validation examples was best after {best[0]:,} tokens: {task_words.points(best[1])}."
    with drawing("training", 4.2 if held_out else 2.6, spoken) as (figure, rendered):
        drawn = figure.subplots(2 if held_out else 1, 1, sharex=True, squeeze=False)[:, 0]
        tokens = np.array([line["tokens"] for line in report.metrics])
        losses = np.array([line["loss"] for line in report.metrics])
        drawn[0].plot(tokens, losses, color="#b4bcc7", linewidth=0.8)
        drawn[0].plot(tokens, smoothed(losses), color=QUIET, linewidth=1.8)
        drawn[0].set_title("Training loss", fontweight="normal")
        if best:
            drawn[1].plot(
                [place for place, _ in held_out],
                [100 * score for _, score in held_out],
                color=DOMAIN,
                marker="o",
                markersize=4.5,
                linewidth=1.6,
            )
            drawn[1].plot(
                [best[0]], [100 * best[1]], marker="o", markersize=11, fillstyle="none", color=INK, markeredgewidth=1.4
            )
            drawn[1].set_title("Macro F1 on validation examples", fontweight="normal")
            within_points(drawn[1])
        drawn[-1].set_xlabel("tokens read")
        drawn[-1].xaxis.set_major_locator(MaxNLocator(5))
        drawn[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        drawn[-1].set_xlim(left=0)
    return rendered[0]


def calibration(report: ClassifyReport) -> str:
    """How often the model was right against how sure it was, before and after the temperature."""
    found = report.test.get("calibration") or {}
    spoken = "How often it is right against how sure it is."
    if found.get("temperature", 1.0) != 1.0:
        spoken += (
            f" The expected calibration error went from {task_words.points(found['ece_before'])} to "
            f"{task_words.points(found['ece_after'])} points."
        )
    with drawing("calibration", 3.9, spoken) as (figure, rendered):
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 2)))
        _draw_bins(axes, report.reliability["before"], CONTROL, "s", "as trained")
        if found.get("temperature", 1.0) != 1.0:
            _draw_bins(axes, report.reliability["after"], DOMAIN, "o", f"temperature {found['temperature']:.2f}")
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        axes.set_xlabel("how often the class holds, it says (%)" if report.task.several else "how sure it is (%)")
        axes.set_ylabel("how often it holds (%)" if report.task.several else "how often it is right (%)")
        axes.legend(loc="upper left")
    return rendered[0]


def learning_curve(report: ClassifyReport | TagReport) -> str:
    """Macro F1 on the test set against the number of training examples, beside TF-IDF + SVM with all of them."""
    curve = report.result["learning_curve"]
    with drawing("learning-curve", 3.2, "Learning curve. " + _spoken_curve(curve)) as (figure, rendered):
        axes = figure.subplots()
        _draw_curve(axes, curve, DOMAIN, "o", report.base.short_name)
        machine = ((report.result.get("baselines") or {}).get("tfidf_svm") or {}).get("macro_f1")
        if machine is not None:
            axes.axhline(100 * machine, color=QUIET, linewidth=1.2, linestyle=(0, (4, 2)), label="TF-IDF + SVM, on all")
        _finish_curve(axes, [curve])
        figure.legend(loc="outside upper left", ncols=2)
    return rendered[0]


def learning_curves(report: CompareReport) -> str:
    """The learning curves of several runs together."""
    runs = [(place, run) for place, run in enumerate(report.runs) if run.learning_curve]
    spoken = " ".join(f"{run.name}: {_spoken_curve(run.learning_curve)}" for _, run in runs)
    with drawing("learning-curves", 2.9 + 0.2 * len(runs), f"Learning curves. {spoken}") as (figure, rendered):
        axes = figure.subplots()
        for place, run in runs:
            _draw_curve(axes, run.learning_curve, *_look(place), short(run.name, 40))
        _finish_curve(axes, [run.learning_curve for _, run in runs])
        figure.legend(loc="outside upper left", ncols=1)
    return rendered[0]


def differences(report: CompareReport) -> str:
    """For each run after the first: how each score differs from the first's, with intervals."""
    rows = []
    for place, run in enumerate(report.runs[1:], 1):
        for metric in report.metrics:
            found = run.differences.get(metric)
            if found is not None and _value(found) is not None:
                name, value, label = f"{run.name} · {_called(metric)}", _value(found), _label(found)
                scale = 100 if "difference" in found else 1
                bounds = None if found["interval"] is None else [scale * bound for bound in found["interval"]]
                rows.append(Change(name, *_look(place), scale * value, bounds, label))
    unit = "loss, lower is better" if report.of_losses else "points"
    spoken = "; ".join(f"{row.name}: {row.label}" for row in rows)
    with drawing("differences", 1.0 + 0.5 * len(rows), f"Against {report.runs[0].name}: {spoken}") as (
        figure,
        rendered,
    ):
        draw_changes(figure.subplots(), rows, f"Against {short(report.runs[0].name, 30)} ({unit})", above=True)
    return rendered[0]


def _look(place: int) -> tuple[str, str]:
    """The colour and the marker of the run in this place."""
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def _value(difference: Mapping[str, Any]) -> Any:
    return difference.get("difference", difference.get("loss"))


def _label(difference: Mapping[str, Any]) -> str:
    if "difference" in difference:
        return task_words.signed_points(difference["difference"])
    return words.signed(difference["loss"], words.digits_for(difference))


def _called(metric: str) -> str:
    return task_words.METRICS.get(metric, metric)


def _held_out(line: Mapping[str, Any]) -> bool:
    return "macro_f1" in line.get("evaluation", {})


def _draw_bins(axes: Axes, bins: Sequence[Mapping[str, Any]], colour: str, marker: str, label: str) -> None:
    """A point for each bin, the larger the more cases are in it."""
    confidence, accuracy = ([100 * one[name] for one in bins] for name in ("confidence", "accuracy"))
    share = np.array([one["count"] for one in bins]) / sum(one["count"] for one in bins)
    axes.plot(confidence, accuracy, color=colour, linewidth=1, alpha=0.6)
    axes.scatter(confidence, accuracy, s=14 + 160 * share, color=colour, marker=marker, alpha=0.85, label=label)


def _draw_curve(axes: Axes, curve: Sequence[Mapping[str, Any]], colour: str, marker: str, label: str) -> None:
    sizes = [point["examples"] for point in curve]
    means = [100 * point["macro_f1"]["mean"] for point in curve]
    for size, point in zip(sizes, curve, strict=True):
        if point["macro_f1"]["interval"]:
            axes.plot([size] * 2, [100 * bound for bound in point["macro_f1"]["interval"]], color=colour, alpha=0.45)
    axes.plot(sizes, means, color=colour, marker=marker, markersize=5, linewidth=1.6, label=label)


def within_points(axes: Axes) -> None:
    """Keep the vertical axis of a score within 0 to 100, with room for the markers at either end."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in axes.get_yticks() if 0 <= tick <= 100]))


def _finish_curve(axes: Axes, curves: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    within_points(axes)
    sizes = sorted({point["examples"] for curve in curves for point in curve})
    axes.set_xscale("log")
    apart = [size for size, larger in zip(sizes, [*sizes[1:], math.inf], strict=True) if larger >= 1.6 * size]
    axes.xaxis.set_major_locator(FixedLocator(apart))  # the larger of two whose labels would run into each other
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", color=GRID)
    axes.set_xlabel("training examples")
    axes.set_ylabel("macro F1 on the test examples")


def _spoken_curve(curve: Sequence[Mapping[str, Any]]) -> str:
    return (
        "; ".join(f"{counted(p['examples'], 'example')}: {task_words.points(p['macro_f1']['mean'])}" for p in curve)
        + "."
    )
