"""Cleaning: what goes, what stays in every script, and that a second cleaning changes nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.cleaning import clean, normalise

# Text of every kind, thick with what cleaning acts on.
TEXTS = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(" \t\n\r\v\f\x00\x07\x85\xa0\u2003\u2028\u3000\ufeff\u200d\ud800\u0301e\u212b\uac00\u11a8"),
    )
)


@pytest.mark.parametrize(
    ("given_text", "wanted"),
    [
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("a  b \t c", "a b c"),
        ("a\tb", "a\tb"),
        ("a   \n\n\n\n b", "a\n\n b"),
        ("\ufeffstart\x00\x07", "start"),
        ("e\u0301", "é"),
        ("page\fnext", "page\nnext"),
        ("non\xa0breaking", "non breaking"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("  \n\n", ""),
    ],
)
def test_what_goes(given_text: str, wanted: str) -> None:
    assert clean(given_text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "\u3000第一条\u3000この法律は、\n\u3000\u3000第二条",  # the ideographic space indents and parts
        "می\u200cخواهم",  # zero-width non-joiner: part of Persian spelling
        "क्\u200dष",  # zero-width joiner: shapes a conjunct
        "ភាសា\u200bខ្មែរ",  # zero-width space: parts words in Khmer
        "👩\u200d⚕️",
        "\u202bعربي\u202c",
        "ㄅㄆㄇ　漢字　かな",
    ],
)
def test_what_carries_meaning_stays(text: str) -> None:
    assert clean(text) == unicodedata.normalize("NFC", text)


@given(TEXTS)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@given(TEXTS)
def test_cleaned_text_is_sound(text: str) -> None:
    once = clean(text)
    once.encode("utf-8")
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in once)


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_nothing_but_white_space_and_controls_is_lost(text: str) -> None:
    assert clean(f" {text}\x00 \n") == unicodedata.normalize("NFC", text)


@given(TEXTS)
def test_copies_that_differ_in_white_space_alone_are_the_same(text: str) -> None:
    assert normalise(clean(text)) == normalise(clean(text.replace(" ", "  ").replace("\n", "\r\n")))


def test_case_and_width_make_no_difference() -> None:
    assert normalise("The  Licence\nＡＢＣ") == normalise("the licence abc")
