"""Opens a classification task by name or from files: reads it, splits it, and collects notes for the user.

data = open_task(TaskSource(train="train.csv", test="test.csv"))
data.splits["train"][0].text, data.labels.names, data.notes
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domain_ft.corpus.corpus import content_key
from domain_ft.corpus.examples import SPLITS, Labels, TaskData
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.near_copies import MOST_COMPARED, Bools, duplicate_groups
from domain_ft.corpus.readers.base import BadRecords, Reject, decode, read_bytes
from domain_ft.corpus.splitting import draw, unused_test_ids, why_none_held_out
from domain_ft.corpus.tasks.fields import ExampleFields, FieldNames
from domain_ft.corpus.tasks.fingerprints import fingerprints
from domain_ft.corpus.tasks.reading import Place
from domain_ft.corpus.tasks.sources import TaskSource, find_places
from domain_ft.corpus.tasks.table import ExampleTable, tabulate
from domain_ft.corpus.verdicts import names_verdict
from domain_ft.errors import CorpusError, nearest
from domain_ft.progress import Progress
from domain_ft.quoting import shown
from domain_ft.wording import counted

_MANY_CLASSES = 1_000
_MAJORITY = 0.8  # a class with at least this share of the training examples is noted
_LISTED = 8  # the most names in a message or note


def open_task(
    source: TaskSource,
    *,
    rejects: Callable[[Reject], None] | None = None,
    progress: Progress | None = None,
) -> TaskData:
    """Read a task's examples, or find them in the cache, and split them.

    Args:
        source: where the task is and how to read it.
        rejects: receives each record that is left out.
        progress: called with (label, examples done, total or None).

    Raises:
        CorpusError: a file, field or label is missing or wrong, or there are too few examples.
        AssetError: an asset cannot be fetched.
    """
    opening = _Opening(source, rejects or (lambda _: None), progress)
    return opening.run()


class _Opening:
    """One call of `open_task`, step by step."""

    def __init__(self, source: TaskSource, rejects: Callable[[Reject], None], progress: Progress | None) -> None:
        self.source, self.progress = source, progress
        self.left_out = LeftOut()
        self._rejects = rejects
        self._verdict: str | None = None  # the verdict field of the first record that was left out for its verdict
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}

    def rejects(self, reject: Reject) -> None:
        """Count a record that is left out, and pass it to the caller."""
        self.left_out.records += 1
        if self._verdict is None and reject.field is not None and names_verdict(reject.field):
            self._verdict = reject.field
        self._rejects(reject)

    def run(self) -> TaskData:
        self.source, places, self.facts = find_places(self.source, self.progress)
        names = FieldNames(
            self.source.text_field,
            self.source.pair_field,
            self.source.label_field,
            self.source.id_field,
            self.source.group_field,
        )
        tables: dict[str, ExampleTable] = {}
        multi_label: bool | None = None
        known: set[str] = set()
        for split in SPLITS:
            if split in places:
                tables[split] = self._table(places[split], names, multi_label, known)
                names, multi_label = tables[split].facts.fields, tables[split].facts.multi_label
                known |= set(tables[split].facts.counts) if split == "train" else set()
                self.left_out.fields.update(tables[split].facts.unread_fields)
                self.left_out.files += places[split].unread
                self.notes += [note for note in tables[split].facts.notes if note not in self.notes]
        train = tables["train"].facts
        self.facts["mean_characters"] = round(train.characters / max(train.examples, 1))
        self._note_kinds({places[split].name: table for split, table in tables.items()})
        splits = self._split(tables)
        labels = self._labels(splits["train"], bool(multi_label))
        splits = self._known_only(splits, labels)
        self._note_counts(splits, labels)
        self._note_ids(splits)
        facts = {"fields": dataclasses.asdict(names), **self.facts}
        facts["sources"] = {split: place.name for split, place in places.items()}
        facts["examples"] = {split: len(table) for split, table in splits.items()}
        key = content_key(labels.names, labels.multi_label, {split: table.key for split, table in splits.items()})
        return TaskData(self._name(), labels, splits, key, facts, self.notes, self.left_out)

    # --- tables ---

    def _table(self, place: Place, names: FieldNames, multi_label: bool | None, known: Collection[str]) -> ExampleTable:
        table = tabulate(
            place.content,
            place.read,
            ExampleFields(names, multi_label=multi_label, rules=self.source.label_rules, known=known),
            on_bad_record=self.source.on_bad_record,
            encoding=self.source.encoding,
            rejects=self.rejects,
            progress=self.progress,
            label=f"reading {place.name}",
        )
        if not len(table):
            left_out = table.facts.rejects
            unusable = f"; {counted(left_out, 'record was', 'records were')} left out" if left_out else ""
            raise CorpusError(
                f"there is no usable example{unusable}",
                where=place.name,
                fix="look into rejects.jsonl and check the named fields" if left_out else "give a file with examples",
            )
        return table

    def _name(self) -> str:
        """The task's name for reports: `RECIPE/TASK`, or a name made from that of the training file."""
        if self.source.task:
            return self.source.task
        return name_of(str(self.source.train))

    # --- splits ---

    def _split(self, tables: dict[str, ExampleTable]) -> dict[str, ExampleTable]:
        """All three splits. Missing ones are taken from the training examples."""
        source, train = self.source, tables["train"]
        if source.test_ids and "test" in tables:
            raise unused_test_ids(source.test)
        made = [split for split in ("test", "validation") if split not in tables]
        if not made:
            self.facts.setdefault("split", "as given")
            return {split: tables[split] for split in SPLITS}
        prints = fingerprints(train, self.progress)
        if prints.signatures is None:
            self.notes.append(
                f"There are {len(train):,} training examples: near copies are not searched for among more than "
                f"{MOST_COMPARED:,}, so only exact copies are certain to be in one split."
            )
        groups = duplicate_groups(prints, list(train.groups()) if source.group_field else ())
        first = np.unique(groups, return_index=True)[1]
        train = train.grouped(first[groups])
        labels = list(train.labels())
        hashes = prints.hashes
        rows = np.arange(len(train))
        taken: dict[str, ExampleTable] = {}
        steps = []
        if "test" in made and source.test_ids:
            wanted = self._test_ids(source.test_ids)
            held = np.array([name in wanted for name in train.ids()])
            self._check_test_ids(wanted, held, train, source.test_ids)
            taken["test"], rows = train.take(rows[held]), rows[~held]
            steps.append(f"the test examples are those of {source.test_ids.name}")
            made.remove("test")
        for split in made:
            fraction = source.test_fraction if split == "test" else source.validation_fraction
            held = draw(groups[rows], hashes[rows], [labels[row] for row in rows], fraction)
            if not held.any():
                raise CorpusError(
                    f"no {split} examples can be taken from {len(rows):,} training examples: "
                    + why_none_held_out(groups[rows], [labels[row] for row in rows], fraction),
                    where=self.source.task or self.source.train,
                    fix=f"give more examples that differ, or a file of them: --{split} FILE",
                )
            taken[split], rows = train.take(rows[held]), rows[~held]
            steps.append(f"{fraction:.0%} of the training examples are taken for {split}")
        if made:
            steps.append("whole groups of copies and near copies at a time, the same share of each class")
        self.facts.setdefault("split", "; ".join(steps))
        return {"train": train.take(rows), **{split: taken.get(split) or tables[split] for split in SPLITS[1:]}}

    def _test_ids(self, path: Path) -> set[str]:
        """The ids in a file: one per line, a JSON list, or the keys of a JSON object."""
        if not path.is_file():
            raise CorpusError("there is no such file", where=str(path), fix="check the path of --test-ids")
        bad = BadRecords("stop", lambda _: None)
        data = read_bytes(path, path.name, bad, "split it into several files") or b""
        text = decode(data, path.name, bad) or ""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = [line.strip() for line in text.splitlines()]
        values = value if isinstance(value, list | dict) else [value]
        return {str(item) for item in values if item != ""}

    def _check_test_ids(self, wanted: set[str], held: Bools, train: ExampleTable, path: Path) -> None:
        matching = int(held.sum())
        if not matching:
            raise CorpusError(
                f"none of the {len(wanted):,} ids is the id of a training example; the first training example has the "
                f"id '{train[0].id}'",
                where=str(path),
                fix="name the field of the ids: --id-field F",
            )
        if matching == len(held):
            raise CorpusError("the ids are those of all training examples", where=str(path), fix="give fewer ids")
        unknown = len(wanted.difference(train.ids()))
        if unknown:
            self.notes.append(f"{unknown:,} of the {len(wanted):,} ids in {path.name} belong to no example.")

    # --- classes ---

    def _labels(self, train: ExampleTable, multi_label: bool) -> Labels:
        """The classes of the training examples, sorted."""
        names = sorted(set(itertools.chain.from_iterable(train.labels())), key=_natural)
        if len(names) < 2 and not (multi_label and names):
            reason = (
                f"all training examples have the label '{shown(names[0])}'"
                if names
                else "no training example has a label"
            )
            raise CorpusError(
                f"{reason}: there is nothing to learn",
                where=self.source.task or self.source.train,
                fix="check which field holds the label: --label-field F"
                + (
                    f"; if the annotators' verdicts are the labels: --label-field {self._verdict}"
                    if self._verdict
                    else ""
                ),
            )
        return Labels(tuple(names), multi_label)

    def _known_only(self, splits: dict[str, ExampleTable], labels: Labels) -> dict[str, ExampleTable]:
        """The splits without examples whose labels are not all in training.

        Raises:
            CorpusError: there are such examples and bad records are not skipped, or no other example is left.
        """
        known = set(labels.names)
        for split in SPLITS[1:]:
            table = splits[split]
            if set(table.facts.counts) <= known:
                continue
            unknown = [index for index, labels in enumerate(table.labels()) if not known.issuperset(labels)]
            if not unknown:
                continue
            if self.source.on_bad_record == "stop":
                raise self._unseen(split, table, unknown, known)
            for index in unknown:
                example = table[index]
                label = next(name for name in example.labels if name not in known)
                reason = f"no training example has the label '{shown(label)}'"
                self.rejects(Reject(example.file, example.line, self._label_field(table), reason))
            kept = np.setdiff1d(np.arange(len(table)), unknown)
            if not len(kept):
                raise self._unseen(split, table, unknown, known)
            splits[split] = table.take(kept)
            self.notes.append(
                f"{len(unknown):,} {split} examples are left out because no training example has their labels."
            )
        return splits

    def _unseen(self, split: str, table: ExampleTable, unknown: Sequence[int], known: set[str]) -> CorpusError:
        first = table[unknown[0]]
        names = sorted({name for index in unknown for name in table[index].labels} - known, key=_natural)
        where = first.file + ("" if first.line is None else f", line {first.line}")
        plural = "a label" if len(names) == 1 else f"{len(names):,} labels"
        return CorpusError(
            f"the {split} examples have {plural} that no training example has: {_listed(names)}",
            where=f'{where}, field "{self._label_field(table)}"',
            fix=f"{nearest(names[0], known)}; fix the label, give training examples of it, or leave such records out: "
            "--on-bad-record skip",
        )

    def _label_field(self, table: ExampleTable) -> str:
        return table.facts.fields.label or "label"

    # --- notes ---

    def _note_kinds(self, tables: Mapping[str, ExampleTable]) -> None:
        kinds = {name: {kind for kind, count in table.facts.kinds.items() if count} for name, table in tables.items()}
        every = set().union(*kinds.values())
        field = self._label_field(next(iter(tables.values())))
        names = set().union(*(table.facts.counts for table in tables.values()))
        if len(every) > 1:
            by_file = "; ".join(f"{' and '.join(sorted(found))} in {name}" for name, found in kinds.items())
            self.notes.append(
                f"Labels have different types ({by_file}): they are compared by name, so 1 and '1' are the same."
            )
        if "number" in every or (every == {"text"} and all(map(_is_number, names))):
            self.notes.append(f"The labels in '{field}' are numbers: each is a class. Regression is not supported yet.")

    def _note_counts(self, splits: Mapping[str, ExampleTable], labels: Labels) -> None:
        counts = Counter(itertools.chain.from_iterable(splits["train"].labels()))
        total = len(splits["train"])
        self.facts["counts"] = {
            split: dict(Counter(itertools.chain.from_iterable(table.labels()))) for split, table in splits.items()
        }
        once = [name for name in labels.names if counts[name] == 1]
        if once:
            plural = "A class appears" if len(once) == 1 else f"{len(once):,} classes appear"
            self.notes.append(
                f"{plural} only once in the training examples: {_listed(once)}. That is too rare to learn."
            )
        if len(labels) >= _MANY_CLASSES:
            self.notes.append(
                f"There are {len(labels):,} classes, with {total / len(labels):.1f} training examples each on average."
            )
        name, most = counts.most_common(1)[0]
        if not labels.multi_label and most >= _MAJORITY * total:
            self.notes.append(
                f"{most / total:.0%} of the training examples are '{shown(name)}': always predicting it gives a high "
                "accuracy, but a low macro F1. --balance gives rare classes more weight, or draws them more often."
            )

    def _note_ids(self, splits: Mapping[str, ExampleTable]) -> None:
        """Note repeated ids, which only a field of ids can have: those made of file and line are unique."""
        if not self.source.id_field:
            return
        for split, table in splits.items():
            repeated = len(table) - len(set(table.ids()))
            if repeated:
                self.notes.append(
                    f"{repeated:,} of the {len(table):,} {split} examples repeat the id of an earlier one: the ids in "
                    f"'{self.source.id_field}' are not unique."
                )


def _natural(name: str) -> tuple[int, float, str]:
    """A sort key: numbers by value, then names alphabetically."""
    return (0, float(name), name) if _is_number(name) else (1, 0.0, name)


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{shown(name)}'" for name in names[:_LISTED])
    return listed + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")
