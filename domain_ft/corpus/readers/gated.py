"""Data sets of a hub that need their authors' consent."""

from __future__ import annotations

from domain_ft.errors import CorpusError


def gated_error(identifier: str, where: str) -> CorpusError:
    """The error for a gated data set; `where` is its name on the command line."""
    page = f"https://huggingface.co/datasets/{identifier}"
    return CorpusError(
        f"the data set '{identifier}' is gated: its authors ask you to accept their terms first",
        where=where,
        fix=f"ask for access at {page}, then give your token: hf auth login",
    )
