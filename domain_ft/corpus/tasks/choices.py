"""Labelled examples exported from annotation tools: Label Studio, Prodigy and Argilla.

Their records are converted to plain ones, with the label in one field. The choices of an annotator become
`{"choices": [...]}`, Label Studio's format for several choices, even if there is only one: whether the task is
multi-label is known only after all records are read (`labels.LabelSurvey`). Tables and doccano's files are plain
already.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from domain_ft.corpus.annotation_tools import (
    Outcome,
    Plain,
    Refused,
    Skipped,
    argilla_responses,
    argilla_spans,
    is_argilla,
    is_label_studio,
    is_old_argilla,
    is_old_argilla_spans,
    is_prodigy_choice,
    label_studio_annotations,
    objects_in,
    skipped_task,
)
from domain_ft.corpus.left_out import VERDICT
from domain_ft.corpus.readers.base import BadRecords, RawRecord, kind_of
from domain_ft.quoting import listed, shown

LABEL = "label"
"""The field for the choices in a plain record, unless the user named another."""

CHOICES = "choices"


def is_choice(record: Mapping[str, Any]) -> bool:
    """Whether the record comes from an annotation tool and has choices, which `classify` reads."""
    if is_argilla(record):
        return not argilla_spans(record)
    if is_old_argilla(record):
        return not is_old_argilla_spans(record)
    return _has_choices(record) or is_prodigy_choice(record)


def chosen(value: Any) -> list[str] | None:
    """The choices in `{"choices": [...]}`, as an object or as JSON text; None for any other value.

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
    """The records of a file, with those of annotation tools converted to plain ones.

    Args:
        records: as they are in the file.
        label, text: the fields that the user named; None otherwise.
        file: the file's name in messages.
        bad: receives records that are skipped or cannot be read.
    """
    for record in records:
        outcome = _outcome(record.fields, label, text)
        if outcome is None:
            yield record
        elif isinstance(outcome, Plain):
            yield record._replace(fields=outcome.record)
        elif isinstance(outcome, Skipped):
            bad.leave_out(outcome.reason, file=file, line=record.line, field=outcome.field)
        else:
            bad.add(outcome.reason, file=file, line=record.line, field=outcome.field, fix=outcome.fix)


def _outcome(record: Mapping[str, Any], label: str | None, text: str | None) -> Outcome | None:
    """The outcome of a record; None for a record that is read as it is.

    That is a record that no tool wrote, or a record other than a Label Studio task that has the label field that the
    user named. A field named `label` does not count, because that may be the default name.
    """
    if is_label_studio(record):
        return _label_studio(record, label, text)
    if label is not None and label in record and label != LABEL:
        return None
    if is_prodigy_choice(record):
        rest = {name: value for name, value in record.items() if name not in ("options", "accept")}
        accepted = record.get(VERDICT, "accept") == "accept"
        return Plain(rest | _label(label, record.get("accept", [])) if accepted else rest)
    if is_argilla(record):
        return _argilla(record, label)
    if is_old_argilla(record):
        return _old_argilla(record, label)
    return None


def _label(field: str | None, choices: Sequence[Any]) -> dict[str, Any]:
    return {field or LABEL: {CHOICES: list(choices)}}


# --- Label Studio -----------------------------------------------------------------------------------------------------


def _has_choices(record: Mapping[str, Any]) -> bool:
    """Whether the record is a task of Label Studio's full export with choices and without entities."""
    if not is_label_studio(record):
        return False
    _, annotations = label_studio_annotations(record)
    kinds = {str(result.get("type")) for one in annotations for result in objects_in(one.get("result"))}
    return CHOICES in kinds and not kinds & {"labels", "hypertextlabels"}


