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
from domain_ft.corpus.readers import ENDINGS, NEEDED, raw_records, reader
from domain_ft.corpus.readers.base import BadRecords, RawRecord, read_lines, text_encoding
from domain_ft.corpus.readers.choosing import Holds, what_fields_hold
from domain_ft.corpus.readers.files import check_file, ending
from domain_ft.corpus.readers.packing import PACKED
from domain_ft.corpus.tagging.annotations import is_annotated
from domain_ft.corpus.tagging.conll import looks_like_columns
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.knowledge_bases import is_knowledge_base
from domain_ft.corpus.tagging.offsets import Counting
from domain_ft.corpus.tagging.reading import entries, file_kind, has_columns, tagged_values
from domain_ft.corpus.tagging.standoff import is_bioc, is_brat
from domain_ft.corpus.tasks.fields import LABEL_NAMES, FieldNames
from domain_ft.corpus.tasks.labels import LabelRules
from domain_ft.corpus.tasks.reading import RECORD_ENDINGS
from domain_ft.errors import CorpusError
from domain_ft.storage import user_path

Kind = Literal["conversations", "examples", "tags", "text"]

_JSON = (".json", ".jsonl", ".ndjson")
_LOOKED_AT = 100  # records, the first of which that is of a known kind says the kind of all
_MOST_LINES = 0.8  # of those looked at, from which on they are words with tags, whatever is wrong with the others


@dataclass(frozen=True)
class Fields:
    """Which fields hold what, where it was said.

    Attributes:
        choice: of conversations.
        text, pair, label: of examples; `text` of tags and text too.
        rules: how the labels of examples are written.
        encoding: what the file is written in; None for UTF-8.
        offsets: how the spans of tags count.
    """

    choice: FieldChoice = field(default_factory=FieldChoice)
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    encoding: str | None = None
    rules: LabelRules = field(default_factory=LabelRules)

    @property
    def bad(self) -> BadRecords:
        """For a first look at the file, of which nothing is reported."""
        return Rejections(encoding=self.encoding).bad

    offsets: Counting = "characters"


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
        if not (path.is_dir() and is_brat(path)):
            check_file(path)
        name = path.name
        if kind == "auto":
            kind = _recognise(path, name, fields)
        if kind == "tags":
            return cls(path, name, kind, None, fields)
        if ending(path) not in (RECORD_ENDINGS if kind in ("conversations", "examples") else ENDINGS):
            given = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
            known = ", ".join(RECORD_ENDINGS if kind != "text" else ENDINGS)
            fix = f"the endings that are read: {known}, each also with {', '.join(PACKED)}"
            raise CorpusError(f"{given} holds no {kind} that can be read", where=spec, fix=fix)
        format = _format(path, name, fields) if kind == "conversations" else None
        return cls(path, name, kind, format, fields)

    def records(self, bad: BadRecords) -> Iterator[RawRecord]:
        """The records as the file has them."""
        if self.kind == "tags":
            found = entries(self.path, self.name, self.tag_fields, bad)
            return (RawRecord(entry.line, entry.plain.record) for entry in found)
        kind = ENDINGS[ending(self.path)]
        if kind in NEEDED:
            return (RawRecord(None, {"text": text.text}) for text in reader(kind)(self.path, self.name, None, bad))
        return raw_records(self.path, self.name, kind, bad)

    def items(self, bad: BadRecords) -> Iterator[Item]:
        """The records as the checks take them; `bad` is told of those that cannot be read."""
        fields = self.fields
        if self.kind == "conversations" and self.format is not None:
            return conversation_items(self.records(bad), self.name, self.format, fields.choice)
        if self.kind == "examples":
            names = FieldNames(fields.text, fields.pair, fields.label)
            return example_items(self.path, self.name, names, bad, fields.rules)
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
        return TagFields(text=self.fields.text, offsets=self.fields.offsets)

    @functools.cached_property
    def text_fields(self) -> frozenset[str]:
        """The fields that hold the text of examples or documents, as their first one tells."""
        items = self.items(self.fields.bad)
        first = next((item.passages for item in items if item.passages), ())
        return frozenset(passage.field.partition("[")[0] for passage in first)

    def copies(self) -> Copies:
        """Fingerprints of all records: those of a test file, to be looked for in another one."""
        copies = Copies()
        for item in self.items(self.fields.bad):
            copies.add_item(item)
        return copies


