"""Reads preferences and splits them into training and test sets.

data = open_preferences(PreferenceSource("pairs.jsonl"))
data.train[0].chosen, len(data.test), data.facts["split"]

All examples are kept in memory, as conversations are. The formats are in `fields`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.conversations.reading_log import ReadingLog, none_usable
from domain_ft.corpus.conversations.sources import source_name, source_records
from domain_ft.corpus.holding_out import find_copies, hold_out
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.preferences.examples import Example, PreferenceExample, RatedExample
from domain_ft.corpus.preferences.fields import PreferenceChoice, PreferenceFormat, recognise, unrecognised
from domain_ft.corpus.preferences.parsing import parse
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, RawRecord, Reject
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.wording import counted

Kind = Literal["pairs", "rated"]
"""What examples are: pairs of answers, or single answers that are good or bad."""

_PROGRESS = 1_000  # records between two reports of progress


@dataclass(frozen=True)
class PreferenceSource:
    """Where preferences are and how to read them. The attributes that are not listed are options of the same name.

    Attributes:
        data: a file, or `hf:ID[:config]`.
        choice: the format and the fields that the user named.
    """

    data: str
    test: str | None = None
    choice: PreferenceChoice = field(default_factory=PreferenceChoice)
    on_bad_record: OnBadRecord = "stop"
    encoding: str | None = None
    test_fraction: float = 0.1

    @classmethod
    def of(cls, settings: Any) -> PreferenceSource:
        """The source in a verb's settings. Options that the verb does not have keep their default."""
        names = ("data", "test", "on_bad_record", "encoding", "test_fraction")
        options = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
        return cls(choice=PreferenceChoice.of(settings), **options)


@dataclass(frozen=True)
class PreferenceData:
    """Preferences, read and split.

    Attributes:
        train, test: the two sets.
        kind: of all examples.
        format: the format of the training records.
        key: a hash of the content.
        name: the name shown in reports.
        facts: what reports show: `examples` and `prompts` (number by set), `split` (how it was made), `rejects` (number
            of records left out), `ties` (number of pairs of equally good answers, which are left out), `leaks` (number
            of test examples whose prompt is, or nearly is, in training), `leak_list` (the first of them, each with both
            ids and the similarity), `kind` and `format`.
        notes: remarks for the user, each a sentence.
        left_out: counts of the records that are left out and of the fields that are not read.
    """

    train: Sequence[Example]
    test: Sequence[Example]
    kind: Kind
    format: PreferenceFormat
    key: str
    name: str
    facts: dict[str, Any]
    notes: list[str]
    left_out: LeftOut = field(default_factory=LeftOut)


def open_preferences(
    source: PreferenceSource,
    *,
    rejects: Callable[[Reject], None] | None = None,
    progress: Progress | None = None,
) -> PreferenceData:
    """Read preferences and hold out a test set.

    Without a test file, a fraction is held out in whole groups: examples whose prompts are copies or near copies, and
    examples from one source, are in one group. See `hold_out`.

    Args:
        source: where the preferences are and how to read them.
        rejects: receives each record that is left out, after all are read.
        progress: called with (label, records done, None) after every 1,000 records.

    Raises:
        CorpusError: a file or field is missing or wrong, the files hold different kinds of examples, or too few
            examples can be held out.
    """
    rejected: list[Reject] = []
    left_out, notes = LeftOut(), list[str]()
    bad = BadRecords(source.on_bad_record, rejected.append, source.encoding)
    reading = _Reading(source.choice, bad, left_out, rejected, notes, progress)
    train, format = reading.read(source.data, "train")
    kind: Kind = "rated" if format == "rated" else "pairs"
    facts: dict[str, Any] = {"leaks": 0, "leak_list": []}
    if source.test is not None:
        test, test_format = reading.read(source.test, "test")
        if (test_format == "rated") != (kind == "rated"):
            of = {True: "rated answers", False: "pairs of answers"}
            raise CorpusError(
                f"the test file holds {of[test_format == 'rated']}, but the training file {of[kind == 'rated']}",
                where=source.test,
                fix="give two files of the same kind",
            )
        facts["split"] = "as given"
        facts["leaks"], facts["leak_list"] = find_copies(*(map(_compared, part) for part in (train, test)))
        if facts["leaks"]:
            notes.append(
                f"The prompts of {facts['leaks']:,} of the {len(test):,} test examples have a copy or near copy in the "
                "training examples: scores on them mean little."
            )
    else:
        prompts = list(map(prompt_text, train))
        groups = [example.source.group or "" for example in train]
        held, facts["split"] = hold_out(prompts, groups, prompts, source.test_fraction, where=source.data)
        test = list(itertools.compress(train, held))
        train = list(itertools.compress(train, ~held))
    for reject in rejected if rejects else ():
        assert rejects is not None
        rejects(reject)
    notes += _notes(train, reading, left_out)
    left_out.records = len(rejected)
    facts |= {
        "examples": {"train": len(train), "test": len(test)},
        "prompts": {"train": _prompts(train), "test": _prompts(test)},
        "rejects": len(rejected),
        "ties": reading.ties,
        "kind": kind,
        "format": format,
    }
    key, name = _key(train, test), source_name(source.data)
    return PreferenceData(train, test, kind, format, key, name, facts, notes, left_out)


