"""The choice of the text field: one with ids, addresses, hashes or dates is not guessed unless its name is usual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.readers.base import Seen, field_names, join_names, usual_name
from domain_ft.corpus.readers.choosing import Holds, what_fields_hold
from domain_ft.corpus.readers.dates import is_date
from domain_ft.errors import CorpusError, RecordError
from domain_ft.quoting import shown

TEXT = "The licensee shall not sublicense the work, nor remove any notice."


def jsonl(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def texts(path: Path, text_field: str | None = None, seen: Seen | None = None) -> list[str]:
    return [document.text for document in open_corpus(str(path), text_field=text_field).documents(seen=seen)]


@pytest.mark.parametrize(
    "name",
    [
        "case-17",
        "https://example.org/a",
        "2024-05-01",
        "d41d8cd98f00b204e9800998ecf8427e",
        "17",
        "a/b.txt",
        "10.1000/x",
        "12 March 2020 at 10:05",
        "March 12, 2020",
        "Thursday, 12th of March 2020",
        "Mon, 12 Mar 2020 10:00:05 GMT",
        "12. März 2020",
        "le 12 mars 2020 à 10h05",
        "12 de marzo de 2020",
        "2020年3月12日 10時05分",
        "令和2年3月12日(木)",
        "2020년 3월 12일 오전 10시",
        "3 days ago",
        "€ 1,200.00",
    ],
)
def test_ids_addresses_dates_and_amounts_are_not_the_text(tmp_path: Path, name: str) -> None:
    path = jsonl(tmp_path, {"ref": name, "data": [TEXT, "More."]}, {"ref": name, "data": ["Other text.", "More."]})
    assert texts(path) == [f"{TEXT}\nMore.", "Other text.\nMore."]


@pytest.mark.parametrize("field", ["id", "doc_id", "caseId", "url", "source", "created_at", "language"])
def test_a_field_named_like_metadata_is_not_the_text_unless_it_holds_sentences(field: str) -> None:
    assert what_fields_hold([{field: "alpha"}, {field: "beta"}]) == {field: Holds.NAMES}
    assert what_fields_hold([{field: TEXT}]) == {field: Holds.TEXT}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("payload", ["FhPUAS0cI7wU24pURlN/YrGAfwDsP5j59yLwQos+qCrlOgMD43s8HXQVtRia5IRRTH68PEo9HRW3NN/H"]),
        ("payload", ["\n".join(["QmFzZTY0IGlzIGEgZ3JvdXAgb2YgYmluYXJ5LXRvLXRleHQgZW5jb2Rpbmcgc2No"] * 3 + ["QQ=="])]),
        ("author", ["John Smith", "Ann Jones"]),
        ("first_name", ["Ann Marie"]),
        ("record", [json.dumps({"id": 1, "body": TEXT})]),
        ("record", [json.dumps([{"body": TEXT}])]),
    ],
)
def test_fields_without_prose_are_not_guessed_to_be_the_text(tmp_path: Path, field: str, values: list[str]) -> None:
    assert what_fields_hold([{field: value} for value in values]) == {field: Holds.NAMES}
    path = jsonl(tmp_path, *[{field: value} for value in values])
    with pytest.raises(CorpusError, match=f"--text-field {field}"):
        texts(path)
    assert texts(path, field) == values
    path = jsonl(tmp_path, *[{field: value, "story": TEXT} for value in values])
    assert texts(path) == [TEXT] * len(values)


@pytest.mark.parametrize(
    "value",
    [
        "\u5951\u7d04\u306e\u89e3\u9664",
        "\u0e2a\u0e31\u0e0d\u0e0d\u0e32",
        "[sic] see note",
        "{draft} of a text",
        "Two words",
    ],
)
def test_short_texts_and_scripts_without_spaces_are_texts(value: str) -> None:
    assert what_fields_hold([{"body": value}]) == {"body": Holds.TEXT}


def test_a_file_of_only_ids_and_numbers_is_refused_with_the_cause(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"id": "case-1", "n": 3}, {"id": "case-2", "n": 4})
    with pytest.raises(CorpusError, match="identifiers, addresses, dates, numbers") as caught:
        texts(path)
    assert "--text-field id" in str(caught.value)
    assert texts(path, "id") == ["case-1", "case-2"]


def test_the_first_record_does_not_decide_alone(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"body": None}, {"body": TEXT}, {"body": [TEXT, TEXT]})
    corpus = open_corpus(str(path), on_bad_record="skip")
    rejects: list[Any] = []
    assert [document.text for document in corpus.documents(rejects.append)] == [TEXT, f"{TEXT}\n{TEXT}"]
    assert [(reject.line, reject.reason) for reject in rejects] == [(1, "the field holds null, not text")]
    with pytest.raises(RecordError, match=r"null, not text[^$]*line 1"):
        texts(path)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_field_that_was_read_and_its_median_length_are_recorded(tmp_path: Path, ending: str) -> None:
    rows = {"id": ["a-1", "a-2", "a-3"], "body": [TEXT, "x y z " * 5, TEXT * 2], "n": ["1", "2", "3"]}
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table(rows), path)
    elif ending == "csv":
        path.write_text("id,body,n\n" + "".join(f'{a},"{b}",{c}\n' for a, b, c in zip(*rows.values(), strict=True)))
    else:
        path = jsonl(tmp_path, *(dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)))
    seen = Seen()
    assert texts(path, seen=seen) == rows["body"]
    assert seen.text_fields() == [{"field": "body", "found": True, "records": 3, "median_characters": len(TEXT)}]
    assert dict(seen.left_out.fields) == {"id": 3, "n": 3}


def test_field_names_with_commas_and_spaces_can_be_given(tmp_path: Path) -> None:
    record = {"findings, all": "One.", "my text": "Two.", " edge ": "Three."}
    path = jsonl(tmp_path, record)
    assert texts(path, "findings, all") == ["One."]
    assert texts(path, "my text") == ["Two."]
    assert texts(path, " edge ") == ["Three."]
    assert texts(path, '"findings, all", my text') == ["One.\n\nTwo."]
    for names in (("a",), ("a, b", "c"), (" edge ", 'quo"te'), ('x,"y"', "z")):
        assert field_names(join_names(names)) == names


def test_no_message_shows_a_private_text_whole(tmp_path: Path) -> None:
    private = "The patient, born in Anytown, was treated for a chronic lesion of the left lung in the spring."
    path = tmp_path / "a.csv"
    for content in (
        f'1,"{private}"\n2,"{private}"\n',
        f"{private}\n1\n",
        f'"{private}","{private}"\n',
        f"{private[:70]}\n1\n",
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(CorpusError) as caught:
            texts(path, "text")
        assert private[:62] not in str(caught.value)
    assert len(shown(private)) <= 41


@pytest.mark.parametrize(
    "value",
    [
        "On 12 March 2020 the court sat.",
        "12 monkeys",
        "2020 was a bad year",
        "第3章 契約の解除",
        "March",
        "",
        "Section 12(a)",
    ],
)
def test_a_text_with_other_words_or_without_a_digit_is_no_date(value: str) -> None:
    assert not is_date(value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("paragraphs", [{"text": TEXT}, {"text": "More."}]),
        ("sections", [{"heading": "One", "content": [TEXT, TEXT]}]),
        ("sections", {"intro": TEXT, "end": "More."}),
        ("body", {"text": TEXT}),
        ("pages", [[TEXT, TEXT], [TEXT]]),
        ("paragraphs", [{"context": TEXT, "qas": [{"question": "Who?"}]}]),
    ],
)
@pytest.mark.parametrize("title", [{}, {"title": "Report of the court, part one"}])
def test_a_title_is_not_the_text_if_paragraphs_are_in_another_field(
    tmp_path: Path, field: str, value: Any, title: dict[str, str]
) -> None:
    path = jsonl(tmp_path, *[{"id": f"c{number}", **title, field: value} for number in range(3)])
    with pytest.raises(CorpusError, match="it is not clear which field holds the text") as caught:
        texts(path)
    assert f"most of the text is inside the objects or lists of {field}, which are not read" in str(caught.value)
    if title:
        assert texts(path, "title") == [title["title"]] * 3


def test_a_field_with_more_text_or_a_usual_name_is_chosen_despite_text_inside_other_fields(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"story": f"{TEXT} {TEXT}", "meta": {"note": "It is a note of few words."}})
    assert texts(path) == [f"{TEXT} {TEXT}"]
    path = jsonl(tmp_path, {"text": "Short.", "meta": [{"note": TEXT}]})
    assert texts(path) == ["Short."]


def test_usual_names_are_known_in_any_case(tmp_path: Path) -> None:
    assert texts(jsonl(tmp_path, {"Text": TEXT, "Other": TEXT})) == [TEXT]
    assert usual_name(["TEXT", "text"], ("text",)) == "text"
    assert usual_name(["a"], ("text",)) is None
