"""Converts records to examples: determines the fields of text, pair and label, and reads the labels.

A label is a name. Numbers and truth values are names too: `1` and `"1"` are one class. A task is multi-label if records
have lists of labels, or several columns of 0 and 1. Other notations of labels are recognised from all records of a file
before examples are made (`survey`; see `labels`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from domain_ft.corpus.annotation_tools import label_studio_answers
from domain_ft.corpus.cleaning import clean
from domain_ft.corpus.examples import Example, Input
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import (
    BadRecords,
    RawRecord,
    TextField,
    as_id,
    field_names,
    fields_of,
    join_names,
    kind_of,
    usual_id,
    usual_name,
)
from domain_ft.corpus.readers.choosing import what_fields_hold
from domain_ft.corpus.tasks.choices import chosen, plain_records
from domain_ft.corpus.tasks.labels import LabelForm, LabelProblem, LabelRules, LabelSurvey
from domain_ft.corpus.unread_values import UnreadValues
from domain_ft.corpus.verdicts import accepting_fields, annotation_rejected, names_verdict
from domain_ft.errors import CorpusError, nearest
from domain_ft.quoting import listed, shown

TEXT_NAMES = ("text", "sentence", "sentence1", "document", "content", "body", "question", "premise", "text1")
# The field of the first text of a pair -> the field of the second.
_SECOND_NAMES = {"sentence1": "sentence2", "premise": "hypothesis", "question": "context", "text1": "text2"}
LABEL_NAMES = ("label", "labels", "category", "categories", "class", "classes", "target")
_EMPTIES = frozenset({"nan", "<na>", "null", "#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!"})
_TRUTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True)
class FieldNames:
    """The names of the fields of an example. `text`, `pair` and `label` may be several names, separated by commas.

    Attributes:
        text: the text to classify; several fields are joined by blank lines.
        pair: the second text of a pair.
        label: the label or list of labels, or several columns of 0 and 1.
        id: the record's id.
        group: shared by records from one source.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    id: str | None = None
    group: str | None = None


