"""Pairs: passages begin where paragraphs and sentences do, and are cut after their first sentence or line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import Split, tokenizer

from domain_ft.corpus import tokens
from domain_ft.corpus.pairs import LONGEST_ANCHOR, SHORTEST_POSITIVE, PairRows, pair_rows
from domain_ft.corpus.tokens import tokenize
from domain_ft.errors import CorpusError

HEADS = st.text("ab 。é\n😀", min_size=1, max_size=20)
BODY = "the licensee shall not sublicense the work, nor remove any notice of copyright from it"


def rows_of(texts: list[str], kind: str = "wordpiece", max_length: int = 64) -> PairRows:
    split = Split(texts)
    return pair_rows(split, tokenize(split, tokenizer(kind), max_length=max_length))


def texts_of(rows: PairRows, kind: str = "wordpiece") -> list[tuple[str, str]]:
    batch = rows.pack(np.arange(len(rows)))
    decoded = [
        tokenizer(kind).decode(ids, skip_special_tokens=True)
        for ids in np.split(batch.input_ids, batch.cu_seqlens[1:-1])
    ]
    return list(zip(decoded[0::2], decoded[1::2], strict=True))


def plain(text: str, kind: str = "wordpiece") -> str:
    made = tokenizer(kind)
    return made.decode(made(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("text", "anchor"),
    [
        (f"Sublicences\n{BODY}", "Sublicences"),
        (f"What may the licensee do? T{BODY[1:]}", "What may the licensee do?"),
        (f"sublicence\n\n{BODY}\n{BODY}", "sublicence"),
    ],
)
def test_the_anchor_is_the_first_sentence_or_line(text: str, anchor: str) -> None:
    found = texts_of(rows_of([text, f"Other\n{BODY}"], max_length=200))
    assert found[0][0] == plain(anchor)
    assert found[0][1].startswith(plain(BODY))


def test_a_text_without_a_second_sentence_or_with_unfit_parts_has_no_pair() -> None:
    long = " ".join([BODY] * 9)
    rows = rows_of([BODY, "A title\nand so", f"One\n{BODY}", f"Two\n{BODY}", f"{long}.\n{BODY}"], max_length=2000)
    assert [rows.row_id(row) for row in range(len(rows))] == ["document-2", "document-3"]
    with pytest.raises(CorpusError, match="1 pair for"):
        rows_of([f"One\n{BODY}", BODY])


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{start + place}" for place in range(count))


def test_a_pair_begins_where_a_paragraph_begins_not_where_a_sequence_does() -> None:
    """Sequences of 64 tokens begin inside these paragraphs."""
    texts = [f"{words(70)}.\n\nDuties\n{BODY}\n\nWhat ends it? {BODY.capitalize()}.", f"Other\n{BODY}"]
    found = [anchor for anchor, _ in texts_of(rows_of(texts))]
    assert found == [plain("Duties"), plain("What ends it?"), plain("Other")]


def test_without_blank_lines_each_line_is_a_paragraph() -> None:
    lines = [f"Duties: {BODY}.", f"What ends it? {BODY.capitalize()}.", f"Who signs? {BODY.capitalize()}."]
    found = texts_of(rows_of(["\n".join(lines), f"Other\n{BODY}"], max_length=400))
    assert [anchor for anchor, _ in found] == [plain("What ends it?"), plain("Who signs?"), plain("Other")]


def test_a_long_paragraph_has_several_pairs_which_begin_with_sentences() -> None:
    sentences = [f"Rule {place} holds. {BODY.capitalize()}." for place in range(6)]
    found = texts_of(rows_of([" ".join(sentences)]))
    assert len(found) > 2
    assert all(anchor.startswith((plain("Rule"), plain("The licensee"))) for anchor, _ in found)


PARAGRAPH = st.tuples(HEADS, st.sampled_from(["\n", ". X", "。", "? "]), st.integers(1, 4))


@pytest.mark.parametrize("kind", ["wordpiece", "gpt2"])
@given(
    texts=st.lists(st.lists(PARAGRAPH, min_size=1, max_size=4), min_size=2, max_size=4), section=st.integers(20, 400)
)
def test_pairs_are_parts_of_their_documents_in_order_and_do_not_overlap(
    kind: str, texts: list[list[tuple[str, str, int]]], section: int
) -> None:
    split = Split(["\n\n".join(f"{head}{end}{BODY * count}" for head, end, count in parts) for parts in texts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "SECTION_CHARACTERS", section)
        patch.setattr("domain_ft.corpus.tokens.VERSION", f"test-{section}")  # other rows than without the patch
        text = tokenize(split, tokenizer(kind), max_length=48)
        try:
            rows = pair_rows(split, text)
        except CorpusError:
            return
    batch = rows.pack(np.arange(len(rows)))
    assert np.array_equal(batch.lengths.reshape(-1, 2).sum(1), rows.lengths)
    assert batch.tokens == rows.tokens
    special = len(text.special)
    document, done = "", 0
    for place, pair in enumerate(np.split(np.arange(batch.tokens), batch.cu_seqlens[2:-1:2])):
        is_text = batch.word_ids[pair] >= 0
        anchor, positive = (int(length) - special for length in batch.lengths[2 * place : 2 * place + 2])
        assert is_text.sum() == anchor + positive <= 48 - special
        assert 0 < anchor <= LONGEST_ANCHOR
        assert positive >= SHORTEST_POSITIVE
        if rows.row_id(place) != document:
            document, done = rows.row_id(place), 0
            whole = text.pack([row for row in range(len(text)) if text.row_id(row) == document])
            ids = whole.input_ids[whole.word_ids >= 0].tolist()
        wanted = batch.input_ids[pair][is_text].tolist()
        starts = [at for at in range(done, len(ids)) if ids[at : at + len(wanted)] == wanted]
        assert starts
        done = starts[0] + len(wanted)
        assert batch.sequences[2 * place] % 2 == 0
        assert batch.sequences[2 * place + 1] == batch.sequences[2 * place] + 1


def test_a_second_call_reads_the_cache() -> None:
    texts = [f"Title {place}\n{BODY}" for place in range(3)]
    split = Split(texts)
    text = tokenize(split, tokenizer("wordpiece"), max_length=64)
    first = pair_rows(split, text)
    reads = split.reads
    second = pair_rows(split, text)
    assert split.reads == reads
    assert np.array_equal(first.lengths, second.lengths)


def test_sequences_for_measuring_memory_are_pairs() -> None:
    rows = rows_of([f"Title {place}\n{BODY}" for place in range(3)])
    batch = rows.pack([0]).repeated([10, 7])
    assert batch.lengths.tolist() == [5, 5, 4, 3]
