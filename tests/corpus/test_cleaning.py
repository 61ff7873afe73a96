"""Cleaning: what it changes, what it keeps in every script, and that cleaning again changes nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.cleaning import Aligned, clean, normalise

# Any text, with many of the characters that cleaning changes.
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
def test_what_cleaning_changes(given_text: str, wanted: str) -> None:
    assert clean(given_text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "\u3000第一条\u3000この法律は、\n\u3000\u3000第二条",  # the ideographic space indents and separates
        "می\u200cخواهم",  # zero-width non-joiner: part of Persian spelling
        "क्\u200dष",  # zero-width joiner: shapes a conjunct
        "ភាសា\u200bខ្មែរ",  # zero-width space: separates words in Khmer
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
def test_cleaned_text_is_in_nfc_and_has_no_control_characters(text: str) -> None:
    once = clean(text)
    once.encode("utf-8")
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in once)


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_nothing_but_white_space_and_controls_is_lost(text: str) -> None:
    assert clean(f" {text}\x00 \n") == unicodedata.normalize("NFC", text)


@given(TEXTS)
def test_copies_that_differ_only_in_white_space_are_the_same(text: str) -> None:
    assert normalise(clean(text)) == normalise(clean(text.replace(" ", "  ").replace("\n", "\r\n")))


def test_case_and_width_make_no_difference() -> None:
    assert normalise("The  Licence\nＡＢＣ") == normalise("the licence abc")


@given(TEXTS)
def test_an_aligned_text_is_the_cleaned_one(text: str) -> None:
    aligned = Aligned.of(text)
    assert aligned.text == clean(text)
    assert len(aligned.starts) == len(aligned.ends) == len(aligned.text)


@given(TEXTS, st.data())
def test_a_span_maps_to_the_given_text(text: str, data: st.DataObject) -> None:
    """What a character maps to, cleaned again, contains that character, unless it is white space."""
    aligned = Aligned.of(text)
    for place, character in enumerate(aligned.text):
        start, end = aligned.given_span(place, place + 1)
        assert 0 <= start < end <= len(text)
        part = Aligned.of(f".{text[start:end]}.").text[1:-1]
        assert character in part or character.isspace()
    if aligned.text:
        first = data.draw(st.integers(0, len(aligned.text) - 1))
        last = data.draw(st.integers(first, len(aligned.text) - 1))
        start, end = aligned.given_span(first, last + 1)
        assert start == aligned.given_span(first, first + 1)[0]
        assert end == aligned.given_span(last, last + 1)[1]
    assert all(one <= other for one, other in zip(aligned.starts, aligned.starts[1:], strict=False))
    assert all(one <= other for one, other in zip(aligned.ends, aligned.ends[1:], strict=False))


WORDS = st.lists(
    st.sampled_from(["fi\u0301n", "e\u0301", "\ufb01ne", "caf\u00e9", "가", "\u1112\u1161\u11ab", "x"]), min_size=1
)
GAPS = st.text(" \t\r\n\u00a0\u2003\u0007\ufeff", min_size=0, max_size=4)


@given(WORDS, GAPS, st.data())
def test_words_map_to_their_own_characters(words: list[str], lead: str, data: st.DataObject) -> None:
    """The mapping is exact, whatever is between the words."""
    text, places = lead, []
    for word in words:
        places.append((len(text), len(text) + len(word)))
        text += word + " " + data.draw(GAPS)
    aligned = Aligned.of(text)
    at = 0
    for word, place in zip(words, places, strict=True):
        cleaned = clean(word)
        at = aligned.text.index(cleaned, at)
        assert aligned.given_span(at, at + len(cleaned)) == place
        at += len(cleaned)


def test_a_span_outside_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="not a span"):
        Aligned.of("  a  ").given_span(0, 2)
