"""Detects how labels are written: a name, a list, a list as text, names with a separator, or 0 and 1 by position.

All labels of a file are surveyed before examples are made (`LabelSurvey`), because a single label is ambiguous: `-1`
may be a class or a missing label, `a|b` may be one name or two. If the notation is clear, labels are read accordingly
(`LabelForm`). If labels would be learned wrongly, such as scores as classes, the survey returns a `LabelProblem`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from domain_ft.corpus.annotation_tools import are_spans, spans_in
from domain_ft.corpus.cleaning import clean
from domain_ft.corpus.listed_text import listed_in, number_in
from domain_ft.corpus.no_label import may_mean_no_label, means_no_label
from domain_ft.corpus.tasks.choices import chosen
from domain_ft.errors import CorpusError
from domain_ft.quoting import is_invisible, made_visible, shown

LabelKind = Literal["auto", "names"]

_MISSING_NUMBERS = frozenset({9.0, 99.0, 999.0, 9999.0})
"""Numbers that statistics packages use for a missing value, with or without a minus sign. A note says that such a label
may be a missing one if the other labels are names or much smaller numbers.
"""

SEPARATORS = ("|", ";", "#", ",", "+", "\n", "/")
_BETWEEN = (*SEPARATORS, "&", "\t", " and ", " - ", "_", "-", ":", " ")
"""Separators to look for. Those not in SEPARATORS count only if each part is the label of another record."""

_TREES = ("/",)  # these also separate the levels of one name, such as law/civil
_LISTED = 8  # the most names in a message
_RECURRING = 0.8  # labels are taken to be joined if at least this share of their parts recurs
_MOST = 0.5  # the share that counts as "most"
_FEW_SCORES = 20  # up to this many different whole numbers are always taken for classes
_FEW_OF_EACH = 5  # numbers with fewer records each, on average, look like scores
_WITHOUT_GAPS = 0.9  # class numbers cover at least this share of the range from the lowest to the highest
_UNIQUE_FROM = 20  # if at least this many records all have different labels, the field is not a label
_KEPT = 100_000  # the most different labels that are counted
_WRITTEN = {r"\n": "\n", r"\t": "\t"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_TRUTH = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class LabelRules:
    """The options on how labels are written. The attributes have the names of the options.

    Attributes:
        label_separator: separates several labels in one text.
        label_names: the class names for the positions of lists of 0 and 1, or for whole numbers from 0.
        label_kind: `names` reads each label unchanged as a class name.
    """

    label_separator: str | None = None
    label_names: tuple[str, ...] = ()
    label_kind: LabelKind = "auto"

    def __post_init__(self) -> None:
        """Accept a newline or a tab written as an escape, which is easier to type in a shell."""
        if self.label_separator in _WRITTEN:
            object.__setattr__(self, "label_separator", _WRITTEN[self.label_separator])


@dataclass(frozen=True)
class LabelProblem:
    """A reason why the labels would be learned wrongly.

    Attributes:
        kind: such as `multi-hot`.
        what: what is wrong, in a sentence.
        fix: what to do.
        file, line: of the first occurrence.
    """

    kind: str
    what: str
    fix: str
    file: str
    line: int | None

    def error(self, field: str) -> CorpusError:
        """The problem as an error. `field` is the field of the label."""
        where = self.file + ("" if self.line is None else f", line {self.line}") + f', field "{shown(field)}"'
        return CorpusError(self.what, where=where, fix=self.fix)


@dataclass(frozen=True)
class LabelForm:
    """How labels are written, as determined by a survey.

    Attributes:
        lists: whether lists are written as text.
        separator: between several names in a text; None if a text is one name.
        positions: the class of each position in lists of 0 and 1; empty for other labels.
        minus_one: whether -1 means a missing label.
        literal: whether words such as `NA` are class names too.
        choices: for labels from an annotation tool, whether a record has one choice or any number of them.
    """

    lists: bool = False
    separator: str | None = None
    positions: tuple[str, ...] = ()
    minus_one: bool = False
    literal: bool = False
    choices: Literal["one", "many"] | None = None

    def no_label(self, value: Any) -> bool:
        """Whether a value means that the record has no label."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        if self.choices is not None and chosen(value) == []:
            return self.choices == "one"
        if isinstance(value, bool | list | dict):
            return False
        text = str(value).strip()
        if self.minus_one and text in ("-1", "-1.0"):
            return True
        return text == "" if self.literal else means_no_label(text)

    def parts(self, value: Any) -> Any:
        """The labels in a value: a list, or one label. None for a text that should be a list but is not."""
        if self.choices is not None:
            choices = chosen(value)
            choices = [value] if choices is None and not isinstance(value, list) else choices
            return choices[0] if choices and len(choices) == 1 and self.choices == "one" else choices
        if isinstance(value, str):
            if self.separator is not None:
                return [part for part in map(str.strip, value.split(self.separator)) if part]
            return listed_in(value) if self.lists else value
        return [value] if self.separator is not None and not isinstance(value, list) else value

    def held(self, bits: Any) -> tuple[str, ...] | None:
        """The classes whose position is 1 in a list of 0 and 1; None for other values or lists of another length."""
        if not isinstance(bits, list) or len(bits) != len(self.positions):
            return None
        truths = [truth_of(bit) for bit in bits]
        if None in truths:
            return None
        return tuple(name for name, truth in zip(self.positions, truths, strict=True) if truth)


