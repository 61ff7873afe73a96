"""Readers: every format, plain and compressed, and every kind of bad record, with its file, line, field and fix."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors as hub_errors
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.corpus import hub_revision, open_corpus
from domain_ft.corpus.left_out import UnreadFile
from domain_ft.corpus.readers import base, files
from domain_ft.corpus.readers.base import BadRecords, Reject, SourceDocument
from domain_ft.corpus.readers.files import list_files
from domain_ft.corpus.readers.hub import open_splits
from domain_ft.corpus.readers.icd import read_icd
from domain_ft.corpus.readers.licences import read_licences
from domain_ft.corpus.readers.obo import read_obo
from domain_ft.corpus.readers.records import read_csv
from domain_ft.corpus.recipes import Source
from domain_ft.errors import CorpusError, RecordError
from domain_ft.json_files import MARKING, find_doubled, loads

TEXTS = ["First text, with a comma.", 'Second "quoted"\ntext\n\non lines.', "第三の文。", ""]


def as_csv(delimiter: str) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(TEXTS))
    return sink.getvalue().encode()


def as_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(len(TEXTS))), "text": TEXTS}), sink)
    return sink.getvalue()


RECORDS = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
FILES: dict[str, Callable[[], bytes]] = {
    "records.jsonl": lambda: "\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS).encode(),
    "records.json": lambda: json.dumps(RECORDS).encode(),
    "records.csv": lambda: as_csv(","),
    "records.tsv": lambda: as_csv("\t"),
    "records.parquet": as_parquet,
}


def texts(path: Path, text_field: str | None = None) -> list[str]:
    return [document.text for document in open_corpus(str(path), text_field=text_field).documents()]


def texts_and_rejects(path: Path, text_field: str | None = None) -> tuple[list[str], list[Reject]]:
    left_out: list[Reject] = []
    corpus = open_corpus(str(path), text_field=text_field, on_bad_record="skip")
    return [document.text for document in corpus.documents(left_out.append)], left_out


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_every_format_of_records_is_read(tmp_path: Path, name: str, compressed: bool) -> None:
    content = FILES[name]()
    path = put(tmp_path, name + ".gz" * compressed, gzip.compress(content) if compressed else content)
    assert texts(path) == TEXTS
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.TXT", "a.txt.gz"])
def test_a_text_is_one_document(tmp_path: Path, name: str) -> None:
    content = "\ufeffA text.\n\fAnother page.\n".encode()
    path = put(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    (document,) = open_corpus(str(path)).documents()
    assert document == SourceDocument(id=name, text="A text.\n\fAnother page.\n", source=name)


LARGE_TEXTS = {
    "after a paragraph": "one\ntwo\n\nthree\nfour\n\n" * 20,
    "after a line": "one line\nanother line\n" * 20,
    "after a word": "some words and more words " * 20,
    "between characters": "第一条この法律は公布の日から施行する" * 20,
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", LARGE_TEXTS)
def test_a_large_text_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, compressed: bool
) -> None:
    monkeypatch.setattr(files, "PART", 64)
    text = LARGE_TEXTS[kind]
    content = b"\xef\xbb\xbf" + text.encode()
    path = put(tmp_path, "a.txt.gz" if compressed else "a.txt", gzip.compress(content) if compressed else content)
    documents = list(open_corpus(str(path)).documents())
    assert "".join(document.text for document in documents) == text
    assert [document.id for document in documents[:3]] == [path.name, f"{path.name}#part-2", f"{path.name}#part-3"]
    assert all(29 <= len(document.text.encode()) <= 64 for document in documents[:-1])
    ends = {"after a paragraph": "\n\n", "after a line": "\n", "after a word": " ", "between characters": ""}
    assert all(document.text.endswith(ends[kind]) for document in documents)


def test_a_bad_byte_in_a_large_text_is_reported_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PART", 64)
    lines = [f"line {number:03d} of a text\n".encode() for number in range(1, 31)]
    lines[20] = b"l\xe9ne 021\n"
    kept, left_out = texts_and_rejects(put(tmp_path, "a.txt", b"".join(lines)))
    assert [(reject.line, reject.reason) for reject in left_out] == [(21, "byte 0xE9 at offset 381 is not UTF-8")]
    assert kept[0].startswith("line 001") and kept[-1].endswith("line 030 of a text\n")


@pytest.mark.parametrize(
    ("name", "fix"), [("records.json", "as JSON lines"), ("records.parquet.gz", "unpack it"), ("a.json.gz", "jq -c")]
)
def test_a_file_that_is_read_as_a_whole_is_refused_if_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fix: str
) -> None:
    content = FILES[name.removesuffix(".gz").replace("a.json", "records.json")]()
    path = put(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    monkeypatch.setattr(base, "LARGEST_WHOLE", len(content))
    assert texts(path) == TEXTS
    monkeypatch.setattr(base, "LARGEST_WHOLE", len(content) - 1)
    with pytest.raises(RecordError, match=f"a file of this kind is read as a whole[^$]*{fix}"):
        texts(path)


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/10.txt", "a.md", ".hidden.txt", ".git/x.txt", "picture.png", "LICENSE"):
        put(tmp_path, name, name)
    corpus = open_corpus(str(tmp_path))
    assert [document.id for document in corpus.documents()] == ["a.md", "b/10.txt", "b/2.txt"]
    assert corpus.unread_files() == [
        UnreadFile(".git/", "a hidden folder"),
        UnreadFile(".hidden.txt", "hidden"),
        UnreadFile("LICENSE", "the name has no ending"),
        UnreadFile("picture.png", "the ending .png is not read"),
    ]


def test_a_folder_with_nothing_to_read_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "picture.png", b"x")
    with pytest.raises(CorpusError, match="no file that can be read"):
        open_corpus(str(tmp_path))


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"'\.odt' is not read"):
        open_corpus(str(put(tmp_path, "a.odt", b"PK")))


def test_the_sole_text_field_is_found_and_several_can_be_joined(tmp_path: Path) -> None:
    path = put(tmp_path, "sole.jsonl", '{"n": 1, "body": "one"}\n\n{"n": 2, "body": "two"}\n')
    assert texts(path) == ["one", "two"]
    path = put(tmp_path, "pair.jsonl", '{"question": "Q?", "answer": "A.", "source": "s"}\n')
    assert texts(path, "question,answer") == ["Q?\n\nA."]
    with pytest.raises(CorpusError) as caught:
        texts(path)
    assert "question, answer, source" in str(caught.value)
    assert "--text-field question,answer" in str(caught.value)


def test_a_document_of_five_million_characters_is_read(tmp_path: Path) -> None:
    text = "wörd " * 1_000_000
    sink = io.StringIO()
    csv.writer(sink).writerows([["text"], [text]])
    assert texts(put(tmp_path, "long.csv", sink.getvalue())) == [text]
    assert texts(put(tmp_path, "long.jsonl", json.dumps({"text": text}))) == [text]


# case -> (file name, content, what the message must contain)
BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "empty text": ("a.txt", b"", ["the file is empty", "a.txt"]),
    "empty jsonl": ("a.jsonl", b"\n", ["the file is empty"]),
    "empty csv": ("a.csv", b"", ["the file is empty"]),
    "empty parquet": ("a.parquet", b"", ["not a valid Parquet file"]),
    "no parquet": ("a.parquet", b"PAR1 nonsense", ["not a valid Parquet file"]),
    "binary text": ("a.txt", b"\x7fELF\0\0", ["binary file"]),
    "binary jsonl": ("a.jsonl", b"\x7fELF\0\0", ["binary file"]),
    "utf-16": ("a.txt", "text".encode("utf-16"), ["UTF-16", "iconv -f UTF-16"]),
    "undecodable text": (
        "a.txt",
        b"one\ntw\xe9\n",
        ["0xE9 at offset 6 is not UTF-8", "line 2", "iconv -f WINDOWS-1252"],
    ),
    "undecodable jsonl": ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', ["0xE9 at offset 24", "line 2"]),
    "undecodable csv": ("a.csv", b"text\ngood\nb\xe9d\n", ["0xE9 at offset 11", "line 3"]),
    "broken json": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "b"}\n{"text": c}\n',
        ["broken JSON: Expecting value at column 10", "a.jsonl, line 3"],
    ),
    "json that is no object": ("a.jsonl", b"[1]\n", ["a list, where an object is expected", "line 1"]),
    "json that is no list": ("a.json", b'{"a": 5}', ["an object, where a list of objects is expected"]),
    "field missing": ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', ["missing", 'line 2, field "text"', "--text-field"]),
    "field no text": ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', ["holds a number, not text", 'line 2, field "text"']),
    "field null": ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', ["holds null, not text"]),
    "csv with an open quotation": ("a.csv", b'text\n"good"\n"open\nnever shut\n', ["broken CSV record", "line 3"]),
    "csv with a field too many": ("a.csv", b"n,text\n1,good\n2,b,c\n", ["3 fields, where the header has 2", "line 3"]),
    "field twice": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "b", "n": {"text": 1}, "te\\u0078t": "c"}\n',
        ["the field 'text' is given twice", 'line 2, field "text"'],
    ),
    "field twice within": ("a.jsonl", b'{"text": "a", "meta": [{"k": 1, "k": 1}]}\n', ["'k' is given twice", "line 1"]),
    "field twice in a list": ("a.json", b'[{"text": "a"}, {"text": "b", "text": "c"}]', ["given twice", "line 2"]),
    "field twice in a line": ("a.jsonl", b'[{"text": "a"}, {"text": "b", "text": "c"}]\n', ["given twice", "line 2"]),
    "field twice over lines": ("a.jsonl", b'{\n"text": "b",\n"text": "c"\n}\n', ["given twice", "line 1"]),
    "field twice and broken": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "b", "text": "c", d\n',
        ["broken JSON: Expecting property name", "line 2"],
    ),
    "id twice": ("a.json", b'{"x": {"text": "a"}, "x": {"text": "b"}}', ["two records have the id 'x'"]),
    "cut gzip": ("a.txt.gz", gzip.compress(b"text" * 1000)[:-20], ["gzip data is damaged"]),
    "cut zstandard": ("a.txt.zst", pa.compress(b"text" * 1000, codec="zstd", asbytes=True)[:-5], ["Truncated"]),
    "cut xz": ("a.txt.xz", lzma.compress(b"text" * 1000)[:-20], ["xz data is damaged"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_stops_the_reader_with_its_place_and_a_fix(tmp_path: Path, case: str) -> None:
    name, content, parts = BAD[case]
    with pytest.raises(RecordError) as caught:
        texts(put(tmp_path, name, content))
    for part in [*parts, name, "do:", "--on-bad-record skip"]:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_left_out_and_listed_with_skip(tmp_path: Path, case: str) -> None:
    name, content, parts = BAD[case]
    _, left_out = texts_and_rejects(put(tmp_path, name, content))
    assert len(left_out) == 1
    assert left_out[0].file == name
    assert parts[0] in left_out[0].reason or parts[0] in ("missing",)


def test_records_around_one_with_a_repeated_field_are_read(tmp_path: Path) -> None:
    twice = '{"text": "b", "text": "c"}'
    for name, content in (
        ("a.jsonl", f'{{"text": "a"}}\n{twice}\n{{"text": "d"}}\n'),
        ("b.json", f'[{{"text": "a"}}, {twice}, {{"text": "d"}}]'),
        ("c.jsonl", f'[{{"text": "a"}}, {twice}, {{"text": "d"}}]'),
    ):
        found, left_out = texts_and_rejects(put(tmp_path, name, content))
        assert found == ["a", "d"]
        assert [(reject.line, reject.field) for reject in left_out] == [(2, "text")]


@given(
    st.recursive(
        st.none() | st.text() | st.floats(allow_nan=False), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
    )
)
def test_json_without_repeated_keys_is_read_as_python_reads_it(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert loads(text) == json.loads(text)
        assert find_doubled(MARKING.decode(text)) is None


def test_skipping_keeps_every_sound_record(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n{"text": 1}\nnonsense\n{"text": "\xff"}\n[]\n\n{"text": "b"}\n'
    found, left_out = texts_and_rejects(put(tmp_path, "a.jsonl", content))
    assert found == ["a", "b"]
    assert [(reject.line, reject.field) for reject in left_out] == [(2, "text"), (3, None), (4, None), (5, None)]


def test_skipping_in_csv_keeps_the_records_around(tmp_path: Path) -> None:
    content = b'n,text\n1,"good\nsecond line"\n2,b\xe9d\n3,"bad\n\xe9 in the middle"\n4,x,y\n5,fine\n'
    found, left_out = texts_and_rejects(put(tmp_path, "a.csv", content))
    assert found == ["good\nsecond line", "fine"]
    assert [reject.line for reject in left_out] == [4, 6, 7]


def test_the_error_for_a_csv_without_the_field_names_other_fields(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "title,body\nx,y\n")
    with pytest.raises(CorpusError, match="the fields are: title, body"):
        texts(path)
    with pytest.raises(CorpusError, match="did you mean 'body'"):
        texts(path, "bodi")


def test_the_error_for_a_parquet_file_without_the_field_suggests_another(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"body": ["x"], "label": [3]}), sink)
    path = put(tmp_path, "a.parquet", sink.getvalue())
    assert texts(path) == ["x"]
    with pytest.raises(CorpusError, match="did you mean 'body'"):
        texts(path, "bodi")
    with pytest.raises(RecordError, match="a number, not text"):
        texts(path, "label")


def test_a_table_with_another_separator_is_not_taken_for_one_column(tmp_path: Path) -> None:
    assert texts(put(tmp_path, "a.csv", "id;text\n1;one\n2;two, and more\n")) == ["one", "two, and more"]
    assert texts(put(tmp_path, "b.csv", "id\ttext\n1\tone, and\n2\ttwo\n")) == ["one, and", "two"]
    assert texts(put(tmp_path, "c.tsv", "id,text\n1,one\n2,two\n")) == ["one", "two"]
    with pytest.raises(CorpusError, match="separated by semicolons"):
        texts(put(tmp_path, "d.csv", "id;text\n1\n"))


def test_a_header_that_names_a_field_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="'text' twice"):
        texts(put(tmp_path, "a.csv", "text,text\n1,one\n"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")), min_size=1))
def test_any_text_comes_back_from_csv(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *[[value] for value in values]])
    bad = BadRecords("stop", lambda _: None)
    assert [document.text for document in read_csv(path, "a.csv", None, bad)] == values


def test_a_file_that_cannot_be_opened_is_a_bad_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "a.txt", "text")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    corpus = open_corpus(str(path))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RecordError, match="Permission denied"):
        list(corpus.documents())


def test_a_licence_is_read_without_its_front_matter_and_with_its_language(tmp_path: Path) -> None:
    stop = BadRecords("stop", lambda _: None)
    path = put(tmp_path, "x-1.0.LICENSE", "---\nkey: x-1.0\nlanguage: de\n---\n\nText\n---\nmore\n")
    (document,) = read_licences(path, path.name, None, stop)
    assert document == SourceDocument("x-1.0", "\n\nText\n---\nmore\n", path.name, "de")
    with pytest.raises(RecordError, match="front matter"):
        list(read_licences(put(tmp_path, "y.LICENSE", "Text"), "y.LICENSE", None, stop))


OBO = """format-version: 1.2

