"""Figures of losses: over the run, and before and after it with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from domain_ft.report import numbers
from domain_ft.report.drawing import CONTROL, DOMAIN, INK, QUIET, Change, draw_changes, drawing, short, smoothed
from domain_ft.verbs.shared import loss_words

COLOURS = {"domain": DOMAIN, "test": DOMAIN, "control": CONTROL}
PALE = {"domain": "#9cc9e6", "test": "#9cc9e6", "control": "#f2b98d"}
MARKERS = {"domain": "o", "test": "o", "control": "s"}
_LEGEND_COLUMN = 20  # characters; longer labels leave no room for a second column


def loss_curve(report: loss_words.LossReport) -> str:
    """Training and held-out loss over the tokens read."""
    with drawing("loss-curve", 3.2, f"Loss over the run: {_describe_curve(report)}") as (figure, rendered):
        axes = figure.subplots()
        tokens = np.array([line["tokens"] for line in report.metrics])
        losses = np.array([line["loss"] for line in report.metrics])
        training = "training, pairs" if _of_pairs(report) else "training"
        if len(losses):
            axes.plot(tokens, losses, color="#b4bcc7", linewidth=0.8)
            axes.plot(tokens, smoothed(losses), color=QUIET, linewidth=1.8, label=training)
        for role, corpus in report.roles:
            points = _points(report, role)
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=COLOURS[role],
                    marker=MARKERS[role],
                    markersize=4.5,
                    linewidth=1.6,
                    label=f"{short(corpus.name)}, {'control' if role == 'control' else 'held out'}",
                )
        axes.set_xlabel("tokens read")
        axes.set_ylabel("loss, nats" if _of_pairs(report) else "loss, nats per token")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlim(left=0)
        labels = axes.get_legend_handles_labels()[1]
        if labels:
            columns = 2 if max(map(len, labels)) <= _LEGEND_COLUMN else 1
            figure.legend(loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=1.6)
    return rendered[0]


def before_after(report: loss_words.LossReport) -> str:
    """Bars of the loss before and after the run for each role; below them, the changes with their intervals."""
    roles = report.roles
    with drawing("before-after", 1.9 + 1.15 * len(roles), f"Loss before and after. {_describe_changes(report)}") as (
        figure,
        rendered,
    ):
        bars, changes = figure.subplots(2, 1, height_ratios=[1.2 + 2 * len(roles), 0.8 + len(roles)])
        _draw_bars(bars, report)
        rows = [
            change_row(corpus.name, COLOURS[role], MARKERS[role], report.differences[role]) for role, corpus in roles
        ]
        if "beyond_control" in report.differences:
            rows.append(change_row("beyond control", INK, "D", report.differences["beyond_control"]))
        draw_changes(changes, rows, "Change, with its interval")
    return rendered[0]


def _draw_bars(axes: Axes, report: loss_words.LossReport) -> None:
    """A pair of bars for each role: pale before the run, dark after it."""
    names, places = [], []
    for index, (role, corpus) in enumerate(report.roles):
        for when, offset, colours in (("before", -0.2, PALE), ("after", 0.2, COLOURS)):
            loss = report.result[when][role]["loss"]
            axes.barh(index + offset, loss, height=0.36, color=colours[role])
            axes.annotate(
                f"{numbers.number(loss)} {when}",
                (loss, index + offset),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
            )
        names.append(f"{short(corpus.name)}\n(control)" if role == "control" else short(corpus.name))
        places.append(index)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    largest = max(report.result[when][role]["loss"] for when in ("before", "after") for role, _ in report.roles)
    axes.set_xlim(0, largest * 1.42)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_title("Loss (lower is better)")


def change_row(name: str, colour: str, marker: str, difference: Mapping[str, Any]) -> Change:
    """A loss difference as a row of `draw_changes`."""
    label = numbers.signed(difference["loss"], loss_words.digits_for(difference))
    return Change(name, colour, marker, difference["loss"], difference["interval"], label)


def _of_pairs(report: loss_words.LossReport) -> bool:
    """Whether the training loss is that of pairs and their words, instead of the loss per token."""
    return bool(report.result["objective"] == "contrastive")


def _points(report: loss_words.LossReport, role: str) -> list[tuple[int, float]]:
    """(tokens, loss) of the evaluations during training."""
    return [
        (line["tokens"], line["evaluation"][role]["loss"])
        for line in report.metrics
        if role in line.get("evaluation", {})
    ]


def _describe_curve(report: loss_words.LossReport) -> str:
    if not report.metrics:
        return "no steps were logged."
    first, last = report.metrics[0], report.metrics[-1]
    return (
        f"the training loss went from {numbers.number(first['loss'])} to {numbers.number(last['loss'])} "
        f"over {last['tokens']:,} tokens."
    )


def _describe_changes(report: loss_words.LossReport) -> str:
    return " ".join(
        f"{corpus.name}: {numbers.number(report.result['before'][role]['loss'])} to "
        f"{numbers.number(report.result['after'][role]['loss'])}."
        for role, corpus in report.roles
    )


def loss_figures(report: loss_words.LossReport, unit: str = "documents") -> list[tuple[str, str]]:
    caption = f"Before and after, on the same held-out {unit}. A change is clear if its line does not cross zero."
    figures = [(caption, before_after(report))]
    if report.metrics:
        figures.append((_curve_caption(report), loss_curve(report)))
    return figures


def _curve_caption(report: loss_words.LossReport) -> str:
    caption = "Training loss of single steps (pale) and their running mean (dark)."
    if _of_pairs(report):
        caption += (
            " It is the loss of a pair and of its words together, so it cannot be compared with the held-out loss, "
            "which covers words only."
        )
    role = report.roles[0][0]
    scored = [line["evaluation"][role] for line in report.metrics if role in line.get("evaluation", {})]
    if scored and scored[0].get("tokens", 0) < report.result["after"][role]["tokens"]:
        caption += (
            f" Held-out points are measured on {scored[0]['tokens']:,} tokens, the losses before and after on all "
            f"{report.result['after'][role]['tokens']:,}."
        )
    return caption
