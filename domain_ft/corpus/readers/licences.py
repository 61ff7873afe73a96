"""Reads ScanCode's licences and rules: files with a text after YAML front matter between lines of `---`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from domain_ft.corpus.readers.base import BadRecords, Columns, RawRecord, SourceDocument, read_whole

_FENCE = re.compile(r"^---[ \t]*\r?$", re.MULTILINE)
_LANGUAGE = re.compile(r"^language:[ \t]*(\S+)", re.MULTILINE)
_CATEGORY = re.compile(r"^category:[ \t]*(\S.*?)\s*$", re.MULTILINE)
_FLAG = re.compile(r"^is_(\w+):[ \t]*yes", re.MULTILINE)

# The kind of a rule in its front matter (without `is_`) -> the class in the task.
RULE_KINDS = {
    "license_text": "license text",
    "license_notice": "notice",
    "license_reference": "reference",
    "license_tag": "tag",
}
# The fewest and most characters of a rule that becomes an example. Outside these bounds, the length reveals the class:
# references and tags are usually shorter, whole licences longer.
RULE_LENGTHS = (80, 1_000)


def read_licences(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """One licence: its text without the front matter, and its language."""
    del text_field  # the text is what follows the front matter
    parts = _parts(path, name, bad)
    if parts is None:
        return
    header, text = parts
    language = _LANGUAGE.search(header)
    yield SourceDocument(
        id=Path(name).name.removesuffix(".LICENSE"),
        text=text,
        source=name,
        language=language.group(1) if language else None,
    )


def license_categories(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """One licence as a text with its category as the label. Files without text or category are skipped."""
    del columns
    parts = _parts(path, name, bad)
    category = parts and _CATEGORY.search(parts[0])
    if parts and category and parts[1].strip():
        identifier = Path(name).name.removesuffix(".LICENSE")
        yield RawRecord(None, {"text": parts[1], "label": category.group(1)}, identifier)


def license_rules(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """One rule as a text. Its label is the kind of mention of a licence, from `RULE_KINDS`.

    Rules of other or several kinds are skipped, and so are deprecated rules, false positives, and texts with a length
    outside `RULE_LENGTHS`.
    """
    del columns
    parts = _parts(path, name, bad)
    if parts is None:
        return
    header, text = parts
    flags = set(_FLAG.findall(header))
    kinds = [kind for flag, kind in RULE_KINDS.items() if flag in flags]
    low, high = RULE_LENGTHS
    if len(kinds) == 1 and flags.isdisjoint({"deprecated", "false_positive"}) and low <= len(text.strip()) <= high:
        yield RawRecord(None, {"text": text, "label": kinds[0]}, Path(name).name.removesuffix(".RULE"))


def _parts(path: Path, name: str, bad: BadRecords) -> tuple[str, str] | None:
    """The front matter of a file and the text after it; None if it has no front matter, which is reported."""
    content = read_whole(path, name, bad)
    if content is None:
        return None
    fences = list(_FENCE.finditer(content))[:2]
    if len(fences) < 2 or fences[0].start() != 0:
        bad.add("the file does not begin with front matter between two lines of '---'", file=name, line=1)
        return None
    return content[fences[0].end() : fences[1].start()], content[fences[1].end() :]
