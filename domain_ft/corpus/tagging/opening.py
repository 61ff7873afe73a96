"""Opens a tagging task: reads its files, checks that they agree, and makes missing splits."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.annotation_tools import Plain
from domain_ft.corpus.examples import SPLITS, Example, Labels, TaskData
from domain_ft.corpus.hub_splits import SPLIT_NAMES
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.naming import name_of
from domain_ft.corpus.near_copies import MOST_COMPARED, Integers, text_fingerprints
from domain_ft.corpus.no_label import may_mean_no_label
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, Reject
from domain_ft.corpus.splitting import JOINED, draw, groupings, nearest_group, unused_test_ids
from domain_ft.corpus.tagging.entities import (
    SPELLED,
    Scheme,
    Span,
    TaggedText,
    TaggingData,
    is_tag,
    spelling_variants,
)
from domain_ft.corpus.tagging.fields import Entry, TagFields
from domain_ft.corpus.tagging.reading import named_classes, read_tagged
from domain_ft.corpus.tagging.records import read_tagged_records
from domain_ft.corpus.tagging.standoff import is_brat
from domain_ft.errors import CorpusError
from domain_ft.quoting import made_visible


@dataclass(frozen=True)
class TaggingSource:
    """Where a tagging task is, and how to read and split it. All but `fields` are named like the options of `tag`."""

    train: str
    validation: str | None = None
    test: str | None = None
    test_ids: Path | None = None
    fields: TagFields = field(default_factory=TagFields)
    scheme: Scheme | None = None
    on_bad_record: OnBadRecord = "stop"
    encoding: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.2

    @classmethod
    def of(cls, settings: Any) -> TaggingSource:
        """The source that a verb's settings describe."""
        names = [field.name for field in dataclasses.fields(cls) if field.name not in ("fields", "scheme")]
        kinds = ("text", "tokens", "tags", "spans", "id", "group")
        return cls(
            **{name: getattr(settings, name) for name in names},
            fields=TagFields(
                **{kind: getattr(settings, f"{kind}_field") for kind in kinds}, offsets=settings.span_offsets
            ),
            scheme=None if settings.scheme == "auto" else settings.scheme,
        )


def open_tagging(
    source: TaggingSource, *, rejects: Callable[[Reject], None] | None = None, left: LeftOut | None = None
) -> TaggingData:
    """Read a tagging task and split it.

    A missing test or validation split is taken from the training texts: the texts that `test_ids` names, or else whole
    documents and whole groups of copies and near copies, drawn by a hash of their content.

    Args:
        rejects: receives each record that is left out.
        left: counts what is not read.

    Raises:
        CorpusError: a file cannot be read, a split has no texts or no entities, types differ only in spelling, no text
            can be held out, or there are test texts beside `test_ids`.
        RecordError: a record is bad, and `on_bad_record` is "stop".
    """
    reasons = Counter[str]()

    def reject(one: Reject) -> None:
        reasons[one.reason] += 1
        if rejects is not None:
            rejects(one)

    bad = BadRecords(source.on_bad_record, reject, source.encoding)
    paths = {split: path for split in SPLITS if (path := getattr(source, split)) is not None}
    texts: dict[str, Sequence[TaggedText]] = {}
    schemes: dict[str, Scheme | None] = {}
    names = _short_names(paths)
    file_notes: dict[str, list[str]] = {}
    for split, path in paths.items():
        notes_of_file = file_notes.setdefault(names[split], [])
        if path.startswith("hf:"):
            of_hub = _hub_splits(path, source, bad, left, notes_of_file)
            parts = of_hub if split == "train" else {split: of_hub.get(split, of_hub["train"])}
        else:
            parts = {
                split: read_tagged(
                    _file(path), names[split], source.fields, source.scheme, bad, left=left, notes=notes_of_file
                )
            }
        for part, (read, scheme) in parts.items():
            if not read:
                why = "".join(f": {reason} ({count:,})" for reason, count in reasons.most_common(1))
                fix = "give a file with texts and their tags"
                raise CorpusError(f"'{path}' has no readable text{why}", fix=fix)
            texts[part], schemes[part] = read, scheme
    names = {split: names.get(split, names["train"]) for split in texts}
    _check_spelling(texts)
    split_facts, split_notes = _complete(texts, source, file_notes.get(names["train"], []))
    notes = [f"{name}: {note}" for name, of_file in file_notes.items() for note in of_file]
    notes += split_notes
    notes += _reading_notes(texts)
    types = _checked_types(texts, names)
    notes += _type_notes(texts, types)
    notes += _contradiction_notes(texts)
    if len(set(schemes.values())) > 1:
        spelled = ", ".join(f"{names[s]}: {SPELLED[k] if k else 'character spans'}" for s, k in schemes.items())
        notes.append(f"the files use different tagging schemes; all of them are read ({spelled})")
    scheme = schemes["train"]
    return TaggingData(
        name=name_of(source.train),
        types=types,
        splits=texts,
        scheme=SPELLED[scheme] if scheme else None,
        key=_content_key(texts),
        facts={"split": split_facts},
        notes=tuple(notes),
    )