def _recognise(path: Path, name: str, fields: Fields) -> Kind:
    if path.is_dir() or (ending(path) in (".tsv", ".txt", ".md") and is_tagged_text(path, name, fields)):
        return "tags"
    if ENDINGS.get(ending(path)) in NEEDED:
        return "tags" if ending(path) == ".xml" and is_bioc(path) else "text"
    if ending(path) not in RECORD_ENDINGS and ending(path) not in _JSON:
        return "tags" if ending(path) not in ENDINGS else "text"
    seen: list[str] = []
    unlabelled = False
    for record in _first_values(path, name, fields):
        if not isinstance(record, Mapping):
            if isinstance(record, list):  # spaCy's pairs, sentences of words with tags
                return "tags"
            continue
        found = _kind_of(record, fields)
        if found == "examples" and record.get("label", record.get("labels")) == [] and not fields.label:
            unlabelled = True  # an example without a class, or a text without an entity: the next ones tell
            continue
        if found is not None:
            return found
        seen = seen or list(map(str, record))
    if unlabelled:
        return "examples"
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
    if is_annotated(record) or is_knowledge_base(record):
        return "tags"
    chosen = recognise(record, fields.choice)
    labelled = any(name in record for name in LABEL_NAMES)
    if chosen is not None and not (chosen == "qa" and labelled and not fields.choice.answer_field):
        return "conversations"
    held = what_fields_hold([record])
    texts = [name for name, holds in held.items() if holds is Holds.TEXT and name not in LABEL_NAMES]
    texts += ["text"] if held.get("text") and "text" not in texts else []
    if labelled and texts:
        return "examples"
    return "text" if fields.text or "text" in texts or len(texts) == 1 else None


def _format(path: Path, name: str, fields: Fields) -> Format:
    """The format of the first record that has one."""
    formats = (recognise(record.fields, fields.choice) for record in _first(path, name, fields))
    found = next((format for format in formats if format is not None), None)
    if found is None and fields.choice.format == "auto":
        first = next(_first(path, name, fields), None)
        if first is not None:
            known = "; ".join(f"{kind}: {what}" for kind, what in FORMATS.items())
            raise CorpusError(
                f"it is not clear what is asked and what is answered; the fields are: {', '.join(first.fields)}",
                where=name,
                fix=f"name the fields: --prompt-field F --answer-field F; or write one of the formats ({known})",
            )
    return found or "chat"


def _first(path: Path, name: str, fields: Fields) -> Iterator[RawRecord]:
    records = raw_records(path, name, ENDINGS[ending(path)], fields.bad)
    return cast(Iterator[RawRecord], itertools.islice(records, _LOOKED_AT))


def _first_values(path: Path, name: str, fields: Fields) -> Iterator[Any]:
    """The first values of a file of records: objects, and of JSON lists too."""
    if ending(path) in _JSON:
        values = (value for _, value in tagged_values(path, name, fields.bad))
        return itertools.islice(values, _LOOKED_AT)
    return (record.fields for record in _first(path, name, fields))


def is_tagged_text(path: Path, name: str, fields: Fields | None = None) -> bool:
    """Whether a text file holds entities: most of its lines are columns, or it is of an annotation tool."""
    if file_kind(path) == "columns":
        bad = (fields or Fields()).bad
        encoding = text_encoding(bad)
        lines = (line.decode(encoding, "replace").strip() for _, _, line in read_lines(path, name, bad))
        return looks_like_columns(list(itertools.islice(filter(None, lines), _LOOKED_AT)), _MOST_LINES)
    return file_kind(path) in ("brat", "pubtator")
