"""Checks whether the first line of a table names the columns or is a record.

A record that is taken for the header would be lost, and messages would show its texts as names of columns. So a first
line that looks like the records below it is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence

from domain_ft.errors import CorpusError
from domain_ft.quoting import listed, shown

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", "^": "carets"}

_LONGEST_NAME = 100  # the most characters of a column name; a longer cell is a text
_SENTENCE_WORDS = 5  # the fewest words of a sentence
_SENTENCE_CHARACTERS = 20  # the fewest characters of a sentence with fewer words, if not all are ASCII
_SHARED = 0.9  # if at least this share of the rows have the same number of fields, the header must have that number
_MOST = 0.8  # a column is of a kind if at least this share of its non-empty cells are
# A first line with one of these names is a header, unless a cell below the name repeats it.
_USUAL = frozenset(
    [
        *("id", "idx", "index", "key", "no", "nr", "number", "name", "date", "time", "timestamp", "year", "url"),
        *("source", "file", "filename", "author", "language", "lang", "split", "group", "note", "notes", "subject"),
        *("text", "texts", "text1", "text2", "sentence", "sentence1", "sentence2", "document", "content", "body"),
        *("title", "headline", "abstract", "summary", "description", "comment", "comments", "review", "post", "tweet"),
        *("message", "messages", "question", "answer", "premise", "hypothesis", "context", "prompt", "completion"),
        *("response", "instruction", "input", "output", "query", "value", "score", "rating", "sentiment", "topic"),
        *("label", "labels", "class", "classes", "category", "categories", "target", "tag", "tags", "type"),
        *("tokens", "words", "entities", "spans"),
    ]
)
_NUMBERED = re.compile(r"(unnamed: ?|column|col|field|v|x)[ _]?\d+", re.IGNORECASE)
_KINDS = {
    "an address": re.compile(r"([a-z][a-z0-9+.-]*://|www\.)\S+", re.IGNORECASE),
    "an e-mail address": re.compile(r"[^@\s]+@[^@\s]+\.\w+"),
    "a date": re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}"),
    "an id": re.compile(r"[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|(?=.*\d)[0-9a-f]{16,}"),
}


def check_header(header: Sequence[str], rows: Sequence[Sequence[str]], name: str, delimiter: str) -> None:
    """Check that the first row of a table names its columns.

    Args:
        header: the first row.
        rows: the first rows below it. Rows with another number of fields are ignored.
        name: the name of the file, for messages.
        delimiter: the delimiter between the fields.

    Raises:
        CorpusError: the header has another delimiter, is a record, or names a column twice.
    """
    where = f"{name}, line 1"
    for other, word in DELIMITERS.items():
        if len(header) == 1 and other != delimiter and other in header[0] and len(header[0]) <= _LONGEST_NAME:
            raise CorpusError(
                f"the fields seem to be separated by {word}: the header is '{shown(header[0])}'",
                where=where,
                fix="write .csv with commas and .tsv with tabs, or name the delimiter in the first line: sep=;",
            )
    why = why_a_record(header, rows)
    if why is not None:
        example = "text" if len(header) == 1 else f"text{_spelled(delimiter)}label"
        raise CorpusError(
            f"the first line seems to be a record, not column names ({why}): the file has no header",
            where=where,
            fix=f"put a line with the names of the columns above it, such as {example}; if it is the header, "
            "give the columns other or shorter names",
        )
    counts = Counter(header)
    doubled = next((column for column in header if counts[column] > 1), None)
    if doubled is not None:
        often = "twice" if counts[doubled] == 2 else f"{counts[doubled]} times"
        what = f"the header names '{shown(doubled)}' {often}"
        if not doubled.strip():
            what = f"{counts[doubled]} columns have no name in the header"
        raise CorpusError(
            f"{what}; the columns are: {listed(header)}",
            where=where,
            fix="give each column a different name; add a header if the file has none",
        )


def check_is_table(line: str, name: str) -> None:
    """Check that a file is a table, by its first line.

    Raises:
        CorpusError: it is JSON, HTML or XML.
    """
    begin = line.lstrip().lower()
    if begin.startswith(("<!doctype", "<html", "<?xml", "<table")):
        fix = "save it as CSV, or change the ending of the file to .html or .xml"
        raise CorpusError("this is HTML or XML, not a table", where=name, fix=fix)
    if begin.startswith(('{"', '[{"')):
        fix = "change the ending of the file to .jsonl or .json"
        raise CorpusError("this is JSON, not a table", where=name, fix=fix)


def check_shape(header: Sequence[str], counts: Sequence[int], name: str) -> None:
    """Check that the first rows have as many fields as the header.

    Args:
        header: the first row.
        counts: the number of fields of each of the first rows below it.
        name: the name of the file, for messages.

    Raises:
        CorpusError: nearly all rows have the same number of fields, and the header has another number.
    """
    usual, often = Counter(counts).most_common(1)[0] if counts else (len(header), 0)
    if usual == len(header) or len(counts) < 3 or often < _SHARED * len(counts):
        return
    if len(header) == 1:
        fix = "remove the lines above the header"
    elif usual == len(header) + 1:
        fix = "put each field that contains the delimiter in double quotes; or name all columns, the row numbers too"
    else:
        fix = "name each column in the first line, and put each field that contains the delimiter in double quotes"
    raise CorpusError(
        f"the first line has {_fields(len(header))} ({listed(header)}), but most lines below it have {usual}",
        where=f"{name}, line 1",
        fix=fix,
    )


def why_a_record(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """Why the first row of a table is a record, in words; None if it may be a header.

    >>> why_a_record(["text", "label"], [["A short text.", "good"]])
    >>> why_a_record(["A short text.", "good"], [["Another one.", "bad"], ["And a third.", "good"]])
    "'good' is in column 2 of other lines too"
    """
    cells = [cell.strip() for cell in header]
    for place, cell in enumerate(cells, 1):
        if len(cell) > _LONGEST_NAME:
            return f"column {place} has {len(cell):,} characters: '{shown(cell)}'"
    others = [
        row for row in ([cell.strip() for cell in row] for row in rows) if row != cells and len(row) == len(cells)
    ]
    columns = [[row[place] for row in others] for place in range(len(cells))]
    for cell, column in zip(cells, columns, strict=True):
        if _NUMBERED.fullmatch(cell) or (cell.casefold() in _USUAL and cell not in column):
            return None
    numbers = [place for place, cell in enumerate(cells) if _is_number(cell)]
    sentences = any(len(cell.split()) >= 4 for cell in cells)
    if numbers and sentences and others and all(_is_number(below) for place in numbers for below in columns[place]):
        return f"column {numbers[0] + 1} holds a number, as in the lines below: '{shown(cells[numbers[0]])}'"
    for place, (cell, column) in enumerate(zip(cells, columns, strict=True), 1):
        below = [value for value in column if value]
        if not cell or not below:
            continue
        if cell in below and not _is_number(cell):
            return f"'{shown(cell)}' is in column {place} of other lines too"
        for kind, form in _KINDS.items():
            if form.fullmatch(cell) and sum(form.fullmatch(value) is not None for value in below) >= _MOST * len(below):
                return f"column {place} holds {kind}, as in the lines below: '{shown(cell)}'"
        if _is_sentence(cell) and sum(map(_is_sentence, below)) >= _MOST * len(below):
            return f"column {place} holds a sentence, as in the lines below: '{shown(cell)}'"
    return None


def _is_sentence(cell: str) -> bool:
    """Whether a cell is a sentence, in any language, and ends with neither a question mark nor a colon.

    Surveys use questions as column names.
    """
    if cell.endswith(("?", ":", "\uff1f", "\uff1a")):
        return False
    return len(cell.split()) >= _SENTENCE_WORDS or (len(cell) >= _SENTENCE_CHARACTERS and not cell.isascii())


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _is_number(value: str) -> bool:
    with contextlib.suppress(ValueError):
        float(value)
        return True
    return False


def _spelled(delimiter: str) -> str:
    return " TAB " if delimiter == "\t" else delimiter
