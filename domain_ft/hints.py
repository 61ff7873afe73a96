"""Fit an error's hint to the running verb: verbs share errors, but some verbs lack the options that a hint names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping

from domain_ft.errors import UserError

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_COMMAND = re.compile(r"domain-ft ([a-z]+(?: [a-z]+)?)")
_OTHER_PROGRAM = re.compile(r"\b(?:pip|iconv|jq|torchrun|python) ")


def misplaced(text: str, flags: Collection[str], commands: Mapping[str, Collection[str]]) -> list[str]:
    """The options in a hint that its verb lacks. Options of other programs, such as pip, do not count.

    Args:
        text: a hint.
        flags: the options of the running verb.
        commands: the options of each verb, by name (`adapt`, `data check`). They replace `flags` for options that
            follow `domain-ft VERB` in the hint.
    """
    wrong = []
    for found in FLAG.finditer(text):
        before = text[: found.start()].rpartition("; ")[2]
        named = [command for command in _COMMAND.finditer(before) if "`" not in before[command.end() :]]
        options: Collection[str] = flags
        if named:
            words = named[-1].group(1)
            options = commands.get(words) or commands.get(words.split()[0]) or flags
        if found.group() not in options and not _OTHER_PROGRAM.search(before):
            wrong.append(found.group())
    return wrong


def fitting(fix: str, flags: Collection[str], commands: Mapping[str, Collection[str]]) -> str | None:
    """`fix` without the alternatives that name `misplaced` options; None if nothing remains.

    >>> fitting("fix it; or leave such records out: --on-bad-record skip", ["--input"], {})
    'fix it'
    """
    if not misplaced(fix, flags, commands):
        return fix
    kept = []
    for part in fix.split("; "):
        remaining = [way for way in part.split(", or ") if not misplaced(way, flags, commands)]
        if remaining:
            kept.append(", or ".join(remaining))
    return "; ".join(kept).removeprefix("or ") or None


@contextlib.contextmanager
def fitted(flags: Collection[str], commands: Mapping[str, Collection[str]]) -> Iterator[None]:
    """Fit the hint of every UserError that leaves the block."""
    try:
        yield
    except UserError as error:
        if error.fix:
            error.advise(fitting(error.fix, flags, commands))
        raise
