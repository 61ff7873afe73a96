"""Files of conversations: all kinds are read, bad records reported, and no held-out example is copied in training."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain_ft.corpus.conversations.formats import FieldChoice
from domain_ft.corpus.conversations.reading import (
    ConversationData,
    ConversationSource,
    iterate_conversations,
    open_conversations,
)
from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.errors import CorpusError, RecordError
from domain_ft.randomness import generator

WORDS = ["bone", "fox", "law", "heart", "dog", "work", "terms", "growth", "bird", "holder", "wolf", "notice", "rain"]


def text(number: int, length: int = 30) -> str:
    return " ".join(generator(0, "text", number).choice(WORDS, length))


def records(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"question": f"{text(2 * n, 12)}?", "answer": f"{text(2 * n + 1)}."} for n in range(first, first + count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def opened(path: Path, **choice: Any) -> ConversationData:
    return open_conversations(ConversationSource(str(path), **choice))


def read(
    path: Path | io.BufferedReader, choice: FieldChoice | None = None, *, answered: bool = True
) -> list[tuple[str, ...]]:
    bad = BadRecords("stop", lambda _: None)
    found = iterate_conversations(path, choice or FieldChoice(), bad, answered=answered)
    return [tuple(turn.content for turn in conversation.turns) for conversation in found]


# --- Files ------------------------------------------------------------------------------------------------------------

ROWS = [
    {"question": "なぜ？", "answer": "だから、\n東京です。"},
    {"question": 'He said "why"?', "answer": "Yes, so 🙂."},
]


def as_jsonl(path: Path) -> Path:
    return write(path / "a.jsonl", ROWS)


def as_json(path: Path) -> Path:
    (path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return path / "a.json"


def as_csv(path: Path) -> Path:
    with (path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    return path / "a.csv"


def as_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path / "a.parquet")
    return path / "a.parquet"


def as_gzip(path: Path) -> Path:
    (path / "a.jsonl.gz").write_bytes(gzip.compress(as_jsonl(path).read_bytes()))
    return path / "a.jsonl.gz"


@pytest.mark.parametrize("make", [as_jsonl, as_json, as_csv, as_parquet, as_gzip])
def test_every_kind_of_file_is_read_alike(make: Callable[[Path], Path], tmp_path: Path) -> None:
    assert read(make(tmp_path)) == [(row["question"], row["answer"]) for row in ROWS]


def test_absent_fields_of_messages_in_parquet_are_ignored(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "weight": 1}]
    pq.write_table(pa.Table.from_pylist([{"messages": talk}]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [("Why?", "So.")]


def test_prompts_are_read_from_a_stream_or_a_text_file(tmp_path: Path) -> None:
    assert read(io.BufferedReader(io.BytesIO(b'{"prompt": "Why?"}\n{"prompt": "How?"}\n')), answered=False) == [
        ("Why?",),
        ("How?",),
    ]
    assert read(io.BufferedReader(io.BytesIO("なぜ？\n\nHow?\r\n".encode())), answered=False) == [
        ("なぜ？",),
        ("How?",),
    ]
    (tmp_path / "prompts.txt").write_text("Why?\nHow?\n", encoding="utf-8")
    system = FieldChoice(system="Be brief.")
    assert read(tmp_path / "prompts.txt", system, answered=False) == [("Be brief.", "Why?"), ("Be brief.", "How?")]


def test_files_without_conversations_are_refused_with_the_cause(tmp_path: Path) -> None:
    for name, content, match in (
        ("a.txt", "Why?", "conversations cannot be read from a file ending in '.txt'"),
        ("a.jsonl", '{"text": "abc", "label": 1}', "the fields are: text, label"),
        ("b.jsonl", "", "empty"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(CorpusError, match=match):
            opened(tmp_path / name)
    with pytest.raises(CorpusError, match="no such file"):
        opened(tmp_path / "c.jsonl")
    with pytest.raises(CorpusError, match="a folder"):
        opened(tmp_path)


# --- Bad records ------------------------------------------------------------------------------------------------------


def test_a_bad_record_stops_the_reader_or_is_left_out(tmp_path: Path) -> None:
    rows = records(20)
    rows[4]["answer"] = " "
    rows[9] = {"question": None}
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(RecordError, match=r'(?s)the answer is empty.*a.jsonl, line 5, field "answer".*data check'):
        opened(path)
    rejects: list[Reject] = []
    data = open_conversations(ConversationSource(str(path), on_bad_record="skip"), rejects=rejects.append)
    assert [(reject.line, reject.field) for reject in rejects] == [(5, "answer"), (10, "question")]
    assert "and 1 more" in rejects[1].reason
    assert data.facts["rejects"] == 2
    assert len(data.train) + len(data.test) == 18
    assert data.left_out.records == 2


def test_warnings_are_notes(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Well?"},
    ]
    rows = [{"messages": [{**talk[0], "content": f"{text(n)}?"}, *talk[1:]]} for n in range(12)]
    data = opened(write(tmp_path / "a.jsonl", rows))
    assert data.format == "chat"
    assert any("12 times" in note and "unanswered-last-turn" in note for note in data.notes)


# --- Splits -----------------------------------------------------------------------------------------------------------


def ids(part: Any) -> set[str]:
    return {conversation.id for conversation in part}


def test_the_same_examples_are_held_out_in_any_order(tmp_path: Path) -> None:
    rows = records(100)
    first = opened(write(tmp_path / "a.jsonl", rows), test_fraction=0.2)
    assert len(first.test) == 20
    assert ids(first.train).isdisjoint(ids(first.test))
    assert first.facts["examples"] == {"train": 80, "test": 20}
    assert first.name == "a"
    second = opened(write(tmp_path / "b.jsonl", rows[::-1]), test_fraction=0.2)
    held = {conversation.turns for conversation in first.test}
    assert {conversation.turns for conversation in second.test} == held
    assert first.key == opened(tmp_path / "a.jsonl", test_fraction=0.2).key
    assert first.key != second.key


def test_copies_near_copies_same_questions_and_groups_stay_together(tmp_path: Path) -> None:
    rows = records(60)
    for number in range(0, 60, 4):
        rows[number + 1] = {**rows[number], "answer": rows[number]["answer"] + " More."}  # a near copy
        rows[number + 2]["question"] = rows[number]["question"].upper()  # the same question
        rows[number + 3]["group"] = rows[number]["group"] = f"source {number}"
    path = write(tmp_path / "a.jsonl", [{"group": str(n), **row} for n, row in enumerate(rows)])
    data = opened(path, test_fraction=0.3, choice=FieldChoice(group_field="group"))
    for part in (data.train, data.test):
        places = {(conversation.line or 0) - 1 for conversation in part}
        assert all(len(places & set(range(n, n + 4))) in (0, 4) for n in range(0, 60, 4))
    assert 8 <= len(data.test) <= 24


def test_a_long_instruction_that_all_examples_share_does_not_join_them(tmp_path: Path) -> None:
    shared = text(1000, 80)
    rows = [{"instruction": shared, "input": text(n, 25), "output": text(n + 500, 3)} for n in range(50)]
    data = opened(write(tmp_path / "a.jsonl", rows), test_fraction=0.2)
    assert 5 <= len(data.test) <= 12
    system = [{"question": f"{text(n, 9)}?", "answer": f"{text(n + 700, 3)}."} for n in range(50)]
    choice = FieldChoice(system=shared)
    data = opened(write(tmp_path / "b.jsonl", system), test_fraction=0.2, choice=choice)
    assert 5 <= len(data.test) <= 12


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"(?s)none of the 3 examples can be held out.*--test FILE"):
        opened(write(tmp_path / "a.jsonl", records(3)))
    with pytest.raises(CorpusError, match="none of the 30 examples"):
        opened(write(tmp_path / "a.jsonl", records(1) * 30))


def test_a_test_file_is_used_whole_and_leaks_are_counted(tmp_path: Path) -> None:
    rows = records(30)
    near = {**rows[3], "answer": rows[3]["answer"] + " More."}
    train = write(tmp_path / "train.jsonl", rows)
    test = write(tmp_path / "test.jsonl", [*records(4, first=100), rows[7], near])
    data = opened(train, test=str(test))
    assert (len(data.train), len(data.test)) == (30, 6)
    assert data.facts["leaks"] == 2
    exact, nearly = data.facts["leak_list"]
    assert exact == {"test": "test.jsonl:5", "train": "train.jsonl:8", "similarity": 1.0}
    assert (nearly["test"], nearly["train"]) == ("test.jsonl:6", "train.jsonl:4")
    assert any("2 of the 6 test examples" in note for note in data.notes)


def test_a_source_is_made_from_settings() -> None:
    class Settings:
        data, test, test_fraction, on_bad_record = "a.jsonl", None, 0.3, "skip"
        format, prompt_field, answer_field, system = "qa", "q", None, "Be brief."

    source = ConversationSource.of(Settings())
    assert source.choice == FieldChoice(format="qa", prompt_field="q", system="Be brief.")
    assert (source.data, source.test_fraction, source.on_bad_record) == ("a.jsonl", 0.3, "skip")


def test_a_hub_folder_is_read(tmp_path: Path) -> None:
    """A local folder is given instead of an id."""
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", records(20))
    write(folder / "test.jsonl", records(5, first=50))
    data = open_conversations(ConversationSource(f"hf:{folder}", test=f"hf:{folder}"))
    assert (len(data.train), len(data.test)) == (20, 5)
