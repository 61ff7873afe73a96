"""Reads conversations and splits them into training and test sets.

data = open_conversations(ConversationSource("train.jsonl"))
data.train[0].turns, len(data.test), data.facts["split"]

`open_conversations` keeps all conversations in memory: 100,000 take a few hundred megabytes.
`iterate_conversations` reads one at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.formats import FieldChoice, Format, parse, recognise, to_chat, unrecognised
from domain_ft.corpus.conversations.reading_log import ReadingLog, none_usable
from domain_ft.corpus.conversations.sources import check_ending, source_name, source_records
from domain_ft.corpus.holding_out import find_copies, hold_out
from domain_ft.corpus.inputs import input_records
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, RawRecord, Reject, as_id, usual_id
from domain_ft.progress import Progress
from domain_ft.wording import counted

_PROGRESS = 1_000  # records between two reports of progress


@dataclass(frozen=True)
class ConversationSource:
    """Where conversations are and how to read them. The attributes that are not listed are options of the same name.

    Attributes:
        data: a file, or `hf:ID[:config]`.
        choice: the format and the fields that the user named.
    """

    data: str
    test: str | None = None
    choice: FieldChoice = field(default_factory=FieldChoice)
    on_bad_record: OnBadRecord = "stop"
    encoding: str | None = None
    test_fraction: float = 0.1

    @classmethod
    def of(cls, settings: Any) -> ConversationSource:
        """The source in a verb's settings. Options that the verb does not have keep their default."""
        names = ("data", "test", "on_bad_record", "encoding", "test_fraction")
        options = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
        return cls(choice=FieldChoice.of(settings), **options)


@dataclass(frozen=True)
class ConversationData:
    """Conversations, read and split.

    Attributes:
        train, test: the two sets.
        format: the format of the training records.
        key: a hash of the content.
        name: the name shown in reports.
        facts: what reports show: `examples` (number by set), `split` (how it was made), `rejects` (number of records
            left out), `leaks` (number of test examples with a copy or near copy in training), `leak_list` (the first of
            them, each with both ids and the similarity) and `format`.
        notes: remarks for the user, each a sentence.
        left_out: counts of the records that are left out, because they cannot be used or are marked as excluded from
            training, and of the fields that are not read.
    """

    train: Sequence[Conversation]
    test: Sequence[Conversation]
    format: Format
    key: str
    name: str
    facts: dict[str, Any]
    notes: list[str]
    left_out: LeftOut = field(default_factory=LeftOut)


def iterate_conversations(
    spec: Path | BinaryIO,
    choice: FieldChoice,
    bad: BadRecords,
    *,
    answered: bool = True,
    left_out: LeftOut | None = None,
    marked: Callable[[Reject], None] | None = None,
) -> Iterator[Conversation]:
    """The conversations of a file or stream, one at a time and in order.

    Args:
        spec: a file of records, or a binary stream of JSON lines.
        choice: the format and fields that the user named. By default, the first record decides the format.
        bad: receives each record that cannot be used.
        answered: whether each record needs an answer to train on. If not, three things change. The last turn may be
            the user's. A file whose ending is not that of a record format, or a stream that does not begin with {, is
            read as text with one prompt per line. If the user named no id field, the `key` is read from a field with a
            usual name for ids.
        left_out: counts the fields that are not read and the records that are marked as excluded from training.
        marked: receives each record that is marked as excluded from training.

    Raises:
        CorpusError: the file does not exist, or the format of its records is unclear.
        RecordError: a record cannot be used, and `bad` stops at such records.
    """
    if isinstance(spec, Path) and answered:
        check_ending(spec)
    reading = _Reading(choice, bad, answered, left_out=left_out, marked=marked)
    for record, name in input_records(spec, bad):
        conversation = reading.conversation(record, name)
        if conversation is not None:
            yield conversation


