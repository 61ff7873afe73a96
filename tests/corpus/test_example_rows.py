"""Examples as rows of tokens: the tokenizer's own output, without loss or forged special tokens, cached in files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_examples import ExampleList, toy_examples
from tiny_models import tiny_tokenizer
from tokenizers import processors

from domain_ft.corpus.batches import TaskBatch
from domain_ft.corpus.examples import Example, Labels
from domain_ft.corpus.tasks import rows as rows_module
from domain_ft.corpus.tasks.encoding import MOST_WINDOWS, Encoder, LongText, Templates
from domain_ft.corpus.tasks.rows import UNLABELLED, ExampleRows, encode
from domain_ft.errors import CorpusError, SettingsError

KINDS = ("wordpiece", "roberta", "gpt2")
LABELS = Labels(("law", "medicine", "animals"))
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60)


def rows_of(examples: Sequence[Example], kind: str = "wordpiece", long_text: LongText = "truncate") -> ExampleRows:
    return ExampleRows.of(encoder(kind, long_text), examples)


def encoder(kind: str, long_text: LongText, max_length: int = 16) -> Encoder:
    return Encoder.of(tiny_tokenizer(kind), LABELS, max_length=max_length, long_text=long_text)


# --- Special tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wordpiece", "roberta"])
@pytest.mark.parametrize("paired", [False, True])
@settings(max_examples=40)
@given(text=TEXTS, pair=TEXTS, max_length=st.integers(8, 40))
def test_rows_are_what_the_tokenizer_itself_returns(
    kind: str, paired: bool, text: str, pair: str, max_length: int
) -> None:
    """With its type ids, and truncated as it does: the longer text of a pair first."""
    tokenizer = tiny_tokenizer(kind)
    second = pair if paired else None
    tokenizer.backend_tokenizer.encode_special_tokens = True
    expected = tokenizer(text, second, truncation=True, max_length=max_length, return_token_type_ids=True)
    made = Encoder.of(tokenizer, LABELS, max_length=max_length, long_text="truncate")
    rows = ExampleRows.of(made, [Example("a", text, ("law",), pair=second)])
    batch = rows.pack([0])
    assert batch.input_ids.tolist() == expected["input_ids"]
    assert batch.type_ids.tolist() == expected["token_type_ids"]
    assert rows.cut.tolist() == [len(tokenizer(text, second)["input_ids"]) > max_length]


def test_a_decoder_without_special_tokens_separates_a_pair_by_a_newline() -> None:
    tokenizer = tiny_tokenizer("gpt2")
    batch = rows_of(
        [Example("a", "the fox", ("law",), pair="the dog"), Example("b", "the fox", ("law",))], "gpt2"
    ).pack([0, 1])
    first, second = (
        batch.input_ids[first:last] for first, last in ((0, batch.cu_seqlens[1]), (batch.cu_seqlens[1], None))
    )
    assert tokenizer.decode(first) == "the fox\nthe dog"
    assert second.tolist() == tokenizer("the fox")["input_ids"]
    assert not batch.type_ids.any()


def test_a_post_processor_that_separates_a_pair_is_kept() -> None:
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A",
        pair="<|endoftext|> $A <|endoftext|>:1 $B:1 <|endoftext|>:1",
        special_tokens=[("<|endoftext|>", 0)],
    )
    templates = Templates.of(tokenizer)
    assert (templates.single.start.ids, templates.single.end.ids) == ((0,), ())
    assert (templates.pair.middle.ids, templates.pair.middle.types, templates.pair.types) == ((0,), (1,), (0, 1))
    assert templates.pair.end.types == (1,)


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_forges_a_special_token(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    special = " ".join(tokenizer.all_special_tokens)
    (plain,), (forged,) = (
        [np.isin(rows_of([Example("a", text, ("law",))], kind).pack([0]).input_ids, tokenizer.all_special_ids).sum()]
        for text in ("fox", special)
    )
    unknown = tokenizer.unk_token_id in rows_of([Example("a", special, ("law",))], kind).pack([0]).input_ids
    assert forged == plain or (unknown and kind == "wordpiece")


@pytest.mark.parametrize(("kind", "tokens"), [("wordpiece", [2, 3]), ("gpt2", [0])])
def test_an_empty_text_has_a_token_to_be_classified_by(kind: str, tokens: list[int]) -> None:
    assert rows_of([Example("a", "", ("law",))], kind).pack([0]).input_ids.tolist() == tokens


# --- Long texts -------------------------------------------------------------------------------------------------------


def ids(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(length=st.integers(0, 300), max_length=st.integers(8, 30))
def test_windows_cover_a_text_without_overlap(kind: str, length: int, max_length: int) -> None:
    made = encoder(kind, "windows", max_length)
    template = made.templates.single
    sequences, cut = made.sequences(ids(length, 1000))
    texts = [own[len(template.start) : len(own) - len(template.end)] for own, _ in sequences]
    read = [token for text in texts for token in text if token >= 1000]
    assert read == ids(len(read), 1000)
    room = max_length - len(template)
    assert len(read) == min(length, MOST_WINDOWS * room)
    assert cut == (len(read) < length)
    assert len(sequences) == max(1, -(-len(read) // room))
    sizes = [len(own) for own, _ in sequences]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max_length


@settings(max_examples=40)
@given(first=st.integers(0, 100), second=st.integers(0, 100), max_length=st.integers(8, 30))
def test_windows_of_a_pair_repeat_the_shorter_text(first: int, second: int, max_length: int) -> None:
    made = encoder("wordpiece", "windows", max_length)
    texts = ids(first, 1000), ids(second, 2000)
    sequences, cut = made.sequences(*texts)
    assert all(len(own) == len(types) <= max_length for own, types in sequences)
    for own, types in sequences:  # every window is a pair, with its type ids
        assert types == [0] * (own.index(3) + 1) + [1] * (len(own) - own.index(3) - 1)
    longer, shorter = (0, 1) if first >= second else (1, 0)
    seen = [[token for own, _ in sequences for token in own if token // 1000 == place + 1] for place in (0, 1)]
    room = max_length - 3
    half = room - room // 2 if first == second else room // 2  # if equally long, the second gets the odd token
    kept = min(len(texts[shorter]), half if first + second > room else room)
    assert seen[shorter] == texts[shorter][:kept] * len(sequences)
    assert seen[longer] == texts[longer][: len(seen[longer])]
    assert cut == (kept < len(texts[shorter]) or len(seen[longer]) < len(texts[longer]))
    assert len(seen[longer]) == len(texts[longer]) or len(sequences) == MOST_WINDOWS


@settings(max_examples=40)
@given(length=st.integers(0, 100), max_length=st.integers(8, 30))
def test_head_and_tail_are_the_beginning_and_the_end_of_a_text(length: int, max_length: int) -> None:
    made = encoder("wordpiece", "head-tail", max_length)
    ((own, _),), cut = made.sequences(ids(length, 1000))
    read, room = own[1:-1], max_length - 2
    assert len(read) == min(length, room)
    assert cut == (length > room)
    tail = room // 2 if cut else 0
    assert read == ids(len(read) - tail, 1000) + ids(tail, 1000 + length - tail)


def test_head_and_tail_of_a_pair_are_of_the_longer_text() -> None:
    made = encoder("wordpiece", "head-tail", 15)
    ((own, types),), cut = made.sequences(ids(3, 1000), ids(50, 2000))
    assert cut
    assert own == [2, *ids(3, 1000), 3, *ids(5, 2000), *ids(4, 2046), 3]
    assert types == [0] * 5 + [1] * 10


@pytest.mark.parametrize(("kind", "length", "tokens"), [("wordpiece", 4, "3 tokens"), ("gpt2", 2, "1 token")])
def test_no_room_for_a_pair_is_refused(kind: str, length: int, tokens: str) -> None:
    """A decoder's pair has one token besides its texts: the newline between them."""
    with pytest.raises(SettingsError, match=f"a pair has {tokens} before, between and after its texts") as raised:
        encoder(kind, "truncate", length)
    assert f"give at least {length + 1};" in str(raised.value.fix)
    encoder(kind, "truncate", length + 1)


