"""From the fields of a record to an example: which field is the text, the pair, the label, and what a label may be.

A label is a name. A number is one too, and so are true and false: `1` and `"1"` are one class, whatever the file.
Where a record has a list of labels, or several columns of 0 and 1, any number of classes may hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from domain_ft.corpus.cleaning import clean
from domain_ft.corpus.readers.base import BadRecords, RawRecord, TextField, as_id, field_names, kind_of, usual_id
from domain_ft.corpus.tasks.examples import Example, Input
from domain_ft.errors import CorpusError, nearest

TEXT_NAMES = ("text", "sentence", "sentence1", "document", "content", "body", "question", "premise", "text1")
# What the second text of a pair is called where the first has one of these names.
_SECOND_NAMES = {"sentence1": "sentence2", "premise": "hypothesis", "question": "context", "text1": "text2"}
LABEL_NAMES = ("label", "labels", "category", "categories", "class", "classes", "target")
_TRUTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True)
class FieldNames:
    """What the fields of an example are called. Several names, separated by commas, may stand for text, pair and label.

    Attributes:
        text: what is classified; several fields are joined by a blank line.
        pair: the second text of a pair.
        label: the label or list of labels; or several columns of 0 and 1.
        id: what names the record.
        group: which records share a source.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    id: str | None = None
    group: str | None = None