def truth_of(value: Any) -> int | None:
    """0 or 1, from a number, a truth value or their usual notations as text; None for anything else."""
    return _TRUTH.get(str(value).strip().lower()) if isinstance(value, str | int | float) else None


def spelling_key(name: str) -> str:
    """A key that is equal for names that differ only in case, white space, invisible characters, Unicode form, or the
    notation of a number.
    """
    name = "".join(character for character in name if not is_invisible(character))
    number = number_in(name)
    if number is not None:
        return str(number)
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def variants(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names with equal `spelling_key`.

    >>> variants(["Civil", "penal", "CIVIL"])
    [['CIVIL', 'Civil']]
    """
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[spelling_key(name)].add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


class LabelSurvey:
    """Collects the labels of all records of a file, and determines how they are written.

    Args:
        rules: the user's options.
        names: the class names of whole numbers, if the file has them.
        known: the classes of the training examples, if known.
        multi_label: whether the task is multi-label, if known.
    """

    def __init__(
        self, rules: LabelRules, names: Sequence[str] = (), known: Collection[str] = (), multi_label: bool | None = None
    ) -> None:
        self.rules, self.known, self.multi_label = rules, frozenset(known), multi_label
        self.names = tuple(rules.label_names or names)
        self._values: Counter[Any] = Counter()  # (type, value) of labels that are not lists
        self._lists: Counter[tuple[Any, ...]] = Counter()
        self._first: dict[Any, tuple[str, int | None]] = {}
        self._entities: tuple[str, int | None] | None = None  # file and line where the field first lists entities
        self._most_chosen: int | None = None  # the most choices of a record, if an annotation tool wrote them

    def add(self, value: Any, file: str, line: int | None, *, from_tool: bool = False) -> None:
        """Add a label. `from_tool`: whether it is from an annotation tool's table, where a single choice is a name."""
        if from_tool and self.rules.label_separator is None:
            self._most_chosen = max(self._most_chosen or 0, 1)
        choices = chosen(value)
        if choices is not None:
            self._most_chosen = max(self._most_chosen or 0, len(choices))
            value = choices
        if self._entities is None and (are_spans(value) or spans_in(value)):
            self._entities = file, line
        if isinstance(value, dict) or LabelForm(literal=True).no_label(value):
            return
        if isinstance(value, list):
            try:
                key: Any = tuple(value)
                hash(key)
            except TypeError:
                return
            counter: Counter[Any] = self._lists
        else:
            key = value.strip() if isinstance(value, str) else value
            counter = self._values
        key = (type(value).__name__, key)
        if key in counter or len(counter) < _KEPT:
            counter[key] += 1
            self._first.setdefault(key, (file, line))

    def decide(self) -> tuple[LabelForm, list[str], list[LabelProblem]]:
        """How the labels are written, notes for the user, and reasons why they would be learned wrongly."""
        if self._entities is not None:
            what = "the field lists entities (spans with a start and an end), not the labels of whole texts"
            fix = "use `domain-ft tag` for them; or name the field that holds the label: --label-field F"
            return LabelForm(), [], [LabelProblem("entities", what, fix, *self._entities)]
        literal = self.rules.label_kind == "names"
        separator = self.rules.label_separator
        if self._most_chosen is not None:
            separator = None
        plain = LabelForm(literal=literal, separator=separator)
        values = {key: count for key, count in self._values.items() if not plain.no_label(key[1])}
        notes: list[str] = []
        lists = [(list(key[1]), key) for key in self._lists]
        in_text = False
        if not literal and separator is None and self._most_chosen is None:
            parsed = {key: items for key in values if key[0] == "str" and (items := listed_in(key[1])) is not None}
            texts = sum(count for key, count in values.items() if key[0] == "str")
            if parsed and sum(values[key] for key in parsed) > _MOST * texts:
                in_text = True
                lists += [(items, key) for key, items in parsed.items()]
                values = {key: count for key, count in values.items() if key not in parsed}
                notes.append("Labels are lists written as text: they are read as lists.")
        if separator is not None:
            lists += [(plain.parts(key[1]), key) for key in values]
            values = {}
        problems: list[LabelProblem] = []
        positions: tuple[str, ...] = ()
        listed = sum(self._lists.get(key) or self._values.get(key, 0) for _, key in lists)
        may_be_positions = lists and not literal and self._most_chosen is None
        if may_be_positions and listed >= sum(values.values()):  # a few lists among texts are mistakes
            positions, problems = self._positions(lists)
        minus_one = not literal and not positions and self._minus_one(values)
        choices: Literal["one", "many"] | None = None
        if self._most_chosen is not None:
            choices = "many" if self.multi_label or (self.multi_label is None and self._most_chosen > 1) else "one"
        form = LabelForm(in_text, separator, positions, minus_one, literal, choices)
        if minus_one:
            values = {key: count for key, count in values.items() if not form.no_label(key[1])}
        if not literal and not positions and not problems:
            problems += self._useless_names(values, lists)
            problems += (
                self._scores(values) or self._lists_among(values) or self._joined(values) or self._all_different(values)
            )
            problems += self._variants(values, lists)
        if not literal:
            notes += self._notes(values, lists, bool(positions or problems or choices))
        return form, notes, problems

    # --- what is wrong ---

    def _positions(self, lists: Sequence[tuple[list[Any], Any]]) -> tuple[tuple[str, ...], list[LabelProblem]]:
        """The classes of the positions if the labels are lists of 0 and 1, or what is wrong with the lists.

        Both are empty for lists of names or of class numbers.
        """
        lengths = Counter(len(items) for items, _ in lists)
        length = lengths.most_common(1)[0][0]
        first = lists[0][1]
        hot = [items for items, _ in lists if len(items) == length and all(truth_of(i) is not None for i in items)]
        if length > 1 and len(hot) > _MOST * len(lists):  # a few other lists are mistakes
            if len(self.names) == length:
                return self.names, []
            if self.names and not self.rules.label_names:
                return (), []  # the file names another number of classes: these are lists of class numbers
            names = f"{len(self.names)} names are given" if self.names else "the classes have no names"
            return (), [
                self._problem(
                    "multi-hot",
                    f"the field holds lists of {length:,} zeros and ones, one for each class, and {names}",
                    f"name the classes in the order of the lists: --label-names NAME,NAME,... ({length:,} of them); or "
                    "write the names of the example's classes in each list",
                    first,
                )
            ]
        for items, key in lists:
            if any(isinstance(item, float) and not item.is_integer() for item in items):
                return (), [
                    self._problem(
                        "probabilities",
                        "the field holds lists with numbers other than 0 and 1: class probabilities are not supported "
                        "yet",
                        "write the names of the example's classes in each list",
                        key,
                    )
                ]
        return (), []

    def _minus_one(self, values: Mapping[Any, int]) -> bool:
        """Whether -1 means a missing label: if all other labels are whole numbers from 0 on, or if there are no others.

        If the labels are only -1 and 1, or if a training example has the label -1, then -1 is a class.
        """
        numbers = {number_in(value) for _, value in values}
        if -1.0 not in numbers or None in numbers or "-1" in self.known:
            return False
        others = {number for number in numbers if number is not None} - {-1.0}
        if not others:
            return True
        return min(others) >= 0 and all(number.is_integer() for number in others) and others != {1.0}

    def _useless_names(self, values: Mapping[Any, int], lists: Sequence[tuple[list[Any], Any]]) -> list[LabelProblem]:
        items = [item for _, item in values] + [item for items, _ in lists for item in items]
        numbers = [number_in(item) for item in items]
        if not self.rules.label_names or any(number is not None for number in numbers) or not items:
            return []
        fix = "leave --label-names out"
        what = "--label-names is for lists of 0 and 1 and for whole numbers, but the labels are names already"
        return [self._problem("label-names", what, fix, next(iter(self._first)))]

    def _scores(self, values: Mapping[Any, int]) -> list[LabelProblem]:
        """The problem of numbers that are scores, not classes."""
        numbers = {key: number_in(key[1]) for key in values}
        texts = {key: key[1] for key in values if key[0] == "str"}
        commas = bool(texts) and len(texts) == len(values) and all(map(_DECIMAL_COMMA.fullmatch, texts.values()))
        if commas:
            numbers = {key: float(text.replace(",", ".")) for key, text in texts.items()}
        if self.names or not numbers or None in numbers.values() or self._are_known(values):
            return []
        distinct = sorted({number for number in numbers.values() if number is not None})
        fractions = [key for key, number in numbers.items() if number is not None and not number.is_integer()]
        fix = (
            "regression on scores is not supported yet: make classes of them, such as low and high; or, if each "
            "number is a class name: --label-kind names"
        )
        fix += "; or, if the comma separates labels: --label-separator ','" if commas else ""
        if fractions or commas:
            fractions = fractions or list(numbers)
            what = (
                f"the labels are scores: {len(distinct):,} different numbers from {distinct[0]:g} to {distinct[-1]:g}"
            )
            return [self._problem("scores", what, fix, fractions[0])]
        gaps = len(distinct) < _WITHOUT_GAPS * (distinct[-1] - distinct[0] + 1)
        if len(distinct) > _FEW_SCORES and (gaps or sum(values.values()) < _FEW_OF_EACH * len(distinct)):
            what = (
                f"the labels are {len(distinct):,} different whole numbers from {distinct[0]:g} to {distinct[-1]:g}, "
                "which look like scores, not like classes"
            )
            return [self._problem("scores", what, fix, next(iter(numbers)))]
        return []

    def _lists_among(self, values: Mapping[Any, int]) -> list[LabelProblem]:
        """The problem of a few lists written as text among names: each list would be a class."""
        names = {spelling_key(key[1]) for key in values if key[0] == "str"} | set(map(spelling_key, self.known))
        for key in values:
            items = listed_in(key[1]) if key[0] == "str" else None
            if items and all(isinstance(item, str | int) and spelling_key(str(item)) in names for item in items):
                what = f"most labels are names, but some are lists of names written as text, such as {_quoted(key[1])}"
                fix = "write all labels as lists, or none; or, if this is a class name: --label-kind names"
                return [self._problem("lists-as-text", what, fix, key)]
        return []

    def _joined(self, values: Mapping[Any, int]) -> list[LabelProblem]:
        """The problem of texts that seem to be several labels with a separator between them."""
        texts = {key[1]: count for key, count in values.items() if key[0] == "str"}
        if self._are_known(values):
            return []
        whole = {spelling_key(str(key[1])) for key in values} | set(map(spelling_key, self.known))
        for separator in _BETWEEN:
            split = {text: _parts(text, separator) for text in texts if separator in text.strip(separator)}
            certain = [text for text, parts in split.items() if whole.issuperset(map(spelling_key, parts))]
            if not certain and not (separator in SEPARATORS and self._recur(texts, split, separator)):
                continue
            names = {part for text in certain or split for part in split[text]}
            joined = certain or list(split)
            what = (
                f"labels look like several names separated by {_spelled(separator)}, such as {_quoted(joined[0])}: "
                f"{len(joined):,} of {len(texts):,} different labels are made of {len(names):,} names"
            )
            if certain:
                what += ", each of which is a label of other records"
            fix = (
                f"to read them as several labels: --label-separator {_as_option(separator)}; to read each as one "
                "class name: --label-kind names"
            )
            return [self._problem("joined-labels", what, fix, ("str", joined[0]))]
        return []

    def _recur(self, texts: Mapping[str, int], split: Mapping[str, Sequence[str]], separator: str) -> bool:
        """Whether the parts of labels recur in other labels so often that they seem to be separate labels."""
        if len(split) < 2:
            return False
        counts = Counter(part for text in texts for part in set(_parts(text, separator)))
        of_joined = {part for parts in split.values() for part in parts}
        recurring = sum(counts[part] > 1 for part in of_joined) / len(of_joined)
        often = sum(texts[text] for text in split) > _MOST * sum(texts.values())
        if separator in _TREES:  # in a tree, no name is both a first level and a lower one
            later = {part for parts in split.values() for part in parts[1:]}
            if not later & {parts[0] for parts in split.values()}:
                return False
        return recurring >= _RECURRING or (often and recurring >= _MOST)

    def _notes(self, values: Mapping[Any, int], lists: Sequence[tuple[list[Any], Any]], is_certain: bool) -> list[str]:
        """Notes on labels that may mean something other than what they are read as."""
        notes = []
        for key, count in values.items():
            name = str(key[1]).strip()
            if self._may_be_missing(key[1], values):
                records = "1 record" if count == 1 else f"{count:,} records"
                notes.append(
                    f"'{name}' is read as a class name ({records}). If it means a missing label, leave these records "
                    "out or empty the field."
                )
        notes += [] if is_certain or self._are_known(values) else self._sharing(values)
        if lists and not is_certain and not values and all(len(items) == 1 for items, _ in lists):
            notes.append(
                "Each record has a list of one label, so the task is multi-label. If examples have only one class "
                "each, write the label without the list."
            )
        return notes

    def _may_be_missing(self, value: Any, values: Mapping[Any, int]) -> bool:
        """Whether a label may mean a missing label, given all labels `values`."""
        if isinstance(value, bool) or len(values) < 2:
            return False
        number = number_in(value)
        if number is not None and (number == -1 or abs(number) in _MISSING_NUMBERS):
            others = [number_in(other) for _, other in values if other != value]
            sizes = [abs(other) for other in others if other is not None]
            if len(sizes) < len(others):
                return True
            return number != -1 and not self.names and 10 * max(sizes) < abs(number)
        name = str(value).strip().casefold()
        return may_mean_no_label(name) or all(unicodedata.category(one) == "Pd" for one in name)

    def _sharing(self, values: Mapping[Any, int]) -> list[str]:
        """A note on a name that may be several labels: it has a separator, and shares a part with another name."""
        texts = [key[1] for key in values if key[0] == "str"]
        for separator in SEPARATORS:
            split = {text: _parts(text, separator) for text in texts if separator in text.strip(separator)}
            in_labels = Counter(spelling_key(part) for text in texts for part in set(_parts(text, separator)))
            for text, parts in split.items():
                later = parts[1:] if separator in _TREES else parts  # branches of a tree share their first level
                shared = next((part for part in later if in_labels[spelling_key(part)] > 1), None)
                if shared is not None and len(parts) > 1:
                    return [
                        f"{_quoted(text)} is read as one class name, but {_quoted(shared)} is in other labels too. If "
                        f"{_spelled(separator)} separates several labels: --label-separator {_as_option(separator)}."
                    ]
        return []

    def _all_different(self, values: Mapping[Any, int]) -> list[LabelProblem]:
        total = sum(values.values())
        if total < _UNIQUE_FROM or len(values) < total or self._are_known(values):
            return []
        what = f"each of the {total:,} records has a different label: the field does not seem to be a label"
        fix = "name the field that holds the label: --label-field F; or, if these are classes: --label-kind names"
        return [self._problem("unique-labels", what, fix, next(iter(values)))]

    def _variants(self, values: Mapping[Any, int], lists: Sequence[tuple[list[Any], Any]]) -> list[LabelProblem]:
        """The problems of different names with equal `spelling_key`."""
        seen: dict[str, Any] = {}
        for key in values:
            if key[0] == "str":
                seen.setdefault(clean(key[1]), key)
        for items, key in lists:
            for item in items:
                if isinstance(item, str):
                    seen.setdefault(clean(item), key)
        return [
            self._problem(
                "label-variants",
                "labels differ only in case, spaces, Unicode form or the notation of a number: "
                f"{_listed(map(made_visible, group))}",
                "spell them the same way; or, if they are different classes: --label-kind names",
                next(seen[name] for name in reversed(group) if name in seen),
            )
            for group in variants({*seen, *self.known})
            if any(name in seen for name in group)
        ]

    def _are_known(self, values: Mapping[Any, int]) -> bool:
        return bool(self.known) and all(clean(str(value)) in self.known for _, value in values)

    def _problem(self, kind: str, what: str, fix: str, key: Any) -> LabelProblem:
        file, line = self._first[key]
        return LabelProblem(kind, what, fix, file, line)


def _listed(all_names: Iterable[str]) -> str:
    names = list(all_names)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(map(_quoted, names[:_LISTED])) + more


def _quoted(name: str) -> str:
    return f"'{shown(name)}'"


def _parts(text: str, separator: str) -> list[str]:
    return [part for part in map(str.strip, text.split(separator)) if part]


def _spelled(separator: str) -> str:
    return {"\n": "a newline", "\t": "a tab", " ": "a space"}.get(separator, f"'{separator}'")


def _as_option(separator: str) -> str:
    return next((f"'{written}'" for written, meant in _WRITTEN.items() if meant == separator), f"'{separator}'")
