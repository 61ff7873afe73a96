"""How text of unknown origin is printed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.terminal_text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\tc", "a\nb\tc"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\\x0db"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("\x07\x08\x7f", "\\x07\\x08\\x7f"),
        ("fdp.\u202etxt", "fdp.\\u202etxt"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("name\udcff", "name\\udcff"),
        ("\u05d0\u200f, 日本語 é 👩\u200d🔬", "\u05d0\u200f, 日本語 é 👩\u200d🔬"),
    ],
)
def test_control_characters_appear_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(categories=("Cc", "Cf", "Cs", "L", "Zs"))))
def test_nothing_that_is_shown_controls_the_terminal_or_fails_to_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert {c for c in shown if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}
    assert not {c for c in shown if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF")}
    assert not {c for c in shown if unicodedata.bidirectional(c) in ("LRI", "RLI", "FSI", "PDI")}
    assert printable(shown) == shown
