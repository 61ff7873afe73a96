"""Opening a tagging task: its files read, checked against each other, and split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
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
from domain_ft.corpus.readers.base import BadRecords, OnBadRecord, Reject
from domain_ft.corpus.splitting import JOINED, draw, groupings, nearest_group
from domain_ft.corpus.tagging.entities import SPELLED, Scheme, TaggedText, TaggingData, alike
from domain_ft.corpus.tagging.fields import Entry, TagFields
from domain_ft.corpus.tagging.reading import named_classes, read_tagged
from domain_ft.corpus.tagging.records import read_tagged_records
from domain_ft.corpus.tagging.standoff import is_brat
from domain_ft.errors import CorpusError


@dataclass(frozen=True)
class TaggingSource:
    """Where a tagging task is, how it is read and split; the settings of `tag` have the same names and their help."""

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
        """The source that a verb's settings ask for."""
        own = [field.name for field in dataclasses.fields(cls) if field.name not in ("fields", "scheme")]
        kinds = ("text", "tokens", "tags", "spans", "id", "group")
        return cls(
            **{name: getattr(settings, name) for name in own},
            fields=TagFields(
                **{kind: getattr(settings, f"{kind}_field") for kind in kinds}, offsets=settings.span_offsets
            ),
            scheme=None if settings.scheme == "auto" else settings.scheme,
        )


def open_tagging(
    source: TaggingSource, *, rejects: Callable[[Reject], None] | None = None, left: LeftOut | None = None
) -> TaggingData:
    """Read a tagging task and split it.

    Where no test or validation texts are given, they are a share of the training texts, drawn as `classify` draws:
    whole documents where the file knows of them, and whole groups of copies and near copies, by a hash of what they
    hold.

    Args:
        rejects: takes each record that is left out.
        left: takes the counts of what nothing reads.

    Raises:
        CorpusError: a file cannot be read; there is no entity to learn or to be measured on; a split is empty.
        RecordError: a bad record, where the source does not say to skip it.
    """
    bad = BadRecords(source.on_bad_record, rejects or (lambda _reject: None), source.encoding)
    given = {split: path for split in SPLITS if (path := getattr(source, split)) is not None}
    texts: dict[str, Sequence[TaggedText]] = {}
    schemes: dict[str, Scheme | None] = {}
    names = _short_names(given)
    file_notes: dict[str, list[str]] = {}
    for split, path in given.items():
        if path.startswith("hf:"):
            of_hub = _hub_splits(path, source, bad, left, file_notes.setdefault(names[split], []))
            found = of_hub if split == "train" else {split: of_hub.get(split, of_hub["train"])}
        else:
            own_notes = file_notes.setdefault(names[split], [])
            file = _file(path)
            own = read_tagged(file, names[split], source.fields, source.scheme, bad, left=left, notes=own_notes)
            found = {split: own}
        for part, (read, scheme) in found.items():
            if not read:
                raise CorpusError(
                    f"'{path}' holds no text that can be read", fix="give a file with texts and their tags"
                )
            texts[part], schemes[part] = read, scheme
    names = {split: names.get(split, names["train"]) for split in texts}
    _check_spelling(texts)
    split_facts, split_notes = _complete(texts, source, file_notes.get(names["train"], []))
    notes = [f"{name}: {note}" for name, own in file_notes.items() for note in own]
    notes += split_notes
    notes += _reading_notes(texts)
    types = _checked_types(texts, names)
    notes += _type_notes(texts, types)
    if len(set(schemes.values())) > 1:
        spelled = ", ".join(f"{names[s]}: {SPELLED[k] if k else 'spans of characters'}" for s, k in schemes.items())
        notes.append(f"the files are tagged in different ways, and are read all the same ({spelled})")
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
    """Names the content of all splits."""
    digest = hashlib.blake2b(digest_size=16)
    for split in SPLITS:
        for text in splits[split]:
            digest.update(repr((split, text.id, text.text, text.words, text.spans)).encode())
    return digest.hexdigest()


def text_key(text: TaggedText) -> str:
    """Equal for texts that say the same, whatever their case and white space."""
    return " ".join(text.text.casefold().split())


