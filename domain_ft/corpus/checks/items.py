"""The records of a file as the checks take them, whatever the file is for: texts with the fields they stand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.readers import ENDINGS, raw_records
from domain_ft.corpus.readers.base import BadRecords, RawRecord, Reject, TextField, decode, read_lines
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.tasks.entity_files import TagFields, read_tagged
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames


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
        unread: its fields that the verb does not read.
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
    comparable: bool = True
    unread: tuple[str, ...] = ()

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
    """

    found: list[Finding] = field(default_factory=list)

    @property
    def bad(self) -> BadRecords:
        """For a reader: it goes on behind what it cannot read."""
        return BadRecords("skip", self.add)

    def add(self, reject: Reject) -> None:
        """Note a record that was rejected."""
        self.found.append(Finding(reject.line, reject.field, _kind(reject.reason), reject.reason, error=True))

    def take(self) -> list[Finding]:
        """What was found, which is then forgotten."""
        found, self.found = self.found, []
        return found


# What a reader says of a record that it rejects -> the kind of finding that it is. The first of them counts: what is
# said of a tag shows the word beside it, which may hold any of the others.
_KINDS = {
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
    "the field holds": "wrong-type",
    "an object is wanted": "broken-record",
    "columns": "broken-record",
    "fields, where the header": "broken-record",
    "tag": "bad-tag",
    "span": "bad-span",
}


def _kind(reason: str) -> str:
    return next((kind for words, kind in _KINDS.items() if words in reason), "unreadable")


def example_items(path: Path, name: str, names: FieldNames, bad: BadRecords) -> Iterator[Item]:
    """Labelled examples, as `classify` reads them."""
    fields = ExampleFields(names)
    for record in raw_records(path, name, ENDINGS[ending(path)], bad, fields.columns(name)):
        example = fields.example(record, name, bad)
        texts = tuple(Passage(field, text) for field, text in _texts_of(record, fields.names))
        if example is None:
            yield Item(record.line, texts)
            continue
        prompt = example.text if example.pair is None else f"{example.text}\n{example.pair}"
        answer = ", ".join(sorted(example.labels))
        yield Item(record.line, texts, prompt, answer, fields.names.label, labels=example.labels)


def _texts_of(record: RawRecord, names: FieldNames) -> Iterator[tuple[str, str]]:
    for part in (names.text, names.pair):
        for column in (part or "").split(","):
            value = record.fields.get(column.strip())
            if isinstance(value, str):
                yield column.strip(), value


def tag_items(path: Path, name: str, fields: TagFields, bad: BadRecords) -> Iterator[Item]:
    """Texts with entities, as `tag` reads them."""
    texts, _ = read_tagged(path, name, fields, None, bad)
    for text in texts:
        labels = tuple(span.label for span in text.spans)
        marked = ";".join(f"{span.start}-{span.end}:{span.label}" for span in text.spans)
        yield Item(
            text.line, (Passage(fields.text or "text", text.text),), text.text, marked, "entities", labels=labels
        )


def text_items(path: Path, name: str, text_field: str | None, bad: BadRecords) -> Iterator[Item]:
    """Documents of records, or the lines of a plain text, as `adapt` reads them."""
    reader = ENDINGS[ending(path)]
    if reader != "text":
        chosen = TextField(text_field, name)
        for record in raw_records(path, name, reader, bad, chosen.settle):
            text = chosen.of(record.fields, bad, record.line)
            if text is not None and not text.strip():
                bad.add("the text is empty", file=name, line=record.line, field=",".join(chosen.names))
            elif text is not None:
                found = tuple(_strings_of(record.fields, chosen.names))
                yield Item(record.line, found)
        return
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line and line.strip():
            yield Item(number, (Passage("", line),), comparable=False)


def _strings_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Passage]:
    """The texts of some fields, each of which may be a list of texts."""
    for name in names:
        value = fields.get(name)
        for place, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, str):
                yield Passage(f"{name}[{place}]" if isinstance(value, list) else name, part)
