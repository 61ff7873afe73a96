"""What is learned of a rendered conversation: each answer with the token that ends its turn, with every template."""

from __future__ import annotations

import itertools
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chats import CHATML, CLOSING, HEADERS, INST, TEMPLATES, THINKING, UNENDED, chat, chat_tokenizer, tool_chat
from tiny_models import tiny_tokenizer
from tokenizers import processors

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.rendering import PLAIN_TEMPLATE, ChatTemplate, Rendered
from domain_ft.errors import RecordError

EOS = "<|endoftext|>"


def template(text: str | None) -> ChatTemplate:
    return ChatTemplate.of(chat_tokenizer(text))


def learned(rendered: tuple[Rendered, ...]) -> list[list[str]]:
    return [[one.text[first:last] for first, last in one.spans] for one in rendered]


def rest(rendered: Rendered) -> str:
    """The text that is not learned, with a bar in place of each learned answer."""
    ends = itertools.chain([0], *rendered.spans, [len(rendered.text)])
    return "|".join(rendered.text[first:last] for first, last in itertools.zip_longest(ends, ends))


# --- What is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ends", "begin"),
    [
        ("chatml", "<|im_end|>", ""),
        ("headers", "<|eot|>", ""),
        ("inst", EOS, " "),
        ("alternating", "<|end|>", ""),
        ("closing", "<|end|>", ""),
        ("none", EOS, ""),
    ],
)
def test_answers_and_the_ends_of_their_turns_are_learned(name: str, ends: str, begin: str) -> None:
    made = template(TEMPLATES[name])
    rendered = made.render(chat("Why?", "Because.", "Again?", "So it is 🙂."))
    assert learned(rendered) == [[f"{begin}Because.{ends}", f"{begin}So it is 🙂.{ends}"]]
    assert "Because" not in rest(rendered[0])
    assert "Why?" in rest(rendered[0])
    assert made.end == ends
    assert made.stop_tokens[0] == chat_tokenizer().convert_tokens_to_ids(ends)
    assert chat_tokenizer().eos_token_id in made.stop_tokens


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_before_the_last_answer_is_the_prompt_of_generation(name: str) -> None:
    made = template(TEMPLATES[name])
    conversation = chat("Why?", "Because.", "Again?", "So.")
    last = made.render(conversation)[-1]
    assert made.prompt(conversation.turns[:-1]) == last.text[: last.spans[-1][0]]


SAID = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(str.strip)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=25)
@given(texts=st.lists(SAID, min_size=2, max_size=6), data=st.data())
def test_each_answer_is_learned_once_and_nothing_else(name: str, texts: list[str], data: st.DataObject) -> None:
    """For any texts, and any choice of answers to learn."""
    texts = [f"{text}{number}" for number, text in enumerate(texts)][: len(texts) // 2 * 2]
    untrained = data.draw(st.sets(st.integers(1, 3)))
    conversation = chat(*texts, untrained=tuple(untrained))
    made = template(TEMPLATES[name])
    spans = [span for own in learned(made.render(conversation)) for span in own]
    wanted = [turn.content for turn in conversation.turns if turn.trained]
    assert len(spans) == len(wanted)
    for span, content in zip(spans, wanted, strict=True):
        begin, _, end = span.partition(content.strip())
        assert begin.strip() in ("", "<think>\n\n</think>")
        assert end.strip() == made.end


def test_answers_of_weight_zero_are_rendered_but_not_learned() -> None:
    rendered = template(CHATML).render(chat("Why?", "Because.", "Again?", "So.", untrained=(0,)))
    assert learned(rendered) == [["So.<|im_end|>"]]
    assert "Because." in rest(rendered[0])


def test_a_tokenizer_without_a_template_gets_the_plain_one() -> None:
    made = template(None)
    assert made.is_plain
    (rendered,) = made.render(chat("Why?", "Because.", "Again?", "So.", system="Be brief."))
    assert rendered.text == (
        "### System:\nBe brief.\n\n### User:\nWhy?\n\n### Assistant:\nBecause.<|endoftext|>\n\n"
        "### User:\nAgain?\n\n### Assistant:\nSo.<|endoftext|>\n\n"
    )
    assert learned((rendered,)) == [["Because.<|endoftext|>", "So.<|endoftext|>"]]
    tokenizer = chat_tokenizer(made.text)
    assert ChatTemplate.of(tokenizer).is_plain
    assert not template(CHATML).is_plain


def test_the_plain_template_begins_with_bos_if_the_tokenizer_does() -> None:
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    bos = tokenizer.bos_token_id
    assert ChatTemplate.of(tokenizer).render(chat("Why?", "So."))[0].text.startswith("### User:")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    made = ChatTemplate.of(tokenizer)
    assert made.render(chat("Why?", "So."))[0].text.startswith("<bos>### User:")
    assert made.is_plain


def test_a_template_that_ends_no_turn_gets_eos_and_a_text_for_each_answer() -> None:
    """In generation, no EOS follows past answers, so none follows them in training."""
    rendered = template(UNENDED).render(chat("Why?", "Because.", "Again?", "So."))
    assert learned(rendered) == [[f"Because.{EOS}"], [f"So.{EOS}"]]
    assert (
        rendered[1].text
        == f"### user:\nWhy?\n\n### assistant:\nBecause.\n\n### user:\nAgain?\n\n### assistant:\nSo.{EOS}"
    )


def test_if_past_turns_are_rendered_differently_each_answer_has_its_own_text() -> None:
    """As with Qwen3's template: an answer's thoughts are learned, but later answers do not see them."""
    thoughts = "<think>\nhard\n</think>\n\n"
    rendered = template(THINKING).render(chat("Why?", f"{thoughts}Because.", "Again?", "So."))
    assert learned(rendered) == [[f"{thoughts}Because.<|im_end|>"], ["<think>\n\n</think>\n\nSo.<|im_end|>"]]
    assert "hard" not in rendered[1].text
    assert "Because." in rest(rendered[1])


def test_text_of_the_answer_in_the_generation_prompt_is_not_learned() -> None:
    """The template writes <think> itself: this is not learned, and not repeated if the answer has it too."""
    opening = CHATML.replace("assistant{{ '\n' }}", "assistant{{ '\n<think>\n' }}")
    assert opening != CHATML
    made = template(opening)
    rendered = made.render(chat("Why?", "<think>\nhard\n</think>So."))
    assert learned(rendered) == [["hard\n</think>So.<|im_end|>"]]
    assert learned(made.render(chat("Why?", "<b>So.</b>"))) == [["<b>So.</b><|im_end|>"]]


def test_tool_calls_are_learned_and_tool_results_are_not() -> None:
    (rendered,) = template(CHATML).render(tool_chat())
    call, answer = learned((rendered,))[0]
    assert call.startswith("<tool_call>")
    assert "京都" in call
    assert call.endswith("<|im_end|>")
    assert answer == "It is.<|im_end|>"
    assert '{"rain": true}' in rest(rendered)


def test_a_tool_call_may_contain_special_tokens() -> None:
    calling = CHATML.replace("<tool_call>", "<|start|>").replace("</tool_call>", "<|end|>")
    call, _ = learned(template(calling).render(tool_chat()))[0]
    assert call.startswith("<|start|>{")
    assert call.endswith("<|end|><|im_end|>")


def test_the_template_named_tool_use_renders_conversations_with_tools() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = {"default": CLOSING, "tool_use": CHATML}
    made = ChatTemplate.of(tokenizer)
    assert "<|im_end|>" in made.render(tool_chat())[0].text
    assert made.render(chat("Why?", "So."))[0].text.startswith("<|user|>")


# --- What is refused --------------------------------------------------------------------------------------------------


def refused(made: ChatTemplate, conversation: Conversation) -> str:
    with pytest.raises(RecordError) as caught:
        made.render(conversation)
    assert "chats.jsonl, line" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["inst", "alternating"])