def _label_studio(task: Mapping[str, Any], label: str | None, text: str | None) -> Outcome:
    name, annotations = label_studio_annotations(task)
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if not kept:
        return skipped_task(task, name, annotations)
    read = next((annotation for annotation in kept if annotation.get("ground_truth")), kept[0])
    answers = _answers(read)
    kinds = sorted({str(result.get("type")) for result in objects_in(read.get("result"))} - {CHOICES})
    if not answers:
        if not kinds:
            return Skipped("Label Studio: the annotation has no choice", name)
        use = "; for entities use `domain-ft tag`" if "labels" in kinds else ""
        fix = f"export tasks with choices{use}"
        return Refused(f"Label Studio: the results are of type {listed(kinds)}, but choices are expected", name, fix)
    question = label if label in answers else next(iter(answers))
    if len(answers) > 1 and label not in answers:
        fix = "name the question to learn: --label-field F"
        return Refused(f"Label Studio: the choices answer several questions: {listed(answers)}", name, fix)
    others = [] if read.get("ground_truth") else [_answers(other).get(question, []) for other in kept]
    if any(_as_set(other) != _as_set(answers[question]) for other in others):
        fix = "mark the right one as ground truth in Label Studio, or keep one annotation per task"
        return Refused(f"Label Studio: {len(kept)} annotators disagree on the choice", name, fix)
    data = task["data"]
    texts = [field for field, value in data.items() if isinstance(value, str)]
    shown_in = [name for name in _objects(read, question) if name in texts]
    # "text" may also be the usual name, not one that the user gave: then the object of the choices takes precedence.
    named = text in data and (text != "text" or len(shown_in) != 1)
    if not named and len(shown_in) > 1:
        fix = "name the one to learn from: --text-field F"
        return Refused(f"Label Studio: the choices are about several texts: {listed(shown_in)}", "data", fix)
    if not named and not shown_in and "text" not in texts and len(texts) != 1:
        fix = f"name the text field: --text-field F (the fields are: {listed(data)})"
        return Refused("Label Studio: it is not clear which field of 'data' holds the text", "data", fix)
    field = str(text) if named else shown_in[0] if shown_in else "text" if "text" in texts else texts[0]
    rest = {f"data.{key}": value for key, value in data.items() if key != field}
    rest |= {key: value for key, value in task.items() if key not in ("data", name)}
    rest |= {f"result of type {kind}": True for kind in kinds}
    return Plain({**rest, str(text) if named else "text": data[field], **_label(label, answers[question])})


def _as_set(choices: Sequence[Any]) -> set[str]:
    return set(map(str, choices))


def _answers(annotation: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The choices of an annotation by question."""
    answers: dict[str, list[Any]] = {}
    for result in objects_in(annotation.get("result")):
        value = result.get("value")
        if result.get("type") == CHOICES and isinstance(value, Mapping) and isinstance(value.get(CHOICES), list):
            answers.setdefault(str(result.get("from_name", LABEL)), []).extend(value[CHOICES])
    return answers


def _objects(annotation: Mapping[str, Any], question: str) -> list[str]:
    """The objects of the labelling interface that the choices for a question are about, each once."""
    results = objects_in(annotation.get("result"))
    choices = [one for one in results if one.get("type") == CHOICES and str(one.get("from_name", LABEL)) == question]
    return list(dict.fromkeys(str(one["to_name"]) for one in choices if "to_name" in one))


# --- Argilla ----------------------------------------------------------------------------------------------------------


def _argilla(record: Mapping[str, Any], label: str | None) -> Outcome:
    if str(record.get("status")).casefold() == "discarded":
        return Skipped("Argilla: the record was discarded", "status")
    responses, rest = argilla_responses(record)
    if spans := argilla_spans(record):
        responses = {name: answers for name, answers in responses.items() if name not in spans}
        if not responses:
            fix = "use `domain-ft tag` for them"
            return Refused("Argilla: the answers are entities, not labels of the whole text", "responses", fix)
        rest |= {f"{name}.responses": True for name in spans}
    if not any(responses.values()):
        return Skipped("Argilla: nobody has answered", "responses")
    question = label if label in responses else next(iter(responses))
    if len(responses) > 1 and label not in responses:
        fix = "name the question to learn: --label-field F"
        return Refused(f"Argilla: there are several questions: {listed(responses)}", "responses", fix)
    given = responses[question] or []
    if not isinstance(given, list):
        return Refused(f"Argilla: the answers to '{shown(question)}' are {kind_of(given)}, not a list", "responses")
    answers = [_values(answer) for answer in given if _is_answer(answer)]
    if not answers:
        return Skipped("Argilla: nobody has answered", "responses")
    if any(set(answer) != set(answers[0]) for answer in answers):
        fix = "keep only the right answer in each record"
        return Refused(f"Argilla: {len(answers)} annotators disagree on the answer", "responses", fix)
    return Plain({**rest, **_label(label, answers[0])})


def _is_answer(answer: Any) -> bool:
    """Whether an answer is neither null nor discarded."""
    if isinstance(answer, Mapping):
        return answer.get("value") is not None and str(answer.get("status")).casefold() != "discarded"
    return answer is not None


def _values(answer: Any) -> tuple[str, ...]:
    value = answer.get("value") if isinstance(answer, Mapping) else answer
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _old_argilla(record: Mapping[str, Any], label: str | None) -> Outcome:
    if str(record.get("status")).casefold() == "discarded":
        return Skipped("Argilla: the record was discarded", "status")
    if is_old_argilla_spans(record):
        fix = "use `domain-ft tag` for them"
        return Refused("Argilla: the record has words and entities, not a label of the whole text", "annotation", fix)
    answer = record["annotation"]
    if answer is None or answer == []:
        return Skipped("Argilla: nobody has annotated it", "annotation")
    inputs = record.get("inputs")
    rest = {name: value for name, value in record.items() if name not in ("annotation", "inputs")}
    if isinstance(inputs, Mapping) and not isinstance(record.get("text"), str):
        rest.pop("text", None)
        rest |= inputs
    return Plain({**rest, **_label(label, answer if isinstance(answer, list) else [answer])})