class ExampleFields:
    """Makes examples of records. The fields that were not named are found by the first record and then kept.

    Args:
        names: the fields that are known.
        labelled: whether records have labels; those to be predicted have none, or any.
        several: whether several labels may hold, where that is known already.
        classes: the names that numbers stand for, by field, as the data sets of a hub have them.
        required: of records to be predicted, which of "text" and "id" the user named: these fields have to be there.
            Where they need not, other fields with usual names serve, and a record without an id is named by its place.

    Attributes:
        names: the fields, all found once a record was read.
        several: whether several labels may hold; None before the first record.
        kinds: how many labels were text, numbers, true or false.
        unread: a field that looks like the second text of pairs, and was not asked for.
    """

    def __init__(
        self,
        names: FieldNames,
        *,
        labelled: bool = True,
        several: bool | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        required: Collection[str] = (),
    ) -> None:
        self.names, self.labelled, self.several = names, labelled, several
        self.classes = classes or {}
        self.required = frozenset(required)
        self.kinds: Counter[str] = Counter()
        self.unread: str | None = None
        self._settled = False
        self._text = TextField(names.text, "", usual=TEXT_NAMES)
        self._pair = TextField(names.pair, "", option="--pair-field")

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The fields of the label: one, or several columns of 0 and 1."""
        return field_names(self.names.label)

    @property
    def read(self) -> frozenset[str]:
        """The fields that are read, once a record was."""
        names = (*self._text.names, *self._pair.names, *self.label_columns, self.names.id, self.names.group)
        return frozenset(name for name in names if name)

    def columns(self, file: str) -> Callable[[Mapping[str, bool]], list[str]]:
        """What chooses the columns of a file that has a header; it raises CorpusError where one is missing."""

        def choose(fields: Mapping[str, bool]) -> list[str]:
            self._settle(fields, file)
            wanted = [*self._text.names, *self._pair.names]
            if self.labelled:
                wanted += [*self.label_columns, *([self.names.group] if self.names.group else [])]
            if self.names.id and (self.labelled or "id" in self.required or self.names.id in fields):
                wanted.append(self.names.id)
            for field in wanted:
                if field not in fields:
                    raise CorpusError(f"there is no field '{field}'", where=file, fix=nearest(field, fields))
            return list(dict.fromkeys(wanted))

        return choose

    def example(self, record: RawRecord, file: str, bad: BadRecords) -> Example | None:
        """The example that a record is; None where it is none, which is reported once."""
        fields = record.fields
        self._settle({field: _is_text(value) for field, value in fields.items()}, file)
        text, pair = self._text.of(fields, bad, record.line), None
        if text is None:
            return None
        given, text = text, clean(text)
        if not text:
            fix = "leave the record out or give it a text"
            bad.add("the text is empty", file=file, line=record.line, field=self.names.text, fix=fix)
            return None
        if self.names.pair:
            pair = self._pair.of(fields, bad, record.line)
            if pair is None:
                return None
            pair = clean(pair)
        if not self.labelled:
            key = self._key(record, file, bad)
            return None if key is None else Input(str(key), text, (), pair, "", file, record.line, given, key)
        name = self._name(record, file, bad)
        if name is None:
            return None
        labels = self._labels(record, file, bad)
        group = "" if labels is None or not self.names.group else self._plain(record, self.names.group, file, bad)
        return None if labels is None or group is None else Example(name, text, labels, pair, group, file, record.line)

    def _settle(self, fields: Mapping[str, bool], file: str) -> None:
        """Find the fields that were not named. `fields`: those of the first record, and whether each holds text."""
        self._text.name = self._pair.name = file
        if self._settled:
            return
        label = self.names.label
        if self.labelled and label is None:
            label = next((name for name in LABEL_NAMES if name in fields), None)
            if label is None:
                listed = ", ".join(fields) or "none"
                fix = "name it: --label-field F (label_field in a TOML)"
                raise CorpusError(
                    f"it is not clear which field holds the label; the fields are: {listed}", where=file, fix=fix
                )
        if not self.labelled and "text" not in self.required and not set(self._text.names) <= set(fields):
            self._text.names = ()  # what is to be predicted may call its text by another name than the training did
        if not self.labelled and "id" not in self.required and self.names.id not in fields:
            self.names = replace(self.names, id=usual_id(fields))
        taken = {*field_names(label), *self._pair.names, self.names.id, self.names.group}
        text = self._text.settle({name: is_text and name not in taken for name, is_text in fields.items()})
        second = _SECOND_NAMES.get(text[0]) if not self.names.text and not self.names.pair else None
        self.unread = second if fields.get(second or "") else None
        self.names = replace(self.names, text=",".join(text), label=label)
        self._settled = True

    def _labels(self, record: RawRecord, file: str, bad: BadRecords) -> tuple[str, ...] | None:
        columns = self.label_columns
        for column in columns:
            if column not in record.fields:
                fix = f"name the right one with --label-field ({nearest(column, map(str, record.fields))})"
                bad.add("the field is missing", file=file, line=record.line, field=column, fix=fix)
                return None
        if len(columns) > 1:
            self.several = True
            return self._marked(record, columns, file, bad)
        value = record.fields[columns[0]]
        several = isinstance(value, list)
        if self.several is None:
            self.several = several
        if several != self.several:
            given, before = ("a list", "one label") if several else ("one label", "a list of labels")
            reason = f"the field holds {given}, where the records before it hold {before}"
            bad.add(reason, file=file, line=record.line, field=columns[0], fix="write all labels in the same way")
            return None
        names = [self._class(item, columns[0]) for item in (value if several else [value])]
        wrong = [item for item, name in zip(value if several else [value], names, strict=True) if not name]
        if wrong:
            hidden = " (the labels of this split seem to be hidden)" if wrong[0] == -1 else ""
            what = "an empty label" if wrong[0] == "" else kind_of(wrong[0])
            what = f"the number {wrong[0]}, which stands for no class{hidden}" if what == "a number" else what
            reason = f"the field holds {what}, where a label is wanted"
            bad.add(reason, file=file, line=record.line, field=columns[0], fix="give the record its label")
            return None
        return tuple(dict.fromkeys(name for name in names if name))

    def _marked(self, record: RawRecord, columns: Sequence[str], file: str, bad: BadRecords) -> tuple[str, ...] | None:
        """The columns that hold 1."""
        held = []
        for column in columns:
            truth = _TRUTH.get(str(record.fields[column]).strip().lower())
            if truth is None:
                reason = f"the field holds {str(record.fields[column])[:40]!r}, where 0 or 1 is wanted"
                bad.add(reason, file=file, line=record.line, field=column)
                return None
            if truth:
                held.append(clean(column))
        self.kinds["columns"] += 1
        return tuple(held)

    def _class(self, value: Any, field: str) -> str | None:
        """The name of the class that a label stands for; None or empty where it is no label."""
        if isinstance(value, bool):
            self.kinds["bool"] += 1
            return "true" if value else "false"
        if isinstance(value, str):
            self.kinds["text"] += 1
            return clean(value)
        if not isinstance(value, int | float) or value != value:
            return None
        known = self.classes.get(field)
        if known is not None:
            return clean(known[int(value)]) if 0 <= value < len(known) else None
        self.kinds["number"] += 1
        return str(int(value)) if value == int(value) else str(value)

    def _name(self, record: RawRecord, file: str, bad: BadRecords) -> str | None:
        field = self.names.id
        if field:
            return self._plain(record, field, file, bad)
        if record.key is not None:
            return clean(record.key)
        return f"{file}:{record.line}"

    def _key(self, record: RawRecord, file: str, bad: BadRecords) -> str | int | float | None:
        """The id of a record to be predicted, as the record has it; None where it has none and one is required."""
        field = self.names.id
        key = as_id(record.fields.get(field)) if field else None
        if key is None and "id" in self.required:
            reason = "the field is missing" if field not in record.fields else "the field holds no name"
            fix = "name the right one with --id-field, or leave that out: records are then named by their place"
            bad.add(f"{reason}, where a name is wanted", file=file, line=record.line, field=field, fix=fix)
            return None
        return key if key is not None else record.key or f"{file}:{record.line}"

    def _plain(self, record: RawRecord, field: str, file: str, bad: BadRecords) -> str | None:
        """What an id or group is called."""
        value = record.fields.get(field)
        if isinstance(value, str | int | float) and str(value):
            return clean(str(value))
        reason = "the field is missing" if field not in record.fields else f"the field holds {kind_of(value)}"
        bad.add(f"{reason}, where a name is wanted", file=file, line=record.line, field=field)
        return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], str))
