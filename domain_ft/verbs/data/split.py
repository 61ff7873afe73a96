"""`domain-ft data split`: split a file of records into training, validation and test files, with copies in one part.

split(DataSplitSettings(data="all.jsonl", output=Path("parts"), test_fraction=0.2)).parts["test"].records
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from domain_ft.corpus.checks.opening import is_tagged_text
from domain_ft.corpus.cleaning import clean
from domain_ft.corpus.conversations.formats import FieldChoice, Format, parse, recognise
from domain_ft.corpus.conversations.reading import compared_text, first_prompt
from domain_ft.corpus.near_copies import Fingerprints, text_fingerprints
from domain_ft.corpus.preferences.fields import PreferenceChoice, PreferenceFormat
from domain_ft.corpus.preferences.fields import recognise as recognise_preference
from domain_ft.corpus.preferences.parsing import parse as parse_preference
from domain_ft.corpus.preferences.reading import prompt_text
from domain_ft.corpus.readers import raw_records
from domain_ft.corpus.readers.base import RawRecord, TextField, kind_of, read_lines
from domain_ft.corpus.shuffling import scramble
from domain_ft.corpus.splitting import draw_parts, groupings, lowest_hashes
from domain_ft.corpus.tasks.fields import TEXT_NAMES
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.locks import writing_beside
from domain_ft.report.plain import plain
from domain_ft.storage import new_folder
from domain_ft.verbs.data.files import Refusing, json_line, record_file, refuse_existing
from domain_ft.verbs.data.settings import DataSplitSettings
from domain_ft.wording import counted

PARTS = ("train", "validation", "test")
MOST_IN_LARGE = 0.5
"""If more than this share of the records is in families too large to split off, only nearer copies are joined."""

Integers = npt.NDArray[np.int64]

# Makes the hashes differ from those by which `adapt` holds text out. With the same hashes, `adapt` would look for the
# very records that were split off here, and find none of them in the training file.
_PURPOSE = np.uint64(0x5DA7A5B117)


@dataclass(frozen=True)
class Part:
    """A file that was written."""

    file: Path
    records: int


@dataclass(frozen=True)
class Split:
    """The result of a split.

    A family is a group of copies, of conversations with the same first prompt, or of records of one source.

    Attributes:
        records: the number of all records.
        compared_by: what was compared to find copies, in words.
        joined: which copies form families: near copies, nearest copies or copies.
        families: the number of families of two or more records.
        in_families: the number of records in these families.
        parts: by the names in `PARTS`: train, and those that were requested.
    """

    records: int
    compared_by: str
    joined: str
    families: int
    in_families: int
    parts: Mapping[str, Part]


def split(settings: DataSplitSettings) -> Split:
    """Write the parts of a file to a new folder. JSON lines in UTF-8 are copied; other records become JSON lines.

    The part of a record depends on a hash of its family's content. So adding unrelated records usually does not move
    it, and the fractions are met on average, not exactly. A family that is too large for its part goes to training.

    Raises:
        SettingsError: the fractions leave nothing to train on or split off nothing, or --output is not a new or empty
            folder.
        RecordError: a record cannot be read, is not a conversation although the first is, or lacks its text or group.
        CorpusError: the file does not exist, cannot be split, or has too few records for a part.
    """
    shares = _shares(settings)
    _refuse_taken(settings.output)
    path, kind = record_file(settings.data)
    if kind == "tsv" and is_tagged_text(path, path.name):
        raise CorpusError(
            "this is a file of words and tags in columns, not a table of records",
            where=settings.data,
            fix="give the whole file to tag, which splits it by documents or sentences",
        )
    reading = _Reading(path, kind, settings)
    prints = text_fingerprints(reading)
    joined, groups = _families(reading, prints, max(shares.values()))
    sizes = np.bincount(groups)
    part_of = _parts_of(groups, prints.hashes, shares)
    counts = dict(zip(PARTS, np.bincount(part_of, minlength=len(PARTS)).tolist(), strict=True))
    for part in ("train", *shares):
        if counts[part] == 0:
            raise CorpusError(
                f"the part '{part}' would be empty: the file has {counted(len(groups), 'record')}, and the "
                f"largest group of {joined} holds {sizes.max():,}",
                where=settings.data,
                fix="give this part another fraction, or choose its records by hand",
            )
    _write(settings.output, part_of, _lines(path, kind, reading.lines, settings.encoding))
    parts = {part: Part(settings.output / f"{part}.jsonl", count) for part, count in counts.items() if count}
    families = sizes[sizes > 1]
    return Split(len(groups), reading.compared_by, joined, len(families), int(families.sum()), parts)


def run(settings: DataSplitSettings) -> dict[str, Any]:
    """The verb: split, and print the parts."""
    found = split(settings)
    console = Console(quiet=settings.json, highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("records", justify="right")
    table.add_column("share", justify="right")
    table.add_column("file", overflow="fold")
    for name, part in found.parts.items():
        table.add_row(name, f"{part.records:,}", f"{part.records / found.records:.1%}", plain(str(part.file)))
    console.print(table)
    if found.families:
        source = "" if settings.group_field is None else f" or have the same {settings.group_field}"
        console.print(
            f"\n{found.in_families:,} of {counted(found.records, 'record')} are {found.joined}{source}, compared by "
            f"{found.compared_by}: {counted(found.families, 'family', 'families')}, each kept in one part."
        )
    parts = {name: {"file": str(part.file), "records": part.records} for name, part in found.parts.items()}
    return {"command": "data split", "data": settings.data} | dataclasses.asdict(found) | {"parts": parts}


def _refuse_taken(output: Path) -> None:
    if not (output.is_dir() and not any(output.iterdir())):
        refuse_existing(output)


def _shares(settings: DataSplitSettings) -> dict[str, float]:
    """The fraction of each part to split off."""
    shares = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    if not any(shares.values()):
        raise SettingsError("--test-fraction and --validation-fraction are 0: nothing is split off", fix="raise one")
    if sum(shares.values()) >= 1:
        raise SettingsError("--test-fraction and --validation-fraction leave nothing to train on", fix="lower one")
    return {part: share for part, share in shares.items() if share}


def _families(reading: _Reading, prints: Fingerprints, share: float) -> tuple[str, Integers]:
    """Which copies form families, and the (records,) family number of each record.

    If most records are similar, such as prompts with one long instruction, near copies would form a single family, and
    nothing could be split off.
    """
    for joined, groups in groupings(prints, reading.sources, reading.asked):
        found = joined, groups
        sizes = np.bincount(groups)
        if sizes[sizes > max(share * len(groups), 1)].sum() <= MOST_IN_LARGE * len(groups):
            break
    return found


def _parts_of(groups: Integers, hashes: npt.ArrayLike, shares: Mapping[str, float]) -> Integers:
    """(records,) the index in `PARTS` of each record's part.

    A family's position between 0 and 1 is a hash of the smallest hash of its records. The smallest hash itself would be
    lower in larger families, so they would be held out too often.
    """
    keys = scramble(lowest_hashes(groups, hashes) ^ _PURPOSE)
    places = np.array([PARTS.index(part) for part in ("train", *shares)])
    return places[draw_parts(keys, np.bincount(groups), list(shares.values()))][groups]


class _Compared(NamedTuple):
    """What is compared to find copies of a record: its text, and the first prompt of a conversation."""

    text: str
    asked: str = ""


class _Reading:
    """Iterates once over the records of a file, and yields the texts by which copies are found.

    Attributes:
        lines: the line of each record, as in `RawRecord`.
        sources: the value of the group field of each record; empty strings without --group-field.
        asked: the first prompt of each conversation; empty strings for other records.
        compared_by: what these texts are, in words for the user.
    """

    def __init__(self, path: Path, kind: str, settings: DataSplitSettings) -> None:
        self.lines: list[int | None] = []
        self.sources: list[str] = []
        self.asked: list[str] = []
        self.compared_by = ""
        self._path, self._kind, self._settings = path, kind, settings
        self._bad = Refusing(settings.encoding)

    def __iter__(self) -> Iterator[str]:
        records = raw_records(self._path, self._path.name, self._kind, self._bad)
        first = next(records, None)
        if first is None:
            raise CorpusError("the file holds no records", where=str(self._path))
        compare = self._comparison_by(first)
        for record in itertools.chain([first], records):
            compared = compare(record)
            self.lines.append(record.line)
            self.sources.append(self._source(record))
            self.asked.append(compared.asked)
            yield clean(compared.text)

    def _comparison_by(self, first: RawRecord) -> Callable[[RawRecord], _Compared]:
        """The function that extracts what is compared from a record. The `first` record decides which it is."""
        settings, name = self._settings, self._path.name
        is_named = bool(settings.text_field or settings.answer_field) or settings.format != "auto"
        judged = None if is_named else recognise_preference(first.fields, _of_preferences(settings))
        if judged is not None and judged != "rated":
            self.compared_by = "their prompts"
            return lambda record: self._prompt(record, judged)
        format_ = None if settings.text_field else recognise(first.fields, FieldChoice.of(settings))
        if format_ is not None:
            self.compared_by = "what is asked and answered"
            return lambda record: self._conversation(record, format_)
        usual = next((field for field in TEXT_NAMES if isinstance(first.fields.get(field), str)), None)
        named = settings.text_field or usual
        if named is None:
            self.compared_by = "all their text"
            return lambda record: _Compared("\n".join(_texts(record.fields)) or str(dict(record.fields)))
        self.compared_by = f"the field {named}"
        field = TextField(named, name)
        return lambda record: _Compared(field.of(record.fields, self._bad, record.line) or "")

    def _conversation(self, record: RawRecord, format_: Format) -> _Compared:
        name = self._path.name
        parsed = parse(record, name, format_, FieldChoice.of(self._settings), compared=True)
        for fault in parsed.faults:
            if fault.error:
                self._bad.add(fault.message, file=name, line=record.line, field=fault.field)
        conversation = parsed.conversation
        assert conversation is not None  # no error among the faults, so there is a conversation
        return _Compared(compared_text(conversation), first_prompt(conversation))

    def _prompt(self, record: RawRecord, judged: PreferenceFormat) -> _Compared:
        """The prompt of preferences; all text of a record that `prefer` would refuse."""
        examples = parse_preference(record, self._path.name, judged, _of_preferences(self._settings)).examples
        prompt = prompt_text(examples[0]) if examples else "\n".join(_texts(record.fields))
        return _Compared(prompt, prompt)

    def _source(self, record: RawRecord) -> str:
        field = self._settings.group_field
        if field is None:
            return ""
        value = record.fields.get(field)
        if not isinstance(value, str | int | float) or not str(value):
            reason = "the field is missing" if field not in record.fields else f"the field holds {kind_of(value)}"
            self._bad.add(f"{reason}, where a name is expected", file=self._path.name, line=record.line, field=field)
        return str(value)


def _of_preferences(settings: DataSplitSettings) -> PreferenceChoice:
    return PreferenceChoice(prompt_field=settings.prompt_field)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _lines(path: Path, kind: str, numbers: Sequence[int | None], encoding: str | None) -> Iterator[bytes]:
    """The records as lines. JSON lines in UTF-8 are copied, with a newline as their only line end."""
    if kind != "jsonl" or encoding is not None or not _has_an_object_per_line(path):
        for record in raw_records(path, path.name, kind, Refusing(encoding)):
            yield json_line(record.fields, f"{path.name}, line {record.line}")
        return
    record_lines = set(numbers)
    for number, _, content in read_lines(path, path.name, Refusing()):
        if number in record_lines:
            yield content.rstrip(b"\r\n") + b"\n"


def _has_an_object_per_line(path: Path) -> bool:
    """Whether a .jsonl file has one object per line, judged by its first line that is not blank.

    Such a file may also hold a JSON list, or objects over several lines.
    """
    for _, _, content in read_lines(path, path.name, Refusing()):
        if content.strip():
            with contextlib.suppress(ValueError, RecursionError):
                return isinstance(json.loads(content), dict)
            return False
    return False


def _write(output: Path, part_of: Integers, lines: Iterator[bytes]) -> None:
    """Write each line to the file of its part."""
    with writing_beside(output), new_folder(output) as folder, contextlib.ExitStack() as stack:
        _refuse_taken(output)  # again: another process may have created it meanwhile
        files = {
            place: stack.enter_context((folder / f"{PARTS[place]}.jsonl").open("wb"))
            for place in np.unique(part_of).tolist()
        }
        for line, place in zip(lines, part_of.tolist(), strict=True):
            files[place].write(line)
