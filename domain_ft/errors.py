"""Errors that the user can fix. The command line prints each as one message and exits with status 2.

A message says what was given and what is wrong; where it helps, also the place (file, line, field) and what to do. Any
other exception is a bug in domain-ft, unless `storage.storage_error` explains it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from domain_ft.quoting import listed, shown


class UserError(Exception):
    """An error that the user can fix.

    Args:
        what: what was given, and what is wrong with it.
        where: the location, such as `notes.jsonl, line 3, field "text"`.
        fix: what to do.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where = what, where
        super().__init__()
        self.advise(fix)

    def advise(self, fix: str | None) -> None:
        """Replace the hint, or remove it if `fix` is None."""
        self.fix = fix
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if fix:
            lines.append(f"  do:    {fix}")
        self.args = ("\n".join(lines),)


class SettingsError(UserError):
    """Settings that are wrong or cannot be used, from options, a TOML file or Python."""


class CorpusError(UserError):
    """A corpus that cannot be found or read, or that has nothing to train on."""


class RecordError(CorpusError):
    """A record that cannot be read. `reason` is the short form for rejects.jsonl."""

    def __init__(self, reason: str, *, where: str, fix: str | None = None) -> None:
        self.reason = reason
        super().__init__(reason, where=where, fix=fix)


class AssetError(UserError):
    """An embedded asset that is missing, cannot be downloaded, or has the wrong content."""


class ModelError(UserError):
    """A model that cannot be found, loaded, adapted or merged."""


class CheckpointError(UserError):
    """A run folder or checkpoint that cannot be written, read or resumed."""


class StorageError(UserError):
    """A file or folder that cannot be written or read: the disk is full or broken, or something is in the way."""


class TrainingError(UserError):
    """Training that cannot continue, for example because the loss is not finite or memory ran out."""


def nearest(given: str, known: Iterable[str]) -> str:
    """A hint for a wrong name: `did you mean 'legal'?` if a known one is similar, then the known names.

    >>> nearest("leagl", ["medical", "legal"])
    "did you mean 'legal'? known: legal, medical"
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean '{shown(close[0])}'? " if close else ""
    return f"{hint}known: {listed(names)}"
