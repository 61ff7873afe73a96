"""Entities: tagging schemes, files, splits, and the labels of tokens."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from domain_ft.corpus.masking import IGNORED
from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.corpus.tagging.entities import (
    Scheme,
    Span,
    TagError,
    TaggedText,
    chunks,
    lenient_chunks,
    recognise,
)
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.opening import TaggingSource, as_task, open_tagging, without
from domain_ft.corpus.tagging.reading import read_tagged
from domain_ft.corpus.tagging.rows import TaggingRows, TextEncoder, encode_tags
from domain_ft.corpus.tasks.leaks import find_leaks
from domain_ft.corpus.words import find_words, join_words
from domain_ft.errors import CorpusError, RecordError

SCHEMES: dict[Scheme, Any] = {"iob1": IOB1, "iob2": IOB2, "bioes": IOBES, "bilou": BILOU}
KINDS = ("wordpiece", "roberta", "gpt2")
WORDS = ("licensee", "U.S.", "growth", "x-9", "é")
SIGNS = "ab. 🤒👩\u200d⚕️é\u0301が点\u3000\n"


# ------------------------------------------------------------------------------------------------------------ schemes


def tags_of(spans: Sequence[Span], words: int, scheme: Scheme) -> list[str]:
    """The tags that encode spans of words in a scheme."""
    tags = ["O"] * words
    last, single = {"bioes": ("E", "S"), "bilou": ("L", "U")}.get(scheme, ("I", "B"))
    for number, span in enumerate(spans):
        follows = number > 0 and spans[number - 1].end == span.start and spans[number - 1].label == span.label
        first = "I" if scheme == "iob1" and not follows else "B"
        for place in range(span.start, span.end):
            prefix = first if place == span.start else last if place == span.end - 1 else "I"
            tags[place] = f"{prefix}-{span.label}"
        if span.end - span.start == 1 and scheme in ("bioes", "bilou"):
            tags[span.start] = f"{single}-{span.label}"
    return tags


@st.composite
def chunked(draw: st.DrawFn) -> tuple[list[Span], int]:
    """The entities of a sentence as spans of words, and its number of words."""
    spans, place = [], 0
    for gap, length, label in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(["PER", "LOC"])), max_size=5)
    ):
        spans.append(Span(place + gap, place + gap + length, label))
        place += gap + length
    return spans, place + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", list(SCHEMES))
@given(chunked())
def test_tags_of_every_scheme_decode_to_their_spans(scheme: Scheme, sentence: tuple[list[Span], int]) -> None:
    spans, words = sentence
    tags = tags_of(spans, words, scheme)
    assert chunks(tags, scheme) == spans
    by_seqeval = Entities([tags], SCHEMES[scheme]).entities[0]
    assert [(entity.start, entity.end, entity.tag) for entity in by_seqeval] == [
        (s.start, s.end, s.label) for s in spans
    ]


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=8))
def test_a_models_tags_are_read_as_seqeval_reads_them(tags: list[str]) -> None:
    assert [(s.label, s.start, s.end - 1) for s in lenient_chunks(tags)] == get_entities(tags)


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=8))
def test_iob2_is_refused_exactly_where_an_entity_begins_with_i(tags: list[str]) -> None:
    before = ["O", *tags]
    wrong = [
        place
        for place, tag in enumerate(tags)
        if tag.startswith("I") and before[place].partition("-")[2] != tag.partition("-")[2]
    ]
    if not wrong:
        assert chunks(tags) == list(lenient_chunks(tags))
        return
    with pytest.raises(TagError) as caught:
        chunks(tags)
    assert caught.value.index == wrong[0]


@pytest.mark.parametrize(
    ("tags", "scheme", "index", "words"),
    [
        ("O I-A", "iob2", 1, "I-A is not allowed after O"),
        ("I-A", "iob2", 0, "at the beginning of a sentence"),
        ("B-A I-B", "iob2", 1, "I-B is not allowed after B-A"),
        ("S-A", "iob2", 0, "not a tag of IOB2"),
        ("E-A", "bioes", 0, "an entity begins with B-A"),
        ("S-A E-A", "bioes", 1, "E-A is not allowed after S-A"),
        ("B-A O", "bioes", 0, "B-A is not ended"),
        ("B-A I-A", "bioes", 1, "the end of the sentence"),
        ("B-A B-A", "bilou", 0, "I-A or L-A"),
        ("O Disease", "iob2", 1, "'Disease' is not a tag"),
        ("O B-", "iob2", 1, "'B-' is not a tag"),
    ],
)
def test_a_tag_that_is_not_allowed_is_named(tags: str, scheme: Scheme, index: int, words: str) -> None:
    with pytest.raises(TagError, match=words) as caught:
        chunks(tags.split(), scheme)
    assert caught.value.index == index


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["B-A I-A O", "B-B"], "iob2"),
        (["I-A I-A B-A", "O I-B"], "iob1"),
        (["S-A O", "B-A E-A"], "bioes"),
        (["U-A O", "B-A L-A"], "bilou"),
        (["B-A I-A", "O O"], "iob2"),
        (["B-A I-A", "B-B O B-A", "O I-A"], "iob2"),  # one mistake does not make it IOB1
        (["O O"], "iob2"),
    ],
)
def test_the_scheme_of_a_file_is_found(sentences: list[str], scheme: Scheme) -> None:
    assert recognise(sentence.split() for sentence in sentences) == scheme


# ------------------------------------------------------------------------------------------------------ words and text


@given(st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4), min_size=1, max_size=8))
def test_the_offsets_of_joined_words_are_exact(words: list[str]) -> None:
    text, bounds = join_words(words)
    assert [text[start:end] for start, end in bounds] == words


@given(st.text(max_size=30))
def test_the_words_of_a_text_cover_all_but_white_space(text: str) -> None:
    bounds = find_words(text)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(bounds))
    assert "".join(text[start:end] for start, end in bounds) == "".join(text.split())


def test_words_of_many_scripts_are_found_and_joined() -> None:
    def words(text: str) -> list[str]:
        return [text[start:end] for start, end in find_words(text)]

    assert words("Alzheimer's β-cells, 4.2") == ["Alzheimer", "'", "s", "β", "-", "cells", ",", "4", ".", "2"]
    assert words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert words("が点滅") == ["が", "点", "滅"]
    assert words("e\u0301te\u0301") == ["e\u0301te\u0301"]
    assert join_words(["EGFR", "遺伝子", "の", "機能"])[0] == "EGFR遺伝子の機能"
    assert join_words(["한국", "서울"])[0] == "한국 서울"


# -------------------------------------------------------------------------------------------------------------- files


def read(path: Path, fields: TagFields | None = None, scheme: Scheme | None = None) -> list[TaggedText]:
    return read_tagged(path, path.name, fields or TagFields(), scheme, BadRecords("stop", lambda reject: None))[0]


def skipping(path: Path) -> tuple[list[TaggedText], list[Reject]]:
    rejects: list[Reject] = []
    return read_tagged(path, path.name, TagFields(), None, BadRecords("skip", rejects.append))[0], rejects


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def json_lines(path: Path, *records: dict[str, Any]) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("row", ["{word}\t{tag}", "{word} {tag}", "{word} NN {tag}", "{word}\tNN\tO\t{tag}"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_conll_columns_are_read(tmp_path: Path, row: str, newline: str) -> None:
    tagged = [("Breast", "B-D"), ("cancer", "I-D"), ("", ""), ("No", "O"), ("", ""), ("", ""), ("Flu", "B-D")]
    lines = [row.format(word=word, tag=tag) if word else "" for word, tag in tagged]
    path = tmp_path / "train.conll"
    path.write_bytes(("\ufeff" + newline.join(lines)).encode())
    assert read(path) == [
        TaggedText(
            "train.conll:1", "Breast cancer", ((0, 6), (7, 13)), (Span(0, 13, "D"),), "train.conll:1", "train.conll", 1
        ),
        TaggedText("train.conll:4", "No", ((0, 2),), (), "train.conll:4", "train.conll", 4),
        TaggedText("train.conll:7", "Flu", ((0, 3),), (Span(0, 3, "D"),), "train.conll:7", "train.conll", 7),
    ]


def test_a_docstart_line_begins_a_document(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- -X- O\n\nA x x O\n\nB x x I-P\n\n-DOCSTART- -X- -X- O\n\nC x x O\n"
    found = read(write(tmp_path / "a.txt", text))
    assert [(t.text, t.group) for t in found] == [
        ("A", "a.txt: document 1"),
        ("B", "a.txt: document 1"),
        ("C", "a.txt: document 2"),
    ]


def test_a_single_docstart_line_makes_no_document(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.txt", "-DOCSTART- O\n\nA O\n\nB B-P\n"))
    assert [t.group for t in found] == ["a.txt:3", "a.txt:5"]


def test_only_spaces_and_tabs_separate_columns(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.txt", "10\u00a0mg O\n\u2028x B-P\n"))
    assert found[0].text == "10\u00a0mg \u2028x"


def test_a_gzip_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.conll.gz"
    path.write_bytes(gzip.compress(b"Flu B-D\n"))
    assert [t.text for t in read(path)] == ["Flu"]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (
            "A O\nB B-P\nC O\n\nD O\nE I-P\n",
            6,
            "I-P is not allowed after O: in IOB2 an entity begins with B-P, at the word 'E'",
        ),
        ("A O\n\nB B-P\nC I-Q\n", 4, "I-Q is not allowed after B-P"),
        ("A S-P\n\nB E-P\n", 3, "E-P is not allowed at the beginning of a sentence"),
        ("A O\n\nB\n", 3, "the line has 1 column, where at least 2 are expected"),
        ("A x O\n\nB O\n", 3, "the line has 2 columns, where other lines have 3"),
        ("A O\n\n\tO\n", 3, "the word is empty"),
        ("A O\n\n\u3000\tO\n", 3, "the word is empty"),
        ("A O\n\nB\t\n", 3, "the tag is empty"),
        ("A O\n\nB Disease\n", 3, "'Disease' is not a tag"),
    ],
)
def test_a_bad_line_stops_the_reader_or_its_sentence_is_left_out(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    path = write(tmp_path / "a.txt", text)
    with pytest.raises(RecordError, match=reason) as caught:
        read(path)
    assert f"a.txt, line {line}" in str(caught.value)
    kept, rejects = skipping(path)
    assert len(rejects) == 1
    assert rejects[0].line == line
    assert reason in rejects[0].reason
    assert kept
    assert all(line not in range(t.line or 0, (t.line or 0) + len(t.words or ())) for t in kept)


def test_words_with_tags_in_json_lines_are_read(tmp_path: Path) -> None:
    path = json_lines(
        tmp_path / "a.jsonl",
        {"tokens": ["Flu", "kills"], "ner_tags": ["S-D", "O"]},
        {"tokens": ["Breast", "cancer"], "ner_tags": ["B-D", "E-D"]},
    )
    assert [t.spans for t in read(path)] == [(Span(0, 3, "D"),), (Span(0, 13, "D"),)]
    own = json_lines(tmp_path / "b.jsonl", {"n": 7, "g": "x", "w": ["Flu"], "t": ["B-D"]})
    (text,) = read(own, TagFields(tokens="w", tags="t", id="n", group="g"))
    assert (text.id, text.group, text.spans) == ("7", "x", (Span(0, 3, "D"),))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"tokens": [], "tags": []}, "the sentence has no words"),
        ({"tokens": ["a"], "tags": []}, "there are 1 words and 0 tags"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "word 2 is empty"),
        ({"tokens": ["a"], "tags": [3]}, "the tags hold a number, where names are expected"),
        ({"tokens": ["a"]}, "the field is missing"),
        ({"tokens": "a b", "tags": ["O"]}, "holds text, where a list of words is expected"),
        ({"text": "", "entities": []}, "the text is empty"),
        ({"text": "flu", "entities": [[0, 4, "D"]]}, "is outside the text, which has 3 characters"),
        ({"text": "flu", "spans": [{"start": 2, "end": 1, "label": "D", "text": "l"}]}, "ends before it starts"),
        ({"text": "flu", "entities": [[2, 1, "D"]]}, "an end is before its start"),
        ({"text": "flu", "entities": [{"offsets": [0, 3], "label": "D"}]}, "the offsets of .* are not a list of"),
        ({"text": "a flu", "entities": [[1, 2, "D"]]}, "holds no text"),
        ({"text": "flu", "entities": [{"start": 0, "stop": 3, "label": "D"}]}, "is not a span with"),
        ({"text": "flu", "entities": [[0, 3.5, "D"]]}, "not whole numbers"),
        ({"text": "flu", "entities": [[0, 3, ""]]}, "is not a name"),
        ({"texts": "flu"}, "the field is missing"),
    ],
)
def test_a_bad_record_stops_the_reader_or_is_left_out(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    good = {"tokens": ["Flu"], "tags": ["B-D"]} if "tokens" in record else {"text": "Flu", "entities": [[0, 3, "D"]]}
    path = json_lines(tmp_path / "a.jsonl", good, record)
    with pytest.raises(RecordError, match=reason) as caught:
        read(path)
    assert "a.jsonl, line 2" in str(caught.value)
    kept, rejects = skipping(path)
    assert [t.text for t in kept] == ["Flu"]
    assert [reject.line for reject in rejects] == [2]


def test_the_longest_of_overlapping_spans_is_kept(tmp_path: Path) -> None:
    spans = [[0, 10, "D"], [0, 4, "P"], [5, 15, "D"], {"start": 8, "end": 12, "label": "D"}, [16, 19, "P"]]
    (found,) = read(json_lines(tmp_path / "a.jsonl", {"text": "lung cancer and flu", "entities": [*spans, spans[-1]]}))
    assert found.spans == (Span(0, 10, "D"), Span(16, 19, "P"))
    assert found.overlapping == 3


def test_spans_count_unicode_characters(tmp_path: Path) -> None:
    text = "🤒 インフルエンザの\u3000患者 "
    path = json_lines(tmp_path / "a.jsonl", {"text": text, "spans": [[9, 13, "P"], [2, 9, "D"]]})
    (found,) = read(path)
    assert [(text[s.start : s.end], s.label) for s in found.spans] == [
        ("インフルエンザ", "D"),
        ("の\u3000患者"[0:4], "P"),
    ]


def test_words_and_spans_in_one_file_are_refused(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", {"tokens": ["a"], "tags": ["O"]}, {"text": "a", "entities": []})
    with pytest.raises(CorpusError, match="others have text with spans"):
        read(path)


# ------------------------------------------------------------------------------------------------------------- a task


def conll(path: Path, *sentences: str) -> str:
    """Sentences such as "The flu/B-D ended": a word without a tag has O."""
    rows = [
        "\n".join(f"{word.partition('/')[0]} {word.partition('/')[2] or 'O'}" for word in sentence.split()) + "\n"
        for sentence in sentences
    ]
    return str(write(path, "\n".join(rows)))


def test_given_splits_have_types_tags_and_notes(tmp_path: Path) -> None:
    data = open_tagging(
        TaggingSource(
            train=conll(tmp_path / "train.txt", "flu/B-D", "cold/B-D", "Bob/B-P", "same text"),
            validation=conll(tmp_path / "dev.txt", "gout/B-D", "Same text"),
            test=conll(tmp_path / "test.txt", "Rome/B-L", "flu/B-D", "ill"),
        )
    )
    assert data.types == ("D", "P")
    assert data.tags == ("O", "B-D", "I-D", "B-P", "I-P")
    assert data.scheme == "IOB2"
    assert data.name == f"{tmp_path.name}-train"
    assert data.notes == (
        "types with only one entity in the training texts, too rare to learn: P",
        "types in the test texts but not in training, whose entities the model will miss: L",
    )


def tagged_parquet(folder: Path, *splits: str, tags: Sequence[int] = (1, 2, 0)) -> None:
    """Files of words with numeric tags whose names are in the schema, like data sets on the hub."""
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-Disease", "I-Disease"])),
        }
    )
    folder.mkdir()
    for split in splits:
        rows = [{"id": f"{split}{i}", "tokens": ["flu", str(i), split], "ner_tags": list(tags)} for i in range(6)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")


def test_a_hub_data_set_keeps_its_splits_and_tag_names(tmp_path: Path) -> None:
    """A folder is given instead of an id: `datasets` reads it with the same call."""
    tagged_parquet(tmp_path / "disease", "train", "validation", "test")
    data = open_tagging(TaggingSource(train=f"hf:{tmp_path}/disease"))
    assert (data.types, data.scheme, data.name) == (("Disease",), "IOB2", "disease")
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [6, 6, 6]
    assert data.splits["test"][1].text == "flu 1 test"
    assert data.splits["test"][1].spans == (Span(0, 5, "Disease"),)
    tagged_parquet(tmp_path / "part", "train")
    source = TaggingSource(train=f"hf:{tmp_path}/part", test=f"hf:{tmp_path}/disease", validation_fraction=0.5)
    data = open_tagging(source)
    assert data.splits["test"][0].text == "flu 0 test"
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 6
    tagged_parquet(tmp_path / "hidden", "train", tags=(-1, -1, -1))
    with pytest.raises(RecordError, match="the tags hold a number") as refused:
        open_tagging(TaggingSource(train=f"hf:{tmp_path}/hidden"))
    assert f"hf:{tmp_path}/hidden train, line 1" in str(refused.value)


def test_tags_without_a_type_get_the_type_entity(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.txt", "breast B\ncancer I\nand O\nflu B\ngout B\n"))
    assert [span.label for span in found[0].spans] == ["entity"] * 3
    assert found[0].spans[0] == Span(0, 13, "entity")


def test_a_data_set_with_a_script_is_read_from_the_hubs_parquet_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder replaces the hub's branch of Parquet files, and other branches raise the error of `datasets`."""
    tagged_parquet(tmp_path / "flat", "train", "test")
    for config, split in itertools.product(("disease", "gene"), ("train", "test")):
        (tmp_path / "hub" / config / split).mkdir(parents=True)
        shutil.copy(tmp_path / "flat" / f"{split}.parquet", tmp_path / "hub" / config / split / "0000.parquet")
    real = datasets.load_dataset_builder

    def of_the_hub(identifier: str, config: str | None = None, revision: str | None = None, **given: Any) -> Any:
        if revision != "refs/convert/parquet":
            raise RuntimeError("Dataset scripts are no longer supported, but found blurb.py")
        return real(str(tmp_path / "hub"), **given)

    monkeypatch.setattr(datasets, "load_dataset_builder", of_the_hub)
    data = open_tagging(TaggingSource(train="hf:bigbio/blurb:disease", validation_fraction=0.5))
    assert data.types == ("Disease",)
    assert len(data.splits["test"]) == 6
    with pytest.raises(CorpusError, match="several configurations") as refused:
        open_tagging(TaggingSource(train="hf:bigbio/blurb"))
    assert "hf:bigbio/blurb:disease, hf:bigbio/blurb:gene" in str(refused.value)