class ExampleFields:
    """Converts records to examples. Fields that the user did not name are determined from the first records.

    Args:
        names: the fields that the user named.
        labelled: whether records need labels. The labels of records to predict are ignored.
        multi_label: whether the task is multi-label, if known.
        classes: by field, the class names of whole numbers, from a data set on the hub or a Parquet file.
        rules: the options on how labels are written.
        known: the classes of the training examples, if known.
        required: for records to predict, which of "text" and "id" the user named: these fields must be present.
            Otherwise fields with other usual names are used, and a record without an id gets `file:line`.

    Attributes:
        names: the fields, complete after the first record.
        multi_label: whether the task is multi-label; None before the first label.
        kinds: how often labels were written as `text`, `number` (without class names), `bool`, `columns`, `positions`.
        unread: a field that looks like the second text of pairs, but was not named.
        form: how labels are written.
        left_out: counts the fields that are not read.
    """

    def __init__(
        self,
        names: FieldNames,
        *,
        labelled: bool = True,
        multi_label: bool | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        rules: LabelRules | None = None,
        known: Collection[str] = (),
        required: Collection[str] = (),
    ) -> None:
        self.names, self.labelled, self.multi_label = names, labelled, multi_label
        self.classes = classes or {}
        self.rules, self.known = rules or LabelRules(), frozenset(known)
        self.form = LabelForm(separator=self.rules.label_separator, literal=self.rules.label_kind == "names")
        self.left_out = LeftOut()
        self._absent: tuple[str, ...] = ()  # columns of a file that are not read and so are not in its records
        self.required = frozenset(required)
        self.kinds: Counter[str] = Counter()
        self.unread: str | None = None
        self._resolved = False
        self._text = TextField(names.text, "", usual=TEXT_NAMES)
        self._pair = TextField(names.pair, "", option="--pair-field")

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The field of the label, or several columns of 0 and 1."""
        return field_names(self.names.label)

    @property
    def read(self) -> frozenset[str]:
        """The fields that are read; complete after the first record."""
        names = (*self._text.names, *self._pair.names, *self.label_columns, self.names.id, self.names.group)
        return frozenset(name for name in names if name)

    def columns(self, file: str) -> Callable[[Mapping[str, int]], list[str]]:
        """A function that takes a file's header and returns the columns to read.

        The function raises CorpusError if a column is missing.
        """

        def choose(fields: Mapping[str, int]) -> list[str]:
            self._resolve(fields, file)
            wanted = [*self._text.names, *self._pair.names]
            if self.labelled:
                wanted += [*self.label_columns, *([self.names.group] if self.names.group else [])]
            if self.names.id and (self.labelled or "id" in self.required or self.names.id in fields):
                wanted.append(self.names.id)
            for field in wanted:
                if field not in fields:
                    what = f"there is no field '{shown(field)}'; the fields are: {listed(fields)}"
                    raise CorpusError(what, where=file, fix=nearest(field, map(str, fields)))
            if self.labelled:
                wanted += [field for field in fields if names_verdict(field)]
            self._absent = tuple(field for field in fields if field not in wanted)
            return list(dict.fromkeys(wanted))

        return choose

    def example(self, record: RawRecord, file: str, bad: BadRecords) -> Example | None:
        """The example of a record; None if it cannot be made, which is reported."""
        fields = record.fields
        self._resolve({} if self._resolved else what_fields_hold([fields]), file)
        rejected = annotation_rejected(fields, self.read) if self.labelled else None
        if rejected is not None:
            field, reason = rejected
            bad.leave_out(reason, file=file, line=record.line, field=field)
            return None
        if self.labelled:
            self.left_out.fields.update(self.unread_in(record))
        text, pair = self._text.of(fields, bad, record.line), None
        if text is None:
            return None
        original, text = text, clean(text)
        if not text:
            fix = "leave the record out or give it a text"
            bad.add("the text is empty", file=file, line=record.line, field=self.names.text, fix=fix)
            return None
        if self.labelled and text.casefold() in _EMPTIES:
            reason = f"the text is '{text}', a placeholder for an empty or wrong cell"
            fix = "leave the record out or give it a text"
            bad.add(reason, file=file, line=record.line, field=self.names.text, fix=fix)
            return None
        if self.names.pair:
            pair = self._pair.of(fields, bad, record.line)
            if pair is None:
                return None
            pair = clean(pair)
        if not self.labelled:
            key = self._key(record, file, bad)
            return None if key is None else Input(str(key), text, (), pair, "", file, record.line, original, key)
        name = self._name(record, file, bad)
        if name is None:
            return None
        labels = self._labels(record, file, bad)
        group = "" if labels is None or not self.names.group else self._id_or_group(record, self.names.group, file, bad)
        return None if labels is None or group is None else Example(name, text, labels, pair, group, file, record.line)

    def plain(self, records: Iterable[RawRecord], file: str, bad: BadRecords) -> Iterator[RawRecord]:
        """The records of a file, with those of annotation tools converted to plain ones if labels are needed."""
        if not self.labelled:
            yield from records
            return
        label = field_names(self.names.label)
        yield from plain_records(records, label[0] if len(label) == 1 else None, self.names.text, file, bad)

    def survey(self) -> FieldSurvey:
        """A survey of all records that determines the fields and how labels are written."""
        return FieldSurvey(self)

    def unread_in(self, record: RawRecord) -> list[str]:
        """The fields of a record that are not read: those that are not empty, and the columns that were not loaded."""
        held = [str(name) for name, value in record.fields.items() if value is not None and value != ""]
        absent = [name for name in self._absent if name not in record.fields]
        read = self.read | accepting_fields(record.fields)
        return [name for name in (*held, *absent) if name not in read]

    def look(self, records: Sequence[RawRecord], file: str) -> None:
        """Determine, from the first records of a file, the fields that the user did not name."""
        self._resolve(fields_of(records), file)

    def _resolve(self, fields: Mapping[str, int], file: str) -> None:
        """Determine the fields that the user did not name. `fields`: what each field of the first records `Holds`."""
        self._text.name = self._pair.name = file
        if self._resolved:
            return
        label = self.names.label
        if self.labelled and label is None:
            label = usual_name(fields, LABEL_NAMES)
            answers = label_studio_answers(fields)
            if label is None and answers is not None:
                taken = {*self._text.names, *self._pair.names, self.names.group}
                taken |= {usual_name(answers, TEXT_NAMES)} if not self._text.names else set()
                answers = [name for name in answers if name not in taken]
                label = answers[0] if len(answers) == 1 else None
            if label is None:
                fix = "name it: --label-field F (label_field in a TOML file), or columns of 0 and 1: --label-field F,F"
                what = f"it is not clear which field holds the label; the fields are: {listed(fields)}"
                if answers is not None:
                    what = f"this is an export of Label Studio, and {what}"
                raise CorpusError(what, where=file, fix=fix)
        if label is not None and label in fields:
            label = join_names([label])  # a name with a comma is one name
        if not self.labelled and "text" not in self.required and not set(self._text.names) <= set(fields):
            self._text.names = ()  # the text to predict may have another field name than in training
        if not self.labelled and "id" not in self.required and self.names.id not in fields:
            self.names = replace(self.names, id=usual_id(fields))
        taken = {*field_names(label), *self._pair.names, self.names.id, self.names.group}
        text = self._text.choose({name: 0 if name in taken else holds for name, holds in fields.items()})
        if self.names.pair:
            self._pair.choose(fields)
        second = _SECOND_NAMES.get(text[0]) if not self.names.text and not self.names.pair else None
        self.unread = second if fields.get(second or "") else None
        self.names = replace(self.names, text=join_names(text), label=label)
        self._resolved = True

    def _labels(self, record: RawRecord, file: str, bad: BadRecords) -> tuple[str, ...] | None:
        columns = self.label_columns
        for column in columns:
            if column not in record.fields:
                fix = f"name the right one with --label-field ({nearest(column, map(str, record.fields))})"
                bad.add("the field is missing", file=file, line=record.line, field=column, fix=fix)
                return None
        if len(columns) > 1:
            self.multi_label = True
            return self._marked(record, columns, file, bad)
        value = original = record.fields[columns[0]]
        if self.form.no_label(value):
            kind = kind_of(value) if not isinstance(value, str) or not value.strip() else f"'{shown(value.strip())}'"
            kind = "an empty label" if isinstance(value, str) and not value.strip() else kind
            kind = f"the number {value}" if kind == "a number" else kind
            kind = "no choice" if chosen(value) == [] else kind
            hidden = " (-1 often marks a hidden or missing label)" if value == -1 else ""
            reason = f"the field holds {kind}, where a label is expected: there is no label{hidden}"
            fix = "give the record its label"
            fix += (
                ""
                if value is None or kind in ("an empty label", "no choice")
                else "; if this is a class: --label-kind names"
            )
            bad.add(reason, file=file, line=record.line, field=columns[0], fix=fix)
            return None
        value = self.form.parts(value)
        if value is None:
            reason = f"the field holds '{shown(original)}', where the other records hold lists of labels"
            bad.add(reason, file=file, line=record.line, field=columns[0], fix="write all labels in the same way")
            return None
        if self.form.positions:
            self.multi_label = True
            held = self.form.held(value)
            if held is None:
                expected = f"a list of {len(self.form.positions)} zeros and ones"
                reason = f"the field holds '{shown(original)}', where {expected} is expected"
                bad.add(reason, file=file, line=record.line, field=columns[0])
                return None
            self.kinds["positions"] += 1
            return held
        multi_label = isinstance(value, list)
        if self.multi_label is None:
            self.multi_label = multi_label
        if multi_label != self.multi_label:
            here, before = ("a list", "one label") if multi_label else ("one label", "a list of labels")
            reason = f"the field holds {here}, where the records before it hold {before}"
            bad.add(reason, file=file, line=record.line, field=columns[0], fix="write all labels in the same way")
            return None
        names = [self._class(item, columns[0]) for item in (value if multi_label else [value])]
        wrong = [item for item, name in zip(value if multi_label else [value], names, strict=True) if not name]
        if wrong:
            hidden = " (-1 often marks a hidden or missing label)" if wrong[0] == -1 else ""
            what = "an empty label" if wrong[0] == "" else kind_of(wrong[0])
            numbered = isinstance(wrong[0], str) and wrong[0].strip().isdecimal()
            what = "a number" if numbered else what
            what = f"the number {wrong[0]}, which has no class name{hidden}" if what == "a number" else what
            reason = f"the field holds {what}, where a label is expected"
            fix = "give the record its label"
            if isinstance(wrong[0], Mapping | list):
                fix = "write the name of the class, or a list of names"
            bad.add(reason, file=file, line=record.line, field=columns[0], fix=fix)
            return None
        return tuple(dict.fromkeys(name for name in names if name))

    def _marked(self, record: RawRecord, columns: Sequence[str], file: str, bad: BadRecords) -> tuple[str, ...] | None:
        """The names of the columns that hold 1; None if a column holds neither 0 nor 1, which is reported."""
        held = []
        for column in columns:
            truth = _TRUTH.get(str(record.fields[column]).strip().lower())
            if truth is None:
                reason = f"the field holds '{shown(record.fields[column])}', where 0 or 1 is expected"
                bad.add(reason, file=file, line=record.line, field=column)
                return None
            if truth:
                held.append(clean(column))
        self.kinds["columns"] += 1
        return tuple(held)

    def _class(self, value: Any, field: str) -> str | None:
        """The class name of a label; None or empty if it is not a label."""
        if isinstance(value, bool):
            self.kinds["bool"] += 1
            return "true" if value else "false"
        if isinstance(value, str):
            if self.rules.label_names and value.strip().isdecimal():  # in a CSV file, numbers are text
                return self._class(int(value), field)
            self.kinds["text"] += 1
            return clean(value)
        if not isinstance(value, int | float) or value != value:
            return None
        known = self._known_names(field)
        if known:
            return clean(known[int(value)]) if 0 <= value < len(known) else None
        self.kinds["number"] += 1
        return str(int(value)) if value == int(value) else str(value)

    def _known_names(self, field: str) -> Sequence[str]:
        """The class names of whole numbers: from the user, otherwise from the file."""
        return self.rules.label_names or self.classes.get(field, ())

    def _name(self, record: RawRecord, file: str, bad: BadRecords) -> str | None:
        field = self.names.id
        if field:
            return self._id_or_group(record, field, file, bad)
        if record.key is not None:
            return clean(record.key)
        return f"{file}:{record.line}"

    def _key(self, record: RawRecord, file: str, bad: BadRecords) -> str | int | float | None:
        """The id of a record to predict, with its original type; None if it is required but missing."""
        field = self.names.id
        key = as_id(record.fields.get(field)) if field else None
        if key is None and "id" in self.required:
            reason = "the field is missing" if field not in record.fields else "the field holds no name"
            fix = "name the right one with --id-field, or leave out that option to use FILE:LINE as ids"
            bad.add(f"{reason}, where a name is expected", file=file, line=record.line, field=field, fix=fix)
            return None
        return key if key is not None else record.key or f"{file}:{record.line}"

    def _id_or_group(self, record: RawRecord, field: str, file: str, bad: BadRecords) -> str | None:
        """The text of an id or group; None if there is none, which is reported."""
        value = record.fields.get(field)
        if isinstance(value, str | int | float) and str(value):
            return clean(str(value))
        reason = "the field is missing" if field not in record.fields else f"the field holds {kind_of(value)}"
        bad.add(f"{reason}, where a name is expected", file=file, line=record.line, field=field)
        return None


class FieldSurvey(ExampleFields):
    """Reads the records of a file like `ExampleFields`, but only to determine the fields and how labels are written."""

    def __init__(self, fields: ExampleFields) -> None:
        super().__init__(
            fields.names,
            multi_label=fields.multi_label,
            classes=fields.classes,
            rules=fields.rules,
            known=fields.known,
        )
        self._fields = fields
        self._labels_seen: LabelSurvey | None = None
        self._unread_values = UnreadValues(texts=True)

    def columns(self, file: str) -> Callable[[Mapping[str, int]], list[str] | None]:  # type: ignore[override]
        """All columns, because it is not known yet which are needed."""
        del file
        return lambda _: None

    def example(self, record: RawRecord, file: str, bad: BadRecords) -> Example | None:
        """Survey a record."""
        del bad
        self._resolve({} if self._resolved else what_fields_hold([record.fields]), file)
        if annotation_rejected(record.fields, self.read) is None:
            self._unread_values.add(record.fields, self.unread_in(record))
        if len(self.label_columns) == 1:
            label = self.label_columns[0]
            if self._labels_seen is None:
                self._labels_seen = LabelSurvey(self.rules, self._known_names(label), self.known, self.multi_label)
            from_tool = label_studio_answers(record.fields) is not None
            self._labels_seen.add(record.fields.get(label), file, record.line, from_tool=from_tool)
        return None

    def finish(self) -> tuple[list[str], list[LabelProblem]]:
        """Apply the result to the `ExampleFields` for which the survey was made. Returns notes, and problems."""
        fields = self._fields
        if self._resolved:
            fields.names, fields.classes = self.names, self.classes
            fields._text.names, fields._pair.names = self._text.names, self._pair.names
            fields.unread, fields._resolved = self.unread, True
        verdicts = self._unread_values.verdict_notes()
        if self._labels_seen is None:
            return [*self._unread_texts(), *verdicts], []
        fields.form, notes, problems = self._labels_seen.decide()
        return [*self._unread_texts(), *notes, *verdicts], problems

    def _unread_texts(self) -> list[str]:
        """A note on text that is not read, if the user named no field for the text."""
        if not self._text.guessed or self.names.pair:
            return []
        text = self.names.text
        if self.unread:
            return [f"Only '{text}' is read. To read pairs, name the second text: --pair-field {self.unread}."]
        others = self._unread_values.long_texts(least_share=0.5)
        if not others:
            return []
        first = join_names(others[:1])
        return [
            f"Only '{text}' is read, but {listed(others)} {'holds' if len(others) == 1 else 'hold'} text too. To join "
            f"them: --text-field '{text},{first}'; to read pairs of texts: --pair-field {first}."
        ]
