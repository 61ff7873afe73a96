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
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.extra_fields import names_reasoning
from domain_ft.corpus.conversations.faults import Fault
from domain_ft.corpus.conversations.formats import FieldChoice, Format, parse, recognise, to_chat, unrecognised
from domain_ft.corpus.conversations.placeholders import Placeholders
from domain_ft.corpus.corpus import hub_revision
from domain_ft.corpus.duplicates import NEAR
from domain_ft.corpus.hub_splits import SPLIT_NAMES, flat, hub_splits
from domain_ft.corpus.inputs import RECORD_ENDINGS, input_records
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.near_copies import Bools, all_similar_pairs, text_fingerprints
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, RawRecord, Reject, as_id, usual_id
from domain_ft.corpus.readers.files import ending, stem
from domain_ft.corpus.readers.packing import PACKED
from domain_ft.corpus.recipes import Source
from domain_ft.corpus.splitting import draw, groupings, why_none_held_out
from domain_ft.corpus.unread_values import UnreadValues
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.storage import user_path
from domain_ft.wording import counted

_LISTED = 100  # leaks that the facts name
_PLACEHOLDERS = 5  # placeholders that the notes name
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
        _check_ending(spec)
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
        facts["leaks"], facts["leak_list"] = _leaks(train, test)
        if facts["leaks"]:
            notes.append(
                f"{facts['leaks']:,} of the {len(test):,} test examples have a copy or near copy in the training "
                "examples: scores on them mean little."
            )
    else:
        held, facts["split"] = _hold_out(train, source)
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
    return ConversationData(train, test, format, _key(train, test), _name(source.data), facts, notes, left_out)


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
        self.left_out, self.marked = left_out or LeftOut(), marked
        self.format: Format | None = None
        self.placeholders = Placeholders()
        self.unread = UnreadValues(texts=True)
        self.warnings: dict[str, list[Fault]] = defaultdict(list)

    def conversation(self, record: RawRecord, name: str) -> Conversation | None:
        """The conversation of a record. None if the record cannot be used or is marked as excluded from training."""
        if self.format is None:
            self.format = recognise(record.fields, self.choice, answered=self.answered)
            if self.format is None:
                raise unrecognised(record.fields, name if record.line is None else f"{name}, line {record.line}")
        parsed = parse(record, name, self.format, self.choice, answered=self.answered)
        id_field = self.choice.id_field or (None if self.answered else usual_id(record.fields))
        blank = [name for name, value in record.fields.items() if value is None or value == ""]
        self.left_out.see_fields(parsed.unread, [*blank, *([id_field] if id_field else [])])
        if parsed.left_out is not None:
            self.left_out.records += 1
            if self.marked is not None:
                self.marked(Reject(name, record.line, parsed.left_out.field, parsed.left_out.message))
            return None
        if parsed.conversation is not None:
            texts = [turn.content for turn in parsed.conversation.turns]
            named = {id_field, self.choice.group_field}
            self.unread.add(record.fields, [name for name in parsed.unread if name not in named], texts)
            self.placeholders.add(record.line, (turn.content for turn in parsed.conversation.turns))
        errors = [fault for fault in parsed.faults if fault.error]
        for fault in parsed.faults:
            if not fault.error:
                self.warnings[fault.kind].append(fault)
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            fix = f"`domain-ft data check {name}` lists everything that is wrong"
            self.bad.add(errors[0].message + more, file=name, line=record.line, field=errors[0].field, fix=fix)
        if parsed.conversation is None:
            return None
        key = as_id(record.fields.get(id_field)) if id_field else None
        return dataclasses.replace(parsed.conversation, key=parsed.conversation.id if key is None else key)


def _check_ending(path: Path) -> None:
    if path.is_file() and ending(path) not in RECORD_ENDINGS:
        kind = f"a file ending in '{ending(path)}'" if ending(path) else "a file with no ending"
        fix = f"supported endings: {', '.join(RECORD_ENDINGS)}, each also with {', '.join(PACKED)}"
        raise CorpusError(f"conversations cannot be read from {kind}", where=str(path), fix=fix)
    if path.is_dir():
        raise CorpusError("this is a folder, not a file", where=str(path), fix="name a file in it")


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
    for number, (record, name) in enumerate(_records(spec, part, reading.bad), 1):
        conversation = reading.conversation(record, name)
        if conversation is not None:
            conversations.append(conversation)
        if progress and number % _PROGRESS == 0:
            progress(f"reading {name}", number, None)
    if not conversations or reading.format is None:
        left_out = rejected[before:]
        why = (
            f": {counted(len(left_out), 'record is', 'records are')} left out. The first: {left_out[0].reason}"
            if left_out
            else ""
        )
        fix = "`domain-ft data check` lists everything that is wrong" if left_out else "give a file with conversations"
        raise CorpusError(f"there are no usable conversations{why}", where=spec, fix=fix)
    for kind, faults in reading.warnings.items():
        notes.append(f"{counted(len(faults), 'time')} in {spec}: {faults[0].message} ({kind}).")
    notes += [f"In {spec}, {one.message}." for one in reading.placeholders.unfilled()[:_PLACEHOLDERS]]
    notes += [f"In {spec}: {note}" for note in reading.unread.verdict_notes()]
    if not (reading.choice.prompt_field or reading.choice.answer_field):  # otherwise the user decided what is read
        notes += [f"In {spec}, {note}" for note in reading.unread.text_notes(names_reasoning)]
    return conversations, reading.format


