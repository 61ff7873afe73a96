"""Spans whose text differs from the text at their offsets: the cause is found, and every way to count can be read."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.annotation_tools import are_labelled_spans
from domain_ft.corpus.checks.checking import Checker
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.corpus.tagging.entities import Span, TaggedText
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.offsets import Counting, to_characters
from domain_ft.corpus.tagging.reading import read_tagged
from domain_ft.errors import RecordError

TEXTS = ("😀 Gib Aspirin jetzt", "é😀😀 Aspirin und\nHeparin", "Aspirin hilft")


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path, offsets: Counting = "characters") -> list[TaggedText]:
    fields = TagFields(offsets=offsets)
    return read_tagged(path, path.name, fields, None, BadRecords("stop", lambda _: None))[0]


def counted(text: str, start: int, end: int, counting: str) -> tuple[int, int]:
    """The offsets of the characters [start, end) as a tool counts them."""
    units = {"utf16": lambda part: len(part.encode("utf-16-le")) // 2, "bytes": lambda part: len(part.encode())}
    if counting in units:
        return units[counting](text[:start]), units[counting](text[:end])
    base, inclusive = "one-based" in counting, "inclusive" in counting
    return start + base, end + base - inclusive


def records(counting: str) -> list[dict[str, Any]]:
    made = []
    for text in TEXTS:
        start, end = counted(text, text.index("Aspirin"), text.index("Aspirin") + 7, counting)
        made.append({"text": text, "entities": [{"start": start, "end": end, "label": "Drug", "text": "Aspirin"}]})
    return made


@pytest.mark.parametrize(
    ("counting", "words"),
    [
        ("utf16", "UTF-16 units"),
        ("bytes", "UTF-8 bytes"),
        ("one-based", "counted from 1"),
        ("inclusive", "the end is inclusive"),
        ("one-based-inclusive", "counted from 1, and the end is inclusive"),
    ],
)
def test_the_cause_is_named_and_its_option_reads_the_file(tmp_path: Path, counting: Counting, words: str) -> None:
    path = write(tmp_path / "a.jsonl", *records(counting))
    with pytest.raises(RecordError, match=words) as caught:
        read(path)
    message = str(caught.value)
    assert 'a.jsonl, line 1, field "entities[0]"' in message
    assert f"--span-offsets {counting}" in message
    assert message.count("if so") == 1
    assert [[text.text[s.start : s.end] for s in text.spans] for text in read(path, counting)] == [["Aspirin"]] * 3


@pytest.mark.parametrize(
    ("text", "counted_in", "words"),
    [
        ("a\nb\nAspirin", "a\r\nb\r\nAspirin", "two characters (CR LF)"),
        ("a\r\nb\r\nAspirin", "a\nb\nAspirin", "one character at the end of each line"),
        ("cafe\u0301 e\u0301 Aspirin", "café é Aspirin", "in the NFC form"),
        ("café é Aspirin", "cafe\u0301 e\u0301 Aspirin", "in the NFD form"),
        ("a & b: Aspirin", "a &amp; b: Aspirin", "with HTML escapes"),
        ("  \n Aspirin", "Aspirin", "without the white space at the beginning"),
    ],
)
def test_offsets_in_another_form_of_the_text_are_explained(
    tmp_path: Path, text: str, counted_in: str, words: str
) -> None:
    start = counted_in.index("Aspirin")
    span = {"start": start, "end": start + 7, "label": "Drug", "text": "Aspirin"}
    with pytest.raises(RecordError) as caught:
        read(write(tmp_path / "a.jsonl", {"text": text, "entities": [span]}))
    assert words in str(caught.value)


def test_the_cause_that_explains_most_spans_is_named_for_each(tmp_path: Path) -> None:
    """No cause explains the fourth of the wrong spans."""
    odd = {"text": "no such word", "spans": [{"start": 0, "end": 2, "label": "Drug", "text": "Heparin"}]}
    path = write(tmp_path / "a.jsonl", *records("inclusive"), odd, {"text": "Heparin", "entities": [[0, 7, "Drug"]]})
    rejects: list[Reject] = []
    found, _ = read_tagged(path, path.name, TagFields(), None, BadRecords("skip", rejects.append))
    assert [text.text for text in found] == ["Heparin"]
    assert [(reject.line, reject.field) for reject in rejects] == [
        (1, "entities[0]"),
        (2, "entities[0]"),
        (3, "entities[0]"),
        (4, "spans[0]"),
    ]
    assert all("the end is inclusive (explains 3 of 4 wrong spans)" in r.reason for r in rejects)


def border_notes_of(path: Path, counting: str, text: str = "Gib {} jetzt", drug: str = "Aspirin") -> list[str]:
    records = []
    for number in range(8):
        whole = f"{number} " + text.format(drug)
        start = whole.index(drug)
        records.append({"text": whole, "entities": [[*counted(whole, start, start + len(drug), counting), "Drug"]]})
    notes: list[str] = []
    read_tagged(write(path, *records), path.name, TagFields(), None, BadRecords("stop", lambda _: None), notes=notes)
    return notes


@pytest.mark.parametrize(
    ("counting", "cause"),
    [
        ("inclusive", "the end is inclusive"),
        ("one-based", "counted from 1"),
        ("one-based-inclusive", "counted from 1, and the end is inclusive"),
    ],
)
def test_a_note_explains_offsets_that_cut_words(tmp_path: Path, counting: str, cause: str) -> None:
    (note,) = border_notes_of(tmp_path / "a.jsonl", counting)
    assert "most entities begin or end inside a word (8 of 8)" in note
    assert f"likely cause: {'offsets are ' * cause.startswith('counted')}{cause}" in note
    assert f"--span-offsets {counting}" in note
    assert border_notes_of(tmp_path / "b.jsonl", "characters") == []


def test_no_words_are_cut_in_japanese_and_korean(tmp_path: Path) -> None:
    assert border_notes_of(tmp_path / "a.jsonl", "characters", "患者は{}を服用", "アスピリン") == []
    assert border_notes_of(tmp_path / "b.jsonl", "characters", "환자가 {}을 먹었다", "아스피린") == []


def test_without_a_cause_the_right_place_is_named(tmp_path: Path) -> None:
    span = {"start": 0, "end": 4, "label": "Drug", "text": "Aspirin"}
    with pytest.raises(RecordError, match=r"it is at \[9, 16\)"):
        read(write(tmp_path / "a.jsonl", {"text": "Give the Aspirin", "entities": [span]}))


def test_differences_in_case_white_space_and_unicode_form_are_no_contradiction(tmp_path: Path) -> None:
    text = "Lung\ncancer, cafe\u0301"
    spans = [
        {"start": 0, "end": 11, "label": "D", "text": "lung cancer"},
        {"start": 13, "end": 18, "label": "D", "text": unicodedata.normalize("NFC", "cafe\u0301")},
    ]
    (found,) = read(write(tmp_path / "a.jsonl", {"text": text, "entities": spans}))
    assert found.spans == (Span(0, 11, "D"), Span(13, 18, "D"))


@given(
    st.text(max_size=12),
    st.data(),
    st.sampled_from(["characters", "utf16", "bytes", "one-based", "inclusive", "one-based-inclusive"]),
)
def test_offsets_counted_in_every_way_are_converted_to_characters(
    text: str, data: st.DataObject, counting: Counting
) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert to_characters(text, *counted(text, start, end, counting), counting) == (start, end)


def test_an_offset_inside_a_character_or_outside_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="inside a character"):
        to_characters("😀a", 1, 2, "utf16")
    with pytest.raises(ValueError, match="is outside the text"):
        to_characters("a", 0, 5, "bytes")


def spans_under(key: str, shift: int = 0, count: int = 4) -> list[dict[str, Any]]:
    """Records whose span repeats its text under `key`, and ends `shift` characters too early."""
    made = []
    for number in range(count):
        text = f"Patient {'x' * number} takes Aspirin daily"
        start = text.index("Aspirin")
        made.append(
            {"text": text, "entities": [{"start": start, "end": start + 7 - shift, "label": "D", key: "Aspirin"}]}
        )
    return made


@pytest.mark.parametrize("key", ["surface", "value", "content", "string", "word", "entity_text", "anything"])
def test_a_spans_text_is_recognised_under_any_key(tmp_path: Path, key: str) -> None:
    left = LeftOut()
    path = write(tmp_path / "a.jsonl", *spans_under(key))
    found, _ = read_tagged(path, path.name, TagFields(), None, BadRecords("stop", print), left=left)
    assert [text.text[s.start : s.end] for text in found for s in text.spans] == ["Aspirin"] * 4
    assert left.fields == {}  # the key is read, for the comparison
    with pytest.raises(RecordError, match="the end is inclusive"):
        read(write(tmp_path / "a.jsonl", *spans_under(key, shift=1)))
    with pytest.raises(RecordError, match=r"the text of a span is 'Aspirin', but the text at \[15, 21\)") as caught:
        read(write(tmp_path / "a.jsonl", *spans_under(key), spans_under(key, shift=1, count=1)[0]))
    assert "a.jsonl, line 5" in str(caught.value)


def test_a_spans_text_is_recognised_if_all_offsets_are_shifted(tmp_path: Path) -> None:
    records = spans_under("value")
    for record in records:
        record["text"] = "Some lines that were added later. " + record["text"]
    with pytest.raises(RecordError, match=r"it is at \[49, 56\)"):
        read(write(tmp_path / "a.jsonl", *records))


def test_a_spans_text_is_compared_with_span_offsets_too(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="the text of a span is 'Aspirin'"):
        read(write(tmp_path / "a.jsonl", *spans_under("value")), "one-based")


def test_other_keys_of_spans_are_counted_as_unread_and_not_compared(tmp_path: Path) -> None:
    more = {"norm": "acetylsalicylic acid", "form": "tablet", "confidence": 0.5, "source": None}
    records = [{**one, "entities": [{**one["entities"][0], **more}]} for one in spans_under("value")]
    path, left = write(tmp_path / "a.jsonl", *records), LeftOut()
    found, _ = read_tagged(path, path.name, TagFields(), None, BadRecords("stop", print), left=left)
    assert [text.text[s.start : s.end] for text in found for s in text.spans] == ["Aspirin"] * 4
    assert left.fields == {f"entities[].{key}": 4 for key in more}
    file, rejections = CheckedFile.open(str(path), "auto", Fields()), Rejections()
    unread = LeftOut()
    result = Checker().check(file.items(rejections.bad, unread), rejections, unread)
    assert result.statistics["unread_fields"] == left.fields


@pytest.mark.parametrize(
    ("records", "chosen", "unread"),
    [
        ([{"entities": [[0, 3, "A"]], "spans": [[4, 7, "B"]]}, {"entities": [], "spans": [[4, 7, "B"]]}], "A", "spans"),
        ([{"spans": [[0, 3, "A"]], "label": [[4, 7, "B"]]}, {"spans": [], "label": []}], "A", "label"),
        ([{"label": ["news"], "spans": [[0, 3, "A"]]}, {"label": ["news"], "spans": []}], "A", "label"),
        ([{"entities": [], "spans": [[0, 3, "A"]]}, {"entities": [], "spans": []}], "A", "entities"),
        ([{"gold": [[0, 3, "A"]], "label": []}, {"gold": [], "label": []}], "A", "label"),
    ],
)
def test_one_of_several_span_lists_is_read_in_the_whole_file(
    tmp_path: Path, records: list[dict[str, Any]], chosen: str, unread: str
) -> None:
    path = write(tmp_path / "a.jsonl", *({"text": "one two", **record} for record in records))
    left, notes = LeftOut(), list[str]()
    found, _ = read_tagged(path, path.name, TagFields(), None, BadRecords("stop", print), left=left, notes=notes)
    assert [[span.label for span in text.spans] for text in found] == [[chosen], []]
    assert left.fields == {unread: 2}
    two_lists = [name for name in records[0] if are_labelled_spans(records[0][name])]
    assert len(notes) == len(two_lists) - 1
    if notes:
        assert f"read from '{two_lists[0]}'; other lists of spans are not read: '{two_lists[1]}'" in notes[0]


def test_tags_of_words_are_preferred_to_lists_of_spans(tmp_path: Path) -> None:
    record = {"tokens": ["one", "two"], "tags": ["B-A", "O"], "entities": [[4, 7, "B"]], "text": "one two"}
    path, left, notes = write(tmp_path / "a.jsonl", record), LeftOut(), list[str]()
    found, _ = read_tagged(path, path.name, TagFields(), None, BadRecords("stop", print), left=left, notes=notes)
    assert [span.label for text in found for span in text.spans] == ["A"]
    assert left.fields == {"entities": 1, "text": 1}
    assert notes == ["the entities are read from the tags of the words, not from the lists of spans: 'entities' (1)"]


def test_other_keys_of_entities_in_knowledge_bases_are_counted_as_unread(tmp_path: Path) -> None:
    passage = {"id": "p", "type": "title", "text": ["Aspirin helps"], "offsets": [[0, 13]]}
    entity = {"id": "e", "type": "Drug", "text": ["Aspirin"], "offsets": [[0, 7]], "normalized": []}
    path, left = write(tmp_path / "a.jsonl", {"id": "1", "passages": [passage], "entities": [entity]}), LeftOut()
    found, _ = read_tagged(path, path.name, TagFields(id="id"), None, BadRecords("stop", print), left=left)
    assert [text.spans for text in found] == [(Span(0, 7, "Drug"),)]
    assert left.fields == {"entities[].normalized": 1}