[Term]
id: HP:0000001
name: All

[Term]
id: HP:0000003
name: Multicystic kidney dysplasia
def: "Cysts of \\"varying\\" size." [x:1]
comment: Most are unilateral
synonym: "Multicystic kidneys" EXACT []
synonym: "multicystic kidney dysplasia" EXACT []

[Term]
id: HP:0000004
name: obsolete Thing
def: "A thing." []
is_obsolete: true

[Typedef]
id: part_of
def: "No term." []
"""


def test_ontology_terms_become_texts(tmp_path: Path) -> None:
    path = put(tmp_path, "a.obo", OBO)
    (document,) = read_obo(path, "a.obo", None, BadRecords("stop", lambda _: None))
    assert document.id == "HP:0000003"
    assert document.text == (
        "Multicystic kidney dysplasia\n"
        'Cysts of "varying" size. Most are unilateral. Also known as: Multicystic kidneys.'
    )


ICD = """<?xml version="1.0"?><ICD10CM.tabular><chapter><name>1</name><desc>Infections (A00-B99)</desc>
<includes><note>communicable diseases</note></includes>
<section id="A00-A09"><desc>Intestinal (A00-A09)</desc>
<diag><name>A00</name><desc>Cholera</desc><excludes1><note>carrier (Z22.1)</note></excludes1>
<diag><name>A00.0</name><desc>Cholera, biovar cholerae</desc><inclusionTerm><note>Classical cholera</note>
</inclusionTerm><sevenChrDef><extension char="A">initial</extension></sevenChrDef></diag></diag></section></chapter>
</ICD10CM.tabular>"""


def test_the_tabular_list_becomes_chapters_and_categories(tmp_path: Path) -> None:
    path = put(tmp_path, "a.xml", ICD)
    chapter, category = read_icd(path, "a.xml", None, BadRecords("stop", lambda _: None))
    assert (chapter.id, category.id) == ("chapter 1", "A00")
    assert chapter.text == "Chapter 1: Infections (A00-B99)\nIncludes: communicable diseases\n\nIntestinal (A00-A09)"
    assert category.text.splitlines() == [
        "A00 Cholera",
        "Excludes (never coded together): carrier (Z22.1)",
        "A00.0 Cholera, biovar cholerae",
        "Also: Classical cholera",
        "Seventh character: A initial",
    ]
    with pytest.raises(RecordError, match="broken XML"):
        list(read_icd(put(tmp_path, "b.xml", "<a><b>"), "b.xml", None, BadRecords("stop", lambda _: None)))


def test_a_data_set_of_the_hub_is_streamed(tmp_path: Path) -> None:
    """A folder is given instead of an id: `datasets` reads it with the same call."""
    put(tmp_path, "train.jsonl", '{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    corpus = open_corpus(f"hf:{tmp_path}")
    assert [(d.id, d.text) for d in corpus.documents()] == [
        ("train:1", "one"),
        ("train:2", "two"),
        ("train:3", "three"),
    ]
    with pytest.raises(RecordError, match="missing"):
        list(open_corpus(f"hf:{tmp_path}", text_field="body").documents())
    recipe = put(tmp_path / "x", "mine.toml", f'[[sources]]\nkind = "hub"\nid = "{tmp_path}"\ndocuments = 2\n')
    assert len(list(open_corpus(str(recipe)).documents())) == 2
    recipe = put(tmp_path / "x", "mine.toml", f'[[sources]]\nkind = "hub"\nid = "{tmp_path}"\nsplit = "trein"\n')
    with pytest.raises(CorpusError, match="did you mean 'train'"):
        list(open_corpus(str(recipe)).documents())


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_large_parquet_file_is_streamed(tmp_path: Path, prefix: str) -> None:
    """Memory does not grow from row group to row group, and a streamed data set leaves no copy on the disk."""
    source = tmp_path / "source"
    source.mkdir()
    draw = np.random.default_rng(0)
    with pq.ParquetWriter(source / "train.parquet", pa.schema([("text", pa.string())])) as writer:
        for _ in range(16):
            writer.write_table(pa.table({"text": [draw.bytes(4_000).hex() for _ in range(1_000)]}))
    # What Arrow and Python hold is counted, not the process's resident memory: that would also depend on when their
    # allocators return pages.
    script = """
