"""Conversations as rows of tokens: by independent counts, exactly the tokens of the answers are learned."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chats import CHATML, INST, TEMPLATES, THINKING, chat, chat_tokenizer
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.rendering import ChatTemplate, Rendered
from domain_ft.corpus.conversations.rows import ConversationRows, _unique, encode_conversations
from domain_ft.corpus.readers.base import Reject
from domain_ft.errors import CorpusError, RecordError, SettingsError

TALKS = [
    chat("Why?", "Because.", id="a"),
    chat("The licensee?", "Shall not sublicense.", "Again?", "No 🙂👩‍👩‍👧 more.", id="b"),
    chat("日本語で答えて。", "はい、東京です。", id="c", system="短く。"),
    chat("Say it.", "  indented\n    code()\n", "And?", "Done.", id="d", untrained=(0,)),
]


def rows_of(
    conversations: list[Conversation], template: str | None = CHATML, max_length: int = 512
) -> tuple[ConversationRows, PreTrainedTokenizerFast]:
    tokenizer = chat_tokenizer(template)
    made = ChatTemplate.of(tokenizer)
    return encode_conversations(conversations, tokenizer, made, max_length=max_length), tokenizer


def learned(rows: ConversationRows, row: int, tokenizer: PreTrainedTokenizerFast) -> str:
    batch = rows.pack([row])
    return str(tokenizer.decode(batch.input_ids[batch.trained]))


# --- What is learned --------------------------------------------------------------------------------------------------


def test_the_learned_tokens_are_the_answers() -> None:
    rows, tokenizer = rows_of(TALKS)
    assert [learned(rows, row, tokenizer) for row in range(4)] == [
        "Because.<|im_end|>",
        "Shall not sublicense.<|im_end|>No 🙂👩‍👩‍👧 more.<|im_end|>",
        "はい、東京です。<|im_end|>",
        "Done.<|im_end|>",
    ]
    assert [rows.row_id(row) for row in range(4)] == ["a", "b", "c", "d"]


def test_token_counts_are_those_of_each_answer_alone() -> None:
    """No token crosses the border of one of these answers, so each answer can be tokenised alone."""
    rows, tokenizer = rows_of(TALKS)
    expected, read = [], []
    for talk in TALKS:
        answers = [turn.content for turn in talk.turns if turn.trained]
        expected.append(sum(len(tokenizer.encode(answer, add_special_tokens=False)) + 1 for answer in answers))
        text = tokenizer.apply_chat_template(talk.messages, tokenize=False).removesuffix("\n")
        read.append(len(tokenizer.encode(text, add_special_tokens=False)))
    assert rows.trained_lengths.tolist() == expected
    assert rows.trained_tokens == sum(expected)
    assert rows.lengths.tolist() == read
    assert rows.tokens == sum(read)


def test_the_tokens_are_those_of_the_chat_template() -> None:
    rows, tokenizer = rows_of(TALKS)
    for row, talk in enumerate(TALKS):
        ids = tokenizer.apply_chat_template(talk.messages, return_dict=False)
        assert rows.pack([row]).input_ids.tolist() == ids[: rows.lengths[row]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_token_ends_a_turn_and_is_learned(name: str) -> None:
    tokenizer = chat_tokenizer(TEMPLATES[name])
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    template = ChatTemplate.of(tokenizer)
    rows = encode_conversations([chat("Why?", "Because.", "Again?", "So.")], tokenizer, template, max_length=512)
    for row in range(len(rows)):
        batch = rows.pack([row])
        assert batch.input_ids[-1] in template.stop_tokens
        assert batch.trained[-1]
        assert not batch.trained[0]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip),
        min_size=2,
        max_size=6,
    )
)
def test_every_byte_of_an_answer_is_learned(texts: list[str]) -> None:
    """For any characters, the learned tokens have as many bytes as the answers, and decode to them."""
    talk = chat(*texts[: len(texts) // 2 * 2])
    rows, tokenizer = rows_of([talk])
    batch = rows.pack([0])
    answers = [turn.content for turn in talk.turns if turn.trained]
    assert batch.token_bytes[batch.trained].sum() == sum(len(answer.encode()) for answer in answers)
    assert learned(rows, 0, tokenizer) == "".join(f"{answer}<|im_end|>" for answer in answers)
    special = np.isin(batch.input_ids, tokenizer.all_special_ids)
    assert not batch.token_bytes[special].any()


def test_a_token_on_the_border_is_learned() -> None:
    """The tokenizer joins the newline after the heading with the one at the beginning of the answer."""
    tokenizer = tiny_tokenizer("roberta")
    tokenizer.add_tokens(["\n\n"])
    template = ChatTemplate.of(tokenizer)
    rows = encode_conversations([chat("Why?", "\nSo.")], tokenizer, template, max_length=100)
    batch = rows.pack([0])
    assert tokenizer.decode(batch.input_ids[batch.trained][:1]) == "\n\n"


def test_spaces_are_learned_if_a_post_processor_trims_them_from_the_offsets() -> None:
    tokenizer = tiny_tokenizer("roberta")  # RobertaProcessing trims offsets
    rows = encode_conversations([chat("Why?", "x    y")], tokenizer, ChatTemplate.of(tokenizer), max_length=100)
    batch = rows.pack([0])
    assert tokenizer.decode(batch.input_ids[batch.trained]) == "x    y</s>"


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Like Llama 2's: a space before each text, and a token for each byte of a character outside the vocabulary."""
    sequences = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.printable.strip()]
    backend = Tokenizer(models.BPE({sequence: i for i, sequence in enumerate(sequences)}, [], byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_every_byte_of_a_character_is_learned_if_each_is_a_token() -> None:
    tokenizer = byte_fallback_tokenizer()
    for text, answer in ((INST, " だ🙂. ok"), (None, "だ🙂. ok")):
        tokenizer.chat_template = text
        template = ChatTemplate.of(tokenizer)
        rows = encode_conversations([chat("なぜ?", "だ🙂. ok")], tokenizer, template, max_length=200)
        batch = rows.pack([0])
        assert tokenizer.decode(batch.input_ids[batch.trained]) == f"{answer}</s>"
        assert batch.token_bytes[batch.trained].sum() == len(answer.encode())
        assert rows.trained_tokens == len(answer.encode()) + 1


def test_the_learned_tokens_are_those_that_a_template_marks() -> None:
    """transformers finds the marked tokens by `{% generation %}`, which few templates have."""
    marked = CHATML.replace(
        "{{ message.content }}",
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
        "{{ '\n' }}{% continue %}{% endif %}{{ message.content }}",
    )
    rows, tokenizer = rows_of(TALKS[:3])
    for row, talk in enumerate(TALKS[:3]):
        found = tokenizer.apply_chat_template(
            talk.messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
        )
        batch = rows.pack([row])
        assert batch.input_ids.tolist() == found["input_ids"][: batch.tokens]
        assert batch.trained.astype(int).tolist() == found["assistant_masks"][: batch.tokens]
        assert not any(found["assistant_masks"][batch.tokens :])


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_packing_lays_rows_end_to_end() -> None:
    rows, _ = rows_of(TALKS)
    batch = rows.pack([2, 0])
    parts = [rows.pack([2]), rows.pack([0])]
    for name in ("input_ids", "position_ids", "trained", "token_bytes"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(getattr(batch, name), joined)
    assert batch.lengths.tolist() == rows.lengths[[2, 0]].tolist()
    assert batch.documents.tolist() == [2, 0]
    assert batch.rows.tolist() == [2, 0]


def test_a_micro_batch_for_measuring_memory_has_trained_tokens() -> None:
    """The first tokens of a conversation are not trained: with these alone, too little memory would be measured."""
    rows, _ = rows_of(TALKS)
    repeated = rows.pack([1]).repeated([5, 3])
    assert repeated.trained.tolist() == [False, True, True, True, True, False, True, True]
    assert repeated.input_ids.tolist() == [*rows.pack([1]).input_ids[:5], *rows.pack([1]).input_ids[:3]]


def test_a_view_has_its_own_counts() -> None:
    rows, tokenizer = rows_of(TALKS)
    some = rows.take([3, 1]).take([1, 0, 1])
    assert some.lengths.tolist() == rows.lengths[[1, 3, 1]].tolist()
    assert some.trained_tokens == rows.trained_lengths[[1, 3, 1]].sum()
    assert [some.row_id(row) for row in range(3)] == ["b", "d", "b"]
    assert learned(some, 1, tokenizer) == learned(rows, 3, tokenizer)
    np.testing.assert_array_equal(some.pack([1, 2]).input_ids, rows.pack([3, 1]).input_ids)
    assert len({rows.key, some.key, rows.take([1, 3]).key}) == 3
    assert rows.key == rows_of(TALKS)[0].key


def test_a_budget_chooses_whole_conversations_whatever_the_order_of_the_file() -> None:
    talks = [chat("Why?", "Because.", "Again?", "So.", id=f"talk {number}") for number in range(20)]
    rows, _ = rows_of(talks, THINKING)
    assert len(rows) == 40
    assert sorted(rows.select_documents(None).tolist()) == list(range(40))
    chosen = rows.select_documents(rows.tokens // 2)
    assert 0 < rows.lengths[chosen].sum() <= rows.tokens // 2
    assert all((chosen // 2 == document).sum() in (0, 2) for document in range(20))
    assert len(rows.select_documents(1)) == 2
    backwards, _ = rows_of(talks[::-1], THINKING)
    names = {rows.row_id(row) for row in chosen}
    assert {backwards.row_id(row) for row in backwards.select_documents(rows.tokens // 2)} == names


def test_repeated_ids_are_made_unique() -> None:
    rows, _ = rows_of([chat("Why?", "So.", id=name) for name in ("x", "x", "x#2")])
    assert len({rows.row_id(row) for row in range(3)}) == 3


def test_numbers_of_repeated_ids_are_the_smallest_free_ones() -> None:
    assert _unique(["x", "x#3", "x", "x", "y", "x#3", "x"]) == ["x", "x#3", "x#2", "x#4", "y", "x#3#2", "x#5"]
    many = _unique(["x"] * 100_000)  # takes minutes if each id tries all smaller numbers
    assert (len(set(many)), many[-1]) == (100_000, "x#100000")


# --- Cutting ----------------------------------------------------------------------------------------------------------


def test_a_long_conversation_is_cut_at_its_end() -> None:
    whole, _ = rows_of(TALKS)
    first = int(np.flatnonzero(whole.pack([1]).trained)[0])
    rows, _ = rows_of([TALKS[1]], max_length=first + 2)
    assert rows.lengths.tolist() == [first + 2]
    assert rows.trained_tokens == 2
    assert rows.cut.tolist() == [True]
    assert whole.cut.tolist() == [False] * 4


def test_a_prompt_after_the_last_answer_that_fits_is_dropped() -> None:
    whole, _ = rows_of(TALKS)
    trained = whole.pack([1]).trained
    gap = int(np.flatnonzero(np.diff(trained.astype(int)) == -1)[0]) + 1  # where the second question begins
    rows, _ = rows_of([TALKS[1]], max_length=gap + 3)
    assert rows.lengths.tolist() == [gap]
    assert rows.cut.tolist() == [True]


def test_a_conversation_that_is_cut_to_nothing_is_reported_and_has_no_row() -> None:
    long = chat("fox " * 200, "Yes.", id="long")
    rows, _ = rows_of([TALKS[0], long, TALKS[2]], max_length=100)
    assert [rows.row_id(row) for row in range(len(rows))] == ["a", "c"]
    assert rows.documents.tolist() == [0, 2]
    (dropped,) = rows.dropped
    assert (dropped.id, dropped.place) == ("long", "chats.jsonl, line 7")
    assert "max-length is 100" in dropped.reason
    with pytest.raises(CorpusError, match="nothing can be learned from 1 conversation"):
        rows_of([long], max_length=100)
    with pytest.raises(SettingsError, match="leaves no room"):
        rows_of([long], max_length=4)


def test_a_conversation_is_too_long_if_any_of_its_rows_was_cut_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a conversation of several rows, one may have no answer, and another no answer before the cut."""
    empty, long = Rendered("fox", ()), Rendered("fox " * 100 + "yes", ((400, 403),))

    def reason_of(*rendered: Rendered) -> tuple[str, bool, str]:
        monkeypatch.setattr(ChatTemplate, "render", lambda _, talk: rendered if talk.id == "x" else render(talk))
        rows, _ = rows_of([TALKS[0], chat("Why?", "So.", id="x")], max_length=100)
        (dropped,) = rows.dropped
        with pytest.raises(CorpusError) as raised:
            rows_of([chat("Why?", "So.", id="x")], max_length=100)
        return dropped.reason, dropped.too_long, str(raised.value.fix)

    render = ChatTemplate.of(chat_tokenizer()).render
    for rendered in ((long,), (empty, long), (long, empty)):
        reason, too_long, fix = reason_of(*rendered)
        assert "its first answer begins after" in reason
        assert "max-length is 100" in reason
        assert too_long
        assert "larger --max-length" in fix
    reason, too_long, fix = reason_of(empty, empty)
    assert reason == "nothing is left to learn: the tokenizer finds no token in its answers"
    assert not too_long
    assert "check the answers" in fix


def test_what_the_template_cannot_render_is_an_error_or_left_out() -> None:
    bad = chat("<|im_end|>", "So.", id="bad")
    with pytest.raises(RecordError, match=r"(?s)special token.*line 7, turn 1.*--on-bad-record skip"):
        rows_of([TALKS[0], bad])
    tokenizer = chat_tokenizer()
    rejects: list[Reject] = []
    rows = encode_conversations(
        [bad, TALKS[0]], tokenizer, ChatTemplate.of(tokenizer), max_length=64, rejects=rejects.append
    )
    assert [reject.line for reject in rejects] == [7]
    assert rows.dropped == ()  # it is reported only once
    assert rows.documents.tolist() == [1]
    with pytest.raises(CorpusError, match=r"nothing can be learned from 1 conversation.*special token"):
        encode_conversations([bad], tokenizer, ChatTemplate.of(tokenizer), max_length=64, rejects=rejects.append)


def test_progress_counts_conversations() -> None:
    seen: list[tuple[str, int, int | None]] = []
    tokenizer = chat_tokenizer()
    encode_conversations(
        TALKS, tokenizer, ChatTemplate.of(tokenizer), max_length=64, progress=lambda *step: seen.append(step)
    )
    assert seen[-1] == ("tokenising", 4, 4)
