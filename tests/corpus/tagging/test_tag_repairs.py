"""Cleaned copies of files with entities: tags and spans stay with their words, and nothing else changes."""

from __future__ import annotations

import gzip
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain_ft.corpus.checks.checking import Checker, CheckResult
from domain_ft.corpus.checks.items import Rejections
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.checks.private import Hit, PrivateData
from domain_ft.corpus.checks.repairs import repair
from domain_ft.corpus.checks.tag_repairs import fix_record
from domain_ft.corpus.readers.base import BadRecords, RawRecord
from domain_ft.corpus.tagging.conll import Layout, columns_of, conll_blocks
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.opening import TaggingSource, open_tagging
from domain_ft.corpus.tagging.reading import read_tagged
from domain_ft.errors import CorpusError

STRICT = BadRecords("stop", lambda _: None)


def checked(path: Path, test: Path | None = None) -> CheckResult:
    """The result of checking a file with entities."""
    rejections = Rejections()
    copies = CheckedFile.open(str(test), "tags", Fields()).copies() if test else None
    file = CheckedFile.open(str(path), "tags", Fields())
    return Checker(private=PrivateData(), test=copies).check(file.items(rejections.bad), rejections)


def repaired(path: Path, output: Path, test: Path | None = None) -> list[dict[str, Any]]:
    """Write a copy, assert that it has no errors, and return the list of changes."""
    repair(CheckedFile.open(str(path), "tags", Fields()), checked(path, test), output, PrivateData(), "en")
    assert [finding for finding in checked(output, test).errors if finding.kind != "empty-file"] == []
    assert {file.name for file in output.parent.iterdir() if file.name.endswith(".part")} == set()
    return read_lines(output.with_name(f"{output.name}.changes.jsonl"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, *records: Any) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def entities(path: Path) -> list[list[tuple[str, str]]]:
    """The entities of each text of a file, as (text, type)."""
    texts, _ = read_tagged(path, path.name, TagFields(), None, STRICT)
    return [[(text.text[span.start : span.end], span.label) for span in text.spans] for text in texts]


class TestColumns:
    def test_all_but_the_words_stays_byte_for_byte(self, tmp_path: Path) -> None:
        path, clean = tmp_path / "train.conll", tmp_path / "clean.conll"
        path.write_bytes(
            "-DOCSTART- -X- O O\n\n"
            "Ada  NNP  _ B-PER\ncafÃ©s NNS _ O \n\n\n"
            "Mail   Mail _ O\n  jane@example.org jane@example.org NN B-MAIL\r\n\r\n"
            "東京\tNN\t_\tB-LOC\nの\tNN\t_\tO\n😀 😀\tNN\t_\tO\n(+1\tCD\t_\tB-TEL\n202-555-0143)\tCD\t_\tI-TEL".encode()
        )
        changes = repaired(path, clean)
        assert clean.read_bytes().decode() == (
            "-DOCSTART- -X- O O\n\n"
            "Ada  NNP  _ B-PER\ncafés NNS _ O \n\n\n"
            "Mail   Mail _ O\n  [EMAIL] [EMAIL] NN B-MAIL\r\n\r\n"
            "東京\tNN\t_\tB-LOC\nの\tNN\t_\tO\n😀 😀\tNN\t_\tO\n([PHONE]\tCD\t_\tB-TEL\n[PHONE])\tCD\t_\tI-TEL"
        )
        assert [(change["line"], change["kind"], change["change"]) for change in changes] == [
            (4, "mojibake", "fixed"),
            (8, "personal-email", "masked: [EMAIL]"),
            (13, "personal-phone", "masked: [PHONE]"),
            (14, "personal-phone", "masked: [PHONE]"),
        ]
        assert entities(clean)[2] == [("東京", "LOC"), ("([PHONE] [PHONE])", "TEL")]

    def test_a_whole_sentence_is_left_out_and_listed_once_with_its_first_line(self, tmp_path: Path) -> None:
        path, clean = tmp_path / "train.txt", tmp_path / "clean.txt"
        path.write_bytes(
            b"\xef\xbb\xbfAda B-PER\nwrites O\n\n"
            b"one O\ntwo I-PER\nthree I-LOC\n\n"  # 4: tags
            b"-DOCSTART- O\n\n"
            b"four O\ncaf\xe9 O\nfive too many columns O\n\n"  # 10: not UTF-8
            b"six too many O\nseven\n\n\n"  # 14: columns
            b"-DOCSTART- O\n"
            b"Ada B-PER\nwrites O\n\n"  # 19: a copy
            b"Ada B-PER\nwrites B-WORK\n\n"  # with other entities: which are right is not known
            b"Bob B-PER\nreads O"
        )
        changes = repaired(path, clean)
        assert clean.read_text(encoding="utf-8") == (
            "Ada B-PER\nwrites O\n\n-DOCSTART- O\n\n-DOCSTART- O\nAda B-PER\nwrites B-WORK\n\nBob B-PER\nreads O"
        )
        assert [(change["line"], change["kind"]) for change in changes] == [
            (1, "byte-order-mark"),
            (4, "bad-tag"),
            (10, "not-utf8"),
            (14, "broken-record"),
            (19, "duplicate"),
        ]
        assert all(change["change"].startswith("left out") for change in changes)

    def test_near_copies_with_the_same_types_and_rows_of_the_test_file_are_left_out(self, tmp_path: Path) -> None:
        words = [f"word{number}" for number in range(40)]

        def sentence(*tagged: str) -> str:
            tags = dict(part.split("/") for part in tagged)
            return "".join(f"{word} {tags.get(word, 'O')}\n" for word in words) + "\n"

        first, other = sentence("word3/B-A"), sentence("word3/B-B").replace("word20", "else")
        near = sentence("word3/B-A").replace("word30", "more")
        leaked = "Lyon B-A\nis O\nhere O\n\n"
        path, test = tmp_path / "train.txt", tmp_path / "test.txt"
        path.write_text(first + other + near + leaked)
        test.write_text(leaked)
        changes = repaired(path, tmp_path / "clean.txt", test)
        assert (tmp_path / "clean.txt").read_text() == first + other
        assert [(change["line"], change["kind"]) for change in changes] == [
            (83, "near-duplicate"),
            (124, "leaked-test-row"),
        ]

    def test_open_tagging_reads_the_copy_of_a_compressed_file(self, tmp_path: Path) -> None:
        path, clean = tmp_path / "train.conll.gz", tmp_path / "clean.conll"
        rows = [f"Name{number} B-PER\nlives O\nin O\nTown{number} B-LOC\n\n" for number in range(20)]
        rows.insert(5, "broken I-PER\n\n")
        path.write_bytes(gzip.compress("".join(rows).encode()))
        assert [change["line"] for change in repaired(path, clean)] == [26]
        data = open_tagging(TaggingSource(train=str(clean)))
        assert data.types == ("LOC", "PER")
        assert sum(map(len, data.splits.values())) == 20
        assert entities(clean) == [[(f"Name{number}", "PER"), (f"Town{number}", "LOC")] for number in range(20)]

    def test_the_copy_must_have_the_ending_of_the_file(self, tmp_path: Path) -> None:
        for name, wrong, ending in (("a.conll", "b.jsonl", ".conll"), ("a.txt.gz", "b.gz", ".txt")):
            data = b"Ada B-PER\n"
            (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
            with pytest.raises(CorpusError, match=f"has to end in {ending}"):
                repaired(tmp_path / name, tmp_path / wrong)
        (tmp_path / "train").write_bytes(b"Ada B-PER\n")
        with pytest.raises(CorpusError, match="no ending"):
            repaired(tmp_path / "train", tmp_path / "clean.txt")
        assert repaired(tmp_path / "train", tmp_path / "clean") == []
        assert (tmp_path / "clean").read_bytes() == b"Ada B-PER\n"

    def test_the_scheme_is_detected_again_without_left_out_sentences(self, tmp_path: Path) -> None:
        path, clean = tmp_path / "train.conll", tmp_path / "clean.conll"
        # Two of the three entities make it IOB1. Without the duplicate, it is IOB2.
        path.write_text("Ada I-PER\nsings O\n\nAda I-PER\nsings O\n\nBob B-PER\n")
        changes = repaired(path, clean)
        assert clean.read_text() == "Bob B-PER\n"
        assert [(change["line"], change["kind"]) for change in changes] == [(1, "bad-tag"), (4, "duplicate")]

    def test_an_error_leaves_no_partial_file(self, tmp_path: Path) -> None:
        class Broken(PrivateData):
            def find(self, text: str, language: str | None = None) -> list[Hit]:
                if "Bob" in text:
                    raise OSError("the disk is full")
                return []

        path = tmp_path / "train.txt"
        path.write_text("Ada B-PER\n\nBob B-PER\n")
        with pytest.raises(OSError, match="full"):
            repair(CheckedFile.open(str(path), "tags", Fields()), checked(path), tmp_path / "clean.txt", Broken(), None)
        assert [file.name for file in tmp_path.iterdir()] == ["train.txt"]

    def test_a_word_that_would_become_blank_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "train.txt"
        path.write_text("Ã\u00a0 O\nÂ\u00a0 O\nLyon B-LOC\n", encoding="utf-8")
        repaired(path, tmp_path / "clean.txt")
        assert (tmp_path / "clean.txt").read_text(encoding="utf-8") == "à O\nÂ\u00a0 O\nLyon B-LOC\n"


class TestRecords:
    @pytest.mark.parametrize("name", ["train.jsonl", "train.ndjson", "train.json", "train.jsonl.gz", "train.parquet"])
    def test_words_are_fixed_and_tags_stay(self, tmp_path: Path, name: str) -> None:
        rows = [
            {"id": 7, "tokens": ["Mail", "jane@example.org", "à", "東京"], "ner_tags": ["O", "B-M", "O", "B-L"]},
            {"id": 8, "tokens": ["in", "cafÃ©", "😀"], "ner_tags": ["O", "B-L", "O"]},
            {"id": 9, "tokens": ["a", "b"], "ner_tags": ["O"]},
            {"id": 10, "tokens": ["in", "cafÃ©", "😀"], "ner_tags": ["O", "B-L", "O"]},
        ]
        path = tmp_path / name
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            write_lines(path, *rows)
            if path.suffix == ".gz":
                path.write_bytes(gzip.compress(path.read_bytes()))
        changes = repaired(path, tmp_path / "clean.jsonl")
        assert read_lines(tmp_path / "clean.jsonl") == [
            {**rows[0], "tokens": ["Mail", "[EMAIL]", "à", "東京"]},
            {**rows[1], "tokens": ["in", "café", "😀"]},
        ]
        assert [(change["line"], change["field"], change["kind"]) for change in changes] == [
            (1, "tokens[1]", "personal-email"),
            (2, "tokens[1]", "mojibake"),
            (3, None, "bad-tag"),
            (4, None, "duplicate"),
        ]
        with pytest.raises(CorpusError, match=r"has to end in \.jsonl"):
            repaired(path, tmp_path / "clean.txt")

    def test_spans_move_with_the_text(self, tmp_path: Path) -> None:
        text = "😀 jane@example.org wohnt im cafÃ© Zürich, +1 202-555-0143."
        named = [
            {"start": text.index(part), "end": text.index(part) + len(part), "label": "X", "text": part, "sure": 1}
            for part in ("jane@example.org", "cafÃ©", "Zürich", "+1 202", "-555-0143")
        ]
        rows = [
            {"text": text, "entities": named, "by": "jane@example.org"},
            {"text": "😀 東京の a@example.org です、京都", "entities": [[2, 4, "LOC"], [23, 25, "LOC"]]},
            {"text": "too short", "entities": [[0, 10, "LOC"]]},
        ]
        changes = repaired(write_lines(tmp_path / "train.jsonl", *rows), tmp_path / "clean.jsonl")
        first, second = read_lines(tmp_path / "clean.jsonl")
        assert first["text"] == "😀 [EMAIL] wohnt im café Zürich, [PHONE][PHONE]."
        assert second == {"text": "😀 東京の [EMAIL] です、京都", "entities": [[2, 4, "LOC"], [17, 19, "LOC"]]}
        assert first["by"] == "jane@example.org"
        assert all(span["text"] == first["text"][span["start"] : span["end"]] for span in first["entities"])
        assert [span["sure"] for span in first["entities"]] == [1] * 5
        parts = ("[EMAIL]", "café", "Zürich", "[PHONE]", "[PHONE]")
        assert entities(tmp_path / "clean.jsonl")[0] == [(part, "X") for part in parts]
        assert [(change["line"], change["field"], change["change"]) for change in changes][:2] == [
            (1, "text", "fixed"),
            (1, "text", "masked: [EMAIL]"),
        ]

    def test_a_lone_surrogate_does_not_move_a_span_off_its_text(self, tmp_path: Path) -> None:
        row = {"text": "A\ud83d word, \ud83d", "entities": [[3, 7, "X"], [9, 10, "Y"]]}
        path = tmp_path / "train.jsonl"
        path.write_text(json.dumps(row) + "\n")
        repaired(path, tmp_path / "clean.jsonl")
        assert entities(tmp_path / "clean.jsonl") == [[("word", "X"), ("\ufffd", "Y")]]


ALPHABET = "ab1.@ \n東の😀\u0301"


@st.composite
def marked_texts(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]], list[Hit]]:
    """A text, spans of it that do not overlap and hold more than white space, and hits that do not overlap."""
    text = draw(st.text(ALPHABET, min_size=1, max_size=40))

    def ranges(most: int) -> list[tuple[int, int]]:
        places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=2 * most)))
        return list(zip(places[::2], places[1::2], strict=False))

    spans = [place for place in ranges(5) if text[slice(*place)].strip()]
    return text, spans, [Hit(*place, "personal-phone", "") for place in ranges(5)]


