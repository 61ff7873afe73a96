"""Texts with entities and relations in BigBIO's knowledge-base schema, for `tag` and `classify`.

A record is a document: passages with offsets, entities of one or more parts, and relations between entities (Fries et
al. 2022, "BigBIO: A Framework for Data-Centric Biomedical Natural Language Processing"). Events and coreferences are
not read.

For `tag`, a document is a text with spans. For `classify`, an example is a sentence in which two entities are replaced
by marks: "@CHEMICAL$ inhibits @GENE$." (Gu et al. 2021, "Domain-Specific Language Model Pretraining for Biomedical
Natural Language Processing": dummification of entities). A recipe names the types of entities that are paired.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain_ft.corpus.readers.base import BadRecords, RawRecord, kind_of
from domain_ft.corpus.sentences import sentence_bounds
from domain_ft.corpus.words import Bounds

PASSAGES, ENTITIES, RELATIONS = "passages", "entities", "relations"

NO_RELATION = "false"
"""The label of two entities that have none of the relations to learn."""

MOST_PAIRED = 64
"""A sentence with more entities to mark than this is skipped: it is probably a list, and has too many pairs."""

_WIDEST_GAP = 1_000_000  # characters before a passage; a larger gap is a mistake, and filling it takes memory


class KnowledgeBaseError(ValueError):
    """A record violates the schema. `field` is the path, such as `entities[2].offsets`."""

    def __init__(self, reason: str, field: str, fix: str | None = None) -> None:
        super().__init__(reason)
        self.field, self.fix = field, fix


@dataclass(frozen=True)
class Entity:
    """An entity. [start, end) reaches from its first part to its last; `parts` is the number of parts."""

    id: str
    type: str
    start: int
    end: int
    parts: int


@dataclass(frozen=True)
class Relation:
    """A relation. `first` and `second` are the ids of its entities."""

    type: str
    first: str
    second: str


@dataclass(frozen=True)
class Document:
    """A record of the schema.

    Attributes:
        text: all passages at their offsets, with newlines in the gaps.
        breaks: the offsets at which passages, or the parts of a passage, begin.
        entities, relations: in the order of the record.
    """

    text: str
    breaks: tuple[int, ...]
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]


def is_knowledge_base(record: Mapping[str, Any]) -> bool:
    """Whether a record has passages and entities, as in the schema."""
    return PASSAGES in record and ENTITIES in record


def read_document(record: Mapping[str, Any]) -> Document:
    """Parse a record of the schema, and check the text of each entity against the text at its offsets.

    The check ignores white space, because a line break within an entity may be written as a space.

    Raises:
        KnowledgeBaseError: the record violates the schema.
    """
    text, breaks = _text(record)
    entities: dict[str, Entity] = {}
    for place, item in _items(record, ENTITIES):
        entity = _entity(item, f"{ENTITIES}[{place}]", text)
        if entity.id in entities:
            raise KnowledgeBaseError(f"two entities have the id '{entity.id}'", f"{ENTITIES}[{place}].id")
        entities[entity.id] = entity
    relations = []
    for place, item in _items(record, RELATIONS) if record.get(RELATIONS) is not None else ():
        field = f"{RELATIONS}[{place}]"
        relation = Relation(_name(item, "type", field), _name(item, "arg1_id", field), _name(item, "arg2_id", field))
        for key, argument in (("arg1_id", relation.first), ("arg2_id", relation.second)):
            if argument not in entities:
                raise KnowledgeBaseError(f"there is no entity with the id '{argument}'", f"{field}.{key}")
        relations.append(relation)
    return Document(text, breaks, tuple(entities.values()), tuple(relations))


# ----------------------------------------------------------------------------------------------------------- relations


@dataclass(frozen=True)
class RelationReader:
    """Makes examples from the pairs of entities in one sentence: `reader = "relations"` in a recipe.

    Attributes:
        marks: by mark (without the @ and $ around it), the entity types that it replaces. With one mark, its entities
            are paired with each other. With two marks, entities of the first are paired with entities of the second.
        relations: the relation types that are classes. A pair with several of them gets the one that comes first here;
            a pair with none gets `NO_RELATION`.
    """

    marks: Mapping[str, Sequence[str]]
    relations: Sequence[str]

    def __call__(self, record: RawRecord, name: str, bad: BadRecords) -> Iterator[RawRecord]:
        """The examples of a record, with the fields `text`, `label` and `group` (the document)."""
        fields = record.fields
        try:
            document = read_document(fields)
        except KnowledgeBaseError as error:
            bad.add(str(error), file=name, line=record.line, field=error.field, fix=error.fix)
            return
        group = str(fields.get("document_id") or fields.get("id") or f"{name}:{record.line}")
        for key, text, label in self.pairs(document):
            yield RawRecord(record.line, {"text": text, "label": label, "group": group}, f"{group}:{key}")

    def pairs(self, document: Document) -> Iterator[tuple[str, str, str]]:
        """(ids of both entities, sentence with marks, label) of each pair, in the order of the text.

        Sentences with more than `MOST_PAIRED` entities to mark are skipped.
        """
        marks = {type: mark for mark, types in self.marks.items() for type in types}
        places = {e.id: (e.start, e.end, marks[e.type]) for e in document.entities if e.type in marks}
        ids = {place: id for id, place in reversed(places.items())}  # of several equal places, the first id remains
        labels = self._labels(document, places)
        whole = [(entity.start, entity.end) for entity in document.entities]
        sentences = list(sentence_bounds(document.text, whole=whole, breaks=document.breaks))
        starts = [start for start, _ in sentences]
        by_sentence = itertools.groupby(sorted(ids), lambda place: bisect.bisect(starts, place[0]) - 1)
        for number, group in by_sentence:
            entities = list(group)
            for one, other in itertools.combinations(entities if len(entities) <= MOST_PAIRED else (), 2):
                if len(self.marks) == 1 or one[2] != other[2]:
                    text = self._marked(document.text, sentences[number], one, other)
                    yield f"{ids[one]}+{ids[other]}", text, labels.get(frozenset((one, other)), NO_RELATION)

    def _labels(self, document: Document, places: Mapping[str, Any]) -> dict[frozenset[Any], str]:
        """The relation of each pair of `places` that has one. The direction of relations is ignored."""
        labels: dict[frozenset[Any], str] = {}
        for name in reversed(self.relations):  # if a pair has several, the first in `self.relations` remains
            for relation in document.relations:
                if relation.type == name and relation.first in places and relation.second in places:
                    labels[frozenset((places[relation.first], places[relation.second]))] = name
        return labels

    def _marked(self, text: str, sentence: Bounds, one: tuple[int, int, str], other: tuple[int, int, str]) -> str:
        """The sentence with a mark for each entity. Overlapping entities get one mark, such as `@CHEMICAL-GENE$`."""
        start, end = sentence
        if other[0] < one[1]:
            both = "-".join(sorted((one[2], other[2]), key=list(self.marks).index))
            return f"{text[start : one[0]]}@{both}${text[max(one[1], other[1]) : end]}"
        return f"{text[start : one[0]]}@{one[2]}${text[one[1] : other[0]]}@{other[2]}${text[other[1] : end]}"


# -------------------------------------------------------------------------------------------------------------- fields


def _text(record: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """The text of all passages, and the offsets where they or their parts begin."""
    found = []
    for place, item in _items(record, PASSAGES):
        field = f"{PASSAGES}[{place}]"
        texts, offsets = _texts(item, field), _offsets(item, field)
        if len(texts) != len(offsets):
            raise KnowledgeBaseError(f"there are {len(texts)} texts and {len(offsets)} offsets", f"{field}.offsets")
        found += [(bounds, text, field) for bounds, text in zip(offsets, texts, strict=True)]
    parts, length = [], 0
    for (start, end), text, field in sorted(found):
        if end - start != len(text):
            reason = f"the text has {len(text)} characters, but [{start}, {end}] has {end - start}"
            raise KnowledgeBaseError(reason, f"{field}.offsets", _COUNTED)
        if not 0 <= start - length <= _WIDEST_GAP:
            gap = f"comes after a gap of more than {_WIDEST_GAP:,} characters"
            fault = "begins before the end of the one before it" if start < length else gap
            raise KnowledgeBaseError(f"the passage at {start} {fault}", f"{field}.offsets")
        parts += ["\n" * (start - length), text]
        length = end
    text = "".join(parts)
    if not text.strip():
        raise KnowledgeBaseError("the passages have no text", PASSAGES)
    return text, tuple(start for (start, _), _, _ in found)


_COUNTED = "offsets count Unicode characters (not bytes, not UTF-16 units) from 0, and the end is exclusive"


def _entity(item: Mapping[str, Any], field: str, text: str) -> Entity:
    texts, offsets = _texts(item, field), _offsets(item, field)
    for start, end in offsets:
        if end > len(text):
            reason = f"[{start}, {end}] is outside the text, which has {len(text)} characters"
            raise KnowledgeBaseError(reason, f"{field}.offsets", _COUNTED)
    marked = " ".join(text[start:end] for start, end in offsets)
    if "".join(marked.split()) != "".join(" ".join(texts).split()):
        spelled = json.dumps([list(bounds) for bounds in offsets])
        reason = f"the entity is '{' '.join(texts)}', but the text at {spelled} is '{marked}'"
        raise KnowledgeBaseError(reason, f"{field}.offsets", _COUNTED)
    start, end = min(start for start, _ in offsets), max(end for _, end in offsets)
    extent = text[start:end]
    start, end = start + len(extent) - len(extent.lstrip()), end - len(extent) + len(extent.rstrip())
    if start >= end:
        raise KnowledgeBaseError("the entity has no text", f"{field}.text")
    return Entity(_name(item, "id", field), _name(item, "type", field), start, end, len(offsets))


def _items(record: Mapping[str, Any], name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(index, object) of each object in a list."""
    items = record.get(name)
    if not isinstance(items, list):
        kind = kind_of(items) if name in record else "missing"
        raise KnowledgeBaseError(f"the field is {kind}, where a list of objects is expected", name)
    for place, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise KnowledgeBaseError(f"this is {kind_of(item)}, where an object is expected", f"{name}[{place}]")
        yield place, item


