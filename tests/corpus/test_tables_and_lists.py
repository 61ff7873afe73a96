"""Irregular tables and JSON: other delimiters, no header, broken quotations, lists instead of lines."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.readers.base import Reject
from domain_ft.errors import CorpusError, RecordError


def read(
    folder: Path, name: str, content: bytes | str, text_field: str | None = None
) -> tuple[list[str], list[Reject]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rejects: list[Reject] = []
    corpus = open_corpus(str(path), text_field=text_field, on_bad_record="skip")
    return [document.text for document in corpus.documents(rejects.append)], rejects


RECORDS = [{"text": "one"}, {"text": "two\nlines"}, {"text": "three"}]
TEXTS = [record["text"] for record in RECORDS]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\n".join(json.dumps(record, indent=4) for record in RECORDS),
        "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]",
    ],
    ids=["lines", "list", "pretty list", "pretty objects", "a list with one object per line"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_lines_and_lists_are_recognised_by_content(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path, name, content) == (TEXTS, [])


def test_only_the_broken_object_over_several_lines_is_lost(tmp_path: Path) -> None:
    content = '{\n "text": "one"\n}\n{\n "text": two\n}\n{\n "text": "three"\n}\n'
    texts, rejects = read(tmp_path, "a.jsonl", content)
    assert texts == ["one", "three"]
    assert [reject.line for reject in rejects] == [5]
    assert "begins on line 4" in rejects[0].reason


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("named", [*COMPRESSORS, ""])
def test_compressed_files_are_recognised_by_content(tmp_path: Path, compression: str, named: str) -> None:
    assert read(tmp_path, f"a.jsonl{named}", COMPRESSORS[compression](LINES.encode())) == (TEXTS, [])
    assert read(tmp_path, f"b.jsonl{named}", LINES) == (TEXTS, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sep=;\nid;text\n1;one\n2;two, more\n"),
        ("a.csv", "sep=\t\nid\ttext\n1\tone\n2\ttwo, more\n"),
        ("a.csv", 'id;text\n1;one\n2;"two, more"\n'),
        ("a.csv", "id|text\n1|one\n2|two, more\n"),
        ("a.tsv", 'id,text\n1,one\n2,"two, more"\n'),
        ("a.csv", 'id,text\r1,one\r2,"two, more"\r'),
        ("a.csv", '\n\nid,text\n1,one\n2,"two, more"\n'),
    ],
)
def test_tables_with_other_delimiters_and_line_ends_are_read(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path, name, content) == (["one", "two, more"], [])


def test_json_lines_that_end_in_carriage_returns_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", LINES.replace("\n", "\r")) == (TEXTS, [])


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    long = "A text that is much longer than the name of any column would be, " * 3
    for content in (f'"{long}",1\n"{long}",2\n', "a text of some words,1\nanother text of words,0\n"):
        with pytest.raises(CorpusError, match="first line seems to be a record"):
            read(tmp_path, "a.csv", content)


def test_numbers_may_be_names_of_columns(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", "0,1\nfirst text of words,5\nsecond text of words,6\n", "0")[0][0].startswith(
        "first"
    )


@pytest.mark.parametrize("closed", ["", '"'], ids=["never closed", "closed far below"])
def test_an_open_quotation_loses_only_the_records_with_its_quotation_marks(tmp_path: Path, closed: str) -> None:
    rows = [f"{number},text number {number}" for number in range(96)]
    rows[6] = '6,"text number 6'
    rows[94] += closed
    texts, rejects = read(tmp_path, "a.csv", "id,text\n" + "\n".join(rows) + "\n")
    lost = [6, 94] if closed else [6]
    assert [text for text in texts if '"' not in text] == [f"text number {n}" for n in range(96) if n not in lost]
    assert rejects[0].line == 8
    assert f"runs over {89 if closed else 90} lines" in rejects[0].reason


def test_the_error_for_an_open_quotation_says_how_many_lines_it_covers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"open\n' + "".join(f"{n},text\n" for n in range(2, 40)), encoding="utf-8")
    with pytest.raises(RecordError, match=r"runs over 39 lines[^$]*line 2"):
        list(open_corpus(str(path)).documents())


def test_a_long_quotation_with_many_lines_is_one_text(tmp_path: Path) -> None:
    text = "\n".join(f"line {number}, of a poem" if number % 3 else f"line {number}" for number in range(50))
    assert read(tmp_path, "a.csv", f'id,text\n1,"{text}"\n2,end\n') == ([text, "end"], [])
