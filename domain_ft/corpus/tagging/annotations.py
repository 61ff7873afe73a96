"""Converts the records of annotation tools to plain records: a text with spans, or words with tags.

Records of Prodigy, doccano, Label Studio, Argilla, spaCy and BioC, and lists of (word, tag) pairs, are recognised by
their structure. The outcome of a record is a plain record (`Plain`), or the reason why its annotator skipped it
(`Skipped`) or why it cannot be read (`Refused`). A BioC document has an outcome for each passage or sentence. Both
`tag` and `data check` read files with `outcomes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from domain_ft.corpus.annotation_tools import (
    ARGILLA_RESPONSES,
    Outcome,
    Plain,
    Refused,
    Skipped,
    are_labelled_spans,
    are_spans,
    argilla_responses,
    argilla_spans,
    argilla_values,
    is_argilla,
    is_label_studio,
    is_old_argilla_spans,
    label_studio_annotations,
    objects_in,
    skipped_task,
    spans_in,
)
from domain_ft.corpus.left_out import VERDICT
from domain_ft.corpus.readers.base import kind_of
from domain_ft.corpus.tagging.entities import is_tag
from domain_ft.corpus.verdicts import annotation_rejected
from domain_ft.json_files import Doubled
from domain_ft.quoting import listed

SPANS_FIELDS = ("entities", "spans", "label", "labels", "ents", "annotations")
_CONTAINERS = ("documents", "PubTator3", "annotations")  # fields of a top-level object that may list the records
_OBJECT = "to_name"  # the key under which a Label Studio result names the object that it belongs to


def records_of(value: Any) -> list[Any] | None:
    """The records in the value of a JSON file; None if it is neither a list nor an object.

    A list holds records, or is itself a record: spaCy's pair, or a sentence of (word, tag) pairs. An object lists
    records, maps ids to records, or is a record.
    """
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
    """The record with `key` as its id, unless it has an id. A `Doubled` record (with a repeated field) stays one."""
    named = {"id": key, **record}
    if not isinstance(record, Doubled):
        return named
    marked = Doubled(named)
    marked.key = record.key
    return marked


def is_pair(value: Any) -> bool:
    """Whether `value` is spaCy's pair of a text and its annotations."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], Mapping)


def _is_sentence(value: list[Any]) -> bool:
    """Whether `value` is a sentence of (word, tag) pairs."""
    return bool(value) and all(
        isinstance(pair, list) and len(pair) >= 2 and all(isinstance(part, str) for part in pair) and is_tag(pair[-1])
        for pair in value
    )