class TextExamples(Sequence[Example]):
    """Texts with entities as examples of classification, for what asks of them no more than their text and place.

    Their labels say how many entities of each type there are, such as `2 Disease`.
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
    """The task as one of classification, for `find_leaks`."""
    splits = {split: TextExamples(texts, f"{data.key}-{split}") for split, texts in data.splits.items()}
    names = sorted({label for examples in splits.values() for example in examples for label in example.labels})
    return TaskData(data.name, Labels(tuple(names), multi_label=True), splits, data.key)


def without(data: TaggingData, removals: Mapping[str, npt.NDArray[np.int64]]) -> TaggingData:
    """The task without the texts of some splits with these indices, as `Leaks.removals` has them.

    Raises:
        CorpusError: there is nothing left to learn from, or to choose the model by.
    """
    splits = dict(data.splits)
    for split, indices in removals.items():
        gone = set(indices.tolist())
        splits[split] = [text for place, text in enumerate(splits[split]) if place not in gone]
    types = _checked_types(splits, {})
    removed = ", ".join(f"{len(indices):,} {split}" for split, indices in removals.items() if len(indices))
    notes = (
        (*data.notes, f"Texts that stand in another split too were left out: {removed} texts.")
        if removed
        else data.notes
    )
    return dataclasses.replace(data, types=types, splits=splits, key=_content_key(splits), notes=notes)


def _hub_splits(
    spec: str, source: TaggingSource, bad: BadRecords, left: LeftOut | None, notes: list[str]
) -> dict[str, tuple[list[TaggedText], Scheme | None]]:
    """The splits of a data set of the hub, or of a folder that stands where an id would, by the names of `SPLITS`.

    Numbers that stand for tags are read as the names that the data set gives them.
    """
    from domain_ft.corpus.readers.hub import class_names, open_splits  # imports datasets

    identifier, _, config = spec.removeprefix("hf:").partition(":")
    there = open_splits(identifier, config or None, None)
    found = {split: next((name for name in names if name in there), None) for split, names in SPLIT_NAMES.items()}
    if found["train"] is None:
        reason = f"the data set has no split 'train', only {', '.join(there)}"
        raise CorpusError(reason, where=spec, fix="name a data set that has one")
    texts = {}
    for split, name in found.items():
        if name is not None:
            rows = there[name]
            known = class_names(rows.features)
            records = (Entry(number, Plain(named_classes(row, known))) for number, row in enumerate(rows, 1))
            where = f"{spec} {name}"
            texts[split] = read_tagged_records(
                records, where, source.fields, source.scheme, bad, left=left, notes=notes
            )
    return texts


def _file(path: str) -> Path:
    file = Path(path)
    if not file.is_file() and not (file.is_dir() and is_brat(file)):
        what = "is a folder, and holds no .ann files of BRAT" if file.is_dir() else "is not there"
        raise CorpusError(
            f"'{path}' {what}", fix="give a CoNLL file, or JSON lines of words and tags or text and spans"
        )
    return file


def _short_names(given: Mapping[str, str]) -> dict[str, str]:
    """What each file is called in messages and ids: its name, or its whole path where two share the name."""
    counts = Counter(Path(path).name for path in set(given.values()))
    return {split: path if counts[Path(path).name] > 1 else Path(path).name for split, path in given.items()}


def _check_spelling(texts: Mapping[str, Sequence[TaggedText]]) -> None:
    """Stop where types of entities differ in case or blanks only: they would be learned as different ones."""
    counts = type_counts(text for own in texts.values() for text in own)
    clashing = alike(counts)
    if not clashing:
        return
    listed = "; ".join(", ".join(f"'{name}' ({counts[name]:,})" for name in own) for own in clashing[:5])
    first = next(text for own in texts.values() for text in own for span in text.spans if span.label == clashing[0][-1])
    raise CorpusError(
        f"types of entities differ in case, blanks, _ or - only: {listed}",
        where=f"{first.file}, line {first.line}",
        fix="write each type in one way",
    )


def _complete(
    texts: dict[str, Sequence[TaggedText]], source: TaggingSource, notes: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Take the splits that are not given out of the training texts.

    Returns:
        how each was made, and what a person should know of it.

    Args:
        notes: what is to be known of how the training file was read, which a message repeats.
    """
    facts = dict.fromkeys(texts, "as given")
    said: list[str] = []
    if "test" not in texts and source.test_ids is not None:
        wanted = _read_ids(source.test_ids)
        held_out = [text.id in wanted for text in texts["train"]]
        if not any(held_out):
            raise CorpusError(
                f"none of the {len(wanted):,} ids is that of a training text, such as '{texts['train'][0].id}'",
                where=str(source.test_ids),
                fix="name the field that holds the ids: --id-field F",
            )
        _part(texts, "test", held_out)
        facts["test"] = f"the ids in {source.test_ids.name}"
    made = [split for split in ("test", "validation") if split not in texts]
    if made and len(texts["train"]) > MOST_COMPARED:
        said.append(
            f"there are {len(texts['train']):,} training texts: among more than {MOST_COMPARED:,}, near copies are not "
            "looked for, so that only exact copies are sure to be in one split"
        )
    for split in made:
        fraction = source.test_fraction if split == "test" else source.validation_fraction
        held_out, words, alike = _held_out(texts["train"], fraction, split, source.train, notes)
        _part(texts, split, held_out)
        facts[split] = f"{fraction:.0%} of the training texts, whole documents and groups of {words} at a time"
        if alike:
            said.append(
                f"most texts are joined by copies or near copies, so that for the {split} split only {words} are kept "
                "together: what is measured on copies of training texts flatters the model"
            )
    if not texts["train"]:
        raise CorpusError("no training texts are left after splitting", fix="give more texts, or splits of your own")
    return facts, said


