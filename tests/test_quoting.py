"""How messages quote user files: never whole texts, and lists of names that can be told apart."""

from __future__ import annotations

import csv

from hypothesis import given
from hypothesis import strategies as st

from domain_ft.errors import nearest
from domain_ft.quoting import LISTED, SHOWN, listed, quoted, shown


@given(st.text(max_size=300))
def test_no_more_than_the_beginning_is_shown_and_a_cut_is_marked(text: str) -> None:
    cut = shown(text)
    assert len(cut) <= SHOWN + 1
    assert "\n" not in cut
    if len(" ".join(text.split())) > SHOWN:
        assert cut.endswith("…")


@given(
    st.lists(st.text(alphabet='ab ,;"|.', max_size=8).filter(lambda name: name == " ".join(name.split())), max_size=6)
)
def test_a_list_of_names_can_be_parsed_again(names: list[str]) -> None:
    if names:
        assert next(csv.reader([listed(names)], skipinitialspace=True)) == names


def test_names_are_quoted_where_they_need_it() -> None:
    assert quoted("data.text") == "data.text"
    assert quoted("note of the day") == '"note of the day"'
    assert quoted(" label") == '"label"'
    assert listed([]) == "none"
    assert listed(range(LISTED + 3)).endswith(" and 3 more")


def test_a_hint_lists_no_texts_and_not_all_of_a_thousand_names() -> None:
    private = "The patient, born in Anytown, was treated for a lesion of the left lung."
    hint = nearest(private, [private, *(f"name {number}" for number in range(1000))])
    assert private[: SHOWN + 2] not in hint
    assert len(hint) < 500
    assert nearest("findings", ["findings, all", "id"]) == "did you mean 'findings, all'? known: \"findings, all\", id"