def masked_text(text: str, start: int, end: int, hits: Sequence[Hit]) -> str:
    """`text[start:end]` with each part of a hit replaced by a mark, except white space at the ends of the part."""
    found = ""
    of = [
        next((number for number, hit in enumerate(hits) if hit.start <= place < hit.end), None)
        for place in range(len(text))
    ]
    for hit, places in itertools.groupby(range(start, end), key=of.__getitem__):
        part = "".join(text[place] for place in places)
        found += part if hit is None or not part.strip() else part.replace(part.strip(), "[PHONE]")
    return found


@given(marked_texts())
def test_a_span_covers_its_own_masked_text(marked: tuple[str, list[tuple[int, int]], list[Hit]]) -> None:
    text, spans, hits = marked
    record = {"text": text, "spans": [[start, end, f"L{number}"] for number, (start, end) in enumerate(spans)]}

    def find(joined: str) -> list[Hit]:
        assert joined == text
        return hits

    fields = fix_record(RawRecord(1, record), TagFields(), find, lambda *_: None)
    assert [fields["text"][start:end] for start, end, _ in fields["spans"]] == [
        masked_text(text, start, end, hits) for start, end in spans
    ]
    assert [label for *_, label in fields["spans"]] == [f"L{number}" for number in range(len(spans))]
    ends = [0, *itertools.chain(*((start, end) for start, end, _ in fields["spans"])), len(fields["text"])]
    assert ends == sorted(ends)  # no spans overlap
    cuts = [0, *itertools.chain(*spans), len(text)]
    assert fields["text"] == "".join(masked_text(text, *pair, hits) for pair in itertools.pairwise(cuts))