# --- Rows -------------------------------------------------------------------------------------------------------------

LONG = ExampleList(
    [
        Example("long", "the quick brown fox jumps over the lazy dog " * 6, ("animals",)),
        Example("short", "short stature", ("medicine",)),
        Example("wide", "remove any notice " * 8, ("law",)),
    ]
)


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_a_row_with_all_its_windows(kind: str) -> None:
    rows = encode(LONG, LABELS, tiny_tokenizer(kind), max_length=16, long_text="windows")
    batch = rows.pack([2, 0, 1])
    per_example = np.bincount(batch.owners, weights=batch.lengths)
    assert per_example.tolist() == rows.lengths[[2, 0, 1]].tolist()
    assert set(batch.rows[batch.owners == 0]) == {2}
    assert batch.sequences.tolist() == [place for own in np.bincount(batch.owners) for place in range(own)]
    assert batch.targets.tolist() == [0, 2, 1]
    assert all(batch.position_ids[batch.cu_seqlens[:-1]] == 0)
    assert batch.tokens == rows.tokens == int(rows.lengths.sum())
    assert [rows.row_id(row) for row in range(3)] == ["long", "short", "wide"] == rows.ids(range(3))


@pytest.mark.parametrize("long_text", ["truncate", "head-tail", "windows"])
def test_files_and_memory_hold_the_same(long_text: LongText) -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    kept = encode(LONG, LABELS, tokenizer, max_length=16, long_text=long_text)
    passing = ExampleRows.of(Encoder.of(tokenizer, LABELS, max_length=16, long_text=long_text), list(LONG))
    one, other = kept.pack([0, 2, 1]), passing.pack([0, 2, 1])
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert kept.cut.tolist() == passing.cut.tolist()
    assert kept.targets.tolist() == passing.targets.tolist()


