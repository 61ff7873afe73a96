"""The error for a cache that cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from domain_ft.errors import CorpusError
from domain_ft.storage import storage_error


@contextlib.contextmanager
def disk_errors(what: str, folder: Path) -> Iterator[None]:
    """Raise disk errors, such as a full or read-only disk, as a `CorpusError`.

    Args:
        what: what is being written to `folder`, for the message.
    """
    try:
        yield
    except OSError as error:
        user_error = storage_error(error, what, where=folder, kind=CorpusError)
        if user_error is None:
            raise
        raise user_error from error