import sys, tracemalloc
import pyarrow
from domain_ft.corpus.corpus import open_corpus

tracemalloc.start()
def held():
    return pyarrow.total_allocated_bytes() + tracemalloc.get_traced_memory()[0]

print(*[held() for i, _ in enumerate(open_corpus(sys.argv[1]).documents()) if i in (4_000, 15_999)])
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "DOMAIN_FT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script, f"{prefix}{source}"], env=environment, capture_output=True, text=True, check=True
    )
    early, late = map(int, done.stdout.split())
    assert late - early < 24_000_000, done.stdout  # three of the twelve groups (96 MB) that are read in between
    copied = sum(file.stat().st_size for name in ("home", "cache") for file in (tmp_path / name).rglob("*.*"))
    assert copied < 1_000_000


def test_a_hub_that_cannot_be_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CorpusError, match="the hub cannot be reached"):
        list(open_corpus("hf:someone/something").documents())


@pytest.mark.parametrize(
    ("kind", "what", "fix"),
    [
        (
            hub_errors.GatedRepoError,
            "'a/b' is gated",
            "https://huggingface.co/datasets/a/b, then log in with your token",
        ),
        (hub_errors.RepositoryNotFoundError, "there is no data set 'a/b' on the hub", "hf auth login"),
        (hub_errors.HFValidationError, "there is no data set 'a/b' on the hub", "check the id"),
        (ConnectionError, "the hub cannot be reached", "check the network"),
    ],
)
def test_errors_of_the_hub_on_a_commit_are_explained(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], what: str, fix: str
) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", raising(kind))
    with pytest.raises(CorpusError) as raised:
        hub_revision(Source(kind="hub", id="a/b"))
    assert what in raised.value.what
    assert fix in str(raised.value.fix)