def _content_key(splits: Mapping[str, Sequence[TaggedText]]) -> str:
    """A hash of the content of all splits."""
    digest = hashlib.blake2b(digest_size=16)
    for split in SPLITS:
        for text in splits[split]:
            digest.update(repr((split, text.id, text.text, text.words, text.spans)).encode())
    return digest.hexdigest()


def text_key(text: TaggedText) -> str:
    """The text in lower case and with single spaces, to find copies."""
    return " ".join(text.text.casefold().split())


class TextExamples(Sequence[Example]):
    """Texts with entities as classification examples, for the search for leaks.

    Their labels are the counts of entities by type, such as `2 Disease`.
    """

    def __init__(self, texts: Sequence[TaggedText], key: str) -> None:
        self.key = key
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[Example]:
        return map(_as_example, self._texts)

    def __getitem__(self, index: Any) -> Any:
        return _as_example(self._texts[index])

    def take(self, indices: npt.ArrayLike) -> TextExamples:
        """The examples with these indices, in that order."""
        places = np.asarray(indices, dtype=np.int64)
        name = hashlib.blake2b(places.tobytes(), digest_size=16).hexdigest()
        return TextExamples([self._texts[place] for place in places.tolist()], f"{self.key}-{name}")


def _as_example(text: TaggedText) -> Example:
    labels = tuple(f"{count} {name}" for name, count in sorted(type_counts([text]).items()))
    return Example(text.id, text.text, labels, group=text.group, file=text.file, line=text.line)


def as_task(data: TaggingData) -> TaskData:
    """The task as a classification task, for `find_leaks`."""
    splits = {split: TextExamples(texts, f"{data.key}-{split}") for split, texts in data.splits.items()}
    names = sorted({label for examples in splits.values() for example in examples for label in example.labels})
    return TaskData(data.name, Labels(tuple(names), multi_label=True), splits, data.key)


def without(data: TaggingData, removals: Mapping[str, npt.NDArray[np.int64]]) -> TaggingData:
    """The task without some texts. `removals` has their indices by split, as `Leaks.removals` does.

    Raises:
        CorpusError: a split has no entities left.
    """
    splits = dict(data.splits)
    for split, indices in removals.items():
        removed_indices = set(indices.tolist())
        splits[split] = [text for place, text in enumerate(splits[split]) if place not in removed_indices]
    types = _checked_types(splits, {})
    removed = ", ".join(f"{len(indices):,} {split}" for split, indices in removals.items() if len(indices))
    notes = (
        (*data.notes, f"Texts that are also in another split were left out: {removed} texts.")
        if removed
        else data.notes
    )
    return dataclasses.replace(data, types=types, splits=splits, key=_content_key(splits), notes=notes)