def _records(spec: str, part: str, bad: BadRecords) -> Iterator[tuple[RawRecord, str]]:
    if spec.startswith("hf:"):
        yield from _hub_records(spec, part)
        return
    path = user_path(spec)
    _check_ending(path)
    yield from input_records(path, bad)


def _hub_records(spec: str, part: str) -> Iterator[tuple[RawRecord, str]]:
    """The records of a data set's split for `part` ("train" or "test"), or of its only split, whatever its name."""
    from domain_ft.corpus.readers.hub import open_splits  # imports datasets

    identifier, _, config = spec.removeprefix("hf:").partition(":")
    if not identifier:
        raise CorpusError("'hf:' names no data set", where=spec, fix="write hf:ID or hf:ID:config")
    commit = hub_revision(Source(kind="hub", id=identifier, config=config or None))
    splits = list(open_splits(identifier, config or None, commit)) if commit is None else []
    splits = splits or hub_splits(identifier, config or None, commit, [identifier, config, commit])
    split = next((name for name in SPLIT_NAMES[part] if name in splits), splits[0] if len(splits) == 1 else None)
    if split is None:
        reason = f"the data set has no split '{part}', only {', '.join(splits)}"
        raise CorpusError(reason, where=spec, fix="download the split that you mean, and name the file")
    for number, row in enumerate(open_splits(identifier, config or None, commit)[split], 1):
        yield RawRecord(number, flat(row)), f"{spec} {split}"


def _name(spec: str) -> str:
    """The name shown in reports: the name of the file or data set, without endings."""
    path = Path(spec.removeprefix("hf:"))
    return stem(path) or str(path)


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


def first_prompt(conversation: Conversation) -> str:
    """The user's first turn, normalised."""
    return next((normalise(turn.content) for turn in conversation.turns if turn.role == "user"), "")


def _hold_out(conversations: Sequence[Conversation], source: ConversationSource) -> tuple[Bools, str]:
    """(conversations,) True for those that are held out, and a description of the split.

    Uses the first of the `groupings` by which at least one conversation, and half of `test_fraction`, is held out.
    """
    prints = text_fingerprints(map(compared_text, conversations))
    target = source.test_fraction * len(conversations)
    sources = [conversation.group or "" for conversation in conversations]
    prompts = list(map(first_prompt, conversations))
    for copies, groups in groupings(prints, sources, prompts):
        held = draw(groups, prints.hashes, [()] * len(conversations), source.test_fraction)
        if held.sum() >= max(target / 2, 1):
            return held, f"{source.test_fraction:.0%} of the examples are held out, whole groups of {copies} at a time"
    if held.any():
        share = f"only {held.sum():,} of the {counted(len(conversations), 'example')} can be held out"
        why = f"{source.test_fraction:.0%} is asked for, and the other groups of copies are too large"
    else:
        share = f"none of the {counted(len(conversations), 'example')} can be held out"
        why = why_none_held_out(groups, [()] * len(conversations), source.test_fraction)
    raise CorpusError(
        f"{share}: {why}",
        where=source.data,
        fix="give more examples, a larger --test-fraction, or a file of test examples: --test FILE",
    )


def _leaks(train: Sequence[Conversation], test: Sequence[Conversation]) -> tuple[int, list[dict[str, Any]]]:
    """The number of test conversations with a copy or near copy in training, and a list of the first ones."""
    prints = text_fingerprints(map(compared_text, [*train, *test]))
    nearest: dict[int, tuple[float, int]] = {}
    in_train = {digest.tobytes(): place for place, digest in reversed(list(enumerate(prints.digests[: len(train)])))}
    for place, digest in enumerate(prints.digests[len(train) :]):
        if digest.tobytes() in in_train:
            nearest[place] = (1.0, in_train[digest.tobytes()])
    if prints.signatures is not None:
        pairs, similarity = all_similar_pairs(np.asarray(prints.signatures), NEAR)
        for (one, other), share in zip(pairs.tolist(), similarity.tolist(), strict=True):
            if one < len(train) <= other:
                place = other - len(train)
                nearest[place] = max(nearest.get(place, (0.0, 0)), (share, one))
    listed = [
        {"test": test[place].id, "train": train[copy].id, "similarity": round(similarity, 3)}
        for place, (similarity, copy) in sorted(nearest.items())[:_LISTED]
    ]
    return len(nearest), listed
