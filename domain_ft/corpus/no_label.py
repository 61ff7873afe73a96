"""Texts that mean a missing label, for classes and for types of entities."""

from __future__ import annotations

NO_LABEL = frozenset(
    {"", "-", "--", "_", "?", "nan", "na", "n/a", "n.a.", "<na>", "#n/a", "#na", "nat", "null", "<null>", "(null)"}
    | {"\\n", "unlabeled", "unlabelled"}
)
"""Texts that mean a missing label, in any case."""


def means_no_label(name: str) -> bool:
    """Whether a text means a missing label, such as `N/A` or `-`."""
    return name.strip().casefold() in NO_LABEL
