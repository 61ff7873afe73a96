"""Reads preferences and splits them into training and test sets.

data = open_preferences(PreferenceSource("pairs.jsonl"))
data.train[0].chosen, len(data.test), data.facts["split"]

pairs   {"prompt", "chosen", "rejected"}: texts, or lists of messages. Without a prompt, `chosen` and `rejected` are
        whole conversations, and the prompt is what they begin with in common. `margin` is optional.
rated   {"prompt", "completion", "label"}: the label is true or false, or 1 or 0.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.faults import Faults
from domain_ft.corpus.conversations.messages import read_turns
from domain_ft.corpus.inputs import RECORD_ENDINGS, input_records
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.near_copies import text_fingerprints
from domain_ft.corpus.preferences.examples import Example, PreferenceExample, RatedExample
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, RawRecord, Reject, as_id
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.splitting import draw, groupings, why_none_held_out
from domain_ft.errors import CorpusError
from domain_ft.progress import Progress
from domain_ft.quoting import listed
from domain_ft.storage import user_path
from domain_ft.wording import counted

Kind = Literal["pairs", "rated"]

FIELDS: Mapping[Kind, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected", "margin"),
    "rated": ("prompt", "completion", "label"),
}
"""The fields that are read, by kind."""

_PROGRESS = 1_000  # records between two reports of progress
_LABELS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class PreferenceSource:
    """Where preferences are and how to read them. The attributes are options of the same names."""

    data: str
    test: str | None = None
    on_bad_record: OnBadRecord = "stop"
    encoding: str | None = None
    test_fraction: float = 0.1
    id_field: str | None = None
    group_field: str | None = None

    @classmethod
    def of(cls, settings: Any) -> PreferenceSource:
        """The source in a verb's settings."""
        return cls(**{one.name: getattr(settings, one.name) for one in dataclasses.fields(cls)})


