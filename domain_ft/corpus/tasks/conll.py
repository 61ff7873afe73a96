"""CoNLL columns: a word a line, its tag in the last column; blank lines between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from domain_ft.corpus.readers.base import BadRecords, decode, read_lines

COLUMNS = (2, 4)
"""Of CoNLL files, the fewest and the most."""

DOCUMENT = "-DOCSTART-"
"""The word of a CoNLL line at which a document begins."""

_BLANKS = re.compile(r"[ \t]+")


def columns_of(line: str) -> list[str]:
    """The columns of a CoNLL line: between tabs, or between blanks where it has no tab."""
    parts = line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))
    return [part.strip(" ") for part in parts]


def with_word(line: str, word: str) -> str:
    """A CoNLL line with another word, to the byte the same in all else.

    A column between word and tag that repeats the word, as a lemma may, goes with it.

    >>> with_word("  Jane  Jane  NNP B-PER", "[NAME]")
    '  [NAME]  [NAME]  NNP B-PER'
    """
    before = columns_of(line.rstrip("\r\n"))[0]
    parts = re.split("(\t)" if "\t" in line else "( +)", line)
    tag = max(place for place, part in enumerate(parts) if part.strip())
    return "".join(
        part.replace(before, word) if place < tag and part.strip(" ") == before else part
        for place, part in enumerate(parts)
    )


class Block(NamedTuple):
    """A sentence of a CoNLL file and what stands behind it, each line with its newline.

    Attributes:
        sentence: each line after its number; None where it is not UTF-8. The first block may have no sentence.
        behind: blank lines and -DOCSTART- lines.
    """

    sentence: list[tuple[int, str | None]]
    behind: list[str]


def conll_blocks(path: Path, name: str, bad: BadRecords) -> Iterator[Block]:
    """All lines of a CoNLL file, a sentence at a time. `bad` is told of those that are not UTF-8."""
    block = Block([], [])
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is not None and (_is_blank(line) or begins_document(line)):
            block.behind.append(line)
            continue
        if block.behind:
            yield block
            block = Block([], [])
        block.sentence.append((number, line))
    yield block


def _is_blank(line: str) -> bool:
    return not line.rstrip("\r\n").strip(" \t")


def begins_document(line: str) -> bool:
    """Whether it is a -DOCSTART- line."""
    return columns_of(line.rstrip("\r\n"))[0] == DOCUMENT


def column_problem(parts: Sequence[str], columns: int) -> str | None:
    """What is wrong with a line, in words. `columns`: how many the lines before have."""
    fewest, most = COLUMNS
    if not fewest <= len(parts) <= most:
        return f"the line has {_counted(len(parts))}, where {fewest} to {most} are wanted"
    if len(parts) != columns:
        return f"the line has {_counted(len(parts))}, where the lines before have {columns}"
    if not parts[0].strip():
        return "the word is empty or white space"
    return None if parts[-1] else "the tag is empty"


def _counted(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"
