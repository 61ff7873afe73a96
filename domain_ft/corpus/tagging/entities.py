"""Entities in texts: spans of characters, and the tags of words that files write them as.

Whatever a file holds, it becomes a `TaggedText`: the text, where its words are, and spans. Tags come in schemes
(Ramshaw & Marcus 1995, "Text Chunking using Transformation-Based Learning"; Tjong Kim Sang & Veenstra 1999,
"Representing Text Chunks"):

    IOB1    I-X within an entity; B-X only where one begins right after another of its type
    IOB2    every entity begins with B-X and goes on with I-X
    BIOES   as IOB2, but the last word has E-X, and an entity of one word S-X (also IOBES)
    BILOU   as BIOES, with L for E and U for S

A file's scheme is found by reading all of its tags, and every tag is held against it: a tag that cannot stand where it
stands is a mistake in the file, and is named with its line.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from domain_ft.corpus.words import Bounds
from domain_ft.quoting import shown

Scheme = Literal["iob1", "iob2", "bioes", "bilou"]

OUTSIDE = "O"
ONLY_TYPE = "entity"
"""What entities are called where the tags do not name their type: B, I and O alone."""

_PREFIXES = ("B", "I", "E", "S", "L", "U")

SPELLED: Mapping[str, str] = {"iob1": "IOB1", "iob2": "IOB2", "bioes": "BIOES", "bilou": "BILOU"}
"""The schemes as people write them."""


@dataclass(frozen=True, order=True)
class Span:
    """An entity: characters `start` up to `end` of a text, counted in Unicode code points from 0."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class TaggedText:
    """A sentence or longer text with its entities.

    Attributes:
        id: the record's own id, or `file:line`.
        text: what the model reads.
        words: (start, end) of each word in characters, in order, where the file gives words; None where it gives text.
        spans: the entities, sorted, none of which overlap.
        group: texts of one document share it; the id where nothing is known of it.
        file: the name of the file that it stands in.
        line: the line where it begins, counted from 1.
        overlapping: entities of its record that are not among the spans, since they overlap a longer one.
        joined: entities of its record that have several parts, and are read as all that lies between the first and the
            last.
    """

    id: str
    text: str
    words: tuple[Bounds, ...] | None
    spans: tuple[Span, ...]
    group: str = ""
    file: str = ""
    line: int | None = None
    overlapping: int = 0
    joined: int = 0


@dataclass(frozen=True)
class TaggingData:
    """A tagging task, read and split.

    Attributes:
        name: what it is called in reports.
        types: the types of entities in the training texts, sorted.
        splits: by name of `SPLITS`, all three.
        scheme: of the training file's tags, as `SPELLED`; None where the files give spans of characters.
        key: names the content of all of it.
        facts: what reports tell of it.
        notes: what a person should know, in sentences.
    """

    name: str
    types: tuple[str, ...]
    splits: Mapping[str, Sequence[TaggedText]]
    scheme: str | None
    key: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """The classes of the model's head: O, then B- and I- of each type."""
        return (OUTSIDE, *(f"{prefix}-{name}" for name in self.types for prefix in "BI"))


def keep_longest(found: Iterable[Span]) -> tuple[tuple[Span, ...], int]:
    """The spans, sorted, none of which overlap: of those that do, the longest stays, then the first.

    Returns:
        the spans, and how many are left out. Spans that say the same of the same place are one.
    """
    spans = set(found)
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span)):
        place = bisect.bisect(kept, span)
        before, behind = kept[max(place - 1, 0) : place], kept[place : place + 1]
        if all(other.end <= span.start for other in before) and all(span.end <= other.start for other in behind):
            kept.insert(place, span)
    return tuple(kept), len(spans) - len(kept)


def alike(names: Iterable[str]) -> list[list[str]]:
    """The names that differ from each other in case, blanks, `_` or `-` only, as lists of two or more.

    >>> alike(["Drug", "DRUG ", "Dose"])
    [['DRUG ', 'Drug']]
    """
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        by_key[
            "".join(character for character in name.casefold() if not character.isspace() and character not in "_-")
        ].append(name)
    return [own for own in by_key.values() if len(own) > 1]