@pytest.mark.parametrize(
    ("kind", "what", "fix"),
    [
        (
            hub_errors.GatedRepoError,
            "'a/b' is gated",
            "https://huggingface.co/datasets/a/b, then log in with your token",
        ),
        (hub_errors.RepositoryNotFoundError, "there is no data set 'a/b' on the hub", "hf auth login"),
        (hub_errors.RevisionNotFoundError, "the data set has no revision 'c0ffee'", "the hash of a commit"),
    ],
)
def test_errors_of_the_hub_on_a_data_set_are_explained(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], what: str, fix: str
) -> None:
    """`datasets` raises one kind of error for all of these errors of the hub's client."""
    monkeypatch.setattr("datasets.load._raise_if_offline_mode_is_enabled", lambda: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", raising(kind))
    with pytest.raises(CorpusError) as raised:
        open_splits("a/b", None, "c0ffee")
    assert what in raised.value.what
    assert fix in str(raised.value.fix)


def test_the_revision_of_a_parquet_copy_on_the_hub_is_its_own_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set with a loading script is read from its Parquet copy, so its own newest commit does not count."""

    def info(_: Any, identifier: str, revision: str | None = None) -> Any:
        script = identifier.partition("/")[2] if identifier != "some/plain" else "README"
        commit = "data" if revision is None else revision.replace("refs/convert/parquet", "copy")
        return SimpleNamespace(sha=commit, siblings=[SimpleNamespace(rfilename=f"{script}.py")])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    assert hub_revision(Source(kind="hub", id="some/plain")) == "data"
    assert hub_revision(Source(kind="hub", id="some/script")) == "refs/convert/parquet@copy"
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", raising(hub_errors.RevisionNotFoundError))
    with pytest.raises(CorpusError, match="the hub has no Parquet copy of it"):
        hub_revision(Source(kind="hub", id="some/script"))


def test_a_pinned_revision_is_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a data set with a loading script, only revisions of the hub's Parquet copy can be read."""
    asked = []
    real = datasets.load_dataset_builder
    (tmp_path / "main" / "train").mkdir(parents=True)
    datasets.Dataset.from_list([{"text": "a"}]).to_parquet(tmp_path / "main" / "train" / "0000.parquet")

    def of_the_hub(identifier: str, config: str | None = None, revision: str | None = None, **given: Any) -> Any:
        asked.append(revision)
        if revision == "c0ffee":
            raise RuntimeError("Dataset scripts are no longer supported, but found script.py")
        return real(str(tmp_path), **given)

    monkeypatch.setattr(datasets, "load_dataset_builder", of_the_hub)
    with pytest.raises(CorpusError, match="the revision 'c0ffee' has a loading script") as raised:
        open_splits("some/script", "main", "c0ffee")
    assert 'revision = "refs/convert/parquet@COMMIT"' in str(raised.value.fix)
    assert raised.value.where == "hf:some/script:main"
    splits = open_splits("some/script", "main", "refs/convert/parquet@beef")
    assert list(splits["train"]) == [{"text": "a"}]
    assert asked == ["c0ffee", "beef"]


def raising(kind: type[Exception]) -> Callable[..., None]:
    """A function that raises an error as the hub's client does."""

    def fail(*_: Any, **__: Any) -> None:
        if issubclass(kind, hub_errors.HfHubHTTPError):
            response: Any = SimpleNamespace(headers={}, request=None, status_code=403)
            raise kind("no", response=response)
        raise kind("no")

    return fail


def test_listing_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file or folder"):
        list_files(tmp_path / "absent")
