"""The form in which the checks receive the records of any kind of file: texts with their fields."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.template_markers import find_template_marker
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.preferences.examples import Example
from domain_ft.corpus.readers import ENDINGS, NEEDED, raw_records, reader
from domain_ft.corpus.readers.base import (
    BadRecords,
    RawRecord,
    Reject,
    TextField,
    decode,
    field_names,
    join_names,
    looked_at,
    read_lines,
)
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.tagging.entities import TaggedText, spelling_variants
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.reading import has_columns, read_tagged
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.corpus.tasks.labels import LabelRules
from domain_ft.quoting import made_visible


@dataclass(frozen=True)
class Passage:
    """A text of a record.

    Attributes:
        field: its path, such as `messages[2].content`; empty for a line of plain text.
        text: the text, unchanged.
        role: the role of the speaker: `system`, `user`, `assistant` or `tool`; `text` if there is none.
    """

    field: str
    text: str
    role: str = "text"


@dataclass(frozen=True)
class Item:
    """A record, read as far as possible.

    Attributes:
        line: the line of the record.
        passages: its readable texts.
        prompt, answer: the prompt, and the answer, labels or entities; None if the record has no such parts.
        answer_field: the field of the answer.
        findings: what is wrong with the form of the record.
        roles: the roles of its turns.
        conversation: its conversation, as `instruct` reads it; None if `instruct` would refuse it, or the file has no
            conversations.
        labels: the labels of an example, or of the entities of a text.
        unread: the fields that are not read.
        comparable: whether to report copies of it. Lines of plain text are not compared, because many repeat naturally;
            nor are files that are one document, such as a PDF.
        examples: its preferences, as `prefer` reads them; none if `prefer` would refuse it, or the file has none.
        one_answer: whether another answer to the same prompt contradicts this one.
    """

    line: int | None
    passages: tuple[Passage, ...]
    prompt: str | None = None
    answer: str | None = None
    answer_field: str | None = None
    findings: tuple[Finding, ...] = ()
    roles: tuple[str, ...] = ()
    conversation: Conversation | None = None
    labels: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    comparable: bool = True
    examples: tuple[Example, ...] = ()
    one_answer: bool = True

    @property
    def text(self) -> str:
        """All its text."""
        return "\n".join(passage.text for passage in self.passages)

    @property
    def compared(self) -> str:
        """The text by which copies are found: all passages except system turns, which many records share."""
        return "\n".join(passage.text for passage in self.passages if passage.role != "system")


Visit = Callable[[Passage], str]
"""Receives each text of a record, and returns its replacement."""


@dataclass
class Rejections:
    """Collects, as findings, what a reader could not read.

    Attributes:
        found: the findings since the last call of `take`.
        encoding: the encoding of the file; None for UTF-8.
    """

    found: list[Finding] = field(default_factory=list)
    encoding: str | None = None

    @property
    def bad(self) -> BadRecords:
        """A policy for readers: collect bad records, and continue."""
        return _Collecting(self)

    def add(self, reject: Reject) -> None:
        """Add a record that was rejected."""
        self.found.append(Finding(reject.line, reject.field, _kind(reject.reason), reject.reason, error=True))

    def take(self) -> list[Finding]:
        """Return and clear the findings."""
        found, self.found = self.found, []
        return found


class _Collecting(BadRecords):
    """Never stops. A record that cannot be read becomes an error; one that its annotator rejected becomes a warning."""

    def __init__(self, rejections: Rejections) -> None:
        super().__init__("skip", rejections.add, rejections.encoding)
        self.explains = True
        self._rejections = rejections

    def leave_out(self, reason: str, *, file: str, line: int | None = None, field: str | None = None) -> None:
        """Add a warning about a record that is left out because of a mark in it."""
        del file
        self._rejections.found.append(Finding(line, field, "left-out", reason))


# Part of a reader's message -> the kind of the finding. The first match counts. Messages that contain a word or tag of
# the file come early, because that word may contain any of the other parts.
_KINDS = {
    "the text of a span is": "contradicting-span",
    "differ only in case": "label-spelling",
    "is not a tag": "bad-tag",
    "an entity begins with": "bad-tag",
    "is not ended": "bad-tag",
    "UTF-8": "not-utf8",
    "UTF-16": "not-utf8",
    "broken": "broken-record",
    "zero byte": "broken-record",
    "field is missing": "missing-field",
    "the file is empty": "empty-file",
    "is empty": "empty-text",
    "empty or wrong cell": "empty-text",
    "no records": "empty-file",
    "there is no label": "no-label",
    "the field holds": "wrong-type",
    "an object is": "broken-record",
    "column": "broken-record",
    "fields, where the header": "broken-record",
    "repeats the header": "broken-record",
    "tag": "bad-tag",
    "span": "bad-span",
}
_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")  # values of the file, which may contain any words


def _kind(reason: str) -> str:
    words = _matched_fragment(reason)
    return "unreadable" if words is None else _KINDS[words]


def _matched_fragment(reason: str) -> str | None:
    """The first key of `_KINDS` in a message, ignoring quoted values; None if the message has none."""
    unquoted = _QUOTED.sub("", reason)
    return next((words for words in _KINDS if words in unquoted), None)


def example_items(
    path: Path, name: str, names: FieldNames, bad: BadRecords, rules: LabelRules | None = None
) -> Iterator[Item]:
    """Labelled examples as `classify` reads them. The first item has the findings about all labels of the file."""
    kind = ENDINGS[ending(path)]
    fields = ExampleFields(names, rules=rules)
    if kind == "parquet":
        from domain_ft.corpus.readers.parquet import file_class_names  # imports pyarrow

        fields.classes = file_class_names(path)
    survey, silent = fields.survey(), BadRecords("skip", lambda _: None, bad.encoding)
    records = fields.plain(raw_records(path, name, kind, silent), name, silent)
    for record in looked_at(records, functools.partial(survey.look, file=name), silent):
        survey.example(record, name, silent)
    notes, problems = survey.finish()
    findings = tuple(
        Finding(one.line, fields.names.label, one.kind, f"{one.what}; {one.fix}", error=True) for one in problems
    )
    findings += tuple(Finding(None, fields.names.label, "label-note", note) for note in notes)
    for record in fields.plain(raw_records(path, name, kind, bad, fields.columns(name)), name, bad):
        example = fields.example(record, name, bad)
        texts = tuple(Passage(field, text) for field, text in _texts_of(record, fields.names))
        unread = tuple(fields.unread_in(record))
        if example is None:
            yield Item(record.line, texts, findings=findings, unread=unread)
        else:
            prompt = example.text if example.pair is None else f"{example.text}\n{example.pair}"
            answer = ", ".join(sorted(example.labels))
            labels = example.labels
            yield Item(record.line, texts, prompt, answer, fields.names.label, findings, labels=labels, unread=unread)
        findings = ()


def _texts_of(record: RawRecord, names: FieldNames) -> Iterator[tuple[str, str]]:
    for part in (names.text, names.pair):
        for column in field_names(part):
            value = record.fields.get(column)
            if isinstance(value, str):
                yield column, value


def tag_items(path: Path, name: str, fields: TagFields, bad: BadRecords, left: LeftOut) -> Iterator[Item]:
    """Texts with entities as `tag` reads them. `left` collects the fields and files that are not read."""
    notes = list[str]()
    texts, _ = read_tagged(path, name, fields, None, bad, left=left, notes=notes)
    kind = "columns" if has_columns(path) else "span-lists"
    about = [Finding(None, None, kind, note) for note in notes]
    about += [Finding(None, one.file, "unread-file", f"{one.file} is not read: {one.reason}") for one in left.files]
    for names in spelling_variants(span.label for text in texts for span in text.spans):
        listed = ", ".join(f"'{made_visible(label)}'" for label in names)
        bad.add(f"entity types differ only in case, spaces, Unicode form, _ or -: {listed}", file=name)
    for text in texts:
        labels = tuple(span.label for span in text.spans)
        marked = ";".join(f"{span.start}-{span.end}:{span.label}" for span in text.spans)
        passages = (Passage(fields.text or "text", text.text),)
        findings = (*about, *_changed_spans(text))
        yield Item(text.line, passages, text.text, marked, "entities", findings, labels=labels)
        about = []


def _changed_spans(text: TaggedText) -> Iterator[Finding]:
    """Findings on entities that reading changes."""
    if text.overlapping:
        message = f"entities that overlap a longer or equally long one are left out: {text.overlapping:,}"
        yield Finding(text.line, "entities", "overlapping-spans", message)
    if text.unlabelled:
        message = f"spans whose label means no entity, such as O or N/A, are left out: {text.unlabelled:,}"
        yield Finding(text.line, "entities", "unlabelled-spans", message)
    if text.joined:
        message = f"entities with several parts are read as one span, from the first part to the last: {text.joined:,}"
        yield Finding(text.line, "entities", "discontinuous-spans", message)


def text_items(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[Item]:
    """The texts that `adapt` reads: one per record, one per line of plain text, or the text of a file such as a PDF."""
    kind = ENDINGS[ending(path)]
    if kind in NEEDED:
        for document in reader(kind)(path, name, None, bad):
            yield Item(None, (Passage("text", document.text),), comparable=False)
        return
    if kind != "text":
        chosen = TextField(text_field, name)
        for record in looked_at(raw_records(path, name, kind, bad, chosen.choose), chosen.look, bad):
            text = chosen.of(record.fields, bad, record.line)
            if text is not None and not text.strip():
                bad.add("the text is empty", file=name, line=record.line, field=join_names(chosen.names))
            elif text is not None:
                passages = tuple(_strings_of(record.fields, chosen.names))
                unread = tuple(name for name in map(str, record.fields) if name not in chosen.names)
                yield Item(record.line, passages, findings=tuple(_rendered(record.line, passages)), unread=unread)
        return
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line and line.strip():
            yield Item(number, (Passage("", line),), comparable=False)


def _rendered(line: int | None, passages: Iterable[Passage]) -> Iterator[Finding]:
    """A finding for each text that is a conversation rendered by a chat template."""
    for passage in passages:
        marker = find_template_marker(passage.text)
        if marker is not None:
            reason = f"the text contains the chat template marker {marker}"
            fix = "to learn only its answers, write its turns as messages (role and content) and use instruct"
            message = f"{reason}: {fix}"
            yield Finding(line, passage.field, "rendered-text", message, error=False)


def _strings_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Passage]:
    """The texts of some fields. A field may hold a list of texts."""
    for name in names:
        value = fields.get(name)
        for place, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, str):
                yield Passage(f"{name}[{place}]" if isinstance(value, list) else name, part)
