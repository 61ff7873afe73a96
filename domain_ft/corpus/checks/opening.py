"""What a file is for, which its first sound record tells, and its records as that verb reads them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from domain_ft.corpus.checks.conversations import conversation_items
from domain_ft.corpus.checks.copies import Copies
from domain_ft.corpus.checks.items import Item, Rejections, example_items, tag_items, text_items
from domain_ft.corpus.conversations.formats import FORMATS, FieldChoice, Format, recognise
from domain_ft.corpus.readers import ENDINGS, raw_records
from domain_ft.corpus.readers.base import BadRecords, RawRecord, read_lines
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.tasks.conll import COLUMNS, DOCUMENT, columns_of
from domain_ft.corpus.tasks.entities import is_tag
from domain_ft.corpus.tasks.entity_files import (
    SPANS_FIELDS,
    TAGS_FIELDS,
    TOKENS_FIELDS,
    TagFields,
    has_columns,
    tagged_records,
)
from domain_ft.corpus.tasks.fields import LABEL_NAMES, FieldNames
from domain_ft.corpus.tasks.knowledge_bases import is_knowledge_base
from domain_ft.corpus.tasks.reading import RECORD_ENDINGS
from domain_ft.errors import CorpusError
from domain_ft.storage import user_path

Kind = Literal["conversations", "examples", "tags", "text"]

_LOOKED_AT = 100  # records, the first of which that is of a known kind says the kind of all
_MOST_LINES = 0.8  # of those looked at, from which on they are words with tags, whatever is wrong with the others


@dataclass(frozen=True)
class Fields:
    """Which fields hold what, where it was said.

    Attributes:
        choice: of conversations.
        text, pair, label: of examples; `text` of tags and text too.
    """

    choice: FieldChoice = field(default_factory=FieldChoice)
    text: str | None = None
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class CheckedFile:
    """A file, and how it is read.

    Attributes:
        name: what it is called in messages.
        format: of conversations; None of other files.
    """

    path: Path
    name: str
    kind: Kind
    format: Format | None
    fields: Fields

    @classmethod
    def open(cls, spec: str, kind: Kind | Literal["auto"], fields: Fields) -> CheckedFile:
        """Find out what a file is for.

        Raises:
            CorpusError: there is no such file, it is not read, or it is not clear what it is for.
        """
        path = user_path(spec)
        if not path.is_file():
            what = "this is a folder, and a file is wanted" if path.is_dir() else "there is no such file"
            raise CorpusError(what, where=spec, fix="name a file" if path.is_dir() else "check the path")
        name = path.name
        if kind == "auto":
            kind = _recognise(path, name, fields)
        if kind == "tags":
            return cls(path, name, kind, None, fields)
        if ending(path) not in (RECORD_ENDINGS if kind in ("conversations", "examples") else ENDINGS):
            given = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
            known = ", ".join(RECORD_ENDINGS if kind != "text" else ENDINGS)
            fix = f"the endings that are read: {known}, each also with .gz"
            raise CorpusError(f"{given} holds no {kind} that can be read", where=spec, fix=fix)
        format = _format(path, name, fields) if kind == "conversations" else None
        return cls(path, name, kind, format, fields)

    def records(self, bad: BadRecords) -> Iterator[RawRecord]:
        """The records as the file has them."""
        if self.kind == "tags":
            return (RawRecord(line, fields) for line, fields in tagged_records(self.path, self.name, bad))
        return raw_records(self.path, self.name, ENDINGS[ending(self.path)], bad)

    def items(self, bad: BadRecords) -> Iterator[Item]:
        """The records as the checks take them; `bad` is told of those that cannot be read."""
        fields = self.fields
        if self.kind == "conversations" and self.format is not None:
            return conversation_items(self.records(bad), self.name, self.format, fields.choice)
        if self.kind == "examples":
            return example_items(self.path, self.name, FieldNames(fields.text, fields.pair, fields.label), bad)
        if self.kind == "tags":
            return tag_items(self.path, self.name, self.tag_fields, bad)
        return text_items(self.path, self.name, fields.text, bad)

    @property
    def is_plain(self) -> bool:
        """Whether it is text or columns, without records."""
        if self.kind == "tags":
            return has_columns(self.path)
        return ENDINGS.get(ending(self.path)) == "text"

    @property
    def tag_fields(self) -> TagFields:
        """Which fields of tagged records hold what."""
        return TagFields(text=self.fields.text)

    @functools.cached_property
    def text_fields(self) -> frozenset[str]:
        """The fields that hold the text of examples or documents, as their first one tells."""
        items = self.items(Rejections().bad)
        first = next((item.passages for item in items if item.passages), ())
        return frozenset(passage.field.partition("[")[0] for passage in first)

    def copies(self) -> Copies:
        """Fingerprints of all records: those of a test file, to be looked for in another one."""
        copies = Copies()
        for item in self.items(Rejections().bad):
            copies.add_item(item)
        return copies


def _recognise(path: Path, name: str, fields: Fields) -> Kind:
    if ending(path) not in RECORD_ENDINGS:
        return "tags" if ending(path) not in ENDINGS or _is_conll(path, name) else "text"
    seen: list[str] = []
    for record in _first(path, name):
        found = _kind_of(record.fields, fields)
        if found is not None:
            return found
        seen = seen or list(map(str, record.fields))
    if not seen:  # nothing can be read: why is what is found
        return "conversations"
    raise CorpusError(
        f"it is not clear what the records are for; the fields are: {', '.join(seen)}",
        where=name,
        fix="name the fields of conversations (--prompt-field F --answer-field F), of labelled examples "
        "(--text-field F --label-field F) or of text (--kind text --text-field F)",
    )


def _kind_of(record: Mapping[str, Any], fields: Fields) -> Kind | None:
    """What a record is for: as the fields that were named say, else by usual names."""
    if fields.label or fields.pair:
        return "examples"
    if any(name in record for name in TOKENS_FIELDS) and any(name in record for name in TAGS_FIELDS):
        return "tags"
    if isinstance(record.get("text"), str) and any(isinstance(record.get(name), list) for name in SPANS_FIELDS[:2]):
        return "tags"
    if is_knowledge_base(record):
        return "tags"
    chosen = recognise(record, fields.choice)
    labelled = any(name in record for name in LABEL_NAMES)
    if chosen is not None and not (chosen == "qa" and labelled and not fields.choice.answer_field):
        return "conversations"
    texts = [name for name, value in record.items() if isinstance(value, str) and name not in LABEL_NAMES]
    if labelled and texts:
        return "examples"
    return "text" if fields.text or "text" in texts or len(texts) == 1 else None


def _format(path: Path, name: str, fields: Fields) -> Format:
    """The format of the first record that has one."""
    formats = (recognise(record.fields, fields.choice) for record in _first(path, name))
    found = next((format for format in formats if format is not None), None)
    if found is None and fields.choice.format == "auto":
        first = next(_first(path, name), None)
        if first is not None:
            known = "; ".join(f"{kind}: {what}" for kind, what in FORMATS.items())
            raise CorpusError(
                f"it is not clear what is asked and what is answered; the fields are: {', '.join(first.fields)}",
                where=name,
                fix=f"name the fields: --prompt-field F --answer-field F; or write one of the formats ({known})",
            )
    return found or "chat"


def _first(path: Path, name: str) -> Iterator[RawRecord]:
    records = raw_records(path, name, ENDINGS[ending(path)], Rejections().bad)
    return cast(Iterator[RawRecord], itertools.islice(records, _LOOKED_AT))


def _is_conll(path: Path, name: str) -> bool:
    """Whether most lines of a text are columns with a word first and a tag last."""
    lines = (line.decode("utf-8", "replace").strip() for _, _, line in read_lines(path, name, Rejections().bad))
    rows = [columns_of(line) for line in itertools.islice(filter(None, lines), _LOOKED_AT)]
    words = [row for row in rows if row[0] != DOCUMENT]
    tagged = sum(COLUMNS[0] <= len(row) <= COLUMNS[1] and is_tag(row[-1]) for row in words)
    return tagged > _MOST_LINES * len(words)
