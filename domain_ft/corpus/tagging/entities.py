"""Entities in texts: character spans, and the word tags that encode them in files.

Every file is read into `TaggedText`s: the text, the bounds of its words, and spans. Tags come in schemes (Ramshaw &
Marcus 1995, "Text Chunking using Transformation-Based Learning"; Tjong Kim Sang & Veenstra 1999, "Representing Text
Chunks"):

    IOB1    every word of an entity has I-X, but the first has B-X if it directly follows an entity of the same type
    IOB2    every entity begins with B-X and continues with I-X
    BIOES   like IOB2, but the last word has E-X, and an entity of one word has S-X (also called IOBES)
    BILOU   like BIOES, with L for E and U for S

Unless the user names the scheme of a file, it is determined from all tags. Then every tag is checked against it, and an
invalid one is reported with its line.
"""

from __future__ import annotations

import bisect
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from domain_ft.corpus.words import Bounds
from domain_ft.quoting import is_invisible, shown

Scheme = Literal["iob1", "iob2", "bioes", "bilou"]

OUTSIDE = "O"
ONLY_TYPE = "entity"
"""The type of an entity whose tags name no type, such as B and I alone."""

_PREFIXES = ("B", "I", "E", "S", "L", "U")

SPELLED: Mapping[str, str] = {"iob1": "IOB1", "iob2": "IOB2", "bioes": "BIOES", "bilou": "BILOU"}
"""The usual spelling of the schemes."""


@dataclass(frozen=True, order=True)
class Span:
    """An entity: the characters [start, end) of a text, in Unicode code points from 0."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class TaggedText:
    """A sentence or longer text with its entities.

    Attributes:
        id: the record's id, or `file:line`; for a BRAT document, its file.
        text: the input of the model.
        words: (start, end) of each word in characters, in order; None if the file gives text instead of words.
        spans: the entities, sorted and without overlaps.
        group: shared by the texts of one document; equal to `id` if the document is unknown.
        file: the file's name.
        line: the text's first line in the file, counted from 1.
        overlapping: the number of the record's entities that were dropped because they overlap one that is kept.
        joined: the number of the record's entities that have several parts and are read as one span.
        unlabelled: the number of the record's spans that were dropped because their label means no entity, such as O.
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
    unlabelled: int = 0


@dataclass(frozen=True)
class TaggingData:
    """A tagging task, read and split.

    Attributes:
        name: for reports.
        types: the entity types in the training texts, sorted.
        splits: the texts of all three splits, by the names in `SPLITS`.
        scheme: of the training file's tags, as in `SPELLED`; None if that file gives character spans.
        key: a hash of the content.
        facts: for reports: `split` says how each split was made.
        notes: remarks for the user.
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
    """The spans, sorted and without overlaps. If spans overlap, the longest is kept, or the first of the longest.

    Returns:
        the spans, and the number of those that were dropped. Equal spans count once.
    """
    spans = set(found)
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span)):
        place = bisect.bisect(kept, span)
        before, after = kept[max(place - 1, 0) : place], kept[place : place + 1]
        if all(other.end <= span.start for other in before) and all(span.end <= other.start for other in after):
            kept.insert(place, span)
    return tuple(kept), len(spans) - len(kept)


def spelling_variants(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more names that differ only in case, Unicode form, spaces, invisible characters, `_` or `-`.

    >>> spelling_variants(["Drug", "DRUG ", "Dose"])
    [['DRUG ', 'Drug']]
    """
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        folded = unicodedata.normalize("NFKC", name).casefold()
        by_key["".join(one for one in folded if not (one.isspace() or one in "_-" or is_invisible(one)))].append(name)
    return [group for group in by_key.values() if len(group) > 1]


class TagError(ValueError):
    """An unknown tag, or one that is invalid at its position. `index` is the index of its word."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


def split_tag(tag: str) -> tuple[str, str]:
    """`B-Disease` as ("B", "Disease"). The type of O is empty; that of a lone B is `ONLY_TYPE`.

    Raises:
        ValueError: it is not a tag of any scheme.
    """
    prefix, hyphen, name = tag.partition("-")
    if tag in _PREFIXES:
        return tag, ONLY_TYPE
    if tag == OUTSIDE or (hyphen and name and prefix in _PREFIXES):
        return prefix, name
    raise ValueError(f"'{shown(tag)}' is not a tag, such as O, B-TYPE, I-TYPE (or E-, S-, L-, U-TYPE in some schemes)")


def is_tag(word: str) -> bool:
    """Whether a word is a tag of some scheme."""
    try:
        split_tag(word)
    except ValueError:
        return False
    return True


def recognise(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a file from all its tags; IOB2 if they are ambiguous. Unknown tags count as O.

    IOB1 and IOB2 differ in the first tag of an entity that does not directly follow an entity of the same type: I in
    IOB1, B in IOB2. The more frequent prefix decides.
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
        TagError: an unknown tag, or one that `scheme` does not allow at its position.
    """
    allowed = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU"}[scheme]
    last, single = {"bioes": ("E", "S"), "bilou": ("L", "U")}.get(scheme, ("", ""))
    found: list[Span] = []
    start, open_type = -1, ""  # the entity that has begun and not ended
    for index, tag in enumerate([*tags, OUTSIDE]):
        try:
            prefix, name = split_tag(tag)
        except ValueError as error:
            raise TagError(str(error), index) from None
        if name and prefix not in allowed:
            raise TagError(f"{tag} is not a tag of {SPELLED[scheme]}, which the file otherwise follows", index)
        continues = prefix == "I" or (name != "" and prefix == last)
        if continues and name != open_type and scheme != "iob1":
            raise TagError(_without_beginning(tag, tags[index - 1] if index else None, scheme), index)
        if open_type and not (continues and name == open_type):
            if last:
                raise TagError(
                    f"{tags[index - 1]} is not ended: it is followed by {_spelled(tags, index)}, but {SPELLED[scheme]} "
                    f"requires I-{open_type} or {last}-{open_type}",
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
    """The message for a tag that continues an entity which has not begun."""
    name = split_tag(tag)[1]
    place = "at the beginning of a sentence" if before is None else f"after {before}"
    return f"{tag} is not allowed {place}: in {SPELLED[scheme]} an entity begins with B-{name}"


def _spelled(tags: Sequence[str], index: int) -> str:
    return tags[index] if index < len(tags) else "the end of the sentence"


def lenient_chunks(tags: Sequence[str]) -> Iterator[Span]:
    """The entities in a model's IOB2 tags as spans of words, read leniently, as conlleval and seqeval do by default.

    I-X begins an entity after O, after another type, and at the beginning of a sentence.
    """
    start, open_type = 0, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        if open_type and not (prefix == "I" and name == open_type):
            yield Span(start, index, open_type)
            open_type = ""
        if name and not open_type:
            start, open_type = index, name
