"""Files of annotation tools: `tag` and `data check` read the same ones, and refuse others with the cause."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.checks.checking import Checker
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.checks.private import PrivateData
from domain_ft.corpus.checks.repairs import repair
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.corpus.tagging.entities import Span, TaggedText
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.opening import TaggingSource, open_tagging
from domain_ft.corpus.tagging.reading import read_tagged
from domain_ft.corpus.tasks.opening import TaskSource, open_task
from domain_ft.errors import CorpusError, RecordError, UserError

TEXT = "Give aspirin now"
DRUG = (Span(5, 12, "Drug"),)


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def json_lines(path: Path, *records: Any) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def read(path: Path, fields: TagFields | None = None) -> tuple[list[TaggedText], list[Reject], LeftOut]:
    rejects: list[Reject] = []
    left = LeftOut()
    bad = BadRecords("stop", rejects.append)
    return read_tagged(path, path.name, fields or TagFields(), None, bad, left=left)[0], rejects, left


def check(path: Path) -> tuple[str, list[tuple[str, bool]]]:
    """The kind of file that `data check` recognises, and (kind, whether it is an error) of each finding."""
    file, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    result = Checker().check(file.items(rejections.bad), rejections)
    return file.kind, [(finding.kind, finding.error) for finding in result.findings]


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("form", ["lines", "list", "pretty", "pairs", "documents", "sentences", "columns"])
def test_compressed_files_of_every_form_are_read(tmp_path: Path, compression: str, form: str) -> None:
    records: list[dict[str, Any]] = [{"text": TEXT, "entities": [[5, 12, "Drug"]]}, {"text": TEXT, "entities": []}]
    pairs = [[TEXT, {"entities": record["entities"]}] for record in records]
    words = [
        [[word, tag] for word, tag in zip(TEXT.split(), tags, strict=True)] for tags in (["O", "B-Drug", "O"], "OOO")
    ]
    name, content = {
        "lines": ("a.jsonl", "\n".join(map(json.dumps, records))),
        "list": ("a.json", json.dumps(records)),
        "pretty": ("a.json", json.dumps(records, indent=1)),
        "pairs": ("a.jsonl", "\n".join(map(json.dumps, pairs))),
        "documents": ("a.json", json.dumps({"annotations": pairs}, indent=2)),
        "sentences": ("a.json", json.dumps(words)),
        "columns": ("a.conll", "\n\n".join("\n".join(" ".join(pair) for pair in sentence) for sentence in words)),
    }[form]
    path = tmp_path / f"{name}{compression}"
    if compression == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content.encode())
    else:
        compressors: dict[str, Any] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
        path.write_bytes(compressors[compression](content.encode()))
    texts, rejects, _ = read(path)
    assert [text.spans for text in texts] == [DRUG, ()]
    assert len({text.id for text in texts}) == 2
    assert rejects == []
    assert check(path)[0] == "tags"


def studio(*results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A task of Label Studio, with an annotation for each list of results."""
    made = [{"id": number, "was_cancelled": False, "result": result} for number, result in enumerate(results)]
    return {"id": 7, "data": {"text": TEXT, "source": "x"}, "annotations": made, **more}


def label(start: int, end: int, name: str = "Drug") -> dict[str, Any]:
    value = {"start": start, "end": end, "text": TEXT[start:end], "labels": [name]}
    return {"value": value, "from_name": "label", "to_name": "text", "type": "labels"}


BIOC = {
    "documents": [
        {
            "id": "d1",
            "passages": [
                {"offset": 0, "text": "A title", "annotations": []},
                {
                    "offset": 8,
                    "text": TEXT,
                    "annotations": [
                        {
                            "id": "1",
                            "infons": {"type": "Drug"},
                            "text": "aspirin",
                            "locations": [{"offset": 13, "length": 7}],
                        }
                    ],
                },
            ],
        }
    ]
}
BIOC_XML = """<?xml version="1.0"?><!DOCTYPE collection SYSTEM "BioC.dtd"><collection><document><id>d1</id>
<passage><offset>8</offset><text>Give aspirin now</text><annotation id="1"><infon key="type">Drug</infon>
<location offset="13" length="7"/><text>aspirin</text></annotation></passage></document></collection>"""
PUBTATOR = f"12|t|{TEXT}\n12|a|No aspirin.\n12\t5\t12\taspirin\tDrug\tD1\n12\tCID\tD1\tD2\n\n"

