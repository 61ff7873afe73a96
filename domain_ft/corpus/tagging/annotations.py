"""Records of annotation tools as plain records: a text with its spans, or words with their tags.

Prodigy, doccano, Label Studio, spaCy, BioC and lists of (word, tag) pairs are recognised by their fields. What becomes
of a record is an outcome: one or more plain records (`Plain`), left out since the annotator says so (`Passed`), or
refused with what to do (`Refused`). `tag` and `data check` both read files by `outcomes`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain_ft.corpus.left_out import VERDICT, rejected_by_annotator
from domain_ft.corpus.readers.base import kind_of
from domain_ft.corpus.tagging.entities import is_tag
from domain_ft.json_files import Doubled
from domain_ft.quoting import listed

SPANS_FIELDS = ("entities", "spans", "label", "labels", "ents", "annotations")
STARTS, ENDS = ("start", "start_offset", "begin"), ("end", "end_offset")
LABELS = ("label", "labels", "type", "entity_group")
"""The keys of a span that may hold its start, its end and its label."""

_CONTAINERS = ("documents", "PubTator3", "annotations")  # fields of a file's object that list its records


@dataclass(frozen=True)
class Plain:
    """A record of text and spans, or of words and tags.

    Attributes:
        unread: its fields that nothing reads; None to find them.
        group: the document that it is a part of.
        file: the name of the file that it is in, where the source has several.
    """

    record: Mapping[str, Any]
    unread: tuple[str, ...] | None = None
    group: str = ""
    file: str = ""


@dataclass(frozen=True)
class Passed:
    """A record that is left out because its annotator says so."""

    reason: str
    field: str | None = None


@dataclass(frozen=True)
class Refused:
    """A record that cannot be read."""

    reason: str
    field: str | None = None
    fix: str | None = None


Outcome = Plain | Passed | Refused


def records_of(value: Any) -> list[Any] | None:
    """The records of a whole JSON file: of a list, or of an object that lists them or is one; None of other values."""
    if isinstance(value, list):
        return [value] if is_pair(value) or _is_sentence(value) else value
    if not isinstance(value, Mapping):
        return None
    for name in _CONTAINERS:
        records = value.get(name)
        if isinstance(records, list) and "text" not in value and "data" not in value:
            return records
    if value and all(isinstance(part, Mapping) for part in value.values()) and "data" not in value:
        return [_with_id(key, part) for key, part in value.items()]
    return [value]


def _with_id(key: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record with the key that names it as its id; one that gives a field twice stays marked."""
    named = {"id": key, **record}
    if not isinstance(record, Doubled):
        return named
    marked = Doubled(named)
    marked.key = record.key
    return marked


def is_pair(value: Any) -> bool:
    """Whether it is spaCy's pair of a text and its entities."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], Mapping)


def _is_sentence(value: list[Any]) -> bool:
    """Whether it is a sentence of (word, tag) pairs."""
    return bool(value) and all(
        isinstance(pair, list) and len(pair) >= 2 and all(isinstance(part, str) for part in pair) and is_tag(pair[-1])
        for pair in value
    )


def outcomes(value: Any, text_field: str | None = None, spans_field: str | None = None) -> Iterator[Outcome]:
    """What becomes of a record, whatever tool wrote it. `text_field`, `spans_field`: the fields that were named."""
    if isinstance(value, list):
        yield _of_list(value)
    elif value is None:
        yield Passed("the record is null: nothing was annotated")
    elif not isinstance(value, Mapping):
        yield Refused(f"the record is {kind_of(value)}, where an object is wanted")
    elif (rejected := rejected_by_annotator(value)) is not None:
        yield Passed(rejected, VERDICT)
    elif is_label_studio(value):
        yield _label_studio(value, text_field)
    elif is_bioc(value):
        yield from _bioc(value)
    elif "paragraphs" in value and "text" not in value:
        fix = "convert the file: python -m spacy convert FILE . --converter json, then write text and entities"
        yield Refused("the record is of spaCy 2's training format, which is not read", "paragraphs", fix)
    else:
        yield Plain(value) if spans_field in value else _plain(value)


def is_annotated(record: Mapping[str, Any]) -> bool:
    """Whether a record is of a form with entities, by its fields: what `tag` reads."""
    tokens = next((record[name] for name in ("tokens", "words") if name in record), None)
    if isinstance(tokens, list) and any(name in record for name in ("tags", "ner_tags", "labels")):
        return True
    if is_label_studio(record):
        found = [result.get("type") for _, result in _results(record)]
        return not found or any(kind in ("labels", "hypertextlabels") for kind in found)
    if is_bioc(record):
        return True
    if not isinstance(record.get("text"), str):
        return False
    if "spans" in record or (isinstance(record.get("entities"), list) or isinstance(record.get("ents"), list)):
        return any(isinstance(record.get(name), list) for name in ("entities", "spans", "ents"))
    return any(are_spans(record.get(name)) for name in record)


def is_words(tokens: Any) -> bool:
    """Whether the tokens of a record are words that tags belong to; Prodigy's and spaCy's are objects with offsets."""
    return not (isinstance(tokens, list) and tokens and all(isinstance(token, Mapping) for token in tokens))


def first_of(span: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some keys that a span has."""
    return next((name for name in names if name in span), None)


