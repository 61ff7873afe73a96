"""Nouns are singular after a count of one."""

from __future__ import annotations

import pytest

from domain_ft.wording import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("record",), "0 records"),
        (1, ("record",), "1 record"),
        (12_000, ("class",), "12,000 classes"),
        (1, ("entity begins", "entities begin"), "1 entity begins"),
        (2, ("entity begins", "entities begin"), "2 entities begin"),
    ],
)
def test_a_noun_follows_its_count(count: int, words: tuple[str, ...], said: str) -> None:
    assert counted(count, *words) == said
