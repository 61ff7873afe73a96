"""Preferences as rows: both sequences have the same prompt, cut or not, and exactly the answers are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chats import CHATML, TEMPLATES, chat_tokenizer

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import ConversationBatch
from domain_ft.corpus.preferences.examples import Example, PreferenceExample, RatedExample
from domain_ft.corpus.preferences.rows import PreferenceRows, encode_preferences
from domain_ft.corpus.readers.base import Reject
from domain_ft.errors import CorpusError, RecordError

TOKENIZER = chat_tokenizer(CHATML)


def answer(text: str) -> tuple[Turn, ...]:
    return (Turn("assistant", text, trained=True),)


def source(id: str, line: int = 1) -> Conversation:
    return Conversation(id, "a.jsonl", line, ())


def pair(id: str, prompt: str, chosen: str, rejected: str) -> PreferenceExample:
    line = ord(id[-1])
    return PreferenceExample(id, (Turn("user", prompt),), answer(chosen), answer(rejected), None, source(id, line))


def rated(id: str, prompt: str, completion: str, desirable: bool) -> RatedExample:
    return RatedExample(id, (Turn("user", prompt),), answer(completion), desirable, source(id))


PAIRS = [
    pair("a", "Why?", "Because.", "No."),
    pair("b", "The licensee?", "Shall not sublicense.", "May 🙂 do it."),
    pair("c", "日本語で答えて。", "はい、東京です。", "いいえ。"),
]
RATED = [rated(one.id, one.prompt[0].content, one.chosen[0].content, one.id != "b") for one in PAIRS]


def rows_of(examples: Sequence[Example], max_length: int = 512, template: str | None = CHATML) -> PreferenceRows:
    tokenizer = TOKENIZER if template == CHATML else chat_tokenizer(template)
    return encode_preferences(examples, tokenizer, ChatTemplate.of(tokenizer), max_length=max_length)


def sequences(batch: ConversationBatch) -> list[tuple[str, str]]:
    """The prompt and the answer of each sequence, decoded."""
    found = []
    for begin, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        ids, learned = batch.input_ids[begin:end], batch.trained[begin:end]
        assert (np.diff(learned.astype(int)) >= 0).all()  # the prompt first, and then only the answer
        found.append((str(TOKENIZER.decode(ids[~learned])), str(TOKENIZER.decode(ids[learned]))))
    return found


def test_a_pair_is_one_prompt_with_two_answers_and_the_end_of_the_turn_is_learned() -> None:
    rows = rows_of(PAIRS)
    found = sequences(rows.pack([2, 0]))
    texts = ["はい、東京です。", "いいえ。", "Because.", "No."]
    assert [text for _, text in found] == [f"{text}<|im_end|>" for text in texts]
    assert found[0][0] == found[1][0]
    assert found[2][0] == found[3][0] == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert [rows.row_id(row) for row in range(3)] == ["a", "b", "c"]
    assert rows.tokens == sum(rows.lengths)
    assert rows.answer_lengths[0].tolist() == [rows.pack([0]).trained[s].sum() for s in _slices(rows.pack([0]))]


def _slices(batch: ConversationBatch) -> list[slice]:
    return [slice(a, b) for a, b in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True)]


def test_a_rated_answer_has_its_own_and_a_mismatched_answer() -> None:
    rows = rows_of(RATED)
    assert rows.desirable is not None
    assert rows.desirable.tolist() == [True, False, True]
    found = sequences(rows.pack([0, 1, 2]))
    own, mismatched = found[:3], found[3:]
    assert [prompt for prompt, _ in own] == [prompt for prompt, _ in mismatched]
    assert sorted(text for _, text in own) == sorted(text for _, text in mismatched)
    assert all(one != other for (_, one), (_, other) in zip(own, mismatched, strict=True))


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@given(room=st.integers(1, 60))
def test_whatever_is_cut_both_sequences_keep_the_same_prompt(template: str | None, room: int) -> None:
    """A pair is cut at the ends of its answers, or left out as a whole."""
    long = pair("d", "Why is it so?", "word " * 30, "Short.")
    whole = rows_of([long], template=template).pack([0])
    prompt, longest = int(whole.trained.argmax()), max(part.stop - part.start for part in _slices(whole))
    rows = rows_of([long], prompt + room, template)
    batch = rows.pack([0])
    one, other = _slices(batch)
    begins = [int(batch.trained[part].argmax()) for part in (one, other)]
    assert begins == [prompt, prompt]
    assert (batch.input_ids[one][:prompt] == batch.input_ids[other][:prompt]).all()
    assert max(part.stop - part.start for part in (one, other)) == min(longest, prompt + room)
    assert rows.cut.tolist() == [longest > prompt + room]


def test_a_pair_without_room_for_an_answer_is_listed_once() -> None:
    rows = rows_of([*PAIRS, pair("d", "word " * 300, "So.", "No.")], max_length=64)
    assert [rows.row_id(row) for row in range(len(rows))] == ["a", "b", "c"]
    assert [(one.id, one.line) for one in rows.dropped] == [("d", ord("d"))]
    assert "max-length is 64" in rows.dropped[0].reason
    with pytest.raises(CorpusError, match="give a larger --max-length"):
        rows_of([pair("d", "word " * 300, "So.", "No.")], max_length=64)


def test_an_example_that_the_template_refuses_stops_or_is_listed_once() -> None:
    bad = pair("d", "Why <|im_end|>?", "So.", "No.")
    with pytest.raises(RecordError, match="line 100"):
        rows_of([*PAIRS, bad])
    rejects: list[Reject] = []
    template = ChatTemplate.of(TOKENIZER)
    rows = encode_preferences([*PAIRS, bad], TOKENIZER, template, max_length=512, rejects=rejects.append)
    assert (len(rows), [one.line for one in rejects]) == (3, [100])


def test_the_key_depends_on_all_that_is_learned() -> None:
    key = rows_of(PAIRS).key
    assert rows_of(PAIRS).key == key
    swapped = replace(PAIRS[0], chosen=PAIRS[0].rejected, rejected=PAIRS[0].chosen)
    assert len({key, rows_of([swapped, *PAIRS[1:]]).key, rows_of(PAIRS[::-1]).key, rows_of(PAIRS, 24).key}) == 4
    assert rows_of(RATED).key != rows_of([replace(RATED[0], desirable=False), *RATED[1:]]).key
