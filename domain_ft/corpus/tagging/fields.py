"""The fields of JSON records that hold text, words, tags and spans. The field of spans is chosen for a whole file."""

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

_NO_SPANS = ("tokens", "words", "relations", "sentences", "sents")  # fields whose lists of offsets are not entities


@dataclass(frozen=True)
class TagFields:
    """The fields of a JSON record by their role. None means the usual names; for `id` and `group`, no field.

    For a file of columns, `tokens` and `tags` may be column numbers, from 1.

    Attributes:
        offsets: how the offsets of spans are counted.
        usual_spans: the file's field of spans if `spans` is None, from `choose_spans_field`.
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
        """The field for a role: the one that the user named, else the first usual name that the record has.

        For spans, `usual_spans` comes first if it holds a list, then usual names whose field holds a list. If the
        record has none of these fields, the result is the first usual name.
        """
        named: str | None = getattr(self, role)
        if named:
            return named
        present = [name for name in _USUAL[role] if name in record]
        if role == "spans":
            if self.usual_spans is not None and isinstance(record.get(self.usual_spans), list):
                return self.usual_spans
            present = [name for name in present if isinstance(record[name], list)] or present
        return present[0] if present else _USUAL[role][0]

    def has_words(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has words with tags, not text with spans."""
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
    """A plain record with its line, or its number if the source has no lines."""

    line: int
    plain: Plain


def choose_spans_field(fields: TagFields, records: Sequence[Entry]) -> tuple[TagFields, list[str]]:
    """The fields with `usual_spans` set for the whole file, and notes on other lists of spans.

    Records may have several lists of spans, such as those of two annotators, or of a model and an annotator. Unless the
    user named one, the field is the first usual name under which any record has spans, else the only field with spans.
    A record without a list in that field is read from another usual name.
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
        notes = [f"the entities are read from the tags of the words, not from the lists of spans: {others}"]
    elif others and chosen is not None:
        notes = [
            f"the entities are read from '{chosen}'; other lists of spans are not read: {others} "
            "(--spans-field names another)"
        ]
    return (fields if words or chosen is None else replace(fields, usual_spans=chosen)), notes