FILES: dict[str, tuple[str, Any]] = {
    "plain list": ("a.json", [{"text": TEXT, "entities": [{"start": 5, "end": 12, "label": "Drug"}]}]),
    "doccano": ("a.jsonl", {"id": 1, "text": TEXT, "label": [[5, 12, "Drug"]], "Comments": []}),
    "doccano, older": ("a.jsonl", {"id": 1, "text": TEXT, "labels": [[5, 12, "Drug"]]}),
    "doccano with relations": (
        "a.jsonl",
        {
            "text": TEXT,
            "entities": [{"id": 1, "label": "Drug", "start_offset": 5, "end_offset": 12}],
            "relations": [],
        },
    ),
    "prodigy": (
        "a.jsonl",
        {
            "text": TEXT,
            "tokens": [{"text": "Give", "start": 0, "end": 4, "id": 0}, {"text": "aspirin", "start": 5, "end": 12}],
            "spans": [{"start": 5, "end": 12, "label": "Drug", "token_start": 1, "token_end": 1}],
            "answer": "accept",
        },
    ),
    "spacy pairs": ("a.json", [[TEXT, {"entities": [[5, 12, "Drug"]]}]]),
    "spacy pairs as lines": ("a.jsonl", [TEXT, {"entities": [[5, 12, "Drug"]]}]),
    "spacy doc": (
        "a.jsonl",
        {"text": TEXT, "ents": [{"start": 5, "end": 12, "label": "Drug"}], "tokens": [{"id": 0, "start": 0, "end": 4}]},
    ),
    "ner annotator": ("a.json", {"classes": ["DRUG"], "annotations": [[TEXT, {"entities": [[5, 12, "Drug"]]}]]}),
    "label studio": ("a.json", [studio([label(5, 12)])]),
    "label studio, short": (
        "a.json",
        [{"id": 1, "text": TEXT, "ner": [{"start": 5, "end": 12, "text": "aspirin", "labels": ["Drug"]}]}],
    ),
    "argilla 2": (
        "a.jsonl",
        {
            "fields": {"text": TEXT},
            "responses": {"span": [{"value": [{"start": 5, "end": 12, "label": "Drug"}], "status": "submitted"}]},
            "status": "completed",
        },
    ),
    "argilla 2, flat": (
        "a.jsonl",
        {
            "text": TEXT,
            "span.responses": [[{"start": 5, "end": 12, "label": "Drug"}]],
            "span.responses.status": ["submitted"],
            "status": "completed",
        },
    ),
    "argilla 1": (
        "a.jsonl",
        {
            "text": TEXT,
            "tokens": TEXT.split(),
            "annotation": [["Drug", 5, 12]],
            "prediction": None,
            "annotation_agent": "a",
            "status": "Validated",
        },
    ),
    "rasa": ("a.jsonl", {"text": TEXT, "entities": [{"start": 5, "end": 12, "entity": "Drug", "value": "aspirin"}]}),
    "inception": ("a.jsonl", {"text": TEXT, "entities": [{"begin": 5, "end": 12, "value": "Drug"}]}),
    "pairs of words and tags": ("a.json", [[["Give", "O"], ["aspirin", "B-Drug"], ["now", "O"]]]),
    "words and tags": ("a.json", [{"tokens": TEXT.split(), "tags": ["O", "B-Drug", "O"]}]),
    "bioc": ("a.json", BIOC),
    "bioc xml": ("a.xml", BIOC_XML),
    "pubtator": ("a.txt", PUBTATOR),
}


@pytest.mark.parametrize("name", list(FILES))
def test_each_form_is_read_by_tag_and_recognised_by_data_check(tmp_path: Path, name: str) -> None:
    file, content = FILES[name]
    path = write(tmp_path / file, content if isinstance(content, str) else json.dumps(content))
    texts, rejects, _ = read(path)
    assert rejects == []
    (text,) = [text for text in texts if text.spans]
    assert text.spans[:1] == DRUG
    assert text.text.startswith(TEXT)
    kind, findings = check(path)
    assert kind == "tags"
    assert [finding for finding in findings if finding[1]] == []