def open_conversations(
    source: ConversationSource,
    *,
    rejects: Callable[[Reject], None] | None = None,
    progress: Progress | None = None,
) -> ConversationData:
    """Read conversations and hold out a test set.

    Without a test file, a fraction is held out in whole groups. Copies and near copies, conversations with the same
    first prompt, and conversations from one source are in one group. If too few conversations can be held out that way,
    the groups are made smaller: near copies have to be closer, and at last only exact copies and conversations from one
    source are grouped. Which groups are held out depends on hashes of the texts, not on the order of the records.

    Args:
        source: where the conversations are and how to read them.
        rejects: receives each record that is left out, after all are read.
        progress: called with (label, records done, None) after every 1,000 records.

    Raises:
        CorpusError: a file or field is missing or wrong, or too few examples can be held out.
    """
    rejected: list[Reject] = []
    left_out = LeftOut()
    bad = BadRecords(source.on_bad_record, rejected.append, source.encoding)
    facts: dict[str, Any] = {}
    notes: list[str] = []

    def read(spec: str, part: str) -> tuple[list[Conversation], Format]:
        reading = _Reading(source.choice, bad, left_out=left_out, marked=rejected.append)
        return _read(spec, part, reading, rejected, notes, progress)

    train, format = read(source.data, "train")
    if source.test is not None:
        test, _ = read(source.test, "test")
        facts["split"] = "as given"
        facts["leaks"], facts["leak_list"] = find_copies(*(map(_compared, part) for part in (train, test)))
        if facts["leaks"]:
            notes.append(
                f"{facts['leaks']:,} of the {len(test):,} test examples have a copy or near copy in the training "
                "examples: scores on them mean little."
            )
    else:
        held, facts["split"] = hold_out(
            list(map(compared_text, train)),
            [conversation.group or "" for conversation in train],
            list(map(first_prompt, train)),
            source.test_fraction,
            where=source.data,
        )
        facts["leaks"], facts["leak_list"] = 0, []
        test = list(itertools.compress(train, held))
        train = list(itertools.compress(train, ~held))
    if rejects:
        for reject in rejected:
            rejects(reject)
    if left_out.records:
        notes.append(
            f"{counted(left_out.records, 'record is', 'records are')} marked as excluded from training "
            "and left out; rejects.jsonl lists them."
        )
    left_out.records = len(rejected)
    facts |= {"examples": {"train": len(train), "test": len(test)}, "rejects": len(rejected), "format": format}
    return ConversationData(train, test, format, _key(train, test), source_name(source.data), facts, notes, left_out)


class _Reading:
    """Converts the records of one source to conversations. The first record decides the format of all."""

    def __init__(
        self,
        choice: FieldChoice,
        bad: BadRecords,
        answered: bool = True,
        *,
        left_out: LeftOut | None = None,
        marked: Callable[[Reject], None] | None = None,
    ) -> None:
        self.choice, self.bad, self.answered = choice, bad, answered
        self.log = ReadingLog(bad, left_out or LeftOut(), marked)
        self.format: Format | None = None

    def conversation(self, record: RawRecord, name: str) -> Conversation | None:
        """The conversation of a record. None if the record cannot be used or is marked as excluded from training."""
        if self.format is None:
            self.format = recognise(record.fields, self.choice, answered=self.answered)
            if self.format is None:
                raise unrecognised(record.fields, name if record.line is None else f"{name}, line {record.line}")
        parsed = parse(record, name, self.format, self.choice, answered=self.answered)
        id_field = self.choice.id_field or (None if self.answered else usual_id(record.fields))
        self.log.add(
            record,
            name,
            parsed,
            texts=None if parsed.conversation is None else [turn.content for turn in parsed.conversation.turns],
            named={field for field in (id_field, self.choice.group_field) if field},
            id_field=id_field,
        )
        if parsed.conversation is None:
            return None
        key = as_id(record.fields.get(id_field)) if id_field else None
        return dataclasses.replace(parsed.conversation, key=parsed.conversation.id if key is None else key)


# --- Sources ----------------------------------------------------------------------------------------------------------


def _read(
    spec: str,
    part: str,
    reading: _Reading,
    rejected: Sequence[Reject],
    notes: list[str],
    progress: Progress | None,
) -> tuple[list[Conversation], Format]:
    """All conversations of a source, and their format. Warnings are added to `notes`."""
    conversations = []
    before = len(rejected)
    for number, (record, name) in enumerate(source_records(spec, part, reading.bad), 1):
        conversation = reading.conversation(record, name)
        if conversation is not None:
            conversations.append(conversation)
        if progress and number % _PROGRESS == 0:
            progress(f"reading {name}", number, None)
    if not conversations or reading.format is None:
        raise none_usable("conversations", spec, rejected[before:])
    named = reading.choice.prompt_field or reading.choice.answer_field  # then the user decided what is read
    notes += reading.log.notes(spec, texts=not named)
    return conversations, reading.format


def _key(train: Iterable[Conversation], test: Iterable[Conversation]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (train, test):
        for conversation in part:
            digest.update(json.dumps([conversation.id, to_chat(conversation)], sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


# --- Splits -----------------------------------------------------------------------------------------------------------


def compared_text(conversation: Conversation) -> str:
    """The text by which copies are found: all turns except the system turns, since many conversations share these."""
    return "\n".join(turn.content for turn in conversation.turns if turn.role != "system")


def _compared(conversation: Conversation) -> tuple[str, str]:
    return conversation.id, compared_text(conversation)


def first_prompt(conversation: Conversation) -> str:
    """The user's first turn, normalised."""
    return next((normalise(turn.content) for turn in conversation.turns if turn.role == "user"), "")
