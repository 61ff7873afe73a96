"""Records of annotation tools: which tool wrote a record, and the outcomes of reading it. For `tag` and `classify`.

`tagging.annotations` reads entities, and `tasks.choices` reads labels of whole texts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain_ft.corpus.left_out import VERDICT

# --- Outcomes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """A record in plain form: text and spans, words and tags, or text and label.

    Attributes:
        unread: the fields of the tool's record that were not used; None if they still have to be determined.
        group: the document that the record belongs to.
        file: the file that the record is in, if the source has several.
    """

    record: Mapping[str, Any]
    unread: tuple[str, ...] | None = None
    group: str = ""
    file: str = ""


@dataclass(frozen=True)
class Skipped:
    """A record that its annotator skipped, rejected or did not reach. `field` is the field that shows it."""

    reason: str
    field: str | None = None


@dataclass(frozen=True)
class Refused:
    """A record that cannot be read. `field` is the field at fault, and `fix` what to do."""

    reason: str
    field: str | None = None
    fix: str | None = None


Outcome = Plain | Skipped | Refused


# --- Spans ------------------------------------------------------------------------------------------------------------

# The keys that a span may have for its start, its end and its label.
STARTS, ENDS = ("start", "start_offset", "begin"), ("end", "end_offset")
LABELS = ("label", "labels", "type", "entity_group", "tag", "entity", "category", "value")


def first_of(span: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of `names` that is a key of the span."""
    return next((name for name in names if name in span), None)


def are_labelled_spans(value: Any) -> bool:
    """Whether `value` is a non-empty list of spans (see `are_spans`), and those that are objects have a label."""
    return are_spans(value) and all(not isinstance(part, Mapping) or first_of(part, LABELS) for part in value)


def are_spans(value: Any) -> bool:
    """Whether `value` is a non-empty list of spans: objects with a start and an end, or lists [start, end, label]."""
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
    """The spans in a table cell, if it is a non-empty JSON list of spans; otherwise None."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(cell)
        return value if are_spans(value) else None
    return None


# --- Label Studio -----------------------------------------------------------------------------------------------------

# Columns that Label Studio adds to the fields of a task and to the annotators' answers, in CSV and JSON-MIN.
_LABEL_STUDIO_COLUMNS = frozenset(
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


def is_label_studio(record: Mapping[str, Any]) -> bool:
    """Whether the record is a task of Label Studio's full export."""
    annotations = record.get("annotations", record.get("completions"))
    return isinstance(record.get("data"), Mapping) and isinstance(annotations, list)


def label_studio_annotations(task: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """The field of a task that holds its annotations, and the annotations."""
    name = "annotations" if "annotations" in task else "completions"
    return name, objects_in(task[name])


def skipped_task(task: Mapping[str, Any], field: str, annotations: Sequence[Mapping[str, Any]]) -> Skipped:
    """The outcome for a task whose `annotations` are all skipped, or that has none."""
    reason = "the annotator skipped it (was_cancelled)" if annotations else "nobody has annotated it"
    if task.get("predictions") and not annotations:
        reason += ": it has only predictions of a model, which are not read"
    return Skipped(f"Label Studio: {reason}", field)


def label_studio_answers(fields: Iterable[str]) -> list[str] | None:
    """The columns of a Label Studio table (CSV, JSON-MIN) without those that the tool adds; None for other tables."""
    names = [str(field) for field in fields]
    if "annotation_id" not in names or "annotator" not in names:
        return None
    return [name for name in names if name not in _LABEL_STUDIO_COLUMNS]


# --- Labels of whole texts --------------------------------------------------------------------------------------------

ARGILLA_RESPONSES = ".responses"
"""The suffix of an Argilla column that holds the answers to a question: `QUESTION.responses`."""


def is_prodigy_choice(record: Mapping[str, Any]) -> bool:
    """Whether the record comes from Prodigy's interface `choice`. If no option was chosen, `accept` may be missing."""
    options, accept = record.get("options"), record.get("accept", [])
    return (
        isinstance(options, list)
        and bool(options)
        and all(isinstance(option, Mapping) and "id" in option for option in options)
        and ("accept" in record or VERDICT in record)
        and isinstance(accept, list)
    )


def is_argilla(record: Mapping[str, Any]) -> bool:
    """Whether the record comes from Argilla 2: nested, as from `to_json`, or flat, as from `to_datasets`."""
    nested = isinstance(record.get("fields"), Mapping) and isinstance(record.get("responses"), Mapping)
    return nested or ("status" in record and any(str(name).endswith(ARGILLA_RESPONSES) for name in record))


def is_old_argilla(record: Mapping[str, Any]) -> bool:
    """Whether the record comes from Argilla 1 or Rubrix."""
    return "annotation" in record and "annotation_agent" in record and "prediction" in record


def argilla_responses(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answers to each question of an Argilla 2 record, and its other fields."""
    if isinstance(record.get("responses"), Mapping) and isinstance(record.get("fields"), Mapping):
        rest = {name: part for name, part in record.items() if name not in ("fields", "responses")} | record["fields"]
        return dict(record["responses"]), rest
    columns = [str(name) for name in record if str(name).endswith(ARGILLA_RESPONSES)]
    beside = {f"{name}.{part}" for name in columns for part in ("status", "users")}
    rest = {name: part for name, part in record.items() if name not in columns and name not in beside}
    found = {
        name.removesuffix(ARGILLA_RESPONSES): _with_status(record[name], record.get(f"{name}.status"))
        for name in columns
    }
    return found, rest


def _with_status(answers: Any, statuses: Any) -> Any:
    """The answers of a flat record in the form of a nested one, if the statuses are in the column beside them."""
    if not isinstance(answers, list) or not isinstance(statuses, list) or len(answers) != len(statuses):
        return answers
    return [{"value": value, "status": status} for value, status in zip(answers, statuses, strict=True)]


def argilla_values(answers: Any) -> list[Any]:
    """The values of the answers to a question of Argilla 2, without nulls and answers with the status `discarded`."""
    values = []
    for answer in answers if isinstance(answers, list) else []:
        if isinstance(answer, Mapping) and "value" in answer:
            discarded = str(answer.get("status")).casefold() == "discarded"
            values += [] if discarded or answer["value"] is None else [answer["value"]]
        elif answer is not None:
            values.append(answer)
    return values


def argilla_spans(record: Mapping[str, Any]) -> list[str]:
    """The questions of an Argilla 2 record that are answered with spans."""
    if not is_argilla(record):
        return []
    responses, _ = argilla_responses(record)
    return [name for name, answers in responses.items() if any(map(are_spans, argilla_values(answers)))]


def is_old_argilla_spans(record: Mapping[str, Any]) -> bool:
    """Whether the record comes from token classification in Argilla 1 or Rubrix."""
    return is_old_argilla(record) and isinstance(record.get("text"), str) and isinstance(record.get("tokens"), list)


def labels_whole_text(record: Mapping[str, Any]) -> bool:
    """Whether a record of Argilla or Prodigy can only have labels of its whole text, not entities; False for others."""
    if is_argilla(record):  # an empty list may answer a question about spans
        values = [value for answers in argilla_responses(record)[0].values() for value in argilla_values(answers)]
        return any(value != [] and not are_spans(value) for value in values) and not argilla_spans(record)
    if is_old_argilla(record):
        return not is_old_argilla_spans(record)
    return is_prodigy_choice(record) and "spans" not in record


def objects_in(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; an empty list if `value` is not a list."""
    return [part for part in value if isinstance(part, Mapping)] if isinstance(value, list) else []