def _hub_splits(
    spec: str, source: TaggingSource, bad: BadRecords, left: LeftOut | None, notes: list[str]
) -> dict[str, tuple[list[TaggedText], Scheme | None]]:
    """The splits of a data set on the hub, or of a local folder, by the names in `SPLITS`.

    Numeric tags are replaced with their names in the data set.
    """
    from domain_ft.corpus.readers.hub import class_names, open_splits  # imports datasets

    identifier, _, config = spec.removeprefix("hf:").partition(":")
    splits = open_splits(identifier, config or None, None)
    chosen = {split: next((name for name in names if name in splits), None) for split, names in SPLIT_NAMES.items()}
    if chosen["train"] is None:
        reason = f"the data set has no split 'train', only {', '.join(splits)}"
        raise CorpusError(reason, where=spec, fix="name a data set that has one")
    texts = {}
    for split, name in chosen.items():
        if name is not None:
            rows = splits[name]
            classes = class_names(rows.features)
            records = (Entry(number, Plain(named_classes(row, classes))) for number, row in enumerate(rows, 1))
            where = f"{spec} {name}"
            texts[split] = read_tagged_records(
                records, where, source.fields, source.scheme, bad, left=left, notes=notes
            )
    return texts


def _file(path: str) -> Path:
    file = Path(path)
    if not file.is_file() and not (file.is_dir() and is_brat(file)):
        what = "is a folder without BRAT's .ann files" if file.is_dir() else "does not exist"
        raise CorpusError(
            f"'{path}' {what}", fix="give a CoNLL file, or JSON lines of words and tags or of text and spans"
        )
    return file


def _short_names(paths: Mapping[str, str]) -> dict[str, str]:
    """The name of each file in messages and ids: its file name, or its path if two files share the name."""
    counts = Counter(Path(path).name for path in set(paths.values()))
    return {split: path if counts[Path(path).name] > 1 else Path(path).name for split, path in paths.items()}


def _check_spelling(texts: Mapping[str, Sequence[TaggedText]]) -> None:
    """Refuse entity types that differ only in spelling: they would be learned as different types."""
    every = list(itertools.chain.from_iterable(texts.values()))
    counts = type_counts(every)
    clashing = spelling_variants(counts)
    if not clashing:
        return
    listed = "; ".join(
        ", ".join(f"'{made_visible(name)}' ({counts[name]:,})" for name in group) for group in clashing[:5]
    )
    first = next(text for text in every for span in text.spans if span.label == clashing[0][-1])
    raise CorpusError(
        f"entity types differ only in case, spaces, Unicode form, _ or -: {listed}",
        where=f"{first.file}, line {first.line}",
        fix="spell each type the same way",
    )


