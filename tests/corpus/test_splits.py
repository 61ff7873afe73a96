"""Splits: whole groups, drawn by content alone; no evaluation text in a training text; a single text cut in two."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.duplicates import shingles
from domain_ft.corpus.splits import cut, fitting_groups, move_contained, sequences
from domain_ft.corpus.splitting import draw_parts, lowest_hashes


def hashes(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.getrandbits(64) for _ in range(count)]


def held_out_groups(groups: np.ndarray, values: list[int], sizes: np.ndarray, fraction: float) -> np.ndarray:
    """(groups,) True for each group that `draw_parts` draws for the only part."""
    return draw_parts(lowest_hashes(groups, values), np.bincount(groups, weights=sizes), [fraction]) == 1


def test_about_the_share_of_groups_is_held_out() -> None:
    groups, sizes = np.arange(4000), np.full(4000, 100)
    drawn = held_out_groups(groups, hashes(4000), sizes, 0.05)
    assert 150 < drawn.sum() < 250


@given(st.randoms(use_true_random=False))
def test_the_draw_does_not_depend_on_the_order_of_reading(shuffle: random.Random) -> None:
    values = hashes(200)
    groups = np.array([index // 3 for index in range(200)])
    before = held_out_groups(groups, values, np.full(200, 10), 0.2)[groups]
    order = list(range(200))
    shuffle.shuffle(order)
    renamed = np.unique([groups[i] for i in order], return_inverse=True)[1]
    after = held_out_groups(renamed, [values[i] for i in order], np.full(200, 10), 0.2)[renamed]
    assert np.array_equal(before[order], after)


def test_a_new_document_changes_the_part_of_no_other_group() -> None:
    values = hashes(500)
    before = held_out_groups(np.arange(499), values[:499], np.full(499, 10), 0.1)
    after = held_out_groups(np.arange(500), values, np.full(500, 10), 0.1)
    assert np.array_equal(before, after[:499])


def test_a_group_larger_than_the_share_stays_in_training() -> None:
    groups = np.array([0] * 50 + list(range(1, 51)))
    drawn = held_out_groups(groups, [0] * 100, np.full(100, 10), 0.05)
    assert not drawn[0] and drawn[1:].all()


def test_the_first_fitting_group_is_nearest_to_the_share() -> None:
    groups, characters = np.array([0, 1, 2, 2]), np.array([9000, 10, 300, 200])
    assert fitting_groups(groups, characters, 0.05)[0] == 2
    assert fitting_groups(np.array([0, 1]), np.array([10_000, 1]), 0.05) == []
    assert fitting_groups(np.array([0, 0]), np.array([10_000, 1]), 0.05) == []


def text(seed: int, count: int = 200) -> str:
    draw = random.Random(seed)
    return "".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(count))


def test_held_out_texts_in_training_texts_move_to_training_with_their_groups() -> None:
    quoted, family, lone = text(1), text(2), text(3)
    texts = [text(0) + quoted, quoted, family, family[:600] + text(4, 50), lone]
    held_out = np.array([False, True, True, True, True])
    groups = np.array([0, 1, 1, 2, 3])  # 1 moves with 2, which contains two thirds of 3
    left, overlap = move_contained(
        held_out,
        groups,
        lambda documents: (shingles(texts[i]) for i in documents),
        lambda index, documents: (index.of(shingles(texts[i])) for i in documents),
    )
    assert left.tolist() == [False, False, False, False, True]
    assert overlap[:4].tolist() == [0, 0, 0, 0] and overlap[4] < 0.1
    assert held_out.tolist() == [False, True, True, True, True]


PARAGRAPHS = "\n\n".join(f"Paragraph {i}. " + "Words of it. " * 20 for i in range(60))
JAPANESE = "".join(
    f"第{i}条　この法律は、公布の日から施行する。ただし別段の定めがあるときはこの限りでない。" for i in range(200)
)


@pytest.mark.parametrize(
    ("given_text", "ending"), [(PARAGRAPHS, "it."), (JAPANESE, "。"), ("word " * 2000, "word"), ("x" * 5000, "x")]
)
def test_a_text_is_cut_near_its_end_at_the_best_place(given_text: str, ending: str) -> None:
    halves = cut(given_text, 0.1)
    assert halves
    first, second = halves
    assert first.endswith(ending)
    assert 0.04 < len(second) / len(given_text) < 0.16
    assert "".join((first + second).split()) == "".join(given_text.split())


def test_a_short_text_is_not_cut() -> None:
    assert cut("short " * 100, 0.05) is None


def test_a_text_with_a_blank_part_is_not_cut() -> None:
    assert cut("word" + " " * 3000, 0.1) is None
    assert cut(" " * 3000 + "word", 0.1) is None


def test_no_mark_is_cut_from_its_letter() -> None:
    halves = cut("e\u0316" * 3000, 0.1)
    assert halves and halves[0].endswith("\u0316") and halves[1].startswith("e")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=50), st.floats(0.01, 0.5))
def test_nothing_is_lost_at_the_cut(repeated: str, fraction: float) -> None:
    given_text = repeated * 50
    halves = cut(given_text, fraction)
    if halves:
        assert "".join("".join(halves).split()) == "".join(given_text.split())


def test_a_long_text_is_divided_into_sequences() -> None:
    parts = sequences(PARAGRAPHS)
    assert len(parts) > 5
    assert all(500 < len(part) <= 4000 for part in parts)
    assert "".join("".join(parts).split()) == "".join(PARAGRAPHS.split())
    assert sequences("short") == ["short"]
