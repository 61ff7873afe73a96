"""Texts that mean a missing label, for classes and for types of entities."""

from __future__ import annotations

NO_LABEL = frozenset(
    {"", "-", "--", "_", "?", "nan", "na", "n/a", "n.a.", "<na>", "#n/a", "#na", "nat", "null", "<null>", "(null)"}
    | {"\\n", "unlabeled", "unlabelled"}
)
"""Texts that mean a missing label, in lower case; they are compared without case."""

MAYBE_NO_LABEL = frozenset(
    {"none", "nil", "missing", "unknown", "undefined", "not available", "not applicable", "tbd", "todo", "blank"}
    | {".", "...", "-1", "#value!", "#ref!", "(blank)", "empty", "unk", "<unk>", "[unk]", "no label", "unspecified"}
    | {"not specified", "not labeled", "not labelled", "unannotated", "not annotated", "unassigned", "not assigned"}
)
"""Names, in lower case, that are read as classes, with a note for the user: they may mean a missing label."""


def means_no_label(name: str) -> bool:
    """Whether a text means a missing label, such as `N/A` or `-`."""
    return name.strip().casefold() in NO_LABEL


def may_mean_no_label(name: str) -> bool:
    """Whether a text may be the name of a class or mean a missing label, such as `none`."""
    return name.strip().casefold() in MAYBE_NO_LABEL
