"""Figures of the reports on tasks: scores by class, training, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from domain_ft.report import numbers
from domain_ft.report.drawing import DOMAIN, GRID, INK, QUIET, drawing, short, smoothed
from domain_ft.verbs.shared import task_words
from domain_ft.verbs.shared.facts import BaseFacts
from domain_ft.wording import counted


class TaskReport(Protocol):
    """A report on a run of a task."""

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's result.json."""

    @property
    def base(self) -> BaseFacts:
        """The model that was fine-tuned."""

    @property
    def test(self) -> Mapping[str, Any]:
        """The kept model's scores on the test examples, with `per_class`."""

    @property
    def metrics(self) -> Sequence[Mapping[str, Any]]:
        """The lines of metrics.jsonl."""


MOST_CLASSES_DRAWN = 40
"""If there are more classes, only those with the lowest F1 are drawn."""


def class_bars(report: TaskReport) -> str:
    """F1 of each class whose F1 has an interval; classes with fewer than `FEW` test examples are grey."""
    classes = [(name, scores) for name, scores in report.test["per_class"].items() if scores["interval"]]
    classes = sorted(classes, key=lambda item: item[1]["f1"])[:MOST_CLASSES_DRAWN][::-1]
    description = "; ".join(f"{name}: {numbers.points(scores['f1'])}" for name, scores in classes)
    with drawing("classes", 0.9 + 0.3 * len(classes), f"F1 by class. {description}") as (figure, rendered):
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


def training(report: TaskReport) -> str:
    """The training loss, and below it macro F1 on the validation examples; a ring marks the model that was kept."""
    evaluated = [line for line in report.metrics if _held_out(line)]
    held_out = [_point(line) for line in evaluated]
    best = _point(max(evaluated, key=_score)) if evaluated else None
    description = "The training loss over the tokens read."
    if best:
        description += f" Macro F1 on validation examples was best after {best[0]:,} tokens: {numbers.points(best[1])}."
    with drawing("training", 4.2 if held_out else 2.6, description) as (figure, rendered):
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


def learning_curve(report: TaskReport) -> str:
    """Macro F1 on the test set by number of training examples; a line shows TF-IDF + SVM trained on all examples."""
    curve = report.result["learning_curve"]
    with drawing("learning-curve", 3.2, "Learning curve. " + describe_curve(curve)) as (figure, rendered):
        axes = figure.subplots()
        draw_curve(axes, curve, DOMAIN, "o", report.base.short_name)
        svm = ((report.result.get("baselines") or {}).get("tfidf_svm") or {}).get("macro_f1")
        if svm is not None:
            axes.axhline(100 * svm, color=QUIET, linewidth=1.2, linestyle=(0, (4, 2)), label="TF-IDF + SVM, on all")
        finish_curve(axes, [curve])
        figure.legend(loc="outside upper left", ncols=2)
    return rendered[0]


def _held_out(line: Mapping[str, Any]) -> bool:
    return "macro_f1" in line.get("evaluation", {})


def _point(line: Mapping[str, Any]) -> tuple[int, float]:
    return line["tokens"], line["evaluation"]["macro_f1"]


def _score(line: Mapping[str, Any]) -> tuple[float, ...]:
    """The score by which the kept model was chosen: if macro F1 is equal, the loss decides."""
    evaluation = line["evaluation"]
    return tuple(evaluation.get("score") or [evaluation["macro_f1"]])


def draw_curve(axes: Axes, curve: Sequence[Mapping[str, Any]], colour: str, marker: str, label: str) -> None:
    sizes = [point["examples"] for point in curve]
    means = [100 * point["macro_f1"]["mean"] for point in curve]
    for size, point in zip(sizes, curve, strict=True):
        if point["macro_f1"]["interval"]:
            axes.plot([size] * 2, [100 * bound for bound in point["macro_f1"]["interval"]], color=colour, alpha=0.45)
    axes.plot(sizes, means, color=colour, marker=marker, markersize=5, linewidth=1.6, label=label)


def within_points(axes: Axes) -> None:
    """Limit the vertical axis of a score to 0 to 100, with room for markers at both ends."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in axes.get_yticks() if 0 <= tick <= 100]))


def finish_curve(axes: Axes, curves: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    within_points(axes)
    sizes = sorted({point["examples"] for curve in curves for point in curve})
    axes.set_xscale("log")
    apart = [size for size, larger in zip(sizes, [*sizes[1:], math.inf], strict=True) if larger >= 1.6 * size]
    axes.xaxis.set_major_locator(FixedLocator(apart))  # if two labels would overlap, only the larger size has one
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", color=GRID)
    axes.set_xlabel("training examples")
    axes.set_ylabel("macro F1 on the test examples")


def describe_curve(curve: Sequence[Mapping[str, Any]]) -> str:
    return (
        "; ".join(f"{counted(p['examples'], 'example')}: {numbers.points(p['macro_f1']['mean'])}" for p in curve) + "."
    )
