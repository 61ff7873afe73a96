"""The figure that only `classify` has: calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from domain_ft.report import numbers
from domain_ft.report.drawing import CONTROL, DOMAIN, INK, drawing
from domain_ft.verbs.classify.report import ClassifyReport


def calibration(report: ClassifyReport) -> str:
    """Accuracy by confidence, before and after the temperature."""
    found = report.test.get("calibration") or {}
    description = "Accuracy by predicted probability."
    if found.get("temperature", 1.0) != 1.0:
        description += (
            f" The expected calibration error went from {numbers.points(found['ece_before'])} to "
            f"{numbers.points(found['ece_after'])} points."
        )
    with drawing("calibration", 3.9, description) as (figure, rendered):
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 2)))
        _draw_bins(axes, report.reliability["before"], CONTROL, "s", "no temperature")
        if found.get("temperature", 1.0) != 1.0:
            _draw_bins(axes, report.reliability["after"], DOMAIN, "o", f"temperature {found['temperature']:.2f}")
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        axes.set_xlabel("predicted probability (%)")
        axes.set_ylabel("share of these predictions that are right (%)")
        axes.legend(loc="upper left")
    return rendered[0]


def _draw_bins(axes: Axes, bins: Sequence[Mapping[str, Any]], colour: str, marker: str, label: str) -> None:
    """A point for each bin; larger points stand for more predictions."""
    confidence, accuracy = ([100 * one[name] for one in bins] for name in ("confidence", "accuracy"))
    share = np.array([one["count"] for one in bins]) / sum(one["count"] for one in bins)
    axes.plot(confidence, accuracy, color=colour, linewidth=1, alpha=0.6)
    axes.scatter(confidence, accuracy, s=14 + 160 * share, color=colour, marker=marker, alpha=0.85, label=label)
