"""Reads the tabular list of ICD-10-CM in XML: each chapter and each three-character category is a document.

The document of a category has, like the printed list, the title and notes of the category and of every diagnosis in it.
Each title and each kind of note is one line.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from domain_ft.corpus.readers.base import BadRecords, Columns, RawRecord, SourceDocument, open_bytes, reported

_RANGE = re.compile(r"\s*\([A-Z]\w+-[A-Z]\w+\)$")  # a range of codes at the end of a title
# The tags of notes -> the words that introduce them in the text.
_NOTES = {
    "includes": "Includes",
    "inclusionTerm": "Also",
    "notes": "Note",
    "codeFirst": "Code first",
    "useAdditionalCode": "Use additional",
    "codeAlso": "Code also",
    "excludes1": "Excludes (never coded together)",
    "excludes2": "Not included here",
    "sevenChrNote": "Note",
}


def read_icd(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """The chapters and categories, with ids such as `chapter 1` and `A00`."""
    del text_field  # the text is made of the whole entry
    root = _root(path, name, bad)
    if root is None:
        return
    for chapter in root.iter("chapter"):
        yield SourceDocument(f"chapter {_text(chapter, 'name')}", "\n".join(_chapter(chapter)), name)
        for section in chapter.iter("section"):
            for diagnosis in section.findall("diag"):
                yield SourceDocument(_text(diagnosis, "name"), "\n".join(_diagnosis(diagnosis)), name)


def icd_chapters(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """The title of every code as a labelled text. Its label is the chapter's title, its group is the category.

    The titles of codes in one category are similar, so they must be in one split.
    """
    del columns
    root = _root(path, name, bad)
    if root is None:
        return
    number = 0
    for chapter in root.iter("chapter"):
        title = _RANGE.sub("", _text(chapter, "desc"))
        for section in chapter.iter("section"):
            for category in section.findall("diag"):
                group = _text(category, "name")
                for diagnosis in category.iter("diag"):
                    number += 1
                    text = {"text": _text(diagnosis, "desc"), "label": title, "group": group}
                    yield RawRecord(number, text, _text(diagnosis, "name"))


def _root(path: Path, name: str, bad: BadRecords) -> ET.Element | None:
    """The root element; None if the file cannot be read, which is reported."""
    with reported(name, bad), open_bytes(path) as file:
        try:
            return ET.parse(file).getroot()
        except ET.ParseError as error:
            bad.add(f"broken XML: {error}", file=name, line=error.position[0])
    return None


def _chapter(chapter: ET.Element) -> Iterator[str]:
    """A chapter's title and notes, and those of its sections."""
    yield f"Chapter {_text(chapter, 'name')}: {_text(chapter, 'desc')}"
    yield from _notes(chapter)
    for section in chapter.iter("section"):
        yield ""
        yield _text(section, "desc")
        yield from _notes(section)


def _diagnosis(diagnosis: ET.Element) -> Iterator[str]:
    """The lines of a diagnosis: its title, its notes, and all diagnoses under it."""
    yield f"{_text(diagnosis, 'name')} {_text(diagnosis, 'desc')}"
    yield from _notes(diagnosis)
    for child in diagnosis.findall("diag"):
        yield from _diagnosis(child)


def _notes(element: ET.Element) -> Iterator[str]:
    for child in element:
        if child.tag in _NOTES:
            notes = [" ".join("".join(note.itertext()).split()) for note in child.findall("note")]
            if any(notes):
                yield f"{_NOTES[child.tag]}: {'; '.join(note for note in notes if note)}"
        elif child.tag == "sevenChrDef":
            meanings = [
                f"{item.get('char')} {' '.join((item.text or '').split())}" for item in child.findall("extension")
            ]
            yield f"Seventh character: {'; '.join(meanings)}"


def _text(element: ET.Element, tag: str) -> str:
    return " ".join((element.findtext(tag) or "").split())
