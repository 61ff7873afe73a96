"""Which fields of a JSON record hold its text, its words, their tags and its spans; in a file, the same for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from domain_ft.corpus.annotation_tools import Plain, are_labelled_spans
from domain_ft.corpus.tagging.annotations import SPANS_FIELDS, is_words
from domain_ft.corpus.tagging.offsets import Counting

TEXT_FIELDS = ("text",)
TOKENS_FIELDS = ("tokens", "words")
TAGS_FIELDS = ("tags", "ner_tags", "labels")

Role = Literal["text", "tokens", "tags", "spans"]
_USUAL: Mapping[Role, tuple[str, ...]] = {
    "text": TEXT_FIELDS,
    "tokens": TOKENS_FIELDS,
    "tags": TAGS_FIELDS,
    "spans": SPANS_FIELDS,
}

_NO_SPANS = ("tokens", "words", "relations", "sentences", "sents")  # lists of places that are no entities


@dataclass(frozen=True)
class TagFields:
    """Which fields of a JSON record hold what; where None, the usual names are tried.

    Of a file of columns, `tokens` and `tags` may be the numbers of columns, counted from 1.

    Attributes:
        offsets: how the spans count.
        usual_spans: the field that most of a file's spans are in, where `spans` is not named: see `with_usual_spans`.
    """

    text: str | None = None
    tokens: str | None = None
    tags: str | None = None
    spans: str | None = None
    id: str | None = None
    group: str | None = None
    offsets: Counting = "characters"
    usual_spans: str | None = None

    def name(self, role: Role, record: Mapping[str, Any]) -> str:
        """The field of a role: the one that was named, else the first usual one that is there, else the usual one.

        Of spans, a usual one that holds a list goes first.
        """
        named: str | None = getattr(self, role)
        if named:
            return named
        there = [name for name in _USUAL[role] if name in record]
        if role == "spans":
            if self.usual_spans is not None and isinstance(record.get(self.usual_spans), list):
                return self.usual_spans
            there = [name for name in there if isinstance(record[name], list)] or there
        return there[0] if there else _USUAL[role][0]

    def has_words(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is one of words with tags."""
        tokens = self.name("tokens", record)
        if tokens not in record:
            return False
        return is_words(record[tokens]) and not (
            self.name("text", record) in record
            and self.name("tags", record) not in record
            and self.name("spans", record) in record
        )


@dataclass(frozen=True)
class Entry:
    """A plain record and where it is: its line, or its number where the source has no lines."""

    line: int
    plain: Plain


def with_usual_spans(fields: TagFields, records: Sequence[Entry]) -> tuple[TagFields, list[str]]:
    """The fields with the one whose spans are read in all records of a file, and what to say where there are more.

    Records may hold several lists of spans, such as those of two annotators, or of a model beside a person's. One of
    them is read in the whole file: the first usual name that any record has spans under, else the only other field.
    """
    counts = Counter(
        field
        for entry in records
        for field, value in entry.plain.record.items()
        if field not in _NO_SPANS and are_labelled_spans(value)
    )
    usual = [field for field in SPANS_FIELDS if field in counts]
    words = any(fields.has_words(entry.plain.record) for entry in records)
    chosen = fields.spans or next(iter(usual or (counts if len(counts) == 1 else ())), None)
    others = ", ".join(f"'{field}' ({count:,})" for field, count in counts.items() if words or field != chosen)
    notes = []
    if others and words:
        notes = [f"the entities are read from the tags of the words, and not from the lists of spans: {others}"]
    elif others and chosen is not None:
        notes = [
            f"the entities are read from '{chosen}'; other lists of spans are not read: {others} "
            "(--spans-field names another)"
        ]
    return (fields if words or chosen is None else replace(fields, usual_spans=chosen)), notes
