"""Determines from the first valid records of a file which verb it is for, and reads it as that verb does."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from domain_ft.corpus.annotation_tools import is_label_studio, label_studio_answers
from domain_ft.corpus.checks.conversations import conversation_items
from domain_ft.corpus.checks.copies import Copies
from domain_ft.corpus.checks.items import Item, Rejections, example_items, tag_items, text_items
from domain_ft.corpus.checks.preferences import preference_items
from domain_ft.corpus.conversations.formats import FieldChoice, Format, recognise, unrecognised
from domain_ft.corpus.inputs import RECORD_ENDINGS
from domain_ft.corpus.knowledge_bases import is_knowledge_base
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.preferences.fields import PreferenceChoice, PreferenceFormat
from domain_ft.corpus.preferences.fields import recognise as recognise_preference
from domain_ft.corpus.preferences.fields import unrecognised as unrecognised_preference
from domain_ft.corpus.readers import ENDINGS, NEEDED, raw_records, reader
from domain_ft.corpus.readers.base import BadRecords, RawRecord, read_lines, text_encoding, usual_name
from domain_ft.corpus.readers.choosing import Holds, what_fields_hold
from domain_ft.corpus.readers.files import check_file, ending
from domain_ft.corpus.readers.packing import PACKED
from domain_ft.corpus.tagging.annotations import has_results, is_annotated, with_spans
from domain_ft.corpus.tagging.conll import looks_like_columns
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.reading import entries, file_kind, has_columns, tagged_values
from domain_ft.corpus.tagging.standoff import is_bioc, is_brat
from domain_ft.corpus.tasks.choices import is_choice
from domain_ft.corpus.tasks.fields import LABEL_NAMES, ExampleFields, FieldNames
from domain_ft.corpus.tasks.labels import LabelRules
from domain_ft.errors import CorpusError
from domain_ft.quoting import listed
from domain_ft.storage import user_path

Kind = Literal["conversations", "preferences", "examples", "tags", "text"]

_JSON = (".json", ".jsonl", ".ndjson")
_OF_RECORDS = ("conversations", "preferences", "examples")
_LOOKED_AT = 100  # the most records or lines to examine; the first record of a known kind decides
_TAGGED_SHARE = 0.8  # a file is in CoNLL columns if more than this share of its lines are words with tags


@dataclass(frozen=True)
class Fields:
    """The fields that the user named.

    Attributes:
        choice: the fields of conversations.
        text, pair, label: the fields of examples. `text` is also the field of documents.
        encoding: the encoding of the file; None for UTF-8.
        rules: how the labels of examples are written.
        tags: the fields or columns of tagged texts, and how their offsets are counted.
        preferences: the fields of preferences.
    """

    choice: FieldChoice = field(default_factory=FieldChoice)
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    encoding: str | None = None
    rules: LabelRules = field(default_factory=LabelRules)
    tags: TagFields = field(default_factory=TagFields)
    preferences: PreferenceChoice = field(default_factory=PreferenceChoice)

    @property
    def bad(self) -> BadRecords:
        """A policy for a first look at the file: bad records are skipped and not reported."""
        return Rejections(encoding=self.encoding).bad

    @property
    def of_tags(self) -> bool:
        """Whether the user named a field that only tagged records have."""
        return bool(self.tags.tokens or self.tags.tags or self.tags.spans)


@dataclass(frozen=True)
class CheckedFile:
    """A file and how to read it.

    Attributes:
        path: the file, or a folder in BRAT format.
        name: the name of the file, for messages.
        kind: what its records are.
        format: the format of the conversations or preferences; None for other files.
        fields: the fields that the user named.
    """

    path: Path
    name: str
    kind: Kind
    format: Format | PreferenceFormat | None
    fields: Fields

    @classmethod
    def open(cls, spec: str, kind: Kind | Literal["auto"], fields: Fields) -> CheckedFile:
        """Determine what a file is for.

        Raises:
            CorpusError: the file does not exist or is not supported, or it is not clear what it is for.
        """
        path = user_path(spec)
        if not (path.is_dir() and is_brat(path)):
            check_file(path)
        name = path.name
        if kind == "auto":
            kind = _recognise(path, name, fields)
        if kind == "tags":
            return cls(path, name, kind, None, fields)
        if ending(path) not in (RECORD_ENDINGS if kind in _OF_RECORDS else ENDINGS):
            file_type = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
            known = ", ".join(RECORD_ENDINGS if kind != "text" else ENDINGS)
            fix = f"supported endings: {known}, each also with {', '.join(PACKED)}"
            raise CorpusError(f"{kind} cannot be read from {file_type}", where=spec, fix=fix)
        format: Format | PreferenceFormat | None = None
        if kind == "conversations":
            format = _format(path, name, fields)
        elif kind == "preferences":
            format = _preference_format(path, name, fields)
        return cls(path, name, kind, format, fields)

    def records(self, bad: BadRecords) -> Iterator[RawRecord]:
        """The records of a file that is not `is_plain`."""
        if self.kind == "tags":
            plain = entries(self.path, self.name, self.tag_fields, bad)
            return (RawRecord(entry.line, entry.plain.record) for entry in plain)
        kind = ENDINGS[ending(self.path)]
        if kind in NEEDED:
            return (RawRecord(None, {"text": text.text}) for text in reader(kind)(self.path, self.name, None, bad))
        records = raw_records(self.path, self.name, kind, bad)
        if self.kind == "examples":
            return ExampleFields(self.example_names).plain(records, self.name, bad)
        return records

    @property
    def example_names(self) -> FieldNames:
        """The fields of examples."""
        return FieldNames(self.fields.text, self.fields.pair, self.fields.label)

    def items(self, bad: BadRecords, left: LeftOut | None = None) -> Iterator[Item]:
        """The records in the form that the checks use.

        Args:
            bad: receives records that cannot be read.
            left: for tagged texts, collects the fields and files that are not read. For other files, `Item.unread` has
                the fields.
        """
        fields = self.fields
        if self.kind == "conversations" and self.format is not None:
            return conversation_items(self.records(bad), self.name, cast(Format, self.format), fields.choice)
        if self.kind == "preferences" and self.format is not None:
            format = cast(PreferenceFormat, self.format)
            return preference_items(self.records(bad), self.name, format, fields.preferences)
        if self.kind == "examples":
            return example_items(self.path, self.name, self.example_names, bad, fields.rules)
        if self.kind == "tags":
            return tag_items(self.path, self.name, self.tag_fields, bad, left or LeftOut())
        return text_items(self.path, self.name, fields.text, bad)

    @property
    def is_plain(self) -> bool:
        """Whether the file is plain text or CoNLL columns, which have no records with fields."""
        if self.kind == "tags":
            return has_columns(self.path)
        return ENDINGS.get(ending(self.path)) == "text"

    @property
    def tag_fields(self) -> TagFields:
        """The fields of tagged records."""
        return self.fields.tags

    @functools.cached_property
    def text_fields(self) -> frozenset[str]:
        """The text fields of examples or documents, from the first item with a text."""
        items = self.items(self.fields.bad)
        first = next((item.passages for item in items if item.passages), ())
        return frozenset(passage.field.partition("[")[0] for passage in first)

    def copies(self) -> Copies:
        """The hashes of all records, by which their copies are found in another file."""
        copies = Copies()
        for item in self.items(self.fields.bad):
            copies.add_item(item)
        return copies


def _recognise(path: Path, name: str, fields: Fields) -> Kind:
    if (
        path.is_dir()
        or fields.of_tags
        or (ending(path) in (".tsv", ".txt", ".md") and is_tagged_text(path, name, fields))
    ):
        return "tags"
    if ENDINGS.get(ending(path)) in NEEDED:
        return "tags" if ending(path) == ".xml" and is_bioc(path) else "text"
    if ending(path) not in RECORD_ENDINGS and ending(path) not in _JSON:
        return "tags" if ending(path) not in ENDINGS else "text"
    seen: list[str] = []
    unlabelled = False
    label_studio_kind: Kind | None = None  # used if none of Label Studio's records has an annotation that decides
    for record in _first_values(path, name, fields):
        if not isinstance(record, Mapping):
            if isinstance(record, list):  # spaCy's pairs, sentences of words with tags
                return "tags"
            continue
        if _is_inconclusive(record) and not fields.label:
            label_studio_kind = "tags" if is_label_studio(record) else "examples"
            continue
        kind = _kind_of(record, fields)
        if kind == "examples" and record.get("label", record.get("labels")) == [] and not fields.label:
            unlabelled = True  # an example without a class, or a text without entities: the next records decide
            continue
        if kind is not None:
            return kind
        seen = seen or list(map(str, record))
    if unlabelled or label_studio_kind:
        return label_studio_kind or "examples"
    if not seen:  # nothing can be read: the check reports why
        return "conversations"
    raise CorpusError(
        f"it is not clear what the records are for; the fields are: {listed(seen)}",
        where=name,
        fix="name the fields of conversations (--prompt-field F --answer-field F), of labelled examples "
        "(--text-field F --label-field F) or of text (--kind text --text-field F)",
    )


def _is_inconclusive(record: Mapping[str, Any]) -> bool:
    """Whether this is a Label Studio record with neither entities nor choices."""
    if is_label_studio(record):
        return not is_choice(record) and not has_results(record)
    return label_studio_answers(record) is not None and not is_annotated(record)


def _kind_of(record: Mapping[str, Any], fields: Fields) -> Kind | None:
    """The kind of a record, from the fields that the user named or from usual names; None if it is not clear."""
    if fields.label or fields.pair or is_choice(record):
        return "examples"
    judged = recognise_preference(record, fields.preferences)
    if judged not in (None, "rated") and not fields.choice.answer_field:
        return "preferences"
    format = recognise(record, fields.choice)
    # A record with a prompt may have `documents` without being in BioC format.
    has_prompt = format is not None and "text" not in record
    if not has_prompt and (is_annotated(record) or is_knowledge_base(record)):
        return "tags"
    label = usual_name(map(str, record), LABEL_NAMES)
    labelled = label is not None
    if format is not None and not (format == "qa" and labelled and not fields.choice.answer_field):
        return "conversations"
    held = what_fields_hold([record])
    texts = [name for name, holds in held.items() if holds is Holds.TEXT and name != label and name not in LABEL_NAMES]
    texts += ["text"] if held.get("text") and "text" not in texts else []
    if labelled and texts:
        return "examples"
    return "text" if fields.text or "text" in texts or len(texts) == 1 else None


def _format(path: Path, name: str, fields: Fields) -> Format:
    """The format of the first record with a known format; `chat` if no record can be read."""
    formats = (recognise(record.fields, fields.choice) for record in _first_records(path, name, fields))
    found = next((format for format in formats if format is not None), None)
    if found is None and fields.choice.format == "auto":
        first = next(_first_records(path, name, fields), None)
        if first is not None:
            raise unrecognised(first.fields, name)
    return found or "chat"


def _preference_format(path: Path, name: str, fields: Fields) -> PreferenceFormat:
    """The format of the first record with a known format of preferences; `pairs` if no record can be read."""
    choice, first = fields.preferences, None
    for record in _first_records(path, name, fields):
        found = recognise_preference(record.fields, choice)
        if found is not None:
            return found
        first = first or record
    if first is not None:
        raise unrecognised_preference(first.fields, choice, name)
    return "pairs"


def _first_records(path: Path, name: str, fields: Fields) -> Iterator[RawRecord]:
    records = raw_records(path, name, ENDINGS[ending(path)], fields.bad)
    return cast(Iterator[RawRecord], itertools.islice(records, _LOOKED_AT))


def _first_values(path: Path, name: str, fields: Fields) -> Iterator[Any]:
    """The first values of a file: its records, or the values of any type in a JSON file."""
    first = next(_first_records(path, name, fields), None) if ending(path) in (".jsonl", ".ndjson") else None
    has_prompt = first is not None and recognise(first.fields, fields.choice) is not None
    if ending(path) in _JSON and not has_prompt:  # the `documents` of a question are not records of their own
        values = (value for _, value in tagged_values(path, name, fields.bad))
        return itertools.islice(values, _LOOKED_AT)
    return (with_spans(record.fields) for record in _first_records(path, name, fields))


def is_tagged_text(path: Path, name: str, fields: Fields | None = None) -> bool:
    """Whether a text file has entities: its first lines are CoNLL columns, or it is in BRAT or PubTator format."""
    if file_kind(path) == "columns":
        bad = (fields or Fields()).bad
        encoding = text_encoding(bad)
        lines = (line.decode(encoding, "replace").strip() for _, _, line in read_lines(path, name, bad))
        return looks_like_columns(list(itertools.islice(filter(None, lines), _LOOKED_AT)), _TAGGED_SHARE)
    return file_kind(path) in ("brat", "pubtator")
