"""The kind of a finding follows from words in a reader's message. For each kind there is a file with such a fault.

These tests fail if a message is reworded so that its kind is no longer recognised.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from domain_ft.corpus.checks.items import _KINDS, Rejections, _matched_fragment, example_items, tag_items, text_items
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tasks.fields import FieldNames

SOUND = {"text": "Flu is an illness.", "label": "yes"}


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def tagged(*tags: str) -> bytes:
    """A record for each string of tags."""
    return lines(*({"tokens": ["word"] * len(one.split()), "tags": one.split()} for one in tags))


def spans(*entities: Any, text: str = "Aspirin 5 mg") -> bytes:
    return lines(*({"text": text, "entities": [entity]} for entity in entities))


DRUG = {"start": 0, "end": 7, "label": "Drug"}

LISTS = lines(*(SOUND | {"label": labels} for labels in (["yes"], ["no"], ["yes", "no"])))

# What finds the fault, the words in its message, its kind, the name of the file, and the content of the file.
FILES = [
    ("text", "broken", "broken-record", "a.jsonl", lines(SOUND) + b'{"text": "a"\n'),
    ("text", "broken", "broken-record", "a.json", b'[{"text": "a"]'),
    ("text", "broken", "broken-record", "a.csv", b'text,label\na,b\n"a,b\n'),
    ("text", "zero byte", "broken-record", "a.jsonl", b'{"text": "\0"}\n'),
    ("text", "zero byte", "broken-record", "a.jsonl", lines(SOUND) + b'{"text": "\0"}\n'),
    ("text", "UTF-8", "not-utf8", "a.jsonl", b'{"text": "caf\xe9 noir"}\n'),
    ("text", "UTF-8", "not-utf8", "a.jsonl", '{"text": "café"}\n'.encode("utf-16")),
    ("utf-16", "UTF-16", "not-utf8", "a.jsonl", '{"text": "café"}\n'.encode("utf-16-le")[:-1]),
    ("text", "field is missing", "missing-field", "a.jsonl", lines(SOUND, {"label": "no"})),
    ("examples", "field is missing", "missing-field", "a.jsonl", lines(SOUND, {"text": "a"})),
    ("tags", "field is missing", "missing-field", "a.jsonl", spans(DRUG) + lines({"text": "Aspirin"})),
    ("text", "the file is empty", "empty-file", "a.jsonl", b""),
    ("text", "the file is empty", "empty-file", "a.txt", b""),
    ("text", "no records", "empty-file", "a.csv", b"text,label\n"),
    ("text", "is empty", "empty-text", "a.jsonl", lines(SOUND, {"text": " "})),
    ("examples", "is empty", "empty-text", "a.jsonl", lines(SOUND, SOUND | {"text": " "})),
    ("examples", "empty or wrong cell", "empty-text", "a.jsonl", lines(SOUND, SOUND | {"text": "NaN"})),
    ("examples", "there is no label", "no-label", "a.jsonl", lines(SOUND, SOUND | {"label": ""})),
    ("text", "the field holds", "wrong-type", "a.jsonl", lines(SOUND, {"text": 3})),
    ("examples", "the field holds", "wrong-type", "a.jsonl", lines(SOUND, SOUND | {"label": ["broken"]})),
    ("examples", "the field holds", "wrong-type", "a.jsonl", LISTS + lines(SOUND | {"label": "broken"})),
    ("tags", "the field holds", "wrong-type", "a.jsonl", spans(DRUG) + lines({"text": "Aspirin", "entities": 3})),
    ("text", "an object is", "broken-record", "a.jsonl", lines(SOUND, 3)),
    ("tags", "an object is", "broken-record", "a.jsonl", spans(DRUG) + lines(3)),
    ("text", "fields, where the header", "broken-record", "a.csv", b"text,label\na,b\nc,d,e\n"),
    ("text", "repeats the header", "broken-record", "a.csv", b"text,label\na,b\ntext,label\nc,d\n"),
    ("tags", "column", "broken-record", "a.conll", b"Aspirin B-D\n5 O\nmg O O O\n"),
    ("tags", "column", "broken-record", "a.conll", b"Aspirin B-D\n5 O\nmg\n"),
    ("tags", "differ only in case", "label-spelling", "a.jsonl", spans(DRUG, DRUG | {"label": "drug"})),
    ("tags", "the text of a span is", "contradicting-span", "a.jsonl", spans(DRUG | {"end": 6, "text": "Aspirin"})),
    ("tags", "span", "bad-span", "a.jsonl", spans(DRUG, "Pos")),
    ("tags", "is not a tag", "bad-tag", "a.jsonl", tagged("B-D I-D O", "X O")),
    ("tags", "an entity begins with", "bad-tag", "a.jsonl", tagged("B-D I-D O", "B-D B-D", "O I-D")),
    ("tags", "is not ended", "bad-tag", "a.jsonl", tagged("B-D E-D O", "S-D O", "B-D O")),
    ("tags", "tag", "bad-tag", "a.jsonl", lines({"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": [None]})),
]  # fmt: skip


@pytest.mark.parametrize(("finder", "words", "kind", "name", "content"), FILES)
def test_each_fault_has_its_kind(tmp_path: Path, finder: str, words: str, kind: str, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    rejections = Rejections(encoding="utf-16-le" if finder == "utf-16" else None)
    if finder == "examples":
        items = example_items(path, name, FieldNames("text", "label"), rejections.bad)
    elif finder == "tags":
        items = tag_items(path, name, TagFields(), rejections.bad, LeftOut())
    else:
        items = text_items(path, name, "text", rejections.bad)
    list(items)
    found = rejections.take()
    assert {(one.kind, _matched_fragment(one.message)) for one in found} == {(kind, words)}


def test_every_entry_of_the_table_of_kinds_has_a_file() -> None:
    assert {words: kind for _, words, kind, *_ in FILES} == _KINDS


def test_words_quoted_from_the_file_do_not_decide_the_kind() -> None:
    """A label may be called `broken`, a tag `span`, and a field `tag`."""
    assert (
        _matched_fragment("the field holds 'broken', where the other records hold lists of labels") == "the field holds"
    )
    assert _matched_fragment('"span" is not a tag') == "is not a tag"
    assert _matched_fragment("the field 'tag' is given twice in one object") is None