@dataclass(frozen=True)
class PreferenceData:
    """Preferences, read and split.

    Attributes:
        train, test: the two sets.
        format: `pairs` or `rated`.
        key: a hash of the content.
        name: the name shown in reports.
        facts: what reports show: `split` (how it was made), and `leaks` (test prompts that are also in training).
        notes: remarks for the user, each a sentence.
        left_out: counts of the records that are left out and of the fields that are not read.
    """

    train: Sequence[Example]
    test: Sequence[Example]
    format: Kind
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

    Without a test file, a fraction is held out in whole groups: examples whose prompts are copies or near copies, or
    that come from one source, are in one group.

    Args:
        source: where the preferences are and how to read them.
        rejects: receives each record that is left out.
        progress: called with (label, records done, None) after every 1,000 records.

    Raises:
        CorpusError: a file or field is missing or wrong, or too few examples can be held out.
    """
    left_out, rejected = LeftOut(), list[Reject]()
    bad = BadRecords(source.on_bad_record, rejected.append, source.encoding)
    train, kind = _read(source, source.data, bad, left_out, progress)
    facts: dict[str, Any] = {"leaks": 0}
    if source.test is not None:
        test, test_kind = _read(source, source.test, bad, left_out, progress)
        if test_kind != kind:
            raise CorpusError(
                f"the test file has {test_kind}, but the training file has {kind}",
                where=source.test,
                fix="give two files of the same kind",
            )
        known = set(map(_prompt_text, train))
        facts |= {"split": "as given", "leaks": sum(_prompt_text(example) in known for example in test)}
    else:
        train, test, facts["split"] = _hold_out(train, source)
    notes = []
    if facts["leaks"]:
        notes.append(f"{facts['leaks']:,} of the {len(test):,} test prompts are also in the training examples.")
    margins = sum(isinstance(example, PreferenceExample) and example.margin is not None for example in train)
    if margins:
        notes.append(f"{counted(margins, 'pair has', 'pairs have')} a margin, which no loss of prefer uses.")
    for reject in rejected:
        if rejects:
            rejects(reject)
    left_out.records = len(rejected)
    return PreferenceData(train, test, kind, _key(train, test), name_of(source.data), facts, notes, left_out)


def _read(
    source: PreferenceSource, spec: str, bad: BadRecords, left_out: LeftOut, progress: Progress | None
) -> tuple[list[Example], Kind]:
    """All examples of a file, and their kind, which the first record decides."""
    path = user_path(spec)
    if path.is_file() and ending(path) not in RECORD_ENDINGS:
        fix = f"supported endings: {', '.join(RECORD_ENDINGS)}"
        raise CorpusError(f"preferences cannot be read from a file ending in '{ending(path)}'", where=spec, fix=fix)
    kind: Kind | None = None
    examples: list[Example] = []
    named = [name for name in (source.id_field, source.group_field) if name]
    for number, (record, name) in enumerate(input_records(path, bad), 1):
        kind = kind or _kind_of(record, name)
        present = [field for field, value in record.fields.items() if value not in (None, "")]
        left_out.see_fields(present, (*FIELDS[kind], *named))
        example = _Record(record, name, source, bad).example(kind)
        if example is not None:
            examples.append(example)
        if progress and number % _PROGRESS == 0:
            progress(f"reading {name}", number, None)
    if kind is None or not examples:
        raise CorpusError("there are no usable preferences", where=spec, fix="give a file with preferences")
    return examples, kind


def _kind_of(record: RawRecord, name: str) -> Kind:
    fields = record.fields
    if "chosen" in fields and "rejected" in fields:
        return "pairs"
    if {"prompt", "completion", "label"} <= set(fields):
        return "rated"
    raise CorpusError(
        f"these are not preferences: the record has the fields {listed(map(str, fields))}",
        where=name if record.line is None else f"{name}, line {record.line}",
        fix="name the fields prompt, chosen and rejected; or, for --loss kto, prompt, completion and label",
    )


class _Record:
    """Reads one record; what is wrong with it goes to `bad`."""

    def __init__(self, record: RawRecord, name: str, source: PreferenceSource, bad: BadRecords) -> None:
        self.fields, self.line, self.file, self.bad = record.fields, record.line, name, bad
        given = as_id(record.fields.get(source.id_field)) if source.id_field else None
        self.id = str(given) if given is not None else f"{name}:{record.line}"
        group = record.fields.get(source.group_field) if source.group_field else None
        self.source = Conversation(self.id, name, record.line, (), group=None if group is None else str(group))

    def example(self, kind: Kind) -> Example | None:
        """The example; None if it cannot be used."""
        faults = Faults()
        found = self._pair(faults) if kind == "pairs" else self._rated(faults)
        errors = [fault for fault in faults.found if fault.error]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            self.bad.add(errors[0].message + more, file=self.file, line=self.line, field=errors[0].field)
            return None
        return found

    def _pair(self, faults: Faults) -> PreferenceExample | None:
        prompt = self._prompt(faults)
        chosen, rejected = (self._answer(name, prompt, faults) for name in ("chosen", "rejected"))
        if faults.fatal:
            return None
        if not prompt:
            shared = 0
            for one, other in zip(chosen, rejected, strict=False):
                if (one.role, one.content) != (other.role, other.content):
                    break
                shared += 1
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        self._check(prompt, {"chosen": chosen, "rejected": rejected}, faults)
        if not faults.fatal and [turn.content.strip() for turn in chosen] == [
            turn.content.strip() for turn in rejected
        ]:
            faults.error("equal-answers", "rejected", "the chosen and the rejected answer are the same")
        margin = self.fields.get("margin")
        if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
            faults.error("wrong-type", "margin", "the margin is not a number")
            margin = None
        return PreferenceExample(self.id, tuple(prompt), tuple(chosen), tuple(rejected), margin, self.source)

    def _rated(self, faults: Faults) -> RatedExample | None:
        prompt = self._prompt(faults)
        completion = self._answer("completion", prompt, faults)
        label = _LABELS.get(str(self.fields.get("label")).strip().lower())
        if label is None:
            faults.error("bad-label", "label", f"the label is {self.fields.get('label')!r}, not true or false (1 or 0)")
        if faults.fatal:
            return None
        self._check(prompt, {"completion": completion}, faults)
        return RatedExample(self.id, tuple(prompt), tuple(completion), bool(label), self.source)

    def _prompt(self, faults: Faults) -> list[Turn]:
        value = self.fields.get("prompt")
        if value is None:
            return []
        if isinstance(value, str):
            text = faults.text(value, "prompt")
            return [Turn("user", text)] if text and text.strip() else []
        return [turn for _, turn in read_turns(value, "prompt", faults) if turn is not None]

    def _answer(self, name: str, prompt: Sequence[Turn], faults: Faults) -> list[Turn]:
        """The turns of an answer; a list of messages that begins with the prompt loses it."""
        value = self.fields.get(name)
        if isinstance(value, str):
            return [Turn("assistant", faults.text(value, name) or "")]
        turns = [turn for _, turn in read_turns(value, name, faults) if turn is not None]
        contents = [(turn.role, turn.content) for turn in turns[: len(prompt)]]
        return turns[len(prompt) :] if prompt and contents == [(one.role, one.content) for one in prompt] else turns

    def _check(self, prompt: Sequence[Turn], answers: Mapping[str, Sequence[Turn]], faults: Faults) -> None:
        if not any(turn.role == "user" for turn in prompt):
            place = "prompt" if "prompt" in self.fields else next(iter(answers))
            faults.error("no-prompt", place, "there is no prompt: no user turn comes before the answers")
        for name, turns in answers.items():
            if not turns or turns[-1].role != "assistant" or not turns[-1].content.strip():
                faults.error("empty-answer", name, "there is no answer: the last turn is not the assistant's, or empty")
            elif turns[0].role != "assistant":
                faults.error("other-prompt", name, "the answer begins with another prompt than that of the pair")


def _prompt_text(example: Example) -> str:
    """The user's turns before the answer, normalised."""
    return normalise("\n".join(turn.content for turn in example.prompt if turn.role != "system"))


def _hold_out(examples: Sequence[Example], source: PreferenceSource) -> tuple[list[Example], list[Example], str]:
    """Training examples, held-out examples, and a description of the split: see `conversations.reading`."""
    texts = list(map(_prompt_text, examples))
    prints = text_fingerprints(texts)
    target = source.test_fraction * len(examples)
    sources = [example.source.group or "" for example in examples]
    for copies, groups in groupings(prints, sources, texts):
        held = draw(groups, prints.hashes, [()] * len(examples), source.test_fraction)
        if held.sum() >= max(target / 2, 1):
            said = f"{source.test_fraction:.0%} of the examples are held out, whole groups of {copies} of prompts"
            kept = [list(itertools.compress(examples, chosen)) for chosen in (~held, held)]
            return kept[0], kept[1], said
    why = why_none_held_out(groups, [()] * len(examples), source.test_fraction)
    raise CorpusError(
        f"too few of the {counted(len(examples), 'example')} can be held out: {why}",
        where=source.data,
        fix="give more examples, a larger --test-fraction, or a file of test examples: --test FILE",
    )


def _key(train: Sequence[Example], test: Sequence[Example]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (train, test):
        for example in part:
            turns = [[turn.message() for turn in turns] for turns in (example.prompt, *example.answers)]
            label = getattr(example, "desirable", None)
            digest.update(json.dumps([example.id, turns, label], sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()