def test_batches_and_an_interruption_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call continues after the batches that were committed."""
    examples, tokenizer = toy_examples(23, pairs=True, seed=5), tiny_tokenizer("wordpiece")
    whole = ExampleRows.of(Encoder.of(tokenizer, LABELS, max_length=20, long_text="windows"), list(examples))
    monkeypatch.setattr(rows_module, "BATCH_EXAMPLES", 2)
    monkeypatch.setattr("domain_ft.corpus.workers.cores", lambda: 1)
    monkeypatch.setattr(rows_module, "COMMIT_BATCHES", 1)

    def stop(label: str, done: int, total: int | None) -> None:
        if done >= 9:
            raise KeyboardInterrupt

    read: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        encode(examples, LABELS, tokenizer, max_length=20, long_text="windows", progress=stop)
    rows = encode(
        examples,
        LABELS,
        tokenizer,
        max_length=20,
        long_text="windows",
        progress=lambda label, done, total: read.append(done),
    )
    assert read[0] > 9
    assert read[-1] == 23
    one, other = whole.pack(range(23)), rows.pack(range(23))
    assert one.input_ids.tolist() == other.input_ids.tolist()
    assert one.cu_seqlens.tolist() == other.cu_seqlens.tolist()
    assert rows.ids(range(23)) == [example.id for example in examples]


def test_rows_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    first = encode(LONG, LABELS, tokenizer, max_length=17, long_text="truncate")
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("tokenised again"))
    again = encode(LONG, LABELS, tokenizer, max_length=17, long_text="truncate")
    assert again.key == first.key
    monkeypatch.undo()
    others = [
        encode(LONG, Labels(LABELS.names[::-1]), tokenizer, max_length=17, long_text="truncate"),
        encode(LONG, LABELS, tokenizer, max_length=17, long_text="windows"),
        encode(LONG, LABELS, tokenizer, max_length=18, long_text="truncate"),
        encode(LONG.take([0, 1]), LABELS, tokenizer, max_length=17, long_text="truncate"),
    ]
    assert len({rows.key for rows in (first, *others)}) == 5


def test_a_view_may_have_examples_in_any_order_and_twice() -> None:
    rows = encode(LONG, LABELS, tiny_tokenizer("wordpiece"), max_length=16, long_text="windows")
    view = rows.take([1, 0, 1]).take([2, 1, 0])
    assert view.ids(range(3)) == ["short", "long", "short"]
    assert view.lengths.tolist() == rows.lengths[[1, 0, 1]].tolist()
    assert view.targets.tolist() == [1, 2, 1]
    batch = view.pack([0, 2])  # the same example twice is two examples
    assert batch.owners.tolist() == [0, 1]
    assert view.key != rows.key


def test_several_labels_are_rows_of_zeros_and_ones() -> None:
    labels = Labels(("a", "b", "c"), multi_label=True)
    examples = [Example("1", "fox", ("c", "a")), Example("2", "dog", ()), Example("3", "dog", ("b",))]
    rows = ExampleRows.of(
        Encoder.of(tiny_tokenizer("wordpiece"), labels, max_length=16, long_text="truncate"), examples
    )
    np.testing.assert_array_equal(rows.targets, labels.targets([example.labels for example in examples]))
    np.testing.assert_array_equal(rows.pack([2, 0]).targets, rows.targets[[2, 0]])


def test_rows_in_memory_may_be_empty_but_cached_rows_may_not() -> None:
    assert len(rows_of([])) == 0
    with pytest.raises(CorpusError, match="no examples"):
        encode(ExampleList([]), LABELS, tiny_tokenizer("gpt2"), max_length=16, long_text="truncate")


def test_an_example_without_a_label_can_be_encoded() -> None:
    rows = rows_of([Example("a", "fox", ()), Example("b", "dog", ("animals",))])
    assert rows.targets.tolist() == [UNLABELLED, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("lore",), "'lore' is not one of the 3 classes"), (("law", "animals"), "a single-label task has 2 labels")],
)
def test_an_invalid_label_is_reported_with_its_example(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(CorpusError, match=message) as error:
        rows_of([Example("cases.csv:7", "fox", labels)])
    assert "cases.csv:7" in str(error.value)


def test_a_micro_batch_for_measuring_memory_repeats_an_example() -> None:
    rows = encode(LONG, LABELS, tiny_tokenizer("wordpiece"), max_length=16, long_text="windows")
    batch = rows.pack([0]).repeated([14, 13, 13])
    assert isinstance(batch, TaskBatch)
    assert batch.lengths.tolist() == [14, 13, 13]
    assert batch.targets.tolist() == [2, 2, 2]
    assert batch.owners.tolist() == [0, 1, 2]
    assert len(batch.type_ids) == 40