class TagError(ValueError):
    """A tag that is none, or that cannot stand where it stands. `index` is its word, counted from 0."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


def split_tag(tag: str) -> tuple[str, str]:
    """`B-Disease` as ("B", "Disease"); of O the type is empty. B alone is an entity of the only type there is.

    Raises:
        ValueError: it is no tag of any scheme.
    """
    prefix, hyphen, name = tag.partition("-")
    if tag in _PREFIXES:
        return tag, ONLY_TYPE
    if tag == OUTSIDE or (hyphen and name and prefix in _PREFIXES):
        return prefix, name
    raise ValueError(f"'{shown(tag)}' is no tag: O, B-TYPE, I-TYPE, and in some schemes E-, S-, L-, U-TYPE are")


def is_tag(word: str) -> bool:
    """Whether it is a tag of some scheme."""
    try:
        split_tag(word)
    except ValueError:
        return False
    return True


def recognise(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a file from all of its tags; IOB2 where they do not tell. What is no tag is passed over.

    IOB1 and IOB2 are told apart by how most of the entities begin that do not follow one of their own type.
    """
    prefixes: set[str] = set()
    begins = Counter[str]()
    for tags in sentences:
        before = ("", "")
        for tag in tags:
            try:
                prefix, name = split_tag(tag)
            except ValueError:
                prefix, name = OUTSIDE, ""
            prefixes.add(prefix)
            if name and before[1] != name:
                begins[prefix] += 1
            before = prefix, name
    if prefixes & {"L", "U"} and not prefixes & {"E", "S"}:
        return "bilou"
    if prefixes & {"E", "S", "L", "U"}:
        return "bioes"
    return "iob1" if begins["I"] > begins["B"] else "iob2"


def chunks(tags: Sequence[str], scheme: Scheme = "iob2") -> list[Span]:
    """The entities of a sentence as spans of *words*: `Span(first word, last word + 1, type)`.

    Raises:
        TagError: a tag that is none, or that cannot stand where it stands under `scheme`.
    """
    allowed = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU"}[scheme]
    last, single = {"bioes": ("E", "S"), "bilou": ("L", "U")}.get(scheme, ("", ""))
    found: list[Span] = []
    start, open_type = -1, ""  # the entity that the words so far have begun and not ended
    for index, tag in enumerate([*tags, OUTSIDE]):
        try:
            prefix, name = split_tag(tag)
        except ValueError as error:
            raise TagError(str(error), index) from None
        if name and prefix not in allowed:
            raise TagError(f"{tag} is no tag of {SPELLED[scheme]}, which the file otherwise follows", index)
        goes_on = prefix == "I" or (name != "" and prefix == last)
        if goes_on and name != open_type and not (scheme == "iob1"):
            raise TagError(_without_beginning(tag, tags[index - 1] if index else None, scheme), index)
        if open_type and not (goes_on and name == open_type):
            if last:
                raise TagError(
                    f"{tags[index - 1]} is not ended: after it comes {_spelled(tags, index)}, where {SPELLED[scheme]} "
                    f"has I-{open_type} or {last}-{open_type}",
                    index - 1,
                )
            found.append(Span(start, index, open_type))
            open_type = ""
        if name and not open_type:
            start, open_type = index, name
        if name and prefix in (last, single):
            found.append(Span(start, index + 1, name))
            open_type = ""
    return found


def _without_beginning(tag: str, before: str | None, scheme: Scheme) -> str:
    """What to say of a tag that goes on with an entity which has not begun."""
    name = split_tag(tag)[1]
    if before is None:
        place = "stands at the beginning of a sentence"
    elif before == OUTSIDE:
        place = "stands after O"
    else:
        place = f"stands after {before}"
    return f"{tag} {place}: in {SPELLED[scheme]} an entity begins with B-{name}"


def _spelled(tags: Sequence[str], index: int) -> str:
    return tags[index] if index < len(tags) else "the end of the sentence"


def lenient_chunks(tags: Sequence[str]) -> Iterator[Span]:
    """The entities in a model's IOB2 tags, as spans of words. What may not begin one begins one all the same.

    That is how conlleval and seqeval (in its default mode) read tags: I-X after O, after another type or at the
    beginning of a sentence begins an entity.
    """
    start, open_type = 0, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        if open_type and not (prefix == "I" and name == open_type):
            yield Span(start, index, open_type)
            open_type = ""
        if name and not open_type:
            start, open_type = index, name