def _name(item: Mapping[str, Any], key: str, field: str) -> str:
    value = item.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        kind = "missing" if key not in item else "empty" if value == "" else kind_of(value)
        raise KnowledgeBaseError(f"the field is {kind}, where a name is expected", f"{field}.{key}")
    return value


def _texts(item: Mapping[str, Any], field: str) -> list[str]:
    texts = item.get("text")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise KnowledgeBaseError("the field is not a list of texts", f"{field}.text")
    return texts


def _offsets(item: Mapping[str, Any], field: str) -> list[Bounds]:
    """(start, end) of each part, at least one."""
    offsets = item.get("offsets")
    expected = "a list of pairs [start, end] of whole numbers"
    if not isinstance(offsets, list) or not offsets:
        kind = "missing" if "offsets" not in item else "empty" if offsets == [] else kind_of(offsets)
        raise KnowledgeBaseError(f"the field is {kind}, where {expected} is expected", f"{field}.offsets")
    for bounds in offsets:
        numbers = bounds if isinstance(bounds, list) else []
        if len(numbers) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
            reason = f"this is {json.dumps(bounds)}, where a pair [start, end] of whole numbers is expected"
            raise KnowledgeBaseError(reason, f"{field}.offsets")
        if not 0 <= numbers[0] <= numbers[1]:
            raise KnowledgeBaseError(f"{bounds} begins before the text or ends before it begins", f"{field}.offsets")
    return [(start, end) for start, end in offsets]
