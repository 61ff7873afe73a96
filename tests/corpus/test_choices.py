"""Labels from Label Studio, Prodigy, doccano and Argilla: `classify` and `data check` read them, or say why not."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.checks.checking import Checker
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.checks.repairs import repair
from domain_ft.corpus.examples import TaskData
from domain_ft.corpus.readers.base import BadRecords, RawRecord, Reject
from domain_ft.corpus.tagging.entities import Span
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.reading import read_tagged
from domain_ft.corpus.tasks.choices import plain_records
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.errors import CorpusError, RecordError, UserError

WORDS = ["court", "clause", "claim", "lease", "fever", "dose", "biopsy", "tenant", "award", "notice"]
ONE = [["Pos"] if number % 2 else ["Neg"] for number in range(30)]
SEVERAL = [["Neg", "Pos"] if number % 3 == 0 else one for number, one in enumerate(ONE)]


def text(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % 10] for step in (1, 3, 7, 9)) + f" of case {number}"


def result(choices: list[str], question: str = "tone") -> dict[str, Any]:
    return {"from_name": question, "to_name": "text", "type": "choices", "value": {"choices": choices}}


def studio(number: int, *made: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A task of Label Studio, with an annotation for each list of results."""
    annotations = [{"id": place, "was_cancelled": False, "result": one} for place, one in enumerate(made)]
    return {"id": number, "data": {"text": text(number), "ref": "x"}, "annotations": annotations, **more}


def short(number: int, choices: list[str]) -> dict[str, Any]:
    """A record of Label Studio's JSON_MIN."""
    value: Any = choices[0] if len(choices) == 1 else {"choices": choices}
    about = {"annotator": 1, "annotation_id": number, "created_at": "2024-01-01", "lead_time": 1.5}
    return {"id": number, "text": text(number), "tone": value, **about}


def prodigy(number: int, choices: list[str], answer: str = "accept") -> dict[str, Any]:
    options = [{"id": "Pos", "text": "good"}, {"id": "Neg", "text": "bad"}]
    return {"text": text(number), "options": options, "accept": choices, "answer": answer, "_view_id": "choice"}


def argilla(number: int, choices: list[str]) -> dict[str, Any]:
    value = choices[0] if len(choices) == 1 else choices
    answers = {"tone": [{"value": value, "user_id": "u"}]}
    return {"id": str(number), "status": "completed", "fields": {"text": text(number)}, "responses": answers}


def flat_argilla(number: int, choices: list[str]) -> dict[str, Any]:
    value = choices[0] if len(choices) == 1 else choices
    users = {"tone.responses.users": ["u"], "tone.responses.status": ["submitted"]}
    return {"id": str(number), "status": "completed", "text": text(number), "tone.responses": [value], **users}


def old_argilla(number: int, choices: list[str]) -> dict[str, Any]:
    value = choices[0] if len(choices) == 1 else choices
    about = {"prediction": None, "annotation_agent": "a", "status": "Validated"}
    return {"inputs": {"text": text(number)}, "text": None, "annotation": value, **about}


