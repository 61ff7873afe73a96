"""The report's figures as SVG text: losses over the run, before and after with intervals, document lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from domain_ft.report import words
from domain_ft.report.data import EvaluationReport
from domain_ft.report.drawing import CONTROL, DOMAIN, INK, QUIET, Change, draw_changes, drawing, short, smoothed

COLOURS = {"domain": DOMAIN, "test": DOMAIN, "control": CONTROL}
PALE = {"domain": "#9cc9e6", "test": "#9cc9e6", "control": "#f2b98d"}
MARKERS = {"domain": "o", "test": "o", "control": "s"}

_LEGEND_COLUMN = 20  # letters of a legend's label that leave room for a second column


def loss_curve(report: words.LossReport) -> str:
    """The training loss, and the held-out losses measured on the way, over the tokens read."""
    with drawing("loss-curve", 3.2, f"Loss over the run: {_spoken_curve(report)}") as (figure, rendered):
        axes = figure.subplots()
        tokens = np.array([line["tokens"] for line in report.metrics])
        losses = np.array([line["loss"] for line in report.metrics])
        if len(losses):
            axes.plot(tokens, losses, color="#b4bcc7", linewidth=0.8)
            axes.plot(tokens, smoothed(losses), color=QUIET, linewidth=1.8, label="training")
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
        axes.set_ylabel("loss, nats per token")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlim(left=0)
        labels = axes.get_legend_handles_labels()[1]
        if labels:
            columns = 2 if max(map(len, labels)) <= _LEGEND_COLUMN else 1
            figure.legend(loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=1.6)
    return rendered[0]


def before_after(report: words.LossReport) -> str:
    """Bars of the loss before and after on each corpus; under them what changed, with its interval."""
    roles = report.roles
    with drawing("before-after", 1.9 + 1.15 * len(roles), f"Loss before and after. {_spoken_change(report)}") as (
        figure,
        rendered,
    ):
        bars, changes = figure.subplots(2, 1, height_ratios=[1.2 + 2 * len(roles), 0.8 + len(roles)])
        _draw_bars(bars, report)
        rows = [_change(corpus.name, COLOURS[role], MARKERS[role], report.differences[role]) for role, corpus in roles]
        if "beyond_control" in report.differences:
            rows.append(_change("beyond control", INK, "D", report.differences["beyond_control"]))
        draw_changes(changes, rows, "Change, with its interval")
    return rendered[0]


def comparison(report: EvaluationReport) -> str:
    """For each model after the first: how its loss on each corpus differs from the first's, with intervals."""
    others = [model for model in report.models if model.differences]
    rows = [
        _change(f"{model.name} · {report.corpora[role]}", COLOURS[role], MARKERS[role], difference)
        for model in others
        for role, difference in model.differences.items()
        if difference["loss"] is not None
    ]
    spoken = "; ".join(f"{row.name}: {words.signed(row.value)}" for row in rows)
    with drawing("comparison", 1.0 + 0.5 * len(rows), f"Loss against {report.models[0].name}: {spoken}") as (
        figure,
        rendered,
    ):
        axes = figure.subplots()
        draw_changes(axes, rows, f"Loss against {report.models[0].name}", above=True)
    return rendered[0]


def length_histogram(lengths: Sequence[int]) -> str:
    """How long the training documents are, in tokens, on a logarithmic scale."""
    values = np.asarray(lengths, dtype=np.float64)
    values = values[values > 0]
    middle = int(np.median(values))
    longest = int(values.max())
    spoken = f"Lengths of {len(values):,} documents: the middle one has {middle:,} tokens, the longest {longest:,}."
    with drawing("lengths", 2.6, spoken) as (figure, rendered):
        axes = figure.subplots()
        low, high = np.floor(2 * np.log2(values.min())), np.ceil(2 * np.log2(values.max() + 1))
        edges = 2.0 ** (np.arange(low, high + 1) / 2)
        axes.hist(values, bins=edges.tolist(), color="#6db3dd", edgecolor="white", linewidth=0.6)
        axes.axvline(middle, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("tokens in a document")
        axes.set_ylabel("documents")
        axes.set_title(f"median {middle:,} tokens", fontweight="normal", fontsize=10)
    return rendered[0]


def _draw_bars(axes: Axes, report: words.LossReport) -> None:
    """A pair of bars for each corpus: before pale, after full."""
    names, places = [], []
    for index, (role, corpus) in enumerate(report.roles):
        for when, offset, colours in (("before", -0.2, PALE), ("after", 0.2, COLOURS)):
            loss = report.result[when][role]["loss"]
            axes.barh(index + offset, loss, height=0.36, color=colours[role])
            axes.annotate(
                f"{words.number(loss)} {when}",
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


def _change(name: str, colour: str, marker: str, difference: Mapping[str, Any]) -> Change:
    """A row of the figure of losses."""
    label = words.signed(difference["loss"], words.digits_for(difference))
    return Change(name, colour, marker, difference["loss"], difference["interval"], label)


def _points(report: words.LossReport, role: str) -> list[tuple[int, float]]:
    """(tokens, loss) of the held-out points that were measured on the way."""
    return [
        (line["tokens"], line["evaluation"][role]["loss"])
        for line in report.metrics
        if role in line.get("evaluation", {})
    ]


def _spoken_curve(report: words.LossReport) -> str:
    if not report.metrics:
        return "no steps were logged."
    first, last = report.metrics[0], report.metrics[-1]
    return (
        f"the training loss went from {words.number(first['loss'])} to {words.number(last['loss'])} "
        f"over {last['tokens']:,} tokens."
    )


def _spoken_change(report: words.LossReport) -> str:
    return " ".join(
        f"{corpus.name}: {words.number(report.result['before'][role]['loss'])} to "
        f"{words.number(report.result['after'][role]['loss'])}."
        for role, corpus in report.roles
    )
