"""Labelled examples as annotation tools export them: Label Studio, Prodigy and Argilla.

Their records become plain ones, with the label in one field. Which choices an annotator made is written as
`{"choices": [...]}`, which is how Label Studio writes several of them too: whether one or several may hold shows only
in all records of a file (`labels.LabelSurvey`). What becomes of a record is an outcome, as for entities
(`annotations.Outcome`). Files of doccano and tables are plain as they are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from domain_ft.corpus.left_out import VERDICT
from domain_ft.corpus.readers.base import BadRecords, RawRecord
from domain_ft.corpus.tagging.annotations import Outcome, Passed, Plain, Refused, is_label_studio
from domain_ft.quoting import listed

LABEL = "label"
"""The field that a plain record has its choices in, unless another one was named."""

CHOICES = "choices"

# What Label Studio writes beside the fields of its tasks and the answers of its annotators, in CSV and short JSON.
_OF_LABEL_STUDIO = frozenset(
    {
        "id",
        "annotator",
        "annotation_id",
        "created_at",
        "updated_at",
        "lead_time",
        "agreement",
        "predictions",
        "file_upload",
    }
)
_ANSWERED = ".responses"  # what a question of Argilla's is called, before which its name is


def is_choice(record: Mapping[str, Any]) -> bool:
    """Whether a record is one of a tool's, with choices: what `classify` reads."""
    return _is_label_studio(record) or _is_prodigy(record) or _is_argilla(record) or _is_old_argilla(record)


def label_studio_answers(fields: Iterable[str]) -> list[str] | None:
    """The fields of a table or short JSON of Label Studio that are not its own; None where it is not of that tool."""
    names = [str(field) for field in fields]
    if "annotation_id" not in names or "annotator" not in names:
        return None
    return [name for name in names if name not in _OF_LABEL_STUDIO]


def chosen(value: Any) -> list[str] | None:
    """The choices that a value lists, or JSON in a text; None where it is none that lists them.

    >>> chosen({"choices": ["a", "b"]}), chosen('{"choices": ["a"]}'), chosen("a")
    (['a', 'b'], ['a'], None)
    """
    if isinstance(value, str) and value.lstrip().startswith("{") and CHOICES in value:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, Mapping) or set(value) != {CHOICES} or not isinstance(value[CHOICES], list):
        return None
    return value[CHOICES] if all(isinstance(part, str | int) for part in value[CHOICES]) else None


def plain_records(
    records: Iterable[RawRecord], label: str | None, text: str | None, file: str, bad: BadRecords
) -> Iterator[RawRecord]:
    """The records with those of annotation tools made plain.

    Args:
        records: as the file has them.
        label, text: the fields that were named, if they were.
        file: what it is called in messages.
        bad: told of what is left out or cannot be read.
    """
    for record in records:
        outcome = _outcome(record.fields, label, text)
        if outcome is None:
            yield record
        elif isinstance(outcome, Plain):
            yield record._replace(fields=outcome.record)
        elif isinstance(outcome, Passed):
            bad.leave_out(outcome.reason, file=file, line=record.line, field=outcome.field)
        else:
            bad.add(outcome.reason, file=file, line=record.line, field=outcome.field, fix=outcome.fix)


def _outcome(record: Mapping[str, Any], label: str | None, text: str | None) -> Outcome | None:
    """What becomes of a record; None where it is of no tool, or its label was named and is there."""
    if is_label_studio(record):
        return _label_studio(record, label, text)
    if label is not None and label in record and label != LABEL:
        return None
    if _is_prodigy(record):
        rest = {name: value for name, value in record.items() if name not in ("options", "accept")}
        accepted = record.get(VERDICT, "accept") == "accept"
        return Plain(rest | _label(label, record.get("accept", [])) if accepted else rest)
    if _is_argilla(record):
        return _argilla(record, label)
    if _is_old_argilla(record):
        return _old_argilla(record, label)
    return None


def _label(field: str | None, choices: Sequence[Any]) -> dict[str, Any]:
    return {field or LABEL: {CHOICES: list(choices)}}


def whole_text_only(record: Mapping[str, Any]) -> bool:
    """Whether a tool's record has choices for its whole text and cannot have entities."""
    return (_is_prodigy(record) and "spans" not in record) or _is_argilla(record) or _is_old_argilla(record)


# --- Prodigy ----------------------------------------------------------------------------------------------------------


def _is_prodigy(record: Mapping[str, Any]) -> bool:
    """Whether it is a record of the interface `choice`; what was not accepted has no choice."""
    options, accept = record.get("options"), record.get("accept", [])
    return (
        isinstance(options, list)
        and bool(options)
        and all(isinstance(option, Mapping) and "id" in option for option in options)
        and ("accept" in record or VERDICT in record)
        and isinstance(accept, list)
    )


# --- Label Studio -----------------------------------------------------------------------------------------------------


def _is_label_studio(record: Mapping[str, Any]) -> bool:
    """Whether it is a task of its full export with choices, and no entities."""
    if not is_label_studio(record):
        return False
    kinds = {str(result.get("type")) for one in _annotations(record) for result in _results(one)}
    return "choices" in kinds and not kinds & {"labels", "hypertextlabels"}


