"""Drawing of figures: one style, SVG to embed in a page, and the parts that several figures share.

Figures are designed for phones first: narrow, with large letters, one below the other. Text is not drawn as outlines:
the reader's fonts show it, whatever its script, and screen readers can read it. The colours are safe for colour-blind
readers, and nothing is shown only by colour. pyplot and the process's matplotlib settings are not changed.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH = 4.2  # inches; at 72 units an inch a phone shows 10-point letters at about 12 pixels
DOMAIN, CONTROL = "#0072b2", "#d55e00"  # Okabe & Ito's blue and vermillion
INK, QUIET, GRID = "#1c2430", "#5b6675", "#e3e7ec"

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


class Change(NamedTuple):
    """A row of `draw_changes`. `value` is the change; `interval` is None if it has none."""

    name: str
    colour: str
    marker: str
    value: float
    interval: Sequence[float] | None
    label: str


def draw_changes(axes: Axes, rows: Sequence[Change], title: str, *, above: bool = False) -> None:
    """Draw a point with its interval for each row, and a line at zero.

    Args:
        above: write the names, which may be long, above the intervals instead of beside the axis.
    """
    axes.axvline(0, color=INK, linewidth=1.2)
    ends = [0.0]
    for index, row in enumerate(rows):
        interval = list(row.interval or [row.value] * 2)
        axes.plot(interval, [index, index], color=row.colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([row.value], [index], color=row.colour, marker=row.marker, markersize=6.5)
        place: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "va": "bottom", "fontsize": 9.5}
        if above:
            label = f"{short(row.name, 44)}: {row.label}"
            axes.annotate(label, (0.02, index), xycoords=axes.get_yaxis_transform(), **place)
        else:
            axes.annotate(row.label, (row.value, index), ha="center", **place)
        ends += interval
    reach = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.18 * reach, max(ends) + 0.18 * reach)
    axes.set_ylim(len(rows) - 0.5, -0.85)
    axes.set_yticks(range(len(rows)), [""] * len(rows) if above else [short(row.name) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(title)


def short(name: str, limit: int = 18) -> str:
    """A name, shortened to fit beside an axis."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over a twentieth of the values on either side, fewer at the ends."""
    reach = max(1, len(values) // 20)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


@contextmanager
def drawing(name: str, height: float, description: str) -> Iterator[tuple[Figure, list[str]]]:
    """A figure in our style; when the block ends, its SVG is appended to the list.

    Args:
        name: unique in the page; part of the SVG's ids.
        height: in inches.
        description: for screen readers.
    """
    rendered: list[str] = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's fonts draw the text, so glyphs missing from matplotlib's font do not matter.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, rendered
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    rendered.append(_inline(buffer.getvalue(), name, description))


def _inline(svg: str, name: str, description: str) -> str:
    """The `<svg>` element for a page with several: unique ids, no fixed size, and a description for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)\bheight="[^"]*"', r"\1", svg, count=1)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    # Use the page's fonts, not those of the machine that drew the figure.
    return re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, 'DejaVu Sans', sans-serif", svg)
