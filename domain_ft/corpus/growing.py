"""Files for resumable work on a corpus.

Reading and tokenising append their results to these files in the order of the documents.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from domain_ft.storage import sync_folder, write_json


def unfinished_folder(folder: Path) -> Path:
    """The folder for the unfinished files of `folder`."""
    return folder.with_name(f".{folder.name}.unfinished")


class GrowingFiles:
    """Files that grow together: a stopped run resumes from their last commit.

    A commit flushes the files to disk and records their sizes. Reopened files are truncated to these sizes.

    Args:
        folder: of the unfinished files; created if it does not exist.
        names: of the files.
        commit_every: the number of appends between commits.

    Attributes:
        facts: integers that are committed with the files.
    """

    def __init__(self, folder: Path, names: Iterable[str], *, commit_every: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._commit_every, self._appended = commit_every, 0
        self._journal = folder / "unfinished.json"
        state = {"sizes": dict.fromkeys(names, 0), "facts": {}}
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(self._journal.read_text(encoding="utf-8"))
        self.facts: dict[str, int] = state["facts"]
        self._sizes: dict[str, int] = state["sizes"]
        self._files: dict[str, BinaryIO] = {name: (folder / name).open("ab") for name in self._sizes}
        for name, file in self._files.items():
            file.truncate(self._sizes[name])

    def append(self, data: Mapping[str, bytes | npt.NDArray[Any]], facts: dict[str, int]) -> None:
        """Append to every file, and replace `facts`. Commits after every `commit_every` appends."""
        views = {
            name: memoryview(part) if isinstance(part, bytes) else np.ascontiguousarray(part).data
            for name, part in data.items()
        }
        for name, view in views.items():
            self._files[name].write(view)
        self._sizes = {name: size + views[name].nbytes for name, size in self._sizes.items()}
        self.facts = facts
        self._appended += 1
        if self._appended % self._commit_every == 0:
            self.commit()

    def commit(self) -> None:
        """Flush everything to disk and record the sizes."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_json(self._journal, {"sizes": self._sizes, "facts": self.facts})

    def keep(self, folder: Path) -> None:
        """Commit, rename the folder of the files to `folder`, and remove the record of the sizes."""
        self.commit()
        self._folder.rename(folder)
        sync_folder(folder.parent)
        (folder / self._journal.name).unlink()

    def close(self) -> None:
        """Close the files. Commits first, unless `keep` has moved them."""
        try:
            if self._folder.is_dir():
                self.commit()
        finally:
            for file in self._files.values():
                file.close()