@pytest.mark.parametrize("name", [name for name in FILES if "words" not in name and name != "pubtator"])
def test_a_cleaned_copy_is_plain_json_lines_with_the_same_entities(tmp_path: Path, name: str) -> None:
    file, content = FILES[name]
    path = write(tmp_path / file, content if isinstance(content, str) else json.dumps(content))
    checked, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    result = Checker().check(checked.items(rejections.bad), rejections)
    repair(checked, result, tmp_path / "out.jsonl", PrivateData(), "en")
    again, _, _ = read(tmp_path / "out.jsonl")
    assert [(text.text, text.spans) for text in again] == [(text.text, text.spans) for text in read(path)[0]]


def test_a_masked_copy_moves_the_tokens_of_prodigy_too(tmp_path: Path) -> None:
    text = "Mail a.b@example.com aspirin"
    tokens = [{"text": word, "start": text.index(word), "end": text.index(word) + len(word)} for word in text.split()]
    record = {"text": text, "tokens": tokens, "spans": [{"start": 21, "end": 28, "label": "Drug"}], "answer": "accept"}
    path = json_lines(tmp_path / "a.jsonl", record)
    checked, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    private = PrivateData()
    result = Checker(private=private).check(checked.items(rejections.bad), rejections)
    repair(checked, result, tmp_path / "out.jsonl", private, "en")
    (written,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written["text"] == "Mail [EMAIL] aspirin"
    assert [written["text"][one["start"] : one["end"]] for one in written["tokens"]] == ["Mail", "[EMAIL]", "aspirin"]
    assert [one["text"] for one in written["tokens"]] == ["Mail", "[EMAIL]", "aspirin"]
    assert [written["text"][one["start"] : one["end"]] for one in written["spans"]] == ["aspirin"]


def test_a_copy_counts_characters_whatever_the_file_counts(tmp_path: Path) -> None:
    text = "😀 Give aspirin"
    path = json_lines(tmp_path / "a.jsonl", {"text": text, "entities": [[8, 15, "Drug"]]})
    checked, rejections = CheckedFile.open(str(path), "auto", Fields(tags=TagFields(offsets="utf16"))), Rejections()
    result = Checker().check(checked.items(rejections.bad), rejections)
    repair(checked, result, tmp_path / "out.jsonl", None, "en")
    (found,) = read(tmp_path / "out.jsonl")[0]
    assert [found.text[span.start : span.end] for span in found.spans] == ["aspirin"]


def test_a_copy_leaves_out_what_contradicts_itself_or_was_rejected(tmp_path: Path) -> None:
    span = {"start": 5, "end": 12, "label": "Drug", "text": "aspirin"}
    path = json_lines(
        tmp_path / "a.jsonl",
        {"text": f"{TEXT}, please", "spans": [span], "answer": "accept"},
        {"text": TEXT, "spans": [span], "answer": "reject"},
        {"text": f"{TEXT} or never", "spans": [{**span, "end": 11}], "answer": "accept"},
    )
    checked, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    result = Checker().check(checked.items(rejections.bad), rejections)
    assert [(finding.kind, finding.line) for finding in result.errors] == [("contradicting-span", 3)]
    repair(checked, result, tmp_path / "out.jsonl", None, "en")
    assert [text.text for text in read(tmp_path / "out.jsonl")[0]] == [f"{TEXT}, please"]
    changes = [json.loads(line) for line in (tmp_path / "out.jsonl.changes.jsonl").read_text().splitlines()]
    assert [(change["line"], change["kind"]) for change in changes] == [(2, "left-out"), (3, "contradicting-span")]


def test_what_an_annotator_rejects_or_ignores_is_left_out_and_listed(tmp_path: Path) -> None:
    span = {"start": 5, "end": 12, "label": "Drug"}
    path = json_lines(
        tmp_path / "a.jsonl",
        {"text": TEXT, "spans": [span], "answer": "accept"},
        {"text": TEXT, "spans": [{**span, "label": "Wrong"}], "answer": "reject"},
        {"text": TEXT, "spans": [span], "answer": "ignore"},
        {"text": "No drug", "answer": "accept"},
    )
    texts, rejects, left = read(path)
    assert [text.spans for text in texts] == [DRUG, ()]
    assert [(reject.line, reject.field, reject.reason) for reject in rejects] == [
        (2, "answer", "the annotator's answer is reject"),
        (3, "answer", "the annotator's answer is ignore"),
    ]
    assert left.fields == {}
    kind, findings = check(path)
    assert kind == "tags"
    assert [finding for finding in findings if finding[0] == "left-out"] == [("left-out", False)] * 2


def test_unread_fields_are_counted(tmp_path: Path) -> None:
    record = {"text": TEXT, "label": [[5, 12, "Drug"]], "id": 3, "meta": {"a": 1}}
    _, _, left = read(json_lines(tmp_path / "a.jsonl", record, {**record, "note": ""}), TagFields(id="id"))
    assert left.fields == {"meta": 2, "note": 1}
    _, _, left = read(write(tmp_path / "b.json", json.dumps([studio([label(5, 12), {"type": "relation"}])])))
    assert left.fields == {"data.source": 1, "result of type relation": 1}


def test_label_studio_tasks_that_were_skipped_or_annotated_differently(tmp_path: Path) -> None:
    cancelled = studio([label(0, 4)])
    cancelled["annotations"][0]["was_cancelled"] = True
    tasks = [studio([label(5, 12)], [label(5, 12)]), cancelled, studio()]
    path = write(tmp_path / "a.json", json.dumps(tasks))
    texts, rejects, _ = read(path)
    assert [text.spans for text in texts] == [DRUG]
    assert ["skipped it" in rejects[0].reason, "nobody has" in rejects[1].reason] == [True, True]
    differing = studio([label(5, 12)], [label(0, 4)])
    with pytest.raises(RecordError, match="2 annotators disagree on the entities"):
        read(write(tmp_path / "b.json", json.dumps([differing])))
    differing["annotations"][0]["ground_truth"] = True
    assert read(write(tmp_path / "b.json", json.dumps([differing])))[0][0].spans == DRUG


def test_the_text_field_of_label_studio_is_found_or_named(tmp_path: Path) -> None:
    task = studio([label(5, 12)])
    task["data"] = {"note": TEXT, "title": "Other"}
    assert (
        read(write(tmp_path / "a.json", json.dumps([task])))[0][0].text == TEXT
    )  # the field that contains the entities' text
    task["annotations"][0]["result"] = []
    with pytest.raises(RecordError, match="which field of 'data' holds the text"):
        read(write(tmp_path / "a.json", json.dumps([task])))
    assert read(tmp_path / "a.json", TagFields(text="note"))[0][0].text == TEXT


def test_entities_of_label_studio_are_in_the_text_that_their_object_shows(tmp_path: Path) -> None:
    def task(object_: str, number: int, *, copied: bool = False) -> dict[str, Any]:
        value = {"start": 5, "end": 12, "labels": ["Drug"]} | ({"text": "aspirin"} if copied else {})
        made = studio([{"type": "labels", "from_name": "l", "to_name": object_, "value": value}])
        return {**made, "data": {"text": f"An unmarked summary, {number}", "body": f"Give aspirin now, {number}"}}

    def texts_of(*tasks: dict[str, Any], fields: TagFields | None = None) -> list[str]:
        texts = read(write(tmp_path / "a.json", json.dumps(tasks)), fields)[0]
        return [text.text[span.start : span.end] for text in texts for span in text.spans]

    assert texts_of(task("body", 1), task("body", 2)) == ["aspirin", "aspirin"]
    assert texts_of(task("t", 1, copied=True)) == [
        "aspirin"
    ]  # no field has the object's name, but the span repeats the marked text
    assert texts_of(task("text", 1, copied=True)) == ["aspirin"]  # ... which counts more than the object's name
    short = task("t", 1)
    short["data"]["text"] = "Short"
    assert texts_of(short) == ["aspirin"]  # the other field is too short for the offsets
    unmarked = {**task("body", 2), "annotations": [{"result": []}]}
    assert [t.text for t in read(write(tmp_path / "b.json", json.dumps([task("body", 1), unmarked])))[0]] == [
        "Give aspirin now, 1",
        "Give aspirin now, 2",
    ]
    with pytest.raises(RecordError, match="which field of 'data' holds the text"):
        texts_of(task("t", 1))
    both = task("body", 1)
    both["annotations"][0]["result"] += task("text", 1)["annotations"][0]["result"]
    with pytest.raises(RecordError, match="the entities are in several texts: body, text"):
        texts_of(both)
    assert texts_of(both, fields=TagFields(text="body")) == ["aspirin"]
    assert texts_of(both, fields=TagFields(text="text")) == ["marked"]


def test_a_brat_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    write(folder / "a.txt", "Left and right lung cancer.\nGive 😀 aspirin.")
    ann = (
        "T1\tDisease 0 4;15 26\tLeft lung cancer\nT2\tDrug 35 42\taspirin\nR1\tTreats Arg1:T2 Arg2:T1\n"
        "#1\tAnnotatorNotes T1\tx\n"
    )
    write(folder / "a.ann", ann)
    write(folder / "lonely.txt", "No annotation.")
    write(folder / "annotation.conf", "[entities]")
    (text,), _, left = read(folder)
    assert [(text.text[s.start : s.end], s.label) for s in text.spans] == [
        ("Left and right lung cancer", "Disease"),
        ("aspirin", "Drug"),
    ]
    assert (text.joined, text.group, text.file) == (1, "a.ann", "a.ann")
    assert left.fields == {"relations (R)": 1, "notes (#)": 1}
    assert [(one.file, one.reason) for one in left.files] == [
        ("annotation.conf", "not a BRAT text"),
        ("lonely.txt", "it has no .ann file"),
    ]
    assert read(folder / "a.txt")[0] == read(folder / "a.ann")[0]
    assert check(folder)[0] == "tags"
    write(folder / "b.ann", "T1\tDrug 0 4\tGive\n")
    with pytest.raises(RecordError, match=r"no \.txt file of the same name"):
        read(folder)


@pytest.mark.parametrize("paired", [True, False])
def test_one_ann_file_among_many_texts_makes_no_brat_folder_and_is_named(tmp_path: Path, paired: bool) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(5):
        write(folder / f"n{number}.txt", "Give aspirin now")
    write(folder / ("n0.ann" if paired else "other.ann"), "T1\tDrug 5 12\taspirin\n")
    counts = r"1 of its 5 texts have an .ann file \(n0.ann\)" if paired else "0 of its 5 .*other.ann"
    with pytest.raises(CorpusError, match=counts):
        check(folder)
    with pytest.raises(CorpusError, match=counts):
        open_tagging(TaggingSource(train=str(folder)))
    for number in range(1, 3):
        write(folder / f"n{number}.ann", "T1\tDrug 5 12\taspirin\n")
    write(folder / "n0.ann", "T1\tDrug 5 12\taspirin\n")
    os.mkfifo(folder / "pipe.ann")
    if not paired:
        with pytest.raises(RecordError, match=r"no \.txt file of the same name") as caught:
            read(folder)
        assert "other.ann" in str(caught.value)
        return
    texts, _, left = read(folder)
    assert len(texts) == 3
    assert [one.file for one in left.files] == ["n3.txt", "n4.txt", "pipe.ann"]
    assert "named pipe" in left.files[-1].reason
    assert [finding for finding in check(folder)[1] if finding[0] == "unread-file"] == [("unread-file", False)] * 3


def test_brat_offsets_that_were_counted_in_another_way_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "😀 aspirin")
    write(tmp_path / "a.ann", "T1\tDrug 3 10\taspirin\n")
    with pytest.raises(RecordError, match="UTF-16 units") as caught:
        read(tmp_path / "a.ann")
    assert 'a.ann, field "entities[0]"' in str(caught.value)
    assert "counted from 1; or offsets count UTF-16 units" in str(caught.value)  # a single span fits both causes


