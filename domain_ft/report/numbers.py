"""Number formats of reports: true minus signs, points, intervals, durations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "−"
_NAMED = 6  # names that a sentence lists before `and 3 more`


def number(value: float, digits: int = 2) -> str:
    """`value` with `digits` decimals, a true minus sign and thousands separators.

    >>> number(-1234.5, 1)
    '−1,234.5'
    """
    text = f"{abs(value):,.{digits}f}"
    return MINUS + text if value < 0 and text.strip("0.,") else text


def signed(value: float, digits: int = 2) -> str:
    """`number` with a plus sign if the rounded value is positive.

    >>> signed(0.5), signed(-0.25), signed(0.001)
    ('+0.50', '−0.25', '0.00')
    """
    text = number(value, digits)
    return "+" + text if value > 0 and text.strip("0.,") else text


def bounds(interval: list[float] | None, digits: int = 2) -> str:
    """`−1.42 to −1.18`, or `no interval`."""
    if interval is None:
        return "no interval"
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


def duration(seconds: float) -> str:
    """`5 min 12 s`.

    >>> duration(312.4), duration(4000), duration(7.6)
    ('5 min 12 s', '1 h 6 min', '8 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def points(value: float | None) -> str:
    """A score in points.

    >>> points(0.8125), points(None)
    ('81.2', '–')
    """
    return "–" if value is None else number(100 * value, 1)


def signed_points(value: float) -> str:
    """A difference of scores in points.

    >>> signed_points(0.021), signed_points(-0.005)
    ('+2.1', '−0.5')
    """
    return signed(100 * value, 1)


def span(interval: Sequence[float] | None) -> str:
    """`72.3 to 83.0`, or `no interval`."""
    return "no interval" if interval is None else f"{points(interval[0])} to {points(interval[1])}"


def difference_span(interval: Sequence[float] | None) -> str:
    """`−0.5 to +2.9`, or `no interval`."""
    if interval is None:
        return "no interval"
    return f"{signed_points(interval[0])} to {signed_points(interval[1])}"


def level(scores: Mapping[str, Any]) -> str:
    """`95% interval`."""
    return f"{100 * scores.get('level', 0.95):g}% interval"


def listed(names: Sequence[str]) -> str:
    """`a, b`. Of nine names, the first six `and 3 more`."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