def _complete(
    texts: dict[str, Sequence[TaggedText]], source: TaggingSource, notes: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Take missing splits from the training texts, and add them to `texts`.

    Args:
        notes: remarks on how the training file was read, for error messages.

    Returns:
        how each split was made, and remarks for the user.
    """
    facts = dict.fromkeys(texts, "as given")
    split_notes: list[str] = []
    if source.test_ids is not None:
        if "test" in texts:
            raise unused_test_ids(source.test)
        test_ids = _read_ids(source.test_ids)
        held_out = [text.id in test_ids for text in texts["train"]]
        if not any(held_out):
            raise CorpusError(
                f"none of the {len(test_ids):,} ids is the id of a training text; the first training text has the id "
                f"'{texts['train'][0].id}'",
                where=str(source.test_ids),
                fix="name the field of the ids: --id-field F",
            )
        _part(texts, "test", held_out)
        facts["test"] = f"the ids in {source.test_ids.name}"
    made = [split for split in ("test", "validation") if split not in texts]
    if made and len(texts["train"]) > MOST_COMPARED:
        split_notes.append(
            f"there are {len(texts['train']):,} training texts: near copies are not searched for among more than "
            f"{MOST_COMPARED:,}, so only exact copies are certain to be in one split"
        )
    for split in made:
        fraction = source.test_fraction if split == "test" else source.validation_fraction
        held_out, copies, narrowed = _held_out(texts["train"], fraction, split, source.train, notes)
        _part(texts, split, held_out)
        facts[split] = f"{fraction:.0%} of the training texts, whole documents and groups of {copies} at a time"
        if narrowed:
            split_notes.append(
                f"copies or near copies connect most texts, so for the {split} split only {copies} are kept "
                "together: similar training texts may make the scores too good"
            )
    if not texts["train"]:
        raise CorpusError(
            "no training texts are left after splitting", fix="give more texts, or make the splits yourself"
        )
    return facts, split_notes


def _part(texts: dict[str, Sequence[TaggedText]], split: str, held_out: Sequence[bool]) -> None:
    chosen = [text for text, out in zip(texts["train"], held_out, strict=True) if out]
    texts["train"] = [text for text, out in zip(texts["train"], held_out, strict=True) if not out]
    texts[split] = chosen


def _held_out(
    texts: Sequence[TaggedText], fraction: float, split: str, train: str, notes: Sequence[str]
) -> tuple[list[bool], str, bool]:
    """Which texts are held out, drawn in whole groups.

    If the drawn texts have no entities, the group with entities whose size is nearest to the wanted share is added,
    provided that another group with entities is left for training.

    Returns:
        held_out: (texts,) True for those that are held out.
        copies: which copies were kept together.
        narrowed: whether these are fewer than all copies and near copies.

    Raises:
        CorpusError: fewer than two groups have entities, so none of them can be held out.
    """
    types = [tuple(sorted({span.label for span in text.spans})) for text in texts]
    has_entities = np.array([bool(text.spans) for text in texts])
    target = fraction * len(texts)
    drawn: list[tuple[str, Integers, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]] = []
    for copies, groups, hashes in _groupings(texts):
        held = draw(groups, hashes, types, fraction)
        sizes = np.bincount(groups)
        large = sizes[sizes > max(target, 1)].sum()
        if held.sum() >= max(target / 2, 1) and large <= len(texts) / 2:
            drawn.insert(0, (copies, groups, hashes, held))
            break
        drawn.append((copies, groups, hashes, held))  # a fallback for few texts, or a few large documents
    widest = next(iter(JOINED))
    for copies, groups, hashes, held in drawn:
        if not (held & has_entities).any():
            extra = nearest_group(groups, hashes, target, has_entities)
            if extra is None:
                continue
            held = held | (groups == extra)
        return held.tolist(), copies, copies != widest
    raise CorpusError(_inseparable(texts, split, notes), where=train, fix=f"give a file: --{split} FILE")


def _groupings(texts: Sequence[TaggedText]) -> Iterator[tuple[str, Integers, npt.NDArray[np.uint64]]]:
    """Ways to group the texts, the one with the largest groups first.

    Documents are never split. If there are documents, the first way also joins those that share a copy or near copy of
    a text. But nearly all documents may share a line such as "Methods", so the later ways compare whole documents.

    Yields:
        copies: a description of the copies that are kept together.
        groups: (texts,) the group of each text.
        hashes: (texts,) the hash of each text, or of its document.
    """
    signed = len(texts) <= MOST_COMPARED
    documents = [text.group if text.group != text.id else "" for text in texts]
    prints = text_fingerprints((text.text for text in texts), signed=signed)
    for copies, groups in groupings(prints, documents):
        yield copies, groups, prints.hashes
        if any(documents):
            break
    else:
        return
    unit_of = {name: number for number, name in enumerate(dict.fromkeys(text.group for text in texts))}
    parts: list[list[str]] = [[] for _ in unit_of]
    for text in texts:
        parts[unit_of[text.group]].append(text.text)
    # The parts are sorted, so that the split does not depend on the order of the file.
    prints = text_fingerprints(("\n".join(sorted(part)) for part in parts), signed=signed)
    units = np.array([unit_of[text.group] for text in texts])
    for copies, groups in groupings(prints):
        yield f"{copies} of whole documents", groups[units], prints.hashes[units]


def _inseparable(texts: Sequence[TaggedText], split: str, notes: Sequence[str]) -> str:
    """The message if no text can be held out of the training texts."""
    if len(texts) == 1:
        why = "there is only one text"
    elif texts[0].group != texts[0].id and len({text.group for text in texts}) == 1:
        why = f"all {len(texts):,} texts are from one document ('{texts[0].group}')"
    elif len({text_key(text) for text in texts}) == 1:
        why = f"all {len(texts):,} texts are equal except for case and white space"
    elif not any(text.spans for text in texts):
        why = "no text has an entity"
    else:
        why = "all texts with entities are from one document, or copies of each other"
    return f"no text can be held out for the {split} split: {why}" + "".join(f"; {note}" for note in notes)


def _read_ids(path: Path) -> Collection[str]:
    """The ids in a file: one per line, a JSON list, or the keys of a JSON object."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"'{path}' cannot be read: {error}", fix="give a file of ids, one per line") from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return {str(value) for value in json.loads(text)}
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"'{path}' is broken JSON: {error}", fix="give a JSON list, or one id per line") from None
    return {line.strip() for line in text.splitlines() if line.strip()}


