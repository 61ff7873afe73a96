"""The report's figures as SVG text: losses over the run, before and after with intervals, document lengths.

Drawn for a phone first: narrow, large letters, one figure under the other. Letters stay letters, in the reader's own
fonts, so that a name in any script shows and a screen reader can read it. The two colours differ for colour-blind eyes,
and no figure says anything by colour alone. Nothing touches pyplot or the process's matplotlib settings.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from domain_ft.report import words
from domain_ft.report.data import AdaptReport, EvaluationReport

WIDTH = 4.2  # inches; at 72 units an inch a phone shows 10-point letters at about 12 pixels
DOMAIN, CONTROL = "#0072b2", "#d55e00"  # Okabe & Ito's blue and vermillion
INK, QUIET, GRID = "#1c2430", "#5b6675", "#e3e7ec"
COLOURS = {"domain": DOMAIN, "control": CONTROL}
PALE = {"domain": "#9cc9e6", "control": "#f2b98d"}
MARKERS = {"domain": "o", "control": "s"}

_LEGEND_COLUMN = 20  # letters of a legend's label that leave room for a second column

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def loss_curve(report: AdaptReport) -> str:
    """The training loss, and the held-out losses measured on the way, over the tokens read."""
    with _figure("loss-curve", 3.2, f"Loss over the run: {_spoken_curve(report)}") as (figure, rendered):
        axes = figure.subplots()
        tokens = np.array([line["tokens"] for line in report.metrics])
        losses = np.array([line["loss"] for line in report.metrics])
        if len(losses):
            axes.plot(tokens, losses, color="#b4bcc7", linewidth=0.8)
            axes.plot(tokens, _smoothed(losses), color=QUIET, linewidth=1.8, label="training")
        for role, corpus in report.roles:
            points = _points(report, role)
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=COLOURS[role],
                    marker=MARKERS[role],
                    markersize=4.5,
                    linewidth=1.6,
                    label=f"{_short(corpus.name)}, {'held out' if role == 'domain' else 'control'}",
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


def before_after(report: AdaptReport) -> str:
    """Bars of the loss before and after on each corpus; under them what changed, with its interval."""
    roles = report.roles
    with _figure("before-after", 1.9 + 1.15 * len(roles), f"Loss before and after. {_spoken_change(report)}") as (
        figure,
        rendered,
    ):
        bars, changes = figure.subplots(2, 1, height_ratios=[1.2 + 2 * len(roles), 0.8 + len(roles)])
        _draw_bars(bars, report)
        rows = [(corpus.name, COLOURS[role], MARKERS[role], report.differences[role]) for role, corpus in roles]
        if "beyond_control" in report.differences:
            rows.append(("beyond control", INK, "D", report.differences["beyond_control"]))
        _draw_changes(changes, rows, "Change, with its interval")
    return rendered[0]


def comparison(report: EvaluationReport) -> str:
    """For each model after the first: how its loss on each corpus differs from the first's, with intervals."""
    others = [model for model in report.models if model.differences]
    rows = [
        (f"{model.name} · {report.corpora[role]}", COLOURS[role], MARKERS[role], difference)
        for model in others
        for role, difference in model.differences.items()
        if difference["loss"] is not None
    ]
    spoken = "; ".join(f"{name}: {words.signed(difference['loss'])}" for name, _, _, difference in rows)
    with _figure("comparison", 1.0 + 0.5 * len(rows), f"Loss against {report.models[0].name}: {spoken}") as (
        figure,
        rendered,
    ):
        axes = figure.subplots()
        _draw_changes(axes, rows, f"Loss against {report.models[0].name}", above=True)
    return rendered[0]


def length_histogram(lengths: Sequence[int]) -> str:
    """How long the training documents are, in tokens, on a logarithmic scale."""
    values = np.asarray(lengths, dtype=np.float64)
    values = values[values > 0]
    middle = int(np.median(values))
    longest = int(values.max())
    spoken = f"Lengths of {len(values):,} documents: the middle one has {middle:,} tokens, the longest {longest:,}."
    with _figure("lengths", 2.6, spoken) as (figure, rendered):
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


def _draw_bars(axes: Axes, report: AdaptReport) -> None:
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
        names.append(_short(corpus.name) if role == "domain" else f"{_short(corpus.name)}\n(control)")
        places.append(index)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    largest = max(report.result[when][role]["loss"] for when in ("before", "after") for role, _ in report.roles)
    axes.set_xlim(0, largest * 1.42)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_title("Loss (lower is better)")


def _draw_changes(
    axes: Axes, rows: Sequence[tuple[str, str, str, Mapping[str, Any]]], title: str, *, above: bool = False
) -> None:
    """A point with its interval for each row of (name, colour, marker, difference), beside a line at zero.

    `above` writes the names over the intervals instead of beside the axis, where long ones leave no room.
    """
    axes.axvline(0, color=INK, linewidth=1.2)
    ends = [0.0]
    for index, (name, colour, marker, difference) in enumerate(rows):
        loss, interval = difference["loss"], difference["interval"] or [difference["loss"]] * 2
        axes.plot(interval, [index, index], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([loss], [index], color=colour, marker=marker, markersize=6.5)
        label = words.signed(loss, words.digits_for(difference))
        place: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "va": "bottom", "fontsize": 9.5}
        if above:
            axes.annotate(f"{_short(name, 44)}: {label}", (0.02, index), xycoords=axes.get_yaxis_transform(), **place)
        else:
            axes.annotate(label, (loss, index), ha="center", **place)
        ends += interval
    reach = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.18 * reach, max(ends) + 0.18 * reach)
    axes.set_ylim(len(rows) - 0.5, -0.85)
    axes.set_yticks(range(len(rows)), [""] * len(rows) if above else [_short(name) for name, *_ in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(title)


def _short(name: str, limit: int = 18) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _points(report: AdaptReport, role: str) -> list[tuple[int, float]]:
    """(tokens, loss) of the held-out points that were measured on the way."""
    return [
        (line["tokens"], line["evaluation"][role]["loss"])
        for line in report.metrics
        if role in line.get("evaluation", {})
    ]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over about a twentieth of the run on either side, shorter at the ends."""
    reach = max(1, len(values) // 20)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _spoken_curve(report: AdaptReport) -> str:
    if not report.metrics:
        return "no steps were logged."
    first, last = report.metrics[0], report.metrics[-1]
    return (
        f"the training loss went from {words.number(first['loss'])} to {words.number(last['loss'])} "
        f"over {last['tokens']:,} tokens."
    )


def _spoken_change(report: AdaptReport) -> str:
    return " ".join(
        f"{corpus.name}: {words.number(report.result['before'][role]['loss'])} to "
        f"{words.number(report.result['after'][role]['loss'])}."
        for role, corpus in report.roles
    )


@contextmanager
def _figure(name: str, height: float, description: str) -> Iterator[tuple[Figure, list[str]]]:
    """A figure of its own style; when the block ends, its SVG is put into the list."""
    rendered: list[str] = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's fonts draw the letters. That matplotlib's own font lacks some of them does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, rendered
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    rendered.append(_inline(buffer.getvalue(), name, description))


def _inline(svg: str, name: str, description: str) -> str:
    """The `<svg>` element alone, fit to stand in a page beside others: own ids, no fixed size, a spoken description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)\bheight="[^"]*"', r"\1", svg, count=1)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    # The page's own letters, whatever the machine that drew the figure had.
    return re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, 'DejaVu Sans', sans-serif", svg)
