"""What a person is told where the cache cannot be written."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from domain_ft.errors import CorpusError

_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


@contextlib.contextmanager
def disk_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn a full or closed disk into an error that the user can mend: `what` is being written to `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        raise CorpusError(
            f"{what} cannot be written: {error.strerror}",
            where=str(folder),
            fix="make room, or name another cache folder: DOMAIN_FT_CACHE=DIR",
        ) from error
