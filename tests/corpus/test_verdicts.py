"""Records that somebody rejected are left out; fields under close names are followed; unclear ones are noted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain_ft.corpus.conversations.formats import FieldChoice, Parsed, parse, recognise
from domain_ft.corpus.conversations.reading import ConversationData, ConversationSource, open_conversations
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import RawRecord, Reject
from domain_ft.corpus.tagging.opening import TaggingSource, open_tagging
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.verdicts import accepting_fields, annotation_rejected
from domain_ft.randomness import generator

QA = {"question": "Why?", "answer": "Because."}
WORDS = ["bone", "fox", "law", "heart", "dog", "work", "terms", "growth", "bird", "holder", "wolf", "notice", "rain"]


def text(number: int, length: int = 12) -> str:
    return " ".join(generator(0, "verdicts", number).choice(WORDS, length))


def parsed(fields: dict[str, Any]) -> Parsed:
    format = recognise(fields, FieldChoice())
    assert format is not None
    return parse(RawRecord(4, fields), "f.jsonl", format, FieldChoice())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chats(path: Path, **fields: Any) -> ConversationData:
    """Questions and answers; the values of `fields` alternate."""
    rows: list[dict[str, Any]] = [{"question": f"{text(2 * n)}?", "answer": f"{text(2 * n + 1)}."} for n in range(20)]
    for name, values in fields.items():
        for number, row in enumerate(rows):
            row[name] = values[number % len(values)]
    return open_conversations(ConversationSource(str(write(path / "chats.jsonl", rows))))


@pytest.mark.parametrize(
    "verdict",
    [
        *({"status": "rejected"}, {"status": "Rejected "}, {"accepted": False}, {"is-approved": "no"}, {"Approved": 0}),
        *({"was_cancelled": True}, {"wasCancelled": True}, {"rejected": "true"}, {"answer": "ignore"}),
    ],
)
def test_a_rejected_annotation_is_recognised(verdict: dict[str, Any]) -> None:
    found = annotation_rejected({"text": "x", "label": "a", **verdict})
    assert found is not None
    assert found[0] == next(iter(verdict))
    assert annotation_rejected({"text": "x", **verdict}, read=list(verdict)) is None


@pytest.mark.parametrize(
    "other",
    [
        *({"status": "draft"}, {"accepted": True}, {"accepted": "maybe"}, {"rejected": "the longer answer"}),
        *(
            {"rating": "bad"},
            {"label": "bad"},
            {"deleted": True},
            {"correct": False},
            {"state": "Ohio"},
            {"decision": "rejected"},
            {"verdict": "declined"},
            {"review": "reject"},
        ),
    ],
)
def test_other_fields_are_no_verdict_on_the_annotation(other: dict[str, Any]) -> None:
    assert annotation_rejected({"text": "x", **other}) is None


def test_fields_that_accept_are_recognised() -> None:
    record = {"text": "x", "answer": "Accept", "status": "approved", "was_cancelled": False, "state": "draft"}
    assert accepting_fields(record) == {"answer", "status", "was_cancelled"}


def task_rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"text": text(n), "label": "ab"[n % 2], "status": "rejected" if n % 3 == 0 else "accepted", "ok": n % 4 == 0}
        for n in range(count)
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_classify_leaves_out_rejected_records(tmp_path: Path, kind: str) -> None:
    path, rows = tmp_path / f"a.{kind}", task_rows()
    if kind == "jsonl":
        write(path, rows)
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    rejects: list[Reject] = []
    data = open_task(TaskSource(train=str(path)), rejects=rejects.append)
    assert sum(data.facts["examples"].values()) == 40
    assert {(one.field, one.reason) for one in rejects} == {
        ("status", "the record is marked as bad (status: rejected)")
    }
    assert data.left_out.records == 20
    assert dict(data.left_out.fields) == {"ok": 40}
    (note,) = [note for note in data.notes if "verdicts" in note]
    assert "ok (false: 30, true: 10)" in note
    assert "status" not in note


def test_a_label_is_no_verdict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", task_rows())
    data = open_task(TaskSource(train=str(path), label_field="status"))
    assert sum(data.facts["examples"].values()) == 60


def tag_rows(**fields: Any) -> list[dict[str, Any]]:
    rows = []
    for n in range(40):
        span = {"start": 0, "end": text(n).index(" "), "label": "Thing"}
        rows.append({"text": text(n), "spans": [span], **{name: values[n % 2] for name, values in fields.items()}})
    return rows


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_tag_leaves_out_rejected_records(tmp_path: Path, kind: str) -> None:
    path, rows = tmp_path / f"a.{kind}", tag_rows(was_cancelled=[True, False], flagged=[False, True])
    if kind == "jsonl":
        write(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    rejects: list[Reject] = []
    left = LeftOut()
    data = open_tagging(TaggingSource(train=str(path)), rejects=rejects.append, left=left)
    assert sum(map(len, data.splits.values())) == 20
    assert [one.field for one in rejects] == ["was_cancelled"] * 20
    assert dict(left.fields) == {"flagged": 20}
    assert any("flagged (true: 20)" in note for note in data.notes)


def test_tag_leaves_out_rejected_spans(tmp_path: Path) -> None:
    rows = tag_rows()
    for number, row in enumerate(rows):
        row["spans"][0]["rejected"] = number % 2 == 0
    left = LeftOut()
    data = open_tagging(TaggingSource(train=str(write(tmp_path / "a.jsonl", rows))), left=left)
    assert sum(len(one.spans) for texts in data.splits.values() for one in texts) == 20
    assert sum(map(len, data.splits.values())) == 40
    assert "a.jsonl: 20 spans are marked as rejected and left out" in data.notes
    assert dict(left.fields) == {}


@pytest.mark.parametrize(
    "mark",
    [
        *({"Train": False}, {"TRAIN": "false"}, {"train": "no"}, {"is_train": False}, {"do-train": "No"}),
        *({"no_train": True}, {"trained": False}, {"Weight": 0}, {"approved": "no"}, {"state": "rejected"}),
        *({"is_good": False}, {"good": False}, {"keep": False}, {"use": False}, {"include": False}),
    ],
)
def test_marks_of_a_conversation_under_close_names_are_followed(mark: dict[str, Any]) -> None:
    found = parsed({**QA, **mark})
    assert found.left_out is not None
    assert found.left_out.field == next(iter(mark))
    assert found.faults == ()


@pytest.mark.parametrize("mark", [{"turn_weights": [0]}, {"weights": [0, 1]}, {"completion_mask": [False, True]}])
def test_lists_of_marks_outside_the_turns_are_refused(mark: dict[str, Any]) -> None:
    (name,) = mark
    assert [(fault.kind, fault.field) for fault in parsed({**QA, **mark}).faults] == [("unsupported-field", name)]
    assert parsed({**QA, name: [1, 1]}).faults == ()
    assert parsed({**QA, name: [0.2, 0.8]}).faults == ()


@pytest.mark.parametrize("mark", [{"Train": False}, {"do_train": "no"}, {"is_training": 0}, {"no_loss": True}])
def test_marks_of_a_turn_under_close_names_are_followed(mark: dict[str, Any]) -> None:
    first = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No.", **mark}]
    last = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    found = parsed({"messages": [*first, *last]})
    assert found.conversation is not None
    assert [turn.trained for turn in found.conversation.turns] == [False, False, False, True]
    assert found.unread == ()


def test_unclear_verdicts_are_noted(tmp_path: Path) -> None:
    data = chats(tmp_path, verified=[True, False], split=["train", "test"], quality=["bad"], genre=["law", "news"])
    (note,) = [note for note in data.notes if "have no effect" in note]
    for counts in ("verified (true: 10, false: 10)", "split (train: 10, test: 10)", "quality (bad: 20)"):
        assert counts in note
    assert "genre" not in note


def test_unread_text_is_noted(tmp_path: Path) -> None:
    long = "A longer remark, which the answer depends on, and which nobody reads."
    data = chats(tmp_path, remark=[long], cot=["First this, then that."], link=[f"https://example.org/{'a' * 60}"])
    notes = [note for note in data.notes if "not part of the prompt" in note]
    assert [note.partition(", ")[2].partition(" and is")[0] for note in notes] == [
        f"remark holds text ({len(long)} characters on average)",
        "cot holds text (22 characters on average)",
    ]
    assert "reasoning_content" in notes[1]


def test_text_that_repeats_the_conversation_is_not_noted(tmp_path: Path) -> None:
    rows = [{"question": f"{text(2 * n)}?", "answer": f"{text(2 * n + 1)}."} for n in range(20)]
    whole = [{**row, "text": f"### Question\n{row['question']}\n### Answer\n{row['answer']}"} for row in rows]
    data = open_conversations(ConversationSource(str(write(tmp_path / "a.jsonl", whole))))
    assert not [note for note in data.notes if "not part of the prompt" in note]


@pytest.mark.parametrize(
    "name", ["chat_history", "Conversation-History", "dialogue_history", "previous_turns", "context_messages"]
)
def test_earlier_turns_under_close_names_are_read(name: str) -> None:
    found = parsed({**QA, name: [["Who?", "I."]]})
    assert found.conversation is not None
    assert [turn.content for turn in found.conversation.turns] == ["Who?", "I.", "Why?", "Because."]
    refused = parsed({**QA, name: "User: Who? Bot: I."})
    assert [(fault.kind, fault.field) for fault in refused.faults] == [("bad-history", name)]
    assert parsed({**QA, name: 3}).faults == ()


def test_earlier_turns_that_the_messages_contain_are_read() -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    asked = {"role": "user", "content": "When?"}
    answered = {"role": "assistant", "content": "Now."}
    found = parsed({"messages": [*messages, asked, answered], "chat_history": messages})
    assert (found.faults, found.unread) == ((), ())
    refused = parsed({"messages": [asked, answered], "chat_history": messages})
    assert [(fault.kind, fault.field) for fault in refused.faults] == [("unsupported-field", "chat_history")]


def test_two_different_histories_are_refused() -> None:
    found = parsed({**QA, "history": [["Who?", "I."]], "chat_history": [["When?", "Now."]]})
    assert [fault.kind for fault in found.faults] == ["bad-history"]


@pytest.mark.parametrize("name", ["ctx", "Context", "sql_context", "premise", "excerpt", "abstract", "table", "schema"])
def test_context_under_close_names_is_read(name: str) -> None:
    found = parsed({**QA, name: "The ground was wet after the rain."})
    assert found.conversation is not None
    assert found.conversation.turns[0].content == "The ground was wet after the rain.\n\nWhy?"


def test_less_certain_context_is_read_only_beside_a_question_and_if_it_is_text() -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    assert parsed({"messages": messages, "abstract": "The ground was wet after the rain."}).faults == ()
    for value in ("users", {"columns": ["a", "b"]}):
        found = parsed({**QA, "table": value})
        assert found.conversation is not None
        assert found.unread == ("table",)


@pytest.mark.parametrize("names", [("option1", "option2"), ("choice1", "choice2"), ("Option_A", "Option_B")])
def test_options_in_columns_are_refused(names: tuple[str, str]) -> None:
    found = parsed({**QA, names[0]: "wet", names[1]: "dry"})
    assert [(fault.kind, fault.field) for fault in found.faults] == [("unsupported-field", names[0])]


@pytest.mark.parametrize("media", [{"clip": "a.mp4"}, {"attachment": "a.pdf"}, {"screenshots": [{"path": "b.png"}]}])
def test_files_are_refused(media: dict[str, Any]) -> None:
    assert [fault.kind for fault in parsed({**QA, **media}).faults] == ["unsupported-media"]


@pytest.mark.parametrize("other", [{"clip": "a short piece of film"}, {"frames": ["Opening"]}, {"attachment": "love"}])
def test_texts_in_fields_that_could_hold_files_are_not_refused(other: dict[str, Any]) -> None:
    assert parsed({**QA, **other}).faults == ()


def test_an_image_in_markdown_is_refused() -> None:
    asked = "What is ![x](data:image/png;base64,AAAA)?"
    assert [fault.kind for fault in parsed({**QA, "question": asked}).faults] == ["unsupported-media"]
    assert parsed({**QA, "question": "What does `![x](data:image/png;base64,AAAA)` do?"}).faults == ()