def test_passages_of_a_document_are_texts_of_one_group(tmp_path: Path) -> None:
    texts, _, _ = read(write(tmp_path / "a.json", json.dumps(BIOC)))
    assert [(text.text, text.group) for text in texts] == [("A title", "d1"), (TEXT, "d1")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.spacy", "x", "spaCy's binary format"),
        ("a.xmi", "x", "UIMA's XMI"),
        ("a.tsv", "#FORMAT=WebAnno TSV 3.2\n", "WebAnno's TSV"),
        ("a.xml", "<!DOCTYPE c [<!ENTITY a 'b'>]><collection/>", "declares entities"),
        ("a.xml", "<html><body/></html>", "is not BioC"),
        ("a.xml", "<collection>", "broken XML"),
        ("a.xml", "<c><document><passage><text>a</text></passage></document></c>", "no text or no offset"),
        ("a.json", '[{"id": 0, "paragraphs": []}]', "spaCy 2's training format"),
        ("a.json", '[["a", "b"]]', "neither a text with entities nor words with tags"),
        ("a.json", '[{"text": "a", "entities": [}]', "broken JSON"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_cause(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read(write(tmp_path / name, content))


SOUND = '{"text": "Give aspirin", "entities": [[5, 12, "Drug"]]}'
TWICE = '{"text": "Give it", "text": "Give aspirin", "entities": [[5, 12, "Drug"]]}'
CELL = '"[{""start"": 5, ""end"": 12, ""labels"": [""Drug""]}]"'
TWICE_IN_CELL = CELL.replace('""end', '""end"": 9, ""end')


@pytest.mark.parametrize(
    ("name", "content", "line", "field"),
    [
        ("a.jsonl", f"{SOUND}\n{TWICE}\n", 2, "text"),
        ("b.jsonl", f"{TWICE}\n{SOUND}\n", 1, "text"),
        ("c.json", f"[{SOUND}, {TWICE}]", 2, "text"),
        ("d.json", f'{{"x": {SOUND}, "y": {TWICE}}}', 2, "text"),
        ("e.json", f'{{"x": {SOUND}, "x": {SOUND}}}', None, "x"),
        ("f.json", f'{{"documents": [],\n"documents": [{SOUND}]}}', None, "documents"),
        ("g.csv", f"text,spans\nGive aspirin,{CELL}\nGive it,{TWICE_IN_CELL}\n", 3, "spans"),
    ],
)
def test_a_field_that_is_given_twice_makes_a_bad_record(
    tmp_path: Path, name: str, content: str, line: int | None, field: str
) -> None:
    rejects: list[Reject] = []
    path = write(tmp_path / name, content)
    found, _ = read_tagged(path, name, TagFields(), None, BadRecords("skip", rejects.append))
    assert [(text.text, len(text.spans)) for text in found] == [("Give aspirin", 1)]
    ((at, where, reason),) = [(reject.line, reject.field, reject.reason) for reject in rejects]
    assert (at, where) == (line, field)
    assert "is given twice" in reason


def test_an_empty_list_is_a_json_file_without_records_but_a_bad_json_line(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.json", "[]\n"))[:2] == ([], [])
    with pytest.raises(RecordError, match="the record is a list"):
        read(write(tmp_path / "b.jsonl", f"[]\n{SOUND}\n"))


def test_entities_marked_in_html_are_refused(tmp_path: Path) -> None:
    task = studio([{**label(5, 12), "type": "hypertextlabels"}])
    with pytest.raises(RecordError, match="marked in HTML"):
        read(write(tmp_path / "a.json", json.dumps([task])))


def test_types_that_differ_only_in_case_or_spaces_are_refused(tmp_path: Path) -> None:
    records = [{"text": f"flu {n}", "entities": [[0, 3, name]]} for n, name in enumerate(["Drug", "drug", "DRUG "] * 9)]
    path = json_lines(tmp_path / "a.jsonl", *records)
    with pytest.raises(CorpusError, match=r"'DRUG ' \(9\), 'Drug' \(9\), 'drug' \(9\)"):
        open_tagging(TaggingSource(train=str(path)))
    assert ("label-spelling", True) in check(path)[1]


def marked(number: int, *spans: list[Any]) -> dict[str, Any]:
    words = ["Give", "take", "stop", "hold", "raise", "lower", "weigh"]
    return {"text": f"{words[number % 7]} aspirin for {words[number % 5]} {number} days", "entities": list(spans)}


@pytest.mark.parametrize("name", ["O", "-", "NA", "null", "N/A"])
def test_a_span_whose_label_means_none_is_no_entity(tmp_path: Path, name: str) -> None:
    records = [marked(n, [5, 12, "Drug"], [0, 20, name]) for n in range(0, 140, 7)]
    path = json_lines(tmp_path / "a.jsonl", *records)
    data = open_tagging(TaggingSource(train=str(path)))
    assert data.types == ("Drug",)
    assert sum(len(text.spans) for texts in data.splits.values() for text in texts) == 20
    assert any("means no entity, such as O or N/A, are left out: 20" in note for note in data.notes)
    assert ("unlabelled-spans", False) in check(path)[1]


def test_types_that_look_like_tags_or_like_no_label_are_noted(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", *(marked(n, [5, 12, "B-Drug"]) for n in range(0, 140, 7)))
    data = open_tagging(TaggingSource(train=str(path)))
    assert any("the types look like tags: B-Drug" in note for note in data.notes)
    path = json_lines(
        tmp_path / "b.jsonl", *(marked(n, [5, 12, "none" if n % 2 else "Drug"]) for n in range(0, 140, 7))
    )
    data = open_tagging(TaggingSource(train=str(path)))
    assert any("'none' is read as a type" in note for note in data.notes)


def test_one_text_with_different_entities_is_noted(tmp_path: Path) -> None:
    records = [marked(n, [5, 12, "Drug"]) for n in range(0, 140, 7)]
    path = json_lines(tmp_path / "a.jsonl", *records, *records[:3])
    assert not any("contradict" in note for note in open_tagging(TaggingSource(train=str(path))).notes)
    path = json_lines(tmp_path / "a.jsonl", *records, marked(0, [0, 4, "Drug"]), marked(7))
    notes = [note for note in open_tagging(TaggingSource(train=str(path))).notes if "contradict" in note]
    assert len(notes) == 1
    assert "2 texts in 4 records, such as a.jsonl:1 and a.jsonl:21" in notes[0]


@pytest.mark.parametrize(
    ("span", "what"),
    [
        ({"start": 5, "length": 7, "label": "Drug"}, "it has no end"),
        ({"end": 12, "label": "Drug"}, "it has no start"),
        ({"start": 5, "end": 12, "kind": "Drug"}, "it has no label"),
        ({"start": 5, "end": 12, "value": "aspirin"}, "'value' holds the text of the span"),
    ],
)
def test_the_missing_part_of_a_span_is_named(tmp_path: Path, span: dict[str, Any], what: str) -> None:
    with pytest.raises(RecordError, match=what) as error:
        read(json_lines(tmp_path / "a.jsonl", {"text": TEXT, "entities": [span]}))
    assert "UTF-16" not in str(error.value)


def test_tasks_with_only_predictions_are_refused(tmp_path: Path) -> None:
    tasks = [studio(predictions=[{"result": [label(5, 12)]}]) for _ in range(3)]
    path = write(tmp_path / "a.json", json.dumps(tasks))
    with pytest.raises(CorpusError, match=r"only predictions of a model, which are not read \(3\)"):
        open_tagging(TaggingSource(train=str(path)))


def test_argilla_entities_are_read_once_unless_answers_differ(tmp_path: Path) -> None:
    def record(*values: Any, status: str = "submitted") -> dict[str, Any]:
        answers = [{"value": value, "status": status} for value in values]
        return {"fields": {"text": TEXT, "title": "T"}, "responses": {"span": answers}, "status": "completed"}

    drug, part = [{"start": 5, "end": 12, "label": "Drug"}], [{"start": 0, "end": 4, "label": "Drug"}]
    records = [record(drug, drug), record([]), record(drug, status="discarded"), record()]
    texts, rejects, left = read(json_lines(tmp_path / "a.jsonl", *records))
    assert [text.spans for text in texts] == [DRUG, ()]
    assert [reject.reason for reject in rejects] == ["Argilla: nobody has answered"] * 2
    assert left.fields == {"title": 2}
    with pytest.raises(RecordError, match="2 annotators disagree on the entities"):
        read(json_lines(tmp_path / "b.jsonl", record(drug, part)))


def test_discarded_answers_of_flat_argilla_records_are_not_read(tmp_path: Path) -> None:
    drug, part = [{"start": 5, "end": 12, "label": "Drug"}], [{"start": 0, "end": 4, "label": "Drug"}]

    def record(*statuses: str) -> dict[str, Any]:
        statuses_and_users = {"span.responses.status": [*statuses], "span.responses.users": ["u", "v"]}
        return {"id": "1", "status": "completed", "text": TEXT, "span.responses": [drug, part], **statuses_and_users}

    texts, rejects, left = read(json_lines(tmp_path / "a.jsonl", record("submitted", "discarded")))
    assert [text.spans for text in texts] == [DRUG]
    assert (rejects, left.fields) == ([], {})
    with pytest.raises(RecordError, match="2 annotators disagree on the entities"):
        read(json_lines(tmp_path / "b.jsonl", record("submitted", "submitted")))


def test_tables_of_word_lists_are_read_and_tables_of_single_words_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,tokens,ner_tags\n1,\"['Give', 'aspirin']\",\"['O', 'B-Drug']\"\n")
    assert read(path)[0][0].spans == DRUG
    path = write(tmp_path / "b.csv", "Sentence #,Word,POS,Tag\n1,Give,VB,O\n,aspirin,NN,B-Drug\n")
    with pytest.raises(CorpusError, match=r"each row has a word and its tag \(column Tag\)"):
        read(path)


def test_data_check_warns_of_overlaps(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", {"text": TEXT, "entities": [[5, 12, "Drug"], [5, 8, "Part"]]})
    assert check(path) == ("tags", [("overlapping-spans", False)])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to each part of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with the part at `path` replaced by `new`."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@given(st.data(), st.sampled_from([name for name, (_, content) in FILES.items() if not isinstance(content, str)]))
def test_whatever_replaces_a_part_the_readers_raise_only_user_errors(data: st.DataObject, name: str) -> None:
    file, content = FILES[name]
    path = data.draw(st.sampled_from(places(content)))
    wrong: Any = st.sampled_from([None, True, 3, -1, 2.5, "", "x", [], [[]], [3], {}, {"a": 1}, [None], [{}]])
    with tempfile.TemporaryDirectory() as folder:
        changed = write(Path(folder) / file, json.dumps(replaced(content, path, data.draw(wrong))))
        with contextlib.suppress(UserError):
            texts = read(changed)[0]
            assert all(0 <= span.start < span.end <= len(text.text) for text in texts for span in text.spans)
        with contextlib.suppress(UserError):
            check(changed)


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        (lambda records: {"version": "1", "data": records}, "field data"),
        (lambda records: {"examples": records}, "field examples"),
        (lambda records: {"train": records[:3], "test": records[3:]}, "fields train, test"),
        (lambda records: {"train": dict(zip("abc", records, strict=False))}, "field train"),
    ],
)
def test_every_reader_names_the_field_that_holds_the_records(form: Any, fields: str, tmp_path: Path) -> None:
    records = [{"text": f"Take aspirin {n} now", "entities": [[5, 12, "Drug"]], "label": "a"} for n in range(5)]
    path = tmp_path / "all.json"
    path.write_text(json.dumps(form(records)))
    for read in (
        lambda: open_tagging(TaggingSource(train=str(path), on_bad_record="skip")),
        lambda: open_task(TaskSource(train=str(path))),
        lambda: list(open_corpus(str(path)).documents()),
        lambda: CheckedFile.open(str(path), "auto", Fields()),
    ):
        with pytest.raises(CorpusError, match=f"its records are in its {fields}\n") as raised:
            read()
        assert f"jq -c '.[\"{fields.split()[1].strip(',')}\"][]' all.json" in str(raised.value)
        assert "skip" not in str(raised.value)


def test_the_spans_of_a_single_record_are_not_taken_for_records(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    spans = [{"start": 5, "end": 12, "label": "Drug", "text": "aspirin"}]
    path.write_text(json.dumps({"note": "Take aspirin now", "entities": spans}))
    texts, _ = read_tagged(path, "one.json", TagFields(text="note"), None, BadRecords("stop", lambda _: None))
    assert texts[0].spans == (Span(5, 12, "Drug"),)