FORMS: dict[str, Callable[[int, list[str]], dict[str, Any]]] = {
    "Label Studio": lambda number, choices: studio(number, [result(choices)]),
    "Label Studio, short": short,
    "Prodigy": prodigy,
    "Argilla 2": argilla,
    "Argilla 2, flat": flat_argilla,
    "Argilla 1": old_argilla,
}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write JSON lines, a JSON list, CSV or TSV, by the ending. In tables, lists and objects are written as JSON."""
    if path.suffix in (".csv", ".tsv"):
        sink = io.StringIO()
        writer = csv.DictWriter(sink, list(records[0]), delimiter="," if path.suffix == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(
            {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in record.items()}
            for record in records
        )
        path.write_text(sink.getvalue(), newline="")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def opened(path: Path, rejects: list[Reject] | None = None, **options: Any) -> TaskData:
    return open_task(TaskSource(train=str(path), **options), rejects=None if rejects is None else rejects.append)


def learned(data: TaskData) -> list[tuple[str, list[str]]]:
    return sorted((example.text, sorted(example.labels)) for split in data.splits.values() for example in split)


def check(path: Path) -> tuple[str, list[str]]:
    """The kind of file that `data check` recognises, and the messages of its errors."""
    file, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    found = Checker().check(file.items(rejections.bad), rejections)
    return file.kind, [finding.message for finding in found.errors]


@pytest.mark.parametrize("labels", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_by_classify_and_recognised_by_data_check(
    tmp_path: Path, form: str, labels: list[list[str]]
) -> None:
    for ending in ("json", "jsonl", *(("csv", "tsv") if form == "Label Studio, short" else ())):
        path = write(tmp_path / f"a.{ending}", [FORMS[form](number, one) for number, one in enumerate(labels)])
        data = opened(path)
        assert data.labels.multi_label == (labels is SEVERAL)
        assert learned(data) == sorted((text(number), one) for number, one in enumerate(labels))
        assert check(path) == ("examples", [])
        assert "text" not in data.left_out.fields


@pytest.mark.parametrize("form", FORMS)
def test_test_examples_with_one_choice_fit_training_examples_with_several(tmp_path: Path, form: str) -> None:
    train = write(tmp_path / "train.jsonl", [FORMS[form](number, one) for number, one in enumerate(SEVERAL)])
    test = write(tmp_path / "test.jsonl", [FORMS[form](number + 50, one) for number, one in enumerate(ONE[:4])])
    data = opened(train, test=str(test))
    assert [example.labels for example in data.splits["test"]] == [tuple(one) for one in ONE[:4]]


def test_a_cleaned_copy_has_the_same_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [studio(number, [result(one)]) for number, one in enumerate(SEVERAL)])
    file, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    found = Checker().check(file.items(rejections.bad), rejections)
    repair(file, found, tmp_path / "b.jsonl", None, None)
    copied, given = learned(opened(tmp_path / "b.jsonl")), learned(opened(path))
    assert all(one in given for one in copied)
    assert len(copied) > 20  # the near copies are left out


def test_examples_without_a_choice_are_listed_and_left_out(tmp_path: Path) -> None:
    records = [studio(number, [result(one)]) for number, one in enumerate(ONE)]
    records[0] = studio(0)
    records[1] = studio(1, [])
    records[2]["annotations"][0]["was_cancelled"] = True
    path = write(tmp_path / "a.json", records)
    rejects: list[Reject] = []
    assert len(learned(opened(path, rejects))) == 27
    assert [(one.line, one.reason.partition(": ")[2]) for one in rejects] == [
        (1, "nobody has annotated it"),
        (2, "the annotation has no choice"),
        (3, "the annotator skipped it (was_cancelled)"),
    ]
    assert check(path) == ("examples", [])


def test_verdicts_of_prodigy_are_followed(tmp_path: Path) -> None:
    records = [prodigy(number, one) for number, one in enumerate(ONE)]
    records[3]["answer"], records[4]["answer"] = "reject", "ignore"
    rejects: list[Reject] = []
    assert len(learned(opened(write(tmp_path / "a.jsonl", records), rejects))) == 28
    assert [one.line for one in rejects] == [4, 5]
    records[5]["accept"] = []
    with pytest.raises(RecordError, match=r"holds no choice[^$]*line 6"):
        opened(write(tmp_path / "b.jsonl", records))


def test_a_single_label_beside_verdicts_is_explained(tmp_path: Path) -> None:
    records = [{"text": text(n), "label": "Pos", "answer": "accept" if n % 2 else "reject"} for n in range(30)]
    path = write(tmp_path / "a.jsonl", records)
    with pytest.raises(CorpusError, match="if the annotators' verdicts are the labels: --label-field answer"):
        opened(path)
    assert opened(path, label_field="answer").labels.names == ("accept", "reject")


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (studio(0, [result(["Pos"])], [result(["Neg"])]), "2 annotators disagree on the choice"),
        (studio(0, [result(["Pos"]), result(["x"], "topic")]), "the choices answer several questions: tone, topic"),
        (studio(0, [{"type": "rating", "value": {"rating": 3}}]), "the results are of type rating"),
        ({**studio(0, [result(["Pos"])]), "data": {"a": "One.", "b": "Two."}}, "it is not clear which field of 'data'"),
        (
            {**argilla(0, ["Pos"]), "responses": {"a": [{"value": "x"}], "b": [{"value": "y"}]}},
            "several questions: a, b",
        ),
        ({**argilla(0, ["Pos"]), "responses": {"a": [{"value": "x"}, {"value": "y"}]}}, "disagree on the answer"),
    ],
)
def test_ambiguous_records_are_refused_with_the_cause(tmp_path: Path, record: dict[str, Any], what: str) -> None:
    others = [FORMS["Argilla 2" if "responses" in record else "Label Studio"](n + 1, ONE[n]) for n in range(20)]
    path = write(tmp_path / "a.jsonl", [record, *others])
    with pytest.raises(UserError, match=what) as raised:
        opened(path)
    assert "a.jsonl, line 1" in str(raised.value)
    assert check(path)[0] == "examples"


def test_one_of_several_questions_can_be_named(tmp_path: Path) -> None:
    records = [studio(n, [result(one), result(["x"], "topic")]) for n, one in enumerate(ONE)]
    assert opened(write(tmp_path / "a.json", records), label_field="tone").labels.names == ("Neg", "Pos")
    table = write(tmp_path / "a.csv", [{**short(n, one), "topic": "x"} for n, one in enumerate(ONE)])
    with pytest.raises(CorpusError, match="this is an export of Label Studio, and it is not clear"):
        opened(table)
    assert opened(table, label_field="tone").labels.names == ("Neg", "Pos")


def test_spans_of_argilla_are_not_read_as_labels(tmp_path: Path) -> None:
    spans = [{"value": [{"start": 0, "end": 5, "label": "Drug"}], "status": "submitted"}]
    records = [{**argilla(number, ["Pos"]), "responses": {"span": spans}} for number in range(3)]
    with pytest.raises(RecordError, match=r"answers are entities[^$]*`domain-ft tag`"):
        opened(write(tmp_path / "a.jsonl", records))


def test_choices_of_label_studio_belong_to_the_text_that_they_name(tmp_path: Path) -> None:
    def about(number: int, *objects: str) -> dict[str, Any]:
        made = studio(number, [{**result(ONE[number]), "to_name": name} for name in objects])
        return {**made, "data": {"text": "A summary", "body": text(number)}}

    data = opened(write(tmp_path / "a.json", [about(number, "body") for number in range(30)]))
    assert {example.text for split in data.splits.values() for example in split} == {text(n) for n in range(30)}
    with pytest.raises(RecordError, match="the choices are about several texts: body, text"):
        opened(write(tmp_path / "b.json", [about(number, "body", "text") for number in range(30)]))


def test_the_error_for_joined_labels_of_doccano_suggests_their_separator(tmp_path: Path) -> None:
    rows = [{"id": n, "text": text(n), "label": "#".join(one)} for n, one in enumerate(SEVERAL)]
    with pytest.raises(CorpusError, match="--label-separator '#'"):
        opened(write(tmp_path / "a.csv", rows))


# --- entities ---


def entity(number: int) -> dict[str, Any]:
    word = text(number).split()[0]
    return {"start": 0, "end": len(word), "text": word, "labels": ["Term"]}


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_of_label_studio_with_entities_is_read_by_tag(tmp_path: Path, ending: str) -> None:
    about = {"annotator": 1, "annotation_id": 1, "lead_time": 1.5}
    rows = [{"id": n, "text": text(n), "mark": [entity(n)] if n % 3 else "", **about} for n in range(12)]
    path = write(tmp_path / f"a.{ending}", rows)
    found, _ = read_tagged(path, path.name, TagFields(), None, BadRecords("stop", lambda _: None))
    assert [one.text for one in found] == [text(n) for n in range(12)]
    spans = [(Span(0, entity(n)["end"], "Term"),) if n % 3 else () for n in range(12)]
    assert [one.spans for one in found] == spans
    assert check(path) == ("tags", [])
    with pytest.raises(CorpusError, match=r"the field lists entities[^$]*`domain-ft tag`"):
        opened(path)


@pytest.mark.parametrize(
    ("name", "records", "what"),
    [
        ("a.csv", [short(n, ["Pos"]) for n in range(3)], "this is an export of Label Studio, and none of its columns"),
        ("a.csv", [{"id": n, "text": text(n), "label": "Pos"} for n in range(3)], "this is a table, and none of its"),
        ("a.csv", [{"text": text(n), "a": [entity(n)], "b": [entity(n)]} for n in range(3)], "list entities: a, b"),
        ("a.jsonl", [prodigy(n, ["Pos"]) for n in range(3)], "choices for its whole text, but no entities"),
        ("a.jsonl", [argilla(n, ["Pos"]) for n in range(3)], "choices for its whole text, but no entities"),
        (
            "a.jsonl",
            [{"text": text(n), "label": ["Pos"]} for n in range(3)],
            '"Pos" is a name, such as a label of the',
        ),
    ],
)
def test_labels_of_whole_texts_are_no_entities(
    tmp_path: Path, name: str, records: list[dict[str, Any]], what: str
) -> None:
    path = write(tmp_path / name, records)
    with pytest.raises(UserError, match=what):
        read_tagged(path, name, TagFields(), None, BadRecords("stop", lambda _: None))


def test_no_message_of_a_span_shows_a_whole_text(tmp_path: Path) -> None:
    private = "The patient, born in Anytown, was treated for a chronic lesion of the left lung."
    path = write(
        tmp_path / "a.jsonl", [{"text": "x", "entities": [{"start": "0", "end": 1, "label": "A", "text": private}]}]
    )
    with pytest.raises(RecordError) as raised:
        read_tagged(path, path.name, TagFields(), None, BadRecords("stop", lambda _: None))
    assert private[:50] not in str(raised.value)


# --- anything ---

_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.data(), st.sampled_from(sorted(FORMS)), st.booleans())
def test_whatever_replaces_a_part_the_record_is_read_or_rejected(data: st.DataObject, form: str, inner: bool) -> None:
    record = FORMS[form](0, ["Pos"])
    holders: list[dict[str, Any]] = [record]
    if inner:
        holders += [part for part in record.values() if isinstance(part, dict)]
        holders += [one for part in record.values() if isinstance(part, list) for one in part if isinstance(one, dict)]
    holder = data.draw(st.sampled_from(holders))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(_ANY)
    rejects: list[Reject] = []
    read = list(plain_records([RawRecord(1, record)], None, None, "a", BadRecords("skip", rejects.append)))
    assert len(read) + len(rejects) == 1