@pytest.mark.parametrize("key", ["label", "labels", "type", "entity_group"])
def test_a_label_that_is_the_text_in_another_case_stays(key: str) -> None:
    span = {"start": 2, "end": 6, key: "DRUG", "mention": "Drug"}
    record = RawRecord(1, {"text": "A drug.", "entities": [span]})
    fields = fix_record(record, TagFields(), lambda _: (), lambda *_: None)
    assert fields["entities"] == [{"start": 2, "end": 6, key: "DRUG", "mention": "drug"}]


WORDS = st.text("ab.東の😀É-", min_size=1, max_size=4)


@given(
    WORDS, st.lists(WORDS, max_size=2), st.sampled_from(["O", "B-X"]), st.sampled_from([" ", "  ", "\t", " \t"]), WORDS
)
def test_with_word_changes_only_the_word_of_a_line(
    word: str, others: list[str], tag: str, blank: str, new: str
) -> None:
    line = blank.strip("\t") + blank.join([word, *others, tag]) + "\r\n"
    layout = Layout(2 + len(others))
    columns = columns_of(layout.with_word(line, new).rstrip("\r\n"))
    assert columns == [new if column == word else column for column in (word, *others)] + [tag]
    assert layout.with_word(line, word) == line


@given(
    st.lists(st.sampled_from(["a O", "b\tB-X", "", " ", "\r", "-DOCSTART- O", "\ufeff", "é"]), max_size=12),
    st.booleans(),
)
def test_the_blocks_of_a_file_contain_all_its_lines(lines: list[str], ends: bool) -> None:
    text = "\n".join(["first O", *lines]) + "\n" * ends
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.conll"
        path.write_bytes(text.encode())
        blocks = list(conll_blocks(path, "a.conll", STRICT))
    assert (
        "".join(str(line) for block in blocks for line in [*(line for _, line in block.sentence), *block.after]) == text
    )
    assert all(block.sentence for block in blocks)


