"""The Parquet copies that the hub makes of data sets.

A data set with a loading script is read from its copy, because `datasets` runs no scripts. A copy is on a separate
branch, whose commits are not those of the data set. So its revision is written as `refs/convert/parquet@COMMIT`.
"""

from __future__ import annotations

from domain_ft.errors import CorpusError

COPY = "refs/convert/parquet"
"""The branch with the copy, which has a folder for each configuration."""


def copy_revision(commit: str) -> str:
    """The revision of a copy at a commit of its branch."""
    return f"{COPY}@{commit}"


def commit_of_copy(revision: str | None) -> str | None:
    """The commit in the revision of a copy; None for any other revision.

    >>> commit_of_copy("refs/convert/parquet@c0ffee"), commit_of_copy("c0ffee")
    ('c0ffee', None)
    """
    branch, _, commit = (revision or "").partition("@")
    return commit if branch == COPY and commit else None


def no_copy_error(where: str) -> CorpusError:
    """The error for a data set with a loading script, but without a copy on the hub."""
    return CorpusError(
        "the data set has a loading script, which is not run, and the hub has no Parquet copy of it",
        where=where,
        fix="convert it to Parquet or JSON lines, and give the files",
    )