def outcomes(
    value: Any,
    text_field: str | None = None,
    spans_field: str | None = None,
    shown_in: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """The outcomes of a record from any tool.

    Args:
        value: the record as it is in the file.
        text_field, spans_field: the fields that the user named.
        shown_in: for Label Studio, the result of `label_studio_fields` for the whole file. By default, it is determined
            from this record alone.
    """
    if isinstance(value, list):
        yield _of_list(value)
    elif value is None:
        yield Skipped("the record is null: nothing was annotated")
    elif not isinstance(value, Mapping):
        yield Refused(f"the record is {kind_of(value)}, where an object is expected")
    elif (rejected := annotation_rejected(value, [name for name in (text_field, spans_field) if name])) is not None:
        field, reason = rejected
        yield Skipped(reason, field)
    elif is_label_studio(value):
        yield _label_studio(value, text_field, label_studio_fields([value]) if shown_in is None else shown_in)
    elif is_argilla(value) and spans_field not in value:
        yield _argilla(value, text_field)
    elif is_old_argilla_spans(value) and spans_field not in value:
        yield _old_argilla(value)
    elif is_bioc(value):
        yield from _bioc(value)
    elif "paragraphs" in value and "text" not in value:
        fix = "convert the file: python -m spacy convert FILE . --converter json, then write text and entities"
        yield Refused("the record is in spaCy 2's training format, which is not supported", "paragraphs", fix)
    else:
        yield Plain(value) if spans_field in value else _plain(value)


def is_annotated(record: Mapping[str, Any]) -> bool:
    """Whether `tag` can read a record: it has the fields of a text with entities, or of words with tags."""
    tokens = next((record[name] for name in ("tokens", "words") if name in record), None)
    if isinstance(tokens, list) and any(name in record for name in ("tags", "ner_tags", "labels")):
        return True
    if is_label_studio(record):
        types = [result.get("type") for result in _results(record)]
        return not types or any(kind in ("labels", "hypertextlabels") for kind in types)
    if is_bioc(record) or argilla_spans(record) or is_old_argilla_spans(record):
        return True
    if not isinstance(record.get("text"), str):
        return False
    if "spans" in record or (isinstance(record.get("entities"), list) or isinstance(record.get("ents"), list)):
        return any(isinstance(record.get(name), list) for name in ("entities", "spans", "ents"))
    return any(are_spans(record.get(name)) for name in record)


def is_words(tokens: Any) -> bool:
    """Whether a record's tokens are words, not objects with offsets as in Prodigy and spaCy."""
    return not (isinstance(tokens, list) and tokens and all(isinstance(token, Mapping) for token in tokens))


def with_spans(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of a table, with each cell of JSON spans parsed to a list."""
    parsed = {name: spans for name, cell in record.items() if (spans := spans_in(cell)) is not None}
    return {**record, **parsed} if parsed else record


def _plain(value: Mapping[str, Any]) -> Plain:
    """The record itself. If Prodigy's annotator accepted it without spans, it gets an empty list of spans."""
    if not isinstance(value.get("text"), str) or ("tokens" in value and is_words(value["tokens"])):
        return Plain(value)
    without = not any(isinstance(value.get(name), list) for name in SPANS_FIELDS)
    if without and value.get(VERDICT) == "accept" and not any(map(are_labelled_spans, value.values())):
        return Plain({**value, "spans": []})
    return Plain(value)


def _of_list(value: list[Any]) -> Outcome:
    """The outcome of spaCy's pair of a text and its annotations, or of a sentence of (word, tag) pairs."""
    if is_pair(value):
        text, annotations = value
        entities = annotations.get("entities", annotations.get("spans"))
        unread = tuple(name for name in annotations if name not in ("entities", "spans"))
        if not isinstance(entities, list):
            return Refused("the pair of text and annotations has no list 'entities'", "entities")
        return Plain({"text": text, "entities": entities}, unread)
    if _is_sentence(value):
        return Plain({"tokens": [pair[0] for pair in value], "tags": [pair[-1] for pair in value]}, ())
    fix = 'write objects, spaCy\'s pairs [text, {"entities": [[start, end, label]]}], or sentences of [word, tag] pairs'
    return Refused("the record is a list, but neither a text with entities nor words with tags", None, fix)


# --- Label Studio -----------------------------------------------------------------------------------------------------


def has_results(task: Mapping[str, Any]) -> bool:
    """Whether a task of Label Studio's full export has results."""
    return next(_results(task), None) is not None


def _results(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The results of all annotations of a task."""
    for annotation in label_studio_annotations(task)[1]:
        yield from objects_in(annotation.get("result"))


def _label_studio(task: Mapping[str, Any], text_field: str | None, shown_in: Mapping[str, str]) -> Outcome:
    """The outcome of a task. For the arguments see `outcomes`."""
    name, annotations = label_studio_annotations(task)
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if not kept:
        return skipped_task(task, name, annotations)
    if any(_is_broken(annotation.get("result")) for annotation in kept):
        return Refused("Label Studio: the result of an annotation is not a list of objects", name)
    if any(result.get("type") == "hypertextlabels" for result in _results(task)):
        fix = "label plain text (<Text>, not <HyperText>), or write text and entities as JSON lines"
        return Refused("Label Studio: the entities are marked in HTML, which is not supported", name, fix)
    chosen = next((annotation for annotation in kept if annotation.get("ground_truth")), kept[0])
    entities = _entities(chosen)
    if not chosen.get("ground_truth") and any(_span_keys(_entities(one)) != _span_keys(entities) for one in kept):
        fix = "mark the right one as ground truth in Label Studio, or keep one annotation per task"
        return Refused(f"Label Studio: {len(kept)} annotators disagree on the entities", name, fix)
    data = task["data"]
    texts = _texts_of(data)
    objects = {_object_of(span) for span in entities}
    clear = {shown_in[name] for name in objects if name in shown_in}
    elsewhere: list[str] = []
    if text_field in data:
        field = text_field
        elsewhere = sorted(clear - {field})
        entities = [span for span in entities if shown_in.get(_object_of(span), field) == field]
    elif len(clear) > 1:
        fix = "name the one to learn from: --text-field F"
        return Refused(f"Label Studio: the entities are in several texts: {listed(sorted(clear))}", "data", fix)
    elif objects:
        unclear = len(texts) != 1 and not all(name in shown_in for name in objects)
        field = None if unclear else next(iter(clear), texts[0] if texts else None)
    else:  # nothing is marked: take the field in which other tasks have entities
        fields = set(shown_in.values()) & set(texts)
        usual = "text" if "text" in texts and not fields else None
        field = next(iter(fields)) if len(fields) == 1 else texts[0] if len(texts) == 1 else usual
    if field is None:
        fix = f"name the text field: --text-field F (the fields are: {listed(data)})"
        return Refused("Label Studio: it is not clear which field of 'data' holds the text", "data", fix)
    entities = [{key: part for key, part in span.items() if key != _OBJECT} for span in entities]
    kinds = {str(result.get("type")) for result in objects_in(chosen.get("result"))}
    unread = [key for key in task if key not in ("data", name, "id")]
    unread += [f"data.{key}" for key in data if key != field]
    unread += [f"entities in data.{key}" for key in elsewhere]
    unread += [f"result of type {kind}" for kind in sorted(kinds - {"labels"})]
    record = {"id": task.get("id"), "text": data[field], "entities": entities}
    return Plain(record if text_field in (None, "text") else {**record, str(text_field): data[field]}, tuple(unread))


def _entities(annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The spans of an annotation, each with its object. A span with several labels becomes several spans."""
    spans = []
    for result in objects_in(annotation.get("result")):
        value = result.get("value")
        if isinstance(value, Mapping) and result.get("type", "labels") == "labels" and "start" in value:
            span = {_OBJECT: result.get(_OBJECT), "start": value["start"], "end": value.get("end")}
            if isinstance(value.get("text"), str):
                span["text"] = value["text"]
            labels = value.get("labels")
            spans += [{**span, "label": label} for label in (labels if isinstance(labels, list) and labels else [None])]
    return spans


def _span_keys(spans: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(f"{_object_of(span)} {span['start']}-{span['end']} {span['label']}" for span in spans)


def _object_of(span: Mapping[str, Any]) -> str:
    """The object of the labelling interface that a span is in, such as `text` for `<Text name="text">`."""
    return str(span.get(_OBJECT) or "")


def _texts_of(data: Mapping[str, Any]) -> list[str]:
    """The fields of a task that hold text."""
    return [name for name, value in data.items() if isinstance(value, str)]


def label_studio_fields(tasks: Iterable[Any]) -> dict[str, str]:
    """The field of `data` that each object of Label Studio's interface shows.

    Results name the object that they belong to (`to_name`), but the export does not say which field the object shows.
    If tasks have several fields of text, three signs are tried in this order: the field holds the spans' copies of the
    marked text; it has the object's name; it is the only one that is long enough for the offsets. An object whose field
    is not clear is left out.

    Args:
        tasks: the tasks of a file. Other records are ignored.
    """
    found: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for task in tasks:
        if isinstance(task, Mapping) and is_label_studio(task):
            spans = [span for one in label_studio_annotations(task)[1] for span in _entities(one)]
            for span in spans:
                found.setdefault(_object_of(span), []).append((task["data"], span))
    fields = {name: _field_of(name, spans) for name, spans in found.items()}
    return {name: field for name, field in fields.items() if field is not None}


def _field_of(name: str, spans: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str | None:
    """The field that an object shows, from (data, span) of each span in it; None if it is not clear."""
    texts = list(dict.fromkeys(field for data, _ in spans for field in _texts_of(data)))
    if len(texts) <= 1:
        return next(iter(texts), None)
    for fits in (_marks, _mentions):
        counts = {field: sum(fits(str(data.get(field, "")), span) for data, span in spans) for field in texts}
        most = max(counts.values())
        best = [field for field in texts if counts[field] == most]
        if most > len(spans) / 2:
            return best[0] if len(best) == 1 else next((field for field in (name, "text") if field in best), None)
    if name in texts or (not name and "text" in texts):
        return name or "text"
    long_enough = [field for field in texts if all(_reaches(str(data.get(field, "")), span) for data, span in spans)]
    return long_enough[0] if len(long_enough) == 1 else None


def _marks(text: str, span: Mapping[str, Any]) -> bool:
    """Whether the span's copy of its text is in `text` at the span's offsets."""
    start, end = span["start"], span["end"]
    return type(start) is int and type(end) is int and "text" in span and text[start:end] == span["text"]


def _mentions(text: str, span: Mapping[str, Any]) -> bool:
    """Whether the span's copy of its text is anywhere in `text`."""
    return bool(span.get("text")) and span["text"] in text


def _reaches(text: str, span: Mapping[str, Any]) -> bool:
    """Whether `text` is long enough for the span."""
    return not isinstance(span["end"], int) or span["end"] <= len(text)


# --- Argilla ----------------------------------------------------------------------------------------------------------


def _argilla(record: Mapping[str, Any], text_field: str | None) -> Outcome:
    """The outcome of a record of Argilla 2 whose question asks for spans."""
    if str(record.get("status")).casefold() == "discarded":
        return Skipped("Argilla: the record was discarded", "status")
    responses, rest = argilla_responses(record)
    questions = argilla_spans(record) or [name for name in responses if argilla_values(responses[name])]
    if not questions:
        return Skipped("Argilla: nobody has answered", "responses")
    if len(questions) > 1:
        fix = "export one question of entities"
        return Refused(f"Argilla: several questions have entities: {listed(questions)}", "responses", fix)
    answers = argilla_values(responses[questions[0]])
    if any(_argilla_keys(answer) != _argilla_keys(answers[0]) for answer in answers):
        fix = "keep only the right answer in each record"
        return Refused(f"Argilla: {len(answers)} annotators disagree on the entities", "responses", fix)
    fields = record["fields"] if isinstance(record.get("fields"), Mapping) else rest
    texts = [name for name in _texts_of(fields) if name not in ("id", "status", "_server_id")]
    field = text_field if text_field in fields else "text" if "text" in texts else texts[0] if len(texts) == 1 else None
    if field is None:
        fix = f"name the text field: --text-field F (the fields are: {listed(fields)})"
        return Refused("Argilla: it is not clear which field holds the text", "fields", fix)
    unread = [name for name in rest if name not in (field, "id", "status")]
    unread += [f"{name}{ARGILLA_RESPONSES}" for name in responses if name != questions[0]]
    plain = {"id": rest.get("id"), "text": fields[field], "entities": answers[0]}
    return Plain(plain if text_field is None else {**plain, text_field: fields[field]}, tuple(unread))


def _argilla_keys(answer: Any) -> list[str]:
    return sorted(json.dumps(span, sort_keys=True, default=str) for span in answer) if isinstance(answer, list) else []


def _old_argilla(record: Mapping[str, Any]) -> Outcome:
    """The outcome of a record of token classification in Argilla 1, with spans [label, start, end]."""
    if str(record.get("status")).casefold() == "discarded":
        return Skipped("Argilla: the record was discarded", "status")
    spans = record["annotation"]
    if spans is None:
        return Skipped("Argilla: nobody has annotated it", "annotation")
    if not isinstance(spans, list):
        return Refused(f"Argilla: the annotation is {kind_of(spans)}, where a list of spans is expected", "annotation")
    entities = [
        [part[1], part[2], part[0]]
        if isinstance(part, list) and len(part) in (3, 4) and isinstance(part[0], str)
        else part
        for part in spans
    ]
    unread = [name for name in record if name not in ("id", "text", "annotation", "status")]
    return Plain({"id": record.get("id"), "text": record["text"], "entities": entities}, tuple(unread))


# --- BioC -------------------------------------------------------------------------------------------------------------


def is_bioc(record: Mapping[str, Any]) -> bool:
    """Whether the record is a document of BioC JSON. Its passages have an `offset`; those of BigBIO have `offsets`."""
    passages = record.get("passages")
    if not isinstance(passages, list) or not passages or not isinstance(passages[0], Mapping):
        return False
    return "offset" in passages[0] and "offsets" not in passages[0]


def _bioc(document: Mapping[str, Any]) -> Iterator[Outcome]:
    """The outcome of each passage of a document. A passage without text has an outcome for each of its sentences.

    Passages and sentences with blank text have none.
    """
    group = str(document.get("id") or document.get("_id") or "")
    for place, passage in enumerate(document["passages"]):
        if not isinstance(passage, Mapping):
            yield Refused(f"this is {kind_of(passage)}, where an object is expected", f"passages[{place}]")
            continue
        parts = [passage] if passage.get("text") else objects_in(passage.get("sentences"))
        for part in parts:
            text, offset = part.get("text"), part.get("offset")
            if not isinstance(text, str) or type(offset) is not int:
                yield Refused("BioC: a passage has no text or no offset", f"passages[{place}]")
            elif _is_broken(part.get("annotations")):
                yield Refused("BioC: the annotations are not a list of objects", f"passages[{place}].annotations")
            elif text.strip():
                spans = [_bioc_span(annotation, offset) for annotation in objects_in(part.get("annotations"))]
                relations = ("relations",) if part.get("relations") or document.get("relations") else ()
                yield Plain({"text": text, "entities": spans, "document": group}, relations, group)


def _bioc_span(annotation: Mapping[str, Any], offset: int) -> dict[str, Any]:
    """An annotation as a span of its passage. Missing parts stay missing: the check of the spans reports them."""
    infons = annotation.get("infons")
    label = infons.get("type") if isinstance(infons, Mapping) else None
    offsets: list[Any] = []
    for location in objects_in(annotation.get("locations")):
        start, length = location.get("offset"), location.get("length")
        if isinstance(start, int) and isinstance(length, int):
            offsets.append([start - offset, start + length - offset])
        else:
            offsets.append([start, length])
    return {"id": annotation.get("id"), "label": label, "offsets": offsets, "text": annotation.get("text")}


def _is_broken(value: Any) -> bool:
    """Whether `value` is neither empty nor a list of objects."""
    return bool(value) and not (isinstance(value, list) and all(isinstance(part, Mapping) for part in value))
