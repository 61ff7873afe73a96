"""Determines what the fields of records hold, so that an identifier or an address is not taken for the text.

Several records at the beginning of a file are examined, because the first may have nulls.
"""

from __future__ import annotations

import enum
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from domain_ft.corpus.readers.dates import is_date

LOOKED_AT = 100
"""The number of records at the beginning of a file that are examined."""


class Holds(enum.IntEnum):
    """What a field holds, for the choice of the text field. Only NOTHING is falsy."""

    NOTHING = 0  # no text: numbers, nulls, objects
    NAMES = 1  # text that is not prose: ids, addresses, hashes, dates, numbers, codes, JSON, or only white space
    TEXT = 2
    INSIDE = 3  # objects or lists, such as paragraphs, that contain more text than any TEXT field


# Names of fields for ids, dates, files, persons and other metadata. A field with such a name holds NAMES if fewer
# than half of its values are sentences.
_NAMING = re.compile(
    r"(.*[_\-. ])?(u?u?id|guid|pmid|pmcid|doi|isbn|key|url|uri|link|href|hash|sha\d*|md5|checksum|date|time|"
    r"timestamp|created|updated|(created|updated|published)[_ ]?at|file|filename|path|lang|language|licen[cs]e|"
    r"split|version|source|authors?|editors?|creators?|publishers?|reviewers?|annotators?|senders?|recipients?|"
    r"(user|first|last|full|family|given)[_\-. ]?name|surname|e-?mail|phone)",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_IDENTIFIERS = re.compile(
    r"[a-z][a-z0-9+.-]*://\S+"  # a URL
    r"|www\.\S+|[\w.-]+(/[\w.-]+)+|\S+@\S+\.\w+|(/|\./|~/|[A-Za-z]:\\)\S*"  # a www URL, a path, an e-mail address
    r"|[0-9A-Fa-f]{8,}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"  # a hash, a UUID
    r"|[\d\s.,:;/+%TZ\-\u20ac$\xa3\xa5]+"  # numbers, dates, times, sums of money
    r"|(?=\S*\d)[\w.:/#\-]+"  # one word with a digit in it: an id
    r"|[!-~]{32,}(\s+[!-~]{32,})*(\s+[!-~]+)?",  # words of 32+ characters (the last may be shorter): encoded data
)
_DEEPEST = 8  # levels of objects and lists that are examined
_IDENTIFYING = 0.9  # if at least this share of the values are identifiers, the field holds NAMES
_SENTENCE_WORDS = 4  # the fewest words of a sentence
_SENTENCE_CHARACTERS = 20  # the fewest characters of a sentence with fewer words, if not all are ASCII, as in Chinese


def what_fields_hold(records: Iterable[Mapping[str, Any]]) -> dict[str, Holds]:
    """What each field of some records holds, in the order in which the fields appear.

    >>> what_fields_hold([{"id": "case-1", "data": ["A text of some words."], "n": 1}])
    {'id': <Holds.NAMES: 1>, 'data': <Holds.TEXT: 2>, 'n': <Holds.NOTHING: 0>}
    """
    values: defaultdict[str, list[str]] = defaultdict(list)
    inside: defaultdict[str, int] = defaultdict(int)
    for record in records:
        for name, value in record.items():
            found = texts_of(value)
            values[name] += found
            if not found and isinstance(value, list | dict):
                inside[name] += sum(len(text) for _, text in texts_inside(value) if _is_sentence(text))
    holds = {name: _holds(name, found) for name, found in values.items()}
    longest = max((sum(map(len, values[name])) for name, held in holds.items() if held is Holds.TEXT), default=0)
    return {name: Holds.INSIDE if not held and inside[name] > longest else held for name, held in holds.items()}


def texts_inside(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(key, text) for each text in nested lists and objects, with its key in the enclosing object.

    >>> list(texts_inside([{"text": "One.", "n": 1}, {"text": "Two."}]))
    [('text', 'One.'), ('text', 'Two.')]
    """
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping) and depth < _DEEPEST:
        for name, part in value.items():
            yield from texts_inside(part, str(name), depth + 1)
    elif isinstance(value, list) and depth < _DEEPEST:
        for part in value:
            yield from texts_inside(part, key, depth + 1)


def texts_of(value: Any) -> Sequence[str]:
    """The text, or the texts of a list that has only texts; an empty list for any other value."""
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) and all(isinstance(part, str) for part in value) else []


def _holds(name: str, values: Sequence[str]) -> Holds:
    shortened = [value.strip()[:300] for value in values if value.strip()]
    if not shortened:
        return Holds.NAMES if values else Holds.NOTHING
    if sum(map(_is_json, values)) >= _IDENTIFYING * len(shortened):
        return Holds.NAMES
    identifying = sum(_IDENTIFIERS.fullmatch(value) is not None or is_date(value) for value in shortened)
    if identifying >= _IDENTIFYING * len(shortened):
        return Holds.NAMES
    sentences = sum(map(_is_sentence, shortened))
    if sentences * 2 < len(shortened) and _NAMING.fullmatch(_CAMEL.sub("_", str(name))):
        return Holds.NAMES
    return Holds.TEXT


def _is_json(value: str) -> bool:
    """Whether a text is an object or list in JSON."""
    value = value.strip()
    if (value[:1], value[-1:]) not in (("{", "}"), ("[", "]")):
        return False
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def _is_sentence(value: str) -> bool:
    return len(value.split()) >= _SENTENCE_WORDS or (
        len(value) >= _SENTENCE_CHARACTERS and not value.isascii() and _IDENTIFIERS.fullmatch(value) is None
    )
