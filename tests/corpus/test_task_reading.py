"""Labelled examples from every format and layout, every kind of label, and every kind of bad record."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from tiny_tasks import ROWS, sentence, task, write

from domain_ft.corpus.examples import Example, TaskData
from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.corpus.tasks.fields import FieldNames
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.corpus.tasks.reading import iterate_inputs
from domain_ft.corpus.tasks.table import VERSION, TableFacts
from domain_ft.errors import CorpusError, RecordError


def every(data: TaskData) -> list[Example]:
    """The examples of all splits, in the order of their texts."""
    return sorted((e for split in data.splits.values() for e in split), key=lambda e: e.text)


def pairs(data: TaskData) -> list[tuple[str, tuple[str, ...]]]:
    return [(example.text, example.labels) for example in every(data)]


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_is_read(tmp_path: Path, kind: str, compression: str) -> None:
    data = task(write(tmp_path / f"mine.{kind}{compression}", ROWS))
    assert data.name == "mine"
    assert data.labels.names == ("no", "yes") and not data.labels.multi_label
    assert pairs(data) == sorted((row["text"], (row["label"],)) for row in ROWS)
    example = data.splits["train"][0]
    assert example.id == f"{example.file}:{example.line}"
    assert example.file == f"mine.{kind}{compression}"
    assert data.facts["fields"] == {"text": "text", "pair": None, "label": "label", "id": None, "group": None}


def test_a_json_object_of_objects_and_a_file_of_test_ids_are_read(tmp_path: Path) -> None:
    """As PubMedQA is published: the ids are keys, the context is a list, and a file lists the test ids."""
    records = {
        str(9000 + i): {
            "QUESTION": f"Does {sentence(i)}?",
            "CONTEXTS": [f"Aims of {sentence(i + 100)}.", "Results."],
            "final_decision": ["yes", "no", "maybe"][i % 3],
        }
        for i in range(30)
    }
    path = tmp_path / "ori.json"
    path.write_text(json.dumps(records))
    ids = tmp_path / "truth.json"
    ids.write_text(json.dumps({str(9000 + i): "yes" for i in range(10)}))
    options = {"text_field": "QUESTION", "pair_field": "CONTEXTS", "label_field": "final_decision", "test_ids": ids}
    data = task(path, **options)
    assert sorted(example.id for example in data.splits["test"]) == [str(9000 + i) for i in range(10)]
    assert data.splits["test"][0] == Example(
        id="9000",
        text=f"Does {sentence(0)}?",
        pair=f"Aims of {sentence(100)}.\nResults.",
        labels=("yes",),
        group="9000",
        file="ori.json",
        line=1,
    )
    for form in ("\n".join(map(str, range(9000, 9010))), json.dumps([9000 + i for i in range(10)])):
        ids.write_text(form)
        assert task(path, **options).key == data.key
    ids.write_text("9000\n17\n")
    assert any("1 of the 2 ids" in note for note in task(path, **options).notes)
    ids.write_text("17\n")
    with pytest.raises(CorpusError, match="none of the 1 ids"):
        task(path, **options)


def test_given_splits_in_csv_with_newlines_in_quotes_are_read(tmp_path: Path) -> None:
    """As MTS-Dialog is published."""

    def rows(start: int) -> list[dict[str, Any]]:
        return [
            {"ID": i, "section_header": "GENHX" if i % 2 else "CC", "dialogue": f"Doctor: Hi.\nPatient: {sentence(i)}"}
            for i in range(start, start + 4)
        ]

    files = {
        name: str(write(tmp_path / f"{name}.csv", rows(i * 10)))
        for i, name in enumerate(("train", "validation", "test"))
    }
    data = open_task(TaskSource(**files, text_field="dialogue", label_field="section_header"))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "validation": 4, "test": 4}
    assert data.splits["test"][1].text == f"Doctor: Hi.\nPatient: {sentence(21)}"
    assert [example.line for example in data.splits["test"]] == [2, 4, 6, 8]


def test_folders_of_class_folders_are_read(tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / "flat" / ["cat", "dog"][i % 2] / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sentence(i))
    data = task(tmp_path / "flat")
    assert data.labels.names == ("cat", "dog")
    assert pairs(data) == sorted((sentence(i), (["cat", "dog"][i % 2],)) for i in range(12))
    assert data.splits["train"][0].file.startswith(("cat/", "dog/")) and data.splits["train"][0].line is None
    for split, texts in (("train", range(8)), ("test", range(8, 12))):
        for i in texts:
            path = tmp_path / "split" / split / ["cat", "dog"][i % 2] / f"{i}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sentence(i))
    data = task(tmp_path / "split", validation_fraction=0.3)
    assert sorted(example.text for example in data.splits["test"]) == sorted(map(sentence, range(8, 12)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"no folders of texts[^$]*CLASS/NAME\.txt"):
        task(tmp_path / "empty")


def hub(folder: Path, multi_label: bool) -> None:
    """Write a data set with numeric classes to a folder, to be given instead of an id."""
    classes = datasets.ClassLabel(names=["arbitration", "choice of law", "none"])
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels" if multi_label else "label": datasets.Sequence(classes) if multi_label else classes,
            "context": {"contexts": datasets.Sequence(datasets.Value("string"))},
        }
    )
    folder.mkdir()
    for place, split in enumerate(("train", "validation", "test")):
        rows = [
            {
                "text": sentence(100 * place + i),
                "context": {"contexts": ["one", "two"]},
                **({"labels": [0, 1][: i % 3]} if multi_label else {"label": i % 3}),
            }
            for i in range(9)
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")


def test_a_hub_data_set_keeps_its_splits_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(tmp_path / "single", multi_label=False)
    data = task(f"hf:{tmp_path}/single")
    assert set(data.labels.names) == {"arbitration", "choice of law", "none"}
    assert [len(split) for split in data.splits.values()] == [9, 9, 9]
    assert data.splits["test"][1].labels == ("choice of law",)
    assert data.splits["test"][1].text == sentence(201)
    assert data.notes == []
    with monkeypatch.context() as offline:
        offline.setattr("domain_ft.corpus.readers.hub.open_splits", None)
        assert task(f"hf:{tmp_path}/single").key == data.key  # from the cache, without the hub
    data = task(f"hf:{tmp_path}/single", pair_field="context.contexts")
    assert data.splits["train"][0].pair == "one\ntwo"
    hub(tmp_path / "several", multi_label=True)
    data = task(f"hf:{tmp_path}/several")
    assert data.labels.multi_label and data.labels.names == ("arbitration", "choice of law")
    assert [example.labels for example in data.splits["train"]][:3] == [
        (),
        ("arbitration",),
        ("arbitration", "choice of law"),
    ]


def test_hidden_labels_on_the_hub_are_refused(tmp_path: Path) -> None:
    (tmp_path / "glue").mkdir()
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    for split in ("train", "test"):
        rows = [{"text": sentence(i), "label": -1 if split == "test" else i % 2} for i in range(6)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "glue" / f"{split}.parquet")
    with pytest.raises(RecordError, match=r"the number -1.*hidden or missing label"):
        task(f"hf:{tmp_path}/glue")


# --- labels ---


def labelled(tmp_path: Path, labels: list[Any], name: str = "x.jsonl", **options: Any) -> TaskData:
    return task(
        write(tmp_path / name, [{"text": sentence(i), "label": label} for i, label in enumerate(labels)]), **options
    )


def test_numbers_are_noted_and_read_as_classes(tmp_path: Path) -> None:
    data = labelled(tmp_path, [0, 1, 10, 2.0, 2] * 6)
    assert data.labels.names == ("0", "1", "2", "10")
    assert any("Regression is not supported" in note for note in data.notes)
    assert labelled(tmp_path, [True, False] * 6, "y.jsonl").labels.names == ("false", "true")


def test_a_number_and_the_same_number_as_text_are_one_class(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": sentence(i), "label": i % 2} for i in range(20)])
    test = write(tmp_path / "test.jsonl", [{"text": sentence(50 + i), "label": str(i % 2)} for i in range(4)])
    data = task(train, test=str(test))
    assert [example.labels for example in data.splits["test"]] == [("0",), ("1",), ("0",), ("1",)]
    assert any("number in train.jsonl; text in test.jsonl" in note for note in data.notes)


def test_a_list_may_hold_several_labels_or_none(tmp_path: Path) -> None:
    data = labelled(tmp_path, [["a"], ["b", "a"], [], ["c", 3]] * 8)
    assert data.labels.multi_label and data.labels.names == ("3", "a", "b", "c")
    assert {example.labels for example in every(data)} == {("a",), ("b", "a"), (), ("c", "3")}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_of_0_and_1_are_several_labels(tmp_path: Path, kind: str) -> None:
    rows = [{"text": sentence(i), "toxic": i % 2, "rude": int(i % 3 == 0)} for i in range(24)]
    path = write(tmp_path / f"x.{kind}", rows)
    data = task(path, label_field="toxic, rude")
    assert data.labels.multi_label and data.labels.names == ("rude", "toxic")
    for row in rows:
        (found,) = [example for example in every(data) if example.text == row["text"]]
        assert set(found.labels) == {name for name in ("toxic", "rude") if row[name]}
    write(path, [*rows, {"text": "odd", "toxic": 2, "rude": 0}])
    with pytest.raises(RecordError, match=r"'2', where 0 or 1 is expected[^$]*field \"toxic\""):
        task(path, label_field="toxic,rude")


def test_a_list_among_single_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"holds a list, where the records before it hold one label[^$]*line 3"):
        labelled(tmp_path, ["a", "b", ["a"]])
    train = write(tmp_path / "train.jsonl", [{"text": sentence(i), "label": ["a", "b"][i % 2]} for i in range(20)])
    test = write(tmp_path / "test.jsonl", [{"text": sentence(50 + i), "label": ["a"]} for i in range(4)])
    with pytest.raises(RecordError, match=r"holds a list[^$]*test.jsonl, line 1"):
        task(train, test=str(test))


# --- fields ---


def test_usual_names_are_found_and_others_have_to_be_named(tmp_path: Path) -> None:
    rows = [{"label": i % 2, "sentence1": sentence(i), "note": "x"} for i in range(20)]
    assert task(write(tmp_path / "a.csv", rows)).facts["fields"]["text"] == "sentence1"
    rows = [{"category": "ab"[i % 2], "body_of_it": sentence(i)} for i in range(20)]
    fields = task(write(tmp_path / "b.jsonl", rows)).facts["fields"]
    assert (fields["text"], fields["label"]) == ("body_of_it", "category")
    with pytest.raises(CorpusError, match=r"which field holds the label; the fields are: one, two"):
        task(write(tmp_path / "c.csv", [{"one": "x", "two": "y"}]))
    with pytest.raises(CorpusError, match=r"which field holds the text[^$]*--text-field one,two"):
        task(write(tmp_path / "d.csv", [{"one": "x y", "two": "y z", "label": "z"}]))
    with pytest.raises(CorpusError, match=r"no field 'labl'[^$]*did you mean 'label'"):
        task(write(tmp_path / "e.csv", [{"text": "x", "label": "z"}]), label_field="labl")


def test_a_second_text_that_is_not_read_is_noted(tmp_path: Path) -> None:
    rows = [{"premise": sentence(i), "hypothesis": "It is so.", "label": "ab"[i % 2]} for i in range(20)]
    path = write(tmp_path / "a.jsonl", rows)
    data = task(path)
    assert data.splits["train"][0].pair is None
    assert data.notes == ["Only 'premise' is read. To read pairs, name the second text: --pair-field hypothesis."]
    for options in ({"pair_field": "hypothesis"}, {"text_field": "premise"}):
        assert task(path, **options).notes == []
    assert every(task(path, pair_field="hypothesis"))[0].pair == "It is so."


def test_long_text_that_is_not_read_is_noted(tmp_path: Path) -> None:
    rows = [
        {"question": sentence(i), "passage": sentence(i + 30), "kind": "short", "label": "ab"[i % 2]} for i in range(30)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    (note,) = task(path).notes
    assert note.startswith("Only 'question' is read, but passage holds text too.")
    assert "--text-field 'question,passage'" in note
    assert "--pair-field passage" in note
    for options in ({"pair_field": "passage"}, {"text_field": "question"}):
        assert task(path, **options).notes == []
    rows = [
        {"text": f"患者{i}は頭痛と発熱を訴えた。", "memo": f"症例{i}は三日前からの発熱を訴えた。", "label": "ab"[i % 2]}
        for i in range(30)
    ]
    assert "memo holds text too" in task(write(tmp_path / "ja.jsonl", rows)).notes[0]
    short = [{"text": sentence(i), "title": "A title", "label": "ab"[i % 2]} for i in range(30)]
    assert task(write(tmp_path / "b.jsonl", short)).notes == []


def test_several_text_fields_are_joined(tmp_path: Path) -> None:
    rows = [{"title": f"T{i}", "body": sentence(i), "label": "ab"[i % 2]} for i in range(20)]
    data = task(write(tmp_path / "a.jsonl", rows), text_field="title,body")
    assert every(data)[0].text == f"T0\n\n{sentence(0)}"


def test_repeated_ids_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**row, "no": i // 2} for i, row in enumerate(ROWS)])
    data = task(path, test=str(path), validation=str(path), id_field="no")
    assert [example.id for example in data.splits["train"]][:3] == ["0", "0", "1"]
    assert "10 of the 20 test examples repeat the id of an earlier one: the ids in 'no' are not unique." in data.notes


def test_test_ids_that_belong_to_no_example_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**row, "no": f"n{i // 2}"} for i, row in enumerate(ROWS)])
    (tmp_path / "ids.txt").write_text("n0\nn1\nabsent\n", encoding="utf-8")
    data = task(path, id_field="no", test_ids=tmp_path / "ids.txt")
    assert "1 of the 3 ids in ids.txt belong to no example." in data.notes


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_missing_in_one_split_is_reported(tmp_path: Path, kind: str) -> None:
    train = write(tmp_path / f"train.{kind}", ROWS)
    test = write(tmp_path / f"test.{kind}", [{"text": "x y z", "lable": "yes"}])
    with pytest.raises(CorpusError) as caught:
        task(train, test=str(test))
    for part in (f"test.{kind}", "label", "did you mean 'lable'"):
        assert part in str(caught.value)


# fault -> (the record, words of the message)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty text": ({"text": " \n", "label": "yes"}, "the text is empty"),
    "text is a number": ({"text": 5, "label": "yes"}, "holds a number, not text"),
    "no text": ({"label": "yes"}, "the field is missing"),
    "no label": ({"text": "a"}, "the field is missing"),
    "null label": ({"text": "a", "label": None}, "holds null, where a label is expected"),
    "empty label": ({"text": "a", "label": ""}, "an empty label"),
    "an object as label": ({"text": "a", "label": {}}, "an object, where a label is expected"),
    "nothing at all": ({}, "the field is missing"),
    "not a number": ({"text": "a", "label": float("nan")}, "where a label is expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_stops_the_reader_or_is_left_out_and_listed(tmp_path: Path, case: str) -> None:
    record, reason = BAD[case]
    path = write(tmp_path / "x.jsonl", [*ROWS[:7], record, *ROWS[7:]])
    with pytest.raises(RecordError) as caught:
        task(path)
    assert reason in str(caught.value) and "x.jsonl, line 8" in str(caught.value)
    for _ in range(2):  # the second time from the cache
        left_out: list[Reject] = []
        data = task(path, left_out, on_bad_record="skip")
        assert [(reject.file, reject.line) for reject in left_out] == [("x.jsonl", 8)]
        assert reason in left_out[0].reason
        assert len(every(data)) == len(ROWS)


def test_lone_surrogates_and_control_characters_are_cleaned_from_texts_and_names(tmp_path: Path) -> None:
    rows = [
        {"text": f"{sentence(i)} \ud800\x07", "label": "ab"[i % 2] + "\udfff", "key": f"k{i}\ud800"} for i in range(20)
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    data = task(path, id_field="key")
    assert every(data)[0].text.endswith(" \ufffd")
    assert data.labels.names == ("a\ufffd", "b\ufffd")


def test_sources_without_usable_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file or folder"):
        task(tmp_path / "absent.csv")
    with pytest.raises(CorpusError, match=r"ending in '\.txt'"):
        (tmp_path / "a.txt").write_text("text")
        task(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match="no training examples are given"):
        open_task(TaskSource())
    left_out: list[Reject] = []
    with pytest.raises(CorpusError, match="no usable example; 2 records were left out"):
        task(write(tmp_path / "b.jsonl", [{"text": "", "label": 2}] * 2), left_out, on_bad_record="skip")


def test_a_large_csv_takes_little_memory(tmp_path: Path) -> None:
    """Reading 10 MB into the cache takes less than 5 MB of memory, and so does reading them from it."""
    path = tmp_path / "large.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(1_000):
            writer.writerow([sentence(i) + " " + "lorem ipsum dolor " * 550, "ab"[i % 2]])
    assert path.stat().st_size > 10_000_000
    other = str(write(tmp_path / "other.csv", [{"text": "t", "label": "a"}]))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        data = task(path, test=other, validation=other)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert sum(len(example.text) for example in data.splits["train"]) > 9_900_000
        streamed = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read < 5_000_000
    assert streamed < 5_000_000
    assert pa.total_allocated_bytes() - before < 5_000_000


# --- what `predict` reads ---


def inputs(spec: Any, fields: FieldNames | None = None, **options: Any) -> tuple[list[Example], list[Reject]]:
    left_out: list[Reject] = []
    found = iterate_inputs(
        spec, fields or FieldNames("text", label="label"), None, BadRecords("skip", left_out.append), **options
    )
    return list(found), left_out


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_inputs_of_every_format_without_labels_are_read(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"x.{kind}", [{"n": str(i), "text": sentence(i)} for i in range(5)])
    found, left_out = inputs(path, FieldNames("text", label="label", id="n", group="source"))
    assert [(example.id, example.text, example.labels) for example in found] == [
        (str(i), sentence(i), ()) for i in range(5)
    ]
    assert left_out == []
    assert inputs(path)[0][0].id == f"x.{kind}:{2 if kind in ('csv', 'tsv') else 1}"
    assert [e.id for e in iterate_inputs(path, FieldNames("text"), "n", BadRecords("stop", print))] == list("01234")


def test_inputs_are_read_from_the_named_fields_or_the_usual_one(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"text": sentence(1)}])
    assert inputs(path, FieldNames("sentence1"))[0][0].text == sentence(1)
    path = write(tmp_path / "y.jsonl", [{"question": "Why?", "context": ["a", "b"]}])
    (example,) = inputs(path, FieldNames("question", "context"))[0]
    assert (example.text, example.pair) == ("Why?", "a\nb")


@pytest.mark.parametrize(
    "stream", [b'\xef\xbb\xbf{"text": "one"}\n\n{"text": 2}\n{"text": "three"}\n', b"one\n\n\xff\nthree\r\n"]
)
def test_inputs_are_read_from_a_stream(stream: bytes) -> None:
    found, left_out = inputs(io.BufferedReader(io.BytesIO(stream)))
    assert [(example.id, example.text) for example in found] == [
        ("standard input:1", "one"),
        ("standard input:4", "three"),
    ]
    assert [reject.line for reject in left_out] == [3]


def test_inputs_are_read_only_as_far_as_needed() -> None:
    """A stream may never end, so the first texts are returned before the last ones are written."""

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            line = b'{"text": "again"}\n'
            buffer[: len(line)] = line
            return len(line)

    found = iterate_inputs(Endless(), FieldNames("text"), None, BadRecords("stop", print))  # type: ignore[arg-type]
    assert [next(found).line for _ in range(3)] == [1, 2, 3]


def test_missing_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        inputs(tmp_path / "absent.jsonl")


def test_inputs_take_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"text": sentence(i)} for i in range(8_000)])
    assert path.stat().st_size > 800_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in iterate_inputs(path, FieldNames("text"), None, BadRecords("stop", print))) == 8_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000


def test_the_version_goes_with_the_stored_facts() -> None:
    """Whoever changes the fields has to change the version: tables that are in the cache lack the new fields."""
    names = [field.name for field in dataclasses.fields(TableFacts)]
    assert (VERSION, names) == (
        6,
        [
            *("fields", "multi_label", "kinds", "counts", "examples", "rejects", "characters"),
            *("unread_fields", "notes"),
        ],
    )