def _annotations(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    made = task.get("annotations", task.get("completions"))
    return [one for one in made if isinstance(one, Mapping)] if isinstance(made, list) else []


def _results(annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    results = annotation.get("result")
    return [one for one in results if isinstance(one, Mapping)] if isinstance(results, list) else []


def _label_studio(task: Mapping[str, Any], label: str | None, text: str | None) -> Outcome:
    name = "annotations" if "annotations" in task else "completions"
    made = _annotations(task)
    kept = [one for one in made if not one.get("was_cancelled")]
    if not kept:
        why = "the annotator skipped it (was_cancelled)" if made else "nobody has annotated it"
        return Passed(f"Label Studio: {why}", name)
    one = next((one for one in kept if one.get("ground_truth")), kept[0])
    answers = _answers(one)
    kinds = sorted({str(result.get("type")) for result in _results(one)} - {CHOICES})
    if not answers:
        if not kinds:
            return Passed("Label Studio: the annotation holds no choice", name)
        use = "; entities are learned by `domain-ft tag`" if "labels" in kinds else ""
        fix = f"export tasks with choices{use}"
        return Refused(f"Label Studio: the results are of type {listed(kinds)}, and choices are wanted", name, fix)
    question = label if label in answers else next(iter(answers))
    if len(answers) > 1 and label not in answers:
        fix = "name the one to learn: --label-field F"
        return Refused(f"Label Studio: the choices are of several questions: {listed(answers)}", name, fix)
    others = [] if one.get("ground_truth") else [_answers(other).get(question, []) for other in kept]
    if any(_as_set(other) != _as_set(answers[question]) for other in others):
        fix = "mark the right one as ground truth in Label Studio, or leave one annotation for each task"
        return Refused(f"Label Studio: {len(kept)} annotators do not choose the same", name, fix)
    data = task["data"]
    texts = [field for field, value in data.items() if isinstance(value, str)]
    if text not in data and "text" not in texts and len(texts) != 1:
        fix = f"name the field of the text: --text-field F (the fields are: {listed(data)})"
        return Refused("Label Studio: it is not clear which field of 'data' holds the text", "data", fix)
    field = text if text in data else "text" if "text" in texts else texts[0]
    rest = {f"data.{key}": value for key, value in data.items() if key != field}
    rest |= {key: value for key, value in task.items() if key not in ("data", name)}
    rest |= {f"result of type {kind}": True for kind in kinds}
    return Plain({**rest, str(text) if text in data else "text": data[field], **_label(label, answers[question])})


def _as_set(choices: Sequence[Any]) -> set[str]:
    return set(map(str, choices))


def _answers(annotation: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What was chosen, by question."""
    found: dict[str, list[Any]] = {}
    for result in _results(annotation):
        value = result.get("value")
        if result.get("type") == CHOICES and isinstance(value, Mapping) and isinstance(value.get(CHOICES), list):
            found.setdefault(str(result.get("from_name", LABEL)), []).extend(value[CHOICES])
    return found


# --- Argilla ----------------------------------------------------------------------------------------------------------


def _is_argilla(record: Mapping[str, Any]) -> bool:
    """Whether it is a record of Argilla 2: nested, as `to_json` writes it, or flat, as `to_datasets` does."""
    nested = isinstance(record.get("fields"), Mapping) and isinstance(record.get("responses"), Mapping)
    return nested or ("status" in record and any(str(name).endswith(_ANSWERED) for name in record))


def _argilla(record: Mapping[str, Any], label: str | None) -> Outcome:
    if str(record.get("status")).casefold() == "discarded":
        return Passed("Argilla: the record was discarded", "status")
    if isinstance(record.get("responses"), Mapping):
        given = record["responses"]
        rest = {name: part for name, part in record.items() if name not in ("fields", "responses")} | record["fields"]
    else:
        asked = [str(name) for name in record if str(name).endswith(_ANSWERED)]
        given = {name.removesuffix(_ANSWERED): record[name] for name in asked}
        rest = {name: part for name, part in record.items() if name not in asked}
    if not any(given.values()):
        return Passed("Argilla: nobody has answered", "responses")
    question = label if label in given else next(iter(given))
    if len(given) > 1 and label not in given:
        fix = "name the one to learn: --label-field F"
        return Refused(f"Argilla: there are several questions: {listed(given)}", "responses", fix)
    answers = [_values(answer) for answer in given[question] or [] if _counts(answer)]
    if not answers:
        return Passed("Argilla: nobody has answered", "responses")
    if any(set(answer) != set(answers[0]) for answer in answers):
        fix = "leave the answer that is right in each record"
        return Refused(f"Argilla: {len(answers)} annotators do not answer the same", "responses", fix)
    return Plain({**rest, **_label(label, answers[0])})


def _counts(answer: Any) -> bool:
    """Whether an answer is one: neither null nor discarded."""
    if isinstance(answer, Mapping):
        return answer.get("value") is not None and str(answer.get("status")).casefold() != "discarded"
    return answer is not None


def _values(answer: Any) -> tuple[str, ...]:
    value = answer.get("value") if isinstance(answer, Mapping) else answer
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _is_old_argilla(record: Mapping[str, Any]) -> bool:
    """Whether it is a record of text classification of Argilla 1 or Rubrix."""
    return "annotation" in record and "annotation_agent" in record and "prediction" in record


def _old_argilla(record: Mapping[str, Any], label: str | None) -> Outcome:
    if str(record.get("status")).casefold() == "discarded":
        return Passed("Argilla: the record was discarded", "status")
    answer = record["annotation"]
    if answer is None or answer == []:
        return Passed("Argilla: nobody has annotated it", "annotation")
    inputs = record.get("inputs")
    rest = {name: value for name, value in record.items() if name not in ("annotation", "inputs")}
    if isinstance(inputs, Mapping) and not isinstance(record.get("text"), str):
        rest.pop("text", None)
        rest |= inputs
    return Plain({**rest, **_label(label, answer if isinstance(answer, list) else [answer])})