def _checked_types(texts: Mapping[str, Sequence[TaggedText]], names: Mapping[str, str]) -> tuple[str, ...]:
    """The types of the training texts, sorted.

    Raises:
        CorpusError: a split has no entities.
    """
    counts = {split: type_counts(texts[split]) for split in SPLITS}
    for split in ("train", "validation", "test"):
        if not counts[split]:
            purpose = {"train": "learn", "validation": "choose the model by", "test": "measure"}[split]
            raise CorpusError(
                f"none of the {len(texts[split]):,} {split} texts has an entity: there is nothing to {purpose}",
                where=names.get(split, names.get("train")),
                fix="check that the last column, or the field that you named, holds the tags",
            )
    return tuple(sorted(counts["train"]))


def type_counts(texts: Iterable[TaggedText]) -> Counter[str]:
    """The number of entities of each type."""
    return Counter(span.label for text in texts for span in text.spans)


def _reading_notes(texts: Mapping[str, Sequence[TaggedText]]) -> list[str]:
    """Notes on entities and spans that were left out or changed when they were read."""
    every = list(itertools.chain.from_iterable(texts.values()))
    overlapping, joined = sum(text.overlapping for text in every), sum(text.joined for text in every)
    notes = []
    if overlapping:
        notes.append(f"entities that overlap a longer or equally long one are left out: {overlapping:,}")
    unlabelled = sum(text.unlabelled for text in every)
    if unlabelled:
        notes.append(f"spans whose label means no entity, such as O or N/A, are left out: {unlabelled:,}")
    if joined:
        notes.append(f"entities with several parts are read as one span, from the first part to the last: {joined:,}")
    return notes


def _type_notes(texts: Mapping[str, Sequence[TaggedText]], types: Sequence[str]) -> list[str]:
    notes = []
    train = type_counts(texts["train"])
    tags = [name for name in types if is_tag(name) and "-" in name]
    if len(tags) == len(types):
        notes.append(
            f"the types look like tags: {_listed(tags)}. They are learned as they are; if they are tags, write each "
            "entity as one span, and its type without the prefix"
        )
    notes += [
        f"'{name}' is read as a type (entities: {train[name]:,}). If it means no entity, leave these spans out"
        for name in filter(may_mean_no_label, types)
    ]
    once = [name for name in types if train[name] == 1]
    if once:
        notes.append(f"types with only one entity in the training texts, too rare to learn: {_listed(once)}")
    for split in ("validation", "test"):
        unseen = sorted(set(type_counts(texts[split])) - set(types))
        if unseen:
            where = f"types in the {split} texts but not in training"
            notes.append(f"{where}, whose entities the model will miss: {_listed(unseen)}")
    return notes


def _contradiction_notes(texts: Mapping[str, Sequence[TaggedText]]) -> list[str]:
    """A note on texts that are given several times with different entities, such as by annotators who disagree."""
    readings: defaultdict[str, dict[tuple[Span, ...], TaggedText]] = defaultdict(dict)
    counts = Counter[str]()
    for text in itertools.chain.from_iterable(texts.values()):
        readings[text.text].setdefault(text.spans, text)
        counts[text.text] += 1
    differing = {text: list(found.values()) for text, found in readings.items() if len(found) > 1}
    if not differing:
        return []
    one, other = next(iter(differing.values()))[:2]
    records = sum(counts[text] for text in differing)
    return [
        "texts that are given several times, with entities that contradict each other: "
        f"{len(differing):,} {'text' if len(differing) == 1 else 'texts'} in {records:,} records, such as "
        f"{_place(one)} and {_place(other)}. If annotators disagree, keep one record of each text"
    ]


def _place(text: TaggedText) -> str:
    return text.file if text.line is None else f"{text.file}:{text.line}"


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more types" if len(names) > most else "")