PARTS = [
    b"Ada B-PER\n",
    b"Ada I-PER\n",
    b"Bob I-PER\n",
    b"in O\n",
    b"Lyon S-LOC\n",
    b"jane@example.org O\n",
    b"caf\xe9 O\n",
    "cafÃ© B-LOC\n".encode(),
    b"word\n",
    b"\n",
    b"\n",
    b"-DOCSTART- O\n",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=24))
def test_the_copy_of_any_file_has_no_errors(parts: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.conll"
        path.write_bytes(b"".join(parts))
        repaired(path, path.with_name("clean.conll"))


def test_passages_are_recognised_and_checked_but_not_fixed(tmp_path: Path) -> None:
    passage = {"id": "p", "type": "abstract", "text": ["mail jane@example.org"], "offsets": [[0, 21]]}
    entity = {"id": "e", "type": "Who", "text": ["jane"], "offsets": [[5, 9]]}
    path = write_lines(tmp_path / "one.jsonl", {"id": "1", "passages": [passage], "entities": [entity]})
    file = CheckedFile.open(str(path), "auto", Fields())
    assert file.kind == "tags"
    found = checked(path)
    assert [finding.kind for finding in found.findings] == ["personal-email"]
    with pytest.raises(CorpusError, match=r"(?s)records of passages.*line 1"):
        repair(file, found, tmp_path / "copy.jsonl", PrivateData(), "en")
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_with_passages_beside_its_text_is_not_fixed(tmp_path: Path) -> None:
    passage = {"id": "p", "type": "abstract", "text": ["mail jane@example.org"], "offsets": [[0, 21]]}
    row = {"text": "mail jane@example.org", "spans": [[5, 9, "Who"]], "passages": [passage], "entities": []}
    path = write_lines(tmp_path / "one.jsonl", row)
    file = CheckedFile.open(str(path), "auto", Fields())
    with pytest.raises(CorpusError, match="records of passages"):
        repair(file, checked(path), tmp_path / "copy.jsonl", PrivateData(), "en")