class _Reading:
    """Reads files of preferences. `ties` counts the pairs that are not made because their answers are equally good."""

    def __init__(
        self,
        choice: PreferenceChoice,
        bad: BadRecords,
        left_out: LeftOut,
        rejected: list[Reject],
        notes: list[str],
        progress: Progress | None,
    ) -> None:
        self.choice, self.bad, self.left_out, self.rejected = choice, bad, left_out, rejected
        self.notes, self.progress = notes, progress
        self.ties = 0

    def read(self, spec: str, part: str) -> tuple[list[Example], PreferenceFormat]:
        """All examples of a source, and their format, which the first record decides. Adds to `notes`."""
        log = ReadingLog(self.bad, self.left_out, self.rejected.append, check_options=" --kind preferences")
        examples: list[Example] = []
        format: PreferenceFormat | None = None
        before = len(self.rejected)
        for count, (record, name) in enumerate(source_records(spec, part, self.bad, "preferences"), 1):
            format = format or self._format(record, name)
            examples += self._examples(record, name, format, log)
            if self.progress and count % _PROGRESS == 0:
                self.progress(f"reading {name}", count, None)
        if not examples or format is None:
            raise none_usable("preferences", spec, self.rejected[before:])
        self.notes += log.notes(spec, texts=not self.choice.prompt_field)
        return examples, format

    def _format(self, record: RawRecord, name: str) -> PreferenceFormat:
        found = recognise(record.fields, self.choice)
        if found is None:
            where = name if record.line is None else f"{name}, line {record.line}"
            raise unrecognised(record.fields, self.choice, where)
        return found

    def _examples(self, record: RawRecord, name: str, format: PreferenceFormat, log: ReadingLog) -> tuple[Example, ...]:
        parsed = parse(record, name, format, self.choice)
        self.ties += parsed.ties
        texts = [
            turn.content for example in parsed.examples for turn in itertools.chain(example.prompt, *example.answers)
        ]
        named = {field for field in (self.choice.id_field, self.choice.group_field) if field}
        log.add(record, name, parsed, texts=texts or None, named=named, id_field=self.choice.id_field)
        return parsed.examples


def prompt_text(example: Example) -> str:
    """The text by which prompts are compared: all turns before the answers except the system turns."""
    return normalise("\n".join(turn.content for turn in example.prompt if turn.role != "system"))


def _compared(example: Example) -> tuple[str, str]:
    return example.id, prompt_text(example)


def _prompts(examples: Sequence[Example]) -> int:
    return len(set(map(prompt_text, examples)))


def _notes(train: Sequence[Example], reading: _Reading, left_out: LeftOut) -> list[str]:
    """Remarks on ties, on records that are left out, and on labels of which there is only one kind."""
    notes = []
    if reading.ties:
        notes.append(
            f"{counted(reading.ties, 'pair of answers is', 'pairs of answers are')} equally good by their scores, "
            "ranks or winner, and left out."
        )
    if left_out.records:
        notes.append(
            f"{counted(left_out.records, 'record is', 'records are')} left out as a tie or because of a mark; "
            "rejects.jsonl lists them."
        )
    labels = Counter(example.desirable for example in train if isinstance(example, RatedExample))
    if len(labels) == 1:
        notes.append(f"All training examples are rated as {'good' if True in labels else 'bad'}: there is no contrast.")
    return notes


def _key(train: Sequence[Example], test: Sequence[Example]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (train, test):
        for example in part:
            turns = [[turn.message() for turn in turns] for turns in (example.prompt, *example.answers)]
            judged = example.margin if isinstance(example, PreferenceExample) else example.desirable
            content = [example.id, turns, example.source.tools, judged]
            digest.update(json.dumps(content, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()