def test_a_system_turn_that_the_template_rejects_is_refused(name: str) -> None:
    made = template(TEMPLATES[name])
    message = refused(made, chat("Why?", "So.", system="Be brief."))
    assert "rejects the system turn" in message
    assert "turn 1 (system)" in message
    assert "user's first turn" in message
    with pytest.raises(RecordError, match="rejects the system turn"):
        made.prompt(chat("Why?", system="Be brief.").turns)


def test_a_system_turn_that_the_template_omits_is_refused() -> None:
    silent = "{% for message in messages if message.role != 'system' %}" + HEADERS.partition("%}")[2]
    message = refused(template(silent), chat("Why?", "So.", system="Be brief."))
    assert "omits the system turn" in message


def test_roles_that_the_template_rejects_are_refused() -> None:
    turns = (Turn("user", "Why?"), Turn("user", "Well?"), Turn("assistant", "So.", True))
    message = refused(template(TEMPLATES["alternating"]), Conversation("a", "chats.jsonl", 7, turns))
    assert "rejects the conversation (Conversation roles must alternate" in message


def test_tools_that_the_template_does_not_support_are_refused() -> None:
    assert "omits" in refused(template(HEADERS), tool_chat())
    assert "rejects tools (the plain chat template has no" in refused(template(None), tool_chat())
    assert "rejects tools (Only user and assistant" in refused(template(INST), tool_chat())


def test_a_turn_that_the_template_changes_is_refused() -> None:
    shouting = CHATML.replace("{{ message.content }}", "{{ message.content | upper }}")
    message = refused(template(shouting), chat("WHY?", "So."))
    assert "changes a part of this answer" in message
    assert "turn 2 (assistant)" in message
    dropping = CHATML.replace("{{ message.content }}", "{{ message.content.split('</think>')[-1] }}")
    assert "omits or changes" in refused(template(dropping), chat("Why?", "<think>hard</think>So."))


def test_the_text_of_a_special_token_is_refused_with_its_turn() -> None:
    for texts, turn in ((("<|im_start|>system", "So."), 1), (("Why?", "So.<|im_end|>"), 2)):
        message = refused(template(CHATML), chat(*texts))
        assert f"turn {turn}" in message
        assert "special token" in message
    assert "<|endoftext|>" in refused(template(None), chat("Why?", "<|endoftext|>"))


@pytest.mark.parametrize("name", ["chatml", "headers", "none"])
def test_system_turns_are_rendered(name: str) -> None:
    (rendered,) = template(TEMPLATES[name]).render(chat("Why?", "So.", system="短く答える。"))
    assert "短く答える。" in rest(rendered)


def test_the_plain_template_is_one_line_of_jinja() -> None:
    """So it survives being saved with the tokenizer, even if line ends are converted."""
    assert "\n" not in PLAIN_TEMPLATE


def test_the_template_gets_the_given_date() -> None:
    """Llama 3's templates get the date from `strftime_now` too."""
    dated = "{% set day = strftime_now('%d %b %Y') if strftime_now is defined else 'none' %}Today: {{ day }}\n"
    tokenizer = chat_tokenizer(dated + CHATML)
    template = ChatTemplate.of(tokenizer, date(2026, 1, 31))
    assert template.writes_date
    assert template.prompt([Turn("user", "Hm?")]).startswith("Today: 31 Jan 2026\n")
    assert not ChatTemplate.of(chat_tokenizer(CHATML)).writes_date
