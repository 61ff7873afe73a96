"""Reads standoff formats: BRAT's .ann files, PubTator, and BioC XML.

Each document becomes a plain record of text and spans, whose offsets are checked like all others.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from domain_ft.corpus.annotation_tools import Outcome, Plain, Refused
from domain_ft.corpus.left_out import LeftOut, UnreadFile
from domain_ft.corpus.readers import ENDINGS
from domain_ft.corpus.readers.base import BadRecords, decode, is_foreign, read_bytes, read_lines, report_empty
from domain_ft.corpus.readers.files import ending, why_unreadable
from domain_ft.corpus.tagging.annotations import outcomes
from domain_ft.errors import CorpusError

_LISTED = 5  # files that a message names
_BRAT = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")
_BRAT_KINDS = {
    "R": "relations (R)",
    "E": "events (E)",
    "A": "attributes (A)",
    "M": "attributes (M)",
    "N": "normalizations (N)",
    "#": "notes (#)",
    "*": "equivalences (*)",
}
_PUBTATOR = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)

# --- BRAT -------------------------------------------------------------------------------------------------------------


def brat_pairs(path: Path) -> list[tuple[Path, Path]]:
    """(text file, .ann file) for each .ann file of a folder, for an .ann file, or for a .txt file that has one."""
    if path.is_dir():
        return [(ann.with_suffix(".txt"), ann) for ann in sorted(path.rglob("*.ann")) if ann.is_file()]
    if path.suffix.lower() == ".ann" or (path.suffix.lower() == ".txt" and path.with_suffix(".ann").is_file()):
        return [(path.with_suffix(".txt"), path.with_suffix(".ann"))]
    return []


def is_brat(path: Path) -> bool:
    """Whether a file or folder is BRAT's. In a folder, at least half of the texts and of the .ann files must be paired.

    Raises:
        CorpusError: a folder has .ann files, but fewer pairs than that.
    """
    pairs = brat_pairs(path)
    if not path.is_dir() or not pairs:
        return bool(pairs)
    whole = [ann for text, ann in pairs if text.is_file()]
    texts = [file for file in path.rglob("*") if ending(file) in ENDINGS and file.is_file()]
    if 2 * len(whole) >= max(len(pairs), len(texts)):
        return True
    stray = [ann for _, ann in pairs if ann not in whole] or whole
    names = ", ".join(ann.relative_to(path).as_posix() for ann in stray[:_LISTED])
    more = f" and {len(stray) - _LISTED:,} more" if len(stray) > _LISTED else ""
    raise CorpusError(
        f"the folder is not read as BRAT: {len(whole):,} of its {len(texts):,} texts have an .ann file"
        + (f", {len(pairs) - len(whole):,} .ann files have no text" if len(pairs) > len(whole) else "")
        + f" ({names}{more})",
        where=str(path),
        fix="put the annotated texts and their .ann files into a separate folder, and name that; or name one file",
    )


def read_brat(path: Path, bad: BadRecords, left: LeftOut) -> Iterator[tuple[int, Outcome]]:
    """(number, outcome) of each document in a BRAT folder, or of a single file."""
    pairs = brat_pairs(path)
    if path.is_dir():
        paired = {file for pair in pairs for file in pair}
        for file in sorted(file for file in path.rglob("*") if not file.is_dir() and file not in paired):
            why = "it has no .ann file" if file.suffix == ".txt" else "not a BRAT text"
            left.files.append(UnreadFile(file.relative_to(path).as_posix(), why_unreadable(file) or why))
    for number, (text_file, ann) in enumerate(pairs, 1):
        name = ann.relative_to(path).as_posix() if path.is_dir() else ann.name
        if not text_file.is_file():
            bad.add("the folder has no .txt file of the same name", file=name, fix="add it, or remove the .ann file")
            continue
        text = _whole(text_file, text_file.name, bad)
        lines = _whole(ann, name, bad)
        if text is None or lines is None:
            continue
        yield number, _brat_document(text, lines, name)


def _whole(path: Path, name: str, bad: BadRecords) -> str | None:
    """The text of a file with unchanged newlines, because offsets count them; None if it was rejected.

    An empty file is an empty text.
    """
    data = read_bytes(path, name, bad, "split it into several files")
    return None if data is None or is_foreign(data, name, bad) else decode(data, name, bad)


def _brat_document(text: str, annotations: str, name: str) -> Outcome:
    spans: list[dict[str, Any]] = []
    unread: list[str] = []
    for number, line in enumerate(annotations.splitlines(), 1):
        if not line.strip():
            continue
        if line[0] != "T":
            unread.append(_BRAT_KINDS.get(line[0], f"lines that begin with {line[0]}"))
            continue
        parts = line.split("\t")
        found = _BRAT.fullmatch(parts[1].strip()) if len(parts) > 1 else None
        if found is None:
            fix = "write ID, TAB, TYPE START END, TAB, the text of the entity"
            return Refused(f"{name}, line {number}: this is not a BRAT entity", parts[0].strip() or None, fix)
        offsets = [[int(place) for place in part.split()] for part in found[2].split(";")]
        mention = {"text": parts[2]} if len(parts) > 2 else {}
        spans.append({"id": parts[0], "label": found[1], "offsets": offsets, **mention})
    return Plain({"text": text, "entities": spans, "document": name}, tuple(dict.fromkeys(unread)), name, name)


# --- PubTator ---------------------------------------------------------------------------------------------------------


def is_pubtator(line: str) -> bool:
    """Whether a line begins a PubTator document."""
    found = _PUBTATOR.match(line)
    return found is not None and found[2] == "t"


def read_pubtator(path: Path, name: str, bad: BadRecords) -> Iterator[tuple[int, Outcome]]:
    """(first line, outcome) of each document in a PubTator file. The text is its title, a newline, and its abstract."""
    block: list[tuple[int, str]] = []
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        content = (line or "").rstrip("\r\n")
        begins = is_pubtator(content) and bool(block)
        if block and (begins or not content.strip()):
            yield block[0][0], _pubtator_document(block)
            block = []
        if content.strip():
            block.append((number, content))
    if block:
        yield block[0][0], _pubtator_document(block)


def _pubtator_document(lines: Sequence[tuple[int, str]]) -> Outcome:
    texts: dict[str, str] = {}
    spans: list[dict[str, Any]] = []
    unread = False
    key = ""
    for number, line in lines:
        found = _PUBTATOR.match(line)
        if found and found[2] not in texts and not spans:
            key = key or found[1]
            texts[found[2]] = found[3]
            continue
        parts = line.split("\t")
        if len(parts) == 4 and not parts[1].isdigit():  # ID, RELATION, ENTITY, ENTITY
            unread = True
            continue
        if len(parts) < 5 or not (parts[1].isdigit() and parts[2].isdigit()):
            fix = "write ID, START, END, TEXT and TYPE between tabs, below ID|t|TITLE and ID|a|ABSTRACT"
            return Refused(f"PubTator: line {number} is not an annotation", None, fix)
        spans.append({"start": int(parts[1]), "end": int(parts[2]), "label": parts[4], "text": parts[3]})
    if "t" not in texts:
        return Refused("PubTator: the document has no title (ID|t|...)", None, "write ID|t|TITLE first")
    text = "\n".join(texts[part] for part in ("t", "a") if part in texts)
    return Plain({"id": key, "text": text, "entities": spans}, ("relations",) if unread else (), key)


# --- BioC XML ---------------------------------------------------------------------------------------------------------


def is_bioc(path: Path) -> bool:
    """Whether an XML file begins like a BioC collection."""
    try:
        with path.open("rb") as file:
            return b"<collection" in file.read(2_000)
    except OSError:
        return False  # its reader reports the error


def read_bioc_xml(path: Path, name: str, bad: BadRecords) -> Iterator[tuple[int, Outcome]]:
    """(document number, outcome) of each passage or sentence in a BioC XML file. Entity declarations are refused."""
    data = read_bytes(path, name, bad, "split the collection into several files")
    if data is None or is_foreign(data, name, bad):
        return
    if not data:
        report_empty(name, bad)
        return
    if b"<!ENTITY" in data:  # they can exhaust the memory, or refer to other files
        raise CorpusError("the XML declares entities, which are not read", where=name, fix="write it without <!ENTITY")
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        bad.add(f"broken XML: {error}", file=name, line=error.position[0])
        return
    documents = list(root.iter("document"))
    if not any(document.find("passage") is not None for document in documents):
        raise CorpusError(
            f"the XML is not BioC: it has no <document> with a <passage>, and its root is <{root.tag}>",
            where=name,
            fix="export BioC, BRAT, PubTator, CoNLL columns or JSON lines of text and entities",
        )
    for number, document in enumerate(documents, 1):
        for outcome in outcomes(_document(document)):
            yield number, outcome


def _document(element: ET.Element) -> Mapping[str, Any]:
    """A document in the format of BioC JSON."""
    return {
        "id": element.findtext("id", ""),
        "passages": [_part(passage) for passage in element.findall("passage")],
        "relations": element.findall("relation"),
    }


def _part(element: ET.Element) -> dict[str, Any]:
    """A passage or a sentence."""
    return {
        "offset": _number(element.findtext("offset")),
        "text": element.findtext("text"),
        "sentences": [_part(sentence) for sentence in element.findall("sentence")],
        "annotations": [_annotation(one) for one in element.findall("annotation")],
        "relations": element.findall("relation"),
    }


def _annotation(element: ET.Element) -> dict[str, Any]:
    return {
        "id": element.get("id"),
        "infons": {infon.get("key"): infon.text for infon in element.findall("infon")},
        "locations": [
            {"offset": _number(place.get("offset")), "length": _number(place.get("length"))}
            for place in element.findall("location")
        ],
        "text": element.findtext("text"),
    }


def _number(text: str | None) -> int | None:
    """The number in a text; None if it is not a whole number."""
    return int(text) if text and text.strip().isdigit() else None
