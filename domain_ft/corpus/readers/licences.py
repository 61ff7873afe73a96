"""Licence texts as ScanCode keeps them: a file a licence, with YAML front matter between lines of `---`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from domain_ft.corpus.readers.base import BadRecords, SourceDocument, read_whole

_FENCE = re.compile(r"^---[ \t]*$", re.MULTILINE)
_LANGUAGE = re.compile(r"^language:[ \t]*(\S+)", re.MULTILINE)


def read_licences(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """One licence: its text, front matter left out, with the language that the front matter says."""
    del text_field  # the text is what follows the front matter
    content = read_whole(path, name, bad)
    if content is None:
        return
    fences = list(_FENCE.finditer(content))[:2]
    if len(fences) < 2 or fences[0].start() != 0:
        bad.add("the file does not begin with front matter between two lines of '---'", file=name, line=1)
        return
    header, text = content[fences[0].end() : fences[1].start()], content[fences[1].end() :]
    language = _LANGUAGE.search(header)
    yield SourceDocument(
        id=Path(name).name.removesuffix(".LICENSE"),
        text=text,
        source=name,
        language=language.group(1) if language else None,
    )
