"""The draws that verbs share: each verb holds out what it held out before it used them."""

from __future__ import annotations

import random

import numpy as np

from domain_ft.corpus.near_copies import text_fingerprints
from domain_ft.corpus.splitting import draw, draw_parts, groupings, lowest_hashes, nearest_group, why_none_held_out
from domain_ft.verbs.data.split import _parts_of

_RANDOM = random.Random(7)
HASHES = np.array([_RANDOM.getrandbits(64) for _ in range(60)], np.uint64)
GROUPS = np.array([i // 2 if i < 40 else i - 20 for i in range(60)])
SIZES = np.array([10 + 7 * (i % 5) for i in range(60)])
LABELS = [("a",) if i % 3 else ("b",) if i % 2 else ("b", "c") for i in range(60)]


def test_the_parts_of_a_corpus_and_of_data_split_have_not_changed() -> None:
    parts = draw_parts(lowest_hashes(GROUPS, HASHES), np.bincount(GROUPS, weights=SIZES), [0.2])
    assert np.flatnonzero(parts).tolist() == [1, 2, 4, 6, 8, 9, 11, 14, 15, 22, 24, 30, 32, 37]
    of_split = _parts_of(GROUPS, HASHES, {"validation": 0.15, "test": 0.2})
    assert np.flatnonzero(of_split == 1).tolist() == [40]
    assert np.flatnonzero(of_split == 2).tolist() == [8, 9, 12, 13, 14, 15, 24, 25, 36, 37, 51, 53, 55, 56, 58]


def test_the_draw_by_classes_has_not_changed() -> None:
    held = draw(GROUPS, HASHES, LABELS, 0.2)
    assert np.flatnonzero(held).tolist() == [2, 3, 8, 9, 12, 13, 16, 17, 18, 19, 44, 50, 57]


def test_groupings_join_fewer_and_fewer_texts_but_always_those_of_one_source() -> None:
    base = "".join(_RANDOM.choices("abcdefghij ", k=400))
    texts = [base, base[:-80] + "x" * 80, base[:-5] + "y" * 5, base.upper(), "another text", "a third text"]
    found = [groups.tolist() for _, groups in groupings(text_fingerprints(texts), ["", "", "", "", "s", "s"], [""] * 6)]
    assert [len(set(groups)) for groups in found] == [2, 3, 4]
    assert all(groups[4] == groups[5] and groups[0] == groups[3] for groups in found)


def test_the_nearest_group_is_chosen_only_if_another_is_left() -> None:
    groups, hashes = np.array([0, 0, 0, 1, 2, 2]), np.arange(6, dtype=np.uint64)
    everything = np.ones(6, bool)
    assert nearest_group(groups, hashes, 1.0, everything) == 1
    assert nearest_group(groups, hashes, 3.0, everything) == 0
    assert nearest_group(groups, hashes, 1.0, groups != 1) == 2
    assert nearest_group(groups, hashes, 1.0, groups == 1) is None


def test_a_share_that_is_too_small_for_any_group_is_the_reason_given() -> None:
    groups, hashes = np.arange(4), HASHES[:4]
    for labels, of_class in (([()] * 4, ""), ([("a",), ("a",), ("b",), ("b",)], " of each class")):
        assert not draw(groups, hashes, labels, 0.1).any()
        assert why_none_held_out(groups, labels, 0.1).endswith(
            f"which are not split, and the share of 10%{of_class} is too small for any of them"
        )
