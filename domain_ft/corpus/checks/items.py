"""The records of a file as the checks take them, whatever the file is for: texts with the fields they stand in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.markers import rendered_mark
from domain_ft.corpus.left_out import LeftOut
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
from domain_ft.corpus.tagging.entities import TaggedText, alike
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.reading import has_columns, read_tagged
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.corpus.tasks.labels import LabelRules


@dataclass(frozen=True)
class Passage:
    """A text of a record.

    Attributes:
        field: the path to it, such as `messages[2].content`.
        text: as it stands there.
        role: who says it: `system`, `user`, `assistant` or `tool`; `text` where nobody does.
    """

    field: str
    text: str
    role: str = "text"


@dataclass(frozen=True)
class Item:
    """A record, read as far as it can be.

    Attributes:
        line: where it stands.
        passages: its texts; none where it holds none that can be read.
        prompt, answer: what is asked, and what is to be said, or the label; None where it has no such parts.
        answer_field: where the answer stands.
        findings: what its form has wrong.
        roles: who speaks, turn by turn.
        conversation: what `instruct` would learn from; None where it would refuse it, or of other files.
        labels: of a labelled example or of the entities of a text.
        unread: fields that hold something and are not read.
        comparable: whether copies of it are worth a word; lines of running text repeat themselves.
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

    @property
    def text(self) -> str:
        """All that it says."""
        return "\n".join(passage.text for passage in self.passages)

    @property
    def compared(self) -> str:
        """What copies of it are found by: all but system turns, which many records have in common."""
        return "\n".join(passage.text for passage in self.passages if passage.role != "system")


Visit = Callable[[Passage], str]
"""Told each text of a record; gives the text that is to stand there."""


@dataclass
class Rejections:
    """What a reader could not read, as findings.

    Attributes:
        found: since `take` was last called.
        encoding: what the file is written in; None for UTF-8.
    """

    found: list[Finding] = field(default_factory=list)
    encoding: str | None = None

    @property
    def bad(self) -> BadRecords:
        """For a reader: it goes on behind what it cannot read."""
        return _Noting(self)

    def add(self, reject: Reject) -> None:
        """Note a record that was rejected."""
        self.found.append(Finding(reject.line, reject.field, _kind(reject.reason), reject.reason, error=True))

    def take(self) -> list[Finding]:
        """What was found, which is then forgotten."""
        found, self.found = self.found, []
        return found


class _Noting(BadRecords):
    """Goes on behind all that it is told of: what an annotator rejected is a warning, what cannot be read an error."""

    def __init__(self, rejections: Rejections) -> None:
        super().__init__("skip", rejections.add, rejections.encoding)
        self.explains = True
        self._rejections = rejections

    def leave_out(self, reason: str, *, file: str, line: int | None = None, field: str | None = None) -> None:
        """Note a record that is left out since its source says so."""
        del file
        self._rejections.found.append(Finding(line, field, "left-out", reason))


# What a reader says of a record that it rejects -> the kind of finding that it is. The first of them counts: what is
# said of a tag shows the word beside it, which may hold any of the others.
_KINDS = {
    "a span says that it is": "contradicting-span",
    "differ in case": "label-spelling",
    "is no tag": "bad-tag",
    "an entity begins with": "bad-tag",
    "is not ended": "bad-tag",
    "UTF-8": "not-utf8",
    "UTF-16": "not-utf8",
    "broken": "broken-record",
    "zero byte": "broken-record",
    "field is missing": "missing-field",
    "the file is empty": "empty-file",
    "is empty": "empty-text",
    "where a cell is empty": "empty-text",
    "no records": "empty-file",
    "there is no label": "no-label",
    "the field holds": "wrong-type",
    "an object is wanted": "broken-record",
    "columns": "broken-record",
    "fields, where the header": "broken-record",
    "repeats the header": "broken-record",
    "tag": "bad-tag",
    "span": "bad-span",
}


def _kind(reason: str) -> str:
    return next((kind for words, kind in _KINDS.items() if words in reason), "unreadable")


def example_items(
    path: Path, name: str, names: FieldNames, bad: BadRecords, rules: LabelRules | None = None
) -> Iterator[Item]:
    """Labelled examples, as `classify` reads them; the first has what is wrong with the labels of all."""
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
    """Texts with entities, as `tag` reads them; `left` counts the fields and files that are not read."""
    notes = list[str]()
    texts, _ = read_tagged(path, name, fields, None, bad, left=left, notes=notes)
    kind = "columns" if has_columns(path) else "span-lists"
    about = [Finding(None, None, kind, note) for note in notes]
    about += [Finding(None, one.file, "unread-file", f"{one.file} is not read: {one.reason}") for one in left.files]
    for names in alike(span.label for text in texts for span in text.spans):
        listed = ", ".join(f"'{own}'" for own in names)
        bad.add(f"types of entities differ in case, blanks, _ or - only: {listed}", file=name)
    for text in texts:
        labels = tuple(span.label for span in text.spans)
        marked = ";".join(f"{span.start}-{span.end}:{span.label}" for span in text.spans)
        passages = (Passage(fields.text or "text", text.text),)
        findings = (*about, *_changed_spans(text))
        yield Item(text.line, passages, text.text, marked, "entities", findings, labels=labels)
        about = []


def _changed_spans(text: TaggedText) -> Iterator[Finding]:
    """What reading changes about the entities of a text."""
    if text.overlapping:
        message = f"entities that overlap a longer one are left out: {text.overlapping:,}"
        yield Finding(text.line, "entities", "overlapping-spans", message)
    if text.joined:
        message = f"entities of several parts are read as all from the first to the last: {text.joined:,}"
        yield Finding(text.line, "entities", "discontinuous-spans", message)


def text_items(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[Item]:
    """Documents of records, or the lines of a plain text, as `adapt` reads them."""
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
                found = tuple(_strings_of(record.fields, chosen.names))
                unread = tuple(name for name in map(str, record.fields) if name not in chosen.names)
                yield Item(record.line, found, findings=tuple(_rendered(record.line, found)), unread=unread)
        return
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line and line.strip():
            yield Item(number, (Passage("", line),), comparable=False)


def _rendered(line: int | None, passages: Iterable[Passage]) -> Iterator[Finding]:
    """A finding for each text that is a conversation, as a chat template rendered it."""
    for passage in passages:
        mark = rendered_mark(passage.text)
        if mark is not None:
            reason = f"the text holds the mark {mark} of a chat template: to learn its answers alone, with instruct, "
            message = f"{reason}write its turns as messages (role and content)"
            yield Finding(line, passage.field, "rendered-text", message, error=False)


def _strings_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Passage]:
    """The texts of some fields, each of which may be a list of texts."""
    for name in names:
        value = fields.get(name)
        for place, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, str):
                yield Passage(f"{name}[{place}]" if isinstance(value, list) else name, part)