def _part(texts: dict[str, Sequence[TaggedText]], split: str, held_out: Sequence[bool]) -> None:
    chosen = [text for text, out in zip(texts["train"], held_out, strict=True) if out]
    texts["train"] = [text for text, out in zip(texts["train"], held_out, strict=True) if not out]
    texts[split] = chosen


def _held_out(
    texts: Sequence[TaggedText], fraction: float, split: str, train: str, notes: Sequence[str]
) -> tuple[list[bool], str, bool]:
    """Which texts are held out, drawn in whole groups.

    Where the draw takes no text with an entity, the group that is nearest to the share in size is taken too, if another
    one with entities is left to train on.

    Returns:
        (texts,) True for those that are held out; what was kept together, in words; and whether that is less than all
        copies and near copies.

    Raises:
        CorpusError: all texts belong together, so that none can be taken.
    """
    types = [tuple(sorted({span.label for span in text.spans})) for text in texts]
    telling = np.array([bool(text.spans) for text in texts])
    wanted = fraction * len(texts)
    drawn: list[tuple[str, Integers, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]] = []
    for words, groups, hashes in _groupings(texts):
        held = draw(groups, hashes, types, fraction)
        sizes = np.bincount(groups)
        large = sizes[sizes > max(wanted, 1)].sum()
        if held.sum() >= max(wanted / 2, 1) and large <= len(texts) / 2:
            drawn.insert(0, (words, groups, hashes, held))
            break
        drawn.append((words, groups, hashes, held))  # for a few texts, or a few large documents
    widest = next(iter(JOINED))
    for words, groups, hashes, held in drawn:
        if not (held & telling).any():
            extra = nearest_group(groups, hashes, wanted, telling)
            if extra is None:
                continue
            held = held | (groups == extra)
        return held.tolist(), words, words != widest
    raise CorpusError(_inseparable(texts, split, notes), where=train, fix=f"give a file: --{split} FILE")


