"""The error for gated data sets of the hub, which only users who accept the authors' terms can read."""

from __future__ import annotations

from domain_ft.errors import CorpusError


def gated_error(identifier: str, where: str) -> CorpusError:
    """The error for a gated data set; `where` is its name on the command line."""
    page = f"https://huggingface.co/datasets/{identifier}"
    return CorpusError(
        f"the data set '{identifier}' is gated: its authors ask you to accept their terms first",
        where=where,
        fix=f"ask for access at {page}, then log in with your token: hf auth login",
    )
