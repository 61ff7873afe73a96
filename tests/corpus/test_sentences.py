"""Where sentences end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.sentences import sentence_bounds

SIGNS = "aA1. 。!)\n頭"


def sentences(text: str, **kept: object) -> list[str]:
    return [text[start:end] for start, end in sentence_bounds(text, **kept)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts",
    [
        ["It fell.", "It rose?!", "So be it…"],
        ["He said (it fell.)", "“Rose.”", "Fell."],
        ["It was 0.5 mg of an i.v. dose of A.B. in E. coli."],
        ["A title without a stop", "The abstract."],
        ["阿司匹林抑制COX-2。", "mRNAも減った！？", "終わり"],
        ["वह ठीक है।", "अंत"],
        ["هل تحسن؟", "نعم۔", "Так."],
    ],
)
def test_sentences_of_many_scripts_are_found(parts: list[str]) -> None:
    for between in (" ", "\n", "\u3000\n\n "):
        if between != " " or "title" not in parts[0]:
            assert sentences(between.join(parts)) == parts
    if parts[0].endswith("。"):
        assert sentences("".join(parts)) == parts


def test_a_line_break_before_a_small_letter_ends_no_sentence() -> None:
    assert sentences("It fell\nbecause of A.\nIt") == ["It fell\nbecause of A.", "It"]


def test_a_whole_span_is_not_cut_and_a_break_ends_a_sentence() -> None:
    text = "St. Johns wort. Title Then"
    assert sentences(text) == ["St.", "Johns wort.", "Title Then"]
    assert sentences(text, whole=[(0, 14)], breaks=[22]) == ["St. Johns wort.", "Title", "Then"]
    assert sentences(text, whole=[(16, 26)], breaks=[22]) == ["St.", "Johns wort.", "Title Then"]


@given(
    st.text(SIGNS, max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted), max_size=4),
    st.lists(st.integers(0, 30), max_size=3),
)
def test_sentences_cover_the_text_and_cut_no_whole_span(text: str, spans: list[list[int]], breaks: list[int]) -> None:
    whole = [(min(start, len(text)), min(end, len(text))) for start, end in spans]
    found = list(sentence_bounds(text, whole=whole, breaks=[place for place in breaks if place <= len(text)]))
    inside = [place for start, end in found for place in range(start, end)]
    assert inside == sorted(set(inside))
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in found)
    assert not "".join(text[place] for place in range(len(text)) if place not in set(inside)).strip()
    for start, end in whole:
        own = {
            number for number, (first, last) in enumerate(found) for place in range(start, end) if first <= place < last
        }
        assert len(own) <= 1