def test_words_with_tags_in_a_parquet_file_are_read(tmp_path: Path) -> None:
    rows = [{"tokens": ["flu", "が", str(i)], "tags": ["B-D", "O", "O"]} for i in range(8)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    found, scheme = read_tagged(
        tmp_path / "train.parquet", "train.parquet", TagFields(), None, BadRecords("stop", lambda _: None)
    )
    assert scheme == "iob2"
    assert [(text.text, text.spans) for text in found[:2]] == [(f"fluが{i}", (Span(0, 3, "D"),)) for i in range(2)]


@pytest.mark.parametrize("nested", [list, datasets.Sequence])
def test_numeric_tags_in_a_parquet_file_get_the_names_in_its_schema(tmp_path: Path, nested: Any) -> None:
    names = datasets.ClassLabel(names=["O", "B-Drug", "I-Drug"])
    tags = [names] if nested is list else datasets.Sequence(names)
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    rows = [{"tokens": ["took", "acetic", "acid", str(i)], "ner_tags": [0, 1, 2, 0]} for i in range(3)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    found = read(tmp_path / "train.parquet")
    assert [text.spans for text in found] == [(Span(5, 16, "Drug"),)] * 3
    rows[1]["ner_tags"] = [0, 1, -1, 0]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(RecordError, match="the tags hold a number"):
        read(tmp_path / "train.parquet")


def test_a_japanese_span_within_a_token_is_inexact_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    text = "乳がんが見られた"
    path = json_lines(tmp_path / "a.jsonl", {"text": text, "entities": [[0, 3, "D"]]})
    backend = Tokenizer(models.WordLevel({"x": 0, "乳がん": 1, "が見られた": 2}, unk_token="x"))
    backend.pre_tokenizer = pre_tokenizers.Split("が", "merged_with_next")
    for spans, inexact in (([[0, 1, "D"]], 0), ([[1, 2, "D"]], 1)):
        (found,) = read(json_lines(path, {"text": text, "entities": spans}))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="x", bos_token="x", eos_token="x")
        rows = encode_tags([found], ("O", "B-D", "I-D"), tokenizer, max_length=16)
        assert rows.inexact == inexact
    with pytest.raises(RecordError, match="holds no text"):
        read(json_lines(path, {"text": text, "entities": [[3, 3, "D"]]}))


def test_leaks_are_found_and_left_out(tmp_path: Path) -> None:
    files = {
        "train": conll(tmp_path / "train.txt", "flu/B-D", "Gout/B-D", "same text"),
        "validation": conll(tmp_path / "dev.txt", "gout/B-D"),
        "test": conll(tmp_path / "test.txt", "cold/B-D", "same/B-D Text"),
    }
    data = open_tagging(TaggingSource(**files))
    leaks = find_leaks(as_task(data))
    found = {kind: count for kind, count in leaks.counts.items() if count}
    assert found == {"exact_train_test": 1, "exact_train_validation": 1, "exact_label_conflicts": 1}
    assert leaks.found[0].lines == (5, 3)
    left = without(data, leaks.removals)
    assert [text.text for text in left.splits["train"]] == ["flu"]
    assert left.key != data.key
    assert left.notes == ("Texts that are also in another split were left out: 2 train texts.",)
    with pytest.raises(CorpusError, match="none of the 0 train texts"):
        without(data, {"train": np.arange(3)})


def test_splits_are_made_of_whole_documents(tmp_path: Path) -> None:
    documents = [f"-DOCSTART- O\n\nflu{number} B-D\n\nabstract O\n" for number in range(60)]
    path = write(tmp_path / "notes.conll", "\n".join(documents))
    data = open_tagging(TaggingSource(train=str(path)))
    assert data.name == "notes"
    groups = {split: {text.group for text in texts} for split, texts in data.splits.items()}
    assert set.union(*groups.values()) == {f"notes.conll: document {number + 1}" for number in range(60)}
    assert sum(map(len, groups.values())) == 60
    assert [len(groups[split]) for split in ("train", "validation", "test")] == [43, 5, 12]
    assert any("only near copies of whole documents" in note for note in data.notes)  # all documents share a sentence


def test_splits_do_not_depend_on_the_order_and_keep_repetitions_together(tmp_path: Path) -> None:
    sentences = [f"flu{number % 70}/B-D is" for number in range(100)]
    one = open_tagging(TaggingSource(train=conll(tmp_path / "a.txt", *sentences)))
    other = open_tagging(TaggingSource(train=conll(tmp_path / "b.txt", *sentences[::-1])))
    for split in ("validation", "test"):
        held_out = {text.text for text in one.splits[split]}
        assert held_out == {text.text for text in other.splits[split]}
        assert held_out.isdisjoint(text.text for text in one.splits["train"])


DRUGS = ("aspirin", "heparin", "insulin", "warfarin")


def near_copies(count: int) -> list[dict[str, Any]]:
    """`count` families of four texts that differ only in the number at the end."""
    draw = random.Random(0)
    records = []
    for number in range(count):
        words = " ".join("".join(draw.choices("abcdefghijklmnop", k=7)) for _ in range(12))
        for copy in range(4):
            drug = DRUGS[number % 4]
            text = f"{drug} {words} {copy}"
            records.append({"text": text, "entities": [[0, len(drug), "Drug"]], "family": number})
    return records


def test_near_copies_are_in_one_split(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", *near_copies(40))
    data = open_tagging(TaggingSource(train=str(path)))
    families = [{text.text[:-2] for text in data.splits[split]} for split in ("train", "validation", "test")]
    assert sum(map(len, families)) == 40
    assert [len(own) for own in families] == [29, 3, 8]
    assert "groups of near copies" in data.facts["split"]["test"]
    counts = find_leaks(as_task(data)).counts
    assert {kind: count for kind, count in counts.items() if "label" not in kind and count} == {}


def test_documents_that_share_near_copies_are_in_one_split(tmp_path: Path) -> None:
    records = near_copies(40)
    for number, record in enumerate(records):
        family = record["family"]
        moved = number % 4 == 3 and family % 2 == 0  # the last text of every even family is in the next document
        record["doc"] = f"d{family + moved}"
    path = json_lines(tmp_path / "a.jsonl", *records)
    data = open_tagging(TaggingSource(train=str(path), fields=TagFields(group="doc")))
    documents = [{int(text.group[1:]) // 2 for text in data.splits[split]} for split in ("train", "validation", "test")]
    assert [len(own) for own in documents] == [14, 2, 4]
    assert sum(map(len, documents)) == 20
    assert "near copies" in data.facts["split"]["test"]


def test_if_all_texts_are_alike_a_note_says_that_only_copies_are_kept_together(tmp_path: Path) -> None:
    template = "Patient {} took aspirin {} mg daily for chronic pain of the lower back, without relief or side effects"
    texts = [template.format(number, number) for number in range(30)]
    records = [{"text": text, "entities": [[text.index("aspirin"), text.index("aspirin") + 7, "D"]]} for text in texts]
    data = open_tagging(TaggingSource(train=str(json_lines(tmp_path / "a.jsonl", *records))))
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [22, 2, 6]
    assert any("for the test split only" in note for note in data.notes)


def test_test_ids_choose_the_test_texts(tmp_path: Path) -> None:
    records = [{"id": f"r{n}", "text": f"flu{n}", "entities": [[0, 3, "D"]]} for n in range(40)]
    path = json_lines(tmp_path / "a.jsonl", *records)
    ids = write(tmp_path / "ids.json", json.dumps({"r3": "yes", "r5": "no"}))
    data = open_tagging(TaggingSource(train=str(path), test_ids=ids, fields=TagFields(id="id")))
    assert [text.id for text in data.splits["test"]] == ["r3", "r5"]
    assert data.scheme is None


def test_test_ids_beside_a_test_file_are_refused(tmp_path: Path) -> None:
    path = str(json_lines(tmp_path / "a.jsonl", {"id": "r1", "text": "flu", "entities": [[0, 3, "D"]]}))
    with pytest.raises(CorpusError, match="--test and --test-ids are both given"):
        open_tagging(TaggingSource(train=path, test=path, test_ids=write(tmp_path / "ids.txt", "r1")))


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (["flu", "cold"], ["flu/B-D"], "none of the 2 train texts has an entity: there is nothing to learn"),
        (["flu/B-D"], ["flu"], "none of the 1 test texts has an entity: there is nothing to measure"),
    ],
)
def test_a_split_without_entities_is_refused(tmp_path: Path, train: list[str], test: list[str], words: str) -> None:
    files = {"train": conll(tmp_path / "train.txt", *train), "test": conll(tmp_path / "test.txt", *test)}
    with pytest.raises(CorpusError, match=words):
        open_tagging(TaggingSource(**files, validation=conll(tmp_path / "dev.txt", "flu/B-D")))


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    for name, words in ((str(tmp_path), "is a folder"), ("no.txt", "does not exist")):
        with pytest.raises(CorpusError, match=words):
            open_tagging(TaggingSource(train=name))


# --------------------------------------------------------------------------------------------------------------- rows


def tagged(text: str, *spans: tuple[int, int, str]) -> TaggedText:
    return TaggedText("a:1", text, None, tuple(Span(*span) for span in spans))


def targets(rows: TaggingRows) -> np.ndarray:
    """The labels of all tokens, as a model would predict them; O (0) for tokens without a label."""
    own = rows.pack(np.arange(len(rows))).targets
    return np.where(own == IGNORED, 0, own)


@given(
    sentence=chunked(),
    kind=st.sampled_from(KINDS),
    max_length=st.sampled_from([5, 16, 128]),
    word=st.sampled_from(WORDS),
)
def test_labels_decode_to_the_spans(sentence: tuple[list[Span], int], kind: str, max_length: int, word: str) -> None:
    """However the words are cut into tokens and windows: the tag of a word is that of its first token."""
    spans, words = sentence
    text, bounds = join_words([f"{word}{'s' * (place % 3)}" for place in range(words)] or ["x"])
    true = tuple(Span(bounds[s.start][0], bounds[s.end - 1][1], s.label) for s in spans)
    tags = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    rows = encode_tags([TaggedText("a:1", text, bounds, true)] * 2, tags, tiny_tokenizer(kind), max_length=max_length)
    assert rows.spans(targets(rows)) == [true, true]
    assert rows.inexact == 0
    assert rows.lengths.max() <= max_length


@given(
    st.sampled_from(KINDS),
    st.text(st.sampled_from(SIGNS), min_size=1, max_size=20),
    st.data(),
)
def test_any_predictions_decode_to_valid_spans(kind: str, text: str, data: st.DataObject) -> None:
    """For any text, the spans are in order, do not overlap, are not empty, and have no white space at their ends."""
    rows = encode_tags([tagged(text)], ("O", "B-A", "I-A"), tiny_tokenizer(kind), max_length=8)
    answers = data.draw(st.lists(st.integers(0, 2), min_size=rows.tokens, max_size=rows.tokens))
    (spans,) = rows.spans(np.array(answers, dtype=np.int64))
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    for span in spans:
        inside = text[span.start : span.end]
        assert inside
        assert inside == inside.strip()


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_spans_are_exact_with_byte_level_tokens(kind: str) -> None:
    text = " 🤒flu, が点滅 x"
    spans = ((1, 2, "S"), (2, 5, "D"), (7, 8, "S"), (8, 10, "D"), (11, 12, "D"))
    tags = ("O", "B-D", "I-D", "B-S", "I-S")
    rows = encode_tags([tagged(text, *spans)], tags, tiny_tokenizer(kind), max_length=64)
    assert rows.inexact == 0
    assert rows.spans(targets(rows)) == [tuple(Span(*span) for span in spans)]


def test_first_tokens_of_words_are_labelled_and_special_tokens_are_not() -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    text = tagged("the licensees [CLS]", (4, 13, "A"))
    rows = encode_tags([text], ("O", "B-A", "I-A"), tokenizer, max_length=64)
    batch = rows.pack([0])
    pieces = tokenizer.convert_ids_to_tokens(batch.input_ids)
    labelled = [
        (piece, target) for piece, target in zip(pieces, batch.targets.tolist(), strict=True) if target != IGNORED
    ]
    assert labelled == [("the", 0), ("licensee", 1), ("[UNK]", 0), ("c", 0), ("[UNK]", 0)]
    assert pieces[0] == "[CLS]"
    assert pieces[-1] == "[SEP]"
    assert pieces.count("[CLS]") == 1
    assert batch.by_token
    assert batch.targets.shape == batch.input_ids.shape


def test_labels_of_words_agree_with_the_tokenizers_own_alignment() -> None:
    """For words of letters only, the labels are those that transformers' examples derive from `word_ids`."""
    tokenizer = tiny_tokenizer("wordpiece")
    words = ["the", "licensees", "shall", "notify", "copyrights"]
    text, bounds = join_words(words)
    spans = (Span(*bounds[1], "A"), Span(bounds[3][0], bounds[4][1], "A"))
    rows = encode_tags([TaggedText("a:1", text, bounds, spans)], ("O", "B-A", "I-A"), tokenizer, max_length=64)
    encoded = tokenizer(words, is_split_into_words=True)
    by_word = [0, 1, 0, 1, 2]
    before, expected = None, []
    for word in encoded.word_ids():
        expected.append(IGNORED if word is None or word == before else by_word[word])
        before = word
    batch = rows.pack([0])
    assert batch.input_ids.tolist() == encoded["input_ids"]
    assert batch.targets.tolist() == expected


def test_a_type_that_is_not_in_training_is_labelled_as_outside() -> None:
    rows = encode_tags([tagged("a b", (0, 1, "X"))], ("O", "B-A", "I-A"), tiny_tokenizer("wordpiece"), max_length=8)
    assert rows.spans(targets(rows)) == [()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_cut_between_words_and_nothing_is_dropped(kind: str) -> None:
    text = "the licensee shall not sublicense the work, " * 20
    encoder = TextEncoder(tiny_tokenizer(kind), 32)
    (encoded,) = encoder.encode([(text, None)])
    starts = {unit.token for unit in encoded.units}
    assert set(encoded.cuts[1:-1]) <= starts
    sizes = np.diff(encoded.cuts)
    assert sizes.sum() == len(encoded.ids)
    assert sizes.max() <= encoder.room
    assert sizes.min() >= encoder.room // 3
    rows = encode_tags([tagged(text), tagged("the work")], ("O",), tiny_tokenizer(kind), max_length=32)
    assert rows.cut.tolist() == [True, False]
    assert rows.documents.tolist() == [0] * (len(rows) - 1) + [1]
    batch = rows.pack([1, len(rows) - 1])
    assert batch.sequences.tolist() == [1, 0]
    assert batch.documents.tolist() == [0, 1]
    assert batch.position_ids.tolist() == [*range(rows.lengths[1]), *range(rows.lengths[-1])]


def test_a_view_of_the_rows_packs_like_the_rows() -> None:
    texts = [tagged("the work " * 20, (0, 3, "A")), tagged("bones")]
    rows = encode_tags(texts, ("O", "B-A", "I-A"), tiny_tokenizer("wordpiece"), max_length=16)
    assert rows.targets.tolist() == [1] + [0] * (len(rows) - 1)
    taken = rows.take([len(rows) - 1, 1, 1])
    assert taken.lengths.tolist() == rows.lengths[[-1, 1, 1]].tolist()
    batch, whole = taken.pack([0, 2]), rows.pack([len(rows) - 1, 1])
    assert batch.input_ids.tolist() == whole.input_ids.tolist()
    assert batch.targets.tolist() == whole.targets.tolist()
    assert batch.sequences.tolist() == whole.sequences.tolist() == [0, 1]


def test_a_word_longer_than_a_window_is_cut() -> None:
    rows = encode_tags([tagged("q" * 100, (0, 100, "A"))], ("O", "B-A", "I-A"), tiny_tokenizer("gpt2"), max_length=16)
    assert len(rows.token_targets) == 1
    assert rows.spans(targets(rows)) == [(Span(0, 100, "A"),)]


def test_a_span_within_a_word_is_counted_as_inexact() -> None:
    rows = encode_tags(
        [tagged("chromogranin", (6, 12, "A"))], ("O", "B-A", "I-A"), tiny_tokenizer("gpt2"), max_length=64
    )
    assert rows.inexact == 1
    assert rows.spans(targets(rows)) == [(Span(0, 12, "A"),)]


def test_tokens_without_characters_are_skipped() -> None:
    """Some tokenizers emit a token without characters, such as a lone mark of the beginning of a word."""
    backend = Tokenizer(models.WordLevel({"▁": 0, "a": 1, "b": 2, "x": 3}, unk_token="x"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="x", bos_token="x", eos_token="x")
    rows = encode_tags([tagged(" a  b ", (1, 2, "A"))], ("O", "B-A", "I-A"), tokenizer, max_length=16)
    assert rows.spans(targets(rows)) == [(Span(1, 2, "A"),)]


def test_a_text_without_tokens_has_no_row() -> None:
    rows = encode_tags([tagged("\u200b"), tagged("a")], ("O",), tiny_tokenizer("wordpiece"), max_length=8)
    assert rows.documents.tolist() == [1]
    assert rows.spans(targets(rows)) == [(), ()]
    assert rows.row_id(0) == "a:1"
