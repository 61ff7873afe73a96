"""Shared wording of messages."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun. `one` and `many` may hold more words, such as the verb.

    >>> counted(1, "record"), counted(2000, "class"), counted(1, "record is", "records are")
    ('1 record', '2,000 classes', '1 record is')
    """
    if many is None:
        many = f"{one}es" if one.endswith("s") else f"{one}s"
    return f"{count:,} {one if count == 1 else many}"