def are_labelled_spans(value: Any) -> bool:
    """Whether it is a list of spans with labels, with one at least."""
    return are_spans(value) and all(not isinstance(part, Mapping) or first_of(part, LABELS) for part in value)


def are_spans(value: Any) -> bool:
    """Whether it is a list of spans, with one at least."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            (isinstance(part, Mapping) and first_of(part, STARTS) is not None and first_of(part, ENDS) is not None)
            or (isinstance(part, list) and len(part) == 3 and all(type(number) is int for number in part[:2]))
            for part in value
        )
    )


def spans_in(cell: Any) -> list[Any] | None:
    """The spans that the cell of a table lists as JSON, one at least; None where it lists none."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(cell)
        return value if are_spans(value) else None
    return None


def with_spans(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of a table, its cells that list spans as lists; the same one where there are none."""
    found = {name: spans for name, cell in record.items() if (spans := spans_in(cell)) is not None}
    return {**record, **found} if found else record


def _plain(value: Mapping[str, Any]) -> Plain:
    """A record as it is; where Prodigy leaves out the list of spans, with an empty one."""
    if not isinstance(value.get("text"), str) or ("tokens" in value and is_words(value["tokens"])):
        return Plain(value)
    without = not any(isinstance(value.get(name), list) for name in SPANS_FIELDS)
    if without and value.get(VERDICT) == "accept" and not any(map(are_labelled_spans, value.values())):
        return Plain({**value, "spans": []})
    return Plain(value)


def _of_list(value: list[Any]) -> Outcome:
    """spaCy's pair of a text and its entities, or a sentence of (word, tag) pairs."""
    if is_pair(value):
        text, about = value
        entities = about.get("entities", about.get("spans"))
        unread = tuple(name for name in about if name not in ("entities", "spans"))
        if not isinstance(entities, list):
            return Refused("the pair of text and annotations has no list 'entities'", "entities")
        return Plain({"text": text, "entities": entities}, unread)
    if _is_sentence(value):
        return Plain({"tokens": [pair[0] for pair in value], "tags": [pair[-1] for pair in value]}, ())
    fix = 'write objects, spaCy\'s pairs [text, {"entities": [[start, end, label]]}], or sentences of [word, tag] pairs'
    return Refused("the record is a list, and neither a text with its entities nor words with their tags", None, fix)


# --- Label Studio -----------------------------------------------------------------------------------------------------


def is_label_studio(record: Mapping[str, Any]) -> bool:
    """Whether it is a task of Label Studio's full export."""
    made = record.get("annotations", record.get("completions"))
    return isinstance(record.get("data"), Mapping) and isinstance(made, list)


def has_results(task: Mapping[str, Any]) -> bool:
    """Whether somebody annotated a task of Label Studio's full export."""
    return next(_results(task), None) is not None


def _annotations(task: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    name = "annotations" if "annotations" in task else "completions"
    return name, [one for one in task[name] if isinstance(one, Mapping)]


def _results(task: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each result of a task with the place where it is."""
    name, made = _annotations(task)
    for number, one in enumerate(made):
        for place, result in enumerate(_objects(one.get("result"))):
            yield f"{name}[{number}].result[{place}]", result


def _label_studio(task: Mapping[str, Any], text_field: str | None) -> Outcome:
    name, made = _annotations(task)
    kept = [one for one in made if not one.get("was_cancelled")]
    if not kept:
        why = "the annotator skipped it (was_cancelled)" if made else "nobody has annotated it"
        return Passed(f"Label Studio: {why}", name)
    if any(_are_broken(one.get("result")) for one in kept):
        return Refused("Label Studio: the result of an annotation is no list of objects", name)
    if any(result.get("type") == "hypertextlabels" for _, result in _results(task)):
        fix = "label plain text (<Text>, not <HyperText>), or write text and entities as JSON lines"
        return Refused("Label Studio: the entities are marked in HTML, whose places are not read", name, fix)
    chosen = next((one for one in kept if one.get("ground_truth")), kept[0])
    entities = _entities(chosen)
    if not chosen.get("ground_truth") and any(_places(_entities(one)) != _places(entities) for one in kept):
        fix = "mark the right one as ground truth in Label Studio, or leave one annotation for each task"
        return Refused(f"Label Studio: {len(kept)} annotators do not mark the same entities", name, fix)
    data = task["data"]
    field = text_field if text_field in data else _text_field(data, entities)
    if field is None:
        fix = f"name the field of the text: --text-field F (the fields are: {listed(data)})"
        return Refused("Label Studio: it is not clear which field of 'data' holds the text", "data", fix)
    kinds = {str(result.get("type")) for result in _objects(chosen.get("result"))}
    unread = [key for key in task if key not in ("data", name, "id")]
    unread += [f"data.{key}" for key in data if key != field]
    unread += [f"result of type {kind}" for kind in sorted(kinds - {"labels"})]
    record = {"id": task.get("id"), "text": data[field], "entities": entities}
    return Plain(record if text_field in (None, "text") else {**record, str(text_field): data[field]}, tuple(unread))


def _entities(annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The spans of an annotation, one for each label of each."""
    spans = []
    for result in _objects(annotation.get("result")):
        value = result.get("value")
        if isinstance(value, Mapping) and result.get("type", "labels") == "labels" and "start" in value:
            own = {"text": value["text"]} if isinstance(value.get("text"), str) else {}
            place = {"start": value["start"], "end": value.get("end"), **own}
            labels = value.get("labels")
            spans += [
                {**place, "label": label} for label in (labels if isinstance(labels, list) and labels else [None])
            ]
    return spans


def _places(spans: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(f"{span['start']}-{span['end']} {span['label']}" for span in spans)


def _text_field(data: Mapping[str, Any], entities: Sequence[Mapping[str, Any]]) -> str | None:
    """`text`, or the only field that holds text, or the only one that has the entities' own texts."""
    texts = [name for name, value in data.items() if isinstance(value, str)]
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else texts[0]
    own = [span["text"] for span in entities if "text" in span]
    fitting = [name for name in texts if own and all(text in data[name] for text in own)]
    return fitting[0] if len(fitting) == 1 else None


# --- BioC -------------------------------------------------------------------------------------------------------------


def is_bioc(record: Mapping[str, Any]) -> bool:
    """Whether it is a document of BioC JSON: passages that have their own annotations, or nothing but offsets."""
    passages = record.get("passages")
    if not isinstance(passages, list) or not passages or not isinstance(passages[0], Mapping):
        return False
    return "offset" in passages[0] and "offsets" not in passages[0]


def _bioc(document: Mapping[str, Any]) -> Iterator[Outcome]:
    """The passages of a document, each a text of its own."""
    group = str(document.get("id") or document.get("_id") or "")
    for place, passage in enumerate(document["passages"]):
        if not isinstance(passage, Mapping):
            yield Refused(f"this is {kind_of(passage)}, where an object is wanted", f"passages[{place}]")
            continue
        parts = [passage] if passage.get("text") else _objects(passage.get("sentences"))
        for part in parts:
            text, offset = part.get("text"), part.get("offset")
            if not isinstance(text, str) or type(offset) is not int:
                yield Refused("BioC: a passage has no text or no offset", f"passages[{place}]")
            elif _are_broken(part.get("annotations")):
                yield Refused("BioC: the annotations are no list of objects", f"passages[{place}].annotations")
            elif text.strip():
                spans = [_bioc_span(one, offset) for one in _objects(part.get("annotations"))]
                relations = ("relations",) if part.get("relations") or document.get("relations") else ()
                yield Plain({"text": text, "entities": spans, "document": group}, relations, group)


def _bioc_span(annotation: Mapping[str, Any], offset: int) -> dict[str, Any]:
    """An annotation as a span of its passage. What is missing stays so, and is refused where spans are judged."""
    infons = annotation.get("infons")
    label = infons.get("type") if isinstance(infons, Mapping) else None
    places: list[Any] = []
    for place in _objects(annotation.get("locations")):
        start, length = place.get("offset"), place.get("length")
        if isinstance(start, int) and isinstance(length, int):
            places.append([start - offset, start + length - offset])
        else:
            places.append([start, length])
    return {"id": annotation.get("id"), "label": label, "offsets": places, "text": annotation.get("text")}


def _are_broken(value: Any) -> bool:
    """Whether it is something else than a list of objects, or nothing."""
    return bool(value) and not (isinstance(value, list) and all(isinstance(part, Mapping) for part in value))


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; none where it is no list."""
    return [part for part in value if isinstance(part, Mapping)] if isinstance(value, list) else []