def _groupings(texts: Sequence[TaggedText]) -> Iterator[tuple[str, Integers, npt.NDArray[np.uint64]]]:
    """What may be kept together, in words, with the (texts,) group and hash of each: the widest groups first.

    Documents are never parted. At first those that share a copy or near copy of a text are joined too. But nearly all
    documents may share a line, such as "Methods": then whole documents are compared.
    """
    signed = len(texts) <= MOST_COMPARED
    documents = [text.group if text.group != text.id else "" for text in texts]
    prints = text_fingerprints((text.text for text in texts), signed=signed)
    for words, groups in groupings(prints, documents):
        yield words, groups, prints.hashes
        if any(documents):
            break
    else:
        return
    unit_of = {name: number for number, name in enumerate(dict.fromkeys(text.group for text in texts))}
    parts: list[list[str]] = [[] for _ in unit_of]
    for text in texts:
        parts[unit_of[text.group]].append(text.text)
    # Sorted, since the order of the file has no part in the split.
    prints = text_fingerprints(("\n".join(sorted(own)) for own in parts), signed=signed)
    units = np.array([unit_of[text.group] for text in texts])
    for words, groups in groupings(prints):
        yield f"{words} of whole documents", groups[units], prints.hashes[units]


def _inseparable(texts: Sequence[TaggedText], split: str, notes: Sequence[str]) -> str:
    """Why no text can be taken out of the training texts."""
    if len(texts) == 1:
        why = "there is one text only"
    elif texts[0].group != texts[0].id and len({text.group for text in texts}) == 1:
        why = f"all {len(texts):,} texts are of one document ('{texts[0].group}')"
    elif len({text_key(text) for text in texts}) == 1:
        why = f"all {len(texts):,} texts say the same, but for case and white space"
    else:
        why = "no two texts with entities can be told apart as copies or documents, so that one could be held out"
    return f"no text can be taken for the {split} split: {why}" + "".join(f"; {note}" for note in notes)


def _read_ids(path: Path) -> Collection[str]:
    """Ids: a line each, a JSON list, or the keys of a JSON object."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"'{path}' cannot be read: {error}", fix="give a file of ids, one a line") from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return {str(value) for value in json.loads(text)}
        except ValueError as error:
            raise CorpusError(f"'{path}' is broken JSON: {error}", fix="give a JSON list, or an id a line") from None
    return {line.strip() for line in text.splitlines() if line.strip()}


def _checked_types(texts: Mapping[str, Sequence[TaggedText]], names: Mapping[str, str]) -> tuple[str, ...]:
    """The types of the training texts, sorted."""
    counts = {split: type_counts(texts[split]) for split in SPLITS}
    for split in ("train", "validation", "test"):
        if not counts[split]:
            purpose = {"train": "learn", "validation": "choose the model by", "test": "measure"}[split]
            raise CorpusError(
                f"none of the {len(texts[split]):,} {split} texts has an entity: there is nothing to {purpose}",
                where=names.get(split, names.get("train")),
                fix="check that the last column, or the field that was named, holds the tags",
            )
    return tuple(sorted(counts["train"]))


def type_counts(texts: Iterable[TaggedText]) -> Counter[str]:
    """How many entities of each type there are."""
    return Counter(span.label for text in texts for span in text.spans)


def _reading_notes(texts: Mapping[str, Sequence[TaggedText]]) -> list[str]:
    """What reading has changed about the entities of the files."""
    every = [text for own in texts.values() for text in own]
    overlapping, joined = sum(text.overlapping for text in every), sum(text.joined for text in every)
    notes = []
    if overlapping:
        notes.append(
            f"entities that overlap a longer one, or stand at the place of another, are left out: {overlapping:,}"
        )
    if joined:
        notes.append(f"entities of several parts are read as all that lies between the first and the last: {joined:,}")
    return notes


def _type_notes(texts: Mapping[str, Sequence[TaggedText]], types: Sequence[str]) -> list[str]:
    notes = []
    train = type_counts(texts["train"])
    once = [name for name in types if train[name] == 1]
    if once:
        notes.append(f"too little to learn from, as it appears once in the training texts: {_listed(once)}")
    for split in ("validation", "test"):
        unseen = sorted(set(type_counts(texts[split])) - set(types))
        if unseen:
            notes.append(f"in the {split} texts but never in training, so that all are missed: {_listed(unseen)}")
    return notes


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more types" if len(names) > most else "")
