"""Reads ontologies in OBO format: each term with a definition or comment becomes a short text.

The text is the name, the definition, the comment, and the synonyms as a sentence. A full stop is added to a definition
or comment without one. Obsolete terms are left out.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from domain_ft.corpus.readers.base import BadRecords, Columns, RawRecord, SourceDocument, decode, read_lines

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "W": " "}

PHENOTYPES = "HP:0000118"
"""The term "Phenotypic abnormality", whose children are the organ systems."""

Stanza = Mapping[str, list[str]]


def read_obo(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[SourceDocument]:
    """The terms of an ontology, with their identifiers as ids, such as `HP:0000003`."""
    del text_field  # the text is made of several fields
    for stanza in _stanzas(path, name, bad):
        if "true" in stanza.get("is_obsolete", ()) or not stanza.get("id"):
            continue
        text = describe(stanza)
        if text:
            yield SourceDocument(id=stanza["id"][0], text=text, source=name)


def phenotype_systems(path: Path, name: str, bad: BadRecords, columns: Columns | None = None) -> Iterator[RawRecord]:
    """The definition of each phenotype as a text. Its labels are all organ systems above the phenotype.

    The organ systems are the children of "Phenotypic abnormality". A phenotype is below every system to which a path of
    `is_a` leads. The systems themselves, terms that are not phenotypes (modes of inheritance, frequencies), and terms
    without an id or a definition are skipped.
    """
    del columns
    stanzas = [
        stanza
        for stanza in _stanzas(path, name, bad)
        if "true" not in stanza.get("is_obsolete", ()) and stanza.get("id")
    ]
    parents = {stanza["id"][0]: [value.split()[0] for value in stanza.get("is_a", ())] for stanza in stanzas}
    names = {stanza["id"][0]: " ".join(stanza.get("name", ())) for stanza in stanzas}
    systems = {term for term, above in parents.items() if PHENOTYPES in above}

    @functools.cache
    def systems_above(term: str) -> frozenset[str]:
        itself = {term} & systems
        return frozenset(itself.union(*(systems_above(parent) for parent in parents.get(term, ()))))

    for number, stanza in enumerate(stanzas, 1):
        term = stanza["id"][0]
        text = " ".join(_quoted(value) for value in stanza.get("def", ())).strip()
        if text and systems_above(term) and term not in systems:
            labels = sorted(names[system] for system in systems_above(term))
            yield RawRecord(number, {"text": text, "label": labels}, term)


def describe(stanza: Stanza) -> str:
    """A term as text: its name, definition, comment and synonyms. Empty if it has neither definition nor comment.

    >>> describe({"name": ["Brachydactyly"], "def": ['"Short digits." [x]'], "synonym": ['"Short fingers" EXACT []']})
    'Brachydactyly\\nShort digits. Also known as: Short fingers.'
    """
    name = " ".join(stanza.get("name", ()))
    about = [_quoted(value) for value in stanza.get("def", ())] + [_unescape(v) for v in stanza.get("comment", ())]
    about = [part.strip() for part in about if part.strip()]
    if not about:
        return ""
    others = [_quoted(value).strip() for value in stanza.get("synonym", ())]
    others = list(dict.fromkeys(other for other in others if other and other.casefold() != name.casefold()))
    sentences = [part if part[-1] in ".!?" else f"{part}." for part in about]
    if others:
        sentences.append(f"Also known as: {'; '.join(others)}.")
    return f"{name}\n{' '.join(sentences)}"


def _stanzas(path: Path, name: str, bad: BadRecords) -> Iterator[Stanza]:
    """The [Term] stanzas of the file, each with the values of its tags, in order."""
    stanza: dict[str, list[str]] | None = None
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is None:
            continue
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            if stanza:
                yield stanza
            stanza = defaultdict(list) if line == "[Term]" else None
        elif stanza is not None and ": " in line:
            tag, value = line.split(": ", 1)
            stanza[tag].append(value)
    if stanza:
        yield stanza


def _quoted(value: str) -> str:
    found = _QUOTED.search(value)
    return _unescape(found.group(1)) if found else ""


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match.group(1), match.group(1)), value)
